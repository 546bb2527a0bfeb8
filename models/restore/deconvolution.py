"""Known-PSF restoration in torch: Wiener's filter and Richardson-Lucy, both to the in-focus image of the microscope.

What both aim at is not the specimen but the image that the same microscope gives of it in focus, ``H0 s``: nothing
beyond the aperture is made up. With the frame ``y = Hd s + n`` Wiener's filter is ``H0 Hd* S / (|Hd|^2 S + N)``; the
defocus is known with a standard deviation only, so ``Hd`` is its mean and ``|Hd|^2`` the mean of its square: where the
doubt spans a zero of the transfer function, nothing is divided by it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from parfocal.models.restore.base import Blur, FloatImage
from parfocal.models.restore.levels import Levels
from parfocal.models.restore.transfer import Canvas, Transfers, frequency_of, transfers

RINGS = 28
POWER_RANGE, POWER_USUAL = (1.0, 5.0), 2.5
"""Exponents of the specimen's power spectrum that are believed, and the one where the frame does not tell."""
MISMATCH = 1e-3
"""Share of its own power by which no frame agrees with its model: borders, thickness, uneven light."""
ITERATIONS = 30
HALVED_FROM_PX, MORE_FROM_PX = 6.0, 25.0
QUICK_FULL, QUICK_HALVED, QUICK_MORE = 4, 8, 12
"""Accelerated iterations; the blur from which they run on every other pixel, and from which there are more."""


@dataclass(frozen=True)
class Observed:
    """One frame made ready: above background on the canvas, its spectrum, transfer functions, noise to signal."""

    canvas: Canvas
    padded: Tensor
    spectrum: Tensor
    transfer: Transfers
    noise_to_signal: Tensor
    levels: Levels


def observe(frame: FloatImage, blur: Blur, levels: Levels | None = None) -> Observed:
    """Prepare a frame (height, width) in counts for the filters."""
    levels = levels or Levels.of(frame)
    canvas = Canvas.of((frame.shape[0], frame.shape[1]), blur.diameter_px)
    padded = canvas.pad(torch.from_numpy(frame) - levels.background)
    spectrum = torch.fft.rfft2(padded)
    transfer = transfers(canvas, blur)
    ratio = _noise_to_signal(spectrum, transfer, levels, canvas.padded)
    return Observed(canvas, padded, spectrum, transfer, ratio, levels)


def _noise_to_signal(spectrum: Tensor, transfer: Transfers, levels: Levels, padded: tuple[int, int]) -> Tensor:
    """Ratio of the noise's power to the specimen's at every frequency.

    The specimen's power spectrum is a power law, as images' are (Field 1987), fitted to the rings in which the frame
    stands above its noise.
    """
    noise = levels.noise_sd**2 * padded[0] * padded[1]
    rings = _rings(padded)
    power = rings.mean(spectrum.real**2 + spectrum.imag**2)
    passed = rings.mean(transfer.square)
    told = (power > 2.0 * noise) & (passed > 1e-3)
    signal = (power - noise)[told] / passed[told]
    log_f, weight = np.log(rings.frequency[told]), rings.weight[told]
    if told.sum() >= 4:
        slope, level = np.polyfit(log_f, np.log(signal), 1, w=weight)
        exponent = float(np.clip(-slope, *POWER_RANGE))
        level = float(np.average(np.log(signal) + exponent * log_f, weights=weight**2))
    else:
        exponent = POWER_USUAL
        least = 0.05 * noise * rings.frequency[0] ** exponent
        level = float(
            np.log(max(np.median(signal * rings.frequency[told] ** exponent), least) if told.any() else least)
        )
    return torch.exp(_log_frequency(padded) * exponent + float(np.log(noise) - level)).add_(MISMATCH)


def wiener(seen: Observed, strength: float = 1.0) -> Tensor:
    """Wiener's filter, counts above background on the frame's pixels; `strength` scales the noise it believes in."""
    t = seen.transfer
    gain = t.focused * t.mean.conj() / (t.square + strength * seen.noise_to_signal)
    gain[0, 0] = 1.0  # the mean light is neither noise nor blurred
    return seen.canvas.crop(torch.fft.irfft2(seen.spectrum * gain, s=seen.canvas.padded))


def richardson_lucy(seen: Observed, iterations: int = ITERATIONS) -> Tensor:
    """Richardson-Lucy, then imaged in focus; counts above background on the frame's pixels.

    Light from outside the frame is estimated, not assumed: data count on the frame's own pixels only (Bertero and
    Boccacci 2005, Astron. Astrophys. 437). The noise's sd is added to the data as light that is always there, so that
    a pixel of read noise is not believed more than a bright one.
    """
    problem = _Poisson.of(seen, halved=False)
    estimate = problem.start()
    for _ in range(iterations):
        estimate = problem.step(estimate)
    return problem.focused(estimate)


def quick_richardson_lucy(seen: Observed, blur_px: float) -> Tensor:
    """About what thirty iterations give of a wide blur, at a tenth of their work: what the network is shown.

    Each step starts from where the last two point to (Biggs and Andrews 1997, Appl. Opt. 36); a wide blur leaves
    nothing above a quarter of a cycle a pixel, and is undone on every other pixel.
    """
    halved = blur_px >= HALVED_FROM_PX
    problem = _Poisson.of(seen, halved=halved)
    ahead = estimate = problem.start()
    step = last_step = change = torch.zeros_like(estimate)
    for number in range(QUICK_FULL if not halved else QUICK_HALVED if blur_px < MORE_FROM_PX else QUICK_MORE):
        if number >= 2:
            along = float((step * last_step).sum() / last_step.square().sum().clamp(min=1e-20))
            ahead = (estimate + min(max(along, 0.0), 1.0) * change).clamp(min=0.0)
        former, estimate = estimate, problem.step(ahead)
        change = estimate - former
        step, last_step = estimate - ahead, step
        ahead = estimate
    return problem.focused(estimate)


