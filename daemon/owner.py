"""The one thread that owns the microscope: commands in, frames out, the latest frame wins, safe at the end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, SafetyTripError
from parfocal.daemon.worker import deliver
from parfocal.drivers.base import CameraError, DeviceTimeoutError, Frame, Microscope, Parameter
from parfocal.simulator.clock import Clock, RealClock

log = structlog.get_logger()
_T = TypeVar("_T")


class ServingClock:
    """A real clock on which waiting is not idle: the owner's thread answers commands while a driver sleeps.

    A driver that waits for its camera through the clock it was given therefore does not hold up a command to the
    stage. On any other thread, and while a command is being carried out, `sleep` just sleeps.
    """

    virtual = False

    def __init__(self) -> None:
        self._base = RealClock()
        self._serve: Callable[[float], None] | None = None

    def now(self) -> float:
        """Seconds of the machine's monotonic clock."""
        return self._base.now()

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass, or more if a command takes longer."""
        serve = self._serve
        if serve is None or seconds <= 0:
            self._base.sleep(seconds)
        else:
            serve(seconds)

    def attach(self, serve: Callable[[float], None]) -> None:
        """Have `serve(seconds)` do the waiting."""
        self._serve = serve


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame with what the loop needs to know of its arrival: dose up to it, its place in the record, when it came."""

    frame: Frame
    dose: float
    stored: int | None
    arrived: float


@dataclass(frozen=True, slots=True)
class Done:
    """A command that was carried out: what the device says now, when it had settled, when it was sent."""

    readback: float
    settled_s: float
    sent: float


