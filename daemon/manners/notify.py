"""Word to systemd: ready, status, stopping, and a watchdog that is fed by the loop's progress and by nothing else.

The protocol is one datagram a message to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)); where there is none,
as on Windows or on a terminal, nothing of this happens.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import structlog

from parfocal.daemon.manners.part import Part
from parfocal.daemon.states import State

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.manners.vitals import Vitals

log = structlog.get_logger()
LOOKS_A_PERIOD = 4
"""How often within the watchdog's period progress is looked for; systemd asks for two at least."""


class Notifier:
    """Sends datagrams to the service manager; never waits, never raises.

    Parameters
    ----------
    address : str
        Path of a UNIX socket; a leading ``@`` stands for the abstract namespace.
    """

    def __init__(self, address: str) -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._complained = False

    def send(self, *lines: str) -> bool:
        """Send assignments such as ``READY=1``; return whether they went out."""
        message = "\n".join(line.replace("\n", " ") for line in lines).encode("utf-8", "replace")
        try:
            self._socket.sendto(message, self._address)
        except OSError as error:
            if not self._complained:
                log.warning("notify.failed", error=str(error), what=lines[0])
            self._complained = True
            return False
        return True

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._socket.close()


def manager_address(environ: Mapping[str, str] = os.environ) -> str | None:
    """Return where the service manager listens; None: nowhere."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address or not hasattr(socket, "AF_UNIX"):
        return None
    if address[0] not in "/@" or len(address) < 2:
        log.warning("notify.unknown_address", address=address, action="the service manager is told nothing")
        return None
    return address


def watchdog_period_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """Return after how many seconds of silence the service manager ends this process; None: it does not watch it."""
    text, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    return int(text) / 1e6 if text.isdigit() and int(text) > 0 else None


class ServiceManager(Part):
    """Tells the service manager how the session is.

    ``READY=1`` once the session runs: then the devices are connected and the limits hold. ``WATCHDOG=1`` only if since
    the last look the loop got on and its thread answered; a loop that has nothing to do (paused, or the next frame is
    not due yet) need only answer.

    Parameters
    ----------
    notifier : Notifier
    period_s : float, optional
        Of the watchdog.
    patience_s : float
        How long there may be no frame without anything being wrong: interval and exposure.
    monotonic : callable
        Seconds that never jump.
    """

    def __init__(
        self,
        notifier: Notifier,
        *,
        period_s: float | None = None,
        patience_s: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._notifier, self._period_s, self._patience_s = notifier, period_s, patience_s
        self._monotonic = monotonic
        self._vitals: Vitals | None = None
        self._state = State.IDLE
        self._ready = self._asked = self._answered = False
        self._turns, self._turned_s = 0, -float("inf")
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def attach(self, vitals: Vitals) -> None:
        """Begin to look after the loop."""
        self._vitals = vitals
        if self._period_s is not None:
            self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
            self._thread.start()

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Pass a change of state on."""
        self._state = new
        lines = [f"STATUS={new.value}: {reason}"]
        if new is State.RUNNING and not self._ready:
            self._ready = True
            lines.insert(0, "READY=1")
        elif new in (State.STOPPING, State.SAFE):
            lines.insert(0, "STOPPING=1")
        self._notifier.send(*lines)

    def failed(self, error: BaseException) -> None:
        """Say what went wrong, where ``systemctl status`` shows it."""
        self._notifier.send("STOPPING=1", f"STATUS=failed: {error}")

    def look(self) -> bool:
        """Feed the watchdog if the loop got on since the last look; return whether it did."""
        vitals, now = self._vitals, self._monotonic()
        if vitals is None or self._state not in (State.RUNNING, State.PAUSED):
            return False
        answered, self._answered = self._answered, False
        if answered or not self._asked:  # one question at a time: a loop that hangs must not be buried under them
            self._asked = vitals.answer(self._answer)
        turned = vitals.turns != self._turns
        if turned:
            self._turns, self._turned_s = vitals.turns, now
        idle = self._state is State.PAUSED or now - self._turned_s <= self._patience_s
        return answered and (turned or idle) and self._notifier.send("WATCHDOG=1")

    def close(self) -> None:
        """End the thread and close the socket. Idempotent."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join(2.0)
        self._notifier.close()

    def _answer(self) -> None:
        self._answered = True

    def _run(self) -> None:
        assert self._period_s is not None  # noqa: S101 - for the type checker
        while not self._closing.wait(self._period_s / LOOKS_A_PERIOD):
            self.look()


def manager_of(config: Config, environ: Mapping[str, str] = os.environ) -> ServiceManager | None:
    """Return the service manager that started this process; None: none did."""
    address = manager_address(environ)
    if address is None:
        return None
    microscope, period_s = config.microscope, watchdog_period_s(environ)
    patience_s = ((microscope.interval_ms or 0.0) + (microscope.exposure_ms or 0.0)) / 1000.0
    lease_s = config.limits.beam_lease_s
    if period_s is not None and period_s <= lease_s:
        log.warning(
            "notify.watchdog_short", watchdog_s=period_s, beam_lease_s=lease_s,
            action="raise WatchdogSec= above limits.beam_lease_s: a hung session is to be safe before it is ended",
        )  # fmt: skip
    return ServiceManager(Notifier(address), period_s=period_s, patience_s=patience_s)
