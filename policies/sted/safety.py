"""Which trials may be made next: a dim start, bounded steps in dose, the rate of the detector, what was tolerated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.policies.sted.space import (
    DEPLETION,
    DWELL,
    EXCITATION,
    LINES,
    SATURATION_MW,
    Settings,
    Space,
    Vector,
    dose_of,
    pixel_us_of,
)

ROUNDING = 1e-3
"""Settings are shortened to four digits before they are sent."""
RATE_MARGIN = 1.2
"""The brightest pixel of another field may be so much brighter than the brightest seen may have been."""
COMPARABLE = 0.4
"""From this share of a depletion power on, another one says how bright its frame can be."""
BLEACH_POWER_EXPONENT = 0.73
_OFFSET_MW = 5.0


@dataclass
class Envelope:
    """What is known to be safe; everything in it comes from frames that were taken.

    Parameters
    ----------
    factor : float
        No trial has more than this many times a dose that was tolerated.
    max_rate_mhz : float
    dose, depletion_dose : float
        Highest excitation (uW us) and depletion dose (mW us) of a pixel that was tolerated; `factor` times the first
        trial's before any was made.
    bad : list
        Strength (`strength`) of trials that were not tolerated.
    rates : list of (depletion_mw, mhz_per_uw)
        Highest count rate seen, by depletion power.
    """

    factor: float
    max_rate_mhz: float
    dose: float
    depletion_dose: float
    bad: list[float] = field(default_factory=list)
    rates: list[tuple[float, float]] = field(default_factory=list)

    def note_rate(self, settings: Mapping[str, float], rate_mhz: float, *, saturated: bool) -> None:
        """Learn from a frame how bright the sample is; of a saturated one, that it is at least twice too bright."""
        power = settings.get(EXCITATION, 0.0)
        if saturated:
            rate_mhz = max(2.0 * self.max_rate_mhz, rate_mhz if math.isfinite(rate_mhz) else 0.0)
        if power > 0 and math.isfinite(rate_mhz):
            self.rates.append((float(settings.get(DEPLETION, 0.0)), rate_mhz / power))

    def note_trial(self, settings: Mapping[str, float], *, tolerated: bool) -> None:
        """Learn from a trial whether the sample stood it."""
        if tolerated:
            self.dose = max(self.dose, dose_of(settings))
            self.depletion_dose = max(self.depletion_dose, settings.get(DEPLETION, 0.0) * pixel_us_of(settings))
        else:
            self.bad.append(float(_strength(dose_of(settings), settings.get(DEPLETION, 0.0))))

    def allowed(self, space: Space, rows: Vector, lines: float = 1.0) -> NDArray[np.bool_]:
        """Which of these rows of settings may be tried next."""
        rows = np.atleast_2d(rows)
        inside = ((rows >= np.array(space.lower)) & (rows <= np.array(space.upper))).all(1)
        dose, power = space.dose(rows, lines), space.column(rows, DEPLETION, 0.0)
        slack = 1.0 + ROUNDING
        inside &= dose <= self.factor * self.dose * slack
        # Without any depletion so far (a start at 0 mW) the excitation ramp alone limits.
        if self.depletion_dose > 0:
            inside &= space.depletion_dose(rows, lines) <= self.factor * self.depletion_dose * slack
        if self.bad:
            inside &= _strength(dose, power) < min(self.bad)
        return inside & (self.expected_rate(space, rows) <= self.max_rate_mhz * slack)

    def expected_rate(self, space: Space, rows: Vector) -> Vector:
        """Highest count rate to expect, with a margin; depletion only ever lowers it.

        From the brightest of the frames with comparable depletion, from `COMPARABLE` of it up to it; where there are
        none, of the nearest weaker ones; 0 before any frame.
        """
        rows = np.atleast_2d(rows)
        power, excitation = space.column(rows, DEPLETION, 0.0), space.column(rows, EXCITATION, 1.0)
        if not self.rates:
            return np.zeros(len(rows))
        at, seen = np.array(self.rates).T
        weaker = at[None] <= power[:, None]
        nearest = np.where(weaker, at[None], -np.inf).max(1, initial=-np.inf)
        least = np.minimum(COMPARABLE * power, nearest)
        # Where nothing weaker was seen: the brightest of all.
        counts = (weaker & (at[None] >= least[:, None])) | ~weaker.any(1)[:, None]
        coefficient = np.where(counts, seen[None], 0.0).max(1)
        expected: Vector = RATE_MARGIN * coefficient * excitation
        return expected

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "factor": None if math.isinf(self.factor) else self.factor,
            "max_rate_mhz": None if math.isinf(self.max_rate_mhz) else self.max_rate_mhz,
            "dose": self.dose,
            "depletion_dose": self.depletion_dose,
            "bad": list(self.bad),
            "rates": [list(pair) for pair in self.rates],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Envelope:
        """Inverse of `to_json`."""
        return Envelope(
            math.inf if data["factor"] is None else float(data["factor"]),
            math.inf if data["max_rate_mhz"] is None else float(data["max_rate_mhz"]),
            float(data["dose"]),
            float(data["depletion_dose"]),
            [float(value) for value in data["bad"]],
            [(float(power), float(rate)) for power, rate in data["rates"]],
        )


def _strength(dose: Any, depletion_mw: Any) -> Any:
    """How strongly settings bleach, in arbitrary units: dose times depletion power to 0.73 (an ATTO647N-like dye)."""
    return dose * (np.maximum(depletion_mw, 0.0) + _OFFSET_MW) ** BLEACH_POWER_EXPONENT


def dimmest(space: Space) -> Settings:
    """Return the settings of the least dose and depletion in the space."""
    return space.settings(np.array(space.lower))


def default_start(space: Space, confocal: Mapping[str, float]) -> Settings:
    """Return the first trial: half the confocal dose and a tenth of the highest depletion, as the bounds allow."""
    wanted = {
        EXCITATION: 0.5 * confocal[EXCITATION],
        DWELL: confocal[DWELL],
        LINES: confocal.get(LINES, 1.0),
        DEPLETION: 0.1 * space.upper[space.names.index(DEPLETION)] if DEPLETION in space.names else SATURATION_MW,
    }
    row = np.clip([wanted[name] for name in space.names], space.lower, space.upper)
    return space.settings(row)
