"""The score of Micro-Manager's JAF(H&P) autofocus: diagonal edges of the median-filtered centre."""

from __future__ import annotations

from torch import Tensor

from parfocal.models.metrics.oughtafocus import DIAGONAL_FALLING
from parfocal.models.metrics.planes import Planes, classical, convolve3, median3, total

CROP = 0.2
_HALO_PX = 2  # one pixel for the kernel, one for the median


@classical
def jaf(planes: Planes) -> Tensor:
    """3x3 median, kernel ``[2 1 0; 1 0 -1; 0 -1 -2]``, sum of squares over the central 20 % of width and height.

    The median is applied at any bit depth (in ImageJ it does nothing to 16-bit images).
    """
    top, rows = _centre(planes.height)
    left, columns = _centre(planes.width)
    # Filter only what the crop needs; at least one pixel of the halo always lies inside the frame.
    above, before = min(top, _HALO_PX), min(left, _HALO_PX)
    part = planes.pixels[:, top - above : top + rows + _HALO_PX, left - before : left + columns + _HALO_PX]
    plane = convolve3(median3(part), DIAGONAL_FALLING)
    return total(plane[:, above : above + rows, before : before + columns].square())


def _centre(length: int) -> tuple[int, int]:
    """Start and length of the central crop, truncated as Micro-Manager does."""
    return int((1 - CROP) / 2 * length), int(CROP * length)
