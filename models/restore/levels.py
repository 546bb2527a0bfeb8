"""Background and noise of one frame, estimated from it alone: what a filter has to know of the camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        low, high = quantiles(frame[::2, ::2], (1.0, 99.9))
        rough = bent(bent(torch.from_numpy(frame), 0), 1).abs_()
        height, width = (side - side % BLOCK_PX for side in rough.shape)
        rough.clamp_(max=8.0 * float(rough.mean()))
        means = block_means(rough.numpy()[:height, :width], BLOCK_PX)
        variance = np.square(means * np.float32(np.sqrt(np.pi / 2.0) / 6.0))
        sd = float(np.sqrt(np.mean(variance) + QUANTISATION * _whole(frame)))
        return Levels(float(low), float(high), sd, _ground(frame[1 : height + 1, 1 : width + 1], variance))


def _ground(frame: FloatImage, variance: FloatImage) -> float:
    """Median variance of the darkest eighth of the blocks over that of the brightest."""
    light = block_means(frame[::4, ::4], BLOCK_PX // 4)
    ranked = variance.ravel()[np.argsort(light, axis=None)]
    share = max(1, ranked.size // 8)
    return float(np.median(ranked[:share]) / max(float(np.median(ranked[-share:])), 1e-12))


def bent(image: Tensor, axis: int) -> Tensor:
    """The mask (1, -2, 1) along an axis; torch takes differences along rows in half of numpy's time."""
    return torch.diff(image, n=2, dim=axis)


def block_means(image: FloatImage, side_px: int) -> FloatImage:
    """Means over squares of a side; the last ones are of what is left."""
    total = _stripes(_stripes(image, side_px).T, side_px).T
    return np.asarray(total / np.outer(*(_lengths(side, side_px) for side in image.shape)), dtype=np.float32)


def _stripes(image: FloatImage, rows: int) -> FloatImage:
    """Sums over every so many rows: whole rows are added, which is vectorised (`numpy.add.reduceat` is not)."""
    whole = len(image) // rows * rows
    sums = image[:whole].reshape(whole // rows, rows, image.shape[1]).sum(axis=1)
    if whole == len(image):
        return np.asarray(sums)
    return np.concatenate([sums, image[whole:].sum(axis=0, keepdims=True)])


def _lengths(side: int, side_px: int) -> NDArray[np.float32]:
    return np.minimum(side - np.arange(0, side, side_px), side_px).astype(np.float32)


def quantiles(image: FloatImage, percents: Sequence[float]) -> NDArray[np.float64]:
    """Percentiles of the pixels as `numpy.percentile` has them, by sorting: vectorised, which its selection is not."""
    ordered = np.sort(image, axis=None)
    at = np.asarray(percents) / 100.0 * (ordered.size - 1)
    low = at.astype(np.int64)
    below, above = (ordered[np.minimum(place, ordered.size - 1)].astype(np.float64) for place in (low, low + 1))
    return np.asarray(below + (above - below) * (at - low))


def _whole(frame: FloatImage) -> float:
    """1 for whole counts, else 0."""
    part = frame[::7, ::7]
    return float(bool(np.all(part == np.round(part))))
