"""From an assessment to a likelihood of the focus position, and how much of it is news."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Assessment, Distribution
from parfocal.policies.focus.density import Vector
from parfocal.policies.focus.response import Response

# No microscope is out of focus by a metre, nor sure of it to a picometre; also what is NaN fails the comparison.
_ABSURD_UM = 1e6
UNTOLD_DOF = 0.75
"""Blur of less than this much defocus, in depths of field, is not told from none."""
RESPONSE_NOISE, SIGN_FLOOR = 0.8, 0.05
LEAST_SHARE, FAR_SCATTER, FAR_FROM_DOF = 0.1, 0.5, 8.0
_QUANTILES = np.array([0.16, 0.5, 0.84])
LEAST_SPREAD_DOF = 0.1
"""No network is surer than this, in depths of field."""


@dataclass(frozen=True)
class Look:
    """What one frame says: a number, what it is expected to be at any defocus, and how well that is known.

    Parameters
    ----------
    defocus_um, density : ndarray, shape (n,)
        Density per um over the defocus; beyond the table that of its end goes on: a network that says "at least
        30 um" does not deny 40.
    value, spread : float
        The number said, and how far off it may be.
    upper : float, optional
        What |defocus| is below with 84 %, where the number is its median.
    mean, sd : ndarray, shape (n,), optional
        What a measured response expects at `defocus_um`; otherwise the number is |defocus| itself, with `spread`.
    dof_um : float
        Depth of field.
    signed : bool
        Whether the density tells the sides apart.
    floor : float
        Chance that the model is simply wrong about a frame (dirt, a passing cell).
    noise : float
        Sd of what differs between two looks at the same place, in units of the spread.
    """

    defocus_um: Vector
    density: Vector
    value: float
    spread: float
    dof_um: float
    mean: Vector | None = None
    sd: Vector | None = None
    signed: bool = False
    floor: float = 0.02
    noise: float = 0.2
    upper: float | None = None

    def __call__(self, defocus_um: Vector) -> Vector:
        """Density at ascending defocus."""
        values: Vector = np.interp(defocus_um, self.defocus_um, self.density)
        return values

    def from_above(self, apart_um: float) -> Look:
        """Let the upper end of what the model holds possible, less `apart_um`, be the number.

        Below `UNTOLD_DOF` no blur is to be seen, and what is held possible reaches from none to there, whatever the
        defocus. Its median is half of it; its upper end moves first when a blur begins to show.
        """
        return self if self.upper is None else replace(self, value=self.upper - apart_um)

    @property
    def wild(self) -> float:
        """Density of a number that has nothing to do with the defocus, in units of the spread."""
        if self.mean is not None and self.sd is not None:
            return float(np.median(self.sd)) / max(float(np.ptp(self.mean)), 1e-12)
        return min(1.0, self.spread / float(self.defocus_um[-1]))

    def at(self, defocus_um: Vector) -> tuple[Vector, Vector, Vector]:
        """`error`, `scatter` and `side` at some defocus; at once, for most of each is the same."""
        if self.mean is not None and self.sd is not None:
            expected = np.interp(defocus_um, self.defocus_um, self.mean)
            missed: Vector = (self.value - expected) / np.interp(defocus_um, self.defocus_um, self.sd)
            # The sd of a measured response is how looks scatter about it: hardly any of it belongs to the field.
            return missed, np.full(1, RESPONSE_NOISE**2), self._side(defocus_um, np.ones(1))
        distance = np.abs(defocus_um)
        width = self.spread / np.sqrt(self.spread**2 + (LEAST_SHARE * distance) ** 2)
        seen = rounded(np.minimum(distance, 0.97 * float(self.defocus_um[-1])), self.dof_um)
        missed = (self.value - seen) * (width / self.spread)
        return missed, self._scatter(distance, width), self._side(defocus_um, width)

    def error(self, defocus_um: Vector) -> Vector:
        """By how many spreads the number is more than it should be at some defocus."""
        return self.at(defocus_um)[0]

    def scatter(self, defocus_um: Vector) -> Vector:
        """Variance of what a smooth bias does not explain: noise and, far from focus, what differs by the look."""
        return self.at(defocus_um)[1]

    def side(self, defocus_um: Vector) -> Vector:
        """Likelihood of this side of the focus rather than of the other; 1 where there is no sign."""
        return self.at(defocus_um)[2]

    def _scatter(self, distance_um: Vector, width: Vector) -> Vector:
        # Not near the focus: there a frame must not seem the likelier in focus the more often it is looked at.
        distance = np.maximum(distance_um - 2.0 * self.dof_um, 0.0)
        uneven = distance / (distance + FAR_FROM_DOF * self.dof_um)
        # Noise is the image's: no cell expects more of it, or each repetition would speak for those that expect least.
        variance: Vector = self.noise**2 * (width * width) + FAR_SCATTER**2 * (uneven * uneven)
        return variance

    def _side(self, defocus_um: Vector, width: Vector) -> Vector:
        if not self.signed:
            return width
        here = np.interp(defocus_um, self.defocus_um, self.density)
        there = np.interp(-defocus_um, self.defocus_um, self.density)
        told = 2.0 * here / np.maximum(here + there, 1e-300)
        # A sign, too, may be that of a field that misleads.
        share: Vector = width * ((1.0 - SIGN_FLOOR) * told + SIGN_FLOOR)
        return share


def rounded(distance_um: Vector, dof_um: float) -> Vector:
    """|defocus| as a model says it that knows no more than is to be seen.

    Within `UNTOLD_DOF` there is no blur to be seen, and the best that can be said is half of it; beyond, the number
    soon becomes |defocus| itself.
    """
    untold = UNTOLD_DOF * dof_um
    ratio = distance_um / untold
    ratio = ratio * ratio
    ratio = ratio * ratio
    # The eighth root by square roots: a power costs three times as much.
    result: Vector = untold * (np.sqrt(np.sqrt(np.sqrt(1.0 + ratio * ratio))) - 0.5 / (1.0 + ratio))
    return result


def read_look(
    assessment: Assessment,
    *,
    response: Response | None,
    floor: float,
    min_certainty: float,
    dof_um: float,
    noise: float = 0.2,
) -> Look | str:
    """Read an assessment; the answer is a reason in words if nothing can be learned from it.

    Parameters
    ----------
    assessment : Assessment
        Of the model that measures defocus.
    response : Response, optional
        A measured response: the likelihood then comes from the assessment's value through it.
    floor : float
        Chance that the model is simply wrong about a frame (dirt, a passing cell).
    min_certainty : float
        Below this ``detail["certainty"]`` the frame counts as doubtful.
    dof_um : float
        Depth of field.
    """
    if assessment.abstained:
        return assessment.reason or f"{assessment.model} abstained"
    certainty = assessment.detail.get("certainty")
    if certainty is not None and not certainty >= min_certainty:
        return f"{assessment.model} is uncertain (certainty {certainty:.2f}, at least {min_certainty:.2f} needed)"
    if response is not None:
        look = _from_response(assessment, response, dof_um)
    elif assessment.distribution is not None:
        look = _from_distribution(assessment.model, assessment.distribution, dof_um)
    else:
        look = _from_value(assessment, dof_um)
    return look if isinstance(look, str) else replace(look, floor=floor, noise=noise)


@dataclass(frozen=True)
class _Cells:
    """What a table of defocus is by itself, whatever is said over it; or what is wrong with it.

    `widths` of the cells; `order` of their |defocus|, and the `edges` between these.
    """

    wrong: str
    widths: Vector
    order: NDArray[np.intp]
    edges: Vector


_NOT_FINITE = "a distribution with NaN or infinite entries"
_MALFORMED = "a malformed distribution (grid not ascending, or negative probabilities)"


@lru_cache(maxsize=8)
def _cells(table: bytes) -> _Cells:
    """Look at a table of defocus, which a model seldom changes between two frames."""
    grid = np.frombuffer(table, np.float64)
    distance = np.abs(grid)
    order = np.argsort(distance, kind="stable")
    at = distance[order]
    if not np.isfinite(grid).all():
        return _Cells(_NOT_FINITE, grid, order, at)
    if at[-1] > _ABSURD_UM or (np.diff(grid) < 1.0 / _ABSURD_UM).any():
        return _Cells(_MALFORMED, grid, order, at)
    # Masses lie in cells about their places: what is below the first place is not nothing.
    edges = np.concatenate([[0.0], 0.5 * (at[1:] + at[:-1]), at[-1:]])
    return _Cells("", np.gradient(grid), order, edges)


def _from_distribution(model: str, distribution: Distribution, dof_um: float) -> Look | str:
    """Masses of uneven cells under a flat prior become a density per um."""
    grid = np.asarray(distribution.defocus_um, dtype=np.float64)
    mass = np.asarray(distribution.probability, dtype=np.float64)
    if grid.ndim != 1 or grid.shape != mass.shape or len(grid) < 3:
        return f"{model} gave a malformed distribution (shapes {grid.shape} and {mass.shape})"
    cells, least, most = _cells(grid.tobytes()), float(mass.min()), float(mass.max())
    if not (math.isfinite(least) and math.isfinite(most)):
        return f"{model} gave {_NOT_FINITE}"
    if cells.wrong or most > _ABSURD_UM or least < 0.0:
        return f"{model} gave {cells.wrong or _MALFORMED}"
    total = float(mass.sum())
    if not 1e-12 < total < _ABSURD_UM:
        return f"{model} gave a distribution without any probability"
    mass = mass / total
    value, spread, upper = _folded(cells, mass)
    spread = max(spread, LEAST_SPREAD_DOF * dof_um)
    return Look(grid, mass / cells.widths, value, spread, dof_um, signed=distribution.signed, upper=upper)


def _folded(cells: _Cells, mass: Vector) -> tuple[float, float, float]:
    """Median of |defocus|, half the width of its middle 68 %, and the upper end of that."""
    share = np.zeros(len(mass) + 1)
    mass[cells.order].cumsum(out=share[1:])
    lower, middle, upper = np.interp(_QUANTILES, share, cells.edges).tolist()
    return middle, 0.5 * (upper - lower), upper


def _from_value(assessment: Assessment, dof_um: float) -> Look | str:
    """Make do without a distribution: a Gaussian in the magnitude, on both sides."""
    if assessment.detail.get("in_um") == 0.0:
        return f"{assessment.model} says pixels of blur, not um: it needs the optics, or the policy a calibration"
    value, sd = abs(assessment.value), assessment.sd
    if not (value < _ABSURD_UM and 1.0 / _ABSURD_UM < sd < _ABSURD_UM):
        return f"{assessment.model} gave no usable number ({assessment.value:g} ± {assessment.sd:g})"
    reach = value + 8.0 * sd
    grid = np.linspace(-reach, reach, 801)
    density = np.exp(-0.5 * ((np.abs(grid) - value) / sd) ** 2)
    density /= max(float(np.trapezoid(density, grid)), 1e-300)
    return Look(grid, density, value, max(sd, LEAST_SPREAD_DOF * dof_um), dof_um)


def _from_response(assessment: Assessment, response: Response, dof_um: float) -> Look | str:
    value = response.observable(assessment)
    if not math.isfinite(value):
        return f"{assessment.model} gave no usable {response.source!r} ({value:g})"
    density = response.likelihood(value, response.observed_sign(assessment))
    grid, mean, sd = response.defocus_um, response.mean, response.sd
    return Look(grid, density, value, 1.0, dof_um, mean, sd, response.signed)


class Novelty:
    """How much of a look is news, given the looks before it.

    Errors of a network on one specimen at one defocus repeat themselves: they belong to the specimen, not to the
    photons. They are taken as a process correlated over `length_um` in z and `memory_s` in time; a look right after
    another at the same z then carries the share ``1 - rho**2`` of its information, so that standing still does not
    make the belief ever narrower.
    """

    def __init__(self, length_um: float, memory_s: float, keep: int = 12) -> None:
        self.length_um = length_um
        self.memory_s = memory_s
        self.keep = keep
        self.looks: list[tuple[float, float]] = []

    def share(self, z_um: Any, time_s: float) -> Any:
        """Share of news (0..1) of looks at `z_um` (a number or an array of them)."""
        z = np.asarray(z_um, dtype=np.float64)
        if not self.looks:
            return np.ones_like(z)[()]
        past = np.asarray(self.looks)
        age = np.maximum(time_s - past[:, 1], 0.0) / max(self.memory_s, 1e-9)
        apart = ((z[..., None] - past[:, 0]) / self.length_um) ** 2
        return (-np.expm1(-(2.0 * age + apart).min(axis=-1)))[()]

    def add(self, z_um: float, time_s: float) -> None:
        """Remember a look."""
        self.looks = [*self.looks[-(self.keep - 1) :], (z_um, time_s)]
