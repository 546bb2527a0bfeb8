"""Known-PSF restoration in torch: Wiener's filter and Richardson-Lucy, both to the in-focus image of the microscope.

What both aim at is not the specimen but the image that the same microscope gives of it in focus, ``H0 s``: nothing
beyond the aperture is made up. With the frame ``y = Hd s + n`` Wiener's filter is ``H0 Hd* S / (|Hd|^2 S + N)``; the
defocus is known with a standard deviation only, so ``Hd`` is its mean and ``|Hd|^2`` the mean of its square: where the
doubt spans a zero of the transfer function, nothing is divided by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
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
    power: NDArray[np.float32]
    """Of the spectrum, flat."""
    transfer: Transfers
    noise_to_signal: Tensor
    levels: Levels


def observe(frame: FloatImage, blur: Blur, levels: Levels | None = None) -> Observed:
    """Prepare a frame (height, width) in counts for the filters."""
    levels = levels or Levels.of(frame)
    canvas = Canvas.of((frame.shape[0], frame.shape[1]), blur.diameter_px)
    padded = canvas.padded_by(lambda middle: torch.sub(torch.from_numpy(frame), levels.background, out=middle))
    spectrum = torch.fft.rfft2(padded)
    there = spectrum.numpy().ravel()
    power = there.real**2 + there.imag**2
    transfer = transfers(canvas, blur)
    ratio = _noise_to_signal(power, transfer, levels, canvas.padded)
    return Observed(canvas, padded, spectrum, power, transfer, ratio, levels)


def _noise_to_signal(
    spectral: NDArray[np.float32], transfer: Transfers, levels: Levels, padded: tuple[int, int]
) -> Tensor:
    """Ratio of the noise's power to the specimen's at every frequency.

    The specimen's power spectrum is a power law, as images' are (Field 1987), fitted to the rings in which the frame
    stands above its noise.
    """
    noise = levels.noise_sd**2 * padded[0] * padded[1]
    rings = _rings(padded)
    power = rings.mean(spectral)
    passed = rings.mean(transfer.square.numpy().ravel())
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
    return (_log_frequency(padded) * exponent).add_(float(np.log(noise) - level)).exp_().add_(MISMATCH)


def wiener(seen: Observed, strength: float = 1.0) -> Tensor:
    """Wiener's filter, counts above background on the frame's pixels; `strength` scales the noise it believes in."""
    t = seen.transfer
    gain = (t.focused * t.mean.conj()).div_(torch.add(t.square, seen.noise_to_signal, alpha=strength))
    gain[0, 0] = 1.0  # the mean light is neither noise nor blurred
    return _on_frame(seen.spectrum * gain, seen.canvas)


def _through(image: Tensor, transfer: Tensor) -> Tensor:
    """An image after a transfer function that is over the number of pixels.

    Axis by axis: torch leaves the spectrum lying column by column, as the way back takes it best.
    """
    spectrum = torch.fft.fft(torch.fft.rfft(image, dim=1), dim=0)
    return _inverse(spectrum.mul_(transfer), image.shape[1])


def _inverse(spectrum: Tensor, columns: int) -> Tensor:
    """Inverse of `torch.fft.rfft2`, not divided by the number of pixels."""
    rows = torch.fft.ifft(spectrum, dim=0, norm="forward")
    image: Tensor = torch.fft.irfft(rows, n=columns, dim=1, norm="forward")
    return image


def _on_frame(spectrum: Tensor, canvas: Canvas) -> Tensor:
    """The frame's part of an inverse transform; columns that the spectrum lacks are zero.

    In two steps, so that rows that are cropped off, and columns that are not there, are not transformed.
    """
    (top, left), (height, width) = canvas.before, canvas.shape
    rows = torch.fft.ifft(spectrum, dim=0, norm="forward")[top : top + height]  # undivided: one pass in the end
    image: Tensor = torch.fft.irfft(rows, n=canvas.padded[1], dim=1, norm="forward")[:, left : left + width]
    return image.mul_(1.0 / math.prod(canvas.padded))


def richardson_lucy(seen: Observed, iterations: int = ITERATIONS) -> Tensor:
    """Richardson-Lucy, then imaged in focus; counts above background on the frame's pixels.

    Light from outside the frame is estimated, not assumed: data count on the frame's own pixels only (Bertero and
    Boccacci 2005, Astron. Astrophys. 437). The noise's sd is added to the data as light that is always there, so that
    a pixel of read noise is not believed more than a bright one.
    """
    problem = _Poisson.of(seen, halved=False)
    estimate = problem.start()
    for number in range(iterations):
        estimate = problem.step(estimate, even=number == 0)
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
            along = _dot(step, last_step) / max(_dot(last_step, last_step), 1e-20)
            ahead = torch.add(estimate, change, alpha=min(max(along, 0.0), 1.0)).clamp_(min=0.0)
        former, estimate = estimate, problem.step(ahead, even=number == 0)
        change = estimate - former
        step, last_step = estimate - ahead, step
        ahead = estimate
    return problem.focused(estimate)


def _dot(a: Tensor, b: Tensor) -> float:
    return float(torch.dot(a.view(-1), b.view(-1)))


@dataclass(frozen=True)
class _Poisson:
    """One frame's likelihood, on the canvas or on every other pixel of it.

    Data where the frame is; the share of each pixel's light that falls there, inverted; the transfer function forth and
    back, complex (a spectrum times real numbers takes longer) and over the number of pixels (so that the inverse
    transforms need not divide by it); what becomes of even light.
    """

    data: Tensor
    per_share: Tensor
    forth: Tensor
    back: Tensor
    passed: float
    seen: Observed
    floor: float

    @staticmethod
    def of(seen: Observed, *, halved: bool) -> _Poisson:
        every, canvas = 2 if halved else 1, seen.canvas
        floor = max(seen.levels.noise_sd, 1e-6)
        rows, columns = (side // every for side in canvas.padded)
        transfer, above = seen.transfer.mean, seen.padded
        if halved:
            transfer = _low(transfer, rows, columns)
            above = torch.fft.irfft2(_low(seen.spectrum, rows, columns).mul_(0.25), s=(rows, columns))
        here = [
            slice(a // every, (a + side + every - 1) // every)
            for a, side in zip(canvas.before, canvas.shape, strict=True)
        ]
        data = torch.zeros(rows, columns)
        data[here[0], here[1]] = (above[here[0], here[1]] + floor).clamp_(min=0.0)
        forth = torch.div(transfer.T, rows * columns).to(torch.complex64).contiguous().T  # as `_through` has spectra
        back = forth.conj().resolve_conj() if transfer.is_complex() else forth
        passed = float(transfer[0, 0].real)
        mask = [torch.zeros(side) for side in data.shape]
        for axis, where in zip(mask, here, strict=True):
            axis[where] = 1.0
        share = _inverse(torch.outer(torch.fft.fft(mask[0]), torch.fft.rfft(mask[1])).mul_(back), columns)
        return _Poisson(data, share.clamp_(min=0.05).reciprocal_(), forth, back, passed, seen, floor)

    def start(self) -> Tensor:
        """Even light."""
        return torch.full_like(self.data, float(self.data.sum()) / max(int(torch.count_nonzero(self.data)), 1))

    def step(self, estimate: Tensor, *, even: bool = False) -> Tensor:
        """One iteration; `even` light need not be transformed to know what becomes of it."""
        expected = estimate * self.passed if even else _through(estimate, self.forth)
        ratio = self.data / expected.clamp_(min=1e-3 * self.floor)
        return _through(ratio, self.back).clamp_(min=0.0).mul_(self.per_share).mul_(estimate)

    def focused(self, estimate: Tensor) -> Tensor:
        """The estimate as the focused microscope shows it, on the frame's pixels."""
        spectrum, canvas = torch.fft.rfft2(estimate), self.seen.canvas
        focused = self.seen.transfer.focused
        if estimate.shape != canvas.padded:
            spectrum = _high(spectrum * _low(focused, *estimate.shape).mul_(4.0), canvas.padded[0])
        else:
            spectrum = spectrum * focused
        return _on_frame(spectrum, canvas) - self.floor


