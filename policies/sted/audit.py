"""An audit of safety: random configurations, random frames, wild suggestions, and every request held to its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parfocal.models.base import Assessment
from parfocal.policies.base import Change, Finish, Observation, PolicyOptionError
from parfocal.policies.sted.base import StedPolicy
from parfocal.policies.sted.bayes import BayesPolicy
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, dose_of, pixel_us_of

FRAMES = 16
SLACK = 1.01
"""Settings are shortened to four digits, and a field's confocal frame may lower the excitation only."""
BEAMS = (EXCITATION, DEPLETION, DWELL, LINES)


@dataclass
class Audit:
    """What was asked for.

    Parameters
    ----------
    configurations, refused : int
        How many were made, and how many more contradicted themselves and were refused.
    requests, trials : int
        How many changes of settings, and STED frames among them.
    over : list of str
        What was over a limit, in words; empty if all is well.
    """

    configurations: int = 0
    refused: int = 0
    requests: int = 0
    trials: int = 0
    over: list[str] = field(default_factory=list)


def audit(configurations: int, seed: int = 0) -> Audit:
    """Run `sted.bayes` in random configurations, its suggestions replaced by random ones, many of them forbidden.

    What is checked here is what stands between a suggestion and the guard, which has the last word all the same.

    Parameters
    ----------
    configurations : int
        So many that are consistent in themselves.
    seed : int
    """
    rng, found = np.random.default_rng(seed), Audit()
    while found.configurations < configurations:
        options = random_options(rng)
        try:
            policy = BayesPolicy(options)
        except PolicyOptionError:
            found.refused += 1
            continue
        found.configurations += 1
        _run(policy, _Sample(rng), rng, found)
    return found


def random_options(rng: np.random.Generator) -> dict[str, Any]:
    """Draw the options of a configuration; some contradict themselves."""
    bounds: dict[str, list[float]] = {}
    for name, top in ((EXCITATION, 20.0), (DEPLETION, 350.0), (DWELL, 100.0), (LINES, 12.0)):
        low, high = np.sort(rng.uniform(0.0, top, 2))
        bounds[name] = [0.0 if rng.random() < 0.5 else 0.3 * float(low), float(high)]
        if name == LINES:
            bounds[name] = [1.0, float(rng.integers(1, 12))]
    options: dict[str, Any] = {
        "bounds": bounds,
        "max_images": int(rng.integers(1, 6)),
        "max_dose_factor": float(rng.uniform(1.2, 10)),
        "max_bleach": float(rng.uniform(0.05, 1.0)),
        "max_rate_mhz": float(rng.uniform(2, 40)),
        "seed": int(rng.integers(1000)),
    }
    if rng.random() < 0.3:
        options["max_step"] = {name: float(rng.uniform(0.2, 1.0) * bounds[name][1]) for name in (EXCITATION, DEPLETION)}
    if rng.random() < 0.3:
        options["dose_budget"] = float(10 ** rng.uniform(2, 5))
    for key in ("start", "confocal"):
        if rng.random() < 0.3:
            options[key] = {name: float(rng.uniform(bounds[name][0], bounds[name][1])) for name in (EXCITATION, DWELL)}
    return options


