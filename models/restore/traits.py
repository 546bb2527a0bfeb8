"""Numbers by which a frame is known for one of its kind: light, direction, blocks, noise, what a result leaves.

They are what the gate looks at. Each is of the frame's look and not of its content's identity: a specimen never seen
has them like others, a bright-field image, a smeared or a compressed one has not.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.restore.base import Blur, FloatImage
from parfocal.models.restore.deconvolution import Observed
from parfocal.models.restore.levels import bent, quantiles
from parfocal.models.restore.transfer import frequency_of

SECTORS = 12
BANDS = ((0.01, 0.03), (0.03, 0.06), (0.06, 0.12))
"""Cycles a pixel between which direction is looked at: coarse, middle, fine."""
JPEG_PX = 8
LEAST = {
    "residual": 0.0, "residual_spread": 0.4, "median_light": -2.0, "negative_skewness": -1.1,
    "coarse_direction": 0.8, "middle_direction": 0.6, "fine_direction": 0.4,
    "noise": float(np.log(0.02)), "doubt": float(np.log(0.15)), "depths": 0.0, "lost_gain": -float(np.log1p(2.0)),
}  # fmt: skip
"""Every trait and where it begins to count: dark ground, little noise, a sure blur are no reason to wonder."""
NAMES = tuple(LEAST)


def traits(frame: FloatImage, seen: Observed, residual: FloatImage, blur: Blur, noise: float, gain_db: float) -> Tensor:
    """The numbers of `NAMES`, shape (11,): logarithms, or nearly, so that ordinary frames spread evenly.

    Parameters
    ----------
    frame : ndarray, shape (height, width)
    seen : Observed
    residual : ndarray
        Root mean square by squares (`block_rms` of `reblur_residual`).
    blur : Blur
    noise : float
        In units of the restored image's brightness.
    gain_db : float
        What the method claims (`claimed_gain_db`).
    """
    middle, most = np.quantile(residual, (0.5, 0.9)) + 1e-3
    low, median, high = quantiles(frame[::2, ::2], (1.0, 50.0, 99.8))
    light = float(np.clip((median - low) / max(high - low, 1e-6), 0.01, 0.99))
    doubt = blur.sd_um / max(abs(blur.defocus_um), 1e-6)
    raw = [
        np.log(middle), np.log(most / middle), np.log(light / (1.0 - light)), -_skewness(frame), *_directions(seen),
        np.log(noise + 1e-4), np.log(doubt + 1e-3), np.log(blur.depths + 0.2), -np.log1p(max(gain_db, 0.0)),
    ]  # fmt: skip
    return torch.tensor([max(float(value), LEAST[name]) for name, value in zip(NAMES, raw, strict=True)])


def blockiness(frame: FloatImage) -> float:
    """How much rougher a frame is at every eighth row and column than between: 1 but for lossy compression.

    The least of both axes, so that a line of bad pixels is none.
    """
    ratios = []
    for axis in (0, 1):
        rough = bent(torch.from_numpy(frame), axis).abs_().mean(dim=1 - axis).numpy()
        phases = np.sort([float(rough[start::JPEG_PX].mean()) for start in range(JPEG_PX)])
        # A block's edge touches two second differences; the lesser of them is compared, against a single bad line.
        ratios.append(phases[-2] / max(float(np.median(phases)), 1e-9))
    return float(min(ratios))


def _skewness(frame: FloatImage) -> float:
    """Third root of the skewness of the frame, four by four pixels together."""
    coarse = binned(binned(frame))
    centred = coarse - coarse.mean()
    square = np.square(centred)
    sd = float(np.sqrt(square.mean())) + 1e-9
    return float(np.cbrt(np.clip(float(np.mean(square * centred)) / sd**3, -50.0, 50.0)))


def binned(image: FloatImage) -> FloatImage:
    """Means of two by two pixels; an odd row or column is left out."""
    height, width = (side - side % 2 for side in image.shape)
    pairs = image[:height:2, :width] + image[1:height:2, :width]
    return np.asarray(0.25 * (pairs[:, ::2] + pairs[:, 1::2]), dtype=np.float32)


def _directions(seen: Observed) -> list[float]:
    """For every band, the strongest of twelve directions of the power over the median one, as a logarithm."""
    told = []
    for places, starts, counts in _sectors(seen.canvas.padded):
        sums = np.add.reduceat(seen.power.take(places), starts, dtype=np.float64)
        mean = np.where(counts > 0, sums, 0.0) / np.maximum(counts, 1.0)
        told.append(float(np.log(mean.max() / max(float(np.median(mean)), 1e-12))))
    return told


@lru_cache(maxsize=8)
def _sectors(padded: tuple[int, int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]]:
    """Places of each band on the rfft2 grid by sector, where each sector starts, and how many places it has."""
    frequency = frequency_of(padded).numpy()
    fy, fx = np.fft.fftfreq(padded[0])[:, None], np.fft.rfftfreq(padded[1])[None, :]
    angle = np.mod(np.arctan2(fy, fx), np.pi) / np.pi * SECTORS
    out = []
    for low, high in BANDS:
        inside = np.flatnonzero((frequency >= low) & (frequency < high))
        sector = np.minimum(angle.ravel()[inside].astype(np.int64), SECTORS - 1)
        counts = np.bincount(sector, minlength=SECTORS)
        places = inside[np.argsort(sector, kind="stable")]
        out.append((places, np.minimum(np.cumsum(counts) - counts, len(places) - 1), counts.astype(np.float64)))
    return out
