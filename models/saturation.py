"""How much of a frame is clipped, also where nobody said at which count the camera clips."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_STEPS_ABOVE_MEDIAN = 30


def saturated_share(frame: NDArray[Any], saturation_counts: float | None = None) -> float:
    """Share of the pixels at the ceiling.

    Parameters
    ----------
    frame : ndarray, shape (height, width)
        Raw counts.
    saturation_counts : float, optional
        Where the camera clips. Without it the ceiling is the type's largest number or, because a 12-bit camera writes
        16-bit files, the frame's own maximum if it lies far above the median: noise spreads an unclipped maximum over
        a pixel or two, clipping piles pixels up at it.
    """
    top = frame.max()
    if saturation_counts is not None:
        return _share(frame >= saturation_counts)
    if frame.dtype.kind in "ui" and top == np.iinfo(frame.dtype).max:
        return _share(frame == top)
    if _median_above(frame[::4, ::4], float(top) - MIN_STEPS_ABOVE_MEDIAN):
        return 0.0
    return _share(frame == top)


def _share(where: NDArray[np.bool_]) -> float:
    return float(np.count_nonzero(where) / where.size)


def _median_above(sample: NDArray[Any], limit: float) -> bool:
    """Whether the median lies above a limit: counting tells, without sorting anything."""
    above = int(np.count_nonzero(sample > limit))
    if 2 * above == sample.size:  # the median is the mean of two pixels, one on either side
        return float(np.median(sample)) > limit
    return 2 * above > sample.size
