"""Fourier ring correlation: the finest detail of an image, or of two halves of its photons, that is not noise."""

from __future__ import annotations

import enum
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv1d, pad

from parfocal.models.base import ModelError
from parfocal.models.metrics import frc_calibration as calibration
from parfocal.models.metrics.rings import Rings, device_blocks, image_batch, miplib_rings, rings
from parfocal.models.metrics.thinning import Halves, thin

Mode = Literal["robust", "reference"]
Threshold = Literal["1/7", "half-bit"]

# Smoothing over the rings: binomial, standard deviation of one ring.
_KERNEL = (0.0625, 0.25, 0.375, 0.25, 0.0625)
_KERNEL_SQUARES = 70 / 256
_SLOPE_RINGS = 4
_MIN_SIGNIFICANCE = 4.0


class FrcStatus(enum.IntEnum):
    """What became of the search for a resolution; only `MEASURED` comes with a number."""

    MEASURED = 0
    NEVER_CROSSES = 1
    BEYOND_SAMPLING = 2
    NO_CORRELATION = 3
    CONSTANT = 4
    LEFT_RANGE = 5

    @property
    def reason(self) -> str:
        """In words."""
        return _REASONS[self]


_REASONS = {
    FrcStatus.MEASURED: "",
    FrcStatus.NEVER_CROSSES: "the correlation never falls to the threshold: too little noise to tell a limit",
    FrcStatus.BEYOND_SAMPLING: "the correlation holds to frequencies whose resolution would be finer than two pixels",
    FrcStatus.NO_CORRELATION: "nothing in the image correlates at any frequency",
    FrcStatus.CONSTANT: "all pixels are the same",
    FrcStatus.LEFT_RANGE: "the simplex search of the reference implementation left the range of the curve",
}


@dataclass(frozen=True)
class FrcResult:
    """Fourier ring correlation of n images; every tensor on the device of the images.

    Parameters
    ----------
    cutoff : Tensor of float64, shape (n,)
        Frequency of the crossing as a share of the curve's Nyquist frequency (of the half image for a single image);
        NaN where it is undefined.
    resolution_px : Tensor of float64, shape (n,)
        Resolution in px of the image; NaN unless `status` is MEASURED.
    bound_px : Tensor of float64, shape (n,)
        Finest resolution that an image of this shape could have been told to have.
    censored : Tensor of bool, shape (n,)
        The resolution is at `bound_px` or finer, for all the curve says. This does not mean sharp: an image without
        noise correlates with itself, however blurred. False where nothing correlates or the search failed, although
        `resolution_px` is NaN there too.
    status : Tensor of int64, shape (n,)
        A `FrcStatus` each.
    sd_px : Tensor of float64, shape (n,)
        Standard deviation of `resolution_px` from the noise of the curve at its crossing; NaN if undefined or in
        reference mode.
    curve : Tensor, shape (n, bins)
        The correlation of each ring: as measured, not smoothed. float32 in reference mode, else float64.
    frequency : Tensor of float64, shape (bins,)
        Inner edge of each ring as a share of the curve's Nyquist frequency.
    threshold : Tensor of float64, shape (bins,)
    pixel_um : float or None
    """

    cutoff: Tensor
    resolution_px: Tensor
    bound_px: Tensor
    censored: Tensor
    status: Tensor
    sd_px: Tensor
    curve: Tensor
    frequency: Tensor
    threshold: Tensor
    pixel_um: float | None = None

    @property
    def resolution_um(self) -> Tensor:
        """Resolution in um; NaN throughout if the pixel size was not given."""
        return self.resolution_px * (math.nan if self.pixel_um is None else self.pixel_um)

    def reasons(self) -> list[str]:
        """Why there is no number, for each image; empty where there is one."""
        return [FrcStatus(int(code)).reason for code in self.status.tolist()]


