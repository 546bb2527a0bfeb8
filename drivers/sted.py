"""The simulated STED microscope behind the hardware seam: one frame is one scan, and what bleached stays bleached."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import structlog

from parfocal import UsageError
from parfocal.drivers import sted_options
from parfocal.drivers.base import CameraError, Frame, HardwareError, Parameter, ParameterError, StageError, check_value
from parfocal.simulator.clock import Clock, RealClock
from parfocal.simulator.drift import FocusDrift
from parfocal.simulator.stage import StageLimitError, StageParameters, ZStage
from parfocal.simulator.sted.detector import CountImage, saturation_counts
from parfocal.simulator.sted.photophysics import fwhm_nm
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import scan
from parfocal.simulator.sted.settings import LIMITS, StedSettings
from parfocal.simulator.sted.truth import fidelity

log = structlog.get_logger()

_POSITIONS = ("x_um", "y_um", "z_um")
_BEAMS = ("excitation_power", "depletion_power")
_UNITS = {"excitation_power": "uW", "depletion_power": "mW", "dwell_us": "us", "line_steps": "passes"}
_START = {"excitation_power": 0.0, "depletion_power": 0.0, "dwell_us": 10.0, "line_steps": 1.0}


def make_sted(options: Mapping[str, Any], clock: Clock | None = None) -> SimulatedSted:
    """Make the driver from the configuration's `microscope` section; see `SimulatedSted`."""
    return SimulatedSted(options, clock)


