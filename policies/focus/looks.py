"""Where to look next: the move with the largest expected gain of information, less what its travel costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parfocal.policies.focus.density import Vector
from parfocal.policies.focus.response import Response

_SAMPLES = 128
_BIN = 0.5
_BESIDE_DOF = np.array([-6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0])
_LIKELY = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
_REACH = 8
_KERNEL = np.exp(-0.5 * (np.arange(_REACH + 1) * _BIN) ** 2)
_KERNEL /= _KERNEL[0] + 2.0 * _KERNEL[1:].sum()
_NOISE_NATS = -float(_KERNEL[0] * np.log(_KERNEL[0]) + 2.0 * np.sum(_KERNEL[1:] * np.log(_KERNEL[1:])))
"""Noise of one, binned: from its middle to where hardly anything is left of it; and its entropy."""


@dataclass(frozen=True)
class Choice:
    """A place to look: `gain_nats` is what is expected to be learned there, `worth` that less the cost of travel."""

    z_um: float
    gain_nats: float
    worth: float


def sample_belief(z_um: Vector, marginal: Vector, count: int = _SAMPLES) -> Vector:
    """Equally likely focus positions (quantiles), ascending."""
    cumulative = np.cumsum(marginal)
    levels = (np.arange(count) + 0.5) / count * cumulative[-1]
    points: Vector = np.interp(levels, cumulative, z_um)
    return points


def candidates(foci_um: Vector, now_um: float, dof_um: float, lower_um: float, upper_um: float) -> Vector:
    """Places worth considering: short moves, beside and between likely foci, and evenly over all of the belief."""
    beside = _BESIDE_DOF * dof_um
    # Quantiles: `foci_um` ascend.
    likely = np.interp(_LIKELY * (len(foci_um) - 1), np.arange(len(foci_um)), foci_um)
    places = [
        (likely[:, None] + beside).ravel(),
        now_um + beside,
        np.linspace(foci_um[0], foci_um[-1], 12),
    ]
    z = np.concatenate(places)
    inside: Vector = np.unique(z[(z >= lower_um) & (z <= upper_um)])
    return inside


def information(z_um: Vector, foci_um: Vector, response: Response) -> Vector:
    """Mutual information (nats) between the focus position and what a look at each of `z_um` would give.

    On the scale where a look has unit noise, the information is the entropy of what may be seen, less that of the
    noise. What may be seen is binned, and the bins smeared with the noise.
    """
    seen = response.evenly_noisy((z_um[:, None] - foci_um[None, :]).ravel()).reshape(len(z_um), -1)
    bins = np.rint(seen / _BIN).astype(np.intp)
    least, most = int(bins.min()), int(bins.max())
    # One long row, with room between one place and the next: the noise of neither reaches the other.
    width = most - least + 1 + 4 * _REACH
    bins += (np.arange(2 * _REACH - least, 2 * _REACH - least + width * len(z_um), width))[:, None]
    share = np.bincount(bins.ravel(), minlength=width * len(z_um)) / foci_um.size
    smeared, inner = _KERNEL[0] * share, slice(_REACH, len(share) - _REACH)
    for k in range(1, _REACH + 1):
        both = share[_REACH + k : len(share) - _REACH + k] + share[_REACH - k : len(share) - _REACH - k]
        both *= _KERNEL[k]
        smeared[inner] += both
    smeared = np.maximum(smeared, 1e-300).reshape(len(z_um), width)
    gain: Vector = np.maximum(-np.sum(smeared * np.log(smeared), axis=1) - _NOISE_NATS, 0.0)
    return gain


def most_information(z_um: Vector, foci_um: Vector, response: Response) -> Vector:
    """Bound of `information` that costs little: with unit noise and this variance no look could tell more."""
    seen = response.evenly_noisy((z_um[:, None] - foci_um[None, :]).ravel()).reshape(len(z_um), -1)
    # A bin more either way than the samples spread: what is seen is rounded to bins.
    bound: Vector = 0.5 * np.log1p((seen.std(axis=1) + 0.5 * _BIN) ** 2)
    return bound


def travel(z_um: Vector, foci_um: Vector, now_um: float) -> Vector:
    """Path to each place and, in expectation, on from there to the focus: a wrong side pays twice."""
    path: Vector = np.abs(z_um - now_um) + np.abs(z_um[:, None] - foci_um[None, :]).mean(axis=1)
    return path


def best_look(
    places_um: Vector, news: Vector, foci_um: Vector, now_um: float, response: Response, nats_per_um: float
) -> Choice:
    """Choose among `places_um`, of whose information only the share `news` is new."""
    gain = information(places_um, foci_um, response) * news
    worth = gain - nats_per_um * travel(places_um, foci_um, now_um)
    best = int(np.argmax(worth))
    return Choice(float(places_um[best]), float(gain[best]), float(worth[best]))
