"""The parent's handle on one scorer process: start, ask, notice when it is dead or stuck, leave nothing behind."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import structlog
from numpy.typing import NDArray

from parfocal.models import ModelSpec, base
from parfocal.models.base import Assessment, ModelError, ScorerError
from parfocal.models.slot import FrameSlot
from parfocal.models.wire import decode_assessment, pack, unpack
from parfocal.models.worker import BEAT_S, main

log = structlog.get_logger()

WATCH_S = 0.25
GRACE_S = 0.5
SILENT_S = 15 * BEAT_S
"""An idle worker whose heart has not beaten for so long is stuck."""
JOIN_S = 5.0

_KINDS = {
    kind.__name__: kind
    for kind in (base.ImageError, base.ModelError, base.WeightsMissingError, base.WeightsHashError, base.ScorerError)
}


class ScorerLostError(ScorerError):
    """The scorer process is dead or was killed because it stalled; only a new one can score."""


@dataclass
class _Parts:
    """What has to be disposed of, whichever way the handle goes."""

    process: BaseProcess
    connection: Connection
    slot: FrameSlot


class ScorerChild:
    """A running scorer process with its connection and its frame slot.

    Parameters
    ----------
    specs : sequence of ModelSpec
        The models it makes.
    pixel_bytes : int
        Size of the largest frame expected; the slot grows by itself if a larger one comes.
    threads : int, optional
        Threads for its arithmetic.
    timeout_s : float
        How long it may take to load and warm up its models.

    Raises
    ------
    ModelError
        What the worker found wrong with the models.
    ScorerLostError
        It died or stalled while starting.
    """

    def __init__(self, specs: Sequence[ModelSpec], pixel_bytes: int, threads: int | None, timeout_s: float) -> None:
        self._sequence = 0
        self._deadline_s: float | None = None
        self._parts = _spawn(specs, FrameSlot.create(pixel_bytes), threads)
        self._finalizer = weakref.finalize(self, _dispose, self._parts)
        self._beats, self._beat_seen_s = -1, time.monotonic()
        self._done = threading.Event()
        threading.Thread(target=_watch, args=(weakref.ref(self), self._done), name="scorer-watch", daemon=True).start()
        try:
            self.description: dict[str, Any] = self._receive(timeout_s, "did not start")["ready"]
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int | None:
        """Process id."""
        return self._parts.process.pid

    @property
    def healthy(self) -> bool:
        """Alive and, while nothing is asked of it, its heart beating."""
        try:
            if not self._parts.process.is_alive():
                return False
        except ValueError:  # disposed of
            return False
        return self._deadline_s is not None or time.monotonic() - self._beat_seen_s < SILENT_S

    def score(self, frame: NDArray[Any], pixel_um: float, timeout_s: float) -> dict[str, Assessment]:
        """Pass one checked frame (height, width) and wait for what the models say.

        Raises
        ------
        ScorerLostError
            It died, or did not answer in time and was killed.
        ImageError, ModelError, ScorerError
            What a model raised; the process is still there.
        """
        if frame.nbytes > self._parts.slot.capacity:
            self._grow(frame.nbytes, timeout_s)
        self._sequence += 1
        self._parts.slot.write(frame, pixel_um, self._sequence)
        self._send({"op": "score", "sequence": self._sequence})
        reply = self._receive(timeout_s, "did not answer")
        if reply.get("sequence") != self._sequence:
            self.close()
            raise ScorerLostError(f"the scorer answered frame {reply.get('sequence')} instead of {self._sequence}")
        return {name: decode_assessment(data) for name, data in reply["results"].items()}

    def _grow(self, pixel_bytes: int, timeout_s: float) -> None:
        old, new = self._parts.slot, FrameSlot.create(pixel_bytes)
        try:
            self._send({"op": "attach", "slot": new.name})
            self._receive(timeout_s, "did not take larger frames")
        except BaseException:
            new.close()
            raise
        self._parts.slot = new
        old.close()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._parts.connection.send_bytes(pack(request))
        except OSError as error:
            raise self._lost() from error

    def _receive(self, timeout_s: float, failure: str) -> dict[str, Any]:
        """Wait for one message; kills the process if none comes in time."""
        self._deadline_s = time.monotonic() + timeout_s
        try:
            if not self._parts.connection.poll(timeout_s):
                self.kill()
                self.close()
                raise ScorerLostError(f"the scorer process {failure} within {timeout_s:g} s and was killed")
            reply: dict[str, Any] = unpack(self._parts.connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise self._lost() from error
        finally:
            self._beat_seen_s = time.monotonic()
            self._deadline_s = None
        if "error" in reply:
            raise _as_error(reply["error"])
        return reply

    def _lost(self) -> ScorerLostError:
        """Clean up after a death, and say how it died."""
        self._parts.process.join(JOIN_S)
        code = self._parts.process.exitcode
        how = "was killed for stalling" if code is None else _how(code)
        self.close()
        return ScorerLostError(f"the scorer process {how}")

    def kill(self) -> None:
        """End the process at once; whoever waits for an answer gets `ScorerLostError`. From any thread."""
        with contextlib.suppress(ValueError):  # already disposed of
            self._parts.process.kill()

    def close(self) -> None:
        """End the process and remove the shared memory. Idempotent."""
        self._done.set()
        self._finalizer()

    def watch(self) -> None:
        """One look of the watching thread: note heartbeats, kill a worker stuck in the middle of an answer."""
        now, deadline = time.monotonic(), self._deadline_s
        beats = self._parts.slot.beats()
        if beats != self._beats:
            self._beats, self._beat_seen_s = beats, now
        # `poll` ends a wait for an answer; this ends one for the rest of an answer whose beginning has come.
        if deadline is not None and now > deadline + GRACE_S:
            self.kill()


def _spawn(specs: Sequence[ModelSpec], slot: FrameSlot, threads: int | None) -> _Parts:
    # Never fork: a forked child would share locks with CUDA, OpenMP and the microscope's threads.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=True)
    arguments = (theirs, [spec.to_json() for spec in specs], slot.name, threads)
    process = context.Process(target=main, args=arguments, name="parfocal-scorer", daemon=True)
    try:
        with _interrupts_blocked():
            process.start()
    except BaseException:
        ours.close()
        slot.close()
        raise
    finally:
        theirs.close()  # else its death would not be the end of the connection
    return _Parts(process, ours, slot)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Let the child be born with SIGINT blocked: a Ctrl-C during its start is for the parent alone."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _dispose(parts: _Parts) -> None:
    """End of connection (the worker then leaves by itself), end of process, end of shared memory."""
    parts.connection.close()
    parts.process.join(JOIN_S / 5)
    if parts.process.is_alive():
        parts.process.kill()
        parts.process.join(JOIN_S)
    if parts.process.is_alive():
        log.error("the scorer process cannot be killed", pid=parts.process.pid)
    else:
        parts.process.close()
    parts.slot.close()


def _watch(reference: weakref.ref[ScorerChild], done: threading.Event) -> None:
    while not done.wait(WATCH_S):
        child = reference()
        if child is None:
            return
        child.watch()
        del child


def _as_error(error: dict[str, Any]) -> ModelError:
    kind = _KINDS.get(error["kind"], ScorerError)
    if not issubclass(kind, base.ImageError):
        log.error("model failed in the scorer process", error=error["message"], traceback=error["traceback"])
    return kind(error["message"])


def _how(code: int) -> str:
    if code < 0:
        return f"was killed by signal {signal.Signals(-code).name}"
    return (
        f"ended by itself (exit status {code}); see its messages on stderr. A script that starts one must do so under "
        "`if __name__ == '__main__':`"
    )
