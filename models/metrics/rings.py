"""Sums over the rings of a spectrum: which cell of a half plane lies in which ring, kept for each shape and device."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import ImageError, check_images

_CACHED_SHAPES = 32
# torch has unsigned types but few operations on them.
_WIDER_NUMPY: dict[str, np.dtype[Any]] = {
    "u2": np.dtype(np.int32),
    "u4": np.dtype(np.int64),
    "u8": np.dtype(np.float64),
}
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.float64}


@dataclass(frozen=True, eq=False)
class Rings:
    """Ring of each cell of the half plane of `torch.fft.rfft2`; sums over the whole plane up to a common factor.

    Parameters
    ----------
    index : Tensor of int64, shape (cells,)
        Ring of each cell; `count` for a cell in none.
    count : int
        Number of rings.
    points : Tensor of float64, shape (count,)
        Cells of the whole plane in each ring.
    columns : int
        Columns of the half plane that are looked at, from 0; the first is its own mirror image and counts half.
    cells : Tensor of int64 or None
        Cells to gather first, where the rings are not symmetric about the zero frequency.
    """

    index: Tensor
    count: int
    points: Tensor
    columns: int
    cells: Tensor | None = None

    def sums(self, planes: Tensor) -> Tensor:
        """Sum planes (k, rows, columns) of a half plane over each ring, float64, shape (k, count); may overwrite them.

        Every ring of symmetric `Rings` sums to half of what the whole plane would.
        """
        number = len(planes)
        if self.cells is not None:
            values = planes.flatten(1)[:, self.cells]
        else:
            planes[:, :, 0] *= 0.5
            values = planes.flatten(1)
        bins = self.count + 1
        sums = values.new_zeros(bins * number)
        return sums.index_add_(0, _stacked(self, number), values.flatten()).view(number, bins)[:, :-1]


@functools.lru_cache(maxsize=4)
def _stacked(table: Rings, number: int) -> Tensor:
    """Index of `number` planes one after the other, each with bins of its own; short, since it is read each time."""
    offsets = (table.count + 1) * torch.arange(number, device=table.index.device)
    return (table.index + offsets[:, None]).flatten().to(torch.int32)


def rings(height: int, width: int, device: torch.device, per_cell: int = 1) -> Rings:
    """Rings ``i <= per_cell * r < i + 1`` about the zero frequency, up to Nyquist of the shorter side.

    r is the frequency in cells of the shorter side's axis, so that a ring holds one spatial frequency also where the
    image is not square; a ring is 1 / `per_cell` of a cell wide.
    """
    return _rings(height, width, per_cell, device)


@functools.lru_cache(maxsize=_CACHED_SHAPES)
def _rings(height: int, width: int, per_cell: int, device: torch.device) -> Rings:
    side = min(height, width)
    half = side // 2
    # Cells of the shorter axis; a square's stay integers, so that no ring's edge is moved by rounding.
    y = np.fft.fftfreq(height, 1 / height)[:, None] * (side / height)
    x = np.arange(min(width // 2, -(-half * width // side)))[None, :] * (side / width)
    count = half * per_cell
    ring = np.minimum(np.floor(np.sqrt(y**2 + x**2) * per_cell + 1e-9).astype(np.int64), count)
    weight = np.broadcast_to(np.where(x == 0, 1.0, 2.0), ring.shape)
    points = np.bincount(ring.ravel(), weight.ravel(), count + 1)[:count]
    return _made(ring.ravel(), count, points, x.shape[1], None, device)


@functools.lru_cache(maxsize=_CACHED_SHAPES)
def miplib_rings(height: int, width: int, device: torch.device) -> Rings:
    """Rings as miplib cuts them: exact on a square; on other shapes centred beside the zero frequency.

    There the rings of a grid of shape (width, height) are laid on the first cells of the shifted spectrum of the image
    padded to a square, so that they circle a cell which is not the zero frequency. Kept, since the numbers are to be
    the same.
    """
    if height == width:
        return rings(height, width, device)
    side = max(height, width)
    y = np.arange(width)[:, None] - width // 2
    x = np.arange(height)[None, :] - height // 2
    count = height // 2
    ring = np.minimum(np.floor(np.sqrt(y**2.0 + x**2.0)).astype(np.int64), count)
    # The zero frequency of the padded spectrum lies at side // 2, the middle of the rings elsewhere.
    ky = np.broadcast_to(np.arange(width)[:, None] - side // 2, ring.shape)
    kx = np.broadcast_to(np.arange(height)[None, :] - side // 2, ring.shape)
    mirrored = kx < 0
    row, column = np.where(mirrored, -ky, ky) % side, np.abs(kx)
    columns = side // 2 + 1
    inside = ring < count
    cells = (row * columns + column)[inside]
    points = np.bincount(ring[inside], minlength=count).astype(np.float64)
    return _made(ring[inside], count, points, columns, torch.from_numpy(cells).to(device), device)


def _made(
    index: NDArray[Any], count: int, points: NDArray[Any], columns: int, cells: Tensor | None, device: torch.device
) -> Rings:
    return Rings(
        torch.from_numpy(np.ascontiguousarray(index)).to(device),
        count,
        torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64)).to(device),
        columns,
        cells,
    )


def image_batch(images: NDArray[Any] | Tensor) -> Tensor:
    """Images as a tensor (n, height, width) on the device they are on, whatever real type they have.

    Apple's GPUs have no float64, in which spectra are taken here: images from there come to the CPU.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """
    if not isinstance(images, Tensor):
        array = check_images(images)
        # A copy also where none is needed for the type: frames are read-only, which torch cannot express.
        native: np.dtype[Any] = _WIDER_NUMPY.get(array.dtype.str[1:], array.dtype.newbyteorder("="))
        return torch.from_numpy(np.array(array, dtype=native, order="C", copy=True))
    batch = images[None] if images.ndim == 2 else images
    if batch.ndim != 3:
        raise ImageError(f"expected one image (height, width) or a batch (n, height, width), got {tuple(images.shape)}")
    if batch.is_complex() or batch.dtype == torch.bool:
        raise ImageError(f"expected integer or floating pixels, got {batch.dtype}")
    if min(batch.shape[1:]) < 32:
        raise ImageError(f"image of {batch.shape[2]}x{batch.shape[1]} px is too small: at least 32x32 are needed")
    if batch.is_floating_point() and not bool(torch.isfinite(batch).all()):
        raise ImageError("image holds NaN or infinite pixels")
    batch = batch.to(_WIDER.get(batch.dtype, batch.dtype))
    return batch.cpu() if batch.device.type == "mps" else batch


def device_blocks(batch: Tensor) -> list[Tensor]:
    """Cut a batch: image by image on a CPU, where one fits the cache; some hundred megabytes at once elsewhere."""
    pixels = batch.shape[1] * batch.shape[2]
    size = 1 if batch.device.type == "cpu" else max(1, (1 << 24) // pixels)
    return [batch[first : first + size] for first in range(0, max(len(batch), 1), size)]
