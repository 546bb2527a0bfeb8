"""Where the top of a noisy curve lies: a Bayesian fit of one peak, its place, width and shape on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

Vector = NDArray[np.float64]
Sample = tuple[float, float, float]
"""Where a frame was taken (um), its score, and the score's standard deviation (NaN: not known)."""

WIDTHS_DOF = np.geomspace(0.8, 12.0, 9)
"""Half widths of a peak that are thought of, in depths of field."""

SKEWS = ((1.0, 0.7), (0.5, 0.15), (2.0, 0.15))
"""Half width above the top over that below, and how probable that is: spherical aberration makes the sides unlike."""

SHAPE_SHARES = (1.0 / 3.0, *(share / 3.0 for _, share in SKEWS for _ in range(2)))
SHAPES = len(SHAPE_SHARES)
NOISE = ((0.125, 0.15), (0.5, 0.3), (1.0, 0.35), (3.0, 0.2))
"""Repeat noise over the assessment's own sd, and how probable that is: a model's sd also holds what stays the same
from frame to frame and so does not scatter; and now and then it is too small."""

MISFIT = 0.03
"""Share of the scores' range by which no curve has exactly one of our shapes."""

UNKNOWN_SD = 0.05
"""Share of the scores' range that stands in for an sd nobody gave."""

MOST_PLACES = 600
MOST_CELLS = 1500
"""Of the grid, what the next look is chosen with: the most probable cells."""


