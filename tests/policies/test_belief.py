"""The belief policy in the arena: finds, follows, holds on doubt, keeps the limits, goes on from a checkpoint."""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from parfocal.models.base import Assessment, Distribution
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Hold, Observation, PolicyError
from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.grid import FocusGrid
from parfocal.policies.focus.response import fit_response

DOF = 1.36
TEN_SECONDS = 0.985
OPTIONS = {"dof_um": DOF, "lower_um": -100.0, "upper_um": 100.0, "max_step_um": 100.0}


def finds(arena: ModuleType, seeds: int, **network: Any) -> tuple[np.ndarray, np.ndarray, list[Any]]:
    """Frames and final error of episodes that begin 2 to 30 um off."""
    frames, errors, worlds = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng(1000 + seed)
        start, focus = rng.uniform(2.0, 30.0) * rng.choice([-1.0, 1.0]), rng.uniform(-20.0, 20.0)
        world = arena.Arena(
            make_policy("focus.belief", OPTIONS),
            lambda t, focus=focus: focus,
            arena.Network(seed, **network),
            z_um=focus + start,
        )
        focused = world.until_focused()
        frames.append(world.frames)
        errors.append(abs(world.defocus_um) if focused else math.inf)
        worlds.append(world)
    return np.array(frames), np.array(errors), worlds


def test_finds_the_focus_without_a_sign(arena: ModuleType) -> None:
    frames, errors, _ = finds(arena, 200)
    assert np.median(frames) <= 4
    assert np.mean(errors <= DOF / 2) >= 0.97


def test_finds_the_focus_sooner_with_a_sign(arena: ModuleType) -> None:
    frames, errors, _ = finds(arena, 200, signed=True)
    assert np.median(frames) <= 3
    assert np.mean(errors <= DOF / 2) >= 0.97


def test_focused_is_said_only_of_a_frame_believed_within_half_a_depth_of_field(arena: ModuleType) -> None:
    arrivals = 0
    for seed in range(10):
        network = arena.Network(seed, outliers=0.0)
        world = arena.Arena(make_policy("focus.belief", OPTIONS), lambda t: 0.0, network, z_um=3.0 * seed - 14.0)
        said = []
        for _ in range(20):
            detail = world.step().detail
            said.append(detail["focused"] == 1.0)
            assert not said[-1] or abs(detail["defocus_um"]) <= DOF / 2
            arrivals += detail["found"] == 1.0 and not said[-1]
        assert any(said)
    assert arrivals  # known where, but not there yet: found, not focused


def test_a_focus_just_reached_is_confirmed_before_it_is_crossed(arena: ModuleType) -> None:
    for seed in range(12):
        network = arena.Network(seed, outliers=0.0)
        world = arena.Arena(make_policy("focus.belief", OPTIONS), lambda t: 0.0, network, z_um=2.5 * seed - 14.0)
        assert world.until_focused()
        assert "cross the focus" not in world.step().reason


def test_a_poor_network_costs_frames_not_accuracy(arena: ModuleType) -> None:
    frames, errors, _ = finds(arena, 60, far=0.15, near_dof=0.3, outliers=0.03)
    assert np.median(frames) <= 8
    assert np.mean(errors <= DOF / 2) >= 0.92


def test_reasons_can_be_read(arena: ModuleType) -> None:
    _, _, worlds = finds(arena, 20)
    for world in worlds:
        assert "sign unknown): look at z=" in world.log[0]
        assert "which resolves the sign" in world.log[0]
        assert "go to the focus at z=" in world.log[-1] or "in focus" in world.log[-1]


def test_the_same_frames_give_the_same_actions(arena: ModuleType) -> None:
    logs = [[world.log for world in finds(arena, 10)[2]] for _ in range(2)]
    assert logs[0] == logs[1]


def follows(arena: ModuleType, seed: int, interval_s: float, rate: float, hours: float = 1.0) -> tuple[float, Any]:
    """Share of the time in the field, once focused."""
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS),
        lambda t: rate * t / 60.0,
        arena.Network(seed),
        z_um=8.0,
        interval_s=interval_s,
    )
    assert world.until_focused()
    world.travel_um, inside = 0.0, []
    while world.time_s < hours * 3600:
        inside.append(abs(world.defocus_um) <= DOF / 2)
        world.step()
    return float(np.mean(inside)), world


@pytest.mark.parametrize("rate", [1.0, -1.0])
def test_follows_a_drift_of_1_um_per_min_at_1_frame_per_s(arena: ModuleType, rate: float) -> None:
    inside, world = follows(arena, 7, 1.0, rate)
    assert inside >= 0.99
    assert world.travel_um <= 3 * 60.0


