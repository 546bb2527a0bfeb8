"""Is there anything in the frame at all: contrast against the frame's own noise, and saturation."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from parfocal.models.metrics.planes import Planes

BIN_PX = 8
ILLUMINATION_ORDER = 6
COARSE_BINS, SHADE_ORDER = 16, 4
# Median of abs(N(0, 6 sigma)), the response of Immerkaer's noise kernel (norm 6) to white noise.
_KERNEL_MEDIAN = 0.6744897501960817 * 6
_KERNEL_NORM = 6
# Relative variance of the mean square of n responses to white noise, times n: neighbours share pixels.
_KERNEL_LOSS = 2 * (35 / 18) ** 2
_SUBSAMPLE = 4


@dataclass(frozen=True)
class Content:
    """What a batch of frames holds; every field of shape (n,), float64.

    Parameters
    ----------
    contrast : Tensor
        Standard deviation of the frame in bins of 8 px, illumination removed, over what noise alone would give: 1 for
        an empty frame.
    threshold : Tensor
        Contrast below which the frame counts as empty.
    noise : Tensor
        Standard deviation of a pixel's noise, counts.
    """

    contrast: Tensor
    threshold: Tensor
    noise: Tensor


def content(
    planes: Planes, min_contrast: float, *, integer: bool, illumination_order: int = ILLUMINATION_ORDER
) -> Content:
    """Measure the contrast of each frame against its own noise.

    A bin's value is its mean without its largest and smallest pixel, so that hot and dead pixels count for nothing.
    Illumination is a polynomial over the frame, of degree
    `illumination_order`. What noise alone would give is the pixel noise (from the
    median response to the kernel of Immerkaer 1996) over the root of the pixels of a bin. With few bins chance alone
    gives contrast, and the threshold is raised by three of its standard deviations.

    Parameters
    ----------
    planes : Planes
        The frames.
    min_contrast : float
        The threshold for a large frame.
    integer : bool
        Whether the counts are rounded, which is noise of 1/12 count squared at least.
    """
    noise = pixel_noise(planes)
    if integer:
        noise = torch.maximum(noise, torch.full_like(noise, 12**-0.5))
    bins = _bins(planes)
    rows, columns = bins.shape[1:]
    basis = _illumination(rows, columns, illumination_order)
    flat = bins.to(torch.float64).flatten(1)
    residual = flat - (flat @ basis) @ basis.T
    freedom = flat.shape[1] - basis.shape[1]
    spread = (residual.square().sum(1) / freedom).sqrt()
    expected = noise / np.sqrt(BIN_PX**2 - 2)
    contrast = torch.where(expected > 0, spread / expected, torch.where(spread > 0, torch.inf, 0.0))
    return Content(contrast, torch.full_like(contrast, min_contrast + 3 * (2 * freedom) ** -0.5), noise)


@dataclass(frozen=True)
class Unevenness:
    """What is coarse in a batch of frames and no shade of a lamp or lens; both of shape (n,), float64.

    Parameters
    ----------
    excess : Tensor
        Energy over that of noise alone, in standard deviations of the latter.
    share : Tensor
        Of the energy that the frame has in all at this scale, noise apart: of a shade next to nothing is left, however
        bright the frame and however surely one sees it; of a specimen far out of focus a third or more.
    """

    excess: Tensor
    share: Tensor


def unevenness(planes: Planes) -> Unevenness:
    """Measure what is left of each frame, in some sixteen by sixteen bins, once a shade has been taken off.

    A specimen far out of focus has all that is left of it at scales of its blur, where the noise of a pixel averages
    out and a lamp's shade lies as well. The shade is a polynomial of degree `SHADE_ORDER`. What noise alone would give
    is told by the bins of 8 px beside each other, so that noise that is not the same in all pixels is counted rightly;
    what few bins tell of it badly counts in the standard deviation.
    """
    bins = _bins(planes).to(torch.float64)
    second = bins[:, :-2] - 2 * bins[:, 1:-1] + bins[:, 2:]
    second = second[:, :, :-2] - 2 * second[:, :, 1:-1] + second[:, :, 2:]
    side = max(1, min(bins.shape[1:]) // COARSE_BINS)
    # Of what has no noise, what is left is the rounding of the arithmetic.
    rounding = (1e-9 * bins.abs().flatten(1).amax(1)).square()
    variance = torch.maximum(second.square().mean((1, 2)) / (_KERNEL_NORM**2 * side**2), rounding)
    rows, columns = (count // side for count in bins.shape[1:])
    cut = bins[:, : rows * side, : columns * side]
    coarse = cut.reshape(-1, rows, side, columns, side).mean(dim=(2, 4)).flatten(1)
    basis = _illumination(rows, columns, SHADE_ORDER)
    left = (coarse - (coarse @ basis) @ basis.T).square().sum(1)
    whole = (coarse - coarse.mean(1, keepdim=True)).square().sum(1)
    freedom = coarse.shape[1] - basis.shape[1]
    over = left - freedom * variance
    least = torch.finfo(torch.float64).tiny
    share = over / (whole - (coarse.shape[1] - 1) * variance).clamp(min=least)
    sd = (2 * freedom + freedom**2 * _KERNEL_LOSS / second[0].numel()) ** 0.5
    return Unevenness(over / (variance * sd).clamp(min=least), share.clamp(0.0, 1.0))


def pixel_noise(planes: Planes) -> Tensor:
    """Estimate the standard deviation of a pixel's noise, from every fourth response to ``[1 -2 1; -2 4 -2; 1 -2 1]``.

    The kernel is blind to anything linear; the median to what is rare (edges, hot pixels).
    """
    pixels = planes.pixels
    # Second differences down, then across, at a quarter of the rows and columns only.
    down = pixels[:, :-2:_SUBSAMPLE] + pixels[:, 2::_SUBSAMPLE][:, : len(range(0, planes.height - 2, _SUBSAMPLE))]
    down = down.sub_(pixels[:, 1:-1:_SUBSAMPLE], alpha=2)
    across = down[:, :, :-2:_SUBSAMPLE] + down[:, :, 2::_SUBSAMPLE] - 2 * down[:, :, 1:-1:_SUBSAMPLE]
    return across.abs_().flatten(1).median(1).values.to(torch.float64) / _KERNEL_MEDIAN


def _bins(planes: Planes) -> Tensor:
    rows, columns = planes.height // BIN_PX, planes.width // BIN_PX
    # Sums of 62 counts of 16 bits are exact in float32 as they are; what was wider has its mean taken off first.
    counts = planes.pixels if planes.source.dtype == torch.float32 else planes.centered
    cut = counts[:, : rows * BIN_PX, : columns * BIN_PX]
    lines = cut.reshape(-1, rows, BIN_PX, cut.shape[2])
    # Down the columns first, along contiguous memory; an eighth of it is left to reduce along the rows.
    total, most, least = (part.reshape(-1, rows, columns, BIN_PX) for part in (lines.sum(2), *_extremes(lines)))
    return (total.sum(3) - most.amax(3) - least.amin(3)) / (BIN_PX**2 - 2)


def _extremes(lines: Tensor) -> tuple[Tensor, Tensor]:
    return lines.amax(2), lines.amin(2)


@functools.lru_cache(maxsize=8)
def _illumination(rows: int, columns: int, order: int) -> Tensor:
    """Orthonormal polynomials up to `order` over the bins, shape (rows * columns, terms), float64.

    Frames of few bins get a lower order, so that something is left to measure.
    """
    y, x = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)[None, :]
    order = order if min(rows, columns) > 2 * order else 1
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    terms = np.stack([(y**i * x**j).ravel() for i, j in powers], axis=1)
    return torch.from_numpy(np.linalg.qr(terms)[0])


def saturated_fraction(planes: Planes, level_counts: float | None) -> Tensor:
    """Share of pixels at or above the saturation level; 0 where no level is known."""
    if level_counts is None:
        return torch.zeros(len(planes.source), dtype=torch.float64)
    return (planes.source >= level_counts).flatten(1).to(torch.float32).mean(1).to(torch.float64)
