"""The solver of ``sted.bayes``: from the trials so far to the next one and a recommendation; pure, seeded, JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.policies.sted import laws
from parfocal.policies.sted.preference import Preference, make_preference
from parfocal.policies.sted.safety import Envelope
from parfocal.policies.sted.space import DEPLETION, LINES, Space, Vector
from parfocal.policies.sted.trial import Trial

TARGET = "parfocal.policies.sted.solver:solve"
DRAWS = 64
DRAWS_AVERAGED = 4
POOL = 4096
NEAR = 96
NEAR_WIDTH = 0.06
DARK_SD = 0.7
WARM_LIMIT = 60
"""Trials of an earlier run that are used; the latest."""


@dataclass(frozen=True)
class _Data:
    """Trials as a surrogate takes them: rows of settings, and what each measured."""

    rows: Vector
    told: list[dict[str, tuple[float, float]]]


def solve(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Suggest the next trial.

    Parameters
    ----------
    problem : mapping
        As `BayesPolicy.problem` writes it.

    Returns
    -------
    dict
        ``settings`` to try and ``reason``; ``recommended`` (``settings``, ``utility``, ``sd``) by the posterior mean;
        ``improvement``: how much the best candidate is expected to be better than what is recommended; ``stop``.
        Without ``settings`` where nothing is safe or nothing was measured.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _solve(problem)
    finally:
        torch.set_num_threads(threads)


def warm_up() -> None:
    """Import the surrogates and fit one, so that the first suggestion is no slower than the others."""
    from parfocal.policies.sted.surrogate import fit

    fit("bleach", np.eye(3), np.zeros(3), np.ones(3))


def _solve(problem: Mapping[str, Any]) -> dict[str, Any]:
    import torch

    space, wish = Space.from_json(problem["space"]), make_preference(problem["preference"])
    lines, seed = float(problem["lines"]), int(problem["seed"])
    trials = [Trial.from_json(trial) for trial in problem["trials"]]
    data = _data(trials, space, float(problem["confocal_dose"]))
    prior = _Prior.of(problem, space, lines)
    candidates = _candidates(problem, space, data, lines)
    if not len(candidates) or not data.told:
        return {"reason": "nothing is safe to try" if data.told else "nothing was measured yet"}
    generator = torch.Generator().manual_seed(seed + 7919 * len(trials))
    utility = _utilities(data, prior, candidates, space, lines, wish, generator)
    mean, sd = utility.mean(0), utility.std(0, ddof=1)
    best = int(np.argmax(mean))
    gain = np.maximum(utility - utility[:, best : best + 1], 0.0).mean(0)
    chosen = _acquire(str(problem["acquisition"]), utility, mean, gain, best)
    improvement = float(gain.max())
    settings = space.settings(candidates[chosen])
    stop = len(trials) >= int(problem["min_images"]) and improvement < float(problem["stop_improvement"])
    why = f"expected utility {mean[chosen]:.2f} ± {sd[chosen]:.2f}, {improvement:.3f} to be gained at best"
    if stop:
        why = f"at best {improvement:.4f} of utility is to be gained, less than {problem['stop_improvement']:g}"
    return {
        "settings": settings,
        "reason": why,
        "improvement": improvement,
        "stop": stop,
        "recommended": {
            "settings": space.settings(candidates[best]),
            "utility": float(mean[best]),
            "sd": float(sd[best]),
        },
    }


@dataclass(frozen=True)
class _Prior:
    """The laws and, where there was an earlier run, what it found that they do not say."""

    space: Space
    lines: float
    confocal_dose: float
    warm: Mapping[str, Any]

    @staticmethod
    def of(problem: Mapping[str, Any], space: Space, lines: float) -> _Prior:
        dose = float(problem["confocal_dose"])
        bare = _Prior(space, lines, dose, {})
        earlier = problem.get("warm")
        if not earlier:
            return bare
        trials = [Trial.from_json(trial) for trial in earlier["trials"]][-WARM_LIMIT:]
        data = _data(trials, space, dose, float(earlier["confocal_dose"]))
        return _Prior(space, lines, dose, _fit_all(data, bare)) if data.told else bare

    def mean(self, name: str, rows: Vector) -> Vector:
        law = laws.mean(name, self.space, rows, self.lines, self.confocal_dose)
        if name not in self.warm:
            return law
        shift: Vector = law + self.warm[name].mean(laws.features(self.space, rows, self.lines))
        return shift


def _data(trials: list[Trial], space: Space, confocal_dose: float, was_dose: float | None = None) -> _Data:
    """Arrange trials; one that showed nothing says that its signal is small."""
    rows, told = [], []
    factor = 1.0 if was_dose is None else was_dose / confocal_dose
    for trial in trials:
        if any(name not in trial.settings for name in space.names):
            continue
        row = space.array(trial.settings)
        if trial.outcome is not None:
            known = laws.encode(trial.outcome)
            value, variance = known["signal"]
            known["signal"] = (value + float(np.log(factor)), variance)
        elif trial.dark:
            known = {"signal": (float(np.log(10 * laws.LEAST_SIGNAL)), DARK_SD**2)}
        else:
            continue
        rows.append(row)
        told.append(known)
    return _Data(np.array(rows).reshape(len(rows), space.size), told)


def _fit_all(data: _Data, prior: _Prior) -> dict[str, Any]:
    """Fit a surrogate for every objective that was measured."""
    from parfocal.policies.sted.surrogate import fit, names_of

    points = laws.features(prior.space, data.rows, prior.lines)
    fitted = {}
    for name in names_of(data.told):
        known = [index for index, told in enumerate(data.told) if name in told]
        value, variance = (np.array([data.told[index][name][part] for index in known]) for part in (0, 1))
        fitted[name] = fit(name, points[known], value - prior.mean(name, data.rows[known]), variance)
    return fitted


def _utilities(
    data: _Data, prior: _Prior, rows: Vector, space: Space, lines: float, wish: Preference, generator: Any
) -> Vector:
    """Utility of every row under joint draws of all objectives, shape (draws, rows)."""
    fitted = _fit_all(data, prior)
    points = laws.features(space, rows, lines)
    objectives: dict[str, Vector] = {"pixel_us": np.broadcast_to(space.pixel_us(rows, lines), (DRAWS, len(rows)))}
    for name, objective in laws.OBJECTIVE_OF.items():
        if objective not in wish.needs:
            continue
        law = prior.mean(name, rows)
        if name in fitted:
            drawn = law + fitted[name].draw(points, DRAWS, generator)
        else:
            drawn = np.broadcast_to(law, (DRAWS, len(rows)))  # never measured so far: the law alone
        objectives[objective] = laws.decode(name, drawn)
    return wish.utility(objectives)


def _candidates(problem: Mapping[str, Any], space: Space, data: _Data, lines: float) -> Vector:
    """What may be tried: a Sobol set of the space, and places near the best guesses so far."""
    seed, count = int(problem["seed"]), int(problem["candidates"])
    envelope = Envelope.from_json(problem["envelope"])
    pool = space.candidates(POOL, [seed, len(data.told)])
    pool = pool[envelope.allowed(space, pool, lines)][:count]
    centres = [space.array(settings) for settings in problem["near"]]
    near = [_around(space, centre, [seed, len(data.told), index]) for index, centre in enumerate(centres)]
    both = np.concatenate([pool, *near, data.rows]) if len(data.rows) or near else pool
    both = np.array([space.array(space.settings(row)) for row in both]).reshape(-1, space.size)
    reach = np.array(problem["reach"])
    safe: Vector = both[envelope.allowed(space, both, lines) & (np.abs(both - reach[0]) <= reach[1]).all(1)]
    return safe


def _around(space: Space, centre: Vector, seed: list[int]) -> Vector:
    rng = np.random.default_rng(seed)
    unit = space.unit(centre) + NEAR_WIDTH * rng.standard_normal((NEAR, space.size))
    rows = space.from_unit(np.clip(unit, 0.0, 1.0))
    if LINES in space.names:
        column = space.names.index(LINES)
        rows[:, column] = np.clip(np.round(rows[:, column]), space.lower[column], space.upper[column])
    if DEPLETION in space.names:
        column = space.names.index(DEPLETION)
        rows[:, column] = np.maximum(rows[:, column], space.lower[column])
    return rows


def _acquire(how: str, utility: Vector, mean: Vector, gain: Vector, best: int) -> int:
    """Pick a candidate: of one draw the best (Thompson), or where most is expected to be gained over the best guess."""
    if how == "thompson":
        return int(np.argmax(utility[:DRAWS_AVERAGED].mean(0)))
    if how == "greedy":
        return best
    return int(np.argmax(gain)) if gain.max() > 0 else best
