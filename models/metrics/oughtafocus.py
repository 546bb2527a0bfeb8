"""The scores of Micro-Manager's OughtaFocus that are not among the general metrics.

Formulas of Micro-Manager's ``ImgSharpnessAnalysis``, in floating point: the Java rounds each filtered image to 8 or 16
bits, clips gradients to one sign, and leaves 16-bit images without the median it promises. None of that is followed.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor

from parfocal.models.metrics.autocorrelation import neighbour_products
from parfocal.models.metrics.planes import Planes, classical, convolve3, median3, repeat_edges, sobel_squared, total

SHARPEN = (-0.25, -0.25, -0.25, -0.25, 3.0, -0.25, -0.25, -0.25, -0.25)
DIAGONAL_FALLING = (2.0, 1.0, 0.0, 1.0, 0.0, -1.0, 0.0, -1.0, -2.0)
DIAGONAL_RISING = (0.0, 1.0, 2.0, -1.0, 0.0, 1.0, -2.0, -1.0, 0.0)
BANDPASS_OF_NYQUIST = (0.025, 0.14)


@classical
def std_dev(planes: Planes) -> Tensor:
    """StdDev: ``std / mean``. NaN for an all-zero image."""
    return planes.variance.sqrt() / planes.mean


@classical
def mean(planes: Planes) -> Tensor:
    """Mean: brightness, which is no measure of sharpness; there because Micro-Manager offers it."""
    return planes.mean


@classical
def sharp_edges(planes: Planes) -> Tensor:
    """SharpEdges: ImageJ's ``sharpen`` kernel, then the mean Sobel magnitude, over the mean of the image as it was."""
    sharpened = repeat_edges(convolve3(planes.pixels, SHARPEN), 1)
    return total(sobel_squared(sharpened).sqrt_()) / planes.count / planes.mean


@classical
def redondo(planes: Planes) -> Tensor:
    """Redondo: ``sum (I[x-1] + I[x+1] + I[y-1] + I[y+1] - 4 I[x-1])**2`` over interior pixels.

    The weight sits beside the centre on purpose, as in Redondo 2012 and its source.
    """
    pixels = planes.pixels
    plane = (pixels[:, 1:-1, 2:] + pixels[:, :-2, 1:-1]).add_(pixels[:, 2:, 1:-1])
    return total(plane.sub_(pixels[:, 1:-1, :-2], alpha=3).square_())


@classical
def volath(planes: Planes) -> Tensor:
    """Volath: ``sum_{x=1}^{w-2} I[x]I[x+1] - sum_{x=0}^{w-3} I[x]I[x+2]``, along x only."""

    def products(rows: Tensor) -> Tensor:
        exact = rows.to(torch.float64)
        return exact[:, :, 2:] * (exact[:, :, 1:-1] - exact[:, :, :-2])

    return planes.sum_of(products)


@classical
def volath5(planes: Planes) -> Tensor:
    """Volath5: ``sum I[x]I[x+1] - (w-1) h mean**2``, along x only."""
    return planes.sum_of(neighbour_products) - planes.height * (planes.width - 1) * planes.mean.square()


@classical
def median_edges(planes: Planes) -> Tensor:
    """MedianEdges: 3x3 median, both diagonal kernels, sum of the root of the summed squares.

    Blind to detail of one pixel.
    """
    smoothed = median3(planes.pixels)
    falling = convolve3(smoothed, DIAGONAL_FALLING).square_()
    rising = convolve3(smoothed, DIAGONAL_RISING).square_()
    return total(falling.add_(rising).sqrt_())


@classical
def fft_bandpass(planes: Planes) -> Tensor:
    """FFTBandpass: mean of the log power spectrum in an annulus of 2.5-14 % of Nyquist.

    The image is padded with its mean to a square whose side is a power of two. Power below 1 counts as 1 (log 0).
    """
    side = 1 << (max(planes.height, planes.width) - 1).bit_length()
    spectrum = torch.fft.rfft2(planes.centered, s=(side, side))
    rows, columns, weight = _annulus(side)
    band = spectrum[:, rows, :columns]
    power = band.real.square().add_(band.imag.square())
    return total(power.clamp_(min=1).log_() * weight) / total(weight[None])


@functools.lru_cache(maxsize=8)
def _annulus(side: int) -> tuple[Tensor, int, Tensor]:
    """Rows and number of columns of the half plane that the annulus touches, and the weight of each cell."""
    half = side // 2
    inner, outer = (round(fraction * half) for fraction in BANDPASS_OF_NYQUIST)
    fy = np.rint(np.fft.fftfreq(side) * side)
    rows = np.flatnonzero(np.abs(fy) <= outer)
    fx = np.arange(outer + 1)
    radius = np.hypot(fy[rows, None], fx[None, :])
    weight = ((radius > inner) & (radius <= outer)) * np.where(fx == 0, 1.0, 2.0)
    return torch.from_numpy(rows), outer + 1, torch.from_numpy(weight.astype(np.float32))
