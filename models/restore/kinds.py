"""Which kind a frame is of: a specimen's own fluorescence, or something no method here can undo, and what.

Numbers of the frame's look alone (`look`), not of any restoration: how its light is spread about its mean, whether its
noise grows with its light as a dark ground's does, and what its power spectrum is along and across its weakest
direction, over its noise. A small network of numbers in a card (`KindJudge`), taught with frames of every kind, says
how likely each is; the gate says the likeliest in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import ModelError
from parfocal.models.cards import load_card, load_weights, packaged_card_path, weights_path
from parfocal.models.restore.base import Blur, FloatImage
from parfocal.models.restore.deconvolution import Observed
from parfocal.models.restore.levels import quantiles
from parfocal.models.restore.traits import binned
from parfocal.models.restore.transfer import frequency_of

OWN, TRANSMITTED, DRAWN, MOVED, FAR, DIM = "own", "transmitted", "drawn", "moved", "far", "dim"
KINDS = (OWN, TRANSMITTED, DRAWN, MOVED, FAR, DIM)
RINGS, SECTORS, FOLDED = 10, 12, 7
EDGES = np.geomspace(0.012, 0.5, RINGS + 1)
"""Cycles a pixel between which the spectrum is looked at."""
QUANTILES = (1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.8)
SCALES = 3
SMALL_PX = 8
"""No coarser image is looked at as what it adds to the next coarser one."""
LOOKS = len(QUANTILES) - 1 + 2 + 3 * SCALES + 4 * RINGS + RINGS * FOLDED + 5
"""How many numbers a look has."""
REACH = 4.0
"""Standard deviations of the frames learned on beyond which a number of the look says no more."""
FOCUSED_LIMIT = 0.75
"""How likely another kind must at least be in a frame that is called in focus."""
WHY: Mapping[str, str] = {
    TRANSMITTED: "darker and brighter than an even ground, as by transmitted or reflected light: only what a specimen "
    "sends out itself can be restored",
    DRAWN: "straight edges or even lines, as of print, a grating or a device: no specimen that is known looks so",
    MOVED: "smeared in one direction: something moved during the exposure, and no point spread function undoes that",
    FAR: "farther out of focus than it is taken for, and beyond recovery",
    DIM: "too little light for so much blur",
}
"""What a person is told of a frame of each kind but `OWN`."""


def look(frame: FloatImage, seen: Observed, blur: Blur) -> Tensor:
    """What a frame is known by, shape (LOOKS,): logarithms and roots, so that ordinary frames spread evenly."""
    coarse = binned(binned(frame))
    return torch.tensor([*_light(coarse, seen), *_shapes(coarse), *_spectral(seen), *_told(seen, blur)],
                        dtype=torch.float32)  # fmt: skip


def _light(coarse: FloatImage, seen: Observed) -> list[float]:
    """Quantiles about the median; their range in the noise's sd."""
    at = quantiles(coarse, QUANTILES)
    span = max(float(at[-2] - at[0]), 1e-6)
    middle = [float(value) for value in (at - at[3]) / span]
    noise = seen.levels.noise_sd / 4.0
    return [*middle[:3], *middle[4:], float(np.log(span / noise + 1e-3)), float(np.log(seen.levels.ground + 1e-3))]


def _shapes(coarse: FloatImage) -> list[float]:
    """Of what each of three scales adds to the next coarser: skewness and excess of its values, as roots and logs."""
    told = []
    image = coarse
    for _ in range(SCALES):
        below = binned(image)
        rows, columns = below.shape
        fours = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2)
        detail = fours - below[:, None, :, None]
        told += _moments(below) if min(below.shape) < SMALL_PX else _moments(_smooth(below))
        told.append(float(np.log(detail.std() / (image.std() + 1e-9) + 1e-4)))
        image = below
    return told


def _smooth(image: FloatImage) -> FloatImage:
    """Difference of a pixel to the mean of its eight neighbours: band-passed."""
    ring = np.zeros_like(image[1:-1, 1:-1])
    height, width = image.shape
    for down in (0, 1, 2):
        for right in (0, 1, 2):
            if (down, right) != (1, 1):
                ring += image[down : height - 2 + down, right : width - 2 + right]
    return np.asarray(image[1:-1, 1:-1] - ring / 8.0, dtype=np.float32)


def _moments(values: FloatImage) -> list[float]:
    centred = values - values.mean()
    square = np.square(centred)
    sd2 = float(square.mean()) + 1e-12
    skewness = float(np.mean(square * centred)) / sd2**1.5
    return [float(np.cbrt(np.clip(skewness, -100.0, 100.0))), float(np.log(np.mean(square * square) / sd2**2))]


def _spectral(seen: Observed) -> list[float]:
    """Power over the noise, ring by ring, then by direction from the weakest on, relative to the ring's.

    Between them: how uneven the power is along a ring and within a direction of it (lines stand out there, a specimen's
    speckle does not), and what the optics pass.
    """
    cells = _cells(seen.canvas.padded)
    power = seen.power.take(cells.order)
    noise = seen.levels.noise_sd**2 * seen.canvas.padded[0] * seen.canvas.padded[1]
    total, square = cells.sums(power), cells.sums(np.square(power, dtype=np.float64))
    passed = cells.sums(seen.transfer.square.numpy().ravel().take(cells.order))
    count = np.maximum(cells.counts.sum(axis=1), 1.0)
    mean = total.sum(axis=1) / count
    bursts = square.sum(axis=1) / count / np.maximum(np.square(mean), 1e-12)
    held = cells.counts > 0
    within = np.where(held, square * cells.counts / np.maximum(np.square(total), 1e-12), 1.0).mean(axis=1)
    level = np.log1p(mean / noise)
    sectors = np.log1p(total / np.maximum(cells.counts, 1.0) / noise)
    by_sector = np.where(held, sectors - level[:, None], 0.0)
    return [
        *level, *np.log(bursts + 0.1), *np.log(within + 0.1), *np.log(passed.sum(axis=1) / count + 1e-4),
        *_turned(by_sector).ravel(),
    ]  # fmt: skip


