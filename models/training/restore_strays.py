"""Frames that a restorer must know as not its own, drawn more widely than the tables do: what the gate learns on.

Every kind has several makers with wide ranges, so that what is learned is the physics of a kind and not one drawing
of it: light that is taken away as well as given, straight and repeated lines, a smear in one direction, a blur or a
darkness beyond recovery.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from parfocal.models.restore.kinds import DIM, DRAWN, FAR, MOVED, OWN, TRANSMITTED
from parfocal.models.training.blur import Scene
from parfocal.models.training.restore_cases import exposed
from parfocal.models.training.restore_pairs import MARGIN_PX, PairMaker, expose_pair
from parfocal.simulator.optics import Optics

FloatImage = NDArray[np.float32]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;:-+/()      "
PHOTONS = (150.0, 8000.0)
DEPTHS, NEAR_DEPTHS, FAR_DEPTHS, DIM_DEPTHS, DIM_PHOTONS = (0.7, 7.0), (0.0, 0.9), (11.0, 30.0), (3.5, 7.0), (2.5, 12.0)


@dataclass(frozen=True)
class Stray:
    """One frame in counts, what is known of its optics, its kind (`kinds.KINDS`), and which maker drew it."""

    frame: FloatImage
    optics: Optics
    kind: str
    maker: str


class StrayMaker:
    """Draws frames of every kind, a specimen's own among them, from a bank of sharp objects.

    Parameters
    ----------
    pairs : PairMaker
        Its generator draws everything.
    """

    def __init__(self, pairs: PairMaker) -> None:
        self.pairs = pairs
        self.rng = pairs.rng
        self.canvas_px = pairs.size_px + 2 * MARGIN_PX

    def draw(self, maker: str) -> Stray:
        """One frame by the maker of that name (`MAKERS`)."""
        kind, make = MAKERS[maker]
        frame, optics = make(self)
        return Stray(frame, optics, kind, maker)

    def specimen(self) -> FloatImage:
        """A sharp object on the canvas."""
        return self.pairs.bank.sample(self.canvas_px, self.rng)[1]

    def scene(self, depths: tuple[float, float] = DEPTHS) -> Scene:
        """Random optics at a defocus between two depths of field."""
        scene = self.pairs.scene()
        signed = float(self.rng.choice([-1.0, 1.0])) * float(self.rng.uniform(*depths))
        # What the tables of the radial transfer function can hold, as for training pairs.
        most_um = 440.0 / scene.optics.cutoff_per_px / scene.optics.marginal_blur_px(1.0)
        defocus_um = float(np.clip(signed * scene.optics.depth_of_field_um, -most_um, most_um))
        return replace(scene, defocus_um=defocus_um, blur_px=defocus_um * scene.optics.blur_px_per_um)

    def shot(self, specimen: FloatImage, scene: Scene, photons: float | None = None) -> tuple[FloatImage, Optics]:
        """A specimen that shines, out of focus."""
        sharp, blurred = self.pairs.imaged(scene, specimen)
        return self.camera(blurred, sharp, scene, photons)

    def camera(self, image: FloatImage, sharp: FloatImage, scene: Scene, photons: float | None = None
               ) -> tuple[FloatImage, Optics]:  # fmt: skip
        """Counts of an image, by one of two cameras; optics as a user knows them."""
        rng = self.rng
        light = photons or float(np.exp(rng.uniform(*np.log(PHOTONS))))
        known = replace(scene.optics, zernike_waves={}, depth_um=0.0)
        if rng.random() < 0.5:
            return exposed(image, sharp, light, seed=(int(rng.integers(2**31)),)).frame.astype(np.float32), known
        peak = float(np.percentile(sharp[::2, ::2], 99.95))
        return expose_pair(image, sharp, peak, light, rng)[0], known

    def inner(self, image: NDArray[np.float64] | FloatImage) -> FloatImage:
        """The frame's part of the canvas, without negative light."""
        inside = slice(MARGIN_PX, -MARGIN_PX)
        return np.maximum(image, 0.0).astype(np.float32)[inside, inside]


Drawn = tuple[FloatImage, Optics]


def _own(maker: StrayMaker) -> Drawn:
    """What training pairs are made of, at the light and defocus that are asked."""
    return maker.shot(maker.specimen(), maker.scene())


def _near(maker: StrayMaker) -> Drawn:
    """In focus, or nearly."""
    return maker.shot(maker.specimen(), maker.scene(NEAR_DEPTHS))


def _own_pair(maker: StrayMaker) -> Drawn:
    """A training pair as it is: any light and defocus, thick, hazy and unevenly lit ones among them."""
    (pair,) = maker.pairs.pairs(1)
    return pair.frame, replace(pair.blur.optics, zernike_waves={}, depth_um=0.0)


def _far(maker: StrayMaker) -> Drawn:
    return maker.shot(maker.specimen(), maker.scene(FAR_DEPTHS))


def _dim(maker: StrayMaker) -> Drawn:
    return maker.shot(maker.specimen(), maker.scene(DIM_DEPTHS), float(maker.rng.uniform(*DIM_PHOTONS)))