def test_follows_a_drift_of_1_um_per_min_at_a_frame_every_10_s(arena: ModuleType) -> None:
    runs = [follows(arena, seed, 10.0, 1.0) for seed in range(6)]
    assert np.mean([inside for inside, _ in runs]) >= TEN_SECONDS
    assert max(world.travel_um for _, world in runs) <= 3 * 60.0


def test_a_still_sample_is_left_nearly_alone(arena: ModuleType) -> None:
    inside, world = follows(arena, 3, 5.0, 0.0)
    assert inside >= 0.99
    assert world.travel_um <= 30.0


def test_a_knocked_sample_is_held_on_then_found_again(arena: ModuleType) -> None:
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS), lambda t: 0.0 if t < 100 else 14.0, arena.Network(2), z_um=9.0
    )
    assert world.until_focused()
    while world.time_s < 100:
        world.step()
    before = world.z_um
    first = world.step()
    assert isinstance(first, Hold)
    assert "contradicts the belief" in first.reason
    assert first.detail["focused"] == 0.0
    assert world.z_um == before
    while world.time_s < 130:
        world.step()
    assert abs(world.defocus_um) <= DOF / 2
    assert world.action.detail["focused"] == 1.0


def test_one_wild_frame_while_focused_moves_nothing(arena: ModuleType) -> None:
    world = arena.Arena(make_policy("focus.belief", OPTIONS), lambda t: 0.0, arena.Network(4, outliers=0.0), z_um=9.0)
    assert world.until_focused()
    for _ in range(20):
        world.step()
    wild = arena.Network(9).assess(25.0)
    world.policy.tell(Observation(99, {"z_um": world.z_um}, world.time_s, 0.0, {"defocus": wild}))
    assert isinstance(world.policy.ask(), Hold)


def test_one_wild_frame_right_after_the_arrival_is_no_measure_for_those_after_it(arena: ModuleType) -> None:
    def after(*wild: float) -> float:
        world = arena.Arena(
            make_policy("focus.belief", OPTIONS), lambda t: 0.0, arena.Network(4, outliers=0.0), z_um=9.0
        )
        assert world.until_focused()
        # Every arrival begins anew: the frame after it is the first that is counted from.
        world.policy._m.upper_apart_um = math.nan
        for defocus_um in wild:
            said = arena.Network(9, outliers=0.0).assess(defocus_um)
            world.policy.tell(Observation(99, {"z_um": world.z_um}, world.time_s, 0.0, {"defocus": said}))
            world.policy.ask()
        for _ in range(5):
            world.step()
        apart_um: float = world.policy._m.upper_apart_um
        return apart_um

    assert after(25.0) == pytest.approx(after(), abs=0.1)


def test_blank_field_is_held_on_for_ever(arena: ModuleType) -> None:
    world = arena.Arena(make_policy("focus.belief", OPTIONS), lambda t: t / 60.0, z_um=3.0, blank=True)
    for k in range(500):
        action = world.step()
        assert isinstance(action, Hold)
        assert "empty field" in action.reason
        assert ("frames in a row" in action.reason) == (k >= 9)


def test_abstention_while_tracking_holds_and_does_not_extrapolate(arena: ModuleType) -> None:
    near = []
    for seed in (5, 9, 10):
        inside, world = follows(arena, seed, 1.0, 1.0, hours=0.2)
        assert inside > 0.7
        world.blank, before = True, world.z_um
        for _ in range(300):
            assert isinstance(world.step(), Hold)
        assert world.z_um == before
        world.blank = False
        for frame in range(60):
            world.step()
            near += [abs(world.defocus_um) <= DOF / 2] if frame >= 20 else []
    assert np.mean(near) > 0.6


@pytest.mark.parametrize("seed", [0, 2, 5])
def test_a_search_without_an_end_is_ended(arena: ModuleType, seed: int) -> None:
    """A model that says something else every time: bounded travel, then a clear refusal."""
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS | {"max_frames_search": 12}),
        lambda t: 0.0,
        arena.Network(seed, outliers=1.0),
        z_um=5.0,
    )
    for _ in range(200):
        world.step()
    if world.action.detail["focused"] == 0.0:
        assert isinstance(world.action, Hold)
        refusals = ("cannot find the focus", "outside of what is searched", "contradicts the belief")
        assert any(words in world.action.reason for words in refusals)
    assert world.moves <= 60


