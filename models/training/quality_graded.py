"""Images that get worse from top to bottom, and what their rows are like: what teaches a network to judge locally."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.training.degradations import (
    NOISES,
    REFERENCE_NOISE,
    TABLE2_REFERENCE_NOISE,
    MixedNoise,
    blur_by_row,
    dark_noise,
    gaussian_blur,
    noise_of,
    parameter,
    shot_by_row,
)

FloatImage = NDArray[np.float32]
GRADABLE = ("blur", *NOISES)
RUNGS = (0.03, 0.2, 0.4, 0.6, 0.8, 0.97)
"""Where down an image its rungs stand: images of one level throughout, that of the row at this share of the height."""
FROM_SHARE = 0.3


@dataclass(frozen=True)
class GradedImage:
    """A graded image in the tables' units, its worst level, and its rungs; all (h, w), with noise but `expected`."""

    units: FloatImage
    expected: FloatImage
    level: float
    rungs: tuple[FloatImage, ...]


def alike_throughout(frc: NDArray[Any], censored: NDArray[Any], mm: NDArray[Any], rows: int) -> dict[str, NDArray[Any]]:
    """Labels (n, rows) of each row of patches, of n images that are no better anywhere than anywhere else."""
    names = ("frc_rows", "frc_rows_censored", "mm_rows")
    return {name: np.repeat(held[:, None], rows, axis=1) for name, held in zip(names, (frc, censored, mm), strict=True)}


def along(at: NDArray[Any], rungs: NDArray[Any], *, rising: bool) -> NDArray[np.float64]:
    """Labels at shares of the height, from those of the rungs: in between in proportion, and in order.

    A label has noise of its own. Where two rungs contradict the order in which they were made, both give way alike.
    """
    values = np.asarray(rungs, dtype=np.float64) * (1.0 if rising else -1.0)
    ordered = 0.5 * (np.maximum.accumulate(values) + np.minimum.accumulate(values[::-1])[::-1])
    return np.asarray(np.interp(at, RUNGS, ordered if rising else -ordered))


def graded(clean: FloatImage, artefact: str, rng: np.random.Generator) -> GradedImage:
    """Blur or noise that grows in proportion to the row, from next to none to a level drawn at random.

    The paper's Supplementary Table 3 has such images, with blur and noise from none; here the ends are drawn, and the
    noise is of one kind.

    Parameters
    ----------
    clean : ndarray, shape (h, w)
        In the tables' units, see `degradations.scaled`.
    artefact : one of `GRADABLE`
    rng : Generator

    Raises
    ------
    ValueError
        An artefact that is of a whole image.
    """
    if artefact not in GRADABLE:
        raise ValueError(f"artefact {artefact!r} cannot be graded; there are {', '.join(GRADABLE)}")
    level = float(rng.uniform(0.1, 1.3))
    worst = parameter(artefact, level)
    least = worst * FROM_SHARE * float(rng.uniform())
    row = np.linspace(0.0, 1.0, clean.shape[0], dtype=np.float32)
    value = np.float32(least) + np.float32(worst - least) * row
    at = [float(least + (worst - least) * rung) for rung in RUNGS]
    floor = float(np.exp(rng.uniform(np.log(0.2 * REFERENCE_NOISE), np.log(TABLE2_REFERENCE_NOISE))))
    if artefact == "blur":
        noise = MixedNoise(floor, floor, floor)
        rungs = [noise.on(gaussian_blur(clean, sigma), rng) for sigma in at]
        blurred = blur_by_row(clean, value)
        return GradedImage(noise.on(blurred, rng), blurred, level, tuple(rungs))
    rungs = [noise_of(artefact, one).on(clean, rng) for one in at]
    return GradedImage(_noisy(clean, artefact, value[:, None], rng), clean, level, tuple(rungs))


def _noisy(clean: FloatImage, artefact: str, value: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Noise of one kind with a parameter for each row, shape (h, 1), and the reference's of the others."""
    dark, readout, shot = (
        value if artefact == name else np.full_like(value, REFERENCE_NOISE) for name in ("dark", "readout", "shot")
    )
    noisy = shot_by_row(clean, shot, rng) + dark_noise(np.broadcast_to(dark, clean.shape), rng)
    noisy += np.sqrt(readout) * rng.standard_normal(clean.shape, dtype=np.float32)
    return noisy
