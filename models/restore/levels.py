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
    """What one frame tells of its camera and light.

    Parameters
    ----------
    background, high : float
        Counts without light from the specimen, and the brightest.
    noise_sd : float
        The noise's root mean square over the frame, in counts.
    ground : float
        The noise's variance where the frame is darkest over that where it is brightest: near 1 where most of the light
        is everywhere (or read noise is all there is), near 0 where a specimen shines on a dark ground.
    """

    background: float
    high: float
    noise_sd: float
    ground: float = 1.0

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
        variance = np.square(blocks.mean(axis=(1, 3)) * (np.sqrt(np.pi / 2.0) / 6.0))
        sd = float(np.sqrt(np.mean(variance) + QUANTISATION * _whole(frame)))
        return Levels(float(low), float(high), sd, _ground(frame[1 : height + 1, 1 : width + 1], variance))


def _ground(frame: FloatImage, variance: FloatImage) -> float:
    """Median variance of the darkest eighth of the blocks over that of the brightest."""
    rows, columns = variance.shape
    light = frame[::4, ::4].reshape(rows, BLOCK_PX // 4, columns, BLOCK_PX // 4).mean(axis=(1, 3))
    ranked = variance.ravel()[np.argsort(light, axis=None)]
    share = max(1, ranked.size // 8)
    return float(np.median(ranked[:share]) / max(float(np.median(ranked[-share:])), 1e-12))


def _rough(frame: FloatImage) -> FloatImage:
    """The mask (1, -2, 1) along both axes."""
    rows = frame[:-2] - 2.0 * frame[1:-1] + frame[2:]
    return np.asarray(rows[:, :-2] - 2.0 * rows[:, 1:-1] + rows[:, 2:], dtype=np.float32)


def _whole(frame: FloatImage) -> float:
    """1 for whole counts, else 0."""
    part = frame[::7, ::7]
    return float(bool(np.all(part == np.round(part))))