class _Sample:
    """Frames that could have been: brightness, bleaching and structure at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self.bright, self.bleach = float(10 ** rng.uniform(-2, 1)), float(10 ** rng.uniform(-4, 0))
        self.settings = {EXCITATION: 0.0, DEPLETION: 0.0, DWELL: 10.0, LINES: 1.0, "x_um": 0.0, "y_um": 0.0}
        self.index, self.dose, self.left = 0, 0.0, 1.0

    def frame(self) -> Observation:
        """Take one."""
        rng, s = self._rng, self.settings
        self.index += 1
        self.dose += dose_of(s)
        signal = self.bright * dose_of(s) * self.left / math.sqrt(1 + s[DEPLETION] / 20)
        self.left *= math.exp(-self.bleach * dose_of(s) * (s[DEPLETION] / 100) ** 0.7) if s[DEPLETION] else 1.0
        detail = {
            "foreground_p75": 1.4 * signal,
            "foreground_mean": signal,
            "background_mean": 0.1 * signal,
            "foreground_sem": 0.01 * signal,
            "background_sem": 0.001 * signal,
            "light_counts": 0.2 * signal,
            "light_sem": 0.002 * signal,
            "mean_counts": 0.3 * signal,
            "max_counts": float(rng.uniform(3, 4)) * signal,
            "resolution_nm": float(rng.uniform(40, 250)),
            "resolution_sd_nm": 5.0,
            "resolution_censored": float(rng.choice([-1, 0, 0, 0, 1])),
            "structured": float(rng.random() < 0.95),
            "saturated_share": float(0.1 * (rng.random() < 0.05)),
        }
        said = Assessment("sted_measures", signal, 0.1, detail=detail)
        return Observation(self.index, dict(s), float(self.index), self.dose, {"sted_measures": said})

    def take(self, settings: Mapping[str, float]) -> None:
        """Obey."""
        if any(name.endswith("_um") and self.settings[name] != value for name, value in settings.items()):
            self.left = 1.0
        self.settings |= settings


def _run(policy: StedPolicy, sample: _Sample, rng: np.random.Generator, found: Audit) -> None:
    tolerated = [dose_of(policy.start), policy.start.get(DEPLETION, 0.0) * pixel_us_of(policy.start)]
    for _ in range(FRAMES):
        policy.tell(sample.frame())
        for trial in policy.trials[-1:]:
            tolerated[0] = max(tolerated[0], dose_of(trial.settings))
            tolerated[1] = max(tolerated[1], trial.settings[DEPLETION] * pixel_us_of(trial.settings))
        if policy.problem() is not None:
            policy.accept(_wild(policy, rng))
        action = policy.ask()
        if isinstance(action, Change):
            found.requests += 1
            found.over.extend(_over(policy, sample, action.settings, tolerated))
            found.trials += "STED with" in action.reason
            sample.take(action.settings)
        if isinstance(action, Finish):
            return


def _wild(policy: StedPolicy, rng: np.random.Generator) -> dict[str, Any] | None:
    """Suggest something, often forbidden."""
    if rng.random() < 0.1:
        return None
    low, high = np.array(policy.space.lower), np.array(policy.space.upper)
    row = low + rng.uniform(-0.3, 1.3, policy.space.size) * (high - low)
    if rng.random() < 0.5:
        row = np.exp(np.log(low + 1e-3) + rng.random(policy.space.size) * np.log((high + 1e-3) / (low + 1e-3)))
    settings = {name: float(value) for name, value in zip(policy.space.names, row, strict=True)}
    if rng.random() < 0.05:
        settings[EXCITATION] = float(rng.choice([math.nan, math.inf, -1.0]))
    return {"settings": settings, "reason": "wild", "recommended": {"settings": settings, "utility": 0.5, "sd": 0.1}}


def _over(policy: StedPolicy, sample: _Sample, asked: Mapping[str, float], tolerated: list[float]) -> list[str]:
    """Say what of a request is over a limit."""
    o, problems = policy.options, []
    settings = {**sample.settings, **asked}
    sted = settings[DEPLETION] > policy.options.confocal_settings[DEPLETION]
    for name in policy.space.names:
        low, high = o.box[name]
        outside = not low <= settings[name] <= high
        if outside and not (name == DEPLETION and settings[name] == 0):
            problems.append(f"{name} {settings[name]:g} is outside {low:g}..{high:g}")
        step = o.max_step.get(name, math.inf)
        if sample.index > 1 and abs(settings[name] - sample.settings[name]) > step * SLACK:
            problems.append(f"{name} steps by {abs(settings[name] - sample.settings[name]):g}, {step:g} is allowed")
    if sted and dose_of(settings) > SLACK * o.max_dose_factor * tolerated[0]:
        problems.append(f"excitation dose {dose_of(settings):g} after {tolerated[0]:g}")
    if sted and settings[DEPLETION] * pixel_us_of(settings) > SLACK * o.max_dose_factor * tolerated[1]:
        problems.append(f"depletion dose {settings[DEPLETION] * pixel_us_of(settings):g} after {tolerated[1]:g}")
    # As bright as the field still is: a confocal frame that cannot do without depletion has bleached it.
    bright = sample.bright * sample.left
    expected = 3.0 * bright * dose_of(settings) / pixel_us_of(settings) / math.sqrt(1 + settings[DEPLETION] / 20)
    if sted and expected > SLACK * o.max_rate_mhz:
        problems.append(f"rate {expected:g} MHz")
    if sted and o.dose_budget is not None and sample.dose + dose_of(settings) > SLACK * o.dose_budget:
        problems.append(f"dose budget {o.dose_budget:g} overdrawn")
    return problems
