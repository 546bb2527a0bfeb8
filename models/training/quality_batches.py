"""Batches for the quality networks: drawn from the last chunks, turned, and some frames made of two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import PATCH_PX
from parfocal.models.training.quality_recipe import scaled

Chunk = Mapping[str, NDArray[Any]]
KEYS = (
    "counts", "artefact", "level", "frc", "frc_censored", "mm", "frc_rows", "frc_rows_censored", "mm_rows", "ladder",
)  # fmt: skip
VIGNETTING = 5
"""Index of the one artefact that is of a whole frame: no part of such a frame shows it by itself."""


class ImageBuffer:
    """The last so many chunks, to draw batches from."""

    def __init__(self, capacity_chunks: int) -> None:
        self._capacity = capacity_chunks
        self._chunks: list[dict[str, NDArray[Any]]] = []
        self._next = 0

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in, the oldest out if full."""
        held = {key: np.asarray(chunk[key]) for key in KEYS}
        if len(self._chunks) < self._capacity:
            self._chunks.append(held)
        else:
            self._chunks[self._next] = held
            self._next = (self._next + 1) % self._capacity

    def draw(self, size: int, rng: np.random.Generator, *, ladders: int = 0) -> dict[str, NDArray[Any]]:
        """So many images at random from all chunks held; the last ones are so many whole ladders, where there are any.

        ``ladder`` numbers those; of an image drawn by itself it is -1.
        """
        together = [self._ladder(rng) for _ in range(ladders)]
        alone = size - sum(map(len, together))
        which = rng.integers(len(self._chunks), size=alone)
        pairs = [(int(chunk), int(rng.integers(len(self._chunks[chunk]["mm"])))) for chunk in which]
        pairs += [pair for rungs in together for pair in rungs]
        found = {key: np.stack([self._chunks[chunk][key][row] for chunk, row in pairs]) for key in KEYS}
        numbers = [np.full(len(rungs), number) for number, rungs in enumerate(together)]
        return found | {"ladder": np.concatenate([np.full(alone, -1), *numbers])}

    def _ladder(self, rng: np.random.Generator) -> list[tuple[int, int]]:
        """Chunk and row of each image of some ladder; none if the chunk drawn has no ladder."""
        chunk = int(rng.integers(len(self._chunks)))
        ladder = self._chunks[chunk]["ladder"]
        if ladder.max() < 0:
            return []
        rows = np.flatnonzero(ladder == rng.integers(ladder.max() + 1))
        return [(chunk, int(row)) for row in rows]


@dataclass(frozen=True)
class QualityBatch:
    """Scaled frames (n, 1, h, w) and, by target, z-scored labels (n, rows, columns) of the image each patch is from.

    `censored` likewise, boolean; `artefact` and its `level` (n,); `unmixed` (n,), whether a frame is all of one image
    and one level; `ladder` (n,), which frames are levels of one artefact on one specimen, or -1.
    """

    images: Tensor
    labels: Mapping[str, Tensor]
    censored: Mapping[str, Tensor]
    artefact: Tensor
    level: Tensor
    unmixed: Tensor
    ladder: Tensor


def make_batch(
    drawn: Chunk,
    labels: Mapping[str, LabelScale],
    rng: np.random.Generator,
    *,
    scaling: str,
    mixed: float,
    device: torch.device,
) -> QualityBatch:
    """Scale and turn the images drawn, label their patches, and mix a share of the frames."""
    images = scaled(torch.from_numpy(drawn["counts"]).to(device), scaling)
    columns = images.shape[3] // PATCH_PX
    symmetry = int(rng.integers(8))
    images = _turned(images, symmetry)
    n = len(images)

    def spread(values: Tensor) -> Tensor:
        return _turned(values.to(device)[:, :, None].expand(*values.shape, columns), symmetry)

    known = {target: scale.bounded(*label_of(drawn, target, "_rows")) for target, scale in labels.items()}
    z = {target: spread(values) for target, (values, _) in known.items()}
    censored = {target: spread(bound) for target, (_, bound) in known.items()}
    artefact = torch.from_numpy(drawn["artefact"].astype(np.int64)).to(device)
    one = torch.from_numpy(np.ptp(drawn["mm_rows"], axis=1) == 0).to(device)
    level = torch.from_numpy(np.asarray(drawn["level"], dtype=np.float32)).to(device)
    ladder = torch.from_numpy(np.asarray(drawn["ladder"], dtype=np.int64)).to(device)
    batch = QualityBatch(images, z, censored, artefact, level, one, ladder)
    count = int(rng.binomial(n, mixed)) if n > 1 else 0
    return _mix(batch, count, rng) if count else batch


def label_of(chunk: Chunk, target: str, of: str = "") -> tuple[Tensor, Tensor]:
    """Labels of a target, and which of them are bounds: only FRC has those; `of` "_rows": of each row of patches."""
    labels = torch.from_numpy(np.asarray(chunk[target + of]))
    if target != "frc":
        return labels, torch.zeros(labels.shape, dtype=torch.bool)
    return labels, torch.from_numpy(np.asarray(chunk[f"frc{of}_censored"]).astype(bool))


def _mix(batch: QualityBatch, count: int, rng: np.random.Generator) -> QualityBatch:
    """Make the first `count` frames of two: one side of a cut between patches is the next frame's.

    Without such frames a network that sees the whole frame would learn to say the same everywhere: the labels are.
    """
    n, rows, columns = len(batch.images), *(side // PATCH_PX for side in batch.images.shape[2:])
    vignetted = (batch.artefact == VIGNETTING).cpu().numpy()
    other = np.zeros((n, rows, columns), dtype=bool)
    for k in range(count):
        if vignetted[k] or vignetted[(k + 1) % n]:
            continue
        sides = other[k] if rng.random() < 0.5 else other[k].T
        if len(sides) > 1:
            sides[int(rng.integers(1, len(sides))) :] = True
    patch = torch.from_numpy(other).to(batch.images.device)
    pixel = patch.repeat_interleave(PATCH_PX, dim=1).repeat_interleave(PATCH_PX, dim=2)[:, None]
    height, width = pixel.shape[2:]
    images = batch.images[:, :, :height, :width]

    def joined(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {target: torch.where(patch, value.roll(-1, 0), value) for target, value in values.items()}

    return QualityBatch(
        torch.where(pixel, images.roll(-1, 0), images), joined(batch.labels), joined(batch.censored), batch.artefact,
        batch.level, batch.unmixed & ~patch.flatten(1).any(dim=1), batch.ladder,
    )  # fmt: skip


def random_patches(images: Tensor, count: int, rng: np.random.Generator) -> Tensor:
    """Patches at random places, `count` an image: (n, 1, h, w) to (n * count, 1, 32, 32), image by image."""
    n, _, height, width = images.shape
    top = torch.from_numpy(rng.integers(0, height - PATCH_PX + 1, (n, count)))
    left = torch.from_numpy(rng.integers(0, width - PATCH_PX + 1, (n, count)))
    step = torch.arange(PATCH_PX)
    frame = torch.arange(n)[:, None, None, None]
    cut = images[:, 0][frame, (top[..., None] + step)[..., :, None], (left[..., None] + step)[..., None, :]]
    return cut.reshape(n * count, 1, PATCH_PX, PATCH_PX)


def _turned(images: Tensor, symmetry: int) -> Tensor:
    """One of the eight symmetries of a square, of the last two dimensions; none of the artefacts has a direction."""
    if symmetry >= 4:
        images = images.flip(-1)
    return torch.rot90(images, symmetry % 4, (-2, -1))
