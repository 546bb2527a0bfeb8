"""The one input scaling of the quality networks: affine, by robust statistics of the frame itself."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import max_pool2d

LOW_QUANTILE, HIGH_QUANTILE = 0.05, 0.98
BLOCK_PX = 8
SUBSAMPLE_PX = 4
LIMIT = 4.0
"""Scaled pixels are held within -LIMIT..LIMIT: a hot pixel must not be louder than four times the frame's own peak."""


def scale(counts: Tensor | NDArray[Any]) -> Tensor:
    """Scale frames for the networks: background near 0, bright structures near 1, noise as large as it is beside them.

    The background is the 5 % quantile of every fourth pixel of every fourth row. The peak is the 98 % quantile, over
    blocks of 8x8 px, of the brightest pair of neighbours in a block, a pair being worth its darker pixel: a structure
    in one block of fifty is enough to set it, and a lone hot pixel sets nothing. Of a frame with less in it than that
    the noise sets it, and what there is is held at the limit. Both are order statistics, so that
    ``gain * counts + offset`` scales to the same image for every gain above 0 and every offset, which a minimum and
    maximum give as well, but those also follow a single pixel. The divisor is a range of signal and not the noise:
    dividing by the noise would hide from the networks how noisy a frame is.

    Parameters
    ----------
    counts : Tensor or ndarray, shape (n, h, w) or (h, w)
        Camera counts, any real type, both sides at least 8 px; on any device.

    Returns
    -------
    Tensor of float32, shape (n, 1, h, w)
        Within +-`LIMIT`. A frame whose peak does not exceed its background (a constant one) is 0 throughout.
    """
    frames = _frames(counts)
    low, high = levels(frames)
    span = high - low
    factor = torch.where(span > 0, 1.0 / span, torch.zeros_like(span))
    scaled = (frames - low[:, None, None]) * factor[:, None, None]
    return scaled.clamp_(-LIMIT, LIMIT)[:, None]


def levels(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Background and peak of float32 frames (n, h, w), counts, shape (n,) each; see `scale`."""
    sample = frames[:, ::SUBSAMPLE_PX, ::SUBSAMPLE_PX].flatten(1)
    pairs = torch.minimum(frames[:, :, 1:], frames[:, :, :-1])
    blocks = max_pool2d(pairs, BLOCK_PX, ceil_mode=True).flatten(1)
    return _order(sample, LOW_QUANTILE), _order(blocks, HIGH_QUANTILE)


def paper_scale(counts: Tensor | NDArray[Any]) -> Tensor:
    """The paper's scaling, least pixel 0 and greatest 1, for comparison: one hot pixel moves all of it.

    Same shapes as `scale`; a constant frame is 0 throughout.
    """
    frames = _frames(counts)
    low, high = frames.amin((1, 2), keepdim=True), frames.amax((1, 2), keepdim=True)
    span = torch.where(high > low, high - low, torch.ones_like(high))
    return ((frames - low) / span)[:, None]


def _frames(counts: Tensor | NDArray[Any]) -> Tensor:
    tensor = counts if isinstance(counts, Tensor) else torch.from_numpy(_writable(counts))
    tensor = tensor[None] if tensor.ndim == 2 else tensor
    if tensor.ndim != 3 or min(tensor.shape[1:]) < BLOCK_PX:
        raise ValueError(f"expected frames (n, h, w) of at least {BLOCK_PX} px, got shape {tuple(tensor.shape)}")
    return tensor.to(torch.float32)


def _writable(counts: NDArray[Any]) -> NDArray[Any]:
    # Frames come read-only and in either byte order, neither of which torch can express.
    return counts.astype(counts.dtype.newbyteorder("="), copy=True)


def _order(values: Tensor, quantile: float) -> Tensor:
    """The order statistic nearest to a quantile: no interpolation, so that it maps exactly with its pixels."""
    return values.kthvalue(1 + round(quantile * (values.shape[1] - 1)), dim=1).values
