"""Bleaching: how a specimen fades with the light it has had."""

from __future__ import annotations

import math
from dataclasses import dataclass

from parfocal import UsageError


@dataclass(frozen=True)
class BleachingParameters:
    """How a specimen fades; by default not at all.

    The brightness after a dose D is ``fast_fraction exp(-D / fast_dose_ms) + (1 - fast_fraction) exp(-D / dose_ms)``,
    with the dose in ms of exposure at full power.

    Parameters
    ----------
    dose_ms : float, optional
        Dose after which the brightness has fallen to 1/e. None: it does not fade.
    fast_fraction, fast_dose_ms : float
        Share of the fluorophores that fade faster, and their dose.

    Raises
    ------
    UsageError
        If a value is not physical.
    """

    dose_ms: float | None = None
    fast_fraction: float = 0.0
    fast_dose_ms: float | None = None

    def __post_init__(self) -> None:
        for name in ("dose_ms", "fast_dose_ms"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"bleaching: {name} must be a positive number (got {value!r})")
        if not 0.0 <= self.fast_fraction <= 1.0:
            raise UsageError(f"bleaching: fast_fraction must lie in 0..1 (got {self.fast_fraction!r})")
        if self.fast_fraction > 0 and self.fast_dose_ms is None:
            raise UsageError("bleaching: fast_fraction needs fast_dose_ms")


class Bleaching:
    """The fading of one field."""

    def __init__(self, parameters: BleachingParameters) -> None:
        self.parameters = parameters
        self._dose_ms = 0.0

    @property
    def dose_ms(self) -> float:
        """Light this field has had, in ms at full power."""
        return self._dose_ms

    @property
    def brightness(self) -> float:
        """What is left, 0..1."""
        return self._average(0.0)

    def expose(self, exposure_ms: float, power: float) -> float:
        """Add one exposure to the dose; return the mean brightness during it.

        Raises
        ------
        UsageError
            If the exposure or the power is negative or not finite.
        """
        dose = exposure_ms * power
        if not (math.isfinite(dose) and exposure_ms >= 0 and power >= 0):
            raise UsageError(f"bleaching: exposure {exposure_ms!r} ms at power {power!r} is not a dose")
        mean = self._average(dose)
        self._dose_ms += dose
        return mean

    def _average(self, dose_ms: float) -> float:
        fast = self.parameters.fast_fraction
        mean = (1.0 - fast) * _mean_decay(self._dose_ms, dose_ms, self.parameters.dose_ms)
        return mean + fast * _mean_decay(self._dose_ms, dose_ms, self.parameters.fast_dose_ms) if fast else mean


def _mean_decay(start: float, length: float, constant: float | None) -> float:
    """Mean of ``exp(-d / constant)`` over ``start..start + length``; 1 without a constant."""
    if constant is None:
        return 1.0
    share = length / constant
    return math.exp(-start / constant) * (-math.expm1(-share) / share if share > 1e-12 else 1.0)
