"""Metrics of the correlation between neighbouring pixels: Vollath F4 and F5, correlation at a scale."""

from __future__ import annotations

import torch
from torch import Tensor

from parfocal.models.metrics.planes import Planes, classical

CORRELATION_SCALE_PX = 8


@classical
def vollath_f4(planes: Planes) -> Tensor:
    """``sum I[x]I[x+1] - sum I[x]I[x+2]`` along both axes (Vollath 1987).

    Both sums run over the pixels that have both neighbours, so that an offset adds no constant.
    """
    return planes.sum_of(_f4_along_x, lambda rows: _f4_along_x(rows.transpose(1, 2)), below=2)


def _f4_along_x(rows: Tensor) -> Tensor:
    exact = rows.to(torch.float64)
    return exact[:, :, :-2] * (exact[:, :, 1:-1] - exact[:, :, 2:])


@classical
def vollath_f5(planes: Planes) -> Tensor:
    """``sum I[x]I[x+1] - N mean**2`` along both axes, N the number of products (Vollath 1988). Not in brightfield."""
    products = planes.sum_of(neighbour_products, lambda rows: neighbour_products(rows.transpose(1, 2)), below=1)
    count = planes.height * (planes.width - 1) + (planes.height - 1) * planes.width
    return products - count * planes.mean.square()


def neighbour_products(rows: Tensor) -> Tensor:
    """``I[x]I[x+1]`` along the last axis, float64."""
    exact = rows.to(torch.float64)
    return exact[:, :, :-1] * exact[:, :, 1:]


@classical
def correlation(planes: Planes) -> Tensor:
    """Correlation coefficient of pixels 8 px apart along x: Haralick's, without quantising. NaN where flat."""
    gap = CORRELATION_SCALE_PX
    mean = planes.mean[:, None, None]

    def left(rows: Tensor) -> Tensor:
        return rows[:, :, :-gap].to(torch.float64) - mean

    def right(rows: Tensor) -> Tensor:
        return rows[:, :, gap:].to(torch.float64) - mean

    # The sums are taken about the mean of the whole image, and moved to the mean of each side afterwards.
    count = planes.height * (planes.width - gap)
    first, second = planes.sum_of(left) / count, planes.sum_of(right) / count
    product = planes.sum_of(lambda rows: left(rows) * right(rows)) / count - first * second
    spread = planes.sum_of(lambda rows: left(rows).square_()) / count - first.square()
    return product / (spread * (planes.sum_of(lambda rows: right(rows).square_()) / count - second.square())).sqrt()
