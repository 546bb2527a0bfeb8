"""The sequence of trials, what is safe, what counts as an outcome, and how every kind of bad input ends."""

from __future__ import annotations

import itertools
import json
import math
from types import ModuleType
from typing import Any

import pytest

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Finish, Hold, Observation, Policy, PolicyError, PolicyOptionError

GUIDED = {"max_dose_factor": 4.0, "max_bleach": 0.6}
NAMES = ["sted.bayes", "sted.thompson", "sted.random", "sted.fixed"]


def random_policy(**options: Any) -> Any:
    return make_policy("sted.random", {"max_images": 5, **options})


@pytest.mark.parametrize("name", NAMES)
def test_is_a_policy_that_holds_before_its_first_frame(name: str) -> None:
    policy = make_policy(name, {})
    assert isinstance(policy, Policy)
    assert policy.name == name
    assert isinstance(policy.ask(), Hold)
    assert policy.reads == ("sted_measures",)


def test_a_trial_is_three_frames_of_a_fresh_field(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(**GUIDED)
    actions, end = bench.drive(policy, scope)
    changes = [action for action in actions if isinstance(action, Change)]
    assert len(changes) == 3 * 5
    for before, sted, after in zip(changes[0::3], changes[1::3], changes[2::3], strict=True):
        assert before.settings["depletion_power"] == after.settings["depletion_power"] == 0
        assert sted.settings["depletion_power"] > 0
        places = {(change.settings["x_um"], change.settings["y_um"]) for change in (before, sted, after)}
        assert len(places) == 1
    fields = [(change.settings["x_um"], change.settings["y_um"]) for change in changes[0::3]]
    assert len(set(fields)) == 5
    assert all(math.dist(a, b) == pytest.approx(5.0) for a, b in itertools.pairwise(fields))
    assert end is not None
    assert end.reason.startswith("5 images were taken; recommended: ")
    assert end.settings["depletion_power"] == 0
    assert end.detail["recommended_utility"] == max(policy.utility(trial) for trial in policy.trials)


def test_a_decision_after_a_trial_carries_its_objectives(bench: ModuleType) -> None:
    scope, policy = bench.Scope(field_sd=0.0), random_policy(**GUIDED)
    actions, _ = bench.drive(policy, scope)
    detail = actions[3].detail
    trial = policy.trials[0]
    assert trial.outcome is not None
    assert detail["trial_depletion_power"] == trial.settings["depletion_power"]
    law = scope.law(trial.settings)
    assert trial.outcome.bleach == pytest.approx(1 - math.exp(-law["hazard"]), abs=4 * trial.outcome.bleach_sd)
    assert trial.outcome.signal_ratio == pytest.approx(law["signal"] / 40.0, rel=0.1)
    assert {"signal_ratio", "bleach", "resolution_nm", "pixel_us", "rate_mhz", "utility", "pareto"} <= set(detail)


def test_starts_dim_and_never_jumps_in_dose(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(max_images=12, scale="linear", **GUIDED)
    bench.drive(policy, scope)
    dose = [t.settings["excitation_power"] * t.settings["dwell_us"] for t in policy.trials]
    depletion = [t.settings["depletion_power"] * t.settings["dwell_us"] for t in policy.trials]
    assert dose[0] <= 5.0
    for sequence in (dose, depletion):
        for index in range(1, len(sequence)):
            assert sequence[index] <= 4.01 * max(sequence[:index])
    assert max(dose) > 10 * dose[0]  # it does get somewhere


def test_what_was_not_tolerated_is_not_tried_as_strongly_again(bench: ModuleType) -> None:
    scope, policy = (
        bench.Scope(dye=bench.Dye(bleach=8.0)),
        random_policy(max_images=15, max_dose_factor=4, max_bleach=0.3),
    )
    bench.drive(policy, scope)
    bad = None
    for trial in policy.trials:
        s = trial.settings
        strength = s["excitation_power"] * s["dwell_us"] * (s["depletion_power"] + 5.0) ** 0.73
        assert bad is None or strength < bad
        if trial.bleach > 0.3:
            bad = strength
    assert bad is not None


def test_the_rate_of_the_detector_is_kept(bench: ModuleType) -> None:
    scope = bench.Scope(dye=bench.Dye(bright=0.3), field_sd=0.1)
    policy = random_policy(max_images=15, max_rate_mhz=5.0)
    bench.drive(policy, scope)
    rates = [trial.outcome.rate_mhz for trial in policy.trials if trial.outcome is not None]
    assert len(rates) >= 10
    assert max(rates) <= 5.0
    free = random_policy(max_images=15, max_rate_mhz=1e6)
    bench.drive(free, bench.Scope(dye=bench.Dye(bright=0.3), field_sd=0.1))
    assert max(t.outcome.rate_mhz for t in free.trials if t.outcome is not None) > 7.0  # it would not be by itself


def test_no_trial_is_begun_that_the_budget_does_not_cover(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(max_images=40, dose_budget=3000.0)
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert "dose budget (3000)" in end.reason
    assert 1000 < scope.dose <= 3000.0


def test_max_step_is_kept_from_the_confocal_settings_and_back(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(max_images=8, max_step={"depletion_power": 60.0, "x_um": 5, "y_um": 5})
    bench.drive(policy, scope)
    now = dict(scope.settings) | {"depletion_power": 0.0}
    for request in scope.requests:
        assert abs(request["depletion_power"] - now["depletion_power"]) <= 60.0
        now |= request


def test_fields_lie_within_their_bounds(bench: ModuleType) -> None:
    bounds = {"x_um": (0.0, 10.0), "y_um": (0.0, 5.0)}
    scope, policy = bench.Scope(), random_policy(max_images=20, bounds=bounds)
    _, end = bench.drive(policy, scope)
    assert all(0 <= r["x_um"] <= 10 and 0 <= r["y_um"] <= 5 for r in scope.requests if "x_um" in r)
    assert end is not None
    assert "no fresh field is left within the bounds after 6" in end.reason
    assert len(policy.trials) == 6


def test_a_checkpoint_goes_on_identically_in_the_middle_of_a_trial(bench: ModuleType) -> None:
    for stop in (1, 2, 3, 4, 8):
        scope, policy = bench.Scope(), random_policy(max_images=6, **GUIDED)
        bench.drive(policy, scope, stop)
        twin = random_policy(max_images=6, **GUIDED)
        twin.restore(json.loads(json.dumps(policy.checkpoint(), allow_nan=False)))
        for _ in range(12):
            frame = scope.frame()
            policy.tell(frame)
            twin.tell(frame)
            action = policy.ask()
            assert twin.ask() == action
            scope.apply(getattr(action, "settings", {}))
    with pytest.raises(PolicyError, match="not one of"):
        random_policy().restore({"policy": "focus.hold"})
    with pytest.raises(PolicyError, match="cannot be read"):
        random_policy().restore({"policy": "sted.random"})


# -- bad input ----------------------------------------------------------------------------------------------------


def test_a_sample_without_structure_ends_after_a_few_fields_and_no_depletion(bench: ModuleType) -> None:
    scope, policy = bench.Scope(empty=True), random_policy()
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert "no structure in 5 fields in a row" in end.reason
    assert "nothing can be recommended" in end.reason
    assert scope.bleached == []
    assert len({(r["x_um"], r["y_um"]) for r in scope.requests if "x_um" in r}) == 5


def test_one_empty_field_is_skipped(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(**GUIDED)
    scope.empty = True
    bench.drive(policy, scope, 2)
    scope.empty = False
    actions, end = bench.drive(policy, scope)
    assert isinstance(actions[0], Change)
    assert end is not None
    assert end.reason.startswith("5 images")


def test_a_laser_that_dies_ends_with_a_reason(bench: ModuleType) -> None:
    scope, policy = bench.Scope(dead_after=8), random_policy(max_images=20, **GUIDED)
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert "no structure in 5 fields in a row: is there a sample, and is the excitation on?" in end.reason
    assert len(policy.trials) >= 2


@pytest.mark.parametrize("name", ["sted.random", "sted.bayes"])
def test_a_sted_frame_that_is_always_dark_ends_after_brighter_trials(bench: ModuleType, name: str) -> None:
    scope, policy = bench.Scope(dead_sted=True), make_policy(name, {"max_images": 20, **GUIDED})
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert "3 trials in a row without an outcome: the STED frame shows nothing above its background" in end.reason
    dose = [t.settings["excitation_power"] * t.settings["dwell_us"] for t in policy.trials]
    assert dose == sorted(dose)
    assert dose[-1] > dose[0]


def test_a_saturated_detector_lowers_the_excitation(bench: ModuleType) -> None:
    """At a dead time that clips the STED frame but not the confocal one."""
    scope = bench.Scope(dye=bench.Dye(bright=1.0), dead_time_us=0.04)
    fixed = {"excitation_power": 9.0, "depletion_power": 20.0, "dwell_us": 10.0}
    policy = make_policy("sted.random", {"max_images": 8, "max_rate_mhz": 1e3, "seed": 1, "start": fixed, **GUIDED})
    bench.drive(policy, scope)
    first = policy.trials[0]
    assert first.reason == "the detector was saturated in the STED frame"
    assert all(t.outcome is not None for t in policy.trials[2:])
    assert max(t.settings["excitation_power"] for t in policy.trials[1:]) < 9.0


def test_a_confocal_frame_that_saturates_is_dimmed_and_ratios_stay_comparable(bench: ModuleType) -> None:
    scope = bench.Scope(dye=bench.Dye(bright=1.0), dead_time_us=0.3, field_sd=0.0)
    policy = make_policy("sted.fixed", {"max_images": 2, "settings": {"excitation_power": 0.2}})
    actions, _ = bench.drive(policy, scope)
    assert any("too bright for the detector" in action.reason for action in actions)
    assert policy.trials
    outcome = policy.trials[0].outcome
    assert outcome is not None
    assert outcome.signal_ratio == pytest.approx(scope.law(policy.trials[0].settings)["signal"] / 40.0, rel=0.15)


def test_a_dye_that_bleaches_at_once_holds_at_the_dimmest_and_says_so(bench: ModuleType) -> None:
    scope, policy = bench.Scope(dye=bench.Dye(bleach=3000.0)), random_policy(max_images=20, **GUIDED)
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert "does not stand a STED image" in end.reason
    assert len(policy.trials) <= 4
    dimmest = {"excitation_power": 0.1, "depletion_power": 0.0, "dwell_us": 1.0}
    assert {name: policy.trials[-1].settings[name] for name in dimmest} == dimmest


def test_settings_that_are_not_taken_end_the_session(bench: ModuleType) -> None:
    scope, policy = bench.Scope(stuck=True), random_policy()
    actions, end = bench.drive(policy, scope)
    assert end is not None
    assert "the settings are not taken: excitation_power is 0, 1 was asked for, 5 times in a row" in end.reason
    assert any(action.reason.startswith("once more") for action in actions)


def test_a_microscope_without_the_parameters_ends_at_once(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy()
    del scope.settings["depletion_power"]
    policy.tell(Observation(0, scope.settings, 0.0, 0.0, {}))
    action = policy.ask()
    assert isinstance(action, Finish)
    assert "the microscope has no depletion_power" in action.reason


def test_a_frame_nobody_assessed_is_taken_again_and_then_ends(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy()
    policy.tell(scope.frame())
    scope.apply(policy.ask().settings)
    reasons = []
    for _ in range(4):
        frame = scope.frame()
        policy.tell(Observation(frame.index, frame.settings, frame.time_s, frame.dose, {}))
        action = policy.ask()
        reasons.append(action.reason)
    assert reasons[0].startswith("another frame of the same: the frame was not assessed")
    assert isinstance(action, Finish)


def test_a_refused_finish_is_repeated_without_settings(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), random_policy(max_images=1)
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert end.settings
    policy.tell(scope.frame())
    again = policy.ask()
    assert isinstance(again, Finish)
    assert again.settings == {}


def test_quality_is_read_where_it_is_wanted(bench: ModuleType) -> None:
    policy = random_policy(preference={"quality": 1.0, "resolution": 0.0})
    assert policy.reads == ("sted_measures", "sted_quality")
    scope = bench.Scope()

    class Judged:
        def frame(self) -> Observation:
            seen = scope.frame()
            judged = Assessment("sted_quality", 0.625, 0.02)
            return Observation(
                seen.index, seen.settings, seen.time_s, seen.dose, {**seen.assessments, "sted_quality": judged}
            )

        apply = staticmethod(scope.apply)

    bench.drive(policy, Judged())
    assert [t.outcome.quality for t in policy.trials if t.outcome is not None] == [0.625] * len(policy.trials)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bounds": {"depletion_power": [50, 10]}}, "the lower bound 50 is above the upper one 10"),
        ({"bounds": {"excitation_power": [0, 0]}}, "leaves no positive value"),
        ({"bounds": {"laser": [0, 1]}}, "'laser' is none of"),
        ({"bounds": {"line_steps": [1.2, 1.8]}}, "no whole number"),
        ({"bounds": {"dwell_us": [1, math.inf]}}, "finite bounds"),
        ({"start": {"dwell_us": 500}}, "start: dwell_us 500 lies outside the bounds 1..60"),
        ({"confocal": {"excitation_power": 50}}, "confocal: excitation_power 50 lies outside"),
        ({"bounds": {"depletion_power": [80, 300]}}, "leaves no confocal frame"),
        (
            {
                "bounds": {"depletion_power": [80, 300]},
                "max_step": {"depletion_power": 50},
                "confocal": {"depletion_power": 0},
            },
            "depletion_power cannot go from the confocal 0 to its bounds 80..300 in steps of 50",
        ),
        ({"bounds": {"depletion_power": [80, 300]}}, "leaves no confocal frame"),
        ({"bounds": {"x_um": [0, 100]}, "max_step": {"x_um": 1}}, "less than field_um"),
        ({"max_dose_factor": 1.0}, "max_dose_factor"),
        ({"max_rate_mhz": 0}, "max_rate_mhz"),
        ({"preference": {"resolution": -1}}, "preference: resolution"),
        ({"preference": {"resolutoin": 1}}, "preference: resolutoin"),
        ({"preference": {"coarse_nm": 30}}, "fine_nm"),
        ({"preference": {"prefnet": {}}}, "not a preference network"),
        ({"max_image": 3}, "did you mean 'max_images'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_contradictory_options_are_refused_with_the_reason(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyOptionError, match=said):
        make_policy(name, options)


def test_where_depletion_cannot_be_switched_off_the_confocal_frame_takes_the_least() -> None:
    policy = make_policy("sted.bayes", {"bounds": {"depletion_power": [5, 300]}})
    assert policy.options.confocal_settings["depletion_power"] == 5