@dataclass(frozen=True)
class _Poisson:
    """One frame's likelihood: data and mask, on the canvas or on every other pixel of it, and the transfer function."""

    data: Tensor
    seen_share: Tensor
    transfer: Tensor
    seen: Observed
    floor: float

    @staticmethod
    def of(seen: Observed, *, halved: bool) -> _Poisson:
        floor = max(seen.levels.noise_sd, 1e-6)
        rows, columns = (side // (2 if halved else 1) for side in seen.canvas.padded)
        transfer = _low(seen.transfer.mean, rows, columns) if halved else seen.transfer.mean
        above = seen.padded
        mask = torch.zeros(seen.canvas.padded)
        seen.canvas.crop(mask).fill_(1.0)
        if halved:
            above = torch.fft.irfft2(_low(seen.spectrum, rows, columns) / 4.0, s=(rows, columns))
            mask = mask[::2, ::2].contiguous()
        data = (above + floor).clamp(min=0.0) * mask
        share = torch.fft.irfft2(torch.fft.rfft2(mask) * transfer.conj(), s=(rows, columns)).clamp(min=0.05)
        return _Poisson(data, share, transfer, seen, floor)

    def start(self) -> Tensor:
        """Even light."""
        return torch.full_like(self.data, float(self.data.sum() / (self.data > 0).sum().clamp(min=1)))

    def step(self, estimate: Tensor) -> Tensor:
        """One iteration."""
        size = estimate.shape
        expected = torch.fft.irfft2(torch.fft.rfft2(estimate) * self.transfer, s=size).clamp_(min=1e-3 * self.floor)
        ratio = torch.fft.rfft2(self.data / expected)
        back = torch.fft.irfft2(ratio.mul_(self.transfer.conj()), s=size).clamp_(min=0.0)
        stepped: Tensor = estimate * back.div_(self.seen_share)
        return stepped

    def focused(self, estimate: Tensor) -> Tensor:
        """The estimate as the focused microscope shows it, on the frame's pixels."""
        spectrum, canvas = torch.fft.rfft2(estimate), self.seen.canvas
        if estimate.shape != canvas.padded:
            spectrum = _high(4.0 * spectrum, canvas.padded)
        image = torch.fft.irfft2(spectrum * self.seen.transfer.focused, s=canvas.padded)
        return canvas.crop(image) - self.floor


def _low(spectrum: Tensor, rows: int, columns: int) -> Tensor:
    """The part of an rfft2 grid that a canvas of (rows, columns), every other pixel, has."""
    half = rows // 2
    kept = spectrum[:, : columns // 2 + 1]
    return torch.cat([kept[: rows - half], kept[kept.shape[0] - half :]])


def _high(spectrum: Tensor, size: tuple[int, int]) -> Tensor:
    """Inverse of `_low`: zero where the coarse grid has nothing."""
    rows, columns = spectrum.shape
    half = rows // 2
    full = torch.zeros(size[0], size[1] // 2 + 1, dtype=spectrum.dtype)
    full[: rows - half, :columns] = spectrum[: rows - half]
    full[size[0] - half :, :columns] = spectrum[rows - half :]
    return full


def reblur_residual(seen: Observed, restored: FloatImage) -> Tensor:
    """What the frame and the restored one disagree by, in the noise's sd: ``H0 y`` against ``Hd x``, no division.

    Both sides are the frame's light imaged twice, once in and once out of focus; a restoration that invents, or a
    blur that is not the one assumed, leaves a residual. Shape of the frame.
    """
    t = seen.transfer
    x = seen.canvas.pad(torch.from_numpy(restored) - seen.levels.background)
    both = torch.fft.irfft2(seen.spectrum * t.focused - torch.fft.rfft2(x) * t.mean, s=seen.canvas.padded)
    # White noise after the focused transfer function keeps this share of its power.
    h, (rows, columns) = t.focused.abs() ** 2, seen.canvas.padded
    share = float(2.0 * h.sum() - h[:, 0].sum()) / (rows * columns)
    return seen.canvas.crop(both) / (seen.levels.noise_sd * float(np.sqrt(share)) + 1e-9)


class Rings:
    """Means over rings of frequency, evenly spaced in its logarithm, of maps on an rfft2 grid."""

    def __init__(self, padded: tuple[int, int]) -> None:
        f = frequency_of(padded).numpy().ravel()
        edges = np.geomspace(1.5 / max(padded), 0.5, RINGS + 1)
        ring = np.digitize(f, edges) - 1
        inside = np.flatnonzero((ring >= 0) & (ring < RINGS))
        self._places = inside[np.argsort(ring[inside], kind="stable")]
        counts = np.bincount(ring[inside], minlength=RINGS)
        self._counts = counts[counts > 0]
        self._starts = np.cumsum(self._counts) - self._counts
        self.frequency = np.add.reduceat(f[self._places], self._starts, dtype=np.float64) / self._counts
        self.weight = np.sqrt(np.minimum(self._counts, 200.0))

    def mean(self, image: Tensor) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Mean over every ring that holds a frequency."""
        sums = np.add.reduceat(image.numpy().ravel()[self._places], self._starts, dtype=np.float64)
        return np.asarray(sums / self._counts)


@lru_cache(maxsize=8)
def _rings(padded: tuple[int, int]) -> Rings:
    return Rings(padded)


@lru_cache(maxsize=8)
def _log_frequency(padded: tuple[int, int]) -> Tensor:
    """Logarithm of the frequency, not below that of the first ring."""
    return torch.log(frequency_of(padded).clamp(min=float(_rings(padded).frequency[0])))
