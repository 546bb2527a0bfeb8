"""What a signal does to a run: the first asks for an orderly stop, the second for the safe state at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import structlog

log = structlog.get_logger()

StopRequest = Callable[[str], None]


def stop_signals() -> list[signal.Signals]:
    """Signals that end a run on this system: SIGINT and SIGTERM, SIGHUP of a lost terminal, SIGBREAK on Windows."""
    names = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
    return [getattr(signal, name) for name in names if hasattr(signal, name)]


class SignalLadder:
    """Counts signals: the first calls `stop`, the second calls `safe`, a third does what the system does by default.

    Parameters
    ----------
    stop : callable
        Asks for an orderly stop; gets the reason. Must be safe to call from a signal handler.
    safe : callable
        Asks for the safe state and the exit at once; gets the reason.
    """

    def __init__(self, stop: StopRequest, safe: StopRequest) -> None:
        self._stop = stop
        self._safe = safe
        self._previous: dict[signal.Signals, Any] = {}
        self.count = 0

    def install(self) -> None:
        """Take over the signals; only the main thread may.

        What was ignored when the process started stays ignored: ``nohup`` and a shell's background jobs rely on it.
        """
        for number in stop_signals():
            if signal.getsignal(number) != signal.SIG_IGN:
                self._previous[number] = signal.signal(number, self._handle)

    def restore(self) -> None:
        """Give the signals back to whom they belonged; idempotent."""
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        self.count += 1
        if self.count == 1:
            self._stop(f"{name} received")
        else:
            # A hung driver may keep the safe state from being reached: the next signal must not be swallowed here.
            self.restore()
            self._safe(f"second signal ({name}) received")


def leave_on_signal(exit_code: int) -> None:
    """Let signals end the process at once with `exit_code` from now on.

    For the last moments of a process, when the microscope is safe and everything is written: whoever is impatient then
    gets neither a traceback nor another exit code.
    """
    for number in stop_signals():
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(exit_code))


@contextmanager
def handled_signals(stop: StopRequest, safe: StopRequest) -> Iterator[SignalLadder]:
    """Run a block under a `SignalLadder`; outside the main thread signals are left alone, and that is logged."""
    ladder = SignalLadder(stop, safe)
    if threading.current_thread() is threading.main_thread():
        ladder.install()
    else:
        log.warning("signals are not handled: this run is not in the main thread")
    try:
        yield ladder
    finally:
        ladder.restore()
