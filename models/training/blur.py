"""Random optics, and images of objects through them: incoherent (fluorescence) and partially coherent (transmitted)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from parfocal.models.defocus_net import BLUR_MAX_PX
from parfocal.models.defocus_posterior import ROOT_MAX, UNIFORM_MAX_PX, UNIFORM_SHARE
from parfocal.simulator.optics import Imager, Optics, RadialTransfer, pupil_phase

FloatImage = NDArray[np.float32]
HELD_OUT_NA = ((0.43, 0.47), (0.72, 0.78), (1.18, 1.22))
"""Apertures never trained on: the tables for held-out optics use them."""


@dataclass(frozen=True)
class Scene:
    """One optics and one defocus, and what the network is to be told and asked of it."""

    optics: Optics
    defocus_um: float
    blur_px: float
    spherical_waves: float
    layers: tuple[tuple[float, float], ...]
    transmitted: bool


def random_optics(rng: np.random.Generator) -> Optics:
    """Draw an objective, a camera pixel and aberrations; apertures in `HELD_OUT_NA` are drawn again."""
    while True:
        index = float(rng.choice([1.0, 1.33, 1.518], p=[0.6, 0.15, 0.25]))
        low, high = {1.0: (0.2, 0.95), 1.33: (0.5, 1.2), 1.518: (0.7, 1.42)}[index]
        na = float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if not any(a <= na <= b for a, b in HELD_OUT_NA):
            break
    wavelength = float(rng.uniform(0.43, 0.72))
    cutoff = float(
        np.exp(rng.uniform(np.log(0.22), np.log(4.2)) if rng.random() < 0.3 else rng.uniform(np.log(0.4), np.log(2.0)))
    )
    waves = {(4, 0): float(rng.normal(0.0, 0.08)), (6, 0): float(rng.normal(0.0, 0.02))}
    if rng.random() < 0.12:
        for key in ((2, 2), (2, -2), (3, 1), (3, -1)):
            waves[key] = float(rng.normal(0.0, 0.04))
    deep = rng.random() < 0.3 and na < 1.3
    depth = float(rng.uniform(0.0, 0.25)) * wavelength * index**4 / na**4 * 8 if deep else 0.0
    return Optics(
        na=na, immersion_index=index, emission_um=wavelength, pixel_um=cutoff * wavelength / (2 * na),
        sample_index=float(rng.uniform(1.33, 1.45)), depth_um=depth, zernike_waves=waves,
    )  # fmt: skip


def random_scene(rng: np.random.Generator, *, transmitted_share: float = 0.06) -> Scene:
    """Draw optics and a defocus whose blur is uniform over the network's bins (dense at focus)."""
    optics = random_optics(rng)
    transmitted = rng.random() < transmitted_share
    if transmitted:
        optics = replace(optics, pixel_um=min(optics.pixel_um, 0.5 * optics.emission_um / optics.na), zernike_waves={})
    blur = BLUR_MAX_PX * float(rng.uniform(0.0, ROOT_MAX)) ** 2
    if rng.random() < UNIFORM_SHARE:
        blur = float(rng.uniform(0.0, UNIFORM_MAX_PX))
    # What the tables of the radial transform can hold: a wider blur on a coarser pixel would be cut off.
    blur = min(blur, 440.0 / optics.cutoff_per_px * optics.blur_px_per_um / optics.marginal_blur_px(1.0))
    sign = 1.0 if rng.random() < 0.5 else -1.0
    defocus = sign * blur / optics.blur_px_per_um
    layers: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    if rng.random() < 0.4:
        spread = optics.depth_of_field_um * float(rng.uniform(0.0, 0.7))
        offsets = rng.normal(0.0, spread, 3)
        weights = rng.dirichlet((2.0, 2.0, 2.0))
        offsets = offsets - float(np.sum(offsets * weights))
        layers = tuple((float(o), float(w)) for o, w in zip(offsets, weights, strict=True))
    return Scene(optics, defocus, sign * blur, optics.spherical_waves, layers, transmitted)


