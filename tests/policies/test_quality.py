"""Focus by the score of the image: found, confirmed, watched, lost and found again; and nothing on doubt."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Finish, Hold, Observation, PolicyError, PolicyOptionError

DOF = 1.36
STAGE = {"dof_um": DOF, "lower_um": -100.0, "upper_um": 100.0, "max_step_um": 40.0}
CURVES: Mapping[str, Callable[[float], float]] = {
    "gauss": lambda d: 0.1 + 0.8 * math.exp(-0.5 * (d / 3.0) ** 2),
    "long tails": lambda d: 0.2 + 0.6 / (1.0 + (d / 2.0) ** 2),
    "saturates": lambda d: 0.05 + 0.9 * math.exp(-((abs(d) / 4.0) ** 4)),
    "skewed": lambda d: 0.1 + 0.8 / (1.0 + (d / (2.0 if d < 0 else 4.0)) ** 2),
    "narrow": lambda d: 0.1 + 0.8 * math.exp(-0.5 * (d / 1.2) ** 2),
}


class Scope:
    """A stage and a quality curve; what it cannot judge, it abstains from."""

    def __init__(
        self, focus: Callable[[float], float], curve: Callable[[float], float], *, z_um: float = 0.0,
        noise: float = 0.02, seed: int = 1, silent: Callable[[float, int], bool] = lambda d, n: False,
    ) -> None:  # fmt: skip
        self.focus, self.curve, self.z_um, self.noise, self.silent = focus, curve, z_um, noise, silent
        self.height = 1.0
        self.frames, self.log = 0, list[str]()
        self._rng = np.random.default_rng(seed)

    @property
    def defocus_um(self) -> float:
        return self.z_um - self.focus(float(self.frames))

    def observe(self) -> Observation:
        if self.silent(self.defocus_um, self.frames):
            said = Assessment.abstain("quality", "empty field")
        else:
            score = self.height * self.curve(self.defocus_um) + self.noise * float(self._rng.standard_normal())
            said = Assessment("quality", score, 0.05, detail={"frc_um": 1.0 / max(score, 1e-3)})
        return Observation(self.frames, {"z_um": self.z_um}, float(self.frames), 0.0, {"quality": said})

    def step(self, policy: Any, most_um: float = 40.0, lower: float = -100.0, upper: float = 100.0) -> Any:
        policy.tell(self.observe())
        action = policy.ask()
        self.log.append(action.reason)
        if isinstance(action, Change | Finish) and action.settings:
            target = action.settings["z_um"]
            assert lower <= target <= upper, action
            assert abs(target - self.z_um) <= most_um, action
            self.z_um = target
        self.frames += 1
        return action


def run(scope: Scope, policy: Any, frames: int) -> Any:
    action: Any = None
    for _ in range(frames):
        action = scope.step(policy)
    return action


@pytest.mark.parametrize("noise", [0.005, 0.04])
@pytest.mark.parametrize("name", list(CURVES))
def test_the_maximum_is_found_confirmed_and_kept(name: str, noise: float) -> None:
    for seed, focus in enumerate((13.0, -27.0)):
        policy = make_policy("focus.quality", STAGE)
        scope = Scope(lambda t, focus=focus: focus, CURVES[name], noise=noise, seed=seed)  # type: ignore[misc]
        action = run(scope, policy, 45)
        assert isinstance(action, Hold), scope.log
        assert "at the maximum" in action.reason, scope.log
        # Where the curve is flat, no place is better than another: what counts is the score.
        top, here = scope.curve(0.0), scope.curve(scope.defocus_um)
        assert top - here < 0.12 * (top - scope.curve(40.0)), (focus, scope.defocus_um)
        assert (action.detail["found"], action.detail["focused"]) == (1.0, 1.0)
        assert abs(action.detail["focus_z_um"] - scope.z_um) <= 0.5 * DOF
        assert any("confirmed" in line for line in scope.log)


def test_a_fall_of_the_score_starts_a_search_nearby(arena: ModuleType) -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 10.0 if t < 80 else 14.0, CURVES["gauss"])
    run(scope, policy, 79)
    assert abs(scope.defocus_um) < DOF
    action = run(scope, policy, 40)
    again = [line for line in scope.log if "search again nearby" in line]
    assert action.detail["defocus_sd_um"] > 0.5  # the drift that would not have been noticed
    assert len(again) == 1
    assert "fell from" in again[0]
    assert isinstance(action, Hold)
    assert abs(scope.z_um - 14.0) < DOF


def test_a_steady_score_starts_no_search() -> None:
    for seed in range(3):
        policy = make_policy("focus.quality", STAGE)
        scope = Scope(lambda t: 8.0, CURVES["gauss"], noise=0.03, seed=seed)
        run(scope, policy, 120)
        assert not any("search again" in line for line in scope.log)


def test_without_a_peak_it_goes_back_and_holds_and_says_so() -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 0.0, lambda d: 0.3, z_um=5.0)
    action = run(scope, policy, 60)
    assert isinstance(action, Hold)
    assert "no maximum of quality found in 40 frames" in action.reason
    assert action.detail["found"] == 0.0
    assert abs(scope.z_um - 5.0) <= 0.5 * DOF


def test_a_score_that_comes_back_is_the_maximum_again() -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 8.0, CURVES["gauss"])
    run(scope, policy, 60)
    found = scope.z_um
    scope.curve = lambda d: 0.1  # the cell is gone
    action = run(scope, policy, 60)
    assert "no maximum" in action.reason
    assert abs(scope.z_um - found) <= 0.5 * DOF  # back to where the focus was
    scope.curve = CURVES["gauss"]
    action = run(scope, policy, 10)
    assert "at the maximum" in action.reason


def test_a_blank_field_is_never_moved_on(arena: ModuleType) -> None:
    world = arena.Arena(make_policy("focus.quality", STAGE | {"model": "sharpness"}), lambda t: 0.0, blank=True)
    for _ in range(30):
        action = world.step()
        assert isinstance(action, Hold)
        assert "empty field" in action.reason
    assert "in a row" in action.reason
    assert world.travel_um == 0.0


def test_a_search_that_strays_into_silence_comes_back_and_finds_the_focus() -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 7.0, CURVES["gauss"], silent=lambda d, n: abs(d) > 10.0)
    action = run(scope, policy, 80)
    assert any("cannot be judged here (empty field): back to" in line for line in scope.log)
    assert "at the maximum" in action.reason, scope.log
    assert abs(scope.defocus_um) < DOF


def test_silence_at_the_maximum_holds() -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 9.0, CURVES["gauss"], silent=lambda d, n: 60 <= n < 90)
    run(scope, policy, 60)
    at = scope.z_um
    for _ in range(30):
        assert isinstance(scope.step(policy), Hold)
        assert scope.z_um == at
    assert "at the maximum" in scope.step(policy).reason


def test_a_stage_moved_by_hand_is_brought_back_and_one_that_sticks_is_given_up() -> None:
    policy = make_policy("focus.quality", STAGE)
    scope = Scope(lambda t: 9.0, CURVES["gauss"])
    run(scope, policy, 60)
    scope.z_um += 6.0
    assert "not where the maximum is" in scope.step(policy).reason
    assert abs(scope.defocus_um) < DOF
    for _ in range(30):
        scope.z_um = 20.0
        action = scope.step(policy)
    assert isinstance(action, Hold)
    assert "does not arrive" in action.reason


def test_lower_can_be_better_and_then_may_finish() -> None:
    options = STAGE | {"score": "frc_um", "better": "lower", "then": "finish"}
    policy = make_policy("focus.quality", options)
    scope = Scope(lambda t: 11.0, CURVES["gauss"], noise=0.01)
    action: Any = None
    for _ in range(60):
        action = scope.step(policy)
        if isinstance(action, Finish):
            break
    assert isinstance(action, Finish)
    assert action.settings == {}
    assert "quality frc_um 1.1" in action.reason
    assert abs(scope.defocus_um) < DOF
    assert "has finished" in scope.step(policy).reason


def test_a_metric_that_spans_decades_is_searched_by_its_logarithm(arena: ModuleType) -> None:
    options = STAGE | {"model": "quality", "scale": "log"}
    scope = Scope(lambda t: 21.0, lambda d: 1e13 / (1.0 + (d / 1.5) ** 2) ** 2, noise=1e8)
    action = run(scope, make_policy("focus.quality", options), 50)
    assert "at the maximum" in action.reason
    assert abs(scope.defocus_um) < DOF
    policy = make_policy("focus.quality", options)
    policy.tell(Observation(0, {"z_um": 0.0}, 0.0, 0.0, {"quality": Assessment("quality", -1.0, 0.1)}))
    assert "no logarithm" in policy.ask().reason


@settings(deadline=None, max_examples=15)
@given(
    lower=st.floats(-30.0, -1.0),
    upper=st.floats(1.0, 30.0),
    most=st.floats(0.3, 20.0),
    focus=st.floats(-45.0, 45.0),
    start=st.floats(-1.0, 1.0),
    noise=st.floats(0.0, 0.5),
    silence=st.floats(0.0, 0.6),
    seed=st.integers(0, 99),
)
def test_never_beyond_the_limits_never_too_far_and_it_comes_to_an_end(
    lower: float, upper: float, most: float, focus: float, start: float, noise: float, silence: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    options = {"dof_um": 3.0, "lower_um": lower, "upper_um": upper, "max_step_um": most, "then": "finish"}
    policy = make_policy("focus.quality", options | {"max_frames_search": 12})
    scope = Scope(
        lambda t: focus, CURVES["gauss"], z_um=start, noise=noise, seed=seed,
        silent=lambda d, n: bool(rng.random() < silence and n < 40),
    )  # fmt: skip
    doubtful = False
    for _ in range(240):
        doubtful = scope.silent(0.0, scope.frames)
        action = scope.step(policy, most, lower, upper)
        if isinstance(action, Finish):
            return
    assert isinstance(action, Hold), (scope.log[-5:], doubtful)


@pytest.mark.parametrize("name", ["focus.quality", "focus.supervised"])
def test_checkpoint_continues_identically(arena: ModuleType, name: str) -> None:
    model = {"model": "sharpness", "score": "midband"}
    extra = {"quality": model} if name == "focus.supervised" else model
    options = STAGE | {"max_step_um": 9.0} | extra
    world = arena.Arena(make_policy(name, options), lambda t: 4.0 if t < 28 else 8.0, z_um=0.0, noise=0.01)
    for _ in range(45):
        observation = world.observe()
        copy = make_policy(name, options)
        copy.restore(json.loads(json.dumps(world.policy.checkpoint(), allow_nan=False)))
        copy.tell(observation)
        assert copy.ask() == world.step_with(observation)
        assert copy.checkpoint() == world.policy.checkpoint()


def test_the_supervisor_takes_over_as_from_a_checkpoint(arena: ModuleType) -> None:
    policy = make_policy("focus.supervised", STAGE)
    scope = Pair(arena.Network(1, signed=True), lambda n: 20 <= n < 50)
    for _ in range(70):
        observation = scope.observe()
        copies = [make_policy("focus.supervised", STAGE) for _ in range(2)]
        copies[0].take_over(policy.hand_over())  # type: ignore[attr-defined]
        copies[1].restore(json.loads(json.dumps(policy.checkpoint(), allow_nan=False)))
        before = json.dumps(policy.checkpoint())
        for copy in copies:
            copy.tell(observation)
        assert copies[0].ask() == copies[1].ask()
        assert copies[0].checkpoint() == copies[1].checkpoint()
        assert json.dumps(policy.checkpoint()) == before
        scope.step(policy)
    with pytest.raises(PolicyError, match="of its kind"):
        policy.take_over(make_policy("focus.belief", STAGE).hand_over())  # type: ignore[attr-defined]


def test_checkpoints_of_others_and_broken_ones_are_refused() -> None:
    for name in ("focus.quality", "focus.supervised"):
        policy = make_policy(name, STAGE)
        with pytest.raises(PolicyError, match="not one of"):
            policy.restore({"policy": "focus.jaf"})
        with pytest.raises(PolicyError, match="cannot be read"):
            policy.restore({"policy": name, "memory": {"state": "search"}})


def test_options_are_checked() -> None:
    with pytest.raises(PolicyOptionError, match="dof_um"):
        make_policy("focus.quality", {})
    with pytest.raises(PolicyOptionError, match="range_um"):
        make_policy("focus.quality", {"dof_um": 10.0, "range_um": 15.0})
    with pytest.raises(PolicyOptionError, match=r"focus.supervised \(quality\).*'modl'.*'model'"):
        make_policy("focus.supervised", STAGE | {"quality": {"modl": "x"}})
    with pytest.raises(PolicyOptionError, match="then must be hold"):
        make_policy("focus.quality", STAGE | {"prefer": "defocus", "then": "finish"})


class Pair(Scope):
    """A stage whose defocus network may fall silent, and a quality that does not."""

    def __init__(self, network: Any, mute: Callable[[int], bool], **more: Any) -> None:
        super().__init__(lambda t: 10.0, CURVES["gauss"], **more)
        self.network, self.mute = network, mute

    def observe(self) -> Observation:
        seen = super().observe()
        said = self.network.assess(self.defocus_um)
        mute = Assessment.abstain("defocus", "no structure")
        return Observation(
            seen.index, seen.settings, seen.time_s, seen.dose,
            {**seen.assessments, "defocus": mute if self.mute(seen.index) else said},
        )  # fmt: skip


@pytest.mark.parametrize("options", [STAGE | {"prefer": "defocus"}, STAGE])
def test_the_supervisor_hands_over_and_back(arena: ModuleType, options: dict[str, Any]) -> None:
    policy = make_policy("focus.quality" if "prefer" in options else "focus.supervised", options)
    assert policy.name == "focus.supervised"
    scope = Pair(arena.Network(1, signed=True), lambda n: 30 <= n < 80)
    actions = [scope.step(policy) for _ in range(110)]
    assert abs(scope.defocus_um) < DOF
    assert all(line.startswith("by defocus: ") for line in scope.log[:34])
    assert all(isinstance(action, Hold) for action in actions[30:34])  # not moving on doubt until the handover
    assert scope.log[34].startswith("defocus has been silent for 5 frames (no structure): handed over; by quality: ")
    assert all(line.startswith("by quality: ") for line in scope.log[35:82])
    assert any("confirmed" in line for line in scope.log[35:82])
    assert scope.log[82].startswith("defocus has answered 3 times in a row: handed back; by defocus: ")
    assert (actions[40].detail["by_score"], actions[100].detail["by_score"]) == (1.0, 0.0)


def test_the_supervisor_holds_where_both_are_silent(arena: ModuleType) -> None:
    policy = make_policy("focus.supervised", STAGE)
    scope = Pair(arena.Network(1, signed=True), lambda n: True, silent=lambda d, n: True)
    for _ in range(20):
        assert isinstance(scope.step(policy), Hold)