def _turned(by_sector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions (rings, 12) counted from the weakest, both ways together, shape (rings, 7)."""
    from_weakest = np.roll(by_sector, -int(np.argmin(by_sector[1:].sum(axis=0))), axis=1)
    other_way = np.roll(from_weakest[:, ::-1], 1, axis=1)
    return np.asarray(0.5 * (from_weakest + other_way)[:, :FOLDED])


def _told(seen: Observed, blur: Blur) -> list[float]:
    doubt = blur.sd_um / max(abs(blur.defocus_um), 1e-6)
    return [
        float(np.log1p(blur.diameter_px)), float(np.log(blur.depths + 0.2)), float(np.log(doubt + 1e-2)),
        float(np.log(blur.optics.cutoff_per_px)), 0.5 * float(np.log(seen.canvas.shape[0] * seen.canvas.shape[1])),
    ]  # fmt: skip


@dataclass(frozen=True)
class _Cells:
    """Frequencies of a grid in the order of their ring and sector, where each cell starts, and how many it has."""

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.float64]

    def sums(self, ordered: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over the cells, shape (rings, sectors), of values in this order."""
        found = np.add.reduceat(ordered, self.starts, dtype=np.float64).reshape(RINGS, SECTORS)
        return np.asarray(np.where(self.counts > 0, found, 0.0))  # where a cell is empty, the next one's first


@lru_cache(maxsize=8)
def _cells(padded: tuple[int, int]) -> _Cells:
    frequency = frequency_of(padded).numpy()
    fy, fx = np.fft.fftfreq(padded[0])[:, None], np.fft.rfftfreq(padded[1])[None, :]
    sector = np.minimum((np.mod(np.arctan2(fy, fx), np.pi) / np.pi * SECTORS).astype(np.int64), SECTORS - 1)
    ring = np.digitize(frequency, EDGES) - 1
    inside = (ring >= 0) & (ring < RINGS)
    cell = np.where(inside, ring * SECTORS + sector, RINGS * SECTORS).ravel()
    order = np.argsort(cell, kind="stable")[: int(inside.sum())]
    counts = np.bincount(cell[order], minlength=RINGS * SECTORS)
    starts = np.minimum(np.cumsum(counts) - counts, len(order) - 1)
    return _Cells(order, starts, counts.astype(np.float64).reshape(RINGS, SECTORS))


@dataclass(frozen=True)
class KindJudge:
    """Says of a look how likely each of `KINDS` is: the mean of a few small networks of one hidden layer.

    Parameters
    ----------
    mean, sd : Tensor, shape (n,)
        Of the looks learned on.
    inward, inward_bias : Tensor, shapes (m, hidden, n) and (m, hidden)
    outward, outward_bias : Tensor, shapes (m, kinds, hidden) and (m, kinds)
    limit : float
        How likely another kind than `OWN` may be in a frame that is restored.
    """

    mean: Tensor
    sd: Tensor
    inward: Tensor
    inward_bias: Tensor
    outward: Tensor
    outward_bias: Tensor
    limit: float

    KEYS: ClassVar[tuple[str, ...]] = ("mean", "sd", "inward", "inward_bias", "outward", "outward_bias")

    @staticmethod
    def of_card(path: Path) -> KindJudge:
        """From a card and its weights.

        Raises
        ------
        ModelError
            Weights that are missing or not those of the card, or of another look than this parfocal's.
        """
        card = load_card(path)
        held = load_weights(card, weights_path(card, path))
        try:
            mean, sd, inward, inward_bias, outward, outward_bias = (held[key].float() for key in KindJudge.KEYS)
            limit = float(card.measured["limit"])
        except KeyError as error:
            raise ModelError(f"{path} is no card of the kinds of frames: it lacks {error}") from error
        if list(card.input.get("kinds", ())) != list(KINDS) or mean.shape != (LOOKS,):
            raise ModelError(f"{path} knows frames by other numbers than this parfocal: make it again")
        return KindJudge(mean, sd, inward, inward_bias, outward, outward_bias, limit)

    def state(self) -> dict[str, Tensor]:
        """For a weight file."""
        return {key: getattr(self, key) for key in self.KEYS}

    def likely(self, looked: Tensor) -> dict[str, float]:
        """Probability of every kind of one look (LOOKS,)."""
        scaled = ((looked - self.mean) / self.sd).clamp(-REACH, REACH)
        hidden = torch.tanh(self.inward @ scaled + self.inward_bias)
        told = (self.outward @ hidden[..., None])[..., 0] + self.outward_bias
        return dict(zip(KINDS, torch.softmax(told, dim=-1).mean(dim=0).tolist(), strict=True))

    def reason(self, likely: Mapping[str, float], *, focused: bool = False) -> str:
        """Why a frame is none to be restored, or none that is in focus, in words; empty if it may be."""
        if 1.0 - likely[OWN] <= (max(self.limit, FOCUSED_LIMIT) if focused else self.limit):
            return ""
        return WHY[max(WHY, key=lambda kind: likely[kind])]


@lru_cache(maxsize=1)
def packaged_judge() -> KindJudge:
    """The one that comes with parfocal."""
    return KindJudge.of_card(packaged_card_path("restore_kinds"))