class Blurrer:
    """Makes noise-free images of objects on one canvas size."""

    def __init__(self, canvas_px: int) -> None:
        self.canvas_px = canvas_px
        self._radial = RadialTransfer(frequency_samples=257)
        fy, fx = fft.fftfreq(canvas_px), fft.rfftfreq(canvas_px)
        self._aliases = [
            (np.hypot(fy[:, None] + m, fx[None, :] + n), np.sinc(fy + m)[:, None] * np.sinc(fx + n)[None, :])
            for n in (0, -1)
            for m in (0, -1, 1)
        ]

    def transfer(self, scene: Scene, defocus_um: float, *, fold: bool = True) -> NDArray[Any]:
        """Transfer function of a scene on the canvas's rfft2 grid, sampling by the camera's pixels included."""
        optics = scene.optics
        if not optics.rotationally_symmetric and abs(defocus_um) * optics.blur_px_per_um < 60:
            return Imager(optics, (self.canvas_px, self.canvas_px)).transfer(defocus_um)
        phases = np.stack([self._radial.phase(optics, defocus_um + offset) for offset, _ in scene.layers])
        curve = np.asarray([weight for _, weight in scene.layers], dtype=np.float32) @ self._radial(phases)
        # A camera whose Nyquist lies below the cut-off folds the rest back; past a small blur there is nothing to fold.
        folds = fold and optics.cutoff_per_px > 0.6 and abs(defocus_um) * optics.blur_px_per_um < 12
        total = np.zeros(self._aliases[0][0].shape, dtype=np.float32)
        for frequency, pixel in self._aliases if folds else self._aliases[:1]:
            total += pixel * self._lookup(curve, frequency * (2.0 / optics.cutoff_per_px))
        return total

    def _lookup(self, curve: NDArray[Any], s: NDArray[Any]) -> FloatImage:
        """`curve`, tabulated at ``s = 2 (i / n)^2``, linearly interpolated; zero past the cut-off."""
        last = curve.size - 1
        at = np.sqrt(np.minimum(s, 2.0) * 0.5).astype(np.float32) * last
        low = np.minimum(at.astype(np.int32), last - 1)
        part = at - low
        return np.asarray(curve[low] * (1 - part) + curve[low + 1] * part, dtype=np.float32)

    def fluorescence(self, specimen: FloatImage, scene: Scene) -> tuple[FloatImage, float]:
        """Blurred image and the peak that the same object has in focus (its 99.95th percentile)."""
        spectrum = fft.rfft2(specimen)
        shape = specimen.shape
        in_focus = replace(scene, layers=((0.0, 1.0),), optics=replace(scene.optics, zernike_waves={}, depth_um=0.0))
        sharp = fft.irfft2(spectrum * self.transfer(in_focus, 0.0, fold=False), s=shape)
        blurred = fft.irfft2(spectrum * self.transfer(scene, scene.defocus_um), s=shape)
        return np.maximum(blurred, 0.0), float(np.percentile(sharp[::2, ::2], 99.95))

    def transmitted(
        self, specimen: FloatImage, phase_map: FloatImage, scene: Scene, rng: np.random.Generator
    ) -> FloatImage:
        """Bright-field image of an absorbing and refracting object under a condenser, as a sum over source points."""
        optics = scene.optics
        absorb, delay = rng.uniform(0.0, 1.5), rng.uniform(0.1, 1.5) * rng.choice([-1, 1])
        field = np.exp(-0.5 * absorb * specimen + 1j * delay * phase_map).astype(np.complex64)
        fy = fft.fftfreq(self.canvas_px, optics.pixel_um)[:, None]
        fx = fft.fftfreq(self.canvas_px, optics.pixel_um)[None, :]
        condenser = rng.uniform(0.2, 0.8) * optics.na / optics.emission_um
        angles = rng.uniform(0, 2 * np.pi) + np.arange(4) * np.pi / 2
        total = np.zeros(specimen.shape, dtype=np.float32)
        spectrum = fft.fft2(field)
        for radius, angle in [(0.0, 0.0), *((0.8, float(a)) for a in angles)]:
            sy, sx = radius * condenser * np.sin(angle), radius * condenser * np.cos(angle)
            rho = np.hypot(fy + sy, fx + sx) * optics.emission_um / optics.na
            inside = rho <= 1.0
            phase = pupil_phase(optics, np.minimum(rho, 1.0), np.zeros_like(rho), scene.defocus_um)
            image = fft.ifft2(spectrum * (inside * np.exp(1j * phase)).astype(np.complex64))
            total += image.real**2 + image.imag**2
        return total / 5.0
