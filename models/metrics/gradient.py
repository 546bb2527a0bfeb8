"""Metrics of the first derivative: Brenner, Tenengrad, Edges and the spread of edges."""

from __future__ import annotations

import torch
from torch import Tensor

from parfocal.models.metrics.planes import Planes, classical


@classical
def brenner(planes: Planes) -> Tensor:
    """``sum (I[x+2] - I[x])**2`` along both axes, over all pixels that have that neighbour (Brenner 1976)."""
    return planes.sum_of(
        lambda rows: (rows[:, :, 2:] - rows[:, :, :-2]).square_(),
        lambda rows: (rows[:, 2:] - rows[:, :-2]).square_(),
        below=2,
    )


@classical
def tenengrad(planes: Planes) -> Tensor:
    """``sum Sx**2 + Sy**2`` with the 3x3 Sobel operator (Tenenbaum 1970)."""
    return planes.sobel_sums[0]


@classical
def edges(planes: Planes) -> Tensor:
    """``mean(sqrt(Sx**2 + Sy**2)) / mean``: the score OughtaFocus uses by default. NaN for an all-zero image."""
    return planes.sobel_sums[1] / planes.count / planes.mean


@classical
def edge_spread(planes: Planes) -> Tensor:
    """``std(sqrt(Sx**2 + Sy**2)) / mean``; not the score of OughtaFocus. NaN for an all-zero image."""
    squares, sums = planes.sobel_sums
    # Both sums are of non-negative numbers in float64: no more than ten digits of sixteen cancel even at a contrast
    # of the gradient of 1e-5.
    variance = squares / planes.count - (sums / planes.count).square()
    return torch.clamp(variance, min=0).sqrt() / planes.mean