def _bright_field(maker: StrayMaker) -> Drawn:
    """Absorbing and refracting, under a condenser (`Blurrer.transmitted`)."""
    scene = maker.scene()
    optics = scene.optics
    optics = replace(
        optics, pixel_um=min(optics.pixel_um, 0.5 * optics.emission_um / optics.na), zernike_waves={}, depth_um=0.0
    )
    scene = replace(scene, optics=optics, transmitted=True)
    delay = maker.specimen() if maker.rng.random() < 0.3 else None
    specimen = maker.specimen()
    image = maker.pairs.blurrer.transmitted(specimen, specimen if delay is None else delay, scene, maker.rng)
    return maker.camera(maker.inner(image), maker.inner(image), scene)


def _stained(maker: StrayMaker) -> Drawn:
    """Dark on a bright ground: a stain under a wide-open condenser, imaged as if it shone."""
    specimen = np.exp(-float(maker.rng.uniform(0.2, 2.0)) * maker.specimen())
    return maker.shot(specimen.astype(np.float32), maker.scene())


def _phase(maker: StrayMaker) -> Drawn:
    """Relief: slopes of a phase in one direction, as by differential interference contrast; or its curvature."""
    rng, specimen = maker.rng, maker.specimen()
    smooth = ndimage.gaussian_filter(specimen, float(rng.uniform(0.7, 2.5)))
    if rng.random() < 0.5:
        angle = float(rng.uniform(0.0, 2.0 * np.pi))
        relief = np.sin(angle) * np.gradient(smooth, axis=0) + np.cos(angle) * np.gradient(smooth, axis=1)
    else:
        relief = float(rng.choice([-1.0, 1.0])) * ndimage.laplace(smooth)
    relief = relief / max(float(np.percentile(np.abs(relief), 99.5)), 1e-9)
    scene = maker.scene((0.0, 3.0))
    return maker.shot((1.0 + float(rng.uniform(0.1, 0.9)) * np.clip(relief, -1.1, 1.1)).astype(np.float32), scene)


def _halo(maker: StrayMaker) -> Drawn:
    """Phase contrast: darker than the ground, in a bright halo, or the reverse."""
    rng, specimen = maker.rng, maker.specimen()
    around = ndimage.gaussian_filter(specimen, float(np.exp(rng.uniform(np.log(3.0), np.log(20.0)))))
    depth = float(rng.uniform(0.15, 0.8)) * float(rng.choice([-1.0, 1.0]))
    contrast = (specimen - around) / max(float(np.percentile(np.abs(specimen - around), 99.5)), 1e-9)
    return maker.shot(np.maximum(1.0 + depth * contrast, 0.0).astype(np.float32), maker.scene((0.0, 5.0)))


def _grating(maker: StrayMaker) -> Drawn:
    """Bars, sines and checks of any period, one or two directions."""
    rng = maker.rng
    period = float(np.exp(rng.uniform(np.log(6.0), np.log(70.0))))
    angle, duty = float(rng.uniform(0.0, np.pi)), float(rng.uniform(0.2, 0.8))
    wave = _bars(maker.canvas_px, angle, period, duty, sine=rng.random() < 0.25)
    if rng.random() < 0.35:
        other = _bars(maker.canvas_px, angle + np.pi / 2, period * float(rng.uniform(0.7, 1.5)), duty, sine=False)
        wave = np.abs(wave - other) if rng.random() < 0.5 else wave * other
    return maker.shot(wave, maker.scene())


def _bars(side: int, angle: float, period: float, duty: float, *, sine: bool) -> FloatImage:
    y, x = np.mgrid[:side, :side].astype(np.float32)
    turns = (y * np.sin(angle) + x * np.cos(angle)) / period
    if sine:
        return np.asarray(0.5 + 0.5 * np.cos(2.0 * np.pi * turns), dtype=np.float32)
    return np.asarray(np.mod(turns, 1.0) < duty, dtype=np.float32)


def _star(maker: StrayMaker) -> Drawn:
    """Spokes or rings of a focus target."""
    rng, side = maker.rng, maker.canvas_px
    y, x = (np.arange(side, dtype=np.float32) - float(rng.uniform(0.2, 0.8)) * side for _ in range(2))
    if rng.random() < 0.5:
        turns = int(rng.integers(8, 48)) * np.arctan2(y[:, None], x[None, :]) / (2.0 * np.pi)
    else:
        turns = np.hypot(y[:, None], x[None, :]) / float(rng.uniform(8.0, 50.0))
    return maker.shot(np.asarray(np.mod(turns, 1.0) < 0.5, dtype=np.float32), maker.scene())


