"""Metrics of the second derivative: Laplacian energy, sum-modified Laplacian, variance of the LoG."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from parfocal.models.metrics.planes import Planes, classical, total

LOG_SIGMA_PX = 1.5


@classical
def laplacian_energy(planes: Planes) -> Tensor:
    """``sum (I[x-1] + I[x+1] + I[y-1] + I[y+1] - 4 I)**2``, edges repeated. Fails on noise and on sparse fields."""
    result = torch.zeros(len(planes.pixels), dtype=torch.float64)
    for strip in planes.strips(planes.pixels, 1):
        plane = strip[:, 1:-1, :-2] + strip[:, 1:-1, 2:]
        plane.add_(strip[:, :-2, 1:-1]).add_(strip[:, 2:, 1:-1]).sub_(strip[:, 1:-1, 1:-1], alpha=4)
        result = result + total(plane.square_())
    return result


@classical
def sum_modified_laplacian(planes: Planes) -> Tensor:
    """``sum abs(2I - I[x-1] - I[x+1]) + abs(2I - I[y-1] - I[y+1])`` where both neighbours exist (Nayar 1994)."""
    return planes.sum_of(
        lambda rows: (rows[:, :, :-2] + rows[:, :, 2:]).sub_(rows[:, :, 1:-1], alpha=2).abs_(),
        lambda rows: (rows[:, :-2] + rows[:, 2:]).sub_(rows[:, 1:-1], alpha=2).abs_(),
        below=2,
    )


@classical
def log_variance(planes: Planes) -> Tensor:
    """``var(LoG_sigma * I)``, sigma 1.5 px, kernel cut at 4 sigma, edges repeated."""
    halves = _half_kernels(LOG_SIGMA_PX)
    sums = squares = torch.zeros(len(planes.pixels), dtype=torch.float64)
    for strip in planes.strips(planes.centered, len(halves[0]) - 1):
        plane = _laplacian_of_gaussian(strip, *halves)
        sums = sums + total(plane)
        squares = squares + total(plane.square_())
    return squares / planes.count - (sums / planes.count).square()


def _laplacian_of_gaussian(padded: Tensor, smooth: list[float], curved: list[float]) -> Tensor:
    """Two separable passes, ``Gxx * Gy + Gx * Gyy``, valid part only."""
    across, down = _filter(padded, 2, smooth, curved)
    return _filter(down, 1, smooth)[0].add_(_filter(across, 1, curved)[0])


def _filter(plane: Tensor, axis: int, *halves: list[float]) -> list[Tensor]:
    """Correlate with symmetric kernels given by their right halves, along one axis, valid part only."""
    radius = len(halves[0]) - 1
    length = plane.shape[axis] - 2 * radius
    results = [plane.narrow(axis, radius, length) * half[0] for half in halves]
    for offset in range(1, radius + 1):
        pair = plane.narrow(axis, radius - offset, length) + plane.narrow(axis, radius + offset, length)
        for result, half in zip(results, halves, strict=True):
            result.add_(pair, alpha=half[offset])
    return results


def _half_kernels(sigma_px: float) -> tuple[list[float], list[float]]:
    """Centre and right half of the Gaussian (sum 1) and of its second derivative."""
    radius = int(4 * sigma_px + 0.5)
    x = np.arange(-radius, radius + 1, dtype=np.float64)
    gauss = np.exp(-0.5 * (x / sigma_px) ** 2)
    gauss /= gauss.sum()
    curved = gauss * (x**2 / sigma_px**4 - 1 / sigma_px**2)
    return gauss[radius:].tolist(), curved[radius:].tolist()
