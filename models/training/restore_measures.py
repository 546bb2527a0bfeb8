"""Measures of a restored image against its truth: likeness, with and without an affine fit, and honesty of its sd."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from parfocal.models.metrics.reference import pcc, psnr, ssim

LIKENESS = ("psnr", "ssim", "pcc")
BLOCK_PX = 8
ENOUGH = 64
"""Pixels or squares from which a rank correlation is worth telling."""


def truth_span(truth: NDArray[Any]) -> float:
    """The range that PSNR and SSIM are relative to: the truth's largest minus its smallest value."""
    return max(float(np.max(truth)) - float(np.min(truth)), 1e-6)


def affine_fit(image: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """``a image + b`` nearest to the truth in the squares; a constant image becomes the truth's mean.

    A fit uses the truth, which nobody has: it takes offset and gain out of a comparison, and shows what decibels are
    to be had without knowing anything of blur.
    """
    x, y = np.asarray(image, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    centred = x - x.mean()
    power = float(np.sum(np.square(centred)))
    slope = float(np.sum(centred * (y - y.mean()))) / power if power > 0 else 0.0
    return np.asarray(y.mean() + slope * centred)


def likeness(images: dict[str, NDArray[Any]], truth: NDArray[Any], span: float | None = None
             ) -> dict[str, dict[str, float]]:  # fmt: skip
    """PSNR, SSIM and Pearson correlation of several images with one truth, as they are and after an affine fit.

    Parameters
    ----------
    images : mapping of name to ndarray, shape (height, width)
    truth : ndarray, shape (height, width)
    span : float, optional
        Instead of `truth_span`.

    Returns
    -------
    dict
        By name: ``psnr``, ``ssim``, ``pcc``, ``psnr_fit``, ``ssim_fit``. A fit of positive slope leaves the
        correlation as it is.
    """
    span = truth_span(truth) if span is None else span
    fits = [affine_fit(image, truth) for image in images.values()]
    stack = torch.from_numpy(np.stack([*images.values(), *fits]).astype(np.float64))
    same = torch.from_numpy(np.asarray(truth, dtype=np.float64)).expand_as(stack)
    with torch.inference_mode():
        ratio, alike = psnr(same, stack, span).tolist(), ssim(same, stack, span).tolist()
        correlated = pcc(same[: len(fits)], stack[: len(fits)]).tolist()
    many = len(fits)
    return {
        name: {
            "psnr": ratio[at], "ssim": alike[at], "pcc": correlated[at],
            "psnr_fit": ratio[many + at], "ssim_fit": alike[many + at],
        }
        for at, name in enumerate(images)
    }  # fmt: skip


def sd_honesty(sd: NDArray[Any], error: NDArray[Any], shown: NDArray[np.bool_]) -> dict[str, float]:
    """Rank correlation of a stated sd with the error made, over the pixels and over squares of `BLOCK_PX`.

    One pixel's error is one draw: even an sd that is exactly right ranks them only as well as it varies over the image.
    The root mean square over a square has 64 of them, and shows the map itself. ``sd_ratio`` is the root mean square
    error over the root mean square sd: 1 where the map is right in size.

    Parameters
    ----------
    sd, error : ndarray, shape (height, width)
    shown : ndarray of bool, shape (height, width)
        Where the pixels are the method's own; the rest does not count.
    """
    found = {"sd_pixels": np.nan, "sd_squares": np.nan, "sd_ratio": np.nan}
    if np.count_nonzero(shown) < ENOUGH or np.ptp(sd[shown]) == 0:
        return found
    found["sd_pixels"] = float(stats.spearmanr(sd[shown], np.abs(error[shown])).statistic)
    found["sd_ratio"] = float(np.sqrt(np.mean(np.square(error[shown])) / np.mean(np.square(sd[shown]))))
    whole = _squares(shown.astype(np.float64)) == 1.0
    if np.count_nonzero(whole) >= ENOUGH:
        stated, made = (np.sqrt(_squares(np.square(np.asarray(image, dtype=np.float64)))) for image in (sd, error))
        found["sd_squares"] = float(stats.spearmanr(stated[whole], made[whole]).statistic)
    return found


def _squares(image: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means over squares of `BLOCK_PX`; what is left over at the edges does not count."""
    h, w = (side // BLOCK_PX for side in image.shape)
    cut = image[: h * BLOCK_PX, : w * BLOCK_PX]
    return np.asarray(cut.reshape(h, BLOCK_PX, w, BLOCK_PX).mean(axis=(1, 3)))
