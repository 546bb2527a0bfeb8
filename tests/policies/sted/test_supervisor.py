"""Focus is held between images: moves happen on confocal frames before a trial, and the tuner sees only sharp ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.base import Change, Observation, PolicyError, PolicyOptionError

OPTIONS = {
    "tune": "sted.random",
    "sted": {"max_images": 4, "max_dose_factor": 4.0},
    "focus": "focus.jaf",
    "focusing": {"dof_um": 1.0, "lower_um": -20.0, "upper_um": 20.0},
}


class Focus:
    """A focus policy that goes straight to z = 0, and calls that in focus."""

    name, reads = "focus.jaf", ("sharpness",)

    def __init__(self) -> None:
        self.z_um, self.told = 0.0, list[Observation]()

    def tell(self, observation: Observation) -> None:
        self.told.append(observation)
        self.z_um = observation.settings["z_um"]

    def ask(self) -> Change:
        if abs(self.z_um) > 0.1:
            return Change({"z_um": 0.0}, f"from z={self.z_um:g} to the focus")
        return Change({}, "stay", {"focused": 1.0})

    def checkpoint(self) -> dict[str, Any]:
        return {"z_um": self.z_um}

    def restore(self, checkpoint: Any) -> None:
        self.z_um = checkpoint["z_um"]


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    def made() -> Any:
        policy = make_policy("sted.supervised", OPTIONS)
        policy._focus = Focus()  # type: ignore[attr-defined]
        return policy

    return made


def test_the_focus_is_found_before_every_trial_and_never_in_one(bench: ModuleType, make: Callable[[], Any]) -> None:
    scope, policy = bench.Scope(), make()

    class Drifting:
        """z is off by a micrometre on every fresh field."""

        def frame(self) -> Observation:
            return scope.frame()  # type: ignore[no-any-return]

        def apply(self, settings: dict[str, float]) -> None:
            if "x_um" in settings and settings["x_um"] != scope.settings["x_um"]:
                scope.settings["z_um"] = 1.5
            scope.apply(settings)

    actions, end = bench.drive(policy, Drifting())
    moves = [index for index, action in enumerate(actions) if "z_um" in action.settings]
    assert len(moves) >= 2
    for index in moves:
        assert "confocal frame of field" in actions[index - 1].reason  # the frame that this was decided on
        assert actions[index].reason.startswith("focus before the trial: from z=1.5")
        assert "STED with" in actions[index + 1].reason
    assert end is not None
    assert len(policy._tuner.trials) == 4
    assert all(told.settings["depletion_power"] == 0 for told in policy._focus.told)


def test_a_focus_that_is_never_found_does_not_keep_a_trial_from_being_made(
    bench: ModuleType, make: Callable[[], Any]
) -> None:
    scope, policy = bench.Scope(), make()
    policy._focus.ask = lambda: Change({"z_um": 3.0}, "lost")
    _, end = bench.drive(policy, scope)
    assert end is not None
    assert len(policy._tuner.trials) == 4
    assert len(policy._focus.told) == 4 * (policy.options.max_focus_frames + 1)


def test_a_checkpoint_goes_on_identically(bench: ModuleType, make: Callable[[], Any]) -> None:
    for stop in range(1, 8):
        scope, policy = bench.Scope(), make()
        scope.settings["z_um"] = 2.0
        bench.drive(policy, scope, stop)
        twin = make()
        twin.restore(json.loads(json.dumps(policy.checkpoint(), allow_nan=False)))
        for _ in range(6):
            frame = scope.frame()
            policy.tell(frame)
            twin.tell(frame)
            action = policy.ask()
            assert twin.ask() == action
            scope.apply(action.settings)
    with pytest.raises(PolicyError, match="not one of"):
        make().restore({"policy": "sted.bayes"})


def test_reads_what_both_read_and_refuses_what_neither_takes() -> None:
    policy: Any = make_policy("sted.supervised", OPTIONS)
    assert set(policy.reads) >= {"sted_measures"}
    with pytest.raises(PolicyOptionError, match="max_image"):
        make_policy("sted.supervised", OPTIONS | {"sted": {"max_image": 3}})
    with pytest.raises(PolicyOptionError, match="dof"):
        make_policy("sted.supervised", OPTIONS | {"focusing": {"dof": 3}})


def test_an_abstention_about_the_focus_lets_the_trial_go_on(bench: ModuleType) -> None:
    scope, policy = bench.Scope(), make_policy("sted.supervised", OPTIONS)

    class Unsharp:
        def frame(self) -> Observation:
            seen = scope.frame()
            said = Assessment.abstain("sharpness", "empty")
            return Observation(
                seen.index, seen.settings, seen.time_s, seen.dose, {**seen.assessments, "sharpness": said}
            )

        apply = staticmethod(scope.apply)

    _, end = bench.drive(policy, Unsharp())
    assert end is not None
    assert "4 images were taken" in end.reason
