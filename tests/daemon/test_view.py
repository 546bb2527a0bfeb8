"""The live view says what a person needs in 80 x 24, and never lets a simulation pass for a microscope."""

from __future__ import annotations

import io
import math
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from parfocal.daemon.decisions import DecisionHistory
from parfocal.daemon.plot import plot_rows, spread
from parfocal.daemon.summarytext import summary_lines
from parfocal.daemon.view import RunFacts, RunView
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Change, Finish, Hold

FACTS = RunFacts("simulated", "focus.belief", True, folder="sessions/night", max_frames=600, dof_um=1.1)


def make_step(
    index: int, *, action: Action | None = None, z_um: float = 12.345, accepted: bool = True, **more: Any
) -> Any:
    truth = {"defocus_um": -0.25} if more.pop("simulated", True) else {}
    frame = Frame(np.zeros((1, 1)), index, {"z_um": z_um}, index / 10, index / 10 + 0.01, 0.3, truth=truth)
    action = action or Hold("in focus: nothing to gain", {"defocus_um": 0.11, "defocus_sd_um": 0.05, "focused": 1.0})
    facts = {
        "frame": frame,
        "assessments": {"defocus": Assessment("defocus", 0.4, 0.2)},
        "action": action,
        "verdict": SimpleNamespace(accepted=accepted, reason="" if accepted else "z_um: 900 um is above the limit"),
        "stale": False,
        "state": "running",
        "frames": index + 1,
        "scored": index,
        "stale_frames": 3,
        "dropped": 2,
        "actions": 7,
        "refused": 0 if accepted else 1,
        "dose": 150.0,
        "dose_unit": "power x ms",
        "travel_um": 34.2,
        "fps": 24.9,
        "latency_ms": 0.41,
        "notes": "",
    }
    return SimpleNamespace(**facts | more)


def drawn(view: RunView, width: int = 80, height: int = 24, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, height=height, color_system=None, legacy_windows=False)
    console.print(view, end="")
    file.flush()
    return raw.getvalue().decode(encoding)


def view_after(*steps: Any, facts: RunFacts = FACTS, warnings: deque[str] | None = None) -> RunView:
    view = RunView(facts, warnings)
    for step in steps:
        view.listen(step)
    return view


def test_all_that_matters_is_on_a_small_screen() -> None:
    move = Change({"z_um": 13.5}, "moved towards the most probable focus", {"defocus_um": -1.2, "defocus_sd_um": 0.3})
    text = drawn(view_after(*(make_step(i, z_um=i / 3) for i in range(150)), make_step(150, action=move)))
    for word in (
        "SIMULATED",
        "+12.345 um",
        "-1.200 ± 0.300 um",
        "+0.400 ± 0.200 um",
        "truth -0.250 um (simulated)",
        "move z_um to 13.5",
        "most probable focus",
        "x150",
        "151/600 frames",
        "24.9/s",
        "stale 3",
        "dropped 2",
        "refused 0",
        "dose 150 power x ms",
        "running",
        "sessions/night",
    ):
        assert word in text, word
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    assert any(0x2800 < ord(character) <= 0x28FF for character in text)


def test_a_microscope_is_not_called_simulated() -> None:
    facts = RunFacts("micromanager", "focus.belief", False)
    text = drawn(view_after(make_step(0, simulated=False), facts=facts))
    assert "MICROSCOPE micromanager" in text
    assert "simulated" not in text.lower()
    assert "truth" not in text


def test_shadow_says_so() -> None:
    assert "commands nothing" in drawn(view_after(facts=RunFacts("micromanager", "focus.belief", False, shadow=True)))


def test_before_the_first_frame() -> None:
    text = drawn(view_after())
    assert "SIMULATED" in text
    assert "waiting for the first frame" in text


def test_an_abstention_shows_its_reason() -> None:
    step = make_step(
        0, action=Hold("the frame says nothing"), assessments={"defocus": Assessment.abstain("defocus", "blank")}
    )
    text = drawn(view_after(step))
    assert "abstains: blank" in text
    assert "not known" in text


def test_a_refusal_shows_the_guards_reason() -> None:
    text = drawn(view_after(make_step(0, action=Change({"z_um": 900.0}, "far away"), accepted=False)))
    assert "REFUSED z_um to 900" in text
    assert "above the limit" in text
    assert "refused 1" in text


def test_the_latest_warning_and_a_stop_are_shown() -> None:
    view = view_after(make_step(0), warnings=deque(["scorer restarted"]))
    view.say_stopping("SIGTERM received")
    text = drawn(view)
    assert "scorer restarted" in text
    assert "SIGTERM received" in text
    assert "stopping" in text


def test_a_terminal_without_unicode_gets_ascii() -> None:
    text = drawn(view_after(*(make_step(i, z_um=i / 3) for i in range(50))), encoding="ascii")
    assert "*" in text
    assert "0.110 +- 0.050" in text


@settings(deadline=None)
@given(width=st.integers(20, 200), height=st.integers(3, 80), frames=st.integers(0, 30))
def test_it_fits_any_terminal(width: int, height: int, frames: int) -> None:
    text = drawn(view_after(*(make_step(i) for i in range(frames))), width, height)
    assert len(text.splitlines()) <= height
    assert all(len(line) <= width for line in text.splitlines())
    assert "SIMULATED" in text


def test_holds_in_a_row_are_one_entry_and_moves_are_kept() -> None:
    history = DecisionHistory()
    for index in range(5):
        history.add(make_step(index))
    history.add(make_step(5, action=Change({"z_um": 1.0}, "why")))
    history.add(make_step(6, action=Finish({}, "done")))
    assert [(d.what, d.count) for d in history.latest(9)] == [("finish", 1), ("move z_um to 1", 1), ("hold", 5)]
    assert history.add(SimpleNamespace(action=None)) is None


