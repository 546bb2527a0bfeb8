"""Pairs to learn restoring from: an out-of-focus exposure, the in-focus image it stands for, what is known of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.restore.base import Blur
from parfocal.models.training.blur import Blurrer, Scene, random_optics
from parfocal.models.training.objects import ObjectBank
from parfocal.simulator.poisson import draw

FloatImage = NDArray[np.float32]
MARGIN_PX = 64
DEPTHS = (0.3, 8.0)
"""Defocus in depths of field: a little more than what is asked on both sides."""
BLUR_MAX_PX = 90.0
FREE_OF_ABERRATIONS, KNOWN_ABERRATIONS = 0.6, 0.5
"""Share of the optics without any, and of the others that are known as they are: calibrated, or from the physics."""
PHOTONS = (40.0, 8000.0)
"""Photons at the in-focus peak, log-uniform."""


@dataclass(frozen=True)
class Pair:
    """`frame` in counts; `truth`, the noise-free in-focus image in the same counts; `blur` as it would be estimated."""

    frame: FloatImage
    truth: FloatImage
    blur: Blur


class PairMaker:
    """Draws pairs of one size from a bank of sharp objects; every draw from one generator."""

    def __init__(self, bank: ObjectBank, *, size_px: int, seed: int) -> None:
        self.bank = bank
        self.size_px = size_px
        self.rng = np.random.default_rng(seed)
        self.blurrer = Blurrer(size_px + 2 * MARGIN_PX)

    def pairs(self, count: int) -> list[Pair]:
        """One scene, exposed `count` times with other light and camera."""
        scene = self.scene()
        sharp, blurred = self._images(scene)
        peak = float(np.percentile(sharp[::2, ::2], 99.95))
        made = []
        for _ in range(count):
            photons = float(np.exp(self.rng.uniform(*np.log(PHOTONS))))
            frame, truth = expose_pair(blurred, sharp, peak, photons, self.rng)
            made.append(Pair(frame, truth, estimated(scene, self.rng)))
        return made

    def scene(self) -> Scene:
        """Random optics, and a defocus uniform in the root of the depths of field."""
        rng = self.rng
        optics = random_optics(rng)
        if rng.random() < FREE_OF_ABERRATIONS:
            optics = replace(optics, zernike_waves={}, depth_um=0.0)
        root = rng.uniform(*np.sqrt(DEPTHS))
        blur = min(root**2 * optics.depth_of_field_um * optics.blur_px_per_um, BLUR_MAX_PX)
        blur = min(blur, 440.0 / optics.cutoff_per_px * optics.blur_px_per_um / optics.marginal_blur_px(1.0))
        defocus = float(rng.choice([-1.0, 1.0])) * blur / optics.blur_px_per_um
        layers: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
        if rng.random() < 0.3:
            offsets = rng.normal(0.0, optics.depth_of_field_um * float(rng.uniform(0.0, 0.5)), 3)
            weights = rng.dirichlet((2.0, 2.0, 2.0))
            offsets = offsets - float(np.sum(offsets * weights))
            layers = tuple((float(o), float(w)) for o, w in zip(offsets, weights, strict=True))
        return Scene(optics, defocus, float(np.sign(defocus)) * blur, optics.spherical_waves, layers, False)

    def _images(self, scene: Scene) -> tuple[FloatImage, FloatImage]:
        """In and out of focus, through the same optics."""
        rng, canvas = self.rng, self.blurrer.canvas_px
        specimen = self.bank.sample(canvas, rng)[1]
        if rng.random() < 0.2:
            specimen = specimen + float(rng.uniform(0.1, 1.0)) * self.bank.sample(canvas, rng)[1]
        if rng.random() < 0.15:
            specimen = specimen + float(rng.uniform(0.0, 1.0)) * _haze(specimen)
        return self.imaged(scene, specimen)

    def imaged(self, scene: Scene, specimen: FloatImage) -> tuple[FloatImage, FloatImage]:
        """Images of a specimen on the canvas in and out of focus, without the margins."""
        spectrum = np.fft.rfft2(specimen)
        inner = slice(MARGIN_PX, MARGIN_PX + self.size_px)
        out = []
        for defocus in (0.0, scene.defocus_um):
            image = np.fft.irfft2(spectrum * self.blurrer.transfer(scene, defocus), s=specimen.shape)
            out.append(np.maximum(image, 0.0).astype(np.float32)[inner, inner])
        return out[0], out[1]


def _haze(specimen: FloatImage) -> FloatImage:
    """Light of a thick specimen far out of focus: hardly any structure."""
    coarse = ndimage.uniform_filter(specimen[::8, ::8], 9, mode="wrap")
    fine = ndimage.uniform_filter(np.kron(coarse, np.ones((8, 8), dtype=np.float32)), 17, mode="wrap")
    return np.asarray(fine[: specimen.shape[0], : specimen.shape[1]], dtype=np.float32)


def estimated(scene: Scene, rng: np.random.Generator) -> Blur:
    """The blur as the defocus model tells it: with an error, a stated sd, and now and then the optics' aberrations."""
    known = scene.optics
    if rng.random() >= KNOWN_ABERRATIONS:
        known = replace(known, zernike_waves={}, depth_um=0.0)
    # The defocus network on validation fields: half of its errors are below 7 % of the blur, a tenth above 30 to 50 %;
    # what it says of them is on the safe side.
    error_px = float(np.hypot(0.5, 0.08 * abs(scene.blur_px)) * np.exp(rng.normal(0.0, 0.4)))
    said_px = abs(abs(scene.blur_px) + error_px * float(rng.standard_t(4)))
    sd_px = error_px * float(np.exp(rng.normal(np.log(1.7), 0.4)))
    if rng.random() < 0.25:  # told by the user, or by a stage
        said_px, sd_px = abs(scene.blur_px), 0.05 * sd_px
    sign = float(np.sign(scene.defocus_um))
    return Blur(known, sign * said_px / known.blur_px_per_um, sd_px / known.blur_px_per_um)


