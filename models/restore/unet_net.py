"""The restoring network: a small residual U-Net that is shown the frame and three restorations of it by the optics.

Wiener's filters and a few steps of Richardson-Lucy carry the optics and the blur, so that the network need not learn
them by heart; it is told the rest (blur, noise, how far the blur is in doubt) by feature-wise scales. It works at half
resolution (four pixels a position), which costs a quarter, and answers with a correction of Richardson-Lucy's result
and with its own error.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from parfocal.models.restore.base import Blur, FloatImage
from parfocal.models.restore.deconvolution import Observed, observe, quick_richardson_lucy, wiener
from parfocal.models.restore.levels import Levels, quantiles

WIDTHS = (24, 48, 96, 128)
CONDITIONS = 6
STRENGTHS = (3.0, 0.3)
"""Of the noise, as the two Wiener filters believe in it."""
CHANNELS = 2 + len(STRENGTHS)
STRIDE = 16
"""Sides of what the network takes are multiples of this."""
LOG_SD = (-7.0, 1.5)
"""Range of the natural logarithm of the error, in units of the image's scale."""


@dataclass(frozen=True)
class Prepared:
    """What the network is shown of one frame.

    Parameters
    ----------
    channels : Tensor, shape (4, height, width)
        The frame and its three restorations, above `zero` and in units of `scale`.
    conditions : Tensor, shape (6,)
    zero, scale : float
        Counts of 0 and of 1.
    """

    channels: Tensor
    conditions: Tensor
    zero: float
    scale: float
    seen: Observed


def prepare(frame: FloatImage, blur: Blur, seen: Observed | None = None) -> Prepared:
    """Filter and scale a frame (height, width) in counts, made ready (`observe`) or not yet."""
    seen = observe(frame, blur) if seen is None else seen
    undone = quick_richardson_lucy(seen, blur.diameter_px)
    (bright,) = quantiles(undone[::3, ::3].numpy(), (99.7,))
    # Never less than a few times what noise the filter leaves: a blank frame must not be stretched to a picture.
    scale = float(max(bright, seen.levels.noise_sd, 1e-6))
    channels = torch.empty(CHANNELS, *frame.shape)
    torch.sub(torch.from_numpy(frame), seen.levels.background, out=channels[0]).div_(scale)
    torch.div(undone, scale, out=channels[1])
    for channel, strength in zip(channels[2:], STRENGTHS, strict=True):
        torch.div(wiener(seen, strength), scale, out=channel)
    return Prepared(channels, _conditions(blur, seen.levels, scale), seen.levels.background, scale, seen)


def _conditions(blur: Blur, levels: Levels, scale: float) -> Tensor:
    px = blur.diameter_px
    sd_px = blur.sd_um * blur.optics.blur_px_per_um
    return torch.tensor(
        [
            np.log2(1.0 + px) / 3.0 - 1.0, np.log2(0.3 + sd_px) / 2.0, np.log10(levels.noise_sd / scale + 1e-4) + 1.5,
            np.log2(blur.optics.cutoff_per_px), np.log2(0.25 + blur.depths) / 2.0,
            (levels.high - levels.background) / scale,
        ],
        dtype=torch.float32,
    )  # fmt: skip


