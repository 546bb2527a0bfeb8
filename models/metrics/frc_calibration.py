"""From the frequency where a curve crosses the threshold to a resolution; how miplib looks for the crossing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from torch import Tensor

# Koho et al. 2019, doi:10.1038/s41467-019-11024-z: from the cut-off of one image split in two to that of two images.
SCALE, RATE, POINT, FLOOR = 0.95988146, 13.90441896, 0.97979108, 0.55146136
SEVENTH = 1.0 / 7.0
_EVALUATIONS = 200


class NoRootError(Exception):
    """The search for the crossing ended without one; `left_range` tells the two ways from each other."""

    def __init__(self, *, left_range: bool) -> None:
        super().__init__()
        self.left_range = left_range


def calibration(cutoff: Tensor) -> Tensor:
    """Koho's ``k(x) = 0.960 exp(13.9 (x - 0.980)) + 0.551``, x the cut-off as a share of Nyquist."""
    return SCALE * (RATE * (cutoff - POINT)).exp() + FLOOR


def single_image_resolution_px(cutoff: Tensor) -> Tensor:
    """``2 / (x k(x))``: resolution in px of the image, x the cut-off of its halves as a share of Nyquist."""
    return 2.0 / (cutoff * calibration(cutoff))


def log_slope(cutoff: Tensor) -> Tensor:
    """How steeply the resolution falls: ``d ln(resolution) / dx``, for the propagation of errors."""
    k = calibration(cutoff)
    return -1.0 / cutoff - RATE * (k - FLOOR) / k


@functools.cache
def sampling_limit() -> float:
    """Cut-off above which the calibrated resolution would be finer than 2 px, which no sampling carries."""
    return float(brentq(lambda x: x * (SCALE * np.exp(RATE * (x - POINT)) + FLOOR) - 1.0, 0.5, 1.0))


def miplib_resolution_px(cutoff: NDArray[np.float32]) -> NDArray[np.float64]:
    """`single_image_resolution_px` with miplib's roundings: in float32, as its cut-off is."""
    x = np.asarray(cutoff, dtype=np.float32)
    k = np.float32(SCALE) * np.exp(np.float32(RATE) * (x - np.float32(POINT))) + np.float32(FLOOR)
    ratio: NDArray[np.float64] = (np.float32(2.0) / x).astype(np.float64) / k.astype(np.float64)
    return ratio


def miplib_root(frequency: NDArray[np.float32], curve: NDArray[np.float32], threshold: float = SEVENTH) -> np.float32:
    """Crossing that miplib finds: a simplex of one dimension on ``abs(curve - threshold)``.

    It starts at the ring before the first one at or below the threshold, in float32, with the settings of
    `scipy.optimize.fmin`. It may walk away to another crossing.

    Raises
    ------
    NoRootError
        The curve never falls to the threshold (miplib: IndexError), the search left the range of the curve
        (ValueError), or it ended at zero frequency.
    """
    below = np.flatnonzero(curve.astype(np.float64) <= threshold)
    if not len(below):
        raise NoRootError(left_range=False)
    if below[0] == 0:
        # miplib starts at index -1, the last ring, and its first step goes beyond.
        raise NoRootError(left_range=True)
    root = _simplex(_distance(frequency, curve, threshold), frequency[below[0] - 1])
    if not root > 0:
        raise NoRootError(left_range=True)
    return root


def _distance(
    frequency: NDArray[np.float32], curve: NDArray[np.float32], threshold: float
) -> Callable[[np.float32], float]:
    """``abs(curve(x) - threshold)`` with the arithmetic of a linear B-spline, which scipy's `slinear` is."""
    knots, values = frequency.astype(np.float64), curve.astype(np.float64).tolist()
    ends, knot = (float(knots[0]), float(knots[-1])), knots.tolist()

    def distance(at: np.float32) -> float:
        x = float(at)
        if not ends[0] <= x <= ends[1]:
            raise NoRootError(left_range=True)
        left = min(int(np.searchsorted(knots, x, side="right")) - 1, len(knot) - 2)
        share = 1.0 / (knot[left + 1] - knot[left])
        value = values[left] * (share * (knot[left + 1] - x)) + values[left + 1] * (share * (x - knot[left]))
        return float(abs(value - threshold))

    return distance


def _simplex(function: Callable[[np.float32], float], start: np.float32) -> np.float32:
    """Nelder and Mead (1965) in one dimension: reflect, expand, contract, shrink; 1e-4 in x and in the value."""
    calls = _EVALUATIONS

    def call(x: np.float32) -> float:
        nonlocal calls
        calls -= 1
        return function(x)

    other = np.float32(np.float32(1.05) * start) if start else np.float32(0.00025)
    best, worst = sorted(((call(x), x) for x in (start, other)), key=_value)
    while calls > 0 and not (abs(worst[1] - best[1]) <= 1e-4 and abs(worst[0] - best[0]) <= 1e-4):
        worst = _step(call, best, worst)
        best, worst = sorted((best, worst), key=_value)
    return best[1]


def _step(
    call: Callable[[np.float32], float], best: tuple[float, np.float32], worst: tuple[float, np.float32]
) -> tuple[float, np.float32]:
    """What takes the place of the worse of the two points."""
    two, three, half, more = (np.float32(c) for c in (2.0, 3.0, 0.5, 1.5))
    reflected = _at(call, two * best[1] - worst[1])
    if reflected[0] < best[0]:
        expanded = _at(call, three * best[1] - two * worst[1])
        return expanded if expanded[0] < reflected[0] else reflected
    if reflected[0] < worst[0]:
        outside = _at(call, more * best[1] - half * worst[1])
        if outside[0] <= reflected[0]:
            return outside
    else:
        inside = _at(call, half * best[1] + half * worst[1])
        if inside[0] < worst[0]:
            return inside
    return _at(call, best[1] + half * (worst[1] - best[1]))


def _at(call: Callable[[np.float32], float], x: Any) -> tuple[float, np.float32]:
    return call(np.float32(x)), np.float32(x)


def _value(point: tuple[float, np.float32]) -> float:
    return point[0]
