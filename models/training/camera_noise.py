"""What a camera makes of an image, drawn at random: light level, background, noise, gain, offset, depth, defects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from parfocal.simulator.poisson import draw

FloatImage = NDArray[np.float32]


@dataclass(frozen=True)
class Exposure:
    """Counts as a camera gives them, and how far the signal stands out of the noise (see `detectability`)."""

    counts: FloatImage
    detectability: float


def expose(image: FloatImage, peak: float, rng: np.random.Generator, *, photons: float | None = None) -> Exposure:
    """Expose an expected image whose in-focus peak is `peak`; `photons` there are drawn from 10..10 000 if absent."""
    if photons is None:
        photons = float(np.exp(rng.uniform(np.log(10), np.log(10_000))))
    signal = image * (photons / max(peak, 1e-9))
    background = photons * float(rng.uniform(0.0, 0.3)) ** 2 * 3 + float(rng.uniform(0.0, 5.0))
    expected = signal + background
    if rng.random() < 0.35:
        expected = expected * _shade(image.shape, rng)
    read = float(rng.uniform(0.3, 2.5))
    electrons = _poisson(expected, rng) + _read_noise(image.shape, read, rng)
    variance = float(expected.mean()) + read**2
    return Exposure(_digitise(electrons, rng), detectability(signal, variance))


def detectability(signal: FloatImage, noise_variance: float) -> float:
    """How many standard deviations a signal's energy lies above that of white noise, at the scale that shows it best.

    At a resolution of s pixels a frame of N pixels has N / s^2 independent cells; the energy of their noise has the
    standard deviation sqrt(2 N / s^2), in units of a cell's variance, and the signal adds the sum of its squares there.
    """
    centred = signal - signal.mean()
    best = 0.0
    for side in (1, 4, 16):
        h, w = (length - length % side for length in centred.shape)
        cells = centred[:h, :w].reshape(h // side, side, w // side, side).mean(axis=(1, 3))
        energy = float(np.square(cells).sum()) * side**2 / noise_variance
        best = max(best, energy / float(np.sqrt(2.0 * cells.size)))
    return best


def empty(shape: tuple[int, int], rng: np.random.Generator) -> Exposure:
    """A field without a specimen: background light, read noise, more often than not the shade of a lamp or lens."""
    light = float(np.exp(rng.uniform(np.log(0.2), np.log(6000))))
    expected = np.full(shape, light, dtype=np.float32)
    if rng.random() < 0.7:
        expected *= 1.0 + float(rng.uniform(0.05, 1.0)) * (_shade(shape, rng) - 1.0)
    electrons = _poisson(expected, rng) + _read_noise(shape, float(rng.uniform(0.3, 2.5)), rng)
    return Exposure(_digitise(electrons, rng), 0.0)


def _poisson(expected: FloatImage, rng: np.random.Generator) -> FloatImage:
    return draw(expected.ravel(), rng).reshape(expected.shape)


def _read_noise(shape: tuple[int, ...], median: float, rng: np.random.Generator) -> FloatImage:
    """Read noise in electrons; half of the cameras are sCMOS: every pixel has its own, with a lognormal tail."""
    noise = median * rng.standard_normal(shape, dtype=np.float32)
    if rng.random() < 0.5:
        noise *= np.exp(np.float32(rng.uniform(0.1, 0.5)) * rng.standard_normal(shape, dtype=np.float32))
    return noise


def _shade(shape: tuple[int, ...], rng: np.random.Generator) -> FloatImage:
    """Uneven light: falls off with the square, or with the fourth power of the cosine, from a centre near the field's.

    The crop may be any part of a larger field, so the centre may lie outside it.
    """
    reach = float(np.exp(rng.uniform(np.log(0.5), np.log(4.0))))
    y, x = ((np.arange(side, dtype=np.float32) / side - 0.5 - rng.uniform(-0.5, 0.5) * reach) / reach for side in shape)
    square = y[:, None] ** 2 + x[None, :] ** 2
    depth = np.float32(np.exp(rng.uniform(np.log(0.02), np.log(1.2))))
    if rng.random() < 0.5:
        return np.asarray(np.maximum(1.0 - depth * square, 0.05), dtype=np.float32)
    return np.asarray(1.0 / np.square(1.0 + depth * square), dtype=np.float32)


def _digitise(electrons: FloatImage, rng: np.random.Generator) -> FloatImage:
    gain = float(np.exp(rng.uniform(np.log(0.2), np.log(5.0))))
    offset = float(np.exp(rng.uniform(np.log(1.0), np.log(1000.0))))
    counts = electrons * gain + offset
    if rng.random() < 0.15:
        hot = rng.random(counts.shape) < 10 ** rng.uniform(-5, -3.5)
        counts[hot] += float(rng.uniform(0.2, 1.0)) * max(1.0, float(counts.max() - counts.mean()))
    if rng.random() < 0.2:  # an 8-bit file, stretched to its range
        low, high = float(counts.min()), float(counts.max())
        counts = (counts - low) * (255.0 / max(high - low, 1.0)) * float(rng.uniform(0.5, 1.0))
    if rng.random() < 0.05:  # a few saturated structures
        counts = np.minimum(counts, np.percentile(counts, 100 - 10 ** rng.uniform(-2, 0.2)))
    return np.asarray(np.clip(np.round(counts), 0.0, 65535.0), dtype=np.float32)