def _low(spectrum: Tensor, rows: int, columns: int) -> Tensor:
    """The part of an rfft2 grid that a canvas of (rows, columns), every other pixel, has."""
    half = rows // 2
    kept = spectrum[:, : columns // 2 + 1]
    return torch.cat([kept[: rows - half], kept[kept.shape[0] - half :]])


def _high(spectrum: Tensor, rows: int) -> Tensor:
    """Inverse of `_low` for the rows: zero where the coarse grid has nothing."""
    half = len(spectrum) // 2
    full = torch.zeros(rows, spectrum.shape[1], dtype=spectrum.dtype)
    full[: len(spectrum) - half] = spectrum[: len(spectrum) - half]
    full[rows - half :] = spectrum[len(spectrum) - half :]
    return full


def reblur_residual(seen: Observed, restored: FloatImage) -> Tensor:
    """What the frame and the restored one disagree by, in the noise's sd: ``H0 y`` against ``Hd x``, no division.

    Both sides are the frame's light imaged twice, once in and once out of focus; a restoration that invents, or a
    blur that is not the one assumed, leaves a residual. Shape of the frame.
    """
    t = seen.transfer
    light, background = torch.from_numpy(restored), seen.levels.background
    x = seen.canvas.padded_by(lambda middle: torch.sub(light, background, out=middle))
    both = _on_frame((seen.spectrum * t.focused).sub_(torch.fft.rfft2(x).mul_(t.mean)), seen.canvas)
    # White noise after the focused transfer function keeps this share of its power.
    h = t.focused
    share = (2.0 * float(h.norm()) ** 2 - float(h[:, 0].norm()) ** 2) / math.prod(seen.canvas.padded)
    return both / (seen.levels.noise_sd * float(np.sqrt(share)) + 1e-9)


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

    def mean(self, flat: NDArray[np.float32]) -> NDArray[np.float64]:
        """Mean over every ring that holds a frequency, of a map laid flat."""
        sums = np.add.reduceat(flat.take(self._places), self._starts, dtype=np.float64)
        return np.asarray(sums / self._counts)


@lru_cache(maxsize=8)
def _rings(padded: tuple[int, int]) -> Rings:
    return Rings(padded)


@lru_cache(maxsize=8)
def _log_frequency(padded: tuple[int, int]) -> Tensor:
    """Logarithm of the frequency, not below that of the first ring."""
    return torch.log(frequency_of(padded).clamp(min=float(_rings(padded).frequency[0])))