def one_shape(number: int, distance: Vector) -> Vector:
    """Values of a peak of height 1 and mean half width 1 at `distance` above its top.

    Number 0 is a flat top (a probability that saturates at 1); its top is its middle, so that skew would mean nothing.
    Then, in every skew, a Lorentzian (long tails: sharpness metrics) and a Gaussian.
    """
    if number == 0:
        u = np.square(np.minimum(np.abs(distance), 30.0))
        return cast(Vector, np.exp2(-u * u * u))
    root = math.sqrt(SKEWS[(number - 1) // 2][0])
    u = np.square(distance) if root == 1.0 else np.square(np.where(distance > 0.0, distance / root, distance * root))
    return cast(Vector, np.exp2(-u) if number % 2 == 0 else 1.0 / (1.0 + u))


@dataclass(frozen=True)
class Peak:
    """What is known of the top.

    Parameters
    ----------
    z_um, sd_um : float
        Mean place and its standard deviation.
    inside : float
        Probability that the top is within half a depth of field of `z_um`.
    loss : float
        Expected loss of score at `z_um` against the top, as a share of the height.
    half_width_um : float
        Mean half width at half height.
    height, height_sd : float
        Of the top over the floor.
    floor : float
        Score far from the top.
    noise_sd : float
        Scatter of one score.
    evidence_nats : float
        Log of how much better a peak explains the scores than a flat line does.
    """

    z_um: float
    sd_um: float
    inside: float
    loss: float
    half_width_um: float
    height: float
    height_sd: float
    floor: float
    noise_sd: float
    evidence_nats: float


class PeakFit:
    """Posterior over one peak given scores along z.

    ``score = floor + height * shape((z - top) / width) + noise`` with a positive height. Place, width and shape are on
    a grid; floor and height are integrated out under Gaussian priors as wide as the scores' range (a conjugate linear
    model, e.g. Bishop, Pattern Recognition and Machine Learning, 2006, section 3.5), the noise over a few levels.

    Parameters
    ----------
    lower_um, upper_um : float
        Where the top is sought.
    dof_um : float
        Depth of field, the unit of widths.
    near_um : float
        Most probably the top is within some depths of field of this; NaN: nobody knows.
    widths : sequence of float, optional
        Prior over (shape, width), flattened, from an earlier fit (`width_weights`).
    span : float
        Range of the scores as known before; 0: only from the samples.
    """

    def __init__(
        self,
        lower_um: float,
        upper_um: float,
        dof_um: float,
        *,
        near_um: float = math.nan,
        widths: Sequence[float] | None = None,
        span: float = 0.0,
    ) -> None:
        count = int(min(MOST_PLACES, max(9, math.ceil((upper_um - lower_um) / (0.25 * dof_um)) + 1)))
        self.places_um: Vector = np.linspace(lower_um, upper_um, count)
        self.dof_um, self._span = dof_um, span
        self._widths_um = WIDTHS_DOF * dof_um
        self._samples: list[Sample] = []
        self._columns: list[Vector] = []
        shares = np.array(SHAPE_SHARES)[:, None, None] / len(WIDTHS_DOF)
        prior = np.broadcast_to(shares, (SHAPES, len(WIDTHS_DOF), count))
        if widths is not None:
            told = np.asarray(widths, dtype=np.float64).reshape(SHAPES, len(WIDTHS_DOF), 1)
            prior = 0.1 * prior + 0.9 * told
        if math.isfinite(near_um):
            near = np.exp(-0.5 * ((self.places_um - near_um) / (2.0 * dof_um)) ** 2)
            prior = prior * (0.2 / count + 0.8 * near / max(float(near.sum()), 1e-12))
        self._log_prior: Vector = np.log(prior)
        self._solved: _Solved | None = None

    @property
    def samples(self) -> list[Sample]:
        """What was added, in order."""
        return list(self._samples)

    def add(self, z_um: float, score: float, sd: float) -> None:
        """Take in one frame's score."""
        self._samples.append((z_um, score, sd))
        self._columns.append(self._shapes_at(z_um))
        self._solved = None

    def _shapes_at(self, z_um: float) -> Vector:
        """Every cell's peak at one place, flattened."""
        distance = (z_um - self.places_um) / self._widths_um[:, None]
        return np.stack([one_shape(number, distance) for number in range(SHAPES)]).reshape(-1)

    def peak(self) -> Peak:
        """Summarise the posterior; raises `ValueError` without a sample."""
        s = self._solve()
        by_place = s.weight.reshape(-1, len(self.places_um)).sum(axis=0)
        mean = float(by_place @ self.places_um)
        best = _densest(self.places_um, by_place, self.dof_um)
        inside = float(by_place[np.abs(self.places_um - best) <= 0.5 * self.dof_um + 1e-9].sum())
        centre = best if inside >= 0.5 else mean
        by_width = s.weight.reshape(SHAPES, len(WIDTHS_DOF), -1).sum(axis=(0, 2))
        height = float(s.weight @ s.height)
        loss = float((s.weight * s.height) @ (1.0 - self._shapes_at(centre))) / height
        return Peak(
            z_um=centre,
            sd_um=math.sqrt(float(by_place @ (self.places_um - centre) ** 2)),
            inside=inside,
            loss=loss,
            half_width_um=float(np.exp(by_width @ np.log(self._widths_um))),
            height=height,
            height_sd=math.sqrt(float(s.weight @ (s.height_var + (s.height - height) ** 2))),
            floor=float(s.weight @ s.floor) + s.centre,
            noise_sd=s.noise_sd,
            evidence_nats=s.evidence_nats,
        )

    def width_weights(self) -> list[float]:
        """Posterior over (shape, width), flattened."""
        return [float(w) for w in self._solve().weight.reshape(SHAPES * len(WIDTHS_DOF), -1).sum(axis=1)]

    def news_nats(self, z_um: Vector, *, of_place: bool = True) -> Vector:
        """What a frame at each place is expected to tell, in nats: of where the top is, or of all that is not known.

        Mutual information of the score and what is asked for, both taken as Gaussian (D. J. C. MacKay, Neural
        Computation 4:590, 1992): how the score that is foretold differs from top to top, against how it scatters for
        one and the same top.
        """
        s = self._solve()
        kept, weight = _probable(s.weight)
        shape, width, place = np.unravel_index(kept, (SHAPES, len(WIDTHS_DOF), len(self.places_um)))
        phi = np.empty((len(z_um), len(kept)))
        for number in range(SHAPES):
            mine = np.flatnonzero(shape == number)
            distance = (z_um[:, None] - self.places_um[place[mine]]) / self._widths_um[width[mine]]
            phi[:, mine] = one_shape(number, distance)
        foretold = s.floor[kept] + s.height[kept] * phi
        own = np.maximum(s.floor_var[kept] + phi * (2.0 * s.covariance[kept] + phi * s.height_var[kept]), 0.0)
        bins, number_of = np.unique(np.floor(self.places_um[place] / (0.5 * self.dof_um)), return_inverse=True)
        group = np.zeros((len(kept), len(bins)))
        group[np.arange(len(kept)), number_of] = weight
        share = group.sum(axis=0)
        mean = foretold @ group / share
        between = np.square(mean) @ share - np.square(mean @ share)
        within = (np.square(foretold) + own) @ weight - np.square(mean) @ share
        between, within = np.maximum(between, 0.0), np.maximum(within, 0.0)
        ratio = between / (within + s.noise_sd**2) if of_place else (between + within) / s.noise_sd**2
        return cast(Vector, 0.5 * np.log1p(ratio))

    def _solve(self) -> _Solved:
        if self._solved is None:
            if not self._samples:
                raise ValueError("a peak cannot be fitted to no scores at all")
            self._solved = _solve(self._samples, np.stack(self._columns), self._log_prior.reshape(-1), self._span)
        return self._solved


@dataclass(frozen=True)
class _Solved:
    """Posterior weights of the grid's cells, and floor and height of each; averaged over the noise levels."""

    weight: Vector
    floor: Vector
    height: Vector
    floor_var: Vector
    height_var: Vector
    covariance: Vector
    centre: float
    noise_sd: float
    evidence_nats: float


def _solve(samples: Sequence[Sample], phi: Vector, log_prior: Vector, span: float) -> _Solved:
    """Integrate out floor and height in every cell, at every level of noise. `phi` is (samples, cells)."""
    _, scores, sds = (np.array(column) for column in zip(*samples, strict=True))
    centre, reach = float(np.median(scores)), max(float(np.ptp(scores)), span)
    reach = reach or max(abs(centre), 1e-9) * UNKNOWN_SD
    sds = np.where(np.isfinite(sds) & (sds > 0.0), sds, UNKNOWN_SD * reach)
    # The model's sd may be wider than all the scores together; then it says little of how they scatter.
    sds = np.minimum(sds, 2.0 * reach)
    factor, share = np.array(NOISE).T
    variance = np.square(factor[:, None] * sds) + (MISFIT * reach) ** 2
    m = _moments(scores - centre, phi, variance, (2.0 * reach) ** 2)
    logs = m.log + np.log(share)[:, None] + log_prior
    weights = np.exp(logs - logs.max())
    weights /= weights.sum()
    cell = weights.sum(axis=0)

    def mean(values: Vector) -> Vector:
        return cast(Vector, (weights * values).sum(axis=0) / np.maximum(cell, 1e-300))

    return _Solved(
        weight=cell,
        floor=mean(m.floor),
        height=mean(m.height),
        floor_var=mean(m.floor_var),
        height_var=mean(m.height_var),
        covariance=mean(m.covariance),
        centre=centre,
        noise_sd=math.sqrt(float(weights.sum(axis=1) @ np.median(variance, axis=1))),
        evidence_nats=float(logsumexp(logs) - logsumexp(log_prior) - logsumexp(m.log_flat + np.log(share))),
    )


@dataclass(frozen=True)
class _Moments:
    """Floor and height by level of noise and cell, and the log likelihoods of a peak and of a flat line."""

    log: Vector
    log_flat: Vector
    floor: Vector
    height: Vector
    floor_var: Vector
    height_var: Vector
    covariance: Vector


def _moments(scores: Vector, phi: Vector, variance: Vector, prior_var: float) -> _Moments:
    """Solve the conjugate linear model; `variance` is (levels, samples), `phi` (samples, cells)."""
    w = 1.0 / variance
    s11, s1y = (w.sum(axis=1) + 1.0 / prior_var)[:, None], (w @ scores)[:, None]
    sp1, spp, spy = w @ phi, w @ np.square(phi) + 1.0 / prior_var, (w * scores) @ phi
    determinant = s11 * spp - np.square(sp1)
    floor, height = (spp * s1y - sp1 * spy) / determinant, (s11 * spy - sp1 * s1y) / determinant
    common = -0.5 * (w @ np.square(scores) + np.log(variance).sum(axis=1))[:, None]
    fit = 0.5 * (floor * s1y + height * spy) - 0.5 * np.log(determinant) - math.log(prior_var)
    sd = np.sqrt(s11 / determinant)
    ratio = height / sd
    positive = log_ndtr(ratio)
    # The mean and the variance of a normal variable that is known to be positive.
    hazard = np.exp(-0.5 * np.square(ratio) - 0.5 * math.log(2.0 * math.pi) - positive)
    height_var = np.square(sd) * np.maximum(1.0 - hazard * (hazard + ratio), 1e-6)
    slope = -sp1 / s11
    return _Moments(
        log=common + fit + positive + math.log(2.0),
        log_flat=(common + 0.5 * np.square(s1y) / s11 - 0.5 * np.log(s11 * prior_var))[:, 0],
        floor=floor + slope * sd * hazard,
        height=height + sd * hazard,
        floor_var=1.0 / s11 + np.square(slope) * height_var,
        height_var=height_var,
        covariance=slope * height_var,
    )


def _probable(weight: Vector) -> tuple[NDArray[np.intp], Vector]:
    """Cells that stand for the posterior, and their weights: the probable ones, or where these are too many, a draw.

    The draw is at even quantiles, so that the same scores give the same answer.
    """
    order = np.argsort(weight)[::-1][:MOST_CELLS]
    held = np.cumsum(weight[order])
    if held[-1] >= 0.999:
        kept = order[: int(np.searchsorted(held, 0.999)) + 1]
        return kept, weight[kept] / weight[kept].sum()
    drawn = np.searchsorted(np.cumsum(weight), (np.arange(MOST_CELLS // 2) + 0.5) / (MOST_CELLS // 2))
    drawn = np.minimum(drawn, len(weight) - 1)
    return drawn, np.full(len(drawn), 1.0 / len(drawn))


def _densest(places: Vector, weight: Vector, width: float) -> float:
    """Centre of the window of one `width` that holds most, refined to the mean within it."""
    cumulative = np.concatenate([[0.0], np.cumsum(weight)])
    lower = np.searchsorted(places, places - 0.5 * width - 1e-9)
    upper = np.searchsorted(places, places + 0.5 * width + 1e-9)
    held = cumulative[upper] - cumulative[lower]
    at = int(np.argmax(held))
    window = slice(lower[at], upper[at])
    return float(weight[window] @ places[window] / max(float(weight[window].sum()), 1e-300))
