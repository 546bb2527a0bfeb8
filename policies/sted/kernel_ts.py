"""Kernel Thompson sampling after Durand et al. (2018): fixed kernel, noise bounds, a joint draw over a grid.

What the paper leaves open is read as ADR 0020 says; a row of a table is of this reading, not of the authors' code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.policies.sted.laws import CONFOCAL_NM
from parfocal.policies.sted.objectives import COARSEST_NM, Outcome
from parfocal.policies.sted.preference import make_preference
from parfocal.policies.sted.safety import Envelope
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, Space, Vector
from parfocal.policies.sted.trial import Trial

TARGET = "parfocal.policies.sted.kernel_ts:solve"
NORM_BOUND = 5.0
DELTA = 0.1
GRID = {EXCITATION: 12, DEPLETION: 10, DWELL: 12, LINES: 4}
NOISE_BOUNDS: Mapping[str, tuple[float, float]] = {
    "signal_ratio": (0.01, 2.0),
    "bleach": (0.005, 0.1),
    "resolution_nm": (0.005, 0.1),
    "quality": (0.01, 0.1),
}
"""First lower and upper bounds of a measurement's noise; the resolution is counted in confocal widths."""
_JITTER = 1e-6


def solve(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest the next trial: draw every objective over the grid, and click on the preferred sampled outcome.

    Returns
    -------
    dict
        ``settings``, ``reason`` and ``recommended`` (``settings``, ``utility`` of the posterior means).
    """
    space, wish = Space.from_json(problem["space"]), make_preference(problem["preference"])
    grid = make_grid(space)
    envelope = Envelope.from_json(problem["envelope"])
    reach = np.array(problem["reach"])
    allowed = envelope.allowed(space, grid, float(problem["lines"]))
    allowed &= (np.abs(grid - reach[0]) <= reach[1]).all(1)
    if not allowed.any():
        return {"reason": "no place of the grid is safe"}
    grid = grid[allowed]
    trials = [Trial.from_json(trial) for trial in problem["trials"]]
    rng = np.random.default_rng([int(problem["seed"]), len(trials)])
    drawn, means = {}, {}
    for number, name in enumerate(name for name in NOISE_BOUNDS if name in wish.needs):
        learner = KernelTS(name, float(problem["bandwidth"]))
        rows, values = _measured(trials, space, name)
        learner.learn(unit(space, rows), values)
        draw, mean = learner.draw(unit(space, grid), np.random.default_rng([*rng.integers(0, 2**31, 1), number]))
        drawn[name], means[name] = _bounded(name, draw), _bounded(name, mean)
    drawn["pixel_us"] = means["pixel_us"] = space.pixel_us(grid, float(problem["lines"]))
    clicked = int(np.argmax(wish.utility(drawn)))
    expected = wish.utility(means)
    best = int(np.argmax(expected))
    return {
        "settings": space.settings(grid[clicked]),
        "reason": f"preferred among {len(grid)} sampled outcomes",
        "recommended": {"settings": space.settings(grid[best]), "utility": float(expected[best]), "sd": None},
    }


@dataclass
class KernelTS:
    """One objective's regression: RBF kernel of fixed bandwidth, regularised by the bound of the noise.

    Parameters
    ----------
    name : str
        The objective; for the first bounds of its noise.
    bandwidth : float
        Of the kernel, as a share of each parameter's range.
    """

    name: str
    bandwidth: float

    def __post_init__(self) -> None:
        self.low, self.high = NOISE_BOUNDS[self.name]
        self._points, self._values = np.zeros((0, 0)), np.zeros(0)

    def learn(self, points: Vector, values: Vector) -> None:
        """Take all measurements, in order, and estimate the bounds of the noise again after each."""
        for count in range(1, len(values) + 1):
            self.low, self.high = noise_bounds(points[:count], values[:count], self.bandwidth, self.low, self.high)
        self._points, self._values = with_pseudo_points(points, values, self.bandwidth)

    def draw(self, grid: Vector, rng: np.random.Generator) -> tuple[Vector, Vector]:
        """Draw ``theta ~ N(mu, (s_ub^2 / lambda) k)`` jointly over the grid; return it and mu."""
        ridge = self.high**2 / NORM_BOUND**2
        mean, covariance = np.zeros(len(grid)), kernel(grid, grid, self.bandwidth)
        if len(self._values):
            cross = kernel(self._points, grid, self.bandwidth)
            gram = kernel(self._points, self._points, self.bandwidth) + ridge * np.eye(len(self._values))
            weights = np.linalg.solve(gram, cross)
            mean = weights.T @ self._values
            covariance = covariance - cross.T @ weights
        root = np.linalg.cholesky(covariance + _JITTER * np.eye(len(grid)))
        scale = math.sqrt(self.high**2 / ridge)
        return mean + scale * (root @ rng.standard_normal(len(grid))), mean


def kernel(a: Vector, b: Vector, bandwidth: float) -> Vector:
    """RBF kernel of points in the unit cube."""
    squares = ((a[:, None] - b[None]) ** 2).sum(2)
    values: Vector = np.exp(-0.5 * squares / bandwidth**2)
    return values


def noise_bounds(points: Vector, values: Vector, bandwidth: float, low: float, high: float) -> tuple[float, float]:
    """Bounds of the noise's standard deviation from the residuals of the regression, narrowing only.

    With ``s`` the root mean square of the residuals under lambda = low^2 / C^2 and t measurements (Durand, Maillard,
    Pineau 2018, JMLR 19:17): from below ``(s - C sqrt(lambda/t (1 - 1/max(1 + k/lambda)))) / (1 + sqrt(2 c/t))``, from
    above ``((b + sqrt(b^2 + a s)) / a)^2`` with ``a = 1 - sqrt(c/t) - sqrt((c + 2 d)/t)`` where that is positive.
    Written from a description of these bounds, not checked against the article's text.
    """
    count = len(values)
    ridge = low**2 / NORM_BOUND**2
    gram = kernel(points, points, bandwidth)
    fitted = gram @ np.linalg.solve(gram + ridge * np.eye(count), values)
    rms = math.sqrt(float(np.mean((values - fitted) ** 2)))
    # Posterior variance of each point given those before it, over lambda: what it told when it was measured.
    root = np.linalg.cholesky(gram + ridge * np.eye(count))
    told = np.diag(root) ** 2 / ridge
    log_delta = math.log(1.0 / DELTA)
    inner = math.pi**2 * math.log(max(count, 2)) / 6.0
    c = (1.0 + log_delta) * (1.0 + max(math.log(inner), 0.0) / log_delta)
    d = 2.0 * log_delta + float(np.log(told).sum())
    bias = NORM_BOUND * math.sqrt(ridge / count * (1.0 - 1.0 / float(told.max())))
    lower = (rms - bias) / (1.0 + math.sqrt(2.0 * c / count))
    share = 1.0 - math.sqrt(c / count) - math.sqrt((c + 2.0 * d) / count)
    upper = high
    if share > 0:
        b = math.sqrt(NORM_BOUND * math.sqrt(ridge * d) / (2.0 * count))
        upper = ((b + math.sqrt(b**2 + share * rms)) / share) ** 2
    new_high = max(min(high, upper), low)
    return min(max(low, lower), new_high), new_high


def with_pseudo_points(points: Vector, values: Vector, bandwidth: float) -> tuple[Vector, Vector]:
    """Repeat samples on a face of the cube one bandwidth outside of it, so that no face looks unexplored."""
    more, same = [points], [values]
    for axis in range(points.shape[1] if len(points) else 0):
        for face, step in ((0.0, -bandwidth), (1.0, bandwidth)):
            on = np.abs(points[:, axis] - face) < 1e-6
            if on.any():
                outside = points[on].copy()
                outside[:, axis] += step
                more.append(outside)
                same.append(values[on])
    return np.concatenate(more), np.concatenate(same)


def make_grid(space: Space) -> Vector:
    """All combinations of equally spaced settings, as published: 12 powers and dwell times, 10 depletion powers."""
    axes = []
    for name, low, high in zip(space.names, space.lower, space.upper, strict=True):
        if name == LINES:
            axes.append(np.unique(np.round(np.linspace(math.ceil(low), math.floor(high), GRID[name]))))
        else:
            axes.append(np.linspace(low, high, GRID[name]))
    return np.stack([axis.ravel() for axis in np.meshgrid(*axes, indexing="ij")], axis=1)


def unit(space: Space, rows: Vector) -> Vector:
    """Scale settings to the unit cube, linearly."""
    low, high = np.array(space.lower), np.array(space.upper)
    scaled: Vector = (rows - low) / np.where(high > low, high - low, 1.0)
    return scaled


def _measured(trials: list[Trial], space: Space, name: str) -> tuple[Vector, Vector]:
    rows, values = [], []
    for trial in trials:
        value = math.nan if trial.outcome is None else _counted(name, trial.outcome)
        if math.isfinite(value):
            rows.append(space.array(trial.settings))
            values.append(value)
    return np.array(rows).reshape(len(rows), space.size), np.array(values)


def _counted(name: str, outcome: Outcome) -> float:
    value = float(getattr(outcome, name))
    return value / CONFOCAL_NM if name == "resolution_nm" else value


def _bounded(name: str, values: Vector) -> Vector:
    """Sampled objectives in their own units, kept to what they can be."""
    if name == "resolution_nm":
        return np.clip(values * CONFOCAL_NM, 1.0, COARSEST_NM)
    return np.maximum(values, 0.0) if name == "signal_ratio" else np.clip(values, 0.0, 1.0)
