"""Markers of an image's artefacts: what the MM-style score and its classifier look at."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, max_pool2d

from parfocal.models.quality_scaling import levels

BANDS = (0.015, 0.04, 0.08, 0.15, 0.25, 0.38, 0.5)
"""Borders of the spectral bands, cycles a pixel; what lies beyond the last, in the corners, is nearly all noise."""
STEP_QUANTILES = (0.3, 0.5, 0.7, 0.85, 0.98)
MARKER_NAMES = (
    "frc_cutoff",
    "frc_censored",
    "power_slope",
    *(f"band_{index}" for index in range(1, len(BANDS))),
    "snr",
    "noise_dark",
    "noise_growth",
    "noise_skew",
    *(f"noise_step_{round(100 * share)}" for share in STEP_QUANTILES[:-1]),
    "fill",
    "contrast",
    "shade_background",
    "shade_background_sigmas",
    "shade_background_range",
    "shade_bright",
    "shade_bright_sigmas",
)
MARKERS = len(MARKER_NAMES)
BLOCK_PX = 8
PART_PX, PART_FROM_PX = 512, 1_000_000
"""Of frames of so many pixels a square of this side is measured where the whole would take most of a second. Half of a
frame does not do: of real vignetted ones of 512 px fewer were told from clean ones (0.94 of the pairs, not 0.98)."""
GRID = 16
FLOOR = 10**-3.5
"""Noise over signal below which all frames count as free of noise."""
_ROUNDS = 6
_KERNEL_NORM = 6.0
_MEDIAN_OF_ABS = 0.6744897501960817


class Resolution(Protocol):
    """What the markers need of a `parfocal.models.metrics.frc.FrcResult`."""

    @property
    def cutoff(self) -> Tensor:
        """Share of Nyquist, NaN where undefined."""

    @property
    def censored(self) -> Tensor:
        """Where the curve never falls to the threshold."""


def markers(images: Tensor, frc: Resolution | None = None) -> Tensor:
    """Measure a batch of frames.

    None of them changes with the camera's gain or offset, up to the rounding of counts: each is a share, a ratio to the
    frame's own range of signal, a slope or a shape of a distribution.

    Parameters
    ----------
    images : Tensor, shape (n, h, w)
        Counts, finite, both sides at least 32 px.
    frc : FrcResult, optional
        Robust-mode single-image FRC of the same images, if the caller has it.

    Returns
    -------
    Tensor of float32, shape (n, MARKERS)
        In the order of `MARKER_NAMES`, finite also for a constant frame.
    """
    frames = images.to(torch.float32)
    units = _units(frames)
    return torch.cat([_local(frames, units, frc), _brightness(units), _shade(units)], dim=1)


def quick_markers(scaled: Tensor) -> Tensor:
    """The same, of large frames in a fraction of the time: for use on every frame of a session.

    What light and shade are like, the whole frame tells. Its noise and how far it resolves are measured on a square of
    `PART_PX`, the one with most in it, where a frame has `PART_FROM_PX` pixels or more.

    Parameters
    ----------
    scaled : Tensor of float32, shape (n, h, w)
        Frames in units of their own range of signal, as `quality_scaling.scale` gives them.

    Returns
    -------
    Tensor of float32, shape (n, MARKERS)
    """
    height, width = scaled.shape[1:]
    if min(height, width) < PART_PX or height * width < PART_FROM_PX:
        return markers(scaled)
    parts = torch.stack([one[_fullest(one)] for one in scaled])
    return torch.cat([_local(parts, parts), _brightness(scaled), _shade(scaled)], dim=1)


def _units(frames: Tensor) -> Tensor:
    """In units of each frame's own range of signal."""
    low, high = levels(frames)
    span = (high - low).clamp(min=torch.finfo(torch.float32).tiny)
    # Held within a few of the frame's own peaks, or one hot pixel would be most of the spectrum.
    return ((frames - low[:, None, None]) / span[:, None, None]).clamp(-4.0, 4.0)


def _local(frames: Tensor, units: Tensor, frc: Resolution | None = None) -> Tensor:
    """FRC, spectrum and noise."""
    if frc is None:
        from parfocal.models.metrics.frc import single_image_frc

        frc = single_image_frc(frames, mode="robust")
    # Censored: everything correlates. Undefined but not censored: nothing does.
    resolved = torch.stack([torch.where(frc.censored, 1.0, frc.cutoff.nan_to_num(0.0)), frc.censored], dim=1).float()
    return torch.cat([resolved, _spectrum(units), _noise(units)], dim=1)


