"""A microscope driven through Micro-Manager: a core of our own made from a ``.cfg``, or one a program already has."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import structlog
from numpy.typing import NDArray

from parfocal.drivers import mm_core
from parfocal.drivers.base import CameraError, Frame, HardwareError, Parameter, ParameterError, check_value
from parfocal.drivers.mm_frames import FrameNumbers, RawFrame, SettingsHistory, checked_pixels
from parfocal.drivers.mm_instrument import Instrument
from parfocal.drivers.mm_live import LiveSequence, MdaTap, WatchedSequence, mda_running
from parfocal.drivers.mm_options import MicroManagerOptions, parse
from parfocal.simulator.clock import Clock, RealClock

log = structlog.get_logger()

TRUTH_TAG = "Truth-"


def make_micromanager(options: Mapping[str, Any], clock: Clock | None = None) -> MicroManagerMicroscope:
    """Make the driver from the configuration's `microscope` section; see `mm_options.MicroManagerOptions`."""
    return MicroManagerMicroscope(parse(options), clock)


class MicroManagerMicroscope:
    """Any microscope that Micro-Manager can drive, as a `parfocal.drivers.base.Microscope`.

    The thread that calls `open` owns the microscope: MMCore is called from there and nowhere else, because a second
    thread polling a device during an acquisition has caused serial time-outs on real instruments.

    Parameters
    ----------
    options : MicroManagerOptions
        What to open and how.
    clock : Clock or None
        Real time; hardware does not follow a virtual clock.

    Raises
    ------
    ParameterError
        A virtual clock.
    """

    name = "micromanager"

    def __init__(self, options: MicroManagerOptions, clock: Clock | None = None) -> None:
        if clock is not None and clock.virtual:
            raise ParameterError("the micromanager driver needs real time: its devices do not follow a virtual clock")
        self.clock: Clock = clock or RealClock()
        self.simulated = False
        self.attached = options.core is not None
        self._options = options
        self._core: Any = None
        self._instrument: Instrument | None = None
        self._owner: threading.Thread | None = None
        self._history = SettingsHistory()
        self._live: LiveSequence | None = None
        self._tap: MdaTap | None = None
        self._generator: Generator[Frame, None, None] | None = None
        self._numbers = FrameNumbers()
        self._shape: tuple[int, ...] = ()
        self._autoshutter: bool | None = None
        self._opened_shutter = False
        self._lit: set[str] = set()
        self._uncertain_s = -math.inf
        self._acquiring = False

    @classmethod
    def attach(
        cls, core: Any, options: Mapping[str, Any] | None = None, clock: Clock | None = None
    ) -> MicroManagerMicroscope:
        """Make a microscope on an existing ``CMMCorePlus``, opened in the thread that uses it; `close` leaves it."""
        return cls(parse(options or {}, core), clock)

    # -- opening and closing ------------------------------------------------------------------------------------

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Everything controllable, by name; empty until opened."""
        return self._instrument.parameters if self._instrument else {}

    @property
    def lost_frames(self) -> int:
        """How many frames the camera has lost since the microscope was opened."""
        return self._numbers.lost

    def open(self) -> None:
        """Load the core or attach to it, find the devices, close the shutter and turn the beams down.

        Raises
        ------
        DeviceNotFoundError
            A file, adapter, device or property is not there; the message names it.
        HardwareError
            A device does not take its setting.
        """
        if self._core is not None:
            raise HardwareError("the microscope is open already")
        options = self._options
        self._owner = threading.current_thread()
        self._numbers = FrameNumbers()
        if options.system_config is not None:
            self._core = mm_core.load_core(options.system_config)
        else:
            self._core = options.core
        try:
            self._configure()
        except BaseException:
            self.close()
            raise

    def _configure(self) -> None:
        instrument = self._instrument = Instrument(self._core, self._options, self.clock)
        self.simulated = instrument.simulated
        if not self.attached:
            # Pitfalls 1 and 2: with Python devices autoshutter leaves the shutter closed, and without a shutter it
            # raises; and the core may leave a shutter open when a sequence fails to start. We drive it ourselves.
            self._core.setAutoShutter(False)
        if not self._foreign():
            self._dark(instrument)
        if (exposure_ms := self._options.exposure_ms) is not None:
            instrument.set("exposure_ms", check_value(instrument.parameters, "exposure_ms", exposure_ms))
        self._note(instrument.read())
        log.info(
            "micromanager.open",
            camera=instrument.camera,
            focus=instrument.focus,
            shutter=instrument.shutter or None,
            attached=self.attached,
            simulated=self.simulated,
            pixel_um=instrument.pixel_um,
        )

    def _dark(self, instrument: Instrument) -> None:
        instrument.set_shutter(False)
        for name, lower in instrument.beams().items():
            instrument.set(name, lower)

    def close(self) -> None:
        """Make safe, then release the devices; an attached core is left as it was found. Idempotent.

        Raises
        ------
        HardwareError
            Called from another thread while the owner lives: devices must not vanish under a running call.
        """
        if self._core is None:
            return
        if threading.current_thread() is not self._owner and self._owner is not None and self._owner.is_alive():
            raise HardwareError(f"only the thread that opened the microscope ({self._owner.name}) can close it")
        self.make_safe()
        if self._generator is not None:
            self._attempt("ending the acquisition", self._generator.close)
        core, self._core, self._instrument, self._generator = self._core, None, None, None
        self._history, self._opened_shutter = SettingsHistory(), False
        self._lit.clear()
        if not self.attached:
            self._attempt("releasing the core", partial(mm_core.release_core, core))

    def _owned(self, what: str) -> Instrument:
        if self._instrument is None:
            raise HardwareError(f"cannot {what}: the microscope is not open")
        if threading.current_thread() is not self._owner:
            owner = self._owner.name if self._owner else "nobody"
            raise HardwareError(
                f"cannot {what} from thread {threading.current_thread().name!r}: the microscope belongs to thread "
                f"{owner!r}, and Micro-Manager is called from there only"
            )
        return self._instrument

    def _foreign(self) -> bool:
        """Whether the core is busy with an acquisition that is not ours."""
        if not self.attached or (self._live is not None and self._live.running):
            return False
        camera = self._core.getCameraDevice()
        return mda_running(self._core) or (bool(camera) and bool(self._core.isSequenceRunning(camera)))

    # -- parameters ---------------------------------------------------------------------------------------------

    def read(self) -> dict[str, float]:
        """All parameters as the devices report them now."""
        settings = self._owned("read").read()
        self._note(settings)
        return settings

    def set(self, name: str, value: float) -> float:
        """Command one parameter, block until it has settled, return the read-back.

        Raises
        ------
        ParameterError
            Unknown name, not finite, or outside the device's range: refused, never clipped.
        StageError, CameraError, DeviceTimeoutError, HardwareError
            The device did not take it, did not arrive, or reads back as something else.
        """
        instrument = self._owned(f"set {name}")
        number = check_value(instrument.parameters, name, value)
        if self.attached and mda_running(self._core):
            # Trap iii: an event with a z of its own would undo the move at once. Only an engine can move during an MDA.
            raise HardwareError(f"cannot set {name}: an acquisition (MDA) runs in this core and would overwrite it")
        if name in instrument.beams() and number > instrument.beams()[name]:
            self._lit.add(name)
        with self._camera_idle(instrument, name):
            try:
                readback = instrument.set(name, number)
            except HardwareError:
                self._after_failure(instrument)
                raise
            self.clock.sleep(instrument.parameters[name].settle_ms / 1000.0)
            self._note({**self._settings, name: readback})
        return readback

    def _after_failure(self, instrument: Instrument) -> None:
        """Take down where a failed command has left things; frames until now may show anything."""
        self._attempt("reading back after a failure", lambda: self._note(instrument.read()))
        self._uncertain_s = self.clock.now()

    @contextmanager
    def _camera_idle(self, instrument: Instrument, name: str) -> Iterator[None]:
        """Interrupt our live sequence for a setting of the camera.

        While one runs a camera refuses some settings and takes others in the middle of a frame.
        """
        live = self._live
        if live is None or not live.running or not instrument.concerns_camera(name):
            yield
            return
        live.stop(instrument.deadline_s(instrument.camera))
        try:
            yield
        finally:
            self._start(live)

    def _note(self, settings: Mapping[str, float]) -> None:
        self._history.note(settings, self.clock.now())

    @property
    def _settings(self) -> Mapping[str, float]:
        return self._history.latest

    def _refresh(self, instrument: Instrument) -> bool:
        """Read z and exposure again; whether somebody else has moved the stage since.

        Such a move was under way at some time before we notice, so a frame until then may show either place.
        """
        z_um, exposure_ms = instrument.read_z_um(), instrument.read_exposure_ms()
        moved = not abs(z_um - self._settings["z_um"]) <= instrument.tolerance("z_um")
        if moved:
            self._uncertain_s = self.clock.now()
            log.warning("micromanager.moved_by_others", z_um=z_um, expected_um=self._settings["z_um"])
        if moved or exposure_ms != self._settings["exposure_ms"]:
            self._note({**self._settings, "z_um": z_um, "exposure_ms": exposure_ms})
        return moved

    # -- frames -------------------------------------------------------------------------------------------------

    def snap(self) -> Frame:
        """Expose one frame.

        ``snapImage`` blocks until the camera is done and cannot be interrupted; `frames` has a deadline, this has not.

        Raises
        ------
        CameraError
            An acquisition is running, or the camera gave no frame.
        """
        instrument = self._owned("snap")
        if self._acquiring or self._foreign():
            raise CameraError("cannot snap while an acquisition runs: end it first")
        with self._light(instrument):
            self._refresh(instrument)
            start_s = self.clock.now()
            with mm_core.translated(f"snapping with camera {instrument.camera!r}", CameraError):
                self._core.snapImage()
                pixels = self._core.getImage()
            end_s = self.clock.now()
            uncertain = self._refresh(instrument)
        self._shape = ()
        self._numbers.begin()
        raw = RawFrame(pixels, {"Camera": instrument.camera}, 0, start_s, end_s)
        return self._frame(instrument, raw, self._settings, uncertain=uncertain)

    def frames(self) -> Iterator[Frame]:
        """Acquire continuously; the acquisition ends, and the shutter closes, when the iterator is closed.

        In a core of our own, or an idle attached one, we start the camera. In an attached core that is already live or
        runs an MDA we only watch, and the iterator ends with that acquisition.

        Raises
        ------
        CameraError
            One is running already; or, from the iterator, the camera stopped, or no frame came before the deadline.
        """
        instrument = self._owned("acquire")
        self._check_idle()
        self._generator = self._acquire(instrument)
        return self._generator

    def _check_idle(self) -> None:
        if self._acquiring:
            raise CameraError("an acquisition is running already: close its iterator first")

    def _acquire(self, instrument: Instrument) -> Generator[Frame, None, None]:
        self._check_idle()
        self._acquiring, self._shape = True, ()
        try:
            if self.attached and mda_running(self._core):
                yield from self._tapped(instrument)
            elif self._foreign():
                watched = WatchedSequence(self._core, instrument.camera, self.clock, self._latency_s)
                self._numbers.begin(joined=True)
                yield from self._pump(instrument, watched, watched.poll_s)
            else:
                yield from self._own_sequence(instrument)
        finally:
            self._acquiring = False

    @property
    def _latency_s(self) -> float | None:
        return None if self._options.latency_ms is None else self._options.latency_ms / 1000.0

    def _own_sequence(self, instrument: Instrument) -> Generator[Frame, None, None]:
        live = LiveSequence(self._core, instrument.camera, self.clock, self._latency_s)
        with self._light(instrument):
            try:
                self._live = live
                self._start(live)
                yield from self._pump(instrument, live, mm_core.POLL_S)
            finally:
                self._live = None
                live.stop(instrument.deadline_s(instrument.camera))

    def _start(self, live: LiveSequence) -> None:
        self._numbers.begin()
        live.start()

    def _pump(
        self, instrument: Instrument, source: LiveSequence | WatchedSequence, poll_s: float
    ) -> Generator[Frame, None, None]:
        while (raw := self._next(instrument, source, poll_s)) is not None:
            self._refresh(instrument)
            uncertain = raw.start_s < self._uncertain_s
            overflowed = isinstance(source, LiveSequence) and source.overflowed
            settings = self._settings if uncertain else self._history.at(raw.start_s)
            yield self._frame(instrument, raw, settings, uncertain=uncertain, overflowed=overflowed)

    def _next(self, instrument: Instrument, source: LiveSequence | WatchedSequence, poll_s: float) -> RawFrame | None:
        """Wait for a frame, and for no longer than the camera's deadline.

        Pitfall 6: a camera that raises in live mode only ends its thread; nothing tells us. So both the state of the
        sequence and the age of the last frame are watched.
        """
        exposure_s = self._settings["exposure_ms"] / 1000.0
        since_s = self.clock.now()
        limit_s = 2 * exposure_s + instrument.deadline_s(instrument.camera)
        while (raw := source.take(exposure_s)) is None:
            if not source.alive():
                if isinstance(source, WatchedSequence):
                    return None
                raise CameraError(f"camera {instrument.camera!r} stopped acquiring by itself; see the log for why")
            if self.clock.now() - since_s > limit_s:
                raise CameraError(
                    f"camera {instrument.camera!r}: no frame for {limit_s:g} s (exposure {exposure_s * 1000:g} ms); "
                    f"look at its connection, or raise microscope.timeouts_ms.{instrument.camera}"
                )
            self.clock.sleep(poll_s)
        return raw

    def _tapped(self, instrument: Instrument) -> Generator[Frame, None, None]:
        tap = self._tap = MdaTap(self._core, self.clock)
        self._numbers.begin()
        tap.connect()
        try:
            while True:
                if (raw := tap.take()) is None:
                    if not tap.alive():
                        return
                    self.clock.sleep(0.002)  # no deadline: an MDA may wait for minutes between two events
                    continue
                # Not the core's z: the run may have moved on since this frame was taken.
                settings = {
                    **self._settings,
                    "exposure_ms": float(raw.tags.get("exposure_ms", self._settings["exposure_ms"])),
                }
                z_um = dict(raw.tags.get("position", {})).get("z")
                settings["z_um"] = float(z_um) if z_um is not None else instrument.read_z_um()
                yield self._frame(instrument, raw, settings, uncertain=False)
        finally:
            tap.disconnect()
            self._tap = None

    def push(self, image: NDArray[Any], event: Any, meta: Mapping[str, Any]) -> None:
        """Hand in a frame of a running MDA, from any thread; for engines that call us instead of ``frameReady``."""
        if (tap := self._tap) is None:
            raise CameraError("no MDA is being watched: call frames() while one runs")
        tap.push(image, event, meta)

    def _frame(
        self,
        instrument: Instrument,
        raw: RawFrame,
        settings: Mapping[str, float],
        *,
        uncertain: bool,
        overflowed: bool = False,
    ) -> Frame:
        pixels = checked_pixels(instrument.camera, raw.pixels, self._shape)
        self._shape = pixels.shape
        index = self._numbers.place(raw.number)
        metadata: dict[str, Any] = {**raw.tags, "lost_frames": self.lost_frames, "overflowed": overflowed}
        if uncertain:
            metadata["z_uncertain"] = True
        truth = {key.removeprefix(TRUTH_TAG): float(v) for key, v in raw.tags.items() if key.startswith(TRUTH_TAG)}
        return Frame(
            pixels=pixels,
            index=index,
            settings=dict(settings),
            start_s=raw.start_s,
            end_s=raw.end_s,
            pixel_um=instrument.pixel_um,
            saturation_counts=instrument.saturation_counts,
            metadata=metadata,
            simulated=self.simulated,
            truth=truth,
        )

    # -- light and safety ---------------------------------------------------------------------------------------

    @contextmanager
    def _light(self, instrument: Instrument) -> Iterator[None]:
        """Shutter open inside, closed with read-back on every way out, also when it failed to open."""
        if self.attached:
            self._autoshutter = bool(self._core.getAutoShutter())
            self._core.setAutoShutter(False)
        try:
            self._opened_shutter = True
            instrument.set_shutter(True)
            yield
        finally:
            try:
                if self._core is not None:
                    instrument.set_shutter(False)
                    self._opened_shutter = False
            finally:
                self._restore_autoshutter()

    def _restore_autoshutter(self) -> None:
        if self.attached and self._autoshutter is not None and self._core is not None:
            self._core.setAutoShutter(self._autoshutter)
            self._autoshutter = None

    def make_safe(self) -> None:
        """Stop the acquisition, close the shutter, turn the beams down, stop the stage; never raises.

        Each is tried even if another failed.

        In an attached core in which somebody else acquires, only what we ourselves opened or turned up is undone. From
        another thread it is done all the same: light that stays on is worse than two threads in the core.
        """
        if (instrument := self._instrument) is None:
            return
        if threading.current_thread() is not self._owner:
            log.warning("micromanager.make_safe_from_other_thread", thread=threading.current_thread().name)
        foreign = self._attached_to_busy_core()
        if (live := self._live) is not None:
            self._attempt("stopping the camera", lambda: live.stop(instrument.deadline_s(instrument.camera)))
        if not foreign or self._opened_shutter:
            self._opened_shutter = not self._attempt("closing the shutter", lambda: instrument.set_shutter(False))
        for name, lower in instrument.beams().items():
            if not foreign or name in self._lit:
                done = self._attempt(f"turning {name} down", partial(instrument.set, name, lower))
                self._lit -= {name} if done else set()
        if not foreign:
            self._attempt("stopping the stage", instrument.stop_stage)
        self._attempt("restoring autoshutter", self._restore_autoshutter)

    def _attached_to_busy_core(self) -> bool:
        found: list[bool] = []
        self._attempt("asking who acquires", lambda: found.append(self._foreign()))
        return found[0] if found else self.attached

    def _attempt(self, what: str, step: Callable[[], Any]) -> bool:
        """Do one step of making safe and say whether it worked; log why not, and go on.

        No traceback: a console that renders one takes a second, in which the next beam would stay on.
        """
        try:
            step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next step is still due
            log.error("micromanager.make_safe_failed", step=what, error=f"{type(error).__name__}: {error}")
            return False
        return True