class Block(nn.Module):
    """Convolution, scale and shift by the conditions, leaky rectifier."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1) -> None:
        super().__init__()
        self.convolve = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.told = nn.Linear(32, 2 * outputs)
        nn.init.zeros_(self.told.weight)
        nn.init.zeros_(self.told.bias)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """Apply to (n, inputs, h, w), conditions (n, 32)."""
        scale, shift = self.told(conditions).chunk(2, dim=1)
        if self.training or len(x) > 1:
            convolved = self.convolve(x) * (1.0 + scale)[:, :, None, None] + shift[:, :, None, None]
            return nn.functional.leaky_relu(convolved, 0.1)
        # One frame: scale and shift go into the kernel, which saves two passes over the image.
        weight = self.convolve.weight * (1.0 + scale[0])[:, None, None, None]
        bias = self._bias() * (1.0 + scale[0]) + shift[0]
        convolved = nn.functional.conv2d(x, weight, bias, stride=self.convolve.stride, padding=1)
        return nn.functional.leaky_relu_(convolved, 0.1)

    def _bias(self) -> Tensor:
        bias = self.convolve.bias
        assert bias is not None  # noqa: S101 - made with one
        return bias


class RestoreNet(nn.Module):
    """Residual U-Net of four resolutions, 0.76 M parameters.

    Input (n, 4, h, w) and (n, 6), sides multiples of `STRIDE`; output: restored image and logarithm of its error's
    sd, each (n, 1, h, w).
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(CONDITIONS, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU())
        self.unshuffle = nn.PixelUnshuffle(2)
        self.enter = Block(4 * CHANNELS, widths[0])
        self.first = Block(widths[0], widths[0])
        self.down = nn.ModuleList(Block(a, b, stride=2) for a, b in itertools.pairwise(widths))
        self.deep = nn.ModuleList(Block(width, width) for width in widths[1:])
        self.bottom = Block(widths[-1], widths[-1])
        self.lift = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(Block(width, width) for width in widths[:-1])
        self.leave = nn.Conv2d(widths[0], 8, 3, padding=1)
        nn.init.normal_(self.leave.weight, std=1e-3)
        self.leave.bias = nn.Parameter(torch.zeros(8))
        self.shuffle = nn.PixelShuffle(2)

    def forward(self, channels: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Restored image and logarithm of the sd, in units of the image's scale."""
        correction, log_sd = self.correct(channels, conditions)
        return channels[:, 1:2] + correction, log_sd

    def correct(self, channels: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """The same, but for the filtered image that the correction is added to: in half precision it would round."""
        told = self.embed(conditions)
        alone = len(channels) == 1 and not torch.is_grad_enabled()
        x = self.first(self.enter(_unshuffled(channels) if alone else self.unshuffle(channels), told), told)
        skips = [x]
        for down, deep in zip(self.down, self.deep, strict=True):
            x = deep(down(x, told), told)
            skips.append(x)
        x = self.bottom(skips.pop(), told)
        for lift, up in zip(reversed(self.lift), reversed(self.up), strict=True):
            lifted, skip = lift(x), skips.pop()
            if alone:
                x = up(_added(skip, lifted), told)
            else:
                x = up(nn.functional.interpolate(lifted, scale_factor=2, mode="nearest") + skip, told)
        out = self.leave(x)
        out = _shuffled(out) if alone else self.shuffle(out)
        low, high = LOG_SD
        log_sd = low + (high - low) * torch.sigmoid(out[:, 1:] - 0.5)
        return out[:, :1], log_sd


# One frame alone, nothing to be learned: the same as torch's modules, in place or with fewer and longer strides. Two
# neighbours in a row are moved together, as one whole number.
_PAIR = {torch.float32: torch.int64, torch.bfloat16: torch.int32}


def _unshuffled(channels: Tensor) -> Tensor:
    """`nn.PixelUnshuffle` of (1, n, h, w), in `torch.channels_last`."""
    _, count, height, width = channels.shape
    pairs = channels[0].contiguous().view(_PAIR[channels.dtype]).view(count, height // 2, 2, width // 2)
    rows = pairs.transpose(0, 1).reshape(height // 2, 2 * count, width // 2)  # whole rows first: faster than at once
    return rows.transpose(1, 2).contiguous().view(channels.dtype).permute(2, 0, 1)[None]


def _shuffled(planes: Tensor) -> Tensor:
    """`nn.PixelShuffle` of (1, 4 n, h, w) that lies as in `torch.channels_last`."""
    _, count, height, width = planes.shape
    pairs = planes[0].permute(1, 2, 0).contiguous().view(_PAIR[planes.dtype])
    image = pairs.new_empty(count // 4, height, 2, width)
    for plane in range(count // 2):
        image[plane // 2, :, plane % 2] = pairs[:, :, plane]
    return image.view(planes.dtype).view(1, count // 4, 2 * height, 2 * width)


def _added(skip: Tensor, coarse: Tensor) -> Tensor:
    """The coarse one (1, n, h, w), each pixel four times, added to the fine one: in place if that is channels last."""
    _, count, height, width = coarse.shape
    wide = torch.cat([coarse[0].permute(1, 2, 0)] * 2, dim=2).view(height, 1, 2 * width * count)
    fine = skip.contiguous(memory_format=torch.channels_last)
    fine[0].permute(1, 2, 0).view(height, 2, 2 * width * count).add_(wide)
    return fine
