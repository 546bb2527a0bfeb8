"""``sted.bayes``: learns settings in a few images, stops by itself, is warm where it may be, and stays itself."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from parfocal.policies import make_policy
from parfocal.policies.base import PolicyError, PolicyOptionError
from parfocal.policies.sted import laws
from parfocal.policies.sted.objectives import Outcome
from parfocal.policies.sted.solving import solve
from parfocal.policies.sted.space import Space

QUICK = {"candidates": 96, "max_images": 7, "min_images": 4}


def best(scope: Any, policy: Any) -> float:
    rows = policy.space.candidates(2048, [1])
    return max(scope.truth(policy.space.settings(row), policy.wish) for row in rows)


def regrets(scope: Any, policy: Any) -> list[float]:
    top = best(scope, policy)
    return [top - scope.truth({n: t.settings[n] for n in policy.space.names}, policy.wish) for t in policy.trials]


@pytest.mark.parametrize("dye", ["ROBUST", "FRAGILE", "HARD"])
def test_finds_good_settings_in_a_few_images(bench: ModuleType, dye: str) -> None:
    scope = bench.Scope(dye=getattr(bench, dye))
    policy = make_policy("sted.bayes", QUICK | {"seed": 2})
    _, end = bench.drive(policy, scope)
    assert end is not None
    found = policy.recommendation()
    assert best(scope, policy) - scope.truth(found["settings"], policy.wish) < 0.06
    assert 0 < found["sd"] < 0.2
    assert end.detail["recommended_dwell_us"] == found["settings"]["dwell_us"]
    assert f"(utility {found['utility']:.2f} ±" in end.reason
    assert np.mean(regrets(scope, policy)[2:]) < 0.12


def test_spends_less_light_on_a_fragile_dye(bench: ModuleType) -> None:
    strength = []
    for dye in (bench.ROBUST, bench.FRAGILE):
        policy = make_policy("sted.bayes", QUICK | {"seed": 5, "stop_improvement": 0.0})
        bench.drive(policy, bench.Scope(dye=dye))
        found = policy.recommendation()["settings"]
        strength.append(found["excitation_power"] * found["dwell_us"] * found["depletion_power"] ** 0.73)
    assert strength[1] < 0.7 * strength[0]


def test_stops_when_there_is_nothing_to_gain(bench: ModuleType) -> None:
    policy = make_policy("sted.bayes", QUICK | {"max_images": 30, "stop_improvement": 0.02})
    _, end = bench.drive(policy, bench.Scope())
    assert end is not None
    assert "of utility is to be gained, less than 0.02" in end.reason
    assert 4 <= len(policy.trials) < 12


def test_a_checkpoint_goes_on_identically(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), make_policy("sted.bayes", QUICK)
    bench.drive(policy, scope, 10)
    twin = make_policy("sted.bayes", QUICK)
    twin.restore(json.loads(json.dumps(policy.checkpoint(), allow_nan=False)))
    for _ in range(6):
        frame = scope.frame()
        policy.tell(frame)
        twin.tell(frame)
        action = policy.ask()
        assert twin.ask() == action
        scope.apply(getattr(action, "settings", {}))


def until_a_problem(bench: ModuleType, policy: Any, scope: Any) -> dict[str, Any]:
    """Run to the first moment at which a suggestion is due."""
    for _ in range(30):
        policy.tell(scope.frame())
        problem = policy.problem()
        if problem is not None:
            return dict(problem)
        scope.apply(getattr(policy.ask(), "settings", {}))
    raise AssertionError("no problem was posed")


def test_solved_elsewhere_and_accepted_it_decides_as_if_solved_here(bench: ModuleType) -> None:
    first, second = make_policy("sted.bayes", QUICK), make_policy("sted.bayes", QUICK)
    problem = until_a_problem(bench, first, bench.Scope())
    until_a_problem(bench, second, bench.Scope())
    suggestion = json.loads(json.dumps(solve(json.loads(json.dumps(problem, allow_nan=False))), allow_nan=False))
    first.accept(suggestion)
    assert first.problem() is None
    assert first.ask() == second.ask()


def test_without_a_suggestion_it_takes_the_best_so_far(bench: ModuleType) -> None:
    policy, scope = make_policy("sted.bayes", QUICK), bench.Scope()
    until_a_problem(bench, policy, scope)
    policy.accept(None)
    action = policy.ask()
    assert "the suggestion was not there in time: the best trial so far, on another field" in action.reason
    scope.apply(action.settings)
    policy.tell(scope.frame())
    sted = policy.ask().settings
    assert {name: sted[name] for name in policy.space.names} == {
        name: policy.trials[0].settings[name] for name in policy.space.names
    }
    with pytest.raises(PolicyError, match="no suggestion was asked for"):
        policy.accept(None)


@pytest.mark.parametrize(
    "settings",
    [
        {"excitation_power": 10.0, "depletion_power": 300.0, "dwell_us": 60.0},
        {"excitation_power": float("nan"), "depletion_power": 30.0, "dwell_us": 5.0},
        {"excitation_power": 1.0},
    ],
)
def test_a_suggestion_that_is_not_safe_is_not_followed(bench: ModuleType, settings: dict[str, float]) -> None:
    policy = make_policy("sted.bayes", QUICK)
    until_a_problem(bench, policy, bench.Scope())
    policy.accept({"settings": settings, "reason": "trust me"})
    assert "outside of what is safe" in policy.ask().reason


def learned_from(bench: ModuleType, dye: Any) -> dict[str, Any]:
    policy = make_policy("sted.bayes", {"candidates": 96, "max_images": 8, "stop_improvement": 0.0, "seed": 1})
    bench.drive(policy, bench.Scope(dye=dye, seed=9))
    learned: dict[str, Any] = json.loads(json.dumps(policy.learned(), allow_nan=False))
    return learned


def test_a_warm_start_helps_on_a_similar_dye_and_does_no_harm_on_another(bench: ModuleType) -> None:
    similar, other = bench.Dye(bleach=1.15, saturation_mw=22.0), bench.Dye(bleach=4.0, saturation_mw=40.0)
    earlier = learned_from(bench, bench.ROBUST)
    mean: dict[str, list[float]] = {}
    for name, dye, warm in (
        ("cold", similar, None), ("warm", similar, earlier),
        ("cold other", other, None), ("warm other", other, earlier),
    ):  # fmt: skip
        for seed in (3,):
            scope = bench.Scope(dye=dye, seed=seed)
            policy = make_policy("sted.bayes", QUICK | {"warm_start": warm, "seed": seed, "stop_improvement": 0.0})
            bench.drive(policy, scope)
            mean.setdefault(name, []).append(float(np.mean(regrets(scope, policy))))
            if name.startswith("warm"):
                found = policy.recommendation()["settings"]
                assert best(scope, policy) - scope.truth(found, policy.wish) < 0.08
    assert np.mean(mean["warm"]) < 0.6 * np.mean(mean["cold"])
    assert np.mean(mean["warm other"]) < 1.1 * np.mean(mean["cold other"])


def test_a_warm_start_begins_below_what_was_recommended(bench: ModuleType) -> None:
    earlier = learned_from(bench, bench.ROBUST)
    scope, policy = bench.Scope(), make_policy("sted.bayes", QUICK | {"warm_start": earlier, "max_images": 1})
    bench.drive(policy, scope)
    first, found = policy.trials[0].settings, earlier["recommended"]["settings"]
    assert first["depletion_power"] <= 0.601 * found["depletion_power"]
    assert first["excitation_power"] * first["dwell_us"] <= 0.601 * found["excitation_power"] * found["dwell_us"]


@pytest.mark.parametrize(
    "earlier", [{}, {"schema": "parfocal.sted/1"}, {"schema": "x", "trials": [], "recommended": {}}]
)
def test_a_warm_start_of_something_else_is_refused(earlier: dict[str, Any]) -> None:
    with pytest.raises(PolicyOptionError, match="warm_start"):
        make_policy("sted.bayes", {"warm_start": earlier})


def test_line_steps_are_whole_numbers(bench: ModuleType) -> None:
    policy = make_policy("sted.bayes", QUICK | {"bounds": {"line_steps": [1, 8]}, "max_images": 4})
    bench.drive(policy, bench.Scope())
    lines = [trial.settings["line_steps"] for trial in policy.trials]
    assert all(value == int(value) and 1 <= value <= 8 for value in lines)


def test_the_laws_are_those_that_were_fitted() -> None:
    space = Space.of({"excitation_power": (0.1, 10), "depletion_power": (0, 300), "dwell_us": (1, 60)})
    rows = np.array([[1.0, 100.0, 1e6], [1.0, 300.0, 1e6]])
    assert np.exp(laws.mean("resolution", space, rows, 1.0, 10.0)) == pytest.approx([88, 54], abs=3)
    hazard = np.exp(laws.mean("bleach", space, np.array([[2.0, 100.0, 10.0]]), 1.0, 10.0))[0]
    assert hazard == pytest.approx(0.0063 * 20, rel=0.05)
    outcome = Outcome(0.4, 0.02, 0.3, 0.01, 80.0, 4.0, 0, 10.0, 3.0)
    told = laws.encode(outcome)
    assert laws.decode("bleach", np.array([told["bleach"][0]]))[0] == pytest.approx(0.3)
    assert laws.decode("resolution", np.array([told["resolution"][0]]))[0] == pytest.approx(80.0)
    assert laws.decode("signal", np.array([told["signal"][0]]))[0] == pytest.approx(0.4)
    sharp = laws.encode(Outcome(0.4, 0.02, 0.001, 0.01, 80.0, 4.0, 0, 10.0, 3.0))
    assert sharp["bleach"][1] > 100 * told["bleach"][1]  # of a bleaching of nothing the logarithm is hardly known
