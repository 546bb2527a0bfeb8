"""What a STED scan is made with: the optics, which stay, and the four settings, which are tuned."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from parfocal import UsageError, did_you_mean

LIMITS: Mapping[str, tuple[float, float]] = {
    "excitation_power": (0.0, 20.0),
    "depletion_power": (0.0, 350.0),
    "dwell_us": (1.0, 100.0),
    "line_steps": (1.0, 25.0),
}
"""What the simulated instrument accepts: uW, mW, us, and a whole number of passes over each line."""

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class StedSettings:
    """The settings of one scan.

    Parameters
    ----------
    excitation_power : float
        uW at the back aperture, averaged over the pulses.
    depletion_power : float
        mW, averaged over the pulses; 0 is a confocal scan.
    dwell_us : float
        Time on each pixel in one pass over its line.
    line_steps : int
        How often each line is scanned before the next one; the counts of all passes are added up.

    Raises
    ------
    UsageError
        A value is outside `LIMITS`, not finite, or `line_steps` is no whole number.
    """

    excitation_power: float
    depletion_power: float
    dwell_us: float
    line_steps: int = 1

    def __post_init__(self) -> None:
        for name, (lower, upper) in LIMITS.items():
            value = getattr(self, name)
            if not lower <= value <= upper:  # NaN fails this too
                raise UsageError(f"sted settings: {name} must lie in {lower:g}..{upper:g} (got {value!r})")
        if self.line_steps != int(self.line_steps):
            raise UsageError(f"sted settings: line_steps must be a whole number (got {self.line_steps!r})")

    @property
    def dose(self) -> float:
        """Excitation light on each pixel, in uW us: power times dwell times passes."""
        return self.excitation_power * self.pixel_us

    @property
    def pixel_us(self) -> float:
        """Time on each pixel, all passes together."""
        return self.dwell_us * self.line_steps

    def confocal(self) -> StedSettings:
        """Return the same settings with the depletion beam off."""
        return dataclasses.replace(self, depletion_power=0.0)


@dataclass(frozen=True)
class StedOptics:
    """The instrument: a pulsed, gated STED microscope with a vortex donut; the defaults are for a far-red dye.

    Parameters
    ----------
    na, immersion_index : float
        Of the objective.
    excitation_nm, depletion_nm, emission_nm : float
        Vacuum wavelengths.
    excitation_transmission, depletion_transmission, emission_transmission : float
        Shares of the light that pass the objective.
    pupil_share : float
        Share of either beam that passes the pupil, which it overfills.
    pinhole_airy : float
        Radius of the pinhole, projected into the sample, over ``0.61 * emission / na``.
    residual_zero : float
        Depletion in the centre of the donut, as a share of its crest.
    rate_mhz, pulse_ps : float
        Repetition of both lasers and length of the depletion pulse, which follows the excitation at once.
    gate_delay_ns, gate_width_ns : float
        When detection begins after the excitation pulse, and for how long.
    collection, detector_efficiency : float
        Share of the fluorescence inside the pinhole that reaches the detector, and share of it that is counted.
    background_cps : float
        Ungated background rate: dark counts and stray light. Only what falls into the gate is counted.
    dead_time_ns : float
        Of the detector after each count, not paralysable; 0 is an ideal detector.
    flyback_us : float
        From the end of a line to the start of the next.

    Raises
    ------
    UsageError
        A value is not physical.
    """

    na: float = 1.4
    immersion_index: float = 1.5
    excitation_nm: float = 635.0
    depletion_nm: float = 750.0
    emission_nm: float = 690.0
    excitation_transmission: float = 0.84
    depletion_transmission: float = 0.77
    emission_transmission: float = 0.82
    pupil_share: float = 0.8
    pinhole_airy: float = 0.7
    residual_zero: float = 0.005
    rate_mhz: float = 40.0
    pulse_ps: float = 400.0
    gate_delay_ns: float = 0.75
    gate_width_ns: float = 8.0
    collection: float = 0.1
    detector_efficiency: float = 0.5
    background_cps: float = 5e4
    dead_time_ns: float = 50.0
    flyback_us: float = 200.0

    def __post_init__(self) -> None:
        check_ranges("sted optics", self, OPTICS_RANGES)
        if self.na >= self.immersion_index:
            raise UsageError(f"sted optics: na {self.na:g} must be below immersion_index {self.immersion_index:g}")
        if self.pulse_ps / 1000.0 >= self.period_ns or self.gate_delay_ns + self.gate_width_ns > self.period_ns:
            raise UsageError(
                f"sted optics: pulse and gate must end within the {self.period_ns:g} ns between two pulses"
            )

    @property
    def period_ns(self) -> float:
        """Time between two pulses."""
        return 1000.0 / self.rate_mhz

    @property
    def gate_duty(self) -> float:
        """Share of the time in which the detector's counts are kept."""
        return self.gate_width_ns / self.period_ns

    @property
    def background_per_us(self) -> float:
        """Background counts expected on a pixel each microsecond."""
        return self.background_cps * self.gate_duty * 1e-6

    @property
    def max_rate_mhz(self) -> float:
        """The rate that the dead time never lets the detector reach; infinite without a dead time."""
        return 1000.0 / self.dead_time_ns if self.dead_time_ns else math.inf

    def line_us(self, settings: StedSettings, columns: int) -> float:
        """Time from the start of one pass over a line to the start of the next."""
        return columns * settings.dwell_us + self.flyback_us

    def scan_s(self, settings: StedSettings, shape: tuple[int, int]) -> float:
        """Time that a scan of `shape` (rows, columns) takes, in seconds."""
        return shape[0] * settings.line_steps * self.line_us(settings, shape[1]) * 1e-6