def test_same_words_ignores_numbers_only() -> None:
    history = DecisionHistory()
    first = history.add(make_step(0, action=Hold("defocus 0.1 um is within 0.5 um")))
    second = history.add(make_step(1, action=Hold("defocus -3e-2 um is within 0.5 um")))
    third = history.add(make_step(2, action=Hold("the frame is blank")))
    assert first is not None and second is not None and third is not None
    assert first.same_words(second)
    assert not first.same_words(third)


def test_plot_puts_points_where_they_belong() -> None:
    rows = plot_rows([(0.0, 0.0), (1.0, 1.0)], width=5, height=3, x_range=(0, 1), y_range=(0, 1), ascii_only=True)
    assert rows == ["    *", " *** ", "*    "] or rows == ["   **", "  *  ", "**   "]


def test_plot_breaks_at_what_is_not_a_number() -> None:
    points = [(0.0, 0.5), (0.5, math.nan), (1.0, 0.5)]
    row = plot_rows(points, width=9, height=1, x_range=(0, 1), y_range=(0, 1), ascii_only=True)[0]
    assert row == "*       *"


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(allow_nan=True, allow_infinity=True)), max_size=40),
    st.integers(1, 60),
    st.integers(1, 9),
)
def test_plot_always_has_its_size(points: list[tuple[float, float]], width: int, height: int) -> None:
    rows = plot_rows(sorted(points), width=width, height=height, x_range=(0, 100), y_range=(-5, 5))
    assert len(rows) == height
    assert all(len(row) == width for row in rows)


def test_spread_is_never_empty() -> None:
    assert spread([], 2.0) == (-1.0, 1.0)
    assert spread([3.0], 2.0) == (2.0, 4.0)
    low, high = spread([0.0, 10.0, math.nan], 1.0)
    assert low < 0 and high > 10


def test_summary_says_what_is_not_known() -> None:
    rows = dict(
        summary_lines(
            {
                "outcome": "stopped: SIGTERM received",
                "frames": 9,
                "scored": 8,
                "stale": 1,
                "dropped": 0,
                "actions": 1,
                "refused": 0,
                "frames_to_focus": None,
                "travel_um": 2.0,
                "dose": 90.0,
                "final": {"settings": {"z_um": 1.5}, "defocus_um": None, "defocus_sd_um": None, "quality": None},
                "truth": {"defocus_um": 0.3},
                "latency_ms": {"p50": 0.3, "p99": None},
            }
        )
    )
    assert rows["frames to focus"] == "not reached"
    assert rows["true defocus"] == "+0.300 um (simulated)"
    assert rows["final defocus"] == "not known"


def test_summary_of_a_shadow_does_not_read_as_if_actions_had_been_sent() -> None:
    content = {"frames": 9, "scored": 8, "stale": 0, "dropped": 0, "actions": 6, "refused": 2, "frames_to_focus": 7}
    rows = dict(summary_lines(content, shadow=True))
    assert "6 actions it would have sent, 2 that would have been refused" in rows["frames"]
    assert rows["frames to focus"] == "7 exposed"
    assert "would" not in dict(summary_lines(content))["frames"]


@pytest.mark.parametrize("seconds", [0.0, 61.0, 3725.0])
def test_progress_counts_time(seconds: float) -> None:
    facts = RunFacts("simulated", "p", True, max_seconds=7200)
    view = view_after(make_step(0), make_step(round(seconds * 10)), facts=facts)
    assert {0.0: " 0:00 of 2:00:00", 61.0: " 1:01 of", 3725.0: " 1:02:05 of"}[seconds] in drawn(view)


def test_a_single_spike_survives_thinning() -> None:
    points = [(i / 1000, 1.0 if i == 5123 else 0.0) for i in range(10_000)]
    rows = plot_rows(points, width=20, height=3, x_range=(0, 10), y_range=(0, 1), ascii_only=True)
    assert rows[0].strip() == "*"
    assert rows[2].count("*") >= 18


def test_pixels_of_blur_are_not_called_um() -> None:
    """Without optics the network says px; what the defocus is in um, nobody knows then."""
    said = Assessment("defocus", 12.0, 2.0, detail={"in_um": 0.0})
    screen = drawn(view_after(make_step(0, action=Hold("plane 1 of 9"), assessments={"defocus": said})), width=100)
    assert "defocus not known" in screen
    assert "|12.000| \u00b1 2.000 px" in screen


def test_a_focus_that_is_known_but_not_reached_is_found() -> None:
    detail = {"defocus_um": 4.0, "defocus_sd_um": 0.2, "found": 1.0, "focused": 0.0}
    screen = drawn(view_after(make_step(0, action=Change({"z_um": 8.3}, "go to the focus", detail))))
    assert "focus found" in screen
    assert "IN FOCUS" not in screen


def test_a_side_that_is_not_known_gets_no_sign() -> None:
    detail = {"defocus_um": 16.5, "defocus_sd_um": 1.1, "positive": 0.45, "focused": 0.0}
    move = Change({"z_um": 13.0}, "look where it resolves the sign", detail)
    assert "defocus |16.500| \u00b1 1.100 um" in drawn(view_after(make_step(0, action=move)))
    near = Hold("in focus", {"defocus_um": 0.1, "defocus_sd_um": 0.3, "positive": 0.6, "focused": 1.0})
    assert "defocus +0.100 \u00b1 0.300 um" in drawn(view_after(make_step(0, action=near)))


def test_in_shadow_mode_nothing_reads_as_if_it_had_been_done() -> None:
    facts = RunFacts("simulated", "focus.belief", True, shadow=True)
    assert "would move z_um to 13" in drawn(view_after(make_step(0, action=Change({"z_um": 13.0}, "go")), facts=facts))
