"""How the networks of STED quality are trained, and the frames that batches are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.training.sted_quality_data import KEYS, LABELS, TRAINED_ON, Chunk

BINS = 10
"""Of quality, each drawn as often as any other: the simulator makes far more bad images than good ones."""


@dataclass(frozen=True)
class StedRecipe:
    """Everything that a training depends on.

    Parameters
    ----------
    networks : tuple of str
        Which of `parfocal.models.sted_quality_net.NETWORKS` learn, all from the same frames and for as many.
    chunks, chunk_frames : int
        How many frames are made.
    passes : float
        How often a frame is drawn, on average.
    batch, learning_rate, weight_decay, average
        Of the compact network: AdamW, the rate after a cosine; moving average of the weights, a step.
    paper_batch, paper_rate, paper_momentum
        Of Robitaille's network, as published: SGD.
    others_share : float
        Weight of each of the outputs that are not the quality.
    validate_every : int
        Chunks. Of Robitaille's network the best weights on validation frames are kept, as published.
    """

    networks: tuple[str, ...] = ("StedQualityNet",)
    seed: int = 1
    chunks: int = 150
    chunk_frames: int = 72
    passes: float = 6.0
    size_px: int = 96
    kinds: tuple[str, ...] = TRAINED_ON
    structures: int = 48
    specimens: int = 6
    batch: int = 48
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    average: float = 0.995
    paper_batch: int = 100
    paper_rate: float = 0.01
    paper_momentum: float = 0.9
    others_share: float = 0.25
    buffer_frames: int = 8192
    validate_every: int = 25
    validation_frames: int = 432
    checkpoint_every: int = 25
    threads: int = 1


class FrameBuffer:
    """The last frames made, to draw batches from that hold as many good as bad ones."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._held: dict[str, NDArray[Any]] = {}
        self._filled = self._next = 0
        self._members: list[NDArray[np.intp]] = []

    def __len__(self) -> int:
        return self._filled

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in, the oldest frames out if full."""
        for index in range(len(chunk["counts"])):
            for key in KEYS:
                values = chunk[key]
                if key not in self._held:
                    self._held[key] = np.zeros((self._capacity, *values.shape[1:]), dtype=values.dtype)
                self._held[key][self._next] = values[index]
            self._next = (self._next + 1) % self._capacity
            self._filled = min(self._capacity, self._filled + 1)
        bins = np.minimum((self._held["quality"][: self._filled] * BINS).astype(int), BINS - 1)
        self._members = [found for found in (np.flatnonzero(bins == one) for one in range(BINS)) if len(found)]

    def draw(self, size: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """So many frames, every bin of quality as likely; mirrored in half of the cases, along the fast axis.

        Returns
        -------
        dict
            ``counts`` float32 (n, 1, h, w), ``pixel_um`` (n,), ``labels`` (n, 4) in the order of `LABELS`.
        """
        which = [int(rng.choice(self._members[int(rng.integers(len(self._members)))])) for _ in range(size)]
        counts = torch.from_numpy(self._held["counts"][which].astype(np.float32))[:, None]
        if rng.random() < 0.5:  # lines one after the other remain so
            counts = counts.flip(3)
        labels = np.stack([self._held[name][which] for name in LABELS], axis=1)
        return {
            "counts": counts,
            "pixel_um": torch.from_numpy(self._held["pixel_um"][which]),
            "labels": torch.from_numpy(labels),
        }
