"""Axes of the report's charts: round numbers, times a person reads, and no more points than can be seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parfocal.daemon.overlays import ticks

Points = NDArray[np.float64]
"""Shape (n, 2): x, y; a y that is not finite breaks the line."""

TIME_STEPS_S = (
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    15,
    30,
    60,
    120,
    300,
    600,
    900,
    1800,
    3600,
    7200,
    10800,
    21600,
    43200,
    86400,
)
"""Distances between marks of a time axis that read well."""


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`, with marks at `at` that say `labels`."""

    low: float
    high: float
    at: tuple[float, ...]
    labels: tuple[str, ...]

    def share(self, value: float) -> float:
        """Place on the axis, 0 to 1 within it."""
        return (value - self.low) / (self.high - self.low)


def value_axis(values: Sequence[float] | Points, *, least: float = 1e-6, zero: bool = False) -> Axis:
    """Axis that holds all finite values with a little air; `zero` includes 0."""
    finite = np.asarray(values, dtype=np.float64).ravel()
    finite = finite[np.isfinite(finite)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    air = max(0.06 * (high - low), 0.5 * (least - (high - low)), 1e-9 * max(abs(low), abs(high)), 1e-12)
    low, high = low - (0.0 if zero and low == 0.0 else air), high + air
    marks = tuple(ticks(low, high))
    return Axis(low, high, marks, tuple(f"{mark:g}".replace("-", "\u2212") for mark in marks))


def time_axis(first_s: float, last_s: float, most: int = 8) -> Axis:
    """Axis of seconds since the start, marked in seconds, minutes or hours."""
    span = max(last_s - first_s, 1e-3)
    step = next((step for step in TIME_STEPS_S if span / step <= most), 86400.0 * math.ceil(span / 86400.0 / most))
    first, last = math.ceil(first_s / step - 1e-9), math.floor((first_s + span) / step + 1e-9)
    marks = tuple(round(k * step, 9) + 0.0 for k in range(first, last + 1))
    return Axis(first_s, first_s + span, marks, tuple(duration(mark, step) for mark in marks))


def duration(seconds: float, step_s: float = 1.0) -> str:
    """Write a time since the start as a person reads it: 12.5 s, 3:20 min, 2:05 h."""
    if abs(seconds) < 60:
        return f"{seconds:.1f} s" if step_s < 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d} h" if not rest else f"{hours}:{minutes:02d}:{rest:02d} h"


def thinned(points: Points, most: int = 700) -> Points:
    """Keep the lowest and highest point of each of `most` / 2 bins: what is drawn stays, its size does not grow."""
    if len(points) <= most:
        return points
    edges = np.linspace(0, len(points), most // 2 + 1).astype(int)
    kept: list[int] = []
    for begin, end in itertools.pairwise(edges):
        part = points[begin:end, 1]
        if np.isfinite(part).any():
            kept += sorted({begin + int(np.nanargmin(part)), begin + int(np.nanargmax(part))})
        else:
            kept.append(begin)
    return points[kept]
