"""The images that restoring is measured on: fields and specimens that no training saw, blurred by so many depths."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.models.training.evaluate_defocus import HELD_OUT_OPTICS
from parfocal.models.training.fields import Field, load_fields
from parfocal.models.training.objects import ObjectBank
from parfocal.simulator.camera import Camera, CameraParameters
from parfocal.simulator.optics import Imager, Optics

FloatImage = NDArray[np.float32]
DEPTHS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
PHOTONS = (2000.0, 200.0)
"""Electrons at the in-focus peak: photons that were detected."""
MARGIN_PX = 64
"""Of the object around a frame, so that light from outside comes in."""
COMMON_OPTICS = (
    Optics(na=0.3, pixel_um=0.65, emission_um=0.52),
    Optics(na=0.8, pixel_um=0.325, emission_um=0.6),
    Optics(na=0.95, pixel_um=0.1625, emission_um=0.46),
    Optics(na=1.4, immersion_index=1.518, pixel_um=0.108, emission_um=0.67),
)
"""Objectives that many have, beside the apertures that training leaves out."""
BACKGROUND_SHARE, BACKGROUND_ELECTRONS = 0.02, 2.0
EXPOSURE_MS = 100.0


@dataclass(frozen=True)
class RestoreCase:
    """One frame out of focus with its truth.

    Parameters
    ----------
    frame : ndarray of uint16, shape (height, width)
        Raw counts.
    truth : ndarray of float32, shape (height, width)
        The same microscope's noise-free image in focus, in the same counts.
    noise_sd : ndarray of float32, shape (height, width)
        Standard deviation of each pixel of the frame, as the camera and the light make it.
    optics : Optics
        As a user knows them: without aberrations.
    defocus_um, depths, photons : float
    kind : str
        Folder of the field or name of the specimen.
    defects : ndarray of bool, shape (height, width)
        The camera's hot pixels.
    """

    frame: NDArray[np.uint16]
    truth: FloatImage
    noise_sd: FloatImage
    optics: Optics
    defocus_um: float
    depths: float
    photons: float
    kind: str
    defects: NDArray[np.bool_]


@dataclass(frozen=True)
class Exposed:
    """What a camera made of an image: counts, the sharp image in the same counts, noise, hot pixels."""

    frame: NDArray[np.uint16]
    truth: FloatImage
    noise_sd: FloatImage
    defects: NDArray[np.bool_]


@dataclass(frozen=True)
class Sample:
    """An object with the microscope it is put under; `specimen` has `MARGIN_PX` around the frame."""

    specimen: FloatImage
    optics: Optics
    kind: str
    number: int

    @property
    def known_optics(self) -> Optics:
        """The optics as a user knows them."""
        return replace(self.optics, zernike_waves={}, depth_um=0.0)

    def images(self, depths: Iterable[float]) -> Iterator[FloatImage]:
        """Noise-free images of the frame at defocus in depths of field, signed."""
        imager = Imager(self.optics, (self.specimen.shape[0], self.specimen.shape[1]), boundary="mirror")
        inner = slice(MARGIN_PX, -MARGIN_PX)
        for depth in depths:
            yield imager.image(self.specimen, depth * self.optics.depth_of_field_um)[inner, inner]


def samples(fields: Path | None, *, count: int, size_px: int, seed: int) -> list[Sample]:
    """Held-out fields, from every folder in turn, or procedural specimens; each under the next of eight microscopes.

    Raises
    ------
    UsageError
        `fields` holds no image of the test split.
    """
    objects = _real(fields, count, size_px) if fields is not None else _procedural(count, size_px, seed)
    pool = [optics for pair in zip(HELD_OUT_OPTICS, COMMON_OPTICS, strict=True) for optics in pair]
    return [Sample(image, pool[number % len(pool)], kind, number) for number, (kind, image) in enumerate(objects)]


def cases(drawn: Sequence[Sample], *, seed: int, depths: Sequence[float] = DEPTHS,
          photons: Sequence[float] = PHOTONS) -> Iterator[RestoreCase]:  # fmt: skip
    """Every sample at every defocus, in both directions by turns, and at every light."""
    for sample in drawn:
        signs = [1.0 if (sample.number + place) % 2 else -1.0 for place in range(len(depths))]
        sharp, *blurred = sample.images((0.0, *(sign * depth for sign, depth in zip(signs, depths, strict=True))))
        for place, image in enumerate(blurred):
            for light in photons:
                number = (sample.number * 100 + place) * 10 + list(photons).index(light)
                shot = exposed(image, sharp, light, seed=(seed, number))
                known, depth = sample.known_optics, depths[place]
                defocus_um = signs[place] * depth * known.depth_of_field_um
                yield RestoreCase(
                    shot.frame, shot.truth, shot.noise_sd, known, defocus_um, depth, light, sample.kind, shot.defects
                )


def exposed(image: FloatImage, sharp: FloatImage, photons: float, *, seed: tuple[int, ...]) -> Exposed:
    """Counts of an expected image, the noise-free counts of the sharp one, and each pixel's noise.

    The camera is the simulator's (read noise with a tail, hot pixels, an offset); its gain is drawn. `photons` are
    electrons at the sharp image's 99.95th percentile, as in the tables of defocus.
    """
    rng = np.random.default_rng(seed)
    gain = float(np.exp(rng.uniform(np.log(0.5), np.log(3.0))))
    parameters = CameraParameters(quantum_efficiency=1.0, vignetting=0.0, gain_counts_per_electron=gain)
    shape = (image.shape[0], image.shape[1])
    camera = Camera(parameters, shape, seed=int(rng.integers(2**31)), threads=1)
    scale = photons / max(float(np.percentile(sharp[::2, ::2], 99.95)), 1e-9)
    background = BACKGROUND_SHARE * photons + BACKGROUND_ELECTRONS
    expected = (image * scale + background).astype(np.float32)
    frame = camera.expose(expected, EXPOSURE_MS)
    dark = parameters.dark_electrons_per_s * EXPOSURE_MS / 1000.0
    truth = (sharp * scale + background + dark) * gain + parameters.offset_counts
    noise = gain * np.sqrt(expected + dark + np.square(camera.read_noise_electrons))
    return Exposed(frame, truth.astype(np.float32), noise.astype(np.float32), camera.hot_pixels)


def fitted(image: NDArray[Any], side: int) -> FloatImage:
    """The centre of an image, mirrored at its edges where it is smaller than `side`."""
    short = [max(0, side - have) for have in image.shape]
    if any(short):
        image = np.pad(image, [(extra // 2, extra - extra // 2) for extra in short], mode="symmetric")
    top, left = ((have - side) // 2 for have in image.shape)
    return np.ascontiguousarray(image[top : top + side, left : left + side], dtype=np.float32)


def _real(folder: Path, count: int, size_px: int) -> list[tuple[str, FloatImage]]:
    """Fields of the test split; the second, fourth... of a folder binned 2x2 if there is enough of them."""
    found = load_fields(folder, "test")
    if not found:
        raise UsageError(f"{folder} holds no field of the test split (a fifth of all, by a hash of their names)")
    by_source: dict[str, list[Field]] = {}
    for field in found:
        by_source.setdefault(field.source, []).append(field)
    ranked = sorted((place, source) for source, held in by_source.items() for place in range(len(held)))
    drawn = []
    for place, source in ranked[:count]:
        image = by_source[source][place].image
        if place % 2 and min(image.shape) >= 2 * size_px:
            h, w = (side // 2 for side in image.shape)
            image = image[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean(axis=(1, 3))
        drawn.append((source, fitted(image, size_px + 2 * MARGIN_PX)))
    return drawn


def _procedural(count: int, size_px: int, seed: int) -> list[tuple[str, FloatImage]]:
    bank, rng = ObjectBank([], procedural=count, seed=seed), np.random.default_rng(seed)
    return [bank.sample(size_px + 2 * MARGIN_PX, rng) for _ in range(count)]
