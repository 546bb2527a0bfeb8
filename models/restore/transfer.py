"""Transfer functions of a defocused and of a focused microscope on a padded frame's grid, and the padding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft
from torch import Tensor

from parfocal.models.restore.base import Blur
from parfocal.simulator.optics import V_STEP, Imager, Optics, RadialTransfer, pupil_amplitude

PAD_PX, PAD_MAX_PX = 16, 128
"""Least and most that is put around a frame before it is filtered."""
NODES, WEIGHTS = (-2.857, -1.3556, 0.0, 1.3556, 2.857), (0.01126, 0.22208, 0.53333, 0.22208, 0.01126)
"""Gauss and Hermite's five points of a normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Canvas:
    """A frame's shape with margins around it, of sides that transform fast."""

    shape: tuple[int, int]
    before: tuple[int, int]
    padded: tuple[int, int]

    @staticmethod
    def of(shape: tuple[int, int], blur_px: float) -> Canvas:
        """Margins of about the blur disc's diameter."""
        wanted = int(np.clip(np.ceil(blur_px), PAD_PX, PAD_MAX_PX))
        before = [min(wanted, side // 2) // 2 * 2 for side in shape]  # even: the canvas can be halved
        padded = [
            2 * fft.next_fast_len(-(-side // 2) + margin, real=True) for side, margin in zip(shape, before, strict=True)
        ]
        return Canvas(shape, (before[0], before[1]), (padded[0], padded[1]))

    def pad(self, frame: Tensor) -> Tensor:
        """A frame (height, width) on the canvas, mirrored around, both ends faded into each other where they meet."""
        return self.padded_by(lambda middle: middle.copy_(frame))

    def padded_by(self, write: Callable[[Tensor], Any]) -> Tensor:
        """The same for a frame that is written where it belongs, which saves a pass over it."""
        whole = torch.empty(self.padded)
        write(self.crop(whole))
        (_, left), (_, width) = self.before, self.shape
        _fill(whole[:, left : left + width], self, 0)
        _fill(whole.T, self, 1)
        return whole

    def crop(self, padded: Tensor) -> Tensor:
        """The frame's part of the canvas, over the last two axes."""
        (top, left), (height, width) = self.before, self.shape
        return padded[..., top : top + height, left : left + width]


def _fill(whole: Tensor, canvas: Canvas, axis: int) -> None:
    """Fill the margins along the first axis, the canvas's `axis`: both mirror images of the frame, cross-faded."""
    side, before = canvas.shape[axis], canvas.before[axis]
    ahead, after, fade = _joint(side, canvas.padded[axis] - side)
    frame = whole[before : before + side]
    between = torch.lerp(frame.index_select(0, after), frame.index_select(0, ahead), fade[:, None])
    beyond = len(between) - before
    whole[before + side :] = between[:beyond]
    whole[:before] = between[beyond:]


@lru_cache(maxsize=8)
def _joint(side: int, gap: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a gap between a frame's last row and its first holds: rows of both ends, and the share of the first's."""
    place = torch.arange(gap)
    inwards = _mirrored(place, side)
    return inwards.flip(0), side - 1 - inwards, 0.5 - 0.5 * torch.cos(torch.pi * (place + 0.5) / gap)


def _mirrored(place: Tensor, side: int) -> Tensor:
    """Rows 0, 1, 2... from an end inwards and back, however far."""
    turned = place % (2 * side)
    return torch.minimum(turned, 2 * side - 1 - turned)


@dataclass(frozen=True)
class Transfers:
    """On a canvas's rfft2 grid, over what is not known of the defocus: mean and mean square; and in focus."""

    mean: Tensor
    square: Tensor
    focused: Tensor


def transfers(canvas: Canvas, blur: Blur) -> Transfers:
    """Optical transfer functions, pixel included; the mean square is what the filter divides by, the doubt in it."""
    optics = blur.optics
    at = [blur.defocus_um + node * blur.sd_um for node in NODES] if blur.sd_um > 0 else [blur.defocus_um]
    weights = WEIGHTS if blur.sd_um > 0 else (1.0,)
    if not optics.rotationally_symmetric:
        return _uneven(canvas, optics, at, weights)
    radial = _radial()
    phases = np.stack([radial.phase(optics, z) for z in (*at, 0.0)])
    lit = np.broadcast_to(pupil_amplitude(optics, radial.rho), phases.shape)
    curves = radial(phases, lit)
    weight = np.asarray(weights, dtype=np.float32)
    table = _table(canvas.padded, round(optics.cutoff_per_px, 9))
    mean, square = weight @ curves[:-1], weight @ np.square(curves[:-1])
    return Transfers(table(mean), table(square, power=2), table(curves[-1]))


def _uneven(canvas: Canvas, optics: Optics, at: list[float], weights: tuple[float, ...]) -> Transfers:
    """The same for pupils that are not rotationally symmetric."""
    imager = Imager(optics, canvas.padded)
    seen = [torch.from_numpy(imager.transfer(z)) for z in at]
    mean = sum((w * h for w, h in zip(weights, seen, strict=True)), start=torch.zeros_like(seen[0]))
    square = sum((w * h.abs() ** 2 for w, h in zip(weights, seen, strict=True)), start=torch.zeros_like(seen[0].real))
    return Transfers(mean, square, torch.from_numpy(imager.transfer(0.0)))


@dataclass(frozen=True)
class Grid:
    """Frequency in cycles a pixel, and the pixel's own transfer, on a canvas's rfft2 grid."""

    frequency: Tensor
    pixel: Tensor


class _Table:
    """Where each frequency of a grid lies in a curve that is even in the frequency's root, and the pixel there.

    The rows of negative frequencies mirror those of the positive ones, and are not looked up.
    """

    def __init__(self, padded: tuple[int, int], cutoff_per_px: float, size: int) -> None:
        grid = _grid(padded)
        upper = padded[0] // 2 + 1
        frequency = grid.frequency[:upper].numpy()
        at = np.sqrt(np.minimum(frequency / np.float32(cutoff_per_px), 1.0)) * (size - 1)
        low = np.minimum(at.astype(np.int32), size - 2)
        self._low, self._part = torch.from_numpy(low).view(-1), torch.from_numpy((at - low).astype(np.float32)).view(-1)
        self._pixel = grid.pixel[:upper]
        rows = torch.arange(padded[0])
        self._rows = torch.minimum(rows, padded[0] - rows)

    def __call__(self, curve: NDArray[Any], power: int = 1) -> Tensor:
        """The curve on the grid, times the pixel's transfer to this power."""
        values = torch.from_numpy(np.ascontiguousarray(curve, dtype=np.float32))
        steps = torch.diff(values, append=values[-1:])
        found = steps.index_select(0, self._low).mul_(self._part).add_(values.index_select(0, self._low))
        upper = found.view(self._pixel.shape)
        for _ in range(power):
            upper.mul_(self._pixel)
        return upper.index_select(0, self._rows)


class _Radial(RadialTransfer):
    """The same in torch: so small a product wakes numpy's own threads, who then wait for more of it at full load."""

    def __call__(self, phase: NDArray[Any], amplitude: NDArray[Any] | None = None) -> NDArray[np.float32]:
        """See `RadialTransfer`."""
        lit = np.ones_like(phase) if amplitude is None else amplitude
        parts = np.concatenate([lit * np.cos(phase), lit * np.sin(phase)]).astype(np.float32)
        tables = [torch.from_numpy(table) for table in (self._to_field, self._weights[:, None], self._to_transfer)]
        pupil = torch.from_numpy(parts)
        field, on_axis = ((pupil @ table).square_().view(2, len(phase), -1).sum(dim=0) for table in tables[:2])
        transfer = (field @ tables[2]).mul_(V_STEP).sub_(on_axis, alpha=V_STEP**2 / 24.0)
        return np.asarray(transfer.div_(transfer[:, :1].clone()).numpy())


@lru_cache(maxsize=1)
def _radial() -> RadialTransfer:
    return _Radial(frequency_samples=513)


@lru_cache(maxsize=8)
def _grid(padded: tuple[int, int]) -> Grid:
    fy, fx = fft.fftfreq(padded[0])[:, None], fft.rfftfreq(padded[1])[None, :]
    frequency, pixel = np.hypot(fy, fx), np.sinc(fy) * np.sinc(fx)
    return Grid(torch.from_numpy(frequency.astype(np.float32)), torch.from_numpy(pixel.astype(np.float32)))


@lru_cache(maxsize=8)
def _table(padded: tuple[int, int], cutoff_per_px: float) -> _Table:
    return _Table(padded, cutoff_per_px, _radial().s.size)


def frequency_of(padded: tuple[int, int]) -> Tensor:
    """Spatial frequency in cycles a pixel on the canvas's rfft2 grid."""
    return _grid(padded).frequency
