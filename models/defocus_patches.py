"""The defocus of every patch of a frame at once: what `Posterior` says of one, in a few matrix products for all."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import FloatArray
from parfocal.models.defocus_net import BLUR_BINS
from parfocal.models.defocus_posterior import Posterior, trained_prior


def neighbours(cells: Tensor) -> Tensor:
    """Every two by two cells as a frame of its own: (1, c, rows, columns) to (n, c, 2, 2)."""
    return cells.unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)


def patch_values(blur: NDArray[Any], binning: int, temperature: float, floor: float) -> tuple[FloatArray, FloatArray]:
    """Expected blur diameter and certainty of patches, from logits (n, BLUR_BINS).

    Returns
    -------
    blur_px : ndarray, shape (n,)
        In pixels of the unbinned frame.
    certainty : ndarray, shape (n,)
        0..1, see `Posterior.certainty`.
    """
    scaled = blur.astype(np.float64) / temperature
    p = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    p = (1.0 - floor) * p / p.sum(axis=1, keepdims=True) + floor * trained_prior()
    mean_px, levels = _linear(binning)
    of_levels = p @ levels
    entropy = -np.sum(of_levels * np.log(np.maximum(of_levels, 1e-12)), axis=1)
    return binning * (p @ mean_px), np.maximum(0.0, 1.0 - entropy / np.log(levels.shape[1]))


@lru_cache(maxsize=8)
def _linear(binning: int) -> tuple[FloatArray, FloatArray]:
    """Mean blur and levels of each bin alone: both are linear in the probabilities."""
    half = np.full(BLUR_BINS, 0.5)
    alone = [Posterior(bin_, half, False) for bin_ in np.eye(BLUR_BINS)]
    return np.asarray([one.mean_px() for one in alone]), np.stack([one.levels(binning) for one in alone])