def test_a_model_that_knows_nothing_ends_in_a_refusal(arena: ModuleType) -> None:
    policy = make_policy("focus.belief", OPTIONS | {"max_frames_search": 12})
    grid = np.linspace(-30, 30, 61)
    says = Assessment("defocus", 15.0, 9.0, distribution=Distribution(grid, np.full(61, 1 / 61)))
    z, moves = 0.0, 0
    for k in range(100):
        policy.tell(Observation(k, {"z_um": z}, float(k), 0.0, {"defocus": says}))
        action = policy.ask()
        if isinstance(action, Change):
            z, moves = action.settings["z_um"], moves + 1
    assert isinstance(action, Hold)
    assert "cannot find the focus" in action.reason
    assert moves < 12


@pytest.mark.parametrize("beyond_um", [1.5, 6.0, 12.0, 30.0])
@pytest.mark.parametrize("range_um", [8.0, 15.0, 40.0])
def test_no_focus_is_claimed_where_one_lies_past_the_range(
    arena: ModuleType, range_um: float, beyond_um: float
) -> None:
    for seed in range(6):
        focus = (range_um + beyond_um) * (1.0 if seed % 2 else -1.0)
        policy = make_policy("focus.belief", OPTIONS | {"range_um": range_um})
        world = arena.Arena(policy, lambda _, at=focus: at, arena.Network(seed, outliers=0.0, reach_um=80.0))
        for _ in range(30):
            before = abs(world.defocus_um)
            action = world.step()
            assert not action.detail["focused"] or before <= DOF, (seed, action.reason)
        assert abs(world.z_um) <= range_um + 2.0 * DOF  # it is sought within the range


@pytest.mark.parametrize("beyond_um", [1.5, 8.0, 25.0])
def test_a_focus_beyond_the_limits_is_said_not_sought(arena: ModuleType, beyond_um: float) -> None:
    options = OPTIONS | {"lower_um": -10.0, "upper_um": 10.0}
    for seed in range(6):
        world = arena.Arena(
            make_policy("focus.belief", options), lambda _: 10.0 + beyond_um, arena.Network(seed, outliers=0.0),
            z_um=0.0, lower_um=-10.0, upper_um=10.0,
        )  # fmt: skip
        for _ in range(40):
            world.step()
        assert isinstance(world.action, Hold)
        assert world.action.detail["focused"] == 0.0
        assert "outside the limits -10 to 10 um" in world.action.reason
        assert world.travel_um < 60.0
        error = world.action.detail["focus_z_um"] - (10.0 + beyond_um)
        assert world.action.detail["positive"] < 0.9  # never surely on the wrong side
        if world.action.detail["positive"] < 0.1:
            assert abs(error) < 4.0 * world.action.detail["defocus_sd_um"] + DOF


def test_a_search_says_when_the_focus_must_lie_past_its_range(arena: ModuleType) -> None:
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS | {"range_um": 15.0}), lambda _: 21.0, arena.Network(3, outliers=0.0)
    )
    for _ in range(12):
        world.step()
    assert isinstance(world.action, Hold)
    assert "outside of what is searched, -16.4 to 16.4 um: widen range_um" in world.action.reason


@pytest.mark.parametrize("signed", [False, True])
def test_the_largest_step_is_kept_by_splitting(arena: ModuleType, signed: bool) -> None:
    options = OPTIONS | {"max_step_um": 3.0}
    for seed in range(10):
        world = arena.Arena(
            make_policy("focus.belief", options),
            lambda t: 0.0,
            arena.Network(seed, signed=signed, outliers=0.0),
            z_um=20.0,
            max_step_um=3.0,
        )
        assert world.until_focused(60)
        assert abs(world.defocus_um) <= DOF


FLOATS = st.floats(allow_nan=True, allow_infinity=True)
PLACES = st.one_of(st.floats(-120, 120), FLOATS)


@st.composite
def assessments(draw: st.DrawFn) -> Assessment:
    if draw(st.booleans()):
        return Assessment("defocus", draw(FLOATS), draw(FLOATS), abstained=draw(st.booleans()))
    mass = np.array(draw(st.lists(st.floats(0, 1), min_size=21, max_size=21)))
    grid = np.linspace(-1, 1, 21) * draw(st.floats(0.01, 200))
    distribution = Distribution(grid, mass / mass.sum() if mass.sum() > 0 else mass, draw(st.booleans()))
    detail = {"certainty": draw(FLOATS)} if draw(st.booleans()) else {}
    return Assessment("defocus", draw(FLOATS), draw(FLOATS), detail=detail, distribution=distribution)


