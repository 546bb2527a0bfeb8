"""Chunks of prepared pairs for the restoring network: filtered and scaled by the workers, stored in half precision."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal.models.restore.unet_net import prepare
from parfocal.models.training.chunks import Source, object_bank
from parfocal.models.training.restore_pairs import Pair, PairMaker

EXPOSURES_PER_SCENE = 2


@lru_cache(maxsize=2)
def _maker(source: Source) -> PairMaker:
    return PairMaker(object_bank(source), size_px=source.size_px, seed=source.seed)


def make_pair_chunk(source: Source, number: int, examples: int) -> dict[str, NDArray[Any]]:
    """Chunk `number` of a source: the same whoever makes it and whenever.

    ``channels`` (n, 4, h, w) and ``truth`` (n, h, w) float16 in units of each image's scale, ``conditions`` (n, 6),
    ``range`` (n,): the truth's own range in those units, by which errors count.
    """
    torch.set_num_threads(1)
    maker = _maker(source)
    maker.rng = np.random.default_rng((source.seed, number))
    drawn: list[Pair] = []
    while len(drawn) < examples:
        drawn.extend(maker.pairs(EXPOSURES_PER_SCENE))
    return stack_pairs(drawn[:examples])


def stack_pairs(pairs: list[Pair]) -> dict[str, NDArray[Any]]:
    """Pairs of one size, prepared."""
    channels, conditions, truths, ranges = [], [], [], []
    for pair in pairs:
        ready = prepare(pair.frame, pair.blur)
        truth = (pair.truth - ready.zero) / ready.scale
        channels.append(np.clip(ready.channels.numpy(), -500.0, 500.0).astype(np.float16))
        truths.append(np.clip(truth, -500.0, 500.0).astype(np.float16))
        conditions.append(ready.conditions.numpy())
        ranges.append(truth_range(truth))
    return {
        "channels": np.stack(channels), "truth": np.stack(truths), "conditions": np.stack(conditions),
        "range": np.asarray(ranges, dtype=np.float32),
    }  # fmt: skip


def truth_range(truth: NDArray[Any]) -> float:
    """Brightest minus darkest of an image, without its last outliers."""
    low, high = np.percentile(truth, (0.1, 99.9))
    return float(max(high - low, 1e-3))
