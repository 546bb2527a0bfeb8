"""A batch of images, what several metrics share of it (mean, gradient, spectrum...), and filters on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from parfocal.models.base import check_images

# These hold exactly in float32; anything wider is carried in float64.
_NARROW = ("u1", "u2", "i1", "i2", "f2", "f4")

STRIP_PIXELS = 1 << 16
"""Pixels of a strip: a few of them as float32 stay in the second-level cache, and no memory is mapped anew."""
MIN_STRIP_ROWS = 16


class Planes:
    """Images (n, height, width) with lazily computed planes; integer counts up to 16 bits are exact throughout.

    Filters run in float32 (sums of 16-bit counts are exact there), sums and whatever cancels run in float64.

    Parameters
    ----------
    images : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """

    def __init__(self, images: NDArray[Any] | Tensor) -> None:
        self._source = _as_tensor(check_images(images.numpy() if isinstance(images, Tensor) else images))

    @property
    def source(self) -> Tensor:
        """The counts, float32 where that is exact, else float64; shape (n, h, w)."""
        return self._source

    def tiles(self, grid: int) -> Planes:
        """Each image cut into grid x grid equal tiles, as a batch of (n * grid**2) images; what is left over is cut."""
        rows, columns = self.height // grid, self.width // grid
        cut = self._source[:, : rows * grid, : columns * grid].reshape(-1, grid, rows, grid, columns)
        return Planes(cut.transpose(2, 3).reshape(-1, rows, columns))

    @property
    def height(self) -> int:
        """Rows."""
        return int(self._source.shape[1])

    @property
    def width(self) -> int:
        """Columns."""
        return int(self._source.shape[2])

    @property
    def count(self) -> int:
        """Pixels of one image."""
        return self.height * self.width

    @cached_property
    def pixels(self) -> Tensor:
        """Counts in float32."""
        return self._source.to(torch.float32)

    @cached_property
    def mean(self) -> Tensor:
        """Mean count, float64, shape (n,)."""
        return total(self._source) / self.count

    @cached_property
    def centered(self) -> Tensor:
        """Counts minus their mean, float32: what spectra are taken of, so that no rounding of the DC term leaks."""
        if self._source.dtype == torch.float64:
            return (self._source - self.mean[:, None, None]).to(torch.float32)
        # Rounding of the mean to float32 leaves a tiny DC term, which no band includes.
        return self._source - self.mean.to(torch.float32)[:, None, None]

    @cached_property
    def variance(self) -> Tensor:
        """Population variance, float64, shape (n,), in two passes."""
        mean = self.mean[:, None, None]
        return self.sum_of(lambda rows: (rows.to(torch.float64) - mean).square_()) / self.count

    @cached_property
    def sobel_sums(self) -> tuple[Tensor, Tensor]:
        """Sums of ``Sx**2 + Sy**2`` and of its root (3x3 Sobel, edge pixels repeated), float64, shape (n,) each."""
        squares = sums = torch.zeros(len(self._source), dtype=torch.float64)
        for strip in self.strips(self.pixels, 1):
            squared = sobel_squared(strip)
            squares = squares + total(squared)
            sums = sums + total(squared.sqrt_())
        return squares, sums

    def strips(self, plane: Tensor, halo: int) -> Iterator[Tensor]:
        """Cut (n, h, w) into strips of rows that fit the cache, each with `halo` pixels around it, edges repeated."""
        for top, bottom in self._cuts():
            above, below = min(halo, top), min(halo, self.height - bottom)
            part = plane[:, top - above : bottom + below, None].transpose(1, 2)
            yield pad(part, (halo, halo, halo - above, halo - below), mode="replicate")[:, 0]

    def sum_of(self, *terms: Callable[[Tensor], Tensor], below: int = 0) -> Tensor:
        """Sum over each image of planes computed from strips of the source, float64, shape (n,).

        Without `below` the terms get whole strips, (n, rows, w). With it, each strip reaches `below` rows further than
        its own, where there are any: the first term gets the strip's own rows, the others all of it, so that what a
        term computes between a row and the one `below` further down counts once.
        """
        result = torch.zeros(len(self._source), dtype=torch.float64)
        for top, bottom in self._cuts():
            reaching = self._source[:, top : bottom + below]
            for index, term in enumerate(terms):
                rows = reaching if index else reaching[:, : bottom - top]
                result = result + total(term(rows))
        return result

    def _cuts(self) -> list[tuple[int, int]]:
        rows = max(MIN_STRIP_ROWS, STRIP_PIXELS // (self.width * len(self._source)))
        return [(top, min(top + rows, self.height)) for top in range(0, self.height, rows)]

    @cached_property
    def power(self) -> Tensor:
        """``abs(FFT(I - mean))**2`` on the half plane of `torch.fft.rfft2`, float32, shape (n, h, w // 2 + 1)."""
        spectrum = torch.fft.rfft2(self.centered)
        power: Tensor = spectrum.real.square().add_(spectrum.imag.square())
        return power


Measure = Callable[["Planes | NDArray[Any] | Tensor"], Tensor]


def classical(function: Callable[[Planes], Tensor]) -> Measure:
    """Let a metric written for `Planes` also take a bare array (n, h, w); it returns float64 of shape (n,)."""

    @functools.wraps(function)
    def measure(images: Planes | NDArray[Any] | Tensor) -> Tensor:
        return function(images if isinstance(images, Planes) else Planes(images))

    return measure


def _as_tensor(array: NDArray[Any]) -> Tensor:
    narrow = array.dtype.str[1:] in _NARROW
    # A copy also where none is needed for the type: frames are read-only, which torch cannot express.
    native = np.array(array, dtype=np.float32 if narrow else np.float64, order="C", copy=True)
    return torch.from_numpy(native)


def total(plane: Tensor) -> Tensor:
    """Sum over each image, accumulated in float64; (n, ...) -> (n,)."""
    return plane.flatten(1).sum(1, dtype=torch.float64)


def repeat_edges(plane: Tensor, margin: int) -> Tensor:
    """Pad (n, h, w) by repeating the edge pixels."""
    return pad(plane[:, None], (margin, margin, margin, margin), mode="replicate")[:, 0]


def sobel_squared(padded: Tensor) -> Tensor:
    """Squared magnitude of the 3x3 Sobel gradient of (n, h + 2, w + 2), by additions of shifted planes; (n, h, w)."""
    smooth_y = (padded[:, :-2] + padded[:, 2:]).add_(padded[:, 1:-1], alpha=2)
    along_x = smooth_y[:, :, 2:] - smooth_y[:, :, :-2]
    smooth_x = (padded[:, :, :-2] + padded[:, :, 2:]).add_(padded[:, :, 1:-1], alpha=2)
    along_y = smooth_x[:, 2:] - smooth_x[:, :-2]
    return along_x.square_().add_(along_y.square_())


def median3(pixels: Tensor) -> Tensor:
    """3x3 median of (n, h, w), edges repeated: sort the columns of three, then the middle of their extremes.

    The median of nine is the middle one of: the largest of the three column minima, the middle one of the three
    column medians, the smallest of the three column maxima (Smith 1996).
    """
    padded = repeat_edges(pixels, 1)
    low, middle, high = _sort3(padded[:, :-2], padded[:, 1:-1], padded[:, 2:])
    largest_low = torch.maximum(torch.maximum(low[:, :, :-2], low[:, :, 1:-1]), low[:, :, 2:])
    smallest_high = torch.minimum(torch.minimum(high[:, :, :-2], high[:, :, 1:-1]), high[:, :, 2:])
    middle_middle = _middle3(middle[:, :, :-2], middle[:, :, 1:-1], middle[:, :, 2:])
    return _middle3(largest_low, middle_middle, smallest_high)


def _sort3(a: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    middle = torch.minimum(high, c)
    return torch.minimum(low, middle), torch.maximum(low, middle), torch.maximum(high, c)


def _middle3(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    return torch.maximum(torch.minimum(a, b), torch.minimum(torch.maximum(a, b), c))


def convolve3(pixels: Tensor, kernel: tuple[float, ...]) -> Tensor:
    """Correlate (n, h, w) with a 3x3 kernel given row by row, edges repeated, by adding shifted planes."""
    padded = repeat_edges(pixels, 1)
    height, width = pixels.shape[1:]
    out = torch.zeros_like(pixels)
    for index, weight in enumerate(kernel):
        row, column = divmod(index, 3)
        if weight:
            out.add_(padded[:, row : row + height, column : column + width], alpha=weight)
    return out
