"""The routines that search on a sharpness score: their paths, their ends, their failures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.optimize._optimize import Brent

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Finish, Hold, Observation
from parfocal.policies.focus.jaf import climb
from parfocal.policies.focus.oughtafocus import brent_maximise, scan
from parfocal.policies.focus.routine import log_parabola

LIMITS = {"lower_um": -100.0, "upper_um": 100.0}
ROUTINES = ["focus.oughtafocus", "focus.jaf", "focus.sweep"]


def play(search: Generator[float, float, float], score: Callable[[float], float]) -> tuple[list[float], float]:
    places = [next(search)]
    try:
        while True:
            places.append(search.send(score(places[-1])))
    except StopIteration as stop:
        return places, stop.value


@pytest.mark.parametrize("focus", [0.3, -2.2, 4.4, -4.9, 1.7])
@pytest.mark.parametrize("width", [1.0, 3.0, 8.0])
def test_brent_takes_the_path_of_an_independent_implementation(focus: float, width: float) -> None:
    def score(z: float) -> float:
        return math.exp(-((z - focus) ** 2) / (2 * width**2)) + 0.01 * math.sin(3 * z)

    mine, best = play(brent_maximise(-5.0, 5.0, 0.4), score)
    seen: list[float] = []

    def negative(z: float) -> float:
        seen.append(float(z))
        return -score(float(z))

    other = Brent(negative, tol=1e-9, maxiter=100)
    other._mintol = 0.4
    # A triple whose middle is where the routine starts; its first three evaluations only check the bracket.
    other.get_bracket_info = lambda: (-5.0, 0.0, 5.0, -score(-5.0), -score(0.0), -score(5.0), 0)
    other.optimize()
    assert mine[0] == 0.0
    np.testing.assert_allclose(mine[1:], seen, atol=1e-6)
    assert score(best) == max(score(z) for z in mine)


def test_brent_stops_within_its_tolerance_and_its_evaluations() -> None:
    places, best = play(brent_maximise(-5.0, 5.0, 1.0), lambda z: -((z - 2.0) ** 2))
    assert abs(best - 2.0) <= 1.0
    assert 4 <= len(places) <= 12
    assert len(play(brent_maximise(-5.0, 5.0, 1e-6, 7), lambda z: -abs(z - 2.0))[0]) == 7


def test_scan_includes_both_ends_and_the_parabola_is_exact_for_a_gaussian() -> None:
    places, best = play(scan(-5.0, 5.0, 1.0), lambda z: math.exp(-((z - 1.37) ** 2) / 8))
    assert places == [float(z) for z in range(-5, 6)]
    assert best == pytest.approx(1.37, abs=1e-9)


@pytest.mark.parametrize(("scores", "best"), [([3, 2, 1], 0.0), ([1, 2, 3], 2.0), ([-1, 2, 1], 1.0), ([1, 1, 1], 0.0)])
def test_parabola_falls_back_to_the_best_sample(scores: list[float], best: float) -> None:
    assert log_parabola([0.0, 1.0, 2.0], scores) == best


def test_jaf_makes_fourteen_looks_at_most_and_stops_early() -> None:
    policy = make_policy("focus.jaf", LIMITS)
    places, _ = play(policy.search(10.0), lambda z: z)  # type: ignore[attr-defined]
    assert places[:3] == [8.0, 10.0, 12.0]
    assert len(places) == 14
    places, best = play(policy.search(10.0), lambda z: -abs(z - 8.6) + 20)  # type: ignore[attr-defined]
    assert places[:2] == [8.0, 10.0]
    assert best == pytest.approx(8.6)


def test_two_frame_rule_survives_one_noisy_frame() -> None:
    scores = dict(enumerate([1.0, 1.1, 1.0, 1.3, 1.5, 1.2, 1.1, 0.9]))
    places = [float(k) for k in scores]
    assert play(climb(places, 0.02, "original"), lambda z: scores[int(z)]) == ([0.0, 1.0, 2.0], 1.0)
    assert play(climb(places, 0.02, "two_frames"), lambda z: scores[int(z)]) == ([0, 1, 2, 3, 4, 5, 6], 4.0)


@pytest.mark.parametrize(
    ("name", "options", "start", "within"),
    [
        ("focus.oughtafocus", {}, 3.5, 0.7),
        ("focus.oughtafocus", {"optimizer": "zstack"}, 3.5, 0.3),
        ("focus.jaf", {}, 1.8, 0.2),
        ("focus.sweep", {"range_um": 30.0, "step_um": 2.0}, 23.0, 0.5),
    ],
)
def test_routines_find_the_focus_and_finish(
    arena: ModuleType, name: str, options: dict[str, Any], start: float, within: float
) -> None:
    world = arena.Arena(make_policy(name, LIMITS | options), lambda t: 5.0, z_um=5.0 + start)
    assert world.until_focused(80)
    assert isinstance(world.action, Finish)
    assert abs(world.defocus_um) <= within
    assert world.step().settings == {}


def test_half_way_to_the_focus_is_not_in_focus(arena: ModuleType) -> None:
    options = LIMITS | {"range_um": 20.0, "step_um": 2.0, "max_step_um": 25.0}
    world = arena.Arena(make_policy("focus.sweep", options), lambda t: -9.0, z_um=0.0)
    assert world.until_focused(80)  # from the end of the sweep at 20, 29 um away: two moves
    assert isinstance(world.action, Finish)
    assert abs(world.defocus_um) <= 0.5


def test_oughtafocus_starts_where_the_stage_is(arena: ModuleType) -> None:
    world = arena.Arena(make_policy("focus.oughtafocus", LIMITS), lambda t: 0.0, z_um=2.0)
    world.step()
    assert abs(world.z_um - 2.0) == pytest.approx(0.381966 * 5.0, abs=1e-4)


@pytest.mark.parametrize("name", ROUTINES)
def test_limits_and_largest_step_are_kept(arena: ModuleType, name: str) -> None:
    options = {"lower_um": -3.0, "upper_um": 1.0, "max_step_um": 0.7}
    limits = {"lower_um": -3.0, "upper_um": 1.0, "max_step_um": 0.7}
    world = arena.Arena(make_policy(name, options), lambda t: 0.5, z_um=-2.5, **limits)
    assert world.until_focused(400)


@pytest.mark.parametrize("name", ROUTINES)
def test_blank_field_is_never_moved_on(arena: ModuleType, name: str) -> None:
    world = arena.Arena(make_policy(name, LIMITS), lambda t: 0.0, z_um=3.0, blank=True)
    for _ in range(50):
        action = world.step()
        assert isinstance(action, Hold)
        assert "empty field" in action.reason
    assert world.travel_um == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, None, "abstained", "missing"])
@pytest.mark.parametrize("name", ROUTINES)
def test_a_search_that_fails_goes_back_to_its_start(arena: ModuleType, name: str, bad: Any) -> None:
    policy = make_policy(name, LIMITS)
    world = arena.Arena(policy, lambda t: 0.0, z_um=3.0)
    world.step()
    if world.z_um == 3.0:
        world.step()
    assert world.z_um != 3.0
    told = {"abstained": Assessment.abstain("sharpness", "saturated"), None: Assessment("sharpness", 1.0, 0.0)}.get(
        bad, Assessment("sharpness", 1.0, 0.0, detail=dict.fromkeys(("edges", "jaf", "midband"), bad))
    )
    policy.tell(Observation(9, {"z_um": world.z_um}, 9.0, 0.0, {} if bad == "missing" else {"sharpness": told}))
    action = policy.ask()
    assert isinstance(action, Finish)
    assert action.settings == {"z_um": 3.0}
    assert "failed" in action.reason
    assert action.detail["focused"] == 0.0


@pytest.mark.parametrize("name", ROUTINES)
def test_equal_scores_are_a_failure(arena: ModuleType, name: str) -> None:
    world = arena.Arena(make_policy(name, LIMITS), lambda t: 1e9, z_um=3.0)
    assert world.until_focused(80)
    assert "equal" in world.action.reason
    assert world.z_um == pytest.approx(3.0)


def test_a_stage_that_does_not_arrive_is_a_failure(arena: ModuleType) -> None:
    policy = make_policy("focus.sweep", LIMITS)
    world = arena.Arena(policy, lambda t: 0.0, z_um=3.0)
    for _ in range(10):
        policy.tell(world.observe())
        action = policy.ask()
        if isinstance(action, Finish):
            break
    assert isinstance(action, Finish)
    assert "does not arrive" in action.reason


def test_then_hold_repeats_after_its_time(arena: ModuleType) -> None:
    options = LIMITS | {"then": "hold", "repeat_every_s": 100.0, "range_um": 6.0, "step_um": 1.0}
    world = arena.Arena(make_policy("focus.sweep", options), lambda t: t / 60.0, z_um=0.0)
    moves = []
    for _ in range(400):
        world.step()
        moves.append(isinstance(world.action, Change))
    assert 40 <= sum(moves) <= 60
    assert abs(world.defocus_um) < 2.5
    once = arena.Arena(make_policy("focus.sweep", LIMITS | {"then": "hold"}), lambda t: 0.0, z_um=0.0)
    for _ in range(60):
        once.step()
    assert isinstance(once.action, Hold)
    assert once.moves <= 33


@pytest.mark.parametrize("name", ROUTINES)
def test_checkpoint_continues_identically(arena: ModuleType, name: str) -> None:
    options = LIMITS | {"then": "hold", "max_step_um": 3.0}
    world = arena.Arena(make_policy(name, options), lambda t: 0.5, z_um=2.0, noise=0.01)
    for _ in range(60):
        observation = world.observe()
        copy = make_policy(name, options)
        copy.restore(json.loads(json.dumps(world.policy.checkpoint(), allow_nan=False)))
        copy.tell(observation)
        assert copy.ask() == world.step_with(observation)
        assert copy.checkpoint() == world.policy.checkpoint()