def expose_pair(
    blurred: FloatImage, sharp: FloatImage, peak: float, photons: float, rng: np.random.Generator
) -> tuple[FloatImage, FloatImage]:
    """Counts of the blurred image with noise, and of the sharp one without, by the same camera and light."""
    scale = photons / max(peak, 1e-9)
    background = photons * float(rng.uniform(0.0, 0.3)) ** 2 + float(rng.uniform(0.0, 5.0))
    light = _shade(sharp.shape, rng) if rng.random() < 0.2 else np.float32(1.0)
    expected = (blurred * scale + background) * light
    truth = (sharp * scale + background) * light
    read = float(rng.uniform(0.3, 2.5))
    electrons = draw(expected.ravel(), rng).reshape(expected.shape)
    electrons = electrons + read * rng.standard_normal(expected.shape, dtype=np.float32)
    gain = float(np.exp(rng.uniform(np.log(0.3), np.log(5.0))))
    offset = float(np.exp(rng.uniform(np.log(10.0), np.log(1000.0))))
    counts = electrons * gain + offset
    if rng.random() < 0.15:
        hot = rng.random(counts.shape) < 10 ** rng.uniform(-5, -3.5)
        counts[hot] += float(rng.uniform(0.2, 1.0)) * max(1.0, float(counts.max() - counts.mean()))
    counts = np.clip(np.round(counts), 0.0, 65535.0)
    return counts.astype(np.float32), (truth * gain + offset).astype(np.float32)


def _shade(shape: tuple[int, ...], rng: np.random.Generator) -> FloatImage:
    """Uneven light: falls with the square of the distance from somewhere near the centre."""
    y, x = (np.linspace(-1, 1, side, dtype=np.float32) - float(rng.uniform(-0.4, 0.4)) for side in shape)
    square = y[:, None] ** 2 + x[None, :] ** 2
    return np.asarray(1.0 / (1.0 + float(rng.uniform(0.02, 0.5)) * square), dtype=np.float32)
