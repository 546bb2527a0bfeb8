"""What a person sees of a search for STED settings: trials gathered, front, recommendation, and room for all of it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from rich.text import Text

from parfocal.daemon.accounts import recommendation_of
from parfocal.daemon.stedtrials import StedTrials, axis_range
from parfocal.daemon.stedview import StedPanel
from parfocal.daemon.summary import Step, Summary
from parfocal.daemon.summarytext import summary_lines
from parfocal.policies.base import Change, Finish, Hold

NOW = {
    "excitation_power": 2.0,
    "depletion_power": 150.0,
    "dwell_us": 12.0,
    "line_steps": 1.0,
    "x_um": 54.0,
    "z_um": 0.0,
}


def detail(number: int, nm: float, bleach: float, utility: float, **more: float) -> dict[str, float]:
    return {
        "trial_excitation_power": 0.5 * number, "trial_depletion_power": 30.0 * number, "trial_dwell_us": 10.0,
        "images": float(number), "field": 0.0, "outcome": 1.0, "signal_ratio": 0.3, "bleach": bleach,
        "resolution_nm": nm,
        "utility": utility, "recommended_excitation_power": 1.0, "recommended_depletion_power": 200.0,
        "recommended_dwell_us": 8.0, "recommended_utility": 0.7 + 0.01 * number, "recommended_utility_sd": 0.02,
    } | more  # fmt: skip


def step(action: Any, settings: dict[str, float] | None = None) -> Step:
    frame: Any = type("Frame", (), {"settings": settings or NOW, "index": 7, "end_s": 1.0, "simulated": True})()
    return Step(frame, {}, action, None, False, "running", 1, 1, 0, 0, 1, 0, 100.0, 0.0, 1.0, 1.0)


def told(*details: dict[str, float]) -> StedPanel:
    panel = StedPanel()
    for one in details:
        panel.listen(step(Change({"dwell_us": 1.0}, "because", one)))
    return panel


def text(lines: list[Text]) -> str:
    return "\n".join(line.plain for line in lines)


THREE = (detail(1, 140, 0.02, 0.6), detail(2, 90, 0.15, 0.75), detail(3, 95, 0.3, 0.65, expected_improvement=0.004))


def test_a_trial_that_is_told_twice_is_one() -> None:
    trials = StedTrials()
    assert trials.take(THREE[0], 10.0)
    assert not trials.take(THREE[0] | {"images": 2.0}, 20.0)
    assert trials.take(THREE[1], 30.0)
    assert [(row.number, row.dose) for row in trials.rows] == [(1, 10.0), (2, 30.0)]
    assert [number for number, _, _ in trials.history] == [1, 2]
    assert not trials.take({}, 1.0)


def test_the_front_is_what_no_trial_beats() -> None:
    trials = StedTrials()
    for one in THREE:
        trials.take(one)
    assert trials.front() == {1, 2}  # the third is coarser than the second and bleaches more
    trials.take({"trial_dwell_us": 3.0, "outcome": 0.0, "bleach": 1.0})
    assert trials.front() == {1, 2}
    assert not trials.rows[-1].done


def test_the_panel_says_what_is_set_tried_and_recommended() -> None:
    said = text(told(*THREE).lines(step(Hold("x", THREE[2])), 110, 30))
    for part in ("excitation 2 uW", "depletion 150 mW", "STED frame", "excitation 1 uW, depletion 200 mW, dwell 8 us",
                 "utility 0.73 \u00b1 0.02", "at best 0.004", "95 nm", "30%", "on the front",
                 "resolution (nm) against share bleached", "\u25ce"):  # fmt: skip
        assert part in said
    assert said.index("    3 ") < said.index("    1 ")


def test_a_confocal_frame_is_called_one_and_the_end_is_shown() -> None:
    panel = told(*THREE)
    confocal = NOW | {"depletion_power": 0.0}
    said = text(panel.lines(step(Finish({}, "done", THREE[2] | {"finished": 1.0}), confocal), 100, 30))
    assert "confocal frame" in said
    assert "FINISHED" in said


def test_before_the_first_trial_it_says_so() -> None:
    assert "nothing yet" in text(StedPanel().lines(step(Hold("x")), 100, 30))


def test_a_trial_without_an_outcome_is_named() -> None:
    panel = told(THREE[0], {"trial_excitation_power": 9.0, "outcome": 0.0, "bleach": 0.97})
    assert "no outcome, 97% bleached" in text(panel.lines(step(Hold("x")), 100, 30))


@pytest.mark.parametrize("ascii_only", [False, True])
@pytest.mark.parametrize("room", [0, 1, 4, 7, 9, 12, 40])
@pytest.mark.parametrize("width", [30, 80, 200])
def test_it_fits_into_whatever_room_there_is(room: int, width: int, ascii_only: bool) -> None:
    found = told(*THREE).lines(step(Hold("x", THREE[2])), width, room, ascii_only=ascii_only)
    assert len(found) <= room
    if ascii_only:
        assert text(found).replace("\u00b1", "").isascii()


def test_the_summary_has_the_recommendation_and_why() -> None:
    found = recommendation_of(Finish({}, "12 images were taken; recommended: x", THREE[2] | {"finished": 1.0}))
    assert found is not None
    assert found["settings"] == {"excitation_power": 1.0, "depletion_power": 200.0, "dwell_us": 8.0}
    summary = Summary("s", "simulated_sted", True, "finished", recommendation=found)
    assert summary.to_json()["recommendation"]["utility_sd"] == pytest.approx(0.02)
    rows = dict(summary_lines(summary.to_json()))
    assert "depletion_power 200" in rows["recommended"] and "0.730 \u00b1 0.020" in rows["recommended"]
    assert rows["why"] == "12 images were taken"
    assert "frames to focus" not in rows


def test_a_focus_policy_recommends_nothing() -> None:
    assert recommendation_of(Hold("x", {"defocus_um": 1.0})) is None
    assert recommendation_of(None) is None
    assert "recommendation" not in Summary("s", "d", True, "done").to_json()


def test_nothing_recommended_is_said_so() -> None:
    found = recommendation_of(Finish({}, "no structure; nothing can be recommended", {"images": 0.0, "field": 4.0}))
    assert found is not None and found["settings"] == {} and found["utility"] is None
    assert dict(summary_lines({"recommendation": found}))["recommended"] == "nothing"


def test_axis_ranges_hold_everything() -> None:
    assert axis_range([], 1.0) == (0.0, 1.0)
    low, high = axis_range([0.02, 0.9, math.nan], 0.1)
    assert low <= 0.02 and high > 0.9
