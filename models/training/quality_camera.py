"""The same artefacts as a real camera shows them: defocused optics, few photons, read noise, gain and offset."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from parfocal.models.training.blur import Blurrer, Scene, random_optics
from parfocal.models.training.degradations import PEAK, illumination, parameter
from parfocal.simulator.poisson import draw

FloatImage = NDArray[np.float32]
PHYSICAL = ("reference", "blur", "readout", "shot", "vignetting")
"""Classes a camera shows. Dark current is none: its light cannot be told from a background's, nor its noise."""
MARGIN_PX = 32
CUTOFF_RANGE = (0.35, 2.0)
"""Cycles a pixel at which the optics cut off: from a 100x/1.4 on 65 nm pixels to a 20x/0.75 on 0.65 um ones."""
SIGMA_PER_DIAMETER = 0.25
"""A uniform disc of diameter d has the second moment of a Gaussian of sigma d / 4."""


@dataclass(frozen=True)
class Light:
    """How a specimen is exposed: photons that a unit of the tables' intensity stands for, and read noise, electrons."""

    photons_per_unit: float
    read_electrons: float


class Objective:
    """Images of specimens through random optics, in focus or out of it.

    Parameters
    ----------
    size_px : int
        Side of the images; specimens are `canvas_px` wide, so that light comes in from outside.
    """

    def __init__(self, size_px: int) -> None:
        self.size_px = size_px
        self.canvas_px = size_px + 2 * MARGIN_PX
        self._blurrer = Blurrer(self.canvas_px)

    def image(self, specimen: FloatImage, sigma_px: float, rng: np.random.Generator) -> FloatImage:
        """Defocus a specimen by a blur of this second moment; in focus its 99.95th percentile would be `PEAK`."""
        while True:
            optics = random_optics(rng)
            if CUTOFF_RANGE[0] <= optics.cutoff_per_px <= CUTOFF_RANGE[1]:
                break
        # Some residual spherical aberration is in every objective; more would be an artefact of its own.
        optics = replace(optics, depth_um=0.0, zernike_waves={(4, 0): float(rng.normal(0.0, 0.03))})
        diameter = sigma_px / SIGMA_PER_DIAMETER
        defocus = float(rng.choice((-1.0, 1.0))) * diameter / optics.blur_px_per_um
        scene = Scene(optics, defocus, diameter, optics.spherical_waves, ((0.0, 1.0),), transmitted=False)
        image, peak = self._blurrer.fluorescence(specimen, scene)
        inner = slice(MARGIN_PX, MARGIN_PX + self.size_px)
        return image[inner, inner] * np.float32(PEAK / max(peak, 1e-6))


def light_for(artefact: str, level: float, rng: np.random.Generator) -> Light:
    """Photons and read noise that give a camera's image the noise the tables give this class at this level.

    A peak of N photons has the shot noise of ``alpha = PEAK / N``. A read noise of r electrons has the table's
    variance ``(r PEAK / N)^2``. Images of the other classes have light enough to be seen for what they are.
    """
    if artefact == "shot":
        per_unit = 1.0 / parameter("shot", level)
        return Light(per_unit, float(rng.uniform(0.05, 0.4)) * float(np.sqrt(0.2 * PEAK * per_unit)))
    if artefact == "readout":
        per_unit = _log_uniform(rng, 30.0, 1000.0) / PEAK
        return Light(per_unit, per_unit * float(np.sqrt(parameter("readout", level))))
    # A blurred or vignetted image may be dim as well; a dim one that is neither is no reference.
    photons = _log_uniform(rng, 150.0 if artefact == "reference" else 60.0, 20_000.0)
    return Light(photons / PEAK, float(rng.uniform(0.3, 2.5)))


def uneven(shape: tuple[int, int], level: float, rng: np.random.Generator) -> FloatImage:
    """A vignette as microscopes have it: of the table's depth, its centre and its shape not quite the table's."""
    sigma = parameter("vignetting", level)
    offset_y, offset_x = (float(o) for o in rng.uniform(-0.3, 0.3, 2))
    mask = illumination(shape, sigma, (offset_y, offset_x))
    if rng.random() < 0.5:  # falls off like the fourth power of a cosine: slower than a Gaussian at the far corners
        return np.asarray(1.0 / np.square(1.0 - np.log(np.maximum(mask, 1e-12)) / 2.0), dtype=np.float32)
    return mask


def expose(units: FloatImage, light: Light, rng: np.random.Generator) -> FloatImage:
    """Electrons of one exposure of an expected image in the tables' units; half of the cameras are sCMOS."""
    electrons = draw((units * np.float32(light.photons_per_unit)).ravel(), rng).reshape(units.shape)
    read = np.float32(light.read_electrons) * rng.standard_normal(units.shape, dtype=np.float32)
    if rng.random() < 0.5:
        read *= np.exp(np.float32(rng.uniform(0.1, 0.4)) * rng.standard_normal(units.shape, dtype=np.float32))
    return electrons + read


def digitise(electrons: FloatImage, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Counts of a 16-bit camera: gain 0.2-5, offset 1-1000 (never so low that noise is cut off), some hot pixels."""
    top, bottom = float(electrons.max()), float(electrons.min())
    offset = max(_log_uniform(rng, 1.0, 1000.0), 1.0)
    gain = min(_log_uniform(rng, 0.2, 5.0), 60_000.0 / max(top, 1.0))
    counts = electrons * np.float32(gain) + np.float32(offset + max(0.0, -bottom * gain))
    if rng.random() < 0.15:
        hot = rng.random(counts.shape, dtype=np.float32) < 10 ** rng.uniform(-5, -4)
        counts[hot] += np.float32(rng.uniform(0.2, 1.0) * max(1.0, float(counts.max())))
    return np.asarray(np.clip(np.rint(counts), 0, 65535), dtype=np.uint16)


def to_counts(units: FloatImage, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Counts of an image in the tables' units: any gain that keeps its noise above the rounding; some 8-bit files."""
    if rng.random() < 0.12:
        factor, offset = float(rng.uniform(120.0, 250.0)) / max(float(units.max()), 1e-6), 0.0
    else:
        factor = min(_log_uniform(rng, 500.0, 40_000.0) / PEAK, 60_000.0 / max(float(units.max()), 1e-6))
        offset = _log_uniform(rng, 1.0, 1000.0)
    shifted = units * np.float32(factor) + np.float32(offset - min(0.0, float(units.min())) * factor)
    return np.asarray(np.clip(np.rint(shifted), 0, 65535), dtype=np.uint16)


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
