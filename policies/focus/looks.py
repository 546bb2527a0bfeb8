"""Where to look next: the move with the largest expected gain of information, less what its travel costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from parfocal.policies.focus.grid import Vector
from parfocal.policies.focus.response import Response

_SAMPLES = 128
_BIN = 0.5


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
    beside = np.array([-6.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 6.0]) * dof_um
    likely = np.quantile(foci_um, [0.1, 0.25, 0.5, 0.75, 0.9])
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
    bins = np.rint(seen / _BIN).astype(np.int64)
    bins -= bins.min()
    width = int(bins.max()) + 1
    flat = (bins + width * np.arange(len(z_um))[:, None]).ravel()
    counts = np.bincount(flat, minlength=width * len(z_um)).reshape(len(z_um), width) / foci_um.size
    reach = np.arange(-8, 9)
    kernel = np.exp(-0.5 * (reach * _BIN) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(counts, ((0, 0), (16, 16)))
    smeared = sum(weight * padded[:, 8 + k : 8 + k + width + 16] for k, weight in zip(reach, kernel, strict=True))
    smeared = np.maximum(smeared, 1e-300)
    noise = -float(np.sum(kernel * np.log(kernel)))
    gain: Vector = np.maximum(-np.sum(smeared * np.log(smeared), axis=1) - noise, 0.0)
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
