"""The six classes of image of Corbetta 2025 (arXiv version, Supplementary Tables 1-3), drawn from a clean image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from parfocal.simulator.poisson import draw

FloatImage = NDArray[np.float32]

ARTEFACTS = ("reference", "blur", "dark", "readout", "shot", "vignetting")
NOISES = ("dark", "readout", "shot")
PEAK = 5.0
"""Intensity of a clean image's 99.9th percentile, in the units of the tables, which the paper leaves open.

At 5 the worst noises (dark 0.5, read-out 1.5, shot 5) leave a peak of 7, 4 and 1 times the noise on it, so that
objects of a few pixels survive and nobody would call the image good; the reference (0.005) has 27, that of
Supplementary Table 2 (0.05) 8.5, what a peak of 70 photons has. At 1 that reference would be worse
than a quarter of the noisy images of a larger scale; at 20 the dark noise would not show. See ADR 0016.
"""
REFERENCE_NOISE = 0.005
TABLE2_REFERENCE_NOISE = 0.05
TABLE1: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"blur": (1.0, 8.0), "dark": (0.3, 0.5), "readout": (0.7, 1.5), "shot": (1.0, 5.0), "vignetting": (0.6, 0.2)}
)
"""Free parameter at level 0 and at level 1, the worst: sigma in px, lambda, variance, alpha, sigma in image sides."""
TABLE2_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Levels of Supplementary Table 2: sigma of the blur 1 .. 8 px, of the vignette 0.6 .. 0.2 sides."""
TABLE3: Mapping[str, float] = MappingProxyType({"blur": 0.02, "dark": 0.001, "readout": 0.007, "shot": 0.007})
"""Growth of the parameter with each row of the image, from 0 at the top."""
MAX_LEVEL = 1.4
_BLUR_STEPS = 24


@dataclass(frozen=True)
class MixedNoise:
    """Mixed Poisson-Gaussian noise: Poisson of mean `dark`, normal of variance `readout`, shot of variance `shot` s."""

    dark: float = REFERENCE_NOISE
    readout: float = REFERENCE_NOISE
    shot: float = REFERENCE_NOISE

    def on(self, image: FloatImage, rng: np.random.Generator) -> FloatImage:
        """One exposure of an expected image; negative pixels stay."""
        noisy = shot_noise(image, self.shot, rng)
        noisy += dark_noise(np.full(image.shape, self.dark, dtype=np.float32), rng)
        noisy += np.float32(np.sqrt(self.readout)) * rng.standard_normal(image.shape, dtype=np.float32)
        return noisy


def parameter(artefact: str, level: float) -> float:
    """Free parameter of an artefact: Table 1's least at level 0 and greatest at 1, in between in proportion.

    Levels below 0 are artefacts weaker than any in the table, down to none at -1 (the reference's own noise, which is
    reached in proportion to the logarithm). Levels up to `MAX_LEVEL` are worse than the table's.

    Raises
    ------
    ValueError
        An unknown artefact, "reference" (it has no free parameter), or a level outside -1..`MAX_LEVEL`.
    """
    if artefact not in TABLE1:
        raise ValueError(f"{artefact!r} has no free parameter; there are {', '.join(TABLE1)}")
    if not -1.0 <= level <= MAX_LEVEL:
        raise ValueError(f"level must lie in -1..{MAX_LEVEL} (got {level!r})")
    least, worst = TABLE1[artefact]
    if level >= 0.0:
        return least + level * (worst - least)
    if artefact in NOISES:
        return float(REFERENCE_NOISE * (least / REFERENCE_NOISE) ** (1.0 + level))
    if artefact == "vignetting":  # the loss at the border, 1 / sigma^2, in proportion
        return float(least / np.sqrt(1.0 + level)) if level > -1.0 else float("inf")
    return least * (1.0 + level)


def scaled(clean: FloatImage) -> FloatImage:
    """Bring a clean image of any positive scale to the tables' units: its 99.9th percentile becomes `PEAK`.

    Raises
    ------
    ValueError
        If the image holds no light, negative light or something that is not finite.
    """
    clean = np.asarray(clean, dtype=np.float32)
    # Of an image of few bright pixels the percentile may be zero, its greatest pixel is not.
    peak = float(np.percentile(clean, 99.9)) or float(clean.max())
    if not (np.isfinite(clean).all() and peak > 0.0 and float(clean.min()) >= 0.0):
        raise ValueError("a clean image must hold light, and nothing negative, infinite or NaN")
    return clean * np.float32(PEAK / peak)


def expected(image: FloatImage, artefact: str, value: float) -> FloatImage:
    """Noise-free image, in the tables' units: blurred or vignetted; other classes leave it as it is."""
    if artefact == "blur":
        return gaussian_blur(image, value)
    if artefact == "vignetting":
        return image * illumination(image.shape, value)
    return image


def noise_of(artefact: str, value: float) -> MixedNoise:
    """Noise of a class: the reference's, with the class's own parameter raised."""
    return MixedNoise(**({artefact: value} if artefact in NOISES else {}))


