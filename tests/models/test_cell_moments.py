"""Moments over cells: the numbers and the gradient of the composed operations."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from parfocal.models.cell_moments import CellMoments


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("side", [1, 2, 8])
def test_moments_and_gradient_are_those_of_pooling(side: int, channels_last: bool) -> None:
    torch.manual_seed(side)
    values = torch.randn(2, 3, 16, 24)
    if channels_last:
        values = values.contiguous(memory_format=torch.channels_last)
    ours, theirs = values.clone().requires_grad_(), values.clone().requires_grad_()
    mean, square = CellMoments.apply(ours, side)
    expected_mean = functional.avg_pool2d(theirs, side)
    expected_square = functional.avg_pool2d(theirs.square(), side)
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(square, expected_square)
    weight = torch.randn_like(expected_mean)
    (mean * weight + square * weight.square()).sum().backward()
    (expected_mean * weight + expected_square * weight.square()).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_half_precision_maps_give_moments_in_full_precision() -> None:
    values = torch.full((1, 1, 64, 64), 1.5, dtype=torch.bfloat16)
    mean, square = CellMoments.apply(values, 64)
    assert mean.dtype == square.dtype == torch.float32
    assert float(mean) == 1.5
    assert float(square) == 2.25
