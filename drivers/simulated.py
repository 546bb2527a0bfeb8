"""The simulated widefield microscope behind the hardware seam: same protocol, no photons, the truth in every frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from parfocal import UsageError
from parfocal.drivers.base import CameraError, Frame, HardwareError, Parameter, StageError, check_value
from parfocal.drivers.options import DriverOptionError
from parfocal.drivers.simulated_options import parse, simulator_parameters
from parfocal.simulator.clock import Clock, RealClock
from parfocal.simulator.stage import StageLimitError
from parfocal.simulator.widefield import WidefieldSimulator

log = structlog.get_logger()

EXPOSURE_LIMITS_MS = (0.1, 10_000.0)


def make_simulated(options: Mapping[str, Any], clock: Clock | None = None) -> SimulatedMicroscope:
    """Make the driver from the configuration's `microscope` section; see `SimulatedMicroscope`."""
    return SimulatedMicroscope(options, clock)


class SimulatedMicroscope:
    """A widefield microscope with a drifting focus, on a real or a virtual clock.

    The parameters are ``z_um`` (the stage's encoder), ``exposure_ms`` and ``excitation_power`` (fraction of full).
    A shutter opens for the exposures only; after `make_safe` it stays closed until ``excitation_power`` is set again.

    Parameters
    ----------
    options : mapping
        The configuration's `microscope` section; see `parfocal.drivers.simulated_options.SimulatedOptions`.
    clock : Clock, optional
        None is real time.

    Raises
    ------
    DriverOptionError
        An unknown option, or a value that cannot be used.
    DeviceNotFoundError
        An image named as the specimen is not there.
    """

    name = "simulated"
    simulated = True

    def __init__(self, options: Mapping[str, Any] | None = None, clock: Clock | None = None) -> None:
        self.clock: Clock = clock if clock is not None else RealClock()
        self.options = parse(options or {})
        try:
            self.simulator = WidefieldSimulator(simulator_parameters(self.options))
        except (UsageError, ValueError) as error:
            raise DriverOptionError([f"microscope.simulation: {error}"]) from error
        self._exposure_ms = self.options.exposure_ms
        self._power = 0.0
        self._shutter_released = False
        self._opened = False
        self._epoch_s: float | None = None
        self._index = -1
        self._last_start_s: float | None = None

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """`z_um`, `exposure_ms` and `excitation_power`."""
        stage = self.simulator.parameters.stage
        lower_ms, upper_ms = EXPOSURE_LIMITS_MS
        # settle_ms stays 0: `set` returns when the stage rests, so a frame may begin at once.
        return {
            "z_um": Parameter("z_um", "um", stage.lower_um, stage.upper_um, "position"),
            "exposure_ms": Parameter("exposure_ms", "ms", lower_ms, upper_ms, "timing"),
            "excitation_power": Parameter("excitation_power", "fraction", 0.0, 1.0, "beam"),
        }

    @property
    def depth_of_field_um(self) -> float:
        """Of the simulated objective."""
        return self.simulator.parameters.optics.depth_of_field_um

    def open(self) -> None:
        """Start the simulation's time (the first time), and arm the lamp if `auto_beam` says so."""
        if self._opened:
            return
        self._opened = True
        self.simulator.prepare()  # here, where there is time for it, and not in the first frame
        if self._epoch_s is None:
            self._epoch_s = self.clock.now()
        self._index, self._last_start_s = -1, None
        if self.options.simulation.auto_beam:
            self._set_power(self.options.simulation.excitation_power)

    def snap(self) -> Frame:
        """Expose one frame; exposure and read-out pass on the clock.

        Raises
        ------
        CameraError
            If the microscope is not open.
        """
        self._check_open(CameraError, "expose")
        simulation = self.options.simulation
        start_s, now_s = self.clock.now(), self._now_s()
        settings = self.read()
        power = self._power if self._shutter_released else 0.0
        pixels, truth = self.simulator.expose(now_s, self._exposure_ms, power)
        pixels.flags.writeable = False
        self._index += 1
        self._last_start_s = start_s
        end_s = start_s + self._exposure_ms / 1000.0
        # On the real clock the rendering has taken part of this time already.
        self.clock.sleep(end_s + simulation.camera.readout_ms / 1000.0 - self.clock.now())
        return Frame(
            pixels=pixels,
            index=self._index,
            settings=settings,
            start_s=start_s,
            end_s=end_s,
            pixel_um=self.simulator.parameters.optics.pixel_um,
            saturation_counts=self.simulator.parameters.camera.saturation_counts,
            metadata={
                "driver": self.name,
                "specimen": simulation.specimen,
                "image_number": self._index,
                "elapsed_ms": 1000.0 * now_s,
                "shutter_open": power > 0,
            },
            simulated=True,
            truth=truth,
        )

    def frames(self) -> Iterator[Frame]:
        """Frame after frame, each beginning no sooner than `interval_ms` after the one before.

        Like a camera that waits for its trigger: an exposure begins when it is asked for, so none spans a move.
        """
        self._check_open(CameraError, "acquire")
        return self._acquire()

    def _acquire(self) -> Iterator[Frame]:
        while self._opened:
            if self._last_start_s is not None:
                due_s = self._last_start_s + self.options.interval_ms / 1000.0
                self.clock.sleep(due_s - self.clock.now())
            yield self.snap()

    def read(self) -> dict[str, float]:
        """Read back all parameters; ``excitation_power`` is 0 while the shutter is shut for good."""
        self._check_open(HardwareError, "read")
        return {
            "z_um": self.simulator.stage.position_um(self._now_s()),
            "exposure_ms": self._exposure_ms,
            "excitation_power": self._power,
        }

    def set(self, name: str, value: float) -> float:
        """Command one parameter, let the clock pass until it has settled, return the read-back.

        Raises
        ------
        ParameterError
            Unknown name, not finite, or outside the device's range.
        StageError
            The stage refused.
        HardwareError
            If the microscope is not open.
        """
        self._check_open(HardwareError, f"set {name}")
        number = check_value(self.parameters, name, value)
        if name == "z_um":
            self._move(number)
        elif name == "exposure_ms":
            self._exposure_ms = number
        else:
            self._set_power(number)
        return self.read()[name]

    def make_safe(self) -> None:
        """Lamp off, shutter closed, stage stopped where it is."""
        self._set_power(0.0)
        if self._epoch_s is None:
            return
        try:
            self.simulator.stage.stop(self._now_s())
        except UsageError as error:  # a clock that goes back must not keep the rest of the shutdown from happening
            log.error("stage not stopped", error=str(error))

    def close(self) -> None:
        """Make safe and let go."""
        self.make_safe()
        self._opened = False

    def _move(self, z_um: float) -> None:
        try:
            rests_at_s = self.simulator.stage.move_to(z_um, self._now_s())
        except StageLimitError as error:
            raise StageError(str(error)) from error
        # A microsecond more, so that no rounding of the clock leaves the stage a hair before its rest.
        self.clock.sleep(rests_at_s - self._now_s() + 1e-6)

    def _set_power(self, power: float) -> None:
        self._power = power
        self._shutter_released = power > 0

    def _now_s(self) -> float:
        """Seconds of the simulation's own time."""
        if self._epoch_s is None:
            raise HardwareError("simulated microscope: it has not been opened")
        return max(0.0, self.clock.now() - self._epoch_s)

    def _check_open(self, error: type[HardwareError], verb: str) -> None:
        if not self._opened:
            raise error(f"simulated microscope: cannot {verb}, it is not open")