@given(
    frames=st.lists(st.tuples(PLACES, st.one_of(st.floats(0, 100), FLOATS), assessments()), min_size=1, max_size=12),
    obeys=st.booleans(),
)
@settings(max_examples=80, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_whatever_it_is_told_it_stays_within_the_limits(
    frames: list[tuple[float, float, Assessment]], obeys: bool
) -> None:
    policy = make_policy("focus.belief", {"dof_um": DOF, "lower_um": -40.0, "upper_um": 60.0, "max_step_um": 25.0})
    z = frames[0][0]
    for k, (place, time_s, assessment) in enumerate(frames):
        z = z if obeys else place
        policy.tell(Observation(k, {"z_um": z}, time_s, 0.0, {"defocus": assessment}))
        action = policy.ask()
        assert action.reason
        if isinstance(action, Change):
            target = action.settings["z_um"]
            assert -40.0 <= target <= 60.0
            assert abs(target - z) <= 25.0
            z = target


@pytest.mark.parametrize("missing", ["z_um", "time", "assessment"])
def test_a_frame_without_its_facts_is_doubt(arena: ModuleType, missing: str) -> None:
    policy = make_policy("focus.belief", OPTIONS)
    seen = arena.Network(0).assess(5.0)
    policy.tell(
        Observation(
            0,
            {} if missing == "z_um" else {"z_um": 0.0},
            math.nan if missing == "time" else 0.0,
            0.0,
            {} if missing == "assessment" else {"defocus": seen},
        )
    )
    action = policy.ask()
    assert isinstance(action, Hold)
    assert "not moving on doubt" in action.reason


def test_checkpoint_continues_identically_at_every_step(arena: ModuleType) -> None:
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS), lambda t: t / 60.0, arena.Network(6), z_um=15.0, interval_s=5.0
    )
    for _ in range(60):
        observation = world.observe()
        copy = make_policy("focus.belief", OPTIONS)
        copy.restore(json.loads(json.dumps(world.policy.checkpoint(), allow_nan=False)))
        copy.tell(observation)
        assert copy.ask() == world.step_with(observation)
        assert copy.checkpoint() == world.policy.checkpoint()


def test_taking_over_is_going_on_from_a_checkpoint_at_every_step(arena: ModuleType) -> None:
    narrower = {**OPTIONS, "upper_um": 60.0, "drift_rate_um_per_min": 2.0}
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS), lambda t: t / 10.0, arena.Network(6), z_um=15.0, interval_s=0.2
    )
    for n in range(60):
        observation = world.observe()
        taken, restored = make_policy("focus.belief", narrower), make_policy("focus.belief", narrower)
        taken.take_over(world.policy.hand_over())  # type: ignore[attr-defined]
        restored.restore(json.loads(json.dumps(world.policy.checkpoint(), allow_nan=False)))
        assert taken.checkpoint() == restored.checkpoint() == world.policy.checkpoint()
        before = json.dumps(world.policy.checkpoint())
        for policy in (taken, restored):
            policy.tell(observation)
        assert taken.ask() == restored.ask()
        assert taken.checkpoint() == restored.checkpoint()
        assert json.dumps(world.policy.checkpoint()) == before, "whoever handed over can go on, too"
        if n == 30:
            world.blank = True
        elif n == 33:
            world.blank = False
        world.step_with(observation)


def test_only_what_a_belief_handed_over_is_taken_over() -> None:
    with pytest.raises(PolicyError, match="of its kind"):
        make_policy("focus.belief", OPTIONS).take_over(object())  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rate", "interval_s"), [(1.0, 1.0), (4.0, 3.0), (60.0, 0.02)])
def test_working_ahead_changes_no_decision(arena: ModuleType, rate: float, interval_s: float) -> None:
    """Whether a frame is announced, another one in its place, or none at all; told of it or not."""
    rng = np.random.default_rng(3)
    plain, ahead = (
        arena.Arena(
            make_policy("focus.belief", OPTIONS), lambda t: 6.0 + rate * t / 60.0, arena.Network(4),
            interval_s=interval_s,
        )
        for _ in range(2)
    )  # fmt: skip
    for n in range(80):
        plain.blank = ahead.blank = n in (3, 30, 31)
        observation = ahead.observe()
        if rng.random() < 0.2:
            ahead.policy.expect({"z_um": rng.normal()}, observation.time_s + rng.normal())
        if rng.random() < 0.8:
            ahead.policy.expect(observation.settings, observation.time_s)
        if rng.random() < 0.1:
            ahead.policy.restore(json.loads(json.dumps(ahead.policy.checkpoint())))
        if rng.random() < 0.1:
            ahead.policy.expect({}, math.nan)
        assert ahead.step_with(observation) == plain.step()
        assert ahead.policy.checkpoint() == plain.policy.checkpoint()


