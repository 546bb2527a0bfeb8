"""`focus.follow` and its memory: a drift shared, an offset each, and no answer where there is none."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Hold, Observation, PolicyError, PolicyOptionError
from parfocal.policies.focus.follow import FollowPolicy
from parfocal.policies.focus.memory import FocusMemory, Motion

DOF = 1.36
MOTION = Motion(rate_um_per_s=1.0, rate_walk=0.01, walk=0.005, offset_um=0.5)


def look(z: float, focus: float, t: float, *, bias: float = 0.0, **settings: float) -> Observation:
    """What a network says that sees no blur within 0.6 of a depth of field, and is off by `bias` beyond."""
    distance = abs(z - focus)
    value = max(0.45, distance - 0.3 + bias)
    assessment = Assessment("defocus", value, 0.6, detail={"in_um": 1.0})
    place = {"position": 0.0, "visit": 0.0, "reference_um": 0.0, **settings}
    return Observation(0, {"z_um": z, **place}, t, 0.0, {"defocus": assessment})


def follow(**options: Any) -> FollowPolicy:
    policy = make_policy("focus.follow", {"dof_um": DOF, "drift_um_per_min": 60.0, **options})
    assert isinstance(policy, FollowPolicy)
    return policy


def visit(policy: FollowPolicy, number: int, t: float, focus: float, at: float = 0.0, **more: float) -> None:
    for n, offset in enumerate((0.0, 1.7, -1.7)):
        policy.tell(look(at + offset, focus, t + 0.01 * n, visit=float(number), **more))
        policy.ask()


@pytest.mark.parametrize("bias", [-0.2, 0.0, 0.4])
@pytest.mark.parametrize("rate", [-0.9, 0.0, 0.6])
def test_focus_and_rate_are_found_whatever_the_field_does_to_the_network(bias: float, rate: float) -> None:
    policy = follow()
    for n in range(30):
        t = 0.4 * n
        visit(policy, n, t, rate * t, at=policy.memory().at(0, t).focus_um, bias=bias)
    forecast = policy.memory().at(0, 12.2)
    assert forecast.focus_um == pytest.approx(rate * 12.2, abs=0.15)
    assert forecast.rate_um_per_s == pytest.approx(rate, abs=0.06)
    assert policy.trusted(forecast)


def test_one_place_alone_tells_nothing() -> None:
    policy = follow()
    for n in range(20):
        policy.tell(look(0.0, 0.4, 0.2 * n, visit=float(n)))
        assert isinstance(policy.ask(), Hold)
    forecast = policy.memory().at(0, 4.0)
    assert forecast.focus_um == 0.0
    assert policy.wants_looks(forecast)
    assert not policy.trusted(policy.memory().at(0, 60.0)), "left alone it is trusted less and less"


def test_a_contradiction_holds_until_another_visit_agrees() -> None:
    policy = follow(drift_um_per_min=1.0)
    for n in range(6):
        visit(policy, n, float(n), 0.0)
    assert policy.trusted(policy.memory().at(0, 6.0))
    visit(policy, 6, 6.0, 3.0)
    assert not policy.trusted(policy.memory().at(0, 7.0))
    assert "holding" in policy.ask().reason
    assert policy.memory().at(0, 7.0).focus_um == pytest.approx(0.0, abs=0.2)
    visit(policy, 7, 7.0, 3.0, at=policy.guesses().get(0, 0.0))
    visit(policy, 8, 7.5, 3.0, at=policy.guesses().get(0, 0.0))
    assert policy.trusted(policy.memory().at(0, 8.0))
    assert policy.memory().at(0, 8.0).focus_um == pytest.approx(3.0, abs=0.5)


def test_more_blur_than_usual_in_focus_makes_it_look_again() -> None:
    policy = follow(drift_um_per_min=1.0)
    for n in range(8):
        visit(policy, n, float(n), 0.0)
    assert not policy.wants_looks(policy.memory().at(0, 9.0))
    policy.tell(look(0.0, 1.6, 9.0, visit=9.0))
    assert "usual" in policy.ask().reason
    assert policy.wants_looks(policy.memory().at(0, 9.5))


@pytest.mark.parametrize("settings", [{"z_um": math.nan}, {}])
def test_unusable_frames_teach_nothing(settings: dict[str, float]) -> None:
    policy = follow()
    visit(policy, 0, 0.0, 0.3)
    before = policy.memory().at(0, 1.0)
    observation = look(0.0, 0.0, 1.0, visit=1.0)
    policy.tell(Observation(1, {**observation.settings, **settings}, 1.0, 0.0, {}))
    action = policy.ask()
    assert isinstance(action, Hold)
    assert "not learned from" in action.reason
    assert policy.doubt
    assert policy.memory().at(0, 1.0) == before


def test_a_search_is_the_beliefs_and_what_it_finds_is_kept() -> None:
    policy, z, focus = follow(drift_um_per_min=1.0), 0.0, 9.0
    for n in range(30):
        policy.tell(look(z, focus, 0.1 * n, search=1.0, visit=1.0, reference_um=2.0))
        action = policy.ask()
        if isinstance(action, Change):
            z = action.settings["z_um"]
        if action.detail.get("focused") == 1.0:
            break
    assert z == pytest.approx(focus, abs=0.7)
    assert policy.memory().at(0, 3.0).focus_um == pytest.approx(7.0, abs=0.7), "relative to the plan"


def test_a_device_that_has_focused_is_believed() -> None:
    policy = follow()
    policy.tell(Observation(0, {"z_um": 7.0, "position": 0.0, "visit": 1.0, "reference_um": 2.0, "device_focus": 1.0},
                            0.0, 0.0, {}))  # fmt: skip
    assert policy.memory().at(0, 0.0).focus_um == pytest.approx(5.0, abs=0.2)


def test_a_checkpoint_goes_on_identically() -> None:
    one, other = follow(), follow()
    for n in range(4):
        visit(one, n, 0.5 * n, 0.4 * n)
    other.restore(json.loads(json.dumps(one.checkpoint())))
    for n in range(4, 8):
        visit(one, n, 0.5 * n, 0.4 * n)
        visit(other, n, 0.5 * n, 0.4 * n)
    assert one.checkpoint() == other.checkpoint()
    assert one.ask() == other.ask()
    with pytest.raises(PolicyError, match="not one of"):
        one.restore({"policy": "focus.belief"})
    with pytest.raises(PolicyError, match="cannot be read"):
        one.restore({"policy": "focus.follow"})


def test_options_are_checked() -> None:
    with pytest.raises(PolicyOptionError, match="dof_um"):
        make_policy("focus.follow", {})
    with pytest.raises(PolicyOptionError, match="'look_doff'"):
        follow(look_doff=1)
    with pytest.raises(PolicyOptionError, match="search"):
        follow(search={"confidense": 0.9})


# -- the memory ----------------------------------------------------------------------------------------------------


def test_a_drift_seen_at_one_place_moves_all() -> None:
    memory = FocusMemory(MOTION)
    for place, offset in ((0, 0.0), (1, 0.6)):
        memory.learn(place, 0.0, offset, 0.05)
    for n in range(1, 20):
        memory.learn(0, 0.5 * n, 0.3 * 0.5 * n, 0.05)
    assert memory.at(1, 9.5).focus_um == pytest.approx(0.6 + 0.3 * 9.5, abs=0.15)
    assert memory.offset_um(1) == pytest.approx(0.6, abs=0.1)
    assert memory.at(2, 9.5).sd_um > memory.at(1, 9.5).sd_um
    assert memory.at(2, 9.5).focus_um == pytest.approx(memory.drift_um, abs=0.05)


def test_an_error_of_the_plan_is_the_places_own() -> None:
    memory = FocusMemory(MOTION)
    memory.learn(0, 0.0, 8.0, 0.1)
    assert memory.at(0, 0.0).focus_um == pytest.approx(8.0, abs=0.1)
    assert abs(memory.drift_um) < 0.1


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.floats(0, 50), st.floats(-20, 20), st.floats(0.01, 1), st.booleans()),
        max_size=25,
    )
)
def test_it_stays_a_belief(steps: list[tuple[int, float, float, float, bool]]) -> None:
    memory, time_s = FocusMemory(MOTION), 0.0
    for place, passed, focus, sd, widen in steps:
        time_s += passed
        before = memory.at(place, time_s)
        if widen:
            memory.widen(1.0, time_s)
            continue
        memory.learn(place, time_s, focus, sd)
        after = memory.at(place, time_s)
        assert after.sd_um <= sd + 1e-9
        assert abs(after.focus_um - focus) <= abs(before.focus_um - focus) + 1e-6
    eigenvalues = np.linalg.eigvalsh(memory._cov)
    assert (eigenvalues >= -1e-6 * max(1.0, eigenvalues.max())).all()
    assert memory.at(0, time_s - 5.0).focus_um == memory.at(0, time_s).focus_um, "time does not go back"
    again = FocusMemory.restored(json.loads(json.dumps(memory.checkpoint())), MOTION)
    assert again.at(1, time_s + 1.0) == memory.at(1, time_s + 1.0)


def test_a_broken_checkpoint_is_refused() -> None:
    good = FocusMemory(MOTION).checkpoint()
    for bad in ({}, {**good, "mean": [0.0]}, {**good, "places": [[1]]}, {**good, "cov": "x"}):
        with pytest.raises(PolicyError):
            FocusMemory.restored(bad, MOTION)
