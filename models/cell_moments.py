"""First and second moments of a map over square cells, with a gradient that reads the map once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class CellMoments(torch.autograd.Function):
    """Mean and mean square of (n, c, h, w) over cells of `side` pixels: two of (n, c, h // side, w // side), float32.

    Composed of pooling and squaring, the backward pass of a training writes four maps of the activations' size; here
    it is one multiplication and addition. Both sides must be whole multiples of `side`.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, side: int) -> tuple[Tensor, Tensor]:
        """Moments of every cell."""
        cells = _cells(values, side)
        ctx.save_for_backward(values)
        ctx.side = side
        mean = cells.mean(dim=(2, 4), dtype=torch.float32)
        square = cells.square().mean(dim=(2, 4), dtype=torch.float32)
        return mean.permute(0, 3, 1, 2), square.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Gradient of the map: that of its mean, and twice its value times that of its mean square."""
        (values,) = ctx.saved_tensors
        cells = _cells(values, ctx.side)
        area = ctx.side**2
        first, second = (
            (grad.permute(0, 2, 3, 1) * factor).to(cells.dtype)[:, :, None, :, None, :]
            for grad, factor in zip(grads, (1.0 / area, 2.0 / area), strict=True)
        )
        spread = torch.addcmul(first, cells, second)
        n, rows, side, columns, _, channels = spread.shape
        return spread.reshape(n, rows * side, columns * side, channels).permute(0, 3, 1, 2), None


def _cells(values: Tensor, side: int) -> Tensor:
    """The map as (n, rows, side, columns, side, c)."""
    n, channels, height, width = values.shape
    last = values.permute(0, 2, 3, 1)
    return last.reshape(n, height // side, side, width // side, side, channels)
