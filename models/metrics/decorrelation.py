"""Decorrelation analysis (Descloux 2019): the highest frequency at which an image still differs from its own phase."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.metrics.rings import device_blocks, image_batch, rings

RADII = 50
FILTERS = 10
STRONGEST_FILTER_PX = 0.15
MIN_AMPLITUDE = 0.05
# What a maximum has to stand above all that follows it: less is ripple.
_MIN_DROP = 1e-3
# Rings of half a cell, so that the filters, which are taken at their middle, are resolved.
_PER_CELL = 2
_REFINED_RANGE = (-0.05, 0.3)


@dataclass(frozen=True)
class DecorrelationResult:
    """Decorrelation analysis of n images; float64, shape (n,), on the device of the images.

    Parameters
    ----------
    resolution_px : Tensor
        ``2 / cutoff``; NaN if no curve has a maximum above `MIN_AMPLITUDE`.
    cutoff : Tensor
        Highest frequency of a maximum, as a share of Nyquist.
    amplitude : Tensor
        Of the curve at that maximum: high with much signal.
    """

    resolution_px: Tensor
    cutoff: Tensor
    amplitude: Tensor


def decorrelation(images: NDArray[Any] | Tensor, *, apodise_px: int = 20) -> DecorrelationResult:
    """Find the cut-off of each image from itself alone, without threshold (Descloux et al. 2019).

    With F the spectrum inside the circle of Nyquist, ``d(r) = sum_{k<r} abs(F) / sqrt(sum abs(F)^2 * N(r))`` is the
    correlation of F with its own phase inside the radius r: signal raises it, noise, of which the phase is as strong
    everywhere, lowers it. Its maximum moves outwards as low frequencies are filtered away. The cut-off is the farthest
    maximum among those of the image and of `FILTERS` high-passed versions (image minus its Gaussian blur), found on
    `RADII` radii, then again with filters and radii closer around the best.

    A filter that depends on the radius alone leaves the phase as it is. So one transform of the image and two sums over
    its rings hold all that every d(r) needs.

    Parameters
    ----------
    images : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts; the offset does not matter.
    apodise_px : int
        Width of the cosine edge that takes the image to its mean.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.

    References
    ----------
    A. Descloux, K. S. Grußmayer, A. Radenovic, Nature Methods 16, 918 (2019), doi:10.1038/s41592-019-0515-7.
    """
    batch = image_batch(images)
    with torch.inference_mode():
        found = [_analyse(_Profile.of(block, apodise_px)) for block in device_blocks(batch)]
        cutoff, amplitude = (torch.cat(parts) for parts in zip(*found, strict=True))
    return DecorrelationResult(2.0 / cutoff, cutoff, amplitude)


@dataclass(frozen=True)
class _Profile:
    """Sums over rings up to Nyquist: magnitude and power (n, bins), points (bins,); radius of the rings' middles."""

    magnitude: Tensor
    power: Tensor
    points: Tensor
    radius: Tensor

    @staticmethod
    def of(block: Tensor, apodise_px: int) -> _Profile:
        wide = block.to(torch.float64)
        wide = (wide - wide.mean((1, 2), keepdim=True)) * _apodisation(*block.shape[1:], apodise_px, block.device)
        table = rings(block.shape[1], block.shape[2], block.device, _PER_CELL)
        spectrum = torch.fft.rfft2(wide)[..., : table.columns]
        power = spectrum.real.square() + spectrum.imag.square()
        sums = table.sums(torch.cat([power.sqrt(), power])) * 2
        middles = (torch.arange(table.count, dtype=torch.float64, device=block.device) + 0.5) / table.count
        return _Profile(sums[: len(block)], sums[len(block) :], table.points, middles)

    def curves(self, sigma_px: Tensor, radius: Tensor) -> Tensor:
        """Correlation d(r) of every filtered image, (n, filters, radii); sigma inf: not filtered."""
        # Image minus its Gaussian blur; Nyquist, radius 1, is half a cycle per px.
        passed = 1 - torch.exp(-0.5 * (math.pi * sigma_px[..., None] * self.radius).square())
        passed = torch.nan_to_num(passed, nan=1.0)
        inside = (self.magnitude[:, None] * passed).cumsum(-1)
        whole = (self.power[:, None] * passed.square()).sum(-1, keepdim=True).sqrt()
        curve = inside / (whole * self.points.cumsum(0).sqrt()).clamp(min=1e-300)
        last = (radius * len(self.radius)).round().long().clamp(1, len(self.radius)) - 1
        return curve.gather(-1, last[:, None].expand(-1, curve.shape[1], -1))