def _text(maker: StrayMaker) -> Drawn:
    """Print of any size, turned a little or not, light on dark or dark on light."""
    from PIL import Image, ImageDraw, ImageFont

    rng, side = maker.rng, maker.canvas_px
    size = round(float(np.exp(rng.uniform(np.log(9.0), np.log(60.0)))))
    wide = int(1.5 * side)
    page = Image.new("L", (wide, wide))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    spacing = size * float(rng.uniform(0.95, 1.6))
    for line in range(int(wide / spacing) + 1):
        text = "".join(rng.choice(list(LETTERS), 3 * wide // size))
        draw.text((int(rng.integers(8)), int(line * spacing)), text, fill=255, font=font)
    turned = page.rotate(
        0.0 if rng.random() < 0.5 else float(rng.uniform(-30.0, 30.0)), resample=Image.Resampling.BILINEAR
    )
    top = (wide - side) // 2
    ink = np.asarray(turned, dtype=np.float32)[top : top + side, top : top + side] / 255.0
    return maker.shot(1.0 - ink if rng.random() < 0.3 else ink, maker.scene())


def _pads(maker: StrayMaker) -> Drawn:
    """A device by reflected light: tracks and pads with straight edges on a ground that is not dark, rough metal."""
    rng, side = maker.rng, maker.canvas_px
    image = np.full((side, side), float(rng.uniform(0.0, 0.4)), dtype=np.float32)
    unit, skew = float(np.exp(rng.uniform(np.log(6.0), np.log(50.0)))), float(np.exp(rng.uniform(-1.5, 1.5)))
    for _ in range(int(rng.integers(20, 220))):
        height, width = (max(2, int(unit * shape * np.exp(rng.normal(0.0, 0.5)))) for shape in (skew, 1.0 / skew))
        top, left = (int(rng.integers(-length, side)) for length in (height, width))
        image[max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)] = float(rng.uniform(0.4, 1.0))
    if rng.random() < 0.6:
        rough = ndimage.gaussian_filter(
            rng.standard_normal((side, side), dtype=np.float32), float(rng.uniform(0.8, 4.0))
        )
        image *= 1.0 + float(rng.uniform(0.05, 0.4)) * rough / max(float(rough.std()), 1e-9)
    if rng.random() < 0.5:
        image = np.asarray(ndimage.rotate(image, float(rng.uniform(0.0, 90.0)), reshape=False, order=1, mode="mirror"))
    return maker.shot(np.maximum(image, 0.0).astype(np.float32), maker.scene((0.3, 8.0)))


def _moved(maker: StrayMaker) -> Drawn:
    """Drawn along a line while the shutter was open, near focus or a little out of it."""
    scene = maker.scene((0.0, 0.5) if maker.rng.random() < 0.7 else (0.5, 2.0))
    length, angle = float(maker.rng.uniform(8.0, 45.0)), float(maker.rng.uniform(0.0, np.pi))
    steps = np.linspace(-0.5, 0.5, int(2 * length) + 1) * length
    return _smeared(maker, scene, np.outer(steps, (np.sin(angle), np.cos(angle))))


def _shaken(maker: StrayMaker) -> Drawn:
    """Drawn along a bent way, at uneven speed."""
    rng = maker.rng
    length, angle = float(rng.uniform(10.0, 45.0)), float(rng.uniform(0.0, np.pi))
    t = np.sort(rng.beta(float(rng.uniform(0.6, 1.5)), float(rng.uniform(0.6, 1.5)), 81)) - 0.5
    across = float(rng.uniform(-0.35, 0.35)) * (np.square(2.0 * t) - 0.5)
    way = length * np.stack([np.sin(angle) * t + np.cos(angle) * across, np.cos(angle) * t - np.sin(angle) * across], 1)
    return _smeared(maker, maker.scene((0.0, 1.0)), way)


def _smeared(maker: StrayMaker, scene: Scene, way: NDArray[np.float64]) -> Drawn:
    """The mean of a specimen's image over places (n, 2) in pixels."""
    specimen = maker.specimen()
    fy, fx = fft.fftfreq(maker.canvas_px)[:, None], fft.rfftfreq(maker.canvas_px)[None, :]
    path = sum(np.exp(-2j * np.pi * (fy * down + fx * right)) for down, right in way) / len(way)
    moved = fft.irfft2(fft.rfft2(specimen) * path, s=specimen.shape)
    image = maker.pairs.imaged(scene, np.maximum(moved, 0.0).astype(np.float32))[1]
    return maker.camera(image, maker.pairs.imaged(scene, specimen)[0], scene)


MAKERS: Mapping[str, tuple[str, Callable[[StrayMaker], Drawn]]] = {
    "own": (OWN, _own), "near": (OWN, _near), "pair": (OWN, _own_pair),
    "bright field": (TRANSMITTED, _bright_field), "stained": (TRANSMITTED, _stained), "phase": (TRANSMITTED, _phase),
    "halo": (TRANSMITTED, _halo),
    "grating": (DRAWN, _grating), "star": (DRAWN, _star), "text": (DRAWN, _text), "pads": (DRAWN, _pads),
    "moved": (MOVED, _moved), "shaken": (MOVED, _shaken), "far": (FAR, _far), "dim": (DIM, _dim),
}  # fmt: skip
"""Every maker: the kind that it draws, and how."""
