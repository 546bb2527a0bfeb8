"""How a focus moves by itself: its rate of drift as a Markov chain, and what else moves it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """How the focus moves by itself.

    Parameters
    ----------
    rate_um_per_min : float
        Typical linear drift (scale of a two-sided exponential prior); 2.5 times it is the largest that is followed.
    rate_walk_um_per_min : float
        How much the rate itself changes in one minute (sd).
    walk_um : float
        Random walk of the focus in one minute (sd).
    jump_per_min : float
        Chance that something moves the focus anywhere within the range in one minute.
    """

    rate_um_per_min: float
    rate_walk_um_per_min: float
    walk_um: float
    jump_per_min: float


class RateChain:
    """Drift rates as a reversible Markov chain on an even grid, whose stationary distribution is the prior."""

    def __init__(self, drift: Drift, count: int = 21) -> None:
        self.rates: Vector = np.linspace(-2.5, 2.5, count) * drift.rate_um_per_min
        prior = np.exp(-np.abs(self.rates) / max(drift.rate_um_per_min, 1e-12))
        self.prior: Vector = prior / prior.sum()
        spacing = max(float(self.rates[1] - self.rates[0]), 1e-12)
        hop = drift.rate_walk_um_per_min**2 / (2.0 * spacing**2)
        self._root: Vector = np.sqrt(self.prior)
        generator = np.zeros((count, count))
        for i in range(count - 1):
            generator[i, i + 1] = generator[i + 1, i] = hop
        # Leaving rates make every row of the (unsymmetrised) generator sum to zero.
        np.fill_diagonal(generator, -(generator @ self._root) / self._root)
        self._values, self._vectors = np.linalg.eigh(generator)
        self._last: tuple[float, Vector] | None = None

    def transition(self, minutes: float) -> Vector:
        """Matrix that takes a column of rate probabilities `minutes` further."""
        if self._last is None or self._last[0] != minutes:
            symmetric = (self._vectors * np.exp(self._values * minutes)) @ self._vectors.T
            self._last = minutes, np.maximum(symmetric, 0.0) * self._root[:, None] / self._root[None, :]
        return self._last[1]


@lru_cache(maxsize=16)
def rate_chain(drift: Drift, count: int) -> RateChain:
    """Return the chain of a drift, which many grids share: its eigenvectors take longer than a decision may."""
    return RateChain(drift, count)