def _fullest(units: Tensor) -> tuple[slice, slice]:
    """Of the squares of `PART_PX` that tile a frame (h, w), the one whose blocks differ most."""
    side = PART_PX // BLOCK_PX
    blocks = avg_pool2d(units[None, None], BLOCK_PX)[0, 0]
    rows, columns = blocks.shape[0] // side, blocks.shape[1] // side
    squares = blocks[: rows * side, : columns * side].reshape(rows, side, columns, side)
    y, x = divmod(int(squares.var(dim=(1, 3)).argmax()), columns)
    return slice(y * PART_PX, (y + 1) * PART_PX), slice(x * PART_PX, (x + 1) * PART_PX)


def _spectrum(units: Tensor) -> Tensor:
    """Slope of log power against log frequency, and log10 of the mean power of each band over that of the lowest."""
    height, width = units.shape[1:]
    window, index, weight, count, log_f = _rings(height, width)
    spectrum = torch.fft.rfft2((units - units.mean((1, 2), keepdim=True)) * window.to(units.device))
    power = (spectrum.real.square() + spectrum.imag.square()) * weight.to(units.device)
    sums = power.new_zeros(len(units), len(count) + 1).index_add_(1, index.to(units.device), power.flatten(1))
    mean = torch.log10(sums[:, :-1] / count.to(units.device) + 1e-9)
    inside, line = mean[:, : len(BANDS) - 1], log_f.to(units.device)
    slope = ((inside - inside.mean(1, keepdim=True)) * line).sum(1, keepdim=True) / line.square().sum()
    return torch.cat([slope, mean[:, 1:] - mean[:, :1]], dim=1)


