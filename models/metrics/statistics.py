"""Metrics of the histogram: variance and its normalisations, FocusScore, entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from parfocal.models.metrics.planes import Planes, classical

LOCAL_TILE_PX = 20
ENTROPY_BINS = 256


@classical
def variance(planes: Planes) -> Tensor:
    """``sum (I - mean)**2 / N``. In transmitted light contrast rises with defocus: not to be used there."""
    return planes.variance


@classical
def normalized_variance(planes: Planes) -> Tensor:
    """``sum (I - mean)**2 / (N mean)``. NaN for an all-zero image."""
    return planes.variance / planes.mean


@classical
def normalized_variance_squared(planes: Planes) -> Tensor:
    """``sum (I - mean)**2 / (N mean**2)``: does not change with gain. NaN for an all-zero image."""
    return planes.variance / planes.mean.square()


@classical
def focus_score(planes: Planes) -> Tensor:
    """``var / mean`` (Bray 2012): by definition the normalized variance."""
    return planes.variance / planes.mean


@classical
def local_focus_score(planes: Planes) -> Tensor:
    """Median of ``var / mean`` over tiles of 20 px (Bray 2012); a dark tile counts 0, partial tiles do not count."""
    rows, columns = planes.height // LOCAL_TILE_PX, planes.width // LOCAL_TILE_PX
    if rows == 0 or columns == 0:
        return planes.variance / planes.mean
    cut = planes.source[:, : rows * LOCAL_TILE_PX, : columns * LOCAL_TILE_PX].to(torch.float64)
    tiles = cut.reshape(-1, rows, LOCAL_TILE_PX, columns, LOCAL_TILE_PX).transpose(2, 3).flatten(3)
    spread, mean = torch.var_mean(tiles, dim=3, correction=0)
    scores = torch.where(mean > 0, spread / mean, torch.zeros_like(mean))
    return scores.flatten(1).quantile(0.5, dim=1)


@classical
def entropy(planes: Planes) -> Tensor:
    """Shannon entropy in bits of the histogram of 256 equal bins from the least to the largest count."""
    flat = planes.source.flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    level = ((flat - low) * (ENTROPY_BINS / span)).floor_().clamp_(max=ENTROPY_BINS - 1).to(torch.int64)
    level += ENTROPY_BINS * torch.arange(len(flat))[:, None]
    counts = torch.bincount(level.flatten(), minlength=ENTROPY_BINS * len(flat)).reshape(len(flat), ENTROPY_BINS)
    share = counts.to(torch.float64) / planes.count
    bits: Tensor = -torch.special.xlogy(share, share).sum(1) / math.log(2)
    return bits
