"""Metrics of the spectrum: DCT entropy, mid-band power, band fraction, slope of the power spectrum."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.metrics.planes import Planes, classical, total

MIDBAND = (0.0625, 0.125)
FRACTION_BAND = (0.03, 0.16)
SLOPE_BINS = 64
DCTS_SUPPORT_PX = 6


@classical
def midband(planes: Planes) -> Tensor:
    """``sum abs(FFT I)**2`` for 0.0625 < f < 0.125 cycles/px: nothing below, nothing of the noise above."""
    return _band_power(planes, *MIDBAND)


@classical
def band_fraction(planes: Planes) -> Tensor:
    """Power in 0.03 < f < 0.16 cycles/px over the total power without DC. NaN for a flat image."""
    whole = planes.variance * float(planes.count) ** 2  # Parseval
    return _band_power(planes, *FRACTION_BAND) / whole


def _band_power(planes: Planes, lower: float, upper: float) -> Tensor:
    rows, columns, weight = _band(planes.height, planes.width, lower, upper)
    power = planes.power[:, :, :columns]
    return total(power[:, rows] * weight)


@functools.lru_cache(maxsize=32)
def _band(height: int, width: int, lower: float, upper: float) -> tuple[Tensor, int, Tensor]:
    """Rows and number of columns of the half plane that the band touches, and the weight (0, 1 or 2) of each cell."""
    fy, fx, twice = _half_plane(height, width)
    rows = np.flatnonzero(np.abs(fy) < upper)
    columns = int(np.count_nonzero(fx < upper))
    radius = np.hypot(fy[rows, None], fx[None, :columns])
    weight = ((radius > lower) & (radius < upper)) * twice[:columns]
    return torch.from_numpy(rows), columns, torch.from_numpy(weight.astype(np.float32))


def _half_plane(height: int, width: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Frequencies of the rows and columns of an rfft2, and how often each column occurs in the full plane."""
    fx = np.fft.rfftfreq(width)
    twice = np.full(fx.shape, 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    return np.fft.fftfreq(height), fx, twice


@classical
def power_log_log_slope(planes: Planes) -> Tensor:
    """Slope of ``log P(f)`` against ``log f``; P the radial mean power in 64 bins up to 0.5, the first dropped.

    For the quality of single images (Bray 2012); not for a search along z. NaN for a flat image. Bins that no
    frequency of a small image falls in do not count.
    """
    index, weight, abscissa, filled = _radial(planes.height, planes.width)
    cells = (planes.power * weight).to(torch.float64).flatten(1)
    sums = torch.zeros(len(cells), SLOPE_BINS + 1, dtype=torch.float64).index_add_(1, index, cells)
    ordinate = torch.log(sums[:, filled] / _bin_weights(planes.height, planes.width)[filled])
    ordinate = ordinate - ordinate.mean(1, keepdim=True)
    return (ordinate * abscissa).sum(1) / abscissa.square().sum()


@functools.lru_cache(maxsize=8)
def _radial(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bin of each cell (SLOPE_BINS: none), weight of each column, centred log f of the filled bins, which these are."""
    fy, fx, twice = _half_plane(height, width)
    radius = np.hypot(fy[:, None], fx[None, :])
    index = np.minimum((radius * (2 * SLOPE_BINS)).astype(np.int64), SLOPE_BINS).ravel()
    count = np.bincount(index, minlength=SLOPE_BINS + 1)[:SLOPE_BINS]
    filled = np.flatnonzero(count)
    filled = filled[filled > 0]
    log_f = np.log((filled + 0.5) / (2 * SLOPE_BINS))
    weight = torch.from_numpy(twice.astype(np.float32))
    return torch.from_numpy(index), weight, torch.from_numpy(log_f - log_f.mean()), torch.from_numpy(filled)


@functools.lru_cache(maxsize=8)
def _bin_weights(height: int, width: int) -> Tensor:
    index, weight, _, _ = _radial(height, width)
    cells = weight.to(torch.float64).expand(height, -1).flatten()
    return torch.zeros(SLOPE_BINS + 1, dtype=torch.float64).index_add_(0, index, cells)


@classical
def dcts(planes: Planes) -> Tensor:
    """Normalised DCT Shannon entropy (Royer 2016): ``-(2 / r0**2) sum_{x+y<r0} q log2 q``, ``q = abs(F) / norm2(F)``.

    F is the orthonormal DCT-II, so its norm is that of the image; r0 is the smaller side over a PSF support of 6 px.
    Only the r0 lowest rows and columns are computed, as two products of matrices.
    """
    size = max(min(planes.height, planes.width) // DCTS_SUPPORT_PX, 1)
    rows, columns = _dct_rows(planes.height, size), _dct_rows(planes.width, size)
    coefficients = (rows @ planes.centered @ columns.T).to(torch.float64)
    coefficients[:, 0, 0] += planes.mean * math.sqrt(planes.count)
    norm = (planes.count * (planes.variance + planes.mean.square())).sqrt()
    share = coefficients.abs() / norm[:, None, None]
    inside = torch.arange(size)[:, None] + torch.arange(size)[None, :] < size
    entropy: Tensor = (torch.special.xlogy(share, share) * inside).sum((1, 2)) / -math.log(2)
    return entropy * (2 / size**2)


@functools.lru_cache(maxsize=8)
def _dct_rows(length: int, count: int) -> Tensor:
    """First `count` rows of the orthonormal DCT-II matrix of `length` points, float32."""
    k, x = np.arange(count)[:, None], np.arange(length)[None, :]
    matrix = np.sqrt(2 / length) * np.cos(np.pi * (2 * x + 1) * k / (2 * length))
    matrix[0] /= math.sqrt(2)
    return torch.from_numpy(matrix.astype(np.float32))