class Owner:
    """Owns a microscope in a thread of its own.

    Parameters
    ----------
    microscope : Microscope
        On a virtual clock a frame is taken only when asked for (`lockstep`), on a real one the camera runs and the
        latest frame wins.
    ledger : DoseLedger
        Every exposed frame is added; once it is spent the camera is not started again.
    lease : BeamLease
        While the camera runs, a loop that does not renew it has died: the microscope is made safe from here.
    interval_s : float, optional
        Single frames at this interval; `None`: the driver's continuous acquisition.
    max_frames : int, optional
        Expose no more than these.
    on_frame : callable, optional
        Called in this thread with every frame; returns its place in the record, if it has one.
    on_request : bool
        In lockstep on a real clock too: no frame is exposed that nobody has asked for. For samples that every frame
        costs, such as those of a STED microscope.
    """

    def __init__(
        self,
        microscope: Microscope,
        ledger: DoseLedger,
        lease: BeamLease,
        *,
        interval_s: float | None = None,
        max_frames: int | None = None,
        on_frame: Callable[[Frame], int | None] | None = None,
        on_request: bool = False,
    ) -> None:
        self.microscope = microscope
        self.clock: Clock = microscope.clock
        self.lockstep = self.clock.virtual or on_request
        self.frames = 0
        self.lost = 0
        self.settled_s = -float("inf")
        self._ledger, self._lease = ledger, lease
        self._interval_s, self._max_frames, self._on_frame = interval_s, max_frames, on_frame
        self._commands: deque[tuple[Callable[[], None], bool]] = deque()
        self._changed = threading.Condition()
        self._streaming = self._closing = self._serving = self._between = False
        self._iterator: Iterator[Frame] | None = None
        self._due_s: float | None = None
        self._last_index: int | None = None
        self._slot: Taken | None = None
        self._missed: list[Taken] = []
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._main, name="microscope", daemon=True)
        if isinstance(self.clock, ServingClock):
            self.clock.attach(self._wait_serving)

    # -- called from the event loop -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; `open` comes next."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def open(self, timeout_s: float) -> dict[str, Parameter]:
        """Connect; raises `HardwareError`."""

        def call() -> dict[str, Parameter]:
            self.microscope.open()
            return dict(self.microscope.parameters)

        return await self._ask(call, timeout_s, "opening the microscope")

    async def read(self, timeout_s: float) -> dict[str, float]:
        """All parameters as the devices report them."""

        def call() -> dict[str, float]:
            settings = self.microscope.read()
            self._ledger.expect(settings)
            return settings

        return await self._ask(call, timeout_s, "reading the parameters")

    async def set(self, name: str, value: float, timeout_s: float) -> Done:
        """Command one parameter and wait until it has settled."""

        def call() -> Done:
            if isinstance(self._failure, SafetyTripError):
                raise self._failure  # made safe already: a loop that wakes up late commands nothing any more
            sent = time.perf_counter()
            readback = self.microscope.set(name, value)
            self._ledger.expect({name: float(readback)})
            parameter = self.microscope.parameters.get(name)
            self.settled_s = self.clock.now() + (parameter.settle_ms / 1000.0 if parameter else 0.0)
            return Done(float(readback), self.settled_s, sent)

        return await self._ask(call, timeout_s, f"setting {name}")

    async def next(self, timeout_s: float, *, patient: bool = False) -> Taken | None:
        """Return the latest frame nobody has seen; `None` if the camera has nothing more to give, or after `wake`.

        With `patient`, having no frame within `timeout_s` is `None` too.

        Raises
        ------
        DeviceTimeoutError
            No frame within `timeout_s`.
        HardwareError, SafetyTripError
            What ended the acquisition.
        """
        if self.lockstep:
            if self._failure is not None:
                raise self._failure
            if self._exhausted():
                return None
            one = await self._ask(self._take, timeout_s, "waiting for a frame")
            self.frames += 1
            return one
        self._waiter = asyncio.get_running_loop().create_future()
        taken = self._latest()
        if taken is not None or self._exhausted():
            return taken
        try:
            async with asyncio.timeout(timeout_s):
                await self._waiter
            return self._latest()
        except TimeoutError:
            if patient:
                return None
            raise DeviceTimeoutError(
                f"{self.microscope.name}: no frame within {timeout_s:.3g} s: is the camera still connected?"
            ) from None

    async def one(self, timeout_s: float) -> Taken:
        """Take one frame although the camera does not run; raises what `next` does."""
        taken = await self._ask(lambda: self._take(wait=False), timeout_s, "waiting for a frame", apart=True)
        self.frames += 1
        return taken

    def _latest(self) -> Taken | None:
        with self._changed:
            taken, self._slot = self._slot, None
            failure = self._failure
        if taken is None and failure is not None:
            raise failure
        return taken

    def missed(self) -> list[Taken]:
        """Frames that a later one replaced before the loop could look, since the last call."""
        with self._changed:
            missed, self._missed = self._missed, []
        return missed

    @property
    def drained(self) -> bool:
        """Whether every frame there will be was handed over."""
        return self._exhausted() and self._slot is None and self._failure is None

    def stream(self, on: bool) -> None:
        """Start or stop the camera, which in lockstep exposes only when asked; meanwhile the lease is watched."""
        with self._changed:
            self._streaming = on and not self.clock.virtual
            self._changed.notify_all()

    def wake(self) -> None:
        """Make a waiting `next` look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def close(self, timeout_s: float) -> bool:
        """Make safe, release, end the thread; return whether the thread did so itself.

        A thread that hangs inside a driver cannot. Then, and only then, the microscope is made safe from another one:
        a wrong thread is the smaller harm than a beam that stays on.
        """
        with self._changed:
            self._closing, self._streaming = True, False
            self._changed.notify_all()
        if await _joined(self._thread, timeout_s):
            return True
        log.error("owner.hangs", microscope=self.microscope.name, action="made safe from another thread")
        rescue = threading.Thread(target=self.microscope.make_safe, name="rescue", daemon=True)
        rescue.start()
        if not await _joined(rescue, timeout_s):
            log.critical("owner.not_safe", microscope=self.microscope.name, action="switch the light off by hand")
        return False

    async def _ask(self, function: Callable[[], _T], timeout_s: float, what: str, *, apart: bool = False) -> _T:
        """Have the owner's thread call a function; `apart`: not in the middle of an exposure that has begun."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def run() -> None:
            try:
                result = function()
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                deliver(loop, future, None, error)
            else:
                deliver(loop, future, result, None)

        with self._changed:
            self._commands.append((run, apart))
            self._changed.notify_all()
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            if not future.cancelled() and future.done() and future.exception() is not None:
                raise
            raise DeviceTimeoutError(f"{self.microscope.name}: {what} took more than {timeout_s:.3g} s") from None

    # -- the owner's thread ---------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            while not self._closing:
                self._serve()
                if self._streaming and self._failure is None:
                    self._step()
                    if self.lockstep:
                        self._doze()
                if not self._streaming or self._stopped():
                    self._end_iterator()
                    with self._changed:
                        if not (self._commands or self._closing or (self._streaming and not self._stopped())):
                            self._changed.wait(self._nap_s)
                    if self._loop is None or self._loop.is_closed():
                        break  # nobody will ever ask again
        finally:
            self._release()

    @property
    def _nap_s(self) -> float:
        return min(1.0, 0.5 * self._lease.seconds)

    def _doze(self) -> None:
        """Wait to be asked, no longer than until the lease is to be looked at again."""
        with self._changed:
            if not (self._commands or self._closing):
                self._changed.wait(self._nap_s)

    def _stopped(self) -> bool:
        return self._failure is not None or self._exhausted()

    def _exhausted(self) -> bool:
        return self._max_frames is not None and self.frames >= self._max_frames

    def _step(self) -> None:
        """Take a frame if one is due; the lease is watched on, for the beams stay on, when the last has been taken."""
        try:
            self._watch_lease()
            if not (self.lockstep or self._exhausted()):
                self._check_dose()
                if self._wait_due():
                    self._publish(self._take(wait=False))
        except BaseException as error:  # noqa: BLE001 - handed to the loop, which ends the session
            self._fail(error)

    def _watch_lease(self) -> None:
        if not self._lease.valid(self.clock.now()):
            self.microscope.make_safe()
            raise SafetyTripError(
                f"the loop did not answer for {self._lease.seconds:g} s with the camera running: made safe"
            )

    def _check_dose(self) -> None:
        if self._ledger.exhausted:
            raise SafetyTripError(
                f"dose budget: {self._ledger.spent:g} of {self._ledger.budget:g} {self._ledger.unit} spent, "
                "one more frame would be too much"
            )

    def _take(self, *, wait: bool = True) -> Taken:
        self._check_dose()
        frame = self._expose(wait=wait)
        lost = 0 if self._last_index is None else max(frame.index - self._last_index - 1, 0)
        self.lost += lost
        self._last_index = frame.index
        dose = self._ledger.add(frame.settings, 1000.0 * (frame.end_s - frame.start_s), frames=1 + lost)
        stored = self._on_frame(frame) if self._on_frame is not None else None
        return Taken(frame, dose, stored, time.perf_counter())

    def _wait_due(self) -> bool:
        """Wait for the next beat of the interval; return whether a frame is still wanted then.

        Not when the camera was stopped meanwhile: whoever paused is not to see light a minute later.
        """
        if self._interval_s is None:
            return True
        if self._due_s is None:
            self._due_s = self.clock.now()
        self._between = True
        try:
            while (wait_s := max(self._due_s, self.settled_s) - self.clock.now()) > 0:
                self.clock.sleep(wait_s if self.lockstep else min(wait_s, self._nap_s))
                if self._unwanted():
                    break
                if not self.lockstep:
                    self._watch_lease()  # the beams stay on between two beats, too
        finally:
            self._between = False
        return not self._unwanted()

    def _unwanted(self) -> bool:
        """Whether nobody wants the frame any more that is waited for."""
        return self._closing or not (self._streaming or self.lockstep)

    def _expose(self, *, wait: bool) -> Frame:
        if self._interval_s is None:
            if self.lockstep:
                self.clock.sleep(self.settled_s - self.clock.now())
            if self._iterator is None:
                self._iterator = iter(self.microscope.frames())
            try:
                return next(self._iterator)
            except StopIteration:
                raise CameraError(f"{self.microscope.name}: the camera ended its acquisition by itself") from None
        if wait and not self._wait_due():
            raise CameraError(f"{self.microscope.name}: no frame is taken any more: the session is ending")
        self.clock.sleep(self.settled_s - self.clock.now())
        now_s = self.clock.now()
        due_s = now_s if self._due_s is None else self._due_s
        self._due_s = max(due_s + self._interval_s, now_s)  # a missed beat is skipped, not caught up
        return self.microscope.snap()

    def _publish(self, taken: Taken) -> None:
        with self._changed:
            if self._slot is not None:
                self._missed.append(self._slot)
            self._slot = taken
            self.frames += 1
        self._notify()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = error
        self._notify()

    def _notify(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self.wake)
            except RuntimeError:
                self._closing = True  # the event loop is gone: nobody will ever ask again

    def _servable(self, exposing: bool) -> bool:
        """Whether a command can be carried out; in the middle of an exposure none that wants one of its own."""
        return bool(self._commands) and not (exposing and self._commands[0][1])

    def _serve(self, *, exposing: bool = False) -> None:
        """Carry out what is queued; nothing any more once closing, whoever may have asked for it before."""
        while self._servable(exposing) and not self._closing:
            command, _ = self._commands.popleft()
            self._serving = True
            try:
                command()
            finally:
                self._serving = False

    def _wait_serving(self, seconds: float) -> None:
        """Wait as the driver asked, carrying out commands meanwhile, unless one of them is what waits."""
        if threading.current_thread() is not self._thread or self._serving:
            time.sleep(seconds)
            return
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with self._changed:
                if not (self._servable(not self._between) or (self._between and self._unwanted())):
                    self._changed.wait(left)
            self._serve(exposing=not self._between)
            if self._closing or (self._between and self._unwanted()):
                return

    def _end_iterator(self) -> None:
        iterator, self._iterator = self._iterator, None
        close: Any = getattr(iterator, "close", None)
        if close is None:
            return
        try:
            close()
        except Exception as error:  # noqa: BLE001 - the microscope is made safe whatever the camera says
            log.warning("owner.camera_stop_failed", error=str(error))

    def _release(self) -> None:
        for step in (self.microscope.make_safe, self._end_iterator, self.microscope.close):
            try:
                step()
            except Exception as error:  # noqa: BLE001 - each step is tried, whatever the one before did
                log.critical("owner.release_failed", step=step.__name__, error=str(error))


async def _joined(thread: threading.Thread, timeout_s: float) -> bool:
    """Wait for a thread without blocking the event loop."""
    loop = asyncio.get_running_loop()
    until = loop.time() + timeout_s
    pause_s = 0.0005
    while thread.is_alive() and loop.time() < until:
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.05)
    return not thread.is_alive()