@functools.lru_cache(maxsize=8)
def _rings(height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Hann window; band of each cell of the rfft2 (last: none); weight of its columns; cells a band; centred log f."""
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    edges = np.asarray([*BANDS, 1.0])
    index = np.searchsorted(edges, radius.ravel(), side="right") - 1
    bands = len(edges) - 1
    index[index < 0] = bands
    weight = np.full(width // 2 + 1, 2.0)
    weight[0] = 1.0
    if width % 2 == 0:
        weight[-1] = 1.0
    count = np.bincount(index, weights=np.broadcast_to(weight, radius.shape).ravel(), minlength=bands + 1)[:bands]
    log_f = np.log10(np.sqrt(edges[: bands - 1] * edges[1:bands]))
    window = np.hanning(height)[:, None] * np.hanning(width)[None, :]
    return (
        _tensor(window), torch.from_numpy(index), _tensor(weight), _tensor(np.maximum(count, 1.0)),
        _tensor(log_f - log_f.mean()),
    )  # fmt: skip


def _noise(units: Tensor) -> Tensor:
    """Signal over noise; noise in the dark; how it grows with brightness; the shape of its distribution in the dark.

    Noise is the response to Immerkaer's kernel (1996), blind to what is linear; of blocks of 8 px those whose mean is
    in the lowest 40 % are dark, in the highest 20 % bright. Of the bright blocks the quietest quarter counts, as the
    others hold edges.
    """
    second = units[:, :-2] - 2 * units[:, 1:-1] + units[:, 2:]
    response = second[:, :, :-2] - 2 * second[:, :, 1:-1] + second[:, :, 2:]
    sample = response[:, ::2, ::2].abs().flatten(1)
    overall = _order_statistics(sample, [(sample.shape[1] - 1) // 2])[:, 0] / (_MEDIAN_OF_ABS * _KERNEL_NORM)
    inner = units[:, 1:-1, 1:-1]
    mean = avg_pool2d(inner[:, None], BLOCK_PX)[:, 0].flatten(1)
    power = avg_pool2d(response.square()[:, None], BLOCK_PX)[:, 0].flatten(1) / _KERNEL_NORM**2
    order = mean.argsort(1)
    blocks = order.shape[1]
    darkest, brightest = order[:, : max(1, round(0.4 * blocks))], order[:, -max(1, round(0.2 * blocks)) :]
    dark = power.gather(1, darkest).median(1).values.sqrt().clamp(min=FLOOR)
    bright = power.gather(1, brightest).quantile(0.25, dim=1).sqrt().clamp(min=FLOOR)
    snr = -torch.log10(overall.clamp(min=FLOOR))
    return torch.cat(
        [torch.stack([snr, -torch.log10(dark), torch.log10(bright / dark)], dim=1), _shape(inner, darkest)], dim=1
    )


def _shape(inner: Tensor, dark: Tensor) -> Tensor:
    """Skew of pixels over their neighbours in dark blocks, and quantiles of the step from a pixel to the next.

    Dark events are few and whole: most steps are none or one. A normal distribution has steps of all sizes. Quantiles,
    because of rare hot pixels.
    """
    n, rows, columns = len(inner), inner.shape[1] // BLOCK_PX, inner.shape[2] // BLOCK_PX
    cut = inner[:, : rows * BLOCK_PX, : columns * BLOCK_PX]
    blocks = cut.reshape(n, rows, BLOCK_PX, columns, BLOCK_PX).transpose(2, 3).reshape(n, rows * columns, BLOCK_PX, -1)
    chosen = blocks[torch.arange(n)[:, None], dark]
    middle = chosen[:, :, 1:-1:2, 1:-1]
    around = 0.25 * (
        chosen[:, :, :-2:2, 1:-1] + chosen[:, :, 2::2, 1:-1] + chosen[:, :, 1:-1:2, :-2] + chosen[:, :, 1:-1:2, 2:]
    )
    over = _ranked((middle - around).flatten(1), (0.05, 0.5, 0.95))
    skew = (over[:, 2] + over[:, 0] - 2 * over[:, 1]) / (over[:, 2] - over[:, 0]).clamp(min=FLOOR)
    steps = _ranked((chosen[:, :, ::2, 1:] - chosen[:, :, ::2, :-1]).abs().flatten(1), STEP_QUANTILES)
    shares = torch.log10(steps[:, :-1] / steps[:, -1:].clamp(min=FLOOR) + 1e-2)
    return torch.cat([skew[:, None], shares], dim=1)


def _ranked(values: Tensor, quantiles: Sequence[float]) -> Tensor:
    return _order_statistics(values, [round(share * (values.shape[1] - 1)) for share in quantiles])


def _order_statistics(values: Tensor, at: list[int]) -> Tensor:
    """Of each row; a few of them need no whole order, which takes three times as long."""
    if values.device.type != "cpu":
        return values.sort(dim=1).values[:, at]
    return torch.from_numpy(np.partition(values.numpy(), at, axis=1)[:, at])


def _brightness(units: Tensor) -> Tensor:
    """Mean, and standard deviation, in units of the frame's range."""
    mean = units.mean(dim=(1, 2))
    # Ten times faster than the one operation for both.
    square = (units - mean[:, None, None]).square_().mean(dim=(1, 2)) * (units[0].numel() / (units[0].numel() - 1))
    return torch.stack([mean, square.sqrt()], dim=1)


def _shade(units: Tensor) -> Tensor:
    """How background and bright structures fall off from the middle, in size and in standard errors.

    Over a grid of 16x16 cells the darkest and the brightest sixteenth of each is taken, and a plane and a paraboloid
    fitted: below most of the background, over most of the logarithms of the brightness, where a Gaussian vignette is
    a paraboloid.
    """
    grid = max(4, min(GRID, min(units.shape[1:]) // 8))
    fine = adaptive_avg_pool2d(units[:, None], 4 * grid)
    bottom, top = -max_pool2d(-fine, 4)[:, 0].flatten(1), max_pool2d(fine, 4)[:, 0].flatten(1)
    below = _envelope(bottom, grid, 0.1)
    above = _envelope(torch.log(top.clamp(min=0.02)), grid, 0.9)
    below[:, 0] = torch.asinh(10.0 * below[:, 0])
    below[:, 2] = torch.log10(below[:, 2].clamp(min=1e-3))
    return torch.cat([below, above[:, :2]], dim=1)


def _envelope(values: Tensor, grid: int, expectile: float) -> Tensor:
    """Expectile fit of ``a + b x + c y - d r^2`` to cells (n, grid**2): d, asinh of d over its error, range of the fit.

    Least squares whose weights are `expectile` above the fit and the rest below, which finds the lower or upper edge
    of what scatters to one side (Newey and Powell 1987).
    """
    basis = _paraboloid(grid).to(values.device)
    weight = torch.full_like(values, 0.5)
    normal, coefficients = torch.empty(0), torch.empty(0)
    for _ in range(_ROUNDS):
        weighted = basis * weight[..., None]
        normal = weighted.transpose(1, 2) @ basis
        coefficients = torch.linalg.solve(normal, weighted.transpose(1, 2) @ values[..., None])[..., 0]
        weight = torch.where(values > coefficients @ basis.T, expectile, 1.0 - expectile)
    fitted = coefficients @ basis.T
    scatter = (weight * (values - fitted).square()).sum(1) / weight.sum(1)
    error = (scatter * torch.linalg.inv(normal)[:, 3, 3] * weight.mean(1)).sqrt().clamp(min=1e-6)
    size = -coefficients[:, 3]
    return torch.stack([size, torch.asinh(size / error), fitted.amax(1) - fitted.amin(1)], dim=1)


@functools.lru_cache(maxsize=8)
def _paraboloid(grid: int) -> Tensor:
    """Terms (grid**2, 4) 1, y, x and x^2 + y^2 at the cells, in sides of the image from its middle."""
    line = (np.arange(grid) + 0.5) / grid - 0.5
    y, x = (part.ravel() for part in np.meshgrid(line, line, indexing="ij"))
    return _tensor(np.stack([np.ones_like(x), y, x, x**2 + y**2], axis=1))


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