def _analyse(profile: _Profile) -> tuple[Tensor, Tensor]:
    number, device = len(profile.magnitude), profile.magnitude.device
    steps = torch.linspace(0, 1, RADII, dtype=torch.float64, device=device)
    radius = steps.expand(number, -1)
    plain = torch.full((number, 1), torch.inf, dtype=torch.float64, device=device)
    first, _ = _farthest(profile.curves(plain, radius), radius)
    # Without a maximum of its own the weakest filter is as wide as the lowest frequency.
    weakest = (2 / torch.nan_to_num(first, nan=steps[1].item())).clamp(min=2 * STRONGEST_FILTER_PX)
    sigma = _spaced(weakest, torch.full_like(weakest, STRONGEST_FILTER_PX), FILTERS)
    every = torch.cat([plain, sigma], 1)
    cutoff, best = _farthest(profile.curves(every, radius), radius)
    # Again between the neighbours of the best filter, around its maximum.
    finite = torch.cat([weakest[:, None], sigma], 1)
    before = finite.gather(1, (best[0] - 1).clamp(min=0)[:, None])[:, 0]
    after = finite.gather(1, (best[0] + 1).clamp(max=FILTERS)[:, None])[:, 0]
    middle = torch.nan_to_num(cutoff, nan=0.5)
    low = (middle + _REFINED_RANGE[0]).clamp(min=0.0)
    high = (middle + _REFINED_RANGE[1]).clamp(max=1.0)
    closer = low[:, None] + (high - low)[:, None] * steps
    refined, refined_best = _farthest(profile.curves(_spaced(before, after, FILTERS), closer), closer)
    better = torch.nan_to_num(refined, nan=-1.0) > torch.nan_to_num(cutoff, nan=-1.0)
    return torch.where(better, refined, cutoff), torch.where(better, refined_best[1], best[1])


def _spaced(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Log-spaced numbers from (n,) to (n,), shape (n, count)."""
    share = torch.linspace(0, 1, count, dtype=torch.float64, device=start.device)
    return torch.exp(start.log()[:, None] + (end / start).log()[:, None] * share)


def _farthest(curves: Tensor, radius: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Farthest of the curves' highest maxima, NaN if there is none; which curve it is of, and how high it is."""
    # A maximum: as high as its neighbours, and well above the lowest of what follows. At the last radius nothing does.
    lowest_after = curves.flip(-1).cummin(-1).values.flip(-1)
    rises = torch.zeros_like(curves, dtype=torch.bool)
    rises[..., 1:-1] = (curves[..., 1:-1] >= curves[..., :-2]) & (curves[..., 1:-1] >= curves[..., 2:])
    is_peak = rises & (curves - lowest_after > _MIN_DROP) & (curves > MIN_AMPLITUDE)
    height, at = torch.where(is_peak, curves, -1.0).max(-1)
    position = torch.where(height > 0, radius.gather(1, at), -1.0)
    farthest, which = position.max(1)
    cutoff = torch.where(farthest > 0, farthest, torch.nan)
    amplitude = torch.where(farthest > 0, height.gather(1, which[:, None])[:, 0], torch.nan)
    return cutoff, (which, amplitude)


@functools.lru_cache(maxsize=16)
def _apodisation(height: int, width: int, edge_px: int, device: torch.device) -> Tensor:
    """1 inside, falling to 0 at the edges along a cosine."""
    window = np.ones((1, 1))
    for axis, length in enumerate((height, width)):
        distance = np.minimum(np.arange(length), np.arange(length)[::-1]) + 0.5
        ramp = np.sin(0.5 * np.pi * np.minimum(distance / max(min(edge_px, length // 4), 1), 1.0)) ** 2
        window = window * np.expand_dims(ramp, 1 - axis)
    return torch.from_numpy(window).to(device)
