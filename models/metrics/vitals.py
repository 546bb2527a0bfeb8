"""Vital signs of an image: signal to noise, contrast, background, saturation, vignetting, fine power."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.metrics.rings import device_blocks, image_batch

BIN_PX = 4
LOW_SHARE, HIGH_SHARE = 0.05, 0.99
GRID = 16
TILE_MIN_PX = 8
FINE_FREQUENCY = 0.25
LOWEST_CELLS = 2
MIN_STEPS_ABOVE_MEDIAN = 30
# Median of abs(N(0, 6 sigma)), the response of Immerkaer's noise kernel (norm 6) to white noise.
_KERNEL_MEDIAN = 0.6744897501960817 * 6
_HUBER = 1.345
_ROUNDS = 25


@dataclass(frozen=True)
class Vitals:
    """Vital signs of n images; every field float64 of shape (n,), on the device of the images.

    Parameters
    ----------
    background_counts : Tensor
        5 % quantile of the frame in bins of 4 px, minus the camera's offset; counts.
    signal_counts : Tensor
        99 % quantile of the bins minus the 5 % quantile; counts.
    noise_counts : Tensor
        Standard deviation of a pixel's noise: ``median(abs(I * K)) / (6 * 0.6745)``, K the kernel of Immerkaer (1996),
        which is blind to anything linear; counts.
    snr : Tensor
        ``signal_counts / noise_counts``; no unit, about 1 for noise alone, inf without noise, NaN for a constant image.
    contrast : Tensor
        Michelson's ``(high - low) / (high + low)``, of the two quantiles above the offset; 0..1 where the offset is
        right, NaN where the sum is not positive.
    saturated_share : Tensor
        Share of pixels at the ceiling: where the camera clips, or as `parfocal.models.saturation` guesses it; 0..1.
    vignetting : Tensor
        Share of light missing in the corners against the centre, see `vignetting`; below 0 where corners are brighter.
    high_frequency_share : Tensor
        Power above 0.25 cycles/px over the power above 2 cycles/frame (Hann window); 0..1, about 0.80 for white noise,
        NaN for a constant image.
    """

    background_counts: Tensor
    signal_counts: Tensor
    noise_counts: Tensor
    snr: Tensor
    contrast: Tensor
    saturated_share: Tensor
    vignetting: Tensor
    high_frequency_share: Tensor


def vitals(
    images: NDArray[Any] | Tensor, *, offset_counts: float = 0.0, saturation_counts: float | None = None
) -> Vitals:
    """Measure the vital signs of a batch.

    Gain leaves snr, contrast, vignetting and the two shares alone; an offset that is not given in `offset_counts` makes
    contrast and vignetting smaller and leaves the rest alone.

    Parameters
    ----------
    images : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.
    offset_counts : float
        Counts without light.
    saturation_counts : float, optional
        Where the camera clips.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """
    batch = image_batch(images)
    ceiling = saturation_counts if saturation_counts is not None else _type_ceiling(images)
    with torch.inference_mode():
        parts = [_measure(block, offset_counts, ceiling, saturation_counts is None) for block in device_blocks(batch)]
    return Vitals(*(torch.cat(column) for column in zip(*parts, strict=True)))


def vignetting(images: NDArray[Any] | Tensor, *, offset_counts: float = 0.0) -> Tensor:
    """Share of the light that is missing in the corners against the centre, float64, shape (n,).

    The logarithm of the means of 16x16 tiles (fewer for small images) is fitted by ``a + b x + c y + d r^2``, r = 1 in
    the corners, without regard to outliers (Huber): illumination multiplies whatever the sample is, so that it shifts
    the logarithms alike where there is much of it and little. The slopes keep light that comes from a side from
    counting. The result is ``1 - exp(d)``. Tiles darker than their own noise count as that bright.
    """
    batch = image_batch(images)
    with torch.inference_mode():
        return torch.cat(
            [_vignetting(each.to(torch.float64), offset_counts, _noise(each)) for each in device_blocks(batch)]
        )


def _measure(block: Tensor, offset: float, ceiling: float | None, guess: bool) -> tuple[Tensor, ...]:
    wide = block.to(torch.float64)
    noise = _noise(block)
    rows, columns = block.shape[1] // BIN_PX, block.shape[2] // BIN_PX
    bins = _tile_means(wide, rows, columns, BIN_PX, BIN_PX).flatten(1)
    quantiles = torch.tensor([LOW_SHARE, HIGH_SHARE], dtype=torch.float64, device=block.device)
    low, high = torch.quantile(bins, quantiles, dim=1) - offset
    signal = high - low
    return (
        low,
        signal,
        noise,
        signal / noise,
        torch.where(high + low > 0, signal / (high + low), torch.nan),
        _saturated(wide, ceiling, guess),
        _vignetting(wide, offset, noise),
        _fine_share(wide),
    )


def _tile_means(wide: Tensor, rows: int, columns: int, tile_rows: int, tile_columns: int) -> Tensor:
    cut = wide[:, : rows * tile_rows, : columns * tile_columns]
    return cut.reshape(len(wide), rows, tile_rows, columns, tile_columns).mean((2, 4))


def _noise(block: Tensor) -> Tensor:
    # float32 is exact for counts of 16 bits; wider types are carried as they are.
    pixels = block.to(torch.float64 if block.dtype in (torch.float64, torch.int64) else torch.float32)
    down = pixels[:, :-2] + pixels[:, 2:] - 2 * pixels[:, 1:-1]
    across = down[:, :, :-2] + down[:, :, 2:] - 2 * down[:, :, 1:-1]
    return across.abs_().flatten(1).median(1).values.to(torch.float64) / _KERNEL_MEDIAN


def _type_ceiling(images: NDArray[Any] | Tensor) -> float | None:
    if isinstance(images, Tensor):
        whole = not (images.is_floating_point() or images.is_complex() or images.dtype == torch.bool)
        return float(torch.iinfo(images.dtype).max) if whole else None
    kind = np.asarray(images).dtype
    return float(np.iinfo(kind).max) if kind.kind in "ui" else None


def _saturated(wide: Tensor, ceiling: float | None, guess: bool) -> Tensor:
    """Share of pixels at the ceiling; `guess`: the frame's own maximum too, if it lies far above the median."""
    flat = wide.flatten(1)
    top = flat.amax(1)
    if ceiling is not None and not guess:
        return (flat >= ceiling).to(torch.float64).mean(1)
    piled = (flat == top[:, None]).to(torch.float64).mean(1)
    # Every fourth pixel each way, as in parfocal.models.saturation.
    sampled = wide[:, ::4, ::4].flatten(1)
    clear = top - torch.quantile(sampled, 0.5, dim=1) >= MIN_STEPS_ABOVE_MEDIAN
    if ceiling is not None:
        clear = clear | (top == ceiling)
    return torch.where(clear, piled, 0.0)


