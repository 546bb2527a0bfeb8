"""The quality gate: what it flags, asks for again and ends, and that it never moves anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Action, Change, Finish, Hold, Observation, PolicyError
from parfocal.policies.focus.hold import HoldPolicy
from parfocal.policies.quality_gate import GatedPolicy, GateTerms, QualityGate

SETTLED = Hold("in focus", {"focused": 1.0})
SEARCHING = Change({"z_um": 3.0}, "look there", {"focused": 0.0})


def said(value: float | None) -> Assessment:
    return Assessment.abstain("quality", "empty field") if value is None else Assessment("quality", value, 0.04)


def judged(terms: GateTerms, values: Sequence[float | None], action: Action = SETTLED) -> list[Action]:
    gate = QualityGate(terms)
    return [gate.judge(action, said(value)) for value in values]


def test_good_frames_pass_with_their_score() -> None:
    (action,) = judged(GateTerms(below=0.5), [0.8])
    assert (action.reason, action.detail) == (
        "in focus",
        {"focused": 1.0, "quality": 0.8, "quality_sd": 0.04, "good": 1.0},
    )


def test_one_bad_frame_is_not_a_bad_field_three_are() -> None:
    actions = judged(GateTerms(below=0.5), [0.2, 0.8, 0.3, 0.2, 0.1, 0.1, 0.9])
    assert [action.detail.get("flagged", 0.0) for action in actions] == [0, 0, 0, 0, 3, 1, 0]
    assert [action.detail["good"] for action in actions] == [0, 1, 0, 0, 0, 0, 1]
    assert actions[2].reason == "in focus; quality 0.3 ± 0.04 is below 0.5 (1 of 3 frames)"
    assert actions[4].reason.endswith("is below 0.5 for 3 frames in a row: flagged")


def test_retakes_are_bounded_and_a_good_frame_ends_them() -> None:
    terms = GateTerms(below=0.5, for_frames=2, then="retake", max_retakes=2)
    actions = judged(terms, [0.1] * 7 + [0.9] + [0.1] * 2)
    assert [action.detail.get("retake") for action in actions] == [None, 1, None, 2, *[None] * 5, 1]
    assert "discarded, the field is to be taken again (retake 1 of 2)" in actions[1].reason
    assert "2 retakes were no better: flagged" in actions[5].reason
    assert sum(action.detail.get("flagged", 0.0) for action in actions) == 9


def test_stop_ends_in_place_whatever_the_policy_wanted() -> None:
    tracking = Change({"z_um": 1.0}, "correct", {"focused": 1.0})
    first, last = judged(GateTerms(below=0.5, for_frames=2, then="stop"), [0.1, 0.1], tracking)
    assert first.reason.startswith("correct; ")
    assert isinstance(first, Change)
    assert isinstance(last, Finish)
    assert last.settings == {}
    assert last.reason.startswith("bad quality: quality 0.1 ± 0.04 is below 0.5 for 2 frames in a row")
    assert last.detail["bad_quality_stop"] == 1.0


def test_frames_on_the_way_to_the_focus_are_blurred_by_design() -> None:
    assert judged(GateTerms(below=0.5, for_frames=1, then="stop"), [0.1], SEARCHING) == [SEARCHING]
    (action,) = judged(GateTerms(below=0.5, for_frames=1, then="stop", judge="all"), [0.1], SEARCHING)
    assert isinstance(action, Finish)


@pytest.mark.parametrize("then", ["flag", "retake", "stop"])
def test_abstentions_are_not_bad_quality_and_are_pointed_out(then: Any) -> None:
    terms = GateTerms(below=0.5, for_frames=2, then=then, abstain_report=3)
    actions = judged(terms, [0.1, None, None, None, None])
    assert actions[2] == SETTLED
    assert actions[3].reason == "in focus; quality cannot be judged for 3 frames in a row (empty field)"
    assert [action.detail.get("cannot_be_judged") for action in actions] == [None, None, None, 3, 4]
    assert not any("flagged" in action.detail or isinstance(action, Finish) for action in actions)
    assert "flagged" in judged(GateTerms(below=0.5, for_frames=2), [0.1, None, 0.1])[-1].detail


@pytest.mark.parametrize(
    "assessment",
    [None, Assessment("quality", math.nan, 0.1), Assessment("quality", 0.9, 0.1, detail={"frc_um": math.inf})],
)
def test_what_is_no_number_is_not_judged(assessment: Assessment | None) -> None:
    score = "frc_um" if assessment is not None and assessment.detail else None
    gate = QualityGate(GateTerms(score=score, above=0.5, for_frames=1, then="stop", abstain_report=1))
    assert "cannot be judged" in gate.judge(SETTLED, assessment).reason


def test_another_score_may_be_bad_where_it_is_high() -> None:
    gate = QualityGate(GateTerms(score="frc_um", above=0.5, for_frames=1))
    action = gate.judge(SETTLED, Assessment("quality", 0.9, 0.1, detail={"frc_um": 0.7}))
    assert action.detail["flagged"] == 1.0
    assert "quality frc_um 0.7 is above 0.5" in action.reason


def observation(index: int, value: float | None) -> Observation:
    return Observation(index, {"z_um": 0.0}, float(index), 0.0, {"quality": said(value)})


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30), st.sampled_from(["flag", "retake", "stop"]))
def test_a_gate_never_moves_and_goes_on_from_its_checkpoint(values: list[float | None], then: Any) -> None:
    terms = GateTerms(below=0.5, for_frames=2, then=then, abstain_report=2)
    policy = GatedPolicy(make_policy("focus.hold"), terms)
    for index, value in enumerate(values):
        copy = GatedPolicy(make_policy("focus.hold"), terms)
        copy.restore(json.loads(json.dumps(policy.checkpoint(), allow_nan=False)))
        for one in (policy, copy):
            one.tell(observation(index, value))
        action = policy.ask()
        assert copy.ask() == action
        assert not isinstance(action, Change)
        assert not getattr(action, "settings", {})


def test_a_frame_is_judged_once_however_often_one_asks() -> None:
    policy = GatedPolicy(make_policy("focus.hold"), GateTerms(below=0.5, for_frames=2))
    policy.tell(observation(0, 0.1))
    assert "1 of 2" in policy.ask().reason
    assert "of 2" not in policy.ask().reason
    assert policy.name == "focus.hold"


def test_a_checkpoint_of_another_is_refused() -> None:
    policy = GatedPolicy(make_policy("focus.hold"), GateTerms(below=0.5))
    with pytest.raises(PolicyError, match="not one of a gated"):
        policy.restore(make_policy("focus.hold").checkpoint())
    with pytest.raises(PolicyError, match="gate's checkpoint"):
        policy.restore({**policy.checkpoint(), "gate": {"bda": 1}})


def test_a_gated_policy_works_ahead_if_it_can() -> None:
    expected: list[float] = []

    class Ahead(HoldPolicy):
        def expect(self, settings: Mapping[str, float], time_s: float) -> None:
            expected.append(time_s)

    gated = GatedPolicy(Ahead({}), GateTerms(below=0.5))
    gated.expect({"z_um": 0.0}, 7.0)  # type: ignore[attr-defined]
    assert expected == [7.0]
    assert not hasattr(GatedPolicy(HoldPolicy({}), GateTerms(below=0.5)), "expect")
