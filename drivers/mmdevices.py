"""parfocal's simulated microscope as Micro-Manager devices in Python, for any pymmcore-plus program; see ``sim.cfg``.

The devices share one world, because a device sees of the core nothing but its events. They never call the core: its
lock of a device is not reentrant and is held during a snap, so that would deadlock (pitfall 7). And they emit
``propertyChanged`` and ``stagePositionChanged`` themselves, which UniMMCore does not do for them (pitfall 3).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from pymmcore_plus.experimental.unicore import CameraDevice, GenericDevice, ShutterDevice, StageDevice, pymm_property

from parfocal.drivers.simulated_options import parse, simulator_parameters
from parfocal.simulator.clock import Clock, RealClock
from parfocal.simulator.specimens import SPECIMENS
from parfocal.simulator.widefield import WidefieldSimulator

# How often a camera looks whether it has been stopped. The core waits two seconds for it at most and then starts the
# next acquisition on the same buffer (pitfall 5), so it must be often.
POLL_S = 0.005


def config_path() -> str:
    """Where the packaged ``sim.cfg`` lies, for ``loadSystemConfiguration``."""
    return str(Path(__file__).with_name("sim.cfg"))


class World:
    """The one simulated microscope behind the devices; safe to use from the camera's thread and the core's.

    Parameters
    ----------
    options : mapping
        As the `microscope` section for the simulated driver.
    clock : Clock or None
        None is real time.
    """

    def __init__(self, options: Mapping[str, Any] | None = None, clock: Clock | None = None) -> None:
        self._lock = threading.RLock()
        self.configure(options or {}, clock)

    def configure(self, options: Mapping[str, Any], clock: Clock | None = None) -> None:
        """Make a new microscope: the stage at its start, the shutter open, the light at full power.

        The shutter is open at first so that a program that does not know of it sees the specimen.
        """
        with self._lock:
            self.options: dict[str, Any] = dict(options)
            self._clock = clock or RealClock()
            parsed = parse(self.options)
            self.exposure_ms = parsed.exposure_ms
            self.power = parsed.simulation.excitation_power
            self.shutter_open = True
            self._build()

    def _build(self, start_um: float | None = None) -> None:
        options = self.options
        if start_um is not None:
            options = {**options, "simulation": {**options.get("simulation", {}), "start_um": start_um}}
        parameters = simulator_parameters(parse(options))
        self._simulator = WidefieldSimulator(parameters, threads=1)
        self._origin_s = self._clock.now()

    def change(self, path: Sequence[str], value: Any) -> None:
        """Change one option, for example ``("simulation", "photons")``; specimen and drift begin anew.

        Raises
        ------
        DriverOptionError
            The value cannot be used; nothing has changed.
        """
        with self._lock:
            before, start_um = self.options, self.position_um()
            self.options = _changed(before, path, value)
            try:
                self._build(start_um)
            except Exception:
                self.options = before
                raise

    def option(self, path: Sequence[str]) -> Any:
        """Read one option, defaults included."""
        value: Any = parse(self.options)
        for key in path:
            value = getattr(value, key)
        return value

    def _now_s(self) -> float:
        return max(0.0, self._clock.now() - self._origin_s)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self._simulator.parameters.shape

    @property
    def pixel_um(self) -> float:
        """Size of a pixel at the sample."""
        return self._simulator.parameters.optics.pixel_um

    @property
    def focus_um(self) -> float:
        """Position of the stage at which the specimen is in focus, before any drift."""
        return self._simulator.parameters.focus_um

    def move_to(self, z_um: float) -> None:
        """Start a move; refused beyond the travel."""
        with self._lock:
            self._simulator.stage.move_to(z_um, self._now_s())

    def stop(self) -> None:
        """Stop the stage where it is."""
        with self._lock:
            self._simulator.stage.stop(self._now_s())

    def position_um(self) -> float:
        """Read the encoder."""
        with self._lock:
            return self._simulator.stage.position_um(self._now_s())

    def busy(self) -> bool:
        """Whether the stage moves or settles."""
        with self._lock:
            return self._simulator.stage.busy(self._now_s())

    def expose(self, exposure_ms: float) -> tuple[NDArray[Any], Mapping[str, float]]:
        """Render the exposure that begins now; the caller lets its time pass."""
        with self._lock:
            power = self.power if self.shutter_open else 0.0
            return self._simulator.expose(self._now_s(), exposure_ms, power)

    def wait(self, seconds: float, stopped: Callable[[], bool]) -> bool:
        """Let time pass, looking often whether it is over; False if it was cut short."""
        until_s = self._clock.now() + seconds
        while (left_s := until_s - self._clock.now()) > 0:
            if stopped():
                return False
            self._clock.sleep(min(left_s, POLL_S))
        return True

    def elapsed(self) -> float:
        """Seconds on the world's clock."""
        return self._clock.now()


