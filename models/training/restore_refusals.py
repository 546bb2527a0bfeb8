"""Frames that must not be restored: beyond recovery, empty, or of a kind that no training saw."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.restore.base import Restorer, Verdict
from parfocal.models.training.blur import Blurrer, Scene
from parfocal.models.training.camera_noise import empty
from parfocal.models.training.evaluate_restore import IDENTITY, Estimate, attempt, blur_or_reason
from parfocal.models.training.restore_cases import MARGIN_PX, Sample, exposed
from parfocal.simulator.optics import Optics

Frame = NDArray[Any]
Maker = Callable[[Sample, np.random.Generator], Frame]
TEXT = "PARFOCAL 0123456789 the stage stands where the light is sharp; "
FAR_DEPTHS, DIM_PHOTONS, DIM_DEPTHS = (12.0, 25.0), (5.0, 10.0), (4.0, 6.0)
DEPTHS = (1.0, 6.0)
"""Defocus, in depths of field, of the kinds that are bad by something else."""


def refusal_frames(drawn: Sequence[Sample], *, seed: int, per_kind: int) -> Iterator[tuple[str, Frame, Optics]]:
    """So many frames of every kind: its name, the frame, and the optics as a user would tell them."""
    for place, (name, make) in enumerate(KINDS.items()):
        for number in range(per_kind):
            sample = drawn[number % len(drawn)]
            yield name, make(sample, np.random.default_rng((seed, place, number))), sample.known_optics


def refusals(frames: Iterator[tuple[str, Frame, Optics]], restorers: Mapping[str, Restorer], estimate: Estimate
             ) -> dict[str, Any]:  # fmt: skip
    """Share of each kind that each method refused, left alone as in focus, or restored; ``all``: of all frames.

    A frame whose blur is not known counts as refused by every method.
    """
    told: dict[str, list[dict[str, Verdict | None]]] = {}
    for name, frame, optics in frames:
        blur, reason = blur_or_reason(frame, optics, estimate)
        verdicts: dict[str, Verdict | None] = {
            method: attempt(one, frame, blur, reason).verdict for method, one in restorers.items() if method != IDENTITY
        }
        told.setdefault(name, []).append({**verdicts, "": None if blur is None else Verdict.RESTORED})
    every = [one for held in told.values() for one in held]
    return {name: _shares(held) for name, held in (*told.items(), ("all", every))} if every else {}


def _shares(told: Sequence[Mapping[str, Verdict | None]]) -> dict[str, Any]:
    methods = [method for method in told[0] if method]
    return {
        "frames": len(told),
        "blur_unknown": float(np.mean([one[""] is None for one in told])),
        "methods": {
            method: {str(verdict): float(np.mean([one[method] is verdict for one in told])) for verdict in Verdict}
            for method in methods
        },
    }


def _image(sample: Sample, depths: float, photons: float, rng: np.random.Generator) -> Frame:
    sharp, image = sample.images((0.0, depths * float(rng.choice([-1.0, 1.0]))))
    return exposed(image, sharp, photons, seed=_seed(rng)).frame


def _seed(rng: np.random.Generator) -> tuple[int, ...]:
    return (int(rng.integers(2**31)),)


def _far(sample: Sample, rng: np.random.Generator) -> Frame:
    return _image(sample, float(rng.uniform(*FAR_DEPTHS)), 2000.0, rng)


def _dim(sample: Sample, rng: np.random.Generator) -> Frame:
    return _image(sample, float(rng.uniform(*DIM_DEPTHS)), float(rng.uniform(*DIM_PHOTONS)), rng)


def _empty(sample: Sample, rng: np.random.Generator) -> Frame:
    side = sample.specimen.shape[0] - 2 * MARGIN_PX
    return empty((side, side), rng).counts.astype(np.uint16)


def _transmitted(sample: Sample, rng: np.random.Generator) -> Frame:
    """Bright field of an object that absorbs and refracts, on a pixel that samples it."""
    optics = sample.known_optics
    optics = replace(optics, pixel_um=min(optics.pixel_um, 0.5 * optics.emission_um / optics.na))
    defocus_um = _depth(rng) * optics.depth_of_field_um
    scene = Scene(optics, defocus_um, optics.blur_diameter_px(defocus_um), 0.0, ((0.0, 1.0),), True)
    image = _blurrer(sample.specimen.shape[0]).transmitted(sample.specimen, sample.specimen, scene, rng)
    image = image[MARGIN_PX:-MARGIN_PX, MARGIN_PX:-MARGIN_PX].astype(np.float32)
    return exposed(image, image, 2000.0, seed=_seed(rng)).frame


@lru_cache(maxsize=2)
def _blurrer(side: int) -> Blurrer:
    return Blurrer(side)


def _grating(sample: Sample, rng: np.random.Generator) -> Frame:
    """Bars of a test target out of focus."""
    side = sample.specimen.shape[0]
    y, x = np.mgrid[:side, :side]
    angle, period = rng.uniform(0.0, np.pi), float(np.exp(rng.uniform(np.log(8.0), np.log(50.0))))
    wave = np.cos(2.0 * np.pi / period * (y * np.sin(angle) + x * np.cos(angle)))
    return _image(replace(sample, specimen=(wave > 0).astype(np.float32)), _depth(rng), 2000.0, rng)


def _text(sample: Sample, rng: np.random.Generator) -> Frame:
    """A page of print out of focus."""
    from PIL import Image, ImageDraw, ImageFont

    side, size = sample.specimen.shape[0], int(rng.integers(12, 40))
    page = Image.new("L", (side, side))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    for line in range(side // size + 1):
        shift = int(rng.integers(len(TEXT)))
        draw.text((4, line * size), (TEXT[shift:] + TEXT) * 3, fill=255, font=font)
    specimen = np.asarray(page, dtype=np.float32) / 255.0
    return _image(replace(sample, specimen=specimen), _depth(rng), 2000.0, rng)


def _moved(sample: Sample, rng: np.random.Generator) -> Frame:
    """In focus, and drawn along a line while the shutter was open."""
    (sharp,) = sample.images((0.0,))
    angle, length = rng.uniform(0.0, np.pi), float(rng.uniform(10.0, 30.0))
    steps = np.linspace(-0.5, 0.5, int(2 * length)) * length
    spectrum = np.fft.rfft2(sharp)
    fy, fx = np.fft.fftfreq(sharp.shape[0])[:, None], np.fft.rfftfreq(sharp.shape[1])[None, :]
    along = fy * np.sin(angle) + fx * np.cos(angle)
    path = np.mean([np.exp(-2j * np.pi * along * step) for step in steps], axis=0)
    image = np.maximum(np.fft.irfft2(spectrum * path, s=sharp.shape), 0.0).astype(np.float32)
    return exposed(image, sharp, 2000.0, seed=_seed(rng)).frame


def _jpeg(sample: Sample, rng: np.random.Generator) -> Frame:
    """Eight bits, compressed with loss, as pictures on slides are."""
    from PIL import Image

    frame = _image(sample, _depth(rng), 2000.0, rng).astype(np.float32)
    low, high = np.percentile(frame, (0.1, 99.95))
    eight = np.clip((frame - low) / max(float(high - low), 1.0) * 250.0, 0.0, 255.0).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(eight).save(packed, "JPEG", quality=int(rng.integers(15, 60)))
    return np.asarray(Image.open(packed))


def _clipped(sample: Sample, rng: np.random.Generator) -> Frame:
    """The brightest part of the picture at the camera's ceiling."""
    frame = _image(sample, _depth(rng), 2000.0, rng)
    return np.minimum(frame, np.uint16(np.percentile(frame, float(rng.uniform(85.0, 98.0)))))


def _depth(rng: np.random.Generator) -> float:
    return float(rng.uniform(*DEPTHS))


KINDS: Mapping[str, Maker] = {
    "12 to 25 depths of field": _far, "5 to 10 photons at 4 to 6 depths": _dim, "empty, with shade": _empty,
    "transmitted light": _transmitted, "gratings": _grating, "text": _text, "motion blur": _moved,
    "JPEG, 8 bit": _jpeg, "clipped": _clipped,
}  # fmt: skip
