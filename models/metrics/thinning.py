"""Binomial thinning: the photons of one exposure dealt out to two, as if it had been taken twice at half the length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import ModelError
from parfocal.models.metrics.rings import image_batch


@dataclass(frozen=True)
class Halves:
    """Two halves of the photons of n images.

    Parameters
    ----------
    first, second : Tensor of float32, shape (n, h, w)
        Whole photo-electrons; they add up to the image's.
    below_zero : Tensor of float64, shape (n,)
        Share of the pixels that were below the offset by half a photo-electron or more and count as none. More than a
        few hundredths say that read-out noise, or a wrong offset, rules the image and thinning does not suit it.
    """

    first: Tensor
    second: Tensor
    below_zero: Tensor


def thin(counts: NDArray[Any] | Tensor, seed: int, gain: float, offset: float) -> Halves:
    """Deal out ``N = round((counts - offset) / gain)`` photo-electrons: ``first ~ Binomial(N, 1/2)``, second the rest.

    If N is Poisson the halves are independent Poisson numbers. Read-out noise of variance s^2 (photo-electrons) is not
    thinned but shared: it gives the halves a covariance of s^2 / 4, a correlation of about s^2 / (2 N + s^2), at every
    frequency.

    Parameters
    ----------
    counts : ndarray or Tensor, shape (height, width) or (n, height, width)
        Camera counts.
    seed : int
        Every image is dealt out with the same stream, so that its halves do not depend on its batch.
    gain : float
        Counts per photo-electron.
    offset : float
        Counts without light.

    Raises
    ------
    parfocal.models.base.ModelError
        A gain that is not a positive number, or an offset that is none.
    parfocal.models.base.ImageError
        Not a batch of finite real images of at least 32x32 px.
    """
    if not (math.isfinite(gain) and gain > 0 and math.isfinite(offset)):
        raise ModelError(f"thinning needs a positive gain and a finite offset (got gain {gain!r}, offset {offset!r})")
    batch = image_batch(counts)
    electrons = ((batch.to(torch.float64) - offset) / gain).round_()
    below = (electrons < 0).flatten(1).to(torch.float64).mean(1)
    whole = electrons.clamp_(min=0).to(torch.float32)
    half = torch.full_like(whole[:1], 0.5)
    first = torch.empty_like(whole)
    for index in range(len(whole)):
        generator = torch.Generator(device=whole.device).manual_seed(seed)
        first[index] = torch.binomial(whole[index : index + 1], half, generator=generator)[0]
    return Halves(first, whole - first, below)
