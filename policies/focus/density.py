"""Sums and maxima of a probability over the focus, on an even grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def windowed(density: Vector, half: int) -> Vector:
    """Sum of `density` over the 2 half + 1 cells about each cell (fewer at the ends; the outer two count half).

    Along the last axis.
    """
    count, margin = density.shape[-1], half + 1
    # The sum up to each cell, with what is beyond the ends on either side.
    total = np.zeros((*density.shape[:-1], count + 2 * margin + 1))
    inner = total[..., margin + 1 : margin + 1 + count]
    density.cumsum(axis=-1, out=inner)
    total[..., margin + 1 + count :] = inner[..., -1:]
    both = total[..., 1:] + total[..., :-1]
    result: Vector = both[..., margin + half : margin + half + count] - both[..., 1 : 1 + count]
    result *= 0.5
    return result


def middle_of_maximum(values: Vector) -> int:
    """Index of the maximum; of a plateau (a belief narrower than the window) its middle."""
    first = int(values.argmax())
    below = values[first:] < values[first] * (1.0 - 1e-4)
    until = int(below.argmax())
    return first + (until - 1 if below[until] else 0) // 2


def spread_out(rows: Vector | NDArray[np.float32], places: Vector) -> tuple[int, Vector]:
    """Sums of rows that begin at different, broken places; what falls between two cells is divided between them.

    Parameters
    ----------
    rows : ndarray, shape (r, n)
    places : ndarray, shape (times, r)
        Where each row begins, at each of several times.

    Returns
    -------
    (int, ndarray of shape (times, m))
        Where the sums begin, and the sums.
    """
    times, count = len(places), rows.shape[1]
    whole = np.floor(places)
    begins = whole.astype(np.intp)
    first = int(begins.min())
    width = int(begins.max()) - first + count + 1
    # All at once, one time after the other.
    begins += (np.arange(0, times * width, width) - first)[:, None]
    index = (begins[..., None] + np.arange(count)).ravel()
    upper = rows * (places - whole)[..., None]
    out = np.asarray(np.bincount(index, (rows - upper).ravel(), times * width), dtype=np.float64)
    out[1:] += np.bincount(index, upper.ravel(), times * width)[:-1]
    sums: Vector = out.reshape(times, width)
    return first, sums