def degrade(
    clean: FloatImage,
    artefact: str,
    rng: np.random.Generator,
    *,
    level: float | None = None,
    noise_free: bool = False,
    reference_noise: float | None = None,
) -> FloatImage:
    """An image of one of the paper's classes.

    Parameters
    ----------
    clean : ndarray, shape (h, w)
        Of any positive scale, see `scaled`.
    artefact : one of `ARTEFACTS`
    rng : Generator
        All randomness.
    level : float, optional
        See `parameter`; drawn uniformly from Table 1's range if absent. Of no effect on the reference.
    noise_free : bool
        Leave out all noise, as Supplementary Table 2 does for blur and vignetting.
    reference_noise : float, optional
        Of the class "reference", instead of Table 1's 0.005.

    Returns
    -------
    ndarray of float32, shape (h, w)
        In the tables' units, negative values removed. Not rescaled to 0..1: whoever reads it has a scaling.

    Raises
    ------
    ValueError
        An unknown artefact, a level out of range, noise both asked for and forbidden, or a clean image without light.
    """
    if artefact not in ARTEFACTS:
        raise ValueError(f"unknown artefact {artefact!r}; there are {', '.join(ARTEFACTS)}")
    if noise_free and artefact in NOISES:
        raise ValueError(f"an image of the class {artefact!r} cannot be free of noise")
    value = 0.0
    if artefact != "reference":
        value = parameter(artefact, float(rng.uniform()) if level is None else level)
    image = expected(scaled(clean), artefact, value)
    if noise_free:
        return image
    noise = noise_of(artefact, value)
    if reference_noise is not None and artefact == "reference":
        noise = MixedNoise(reference_noise, reference_noise, reference_noise)
    return np.maximum(noise.on(image, rng), 0.0)


def vary(clean: FloatImage, kind: Literal["blur", "noise"], rng: np.random.Generator) -> tuple[FloatImage, FloatImage]:
    """An image that gets worse from top to bottom, by Supplementary Table 3.

    Returns
    -------
    image : ndarray of float32, shape (h, w)
        In the tables' units, negative values removed. The blurred one has the reference's noise, because
        without any noise its lower rows could be told from its upper ones by no spectral measure.
    truth : ndarray of float32, shape (h,)
        Sigma of the blur in px, or the noise's standard deviation at the mean of the clean image, of each row.
    """
    image = scaled(clean)
    row = np.arange(image.shape[0], dtype=np.float32)[:, None]
    if kind == "blur":
        sigma = TABLE3["blur"] * row[:, 0]
        return np.maximum(MixedNoise().on(blur_by_row(image, sigma), rng), 0.0), sigma
    if kind != "noise":
        raise ValueError(f"kind must be 'blur' or 'noise' (got {kind!r})")
    dark, readout, shot = (TABLE3[name] * row for name in NOISES)
    noisy = shot_by_row(image, shot, rng) + dark_noise(np.broadcast_to(dark, image.shape), rng)
    noisy += np.sqrt(readout) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.maximum(noisy, 0.0), np.sqrt(dark + readout + shot * image.mean())[:, 0]


def gaussian_blur(image: FloatImage, sigma_px: float) -> FloatImage:
    """Convolve with a Gaussian, edges mirrored: a product in the space of the cosine transform, at any width."""
    if sigma_px <= 0.0:
        return image
    rows, columns = (_gaussian(side, sigma_px) for side in image.shape)
    spectrum = fft.dctn(image, norm="ortho") * rows[:, None] * columns[None, :]
    return np.asarray(np.maximum(fft.idctn(spectrum, norm="ortho"), 0.0), dtype=np.float32)


def illumination(shape: tuple[int, ...], sigma_sides: float, centre: tuple[float, float] = (0.0, 0.0)) -> FloatImage:
    """Gaussian illumination over an image, greatest value 1; sigma in units of the longer side, as is the centre."""
    side = max(shape)
    y, x = (
        (np.arange(n, dtype=np.float32) - np.float32((n - 1) / 2)) / np.float32(side) - np.float32(middle)
        for n, middle in zip(shape, centre, strict=True)
    )
    scale = np.float32(-0.5 / sigma_sides**2)
    mask = np.exp(scale * y**2)[:, None] * np.exp(scale * x**2)[None, :]
    return np.asarray(mask / mask.max(), dtype=np.float32)


def shot_noise(image: FloatImage, alpha: float, rng: np.random.Generator) -> FloatImage:
    """The paper's modified Poisson noise, of mean s and variance alpha s: alpha times a Poisson number of s / alpha."""
    if alpha <= 0.0:
        return image.copy()
    scale = np.float32(alpha)
    return np.asarray(scale * draw((image / scale).ravel(), rng).reshape(image.shape), dtype=np.float32)


def dark_noise(mean: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Poisson noise of a mean of its own for each pixel, shape (h, w)."""
    return draw(np.ascontiguousarray(mean, dtype=np.float32).ravel(), rng).reshape(mean.shape)


def shot_by_row(image: FloatImage, alpha: FloatImage, rng: np.random.Generator) -> FloatImage:
    """`shot_noise` with an alpha of its own for each row, shape (h, 1); rows of alpha 0 stay as they are."""
    safe = np.maximum(alpha, np.float32(1e-6))
    drawn = safe * draw((image / safe).astype(np.float32).ravel(), rng).reshape(image.shape)
    return np.where(alpha > 0.0, drawn, image)


def blur_by_row(image: FloatImage, sigma_px: NDArray[Any]) -> FloatImage:
    """Each row as it is in the image blurred by its own sigma, interpolated between a few blurred images."""
    steps = np.linspace(0.0, float(sigma_px[-1]), _BLUR_STEPS)
    out = np.empty_like(image)
    at = np.interp(sigma_px, steps, np.arange(_BLUR_STEPS))
    low = np.minimum(at.astype(int), _BLUR_STEPS - 2)
    for step in range(_BLUR_STEPS - 1):
        rows = np.flatnonzero(low == step)
        if rows.size:
            part = (at[rows] - step).astype(np.float32)[:, None]
            sharper, softer = (gaussian_blur(image, float(steps[step + more]))[rows] for more in (0, 1))
            out[rows] = sharper * (1 - part) + softer * part
    return out


@lru_cache(maxsize=64)
def _gaussian(side: int, sigma_px: float) -> FloatImage:
    frequency = np.pi * np.arange(side) / side
    return np.exp(-0.5 * (sigma_px * frequency) ** 2).astype(np.float32)
