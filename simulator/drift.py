"""Drift of the focus with time: a steady rate, a random walk and a thermal settling, the same at every look."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError

_GRID_S = 1.0  # the walk is drawn on this grid, whenever and however often it is looked at
_CHUNK = 1024


@dataclass(frozen=True)
class DriftParameters:
    """How a focus drifts; by default not at all.

    Parameters
    ----------
    rate_um_per_min : float
        Steady drift; positive moves the focus to larger z.
    random_walk_um_per_sqrt_min : float
        Standard deviation of the random walk after one minute; it grows with the root of time.
    thermal_um, thermal_tau_min : float
        How far the focus goes while the instrument warms up, and the time constant of that.

    Raises
    ------
    UsageError
        If a value is not finite, or a spread or time constant is not physical.
    """

    rate_um_per_min: float = 0.0
    random_walk_um_per_sqrt_min: float = 0.0
    thermal_um: float = 0.0
    thermal_tau_min: float = 20.0

    def __post_init__(self) -> None:
        for name in ("rate_um_per_min", "random_walk_um_per_sqrt_min", "thermal_um", "thermal_tau_min"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"drift: {name} must be finite (got {getattr(self, name)!r})")
        if self.random_walk_um_per_sqrt_min < 0:
            raise UsageError(
                f"drift: random_walk_um_per_sqrt_min must not be negative (got {self.random_walk_um_per_sqrt_min:g})"
            )
        if self.thermal_tau_min <= 0:
            raise UsageError(f"drift: thermal_tau_min must be positive (got {self.thermal_tau_min:g})")


class FocusDrift:
    """One realisation of a drift: a function of time alone, whatever the order and number of looks.

    Parameters
    ----------
    parameters : DriftParameters
    seed : int
        Of the random walk.
    """

    def __init__(self, parameters: DriftParameters, seed: int = 0) -> None:
        self.parameters = parameters
        self._generator = np.random.Generator(np.random.SFC64(seed))
        self._walk: NDArray[np.float64] = np.zeros(1)

    def offset_um(self, t_s: float) -> float:
        """How far the focus has drifted `t_s` seconds after the start.

        Raises
        ------
        UsageError
            If `t_s` is negative or not finite.
        """
        if not (math.isfinite(t_s) and t_s >= 0):
            raise UsageError(f"drift: time must be zero or more seconds (got {t_s!r})")
        minutes = t_s / 60.0
        steady = self.parameters.rate_um_per_min * minutes
        thermal = -self.parameters.thermal_um * math.expm1(-minutes / self.parameters.thermal_tau_min)
        return steady + thermal + self._walked_um(t_s)

    def _walked_um(self, t_s: float) -> float:
        """Look the random walk up, drawn in chunks on its own grid and straight between two points of it."""
        if self.parameters.random_walk_um_per_sqrt_min == 0:
            return 0.0
        below = int(t_s // _GRID_S)
        while below + 1 >= self._walk.size:
            steps = self._generator.standard_normal(max(_CHUNK, self._walk.size - self._walk.size % _CHUNK))
            sd = self.parameters.random_walk_um_per_sqrt_min * math.sqrt(_GRID_S / 60.0)
            self._walk = np.concatenate([self._walk, self._walk[-1] + np.cumsum(sd * steps)])
        share = t_s / _GRID_S - below
        return float((1.0 - share) * self._walk[below] + share * self._walk[below + 1])