def frc_curve(images: NDArray[Any] | Tensor, *, mode: Mode = "robust") -> Tensor:
    """Correlation between the two diagonal pairs of quarter-images, ring by ring, shape (n, bins).

    Parameters
    ----------
    images : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.
    mode : str
        "robust": float64, the mean subtracted (so that an offset of the camera leaves no trace), the sign kept (so that
        noise averages to zero), odd sides cut by one pixel. "reference": float32, as miplib computes it.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """
    batch = image_batch(images)
    return _curves(batch, _check_mode(mode))[0]


def single_image_frc(
    images: NDArray[Any] | Tensor, *, mode: Mode = "robust", pixel_um: float | None = None
) -> FrcResult:
    """Resolution of single images (Koho et al. 2019): halves by diagonal sub-sampling, threshold 1/7, calibrated.

    Parameters
    ----------
    images : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.
    mode : str
        "robust": first crossing, by linear interpolation, of the curve smoothed over about a ring; undefined where
        there is none, where the resolution would be finer than two pixels, or where what correlates is not significant.
        "reference": the same number as ``miplib.calculate_single_image_frc`` with its defaults, and undefined
        where that raises.
    pixel_um : float, optional
        Size of a pixel at the sample, for `FrcResult.resolution_um`.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """
    batch = image_batch(images)
    with torch.inference_mode():
        curve, table = _curves(batch, _check_mode(mode))
        if mode == "reference":
            # Of the square that miplib pads the halves to, which the rings of a lying image do not fill.
            return _by_simplex(curve, -(-max(batch.shape[1:]) // 2) // 2, pixel_um)
        threshold = torch.full((table.count,), calibration.SEVENTH, dtype=torch.float64, device=curve.device)
        constant = batch.flatten(1).amax(1) == batch.flatten(1).amin(1)
        return _first_crossing(curve, table, threshold, constant, _SingleImage(), pixel_um)


def two_half_frc(
    counts: NDArray[Any] | Tensor,
    seed: int,
    gain: float,
    offset: float,
    *,
    threshold: Threshold = "1/7",
    pixel_um: float | None = None,
) -> FrcResult:
    """Resolution of images whose photons are dealt out to two halves at random (binomial thinning); robust mode.

    The halves of Poisson counts are independent, so that no calibration is needed. Each has half of the light: the
    resolution is that of an exposure of half the length. See `thinning.thin` for what read-out noise does.

    Parameters
    ----------
    counts : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.
    seed : int
        Of the dealing; an image's result does not depend on the batch it is in.
    gain : float
        Counts per photo-electron.
    offset : float
        Counts without light.
    threshold : str
        "1/7" or "half-bit" (van Heel and Schatz 2005).
    pixel_um : float, optional
        Size of a pixel at the sample.

    Raises
    ------
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    parfocal.models.base.ModelError
        A gain that is not positive, or an unknown threshold.
    """
    if threshold not in _THRESHOLDS:
        raise ModelError(f"unknown threshold {threshold!r} of a Fourier ring correlation; there are 1/7 and half-bit")
    batch = image_batch(counts)
    with torch.inference_mode():
        halves = thin(batch, seed, gain, offset)
        table = rings(batch.shape[1], batch.shape[2], batch.device)
        curve = _half_curves(halves, table)
        constant = (batch == batch[:, :1, :1]).flatten(1).all(1)
        return _first_crossing(curve, table, _THRESHOLDS[threshold](table.points), constant, _TwoImages(), pixel_um)


def half_bit(points: Tensor) -> Tensor:
    """Half-bit threshold (van Heel and Schatz 2005) for rings of so many points of the whole plane."""
    root = points.clamp(min=1.0).sqrt()
    return (0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root)


_THRESHOLDS: dict[str, Callable[[Tensor], Tensor]] = {
    "1/7": lambda points: torch.full_like(points, calibration.SEVENTH),
    "half-bit": half_bit,
}


def _check_mode(mode: str) -> Mode:
    if mode == "robust" or mode == "reference":
        return mode  # type: ignore[return-value]
    raise ModelError(f"unknown mode {mode!r} of a Fourier ring correlation; there are robust and reference")


# Spectra and curves


def _curves(batch: Tensor, mode: Mode) -> tuple[Tensor, Rings]:
    """Curve of each image, and the rings it was summed over."""
    pairs = ((3, 0), (2, 1))  # of the quarters (row, column parity) 00, 01, 10, 11: the two diagonals
    if mode == "robust":
        even = batch[:, : batch.shape[1] // 2 * 2, : batch.shape[2] // 2 * 2]
        table = rings(even.shape[1] // 2, even.shape[2] // 2, batch.device)
        curves = [
            _correlation(_spectra(_quarters(block, centred=True), table), table, pairs) for block in device_blocks(even)
        ]
        return torch.cat(curves), table
    height, width = -(-batch.shape[1] // 2), -(-batch.shape[2] // 2)
    table = miplib_rings(height, width, batch.device)
    curves = []
    for block in device_blocks(batch):
        curves.append(_correlation(_spectra(_padded_quarters(block), table), table, pairs, narrow=True))
    return torch.cat(curves), table


def _half_curves(halves: Halves, table: Rings) -> Tensor:
    blocks = zip(device_blocks(halves.first), device_blocks(halves.second), strict=True)
    pairs = (torch.stack([_windowed(first), _windowed(second)], 1) for first, second in blocks)
    return torch.cat([_correlation(_spectra(pair, table), table, ((0, 1),)) for pair in pairs])


def _windowed(block: Tensor) -> Tensor:
    """Without the mean, and damped towards the edges."""
    wide = block.to(torch.float64)
    return (wide - wide.mean((1, 2), keepdim=True)) * _window(block.shape[1], block.shape[2], block.device)


@functools.lru_cache(maxsize=16)
def _window(height: int, width: int, device: torch.device) -> Tensor:
    """Root of a Hamming window along each axis, as miplib takes it in two dimensions."""
    window = np.sqrt(np.hamming(height))[:, None] * np.sqrt(np.hamming(width))[None, :]
    return torch.from_numpy(window).to(device)


@functools.lru_cache(maxsize=16)
def _quarter_window(height: int, width: int, device: torch.device) -> Tensor:
    window = _window(height, width, device)
    return torch.stack([window[row::2, column::2] for row in (0, 1) for column in (0, 1)]).contiguous()


def _quarters(images: Tensor, *, centred: bool) -> Tensor:
    """The four windowed images of every other pixel (n, 4, height // 2, width // 2), of even sides."""
    number, height, width = images.shape
    window = _quarter_window(height, width, images.device)
    split = images.reshape(number, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3)
    # One strided pass that also converts; what follows runs over memory in order, and in place.
    out = torch.empty(split.shape, dtype=torch.float64, device=images.device)
    quarters = out.copy_(split).view(number, 4, height // 2, width // 2)
    if centred:
        quarters -= quarters.mean((1, 2, 3), keepdim=True)
    return quarters.mul_(window)


def _padded_quarters(block: Tensor) -> Tensor:
    """The same for any shape, padded to one square, as miplib does: the extra row or column first."""
    height, width = -(-block.shape[1] // 2), -(-block.shape[2] // 2)
    if height == width and not (block.shape[1] % 2 or block.shape[2] % 2):
        return _quarters(block, centred=False)
    images = block.to(torch.float64) * _window(block.shape[1], block.shape[2], block.device)
    side = max(height, width)
    out = images.new_zeros(len(images), 4, side, side)
    for index in range(4):
        part = images[:, index // 2 :: 2, index % 2 :: 2]
        # First to the shape of the larger of the pair, then to the square.
        top = height - part.shape[1] + (side - height + 1) // 2
        left = width - part.shape[2] + (side - width + 1) // 2
        out[:, index, top : top + part.shape[1], left : left + part.shape[2]] = part
    return out


def _spectra(parts: Tensor, table: Rings) -> Tensor:
    """Half-plane spectra of (n, k, h, w), with only the columns that a ring reaches."""
    spectra: Tensor = torch.fft.rfft2(parts)
    return spectra[..., : table.columns]


def _correlation(spectra: Tensor, table: Rings, pairs: tuple[tuple[int, int], ...], *, narrow: bool = False) -> Tensor:
    """Mean over the pairs of ``Re sum(F1 conj F2) / sqrt(sum|F1|^2 sum|F2|^2)``, shape (n, rings).

    `narrow` is miplib's: the magnitude, and everything after the sums in float32, overflow and all.
    """
    number = len(spectra)
    real, imaginary = spectra.real, spectra.imag
    planes = torch.empty(number, 3 * len(pairs), *spectra.shape[2:], dtype=torch.float64, device=spectra.device)
    for index, (a, b) in enumerate(pairs):
        for plane, (c, d) in enumerate(((a, b), (a, a), (b, b))):
            out = planes[:, 3 * index + plane]
            torch.mul(real[:, c], real[:, d], out=out).addcmul_(imaginary[:, c], imaginary[:, d])
    sums = table.sums(planes.flatten(0, 1)).view(number, len(pairs), 3, table.count)
    if not narrow:
        cross, first, second = sums.unbind(2)
        # No power in a ring, no correlation; the roots apart, so that nothing under- or overflows.
        return torch.nan_to_num(cross / (first.sqrt() * second.sqrt()), nan=0.0, posinf=0.0, neginf=0.0).mean(1)
    # Half sums of symmetric rings: the whole ones first, since float32 ends somewhere.
    whole = sums.mul_(1.0 if table.cells is not None else 2.0).to(torch.float32)
    cross, first, second = whole.unbind(2)
    each = torch.nan_to_num(cross.abs() / (first * second).sqrt(), nan=0.0, posinf=0.0)
    return each[:, 0] * 0.5 + each[:, 1] * 0.5


# Crossings


class _SingleImage:
    """From the cut-off of quarter-images to px."""

    limit = staticmethod(calibration.sampling_limit)
    resolution_px = staticmethod(calibration.single_image_resolution_px)
    log_slope = staticmethod(calibration.log_slope)
    # Two pairs, and a window that leaves 1 / 1.86 of the cells independent.
    cells_per_point = 2 / 1.86


class _TwoImages:
    """From the cut-off of two images to px."""

    cells_per_point = 1 / 1.86

    @staticmethod
    def limit() -> float:
        return 1.0

    @staticmethod
    def resolution_px(cutoff: Tensor) -> Tensor:
        return 2.0 / cutoff

    @staticmethod
    def log_slope(cutoff: Tensor) -> Tensor:
        return -1.0 / cutoff


def _first_crossing(
    curve: Tensor,
    table: Rings,
    threshold: Tensor,
    constant: Tensor,
    scale: _SingleImage | _TwoImages,
    pixel_um: float | None,
) -> FrcResult:
    """Robust mode: where the smoothed curve first falls to the threshold."""
    bins = table.count
    above = _smooth(curve, table.points) - threshold
    # The zero frequency says nothing, and thresholds that depend on the points of a ring are high there.
    above[:, 0] = above[:, 1]
    below = above <= 0
    crosses = below.any(1)
    index = below.to(torch.int8).argmax(1)
    right = index.clamp(min=1)[:, None]
    high, low = above.gather(1, right - 1)[:, 0], above.gather(1, right)[:, 0]
    cutoff = (right[:, 0] - 1 + high / (high - low)) / bins
    significant = _significance(curve, table, torch.where(crosses, index, bins), scale) >= _MIN_SIGNIFICANCE
    last = torch.full_like(cutoff, (bins - 1) / bins)
    status = torch.full_like(index, FrcStatus.MEASURED)
    for code, holds in (
        (FrcStatus.BEYOND_SAMPLING, cutoff > scale.limit()),
        (FrcStatus.NEVER_CROSSES, ~crosses),
        (FrcStatus.NO_CORRELATION, (crosses & (index == 0)) | ~significant),
        (FrcStatus.CONSTANT, constant),
    ):
        status = torch.where(holds, int(code), status)
    measured = status == FrcStatus.MEASURED
    cutoff = torch.where(measured, cutoff, torch.nan)
    resolution = scale.resolution_px(cutoff)
    sd = _cutoff_sd(above, threshold, table, right[:, 0], scale) * (scale.log_slope(cutoff) * resolution).abs()
    return FrcResult(
        cutoff=cutoff,
        resolution_px=resolution,
        bound_px=scale.resolution_px(last).clamp(min=2.0),
        censored=(status == FrcStatus.NEVER_CROSSES) | (status == FrcStatus.BEYOND_SAMPLING),
        status=status,
        sd_px=sd,
        curve=curve,
        frequency=torch.arange(bins, dtype=torch.float64, device=curve.device) / bins,
        threshold=threshold,
        pixel_um=pixel_um,
    )


def _smooth(curve: Tensor, points: Tensor) -> Tensor:
    """Smooth over the rings, each counting as often as it has points; the zero frequency, emptied, not at all."""
    kernel = torch.tensor(_KERNEL, dtype=curve.dtype, device=curve.device)[None, None]
    margin = len(_KERNEL) // 2
    weight = torch.cat([torch.zeros_like(points[:1]), points[1:]])
    both = pad(torch.cat([curve * weight, weight[None]]), (margin, margin))
    sums = conv1d(both[:, None], kernel)[:, 0]
    return sums[:-1] / sums[-1]


def _significance(curve: Tensor, table: Rings, end: Tensor, scale: _SingleImage | _TwoImages) -> Tensor:
    """Mean correlation of the rings before `end` over its standard deviation if there were only noise."""
    inside = torch.arange(table.count, device=curve.device)[None] < end[:, None]
    cells = table.points * scale.cells_per_point * inside
    cells[:, 0] = 0
    return (curve * cells).sum(1) / cells.sum(1).sqrt().clamp(min=1e-9)


def _cutoff_sd(
    above: Tensor, threshold: Tensor, table: Rings, right: Tensor, scale: _SingleImage | _TwoImages
) -> Tensor:
    """Standard deviation of the cut-off: that of the smoothed curve at the threshold, over its slope there."""
    first = (right - _SLOPE_RINGS).clamp(min=0)
    after = (right + _SLOPE_RINGS - 1).clamp(max=table.count - 1)
    ends = above.gather(1, torch.stack([first, after], 1))
    slope = (ends[:, 0] - ends[:, 1]) / (after - first).clamp(min=1)
    spread = (1 - threshold[right].square()) * (_KERNEL_SQUARES / (scale.cells_per_point * table.points[right])).sqrt()
    return torch.where(slope > 0, spread / slope, torch.inf) / table.count


def _by_simplex(curve: Tensor, nyquist: int, pixel_um: float | None) -> FrcResult:
    """Reference mode: miplib's search, image by image."""
    bins = curve.shape[1]
    values = curve.cpu().numpy()
    frequency = np.arange(bins).astype(np.float32) / np.float32(nyquist)
    cutoff = np.full(len(values), np.nan, dtype=np.float32)
    status = np.zeros(len(values), dtype=np.int64)
    for index, each in enumerate(values):
        try:
            cutoff[index] = calibration.miplib_root(frequency, each)
        except calibration.NoRootError as error:
            status[index] = FrcStatus.LEFT_RANGE if error.left_range else FrcStatus.NEVER_CROSSES
    resolution = torch.from_numpy(calibration.miplib_resolution_px(cutoff)).to(curve.device)
    last = torch.full_like(resolution, float(frequency[-1]))
    told = torch.from_numpy(status).to(curve.device)
    return FrcResult(
        cutoff=torch.from_numpy(cutoff.astype(np.float64)).to(curve.device),
        resolution_px=resolution,
        bound_px=calibration.single_image_resolution_px(last),
        censored=told == FrcStatus.NEVER_CROSSES,
        status=told,
        sd_px=torch.full_like(resolution, torch.nan),
        curve=curve,
        frequency=torch.from_numpy(frequency.astype(np.float64)).to(curve.device),
        threshold=torch.full((bins,), calibration.SEVENTH, dtype=torch.float64, device=curve.device),
        pixel_um=pixel_um,
    )