OPTICS_RANGES: Mapping[str, tuple[float, float]] = {
    "na": (0.1, 1.7),
    "immersion_index": (1.0, 1.8),
    "excitation_nm": (300.0, 1000.0),
    "depletion_nm": (300.0, 1200.0),
    "emission_nm": (300.0, 1200.0),
    "excitation_transmission": (0.0, 1.0),
    "depletion_transmission": (0.0, 1.0),
    "emission_transmission": (0.0, 1.0),
    "pupil_share": (0.0, 1.0),
    "pinhole_airy": (0.1, 5.0),
    "residual_zero": (0.0, 0.5),
    "rate_mhz": (1.0, 100.0),
    "pulse_ps": (10.0, 2000.0),
    "gate_delay_ns": (0.0, 20.0),
    "gate_width_ns": (0.1, 1000.0),
    "collection": (0.0, 1.0),
    "detector_efficiency": (0.0, 1.0),
    "background_cps": (0.0, 1e7),
    "dead_time_ns": (0.0, 1000.0),
    "flyback_us": (0.0, 1e5),
}


def check_ranges(what: str, instance: object, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Raise `UsageError` for the first attribute that is no number within its range, both ends included."""
    for name, (lower, upper) in ranges.items():
        value = getattr(instance, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not lower <= value <= upper:
            raise UsageError(f"{what}: {name} must be a number in {lower:g}..{upper:g} (got {value!r})")


def from_mapping(what: str, kind: type[_Made], given: Mapping[str, Any], base: _Made) -> _Made:
    """Change a frozen dataclass by plain keys.

    Raises
    ------
    UsageError
        A key is unknown (with the nearest known one), or a value is not physical. A misspelt key that was passed over
        would leave a mechanism as it is without anybody noticing.
    """
    known = [field.name for field in dataclasses.fields(base)]  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise UsageError(f"{what}: unknown key {key!r}{did_you_mean(str(key), known)}; it has {', '.join(known)}")
    made = dataclasses.replace(base, **given)  # type: ignore[type-var]
    assert isinstance(made, kind)  # noqa: S101 - for the type checker; replace keeps the class
    return made
