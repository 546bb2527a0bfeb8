"""From the network's logits to probabilities of blur, and through the optics to defocus in um."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Distribution
from parfocal.models.defocus_net import BLUR_BINS, BLUR_MAX_PX, blur_edges
from parfocal.simulator.optics import PIXELS_PER_LEVEL

FloatArray = NDArray[np.float64]
LAST_LEVEL = 10
UNIFORM_SHARE, UNIFORM_MAX_PX = 0.7, 40.0
ROOT_MAX = 0.95
"""How training drew blur: this share uniform up to 40 px, the rest uniform in its root up to 0.95 of the range."""


@lru_cache(maxsize=1)
def edges_px() -> FloatArray:
    """Edges of the blur bins, shape (BLUR_BINS + 1,)."""
    return np.asarray(blur_edges().numpy(), dtype=np.float64)


@lru_cache(maxsize=1)
def trained_prior() -> FloatArray:
    """Probability that training put into every bin, with a floor for the bins past the drawn range."""
    edges = edges_px()
    root = np.minimum(np.sqrt(edges / BLUR_MAX_PX) / ROOT_MAX, 1.0)
    uniform = np.minimum(edges / UNIFORM_MAX_PX, 1.0)
    prior = (1 - UNIFORM_SHARE) * np.diff(root) + UNIFORM_SHARE * np.diff(uniform)
    prior = np.maximum(prior, 0.25 * np.median(prior))
    return np.asarray(prior / prior.sum())


@dataclass(frozen=True)
class Posterior:
    """What the network believes of one frame.

    Parameters
    ----------
    blur : ndarray, shape (BLUR_BINS,)
        Probability of every bin of blur diameter.
    positive : ndarray, shape (BLUR_BINS,)
        Probability that the defocus is positive, given the bin; one half where the image carries no sign.
    signed : bool
        Whether `positive` says anything.
    """

    blur: FloatArray
    positive: FloatArray
    signed: bool

    @staticmethod
    def of_logits(
        blur: NDArray[Any], sign: NDArray[Any], *, temperature: float, floor: float, orientation: float
    ) -> Posterior:
        """Calibrated probabilities; `orientation` is the sign of the spherical aberration, 0 if it is not known."""
        scaled = blur.astype(np.float64) / temperature
        p = np.exp(scaled - scaled.max())
        p = (1.0 - floor) * p / p.sum() + floor * trained_prior()
        plus = 1.0 / (1.0 + np.exp(-orientation * np.clip(sign.astype(np.float64), -6.0, 6.0)))
        return Posterior(p, plus, orientation != 0.0)

    def mean_px(self) -> float:
        """Expected blur diameter."""
        return float(np.sum(self.blur * _centres()))

    def sd_px(self) -> float:
        """Standard deviation of the blur diameter, the width of the bins included."""
        spread = np.sum(self.blur * ((_centres() - self.mean_px()) ** 2 + np.diff(edges_px()) ** 2 / 12.0))
        return float(np.sqrt(spread))

    def quantiles_px(self, levels: tuple[float, ...]) -> list[float]:
        """Quantiles of the blur diameter, mass spread evenly within a bin."""
        cumulative = np.concatenate([[0.0], np.cumsum(self.blur)])
        return [float(np.interp(level, cumulative, edges_px())) for level in levels]

    def levels(self, binning: int = 1) -> FloatArray:
        """Probability of each of the paper's levels, shape (11,); of the unbinned frame if this is of a binned one."""
        return _by_level(self.blur, binning)

    def level(self, binning: int = 1) -> int:
        """The median of the likeliest run of three levels, 0..10, each as likely as another beforehand.

        Where the sign decides between two blurs (spherical aberration), the median of all would lie between them, at
        neither. What training's prior put into the levels is divided out: the last stands for all that is further, and
        would take every dim frame for itself.
        """
        p = _by_level(self.blur, binning) / _by_level(trained_prior(), binning)
        runs = np.convolve(p, np.ones(3), mode="valid")
        first = int(np.argmax(runs))
        within = np.cumsum(p[first : first + 3])
        return first + int(np.searchsorted(within, 0.5 * within[-1]))

    def certainty(self, binning: int = 1) -> float:
        """One minus the normalised entropy of the levels' distribution (Yang 2018, eq. 2)."""
        p = self.levels(binning)
        return float(1.0 + np.sum(p * np.log(np.maximum(p, 1e-12))) / np.log(LAST_LEVEL + 1))

    def probability_positive(self) -> float:
        """Probability that the stage is above the focus."""
        return float(np.sum(self.blur * self.positive))

    def signed_mean_px(self) -> float:
        """Expected signed blur."""
        return float(np.sum(self.blur * (2 * self.positive - 1) * _centres()))

    def signed_sd_px(self) -> float:
        """Standard deviation of the signed blur."""
        second = np.sum(self.blur * (_centres() ** 2 + np.diff(edges_px()) ** 2 / 12.0))
        return float(np.sqrt(max(0.0, second - self.signed_mean_px() ** 2)))

    def distribution(self, px_per_um: float) -> Distribution:
        """Likelihood over signed defocus: what training's prior put in is divided out, a flat one in um put in."""
        width = np.diff(edges_px())
        flat = self.blur / trained_prior() * width
        flat = flat / flat.sum()
        grid = _centres() / px_per_um
        masses = np.concatenate([(flat * (1 - self.positive))[::-1], flat * self.positive])
        return Distribution(np.concatenate([-grid[::-1], grid]), masses, self.signed)


def _by_level(blur: FloatArray, binning: int) -> FloatArray:
    """Probabilities of the bins, summed by level."""
    limits = (np.arange(1, LAST_LEVEL + 1) - 0.5) * PIXELS_PER_LEVEL / binning
    below = np.interp(limits, edges_px(), np.concatenate([[0.0], np.cumsum(blur)]))
    return np.asarray(np.diff(below, prepend=0.0, append=1.0))


@lru_cache(maxsize=1)
def _centres() -> FloatArray:
    edges = edges_px()
    assert edges.size == BLUR_BINS + 1  # noqa: S101 - ties the two definitions together
    return np.asarray(0.5 * (edges[1:] + edges[:-1]))
