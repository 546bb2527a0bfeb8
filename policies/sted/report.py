"""Trials and recommendations in words and numbers, for reasons and screens; the Pareto front of what was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.policies.sted.objectives import Outcome
from parfocal.policies.sted.preference import Preference
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, Vector
from parfocal.policies.sted.trial import Trial

UNITS = {EXCITATION: "uW excitation", DEPLETION: "mW depletion", DWELL: "us dwell", LINES: "line steps"}
SMALLER_IS_BETTER = ("bleach", "resolution_nm", "pixel_us")


def values(outcomes: Sequence[Outcome]) -> dict[str, Vector]:
    """Objectives of some outcomes by name, as arrays."""
    names = ("signal_ratio", "bleach", "resolution_nm", "pixel_us", "quality")
    return {name: np.array([getattr(outcome, name) for outcome in outcomes]) for name in names}


def utility(wish: Preference, outcome: Outcome) -> float:
    """Utility of an outcome as measured."""
    return float(wish.utility(values([outcome]))[0])


def front(wish: Preference, outcomes: Sequence[Outcome]) -> list[bool]:
    """Which outcomes no other one beats: as good in all objectives that count, better in one."""
    if not outcomes:
        return []
    told = values(outcomes)
    signs = {name: -1.0 if name in SMALLER_IS_BETTER else 1.0 for name in wish.needs}
    table = np.stack([signs[name] * told[name] for name in wish.needs], axis=1)
    as_good = np.all(table[:, None] >= table[None], axis=2)
    better = np.any(table[:, None] > table[None], axis=2)
    beaten: NDArray[np.bool_] = np.any(as_good & better, axis=0)
    return [not each for each in beaten.tolist()]


def on_front(trials: Sequence[Trial], wish: Preference) -> bool:
    """Whether the last trial lies on the Pareto front of all."""
    outcomes = [trial.outcome for trial in trials if trial.outcome is not None]
    return bool(outcomes) and trials[-1].outcome is not None and front(wish, outcomes)[-1]


def words(settings: Mapping[str, float]) -> str:
    """Settings as a person says them."""
    return ", ".join(
        f"{settings[name]:.3g} {unit}"
        for name, unit in UNITS.items()
        if name in settings and not (name == LINES and settings[name] == 1)
    )


def trial_detail(trial: Trial, worth: float, pareto: bool) -> dict[str, float]:
    """Numbers of a trial: ``trial_...`` settings, objectives, ``utility``, ``pareto``; the unknown is left out."""
    numbers = {f"trial_{name}": value for name, value in trial.settings.items()}
    numbers["outcome"] = 0.0 if trial.outcome is None else 1.0
    if math.isfinite(trial.bleach):
        numbers["bleach"] = trial.bleach
    if trial.outcome is None:
        return numbers
    outcome = trial.outcome
    numbers |= {
        "signal_ratio": outcome.signal_ratio,
        "bleach": outcome.bleach,
        "resolution_nm": outcome.resolution_nm,
        "resolution_censored": float(outcome.censored),
        "pixel_us": outcome.pixel_us,
        "rate_mhz": outcome.rate_mhz,
        "quality": outcome.quality,
        "utility": worth,
        "pareto": 1.0 if pareto else 0.0,
    }
    return {name: float(value) for name, value in numbers.items() if math.isfinite(value)}


def recommended(found: Mapping[str, Any]) -> str:
    """Say what is recommended, and how sure that is."""
    if not found:
        return "nothing can be recommended"
    text = f"recommended: {words(found['settings'])}"
    if found.get("utility") is None:
        return text
    sd = f" ± {found['sd']:.2f}" if found.get("sd") is not None else ""
    return f"{text} (utility {found['utility']:.2f}{sd})"


def recommended_detail(found: Mapping[str, Any]) -> dict[str, float]:
    """Return the recommendation as numbers: ``recommended_...`` settings, utility and its standard deviation."""
    if not found:
        return {}
    numbers = {f"recommended_{name}": float(value) for name, value in found["settings"].items()}
    if found.get("utility") is not None:
        numbers["recommended_utility"] = float(found["utility"])
    if found.get("sd") is not None:
        numbers["recommended_utility_sd"] = float(found["sd"])
    return numbers