def _vignetting(wide: Tensor, offset: float, noise: Tensor) -> Tensor:
    rows, columns = (min(GRID, side // TILE_MIN_PX) for side in wide.shape[1:])
    tile_rows, tile_columns = wide.shape[1] // rows, wide.shape[2] // columns
    means = _tile_means(wide, rows, columns, tile_rows, tile_columns).flatten(1) - offset
    floor = (noise / (tile_rows * tile_columns) ** 0.5).clamp(min=1e-12)[:, None]
    level = torch.maximum(means, floor).log()
    basis = _radial_basis(rows, columns, wide.device)
    weight = torch.ones_like(level)
    fit = torch.zeros(len(wide), basis.shape[1], dtype=torch.float64, device=wide.device)
    for _ in range(_ROUNDS):
        weighted = weight[:, :, None] * basis
        fit = torch.linalg.solve(weighted.mT @ basis, (weighted.mT @ level[:, :, None]))[:, :, 0]
        residual = (level - fit @ basis.T).abs()
        scale = residual.median(1, keepdim=True).values / 0.6745
        weight = (_HUBER * scale / residual.clamp(min=1e-12)).clamp(min=1e-9, max=1.0)
    missing: Tensor = 1 - fit[:, 3].exp()
    return missing


@functools.lru_cache(maxsize=16)
def _radial_basis(rows: int, columns: int, device: torch.device) -> Tensor:
    """Columns 1, x, y and r^2 of the tiles' middles; x and y run from -1 to 1 over the frame, r is 1 in its corners."""
    y, x = (np.arange(rows) + 0.5) / rows * 2 - 1, (np.arange(columns) + 0.5) / columns * 2 - 1
    yy, xx = (plane.ravel() for plane in np.meshgrid(y, x, indexing="ij"))
    return torch.from_numpy(np.stack([np.ones_like(xx), xx, yy, (xx**2 + yy**2) / 2], axis=1)).to(device)


def _fine_share(wide: Tensor) -> Tensor:
    height, width = wide.shape[1:]
    window, fine, all_above = _bands(height, width, wide.device)
    spectrum = torch.fft.rfft2((wide - wide.mean((1, 2), keepdim=True)) * window)
    power = spectrum.real.square().addcmul_(spectrum.imag, spectrum.imag).flatten(1)
    share: Tensor = (power @ fine) / (power @ all_above)
    return share


@functools.lru_cache(maxsize=8)
def _bands(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Hann window; weights (0, 1, 2) of the half plane's cells above the fine frequency, and above the lowest ones."""
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    own_mirror = (fx == 0) | (fx == 0.5)
    twice = np.where(own_mirror, 1.0, 2.0)
    radius = np.hypot(fy, fx)
    lowest = np.hypot(fy * height, fx * width) > LOWEST_CELLS
    bands = [(twice * (radius > FINE_FREQUENCY)).ravel(), (twice * lowest).ravel()]
    fine, everything = (torch.from_numpy(np.ascontiguousarray(band)).to(device) for band in bands)
    return torch.from_numpy(window).to(device), fine, everything
