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
        return float(np.mean(frame >= saturation_counts))
    if frame.dtype.kind in "ui" and top == np.iinfo(frame.dtype).max:
        return float(np.mean(frame == top))
    median = float(np.median(frame[::4, ::4]))
    if float(top) - median < MIN_STEPS_ABOVE_MEDIAN:
        return 0.0
    return float(np.mean(frame == top))