class SimulatedSted:
    """A point-scanning STED microscope on a sample of many fields, on a real or a virtual clock.

    The parameters are ``excitation_power`` (uW) and ``depletion_power`` (mW), which are 0 once opened and after
    `make_safe`; ``dwell_us``; ``line_steps``, a whole number; ``x_um`` and ``y_um``, the middle of the scanned field;
    and ``z_um``. Depletion power 0 is a confocal scan. Multiples of `field_pitch_um` in x and y are fields of
    their own, that no scan of another has touched.

    Parameters
    ----------
    options : mapping
        The configuration's `microscope` section; see `parfocal.drivers.sted_options.StedOptions`.
    clock : Clock, optional
        None is real time.

    Raises
    ------
    DriverOptionError
        An unknown option, or a value that cannot be used.
    """

    name = "simulated_sted"
    simulated = True

    def __init__(self, options: Mapping[str, Any] | None = None, clock: Clock | None = None) -> None:
        self.clock: Clock = clock if clock is not None else RealClock()
        self.options = sted_options.parse_sted(options or {})
        self.canvas = sted_options.make_canvas(self.options)
        stage = sted_options.make_stage(self.options)
        # A thousandth beyond the last field, for positions that are sums of steps.
        extent_um = round(self.canvas.extent_um + 0.001, 6)
        across = StageParameters(0.0, extent_um, stage.speed_um_per_s, stage.settle_ms, 0.0, 0.001)
        start_um = self.options.simulation.start_um
        self._stages = {"x_um": ZStage(across), "y_um": ZStage(across), "z_um": ZStage(stage, start_um)}
        self._focus_um = sted_options.focus_um(self.options)
        drift_seed, noise_seed = np.random.SeedSequence([self.options.seed, 0x57ED]).spawn(2)
        drift = sted_options.make_drift(self.options)
        self._drift = FocusDrift(drift, int(drift_seed.generate_state(1)[0]))
        self._rng = np.random.Generator(np.random.SFC64(noise_seed))
        self._values = dict(_START)
        self._opened = False
        self._epoch_s: float | None = None
        self._index = -1
        self._last_start_s: float | None = None

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """The two beams, the two timings, and the three positions."""
        made = {
            name: Parameter(name, _UNITS[name], lower, upper, "beam" if name in _BEAMS else "timing")
            for name, (lower, upper) in LIMITS.items()
        }
        for name in _POSITIONS:
            stage = self._stages[name].parameters
            made[name] = Parameter(name, "um", stage.lower_um, stage.upper_um, "position")
        return made

    @property
    def field_pitch_um(self) -> float:
        """Distance in x or y from one field to the next that the same light does not reach."""
        return self.canvas.pitch_um

    def open(self) -> None:
        """Start the simulation's time (the first time); both beams are off."""
        if self._opened:
            return
        self._opened = True
        if self._epoch_s is None:
            self._epoch_s = self.clock.now()
        self._index, self._last_start_s = -1, None

    def snap(self) -> Frame:
        """Scan the field once; the time of the scan and its overhead pass on the clock.

        Raises
        ------
        CameraError
            If the microscope is not open.
        """
        self._check_open(CameraError, "scan")
        start_s, now_s = self.clock.now(), self._now_s()
        values = self.read()
        settings = self._settings()
        took_s = self.canvas.optics.scan_s(settings, self.canvas.shape)
        focus_z_um = self._focus_um + self._drift.offset_um(now_s + took_s / 2)
        defocus_um = values["z_um"] - focus_z_um
        pixels, truth = self._scan(settings, values["y_um"], values["x_um"], defocus_um)
        self._index += 1
        self._last_start_s = start_s
        end_s = start_s + took_s
        # On the real clock the computing has taken part of this time already.
        self.clock.sleep(end_s + self.options.simulation.overhead_ms / 1000.0 - self.clock.now())
        return Frame(
            pixels=pixels,
            index=self._index,
            settings=values,
            start_s=start_s,
            end_s=end_s,
            pixel_um=self.options.pixel_um,
            saturation_counts=saturation_counts(self.canvas.optics, settings),
            metadata={
                "driver": self.name,
                "structure": self.canvas.structure,
                "dye": self.canvas.dye.name,
                "image_number": self._index,
                "elapsed_ms": 1000.0 * now_s,
                "pixel_us": settings.pixel_us,
            },
            simulated=True,
            truth={"defocus_um": defocus_um, "focus_z_um": focus_z_um, **truth},
        )

    def _scan(
        self, settings: StedSettings, y_um: float, x_um: float, defocus_um: float
    ) -> tuple[CountImage, dict[str, float]]:
        """Scan what lies under the beams and keep what is left of it; return the counts and what is true of them."""
        sample = self.canvas.sample(y_um, x_um)
        before = sample.bleached
        pixels = scan(sample, settings, self._rng, defocus_um=defocus_um)
        pixels.flags.writeable = False
        self.canvas.put_back(sample, y_um, x_um)
        return pixels, _truth(sample, settings, pixels, defocus_um, before)

    def frames(self) -> Iterator[Frame]:
        """Scan after scan, each beginning no sooner than `interval_ms` after the one before.

        A scan begins when it is asked for, so none spans a change. Nobody asks, nothing bleaches.
        """
        self._check_open(CameraError, "scan")
        return self._acquire()

    def _acquire(self) -> Iterator[Frame]:
        while self._opened:
            if self._last_start_s is not None:
                due_s = self._last_start_s + self.options.interval_ms / 1000.0
                self.clock.sleep(due_s - self.clock.now())
            yield self.snap()

    def read(self) -> dict[str, float]:
        """Read back all parameters."""
        self._check_open(HardwareError, "read")
        now_s = self._now_s()
        return {**self._values, **{name: stage.position_um(now_s) for name, stage in self._stages.items()}}

    def set(self, name: str, value: float) -> float:
        """Command one parameter, let the clock pass until it has settled, return the read-back.

        Raises
        ------
        ParameterError
            Unknown name, not finite, outside the device's range, or `line_steps` that are not a whole number.
        StageError
            A stage refused.
        HardwareError
            If the microscope is not open.
        """
        self._check_open(HardwareError, f"set {name}")
        number = check_value(self.parameters, name, value)
        if name in self._stages:
            self._move(name, number)
        else:
            if name == "line_steps" and number != int(number):
                raise ParameterError(f"line_steps: must be a whole number of passes (got {number:g})")
            self._values[name] = number
        return self.read()[name]

    def make_safe(self) -> None:
        """Both beams off, stages stopped where they are."""
        for name in _BEAMS:
            self._values[name] = 0.0
        if self._epoch_s is None:
            return
        for name, stage in self._stages.items():
            try:
                stage.stop(self._now_s())
            except UsageError as error:  # a clock that goes back must not keep the rest of the shutdown from happening
                log.error("stage not stopped", stage=name, error=str(error))

    def close(self) -> None:
        """Make safe and let go."""
        self.make_safe()
        self._opened = False

    def _settings(self) -> StedSettings:
        values = self._values
        return StedSettings(
            values["excitation_power"], values["depletion_power"], values["dwell_us"], int(values["line_steps"])
        )

    def _move(self, name: str, target_um: float) -> None:
        try:
            rests_at_s = self._stages[name].move_to(target_um, self._now_s())
        except StageLimitError as error:
            raise StageError(f"{name}: {error}") from error
        # A microsecond more, so that no rounding of the clock leaves the stage a hair before its rest.
        self.clock.sleep(rests_at_s - self._now_s() + 1e-6)

    def _now_s(self) -> float:
        """Seconds of the simulation's own time."""
        if self._epoch_s is None:
            raise HardwareError("simulated STED microscope: it has not been opened")
        return max(0.0, self.clock.now() - self._epoch_s)

    def _check_open(self, error: type[HardwareError], verb: str) -> None:
        if not self._opened:
            raise error(f"simulated STED microscope: cannot {verb}, it is not open")


def _truth(
    sample: StedSample, settings: StedSettings, pixels: CountImage, defocus_um: float, before: float
) -> dict[str, float]:
    """What the simulator knows of a frame; a fidelity or a width that does not exist is left out."""
    known = {
        "bleached": sample.bleached,
        "bleached_by_frame": sample.bleached - before,
        "fwhm_nm": fwhm_nm(sample.optics, sample.dye, settings, defocus_um),
        "fidelity": fidelity(pixels, sample),
    }
    return {name: value for name, value in known.items() if math.isfinite(value)}
