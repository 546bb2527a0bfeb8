"""Background and noise of one frame, estimated from it alone: what a filter has to know of the camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatImage = NDArray[np.float32]
BLOCK_PX = 16
QUANTISATION = 1.0 / 12.0
"""Variance of the rounding to whole counts: no camera's noise is less."""


@dataclass(frozen=True)
class Levels:
    """Counts without light from the specimen, brightest counts, and the noise's root mean square over the frame."""

    background: float
    high: float
    noise_sd: float

    @staticmethod
    def of(frame: FloatImage) -> Levels:
        """Estimate from one frame.

        The noise is that of Immerkaer (1996, Comput. Vis. Image Underst. 64): the difference of two Laplacians, which
        no plane or parabola passes, of sd 6 for white noise of sd 1. Its mean of absolutes is taken by blocks, clipped
        so that hot pixels do not count, and the blocks' squares are averaged: a filter for the whole frame meets the
        frame's mean noise power.
        """
        low, high = np.percentile(frame[::2, ::2], (1.0, 99.9))
        rough = np.abs(_rough(frame))
        height, width = (side - side % BLOCK_PX for side in rough.shape)
        rough = np.minimum(rough, np.float32(8.0 * rough.mean()))
        blocks = rough[:height, :width].reshape(height // BLOCK_PX, BLOCK_PX, width // BLOCK_PX, BLOCK_PX)
        sd = blocks.mean(axis=(1, 3)) * (np.sqrt(np.pi / 2.0) / 6.0)
        return Levels(float(low), float(high), float(np.sqrt(np.mean(np.square(sd)) + QUANTISATION * _whole(frame))))


def _rough(frame: FloatImage) -> FloatImage:
    """The mask (1, -2, 1) along both axes."""
    rows = frame[:-2] - 2.0 * frame[1:-1] + frame[2:]
    return np.asarray(rows[:, :-2] - 2.0 * rows[:, 1:-1] + rows[:, 2:], dtype=np.float32)


def _whole(frame: FloatImage) -> float:
    """1 for whole counts, else 0."""
    part = frame[::7, ::7]
    return float(bool(np.all(part == np.round(part))))