def test_what_was_worked_out_before_the_policy_was_asked_is_not_used(arena: ModuleType) -> None:
    """Asked, it may go over to another belief: from searching to tracking, or back."""
    plain, early = (make_policy("focus.belief", OPTIONS) for _ in range(2))
    world = arena.Arena(plain, lambda t: 6.0 if t < 40 else 20.0, arena.Network(4))
    for _ in range(80):
        observation = world.observe()
        action = world.step_with(observation)
        early.tell(observation)
        early.expect({"z_um": world.z_um}, world.time_s)  # type: ignore[attr-defined]
        assert early.ask() == action
        assert early.checkpoint() == plain.checkpoint()


def test_what_was_worked_out_ahead_is_used(arena: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    world = arena.Arena(make_policy("focus.belief", OPTIONS), lambda t: 6.0, arena.Network(4))
    assert world.until_focused()
    observation = world.observe()
    world.policy.expect(observation.settings, observation.time_s)
    passed: list[float] = []
    monkeypatch.setattr(FocusGrid, "predict", lambda self, seconds: passed.append(seconds))
    monkeypatch.setattr(BiasPrior, "basis", lambda self, defocus: passed.append(math.inf))
    world.step_with(observation)
    assert passed == []


@pytest.mark.parametrize("broken", [{}, {"policy": "focus.sweep"}, {"policy": "focus.belief", "memory": {"x": 1}}])
def test_foreign_checkpoints_are_refused(broken: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        make_policy("focus.belief", OPTIONS).restore(broken)


class Beads:
    """A blur that saturates, in no unit that optics would know."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    @staticmethod
    def blur(defocus_um: Any) -> Any:
        return 1.5 + 6.0 * np.tanh((np.abs(defocus_um) / 5.0) ** 1.3)

    def assess(self, defocus_um: float) -> Assessment:
        return Assessment("defocus", float(self.blur(defocus_um) + 0.1 * self.rng.standard_normal()), math.nan)


def test_a_measured_response_replaces_the_distribution(arena: ModuleType) -> None:
    sweep = np.linspace(-15.0, 15.0, 31)
    response = fit_response(sweep, Beads.blur(sweep) + 0.1 * np.random.default_rng(0).standard_normal(31)).to_json()
    frames, errors = [], []
    for k, start in enumerate(np.linspace(-15.0, 15.0, 21)):
        policy = make_policy("focus.belief", OPTIONS | {"range_um": 20.0, "response": response})
        world = arena.Arena(policy, lambda t: 0.0, Beads(k), z_um=float(start))
        assert world.until_focused(12)
        frames.append(world.frames)
        errors.append(abs(world.defocus_um))
    assert max(frames) <= 12
    assert np.median(frames) <= 4
    assert max(errors) <= 0.5


def test_a_focus_that_the_frame_there_does_not_confirm_is_sought_again(arena: ModuleType) -> None:
    """Three looks agree on a focus, and at the focus the image is blurred: not "in focus", but on with the search."""
    policy = make_policy("focus.belief", OPTIONS)
    network = arena.Network(3, outliers=0.0)
    world = arena.Arena(policy, lambda t: 0.0, network, z_um=9.0)
    assert world.until_focused()
    for k in range(4):
        world.time_s += 1.0
        there = Observation(50 + k, {"z_um": world.z_um}, world.time_s, 0.0, {"defocus": network.assess(7.0)})
        policy.tell(there)
        action = policy.ask()
        assert action.detail["focused"] == 0.0
    assert "look at z=" in action.reason


def test_a_search_goes_on_from_where_there_was_something_to_be_seen(arena: ModuleType) -> None:
    policy = make_policy("focus.belief", OPTIONS)
    world = arena.Arena(policy, lambda t: 0.0, arena.Network(5, outliers=0.0), z_um=12.0)
    world.step()
    places, nothing = [12.0], Assessment.abstain("defocus", "no structure above the noise")
    z = 20.0
    for k in range(5):
        policy.tell(Observation(10 + k, {"z_um": z}, 1.0 + k, 0.0, {"defocus": nothing}))
        action = policy.ask()
        if isinstance(action, Hold):
            break
        places.append(z)
        z = action.settings["z_um"]
    # Nothing at 20 um, something at 12 um: the focus lies below, and only so many blank frames are gone on from.
    assert isinstance(action, Hold)
    assert "not moving on doubt" in action.reason
    assert k == 3
    assert places[1] == 20.0
    assert places[2] < 20.0