def _changed(options: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    key, *rest = path
    return {**options, key: _changed(options.get(key, {}), rest, value) if rest else value}


_world: World | None = None


def world() -> World:
    """Return the microscope that all devices of this process share."""
    global _world
    if _world is None:
        _world = World()
    return _world


def configure_world(options: Mapping[str, Any], clock: Clock | None = None) -> World:
    """Make the shared microscope anew, before or after a core has loaded the devices.

    Parameters
    ----------
    options : mapping
        As the `microscope` section for the simulated driver: objective, emission_nm, pixel_um, exposure_ms, seed,
        simulation{...}. ``sim.cfg`` says 0.325 um; with another pixel size tell the core, or set microscope.pixel_um.
    clock : Clock or None
        None is real time.
    """
    shared = world()
    shared.configure(options, clock)
    return shared


class _Announced:
    """A device that tells the core's listeners when one of its properties has changed."""

    def _changed(self, name: str, value: Any) -> None:
        device: Any = self
        if device._core_proxy_ is not None:
            device.core.events.propertyChanged.emit(device.get_label(), name, str(value))


class SimCamera(_Announced, CameraDevice):
    """The simulated camera; its properties change the specimen and the light it sees."""

    def __init__(self) -> None:
        super().__init__()
        self._world = world()
        self._shut_down = threading.Event()

    def initialize(self) -> None:
        """Make the camera usable again after a shutdown."""
        self._shut_down.clear()

    def shutdown(self) -> None:
        """End whatever is being exposed."""
        self._shut_down.set()

    def get_exposure(self) -> float:
        """Exposure time in ms."""
        return self._world.exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in ms, 0.1 to 10 000."""
        if not 0.1 <= exposure <= 10_000:
            raise ValueError(f"an exposure of {exposure} ms is outside 0.1..10000 ms")
        self._world.exposure_ms = float(exposure)
        self.core.events.exposureChanged.emit(self.get_label(), float(exposure))

    def shape(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self._world.shape

    def dtype(self) -> DTypeLike:
        """16-bit counts."""
        return np.uint16

    def start_sequence(
        self, n: int | None, get_buffer: Callable[[Sequence[int], DTypeLike], NDArray[Any]]
    ) -> Iterator[Mapping[str, Any]]:
        """Expose `n` frames, or until stopped; the truth of each is in its metadata."""
        # The core sets this flag of its acquisition thread when it wants us to stop; a snap comes from another thread.
        flag: threading.Event = getattr(threading.current_thread(), "stop_event", threading.Event())
        count = 0
        while n is None or count < n:
            began_s = self._world.elapsed()
            exposure_ms = self._world.exposure_ms
            pixels, truth = self._world.expose(exposure_ms)
            rest_s = exposure_ms / 1000.0 - (self._world.elapsed() - began_s)
            if not self._world.wait(rest_s, lambda: flag.is_set() or self._shut_down.is_set()):
                return
            get_buffer(pixels.shape, pixels.dtype)[:] = pixels  # not earlier: a buffer asked for must be filled
            yield {
                **{f"Truth-{key}": f"{value:.6f}" for key, value in truth.items()},
                "PixelSizeUm": f"{self._world.pixel_um:.6f}",
                "Simulated": "1",
            }
            count += 1

    @pymm_property(name="Specimen", allowed_values=SPECIMENS)
    def specimen(self) -> str:
        """Kind of the specimen."""
        return str(self._world.option(("simulation", "specimen")))

    @specimen.setter
    def _set_specimen(self, value: str) -> None:
        self._change("Specimen", ("simulation", "specimen"), str(value))

    @pymm_property(name="Photons", limits=(0.0, 1e6))
    def photons(self) -> float:
        """Photons on the brightest pixel in focus, at full power."""
        return float(self._world.option(("simulation", "photons")))

    @photons.setter
    def _set_photons(self, value: float) -> None:
        self._change("Photons", ("simulation", "photons"), float(value))

    @pymm_property(name="FocusUm", limits=(-1000.0, 1000.0))
    def focus_um(self) -> float:
        """Position of the stage at which the specimen is in focus, before any drift."""
        return self._world.focus_um

    @focus_um.setter
    def _set_focus_um(self, value: float) -> None:
        self._change("FocusUm", ("simulation", "focus_um"), float(value))

    @pymm_property(name="DriftUmPerMin", limits=(-1000.0, 1000.0))
    def drift(self) -> float:
        """Steady drift of the focus."""
        return float(self._world.option(("simulation", "drift", "rate_um_per_min")))

    @drift.setter
    def _set_drift(self, value: float) -> None:
        self._change("DriftUmPerMin", ("simulation", "drift", "rate_um_per_min"), float(value))

    @pymm_property(name="Seed", limits=(0, 2**31 - 1))
    def seed(self) -> int:
        """Seed of specimen, noise and drift."""
        return int(self._world.option(("seed",)))

    @seed.setter
    def _set_seed(self, value: float) -> None:
        self._change("Seed", ("seed",), int(value))

    def _change(self, name: str, path: Sequence[str], value: Any) -> None:
        self._world.change(path, value)
        self._changed(name, value)


class SimStage(StageDevice):
    """The simulated focus drive: a ramp, a settling time, steps and hard limits."""

    def __init__(self) -> None:
        super().__init__()
        self._world = world()

    def set_position_um(self, val: float) -> None:
        """Start a move."""
        self._world.move_to(float(val))
        self.core.events.stagePositionChanged.emit(self.get_label(), float(val))

    def get_position_um(self) -> float:
        """Read the encoder."""
        return self._world.position_um()

    def busy(self) -> bool:
        """Whether it moves or settles."""
        return self._world.busy()

    def home(self) -> None:
        """Move to 0."""
        self.set_position_um(0.0)

    def stop(self) -> None:
        """Stay where it is."""
        self._world.stop()
        self.core.events.stagePositionChanged.emit(self.get_label(), self.get_position_um())

    def set_origin(self) -> None:
        """Refuse: the encoder is absolute."""
        raise NotImplementedError("the simulated stage has an absolute encoder; its origin cannot be set")


class SimShutter(ShutterDevice):
    """The simulated shutter, open at first; the core announces its changes itself."""

    def __init__(self) -> None:
        super().__init__()
        self._world = world()

    def get_open(self) -> bool:
        """Whether light passes."""
        return self._world.shutter_open

    def set_open(self, open: bool) -> None:
        """Let light pass, or not."""
        self._world.shutter_open = bool(open)


class SimLight(_Announced, GenericDevice):
    """The simulated excitation."""

    def __init__(self) -> None:
        super().__init__()
        self._world = world()

    @pymm_property(name="PowerPct", limits=(0.0, 100.0))
    def power_pct(self) -> float:
        """Excitation in per cent of full power."""
        return 100.0 * self._world.power

    @power_pct.setter
    def _set_power_pct(self, value: float) -> None:
        self._world.power = float(value) / 100.0
        self._changed("PowerPct", value)
