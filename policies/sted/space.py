"""The settings of a STED scan as a search space: bounds, logarithmic coordinates, dose, candidates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Settings = dict[str, float]

EXCITATION, DEPLETION, DWELL, LINES = "excitation_power", "depletion_power", "dwell_us", "line_steps"
TUNED = (EXCITATION, DEPLETION, DWELL, LINES)
SATURATION_MW = 19.6
"""Depletion power at which the PSF is narrower by root 2, of an ATTO647N-like dye (Harke 2008): a scale, no limit."""
DARKEST_SHARE = 1e-3
"""A trial needs light: where a lower bound is 0, the search starts at this share of the upper one."""
_DIGITS = 4


@dataclass(frozen=True)
class Space:
    """Box of settings in which trials may be made.

    Parameters
    ----------
    names : tuple of str
        The parameters, in the order of every array; ``line_steps`` only where it can be changed.
    lower, upper : tuple of float
        Bounds, in the parameters' units.
    """

    names: tuple[str, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    @staticmethod
    def of(bounds: Mapping[str, Sequence[float]]) -> Space:
        """Make the space from the bounds of the parameters."""
        found = {name: (float(bounds[name][0]), float(bounds[name][1])) for name in TUNED if name in bounds}
        if LINES in found:  # there are no half line steps, and less than one is none
            low, high = found[LINES]
            found[LINES] = (float(max(1, math.ceil(low))), float(math.floor(high)))
        names = tuple(name for name, (low, high) in found.items() if name != LINES or high > low)
        lower = [found[name][0] for name in names]
        upper = [found[name][1] for name in names]
        for index, name in enumerate(names):
            if name != DEPLETION and lower[index] <= 0:
                lower[index] = upper[index] * DARKEST_SHARE
        return Space(names, tuple(lower), tuple(upper))

    @property
    def size(self) -> int:
        """How many parameters are tuned."""
        return len(self.names)

    def array(self, settings: Mapping[str, float]) -> Vector:
        """Order settings as an array."""
        return np.array([float(settings[name]) for name in self.names])

    def settings(self, row: Vector) -> Settings:
        """Name the values of a row, shortened to what a person can read, whole line steps, within the bounds."""
        found: Settings = {}
        for name, value, low, high in zip(self.names, row, self.lower, self.upper, strict=True):
            short = float(round(value)) if name == LINES else float(f"{value:.{_DIGITS}g}")
            found[name] = min(max(short, math.ceil(low) if name == LINES else low), high)
        return found

    def warp(self, rows: Vector) -> Vector:
        """Logarithms: of the depletion power over its saturation, plus one; of everything else."""
        rows = np.atleast_2d(np.asarray(rows, dtype=np.float64))
        out = np.empty_like(rows)
        for index, name in enumerate(self.names):
            column = rows[:, index]
            out[:, index] = np.log1p(column / SATURATION_MW) if name == DEPLETION else np.log(np.maximum(column, 1e-9))
        return out

    def unit(self, rows: Vector) -> Vector:
        """Place rows in the unit cube of the warped bounds."""
        low, high = self.warp(np.array(self.lower))[0], self.warp(np.array(self.upper))[0]
        unit: Vector = (self.warp(rows) - low) / np.where(high > low, high - low, 1.0)
        return unit

    def from_unit(self, unit: Vector) -> Vector:
        """Inverse of `unit`."""
        low, high = self.warp(np.array(self.lower))[0], self.warp(np.array(self.upper))[0]
        warped = low + np.atleast_2d(unit) * (high - low)
        out = np.empty_like(warped)
        for index, name in enumerate(self.names):
            column = warped[:, index]
            out[:, index] = SATURATION_MW * np.expm1(column) if name == DEPLETION else np.exp(column)
        rows: Vector = np.clip(out, self.lower, self.upper)
        return rows

    def candidates(self, count: int, seed: Sequence[int]) -> Vector:
        """Scrambled Sobol points over the cube, as rows of settings that could be sent; `count` rounds up to 2^m."""
        from scipy.stats import qmc

        engine = qmc.Sobol(self.size, scramble=True, rng=np.random.default_rng(list(seed)))
        points = self.from_unit(engine.random_base2(max(1, math.ceil(math.log2(count)))))
        if LINES in self.names:
            column = self.names.index(LINES)
            points[:, column] = np.clip(np.round(points[:, column]), math.ceil(self.lower[column]), self.upper[column])
        return points

    def column(self, rows: Vector, name: str, default: float) -> Vector:
        """One parameter of every row; `default` where the space does not have it."""
        rows = np.atleast_2d(rows)
        return rows[:, self.names.index(name)] if name in self.names else np.full(len(rows), default)

    def pixel_us(self, rows: Vector, lines: float = 1.0) -> Vector:
        """Time on a pixel, all line steps together; us."""
        time: Vector = self.column(rows, DWELL, 1.0) * self.column(rows, LINES, lines)
        return time

    def dose(self, rows: Vector, lines: float = 1.0) -> Vector:
        """Excitation dose of a pixel, power times time; uW us."""
        dose: Vector = self.column(rows, EXCITATION, 1.0) * self.pixel_us(rows, lines)
        return dose

    def depletion_dose(self, rows: Vector, lines: float = 1.0) -> Vector:
        """Depletion dose of a pixel; mW us."""
        dose: Vector = self.column(rows, DEPLETION, 0.0) * self.pixel_us(rows, lines)
        return dose

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {"names": list(self.names), "lower": list(self.lower), "upper": list(self.upper)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Space:
        """Inverse of `to_json`."""
        return Space(tuple(data["names"]), tuple(data["lower"]), tuple(data["upper"]))


def dose_of(settings: Mapping[str, float]) -> float:
    """Excitation dose of a pixel for settings as read back; uW us."""
    return settings.get(EXCITATION, 0.0) * settings.get(DWELL, 0.0) * settings.get(LINES, 1.0)


def pixel_us_of(settings: Mapping[str, float]) -> float:
    """Time on a pixel for settings as read back; us."""
    return settings.get(DWELL, 0.0) * settings.get(LINES, 1.0)
