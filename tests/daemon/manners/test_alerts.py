"""When people are called: once when something begins, once when it is over, and never by the loop's thread."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

from parfocal.daemon.config_models import AlertsSection
from parfocal.daemon.guard import Refusal, Verdict
from parfocal.daemon.manners.alerts import CALM_S, Alerts, alerts_of, message
from parfocal.daemon.states import State
from parfocal.daemon.summary import Step, Summary
from parfocal.drivers.base import Frame
from parfocal.policies.base import Action, Change, Hold

DOUBT = Hold("not moving on doubt", {"focused": 0.0})
IN_FOCUS = Hold("in focus", {"focused": 1.0})
MOVE = Change({"z_um": 1.0}, "off")
ACCEPTED = Verdict(True, "within limits")
REFUSED = Verdict(False, "too far", refusal=Refusal.STEP)


class Box:
    """Takes what would be posted."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.closed = 0

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)

    def close(self) -> None:
        self.closed += 1

    def take(self) -> list[tuple[str, str]]:
        taken, self.messages = self.messages, []
        return [(one["kind"], one["status"]) for one in taken]


class Watched:
    """Alerts on a clock that is set by hand."""

    def __init__(self, patience_s: float = 0.0, **section: Any) -> None:
        self.now, self.index = 1000.0, 0
        self.box = Box()
        self.vitals = SimpleNamespace(recorder_lost=0)
        self.alerts = Alerts(
            AlertsSection(webhook="https://x", **section), self.box, patience_s=patience_s,  # type: ignore[arg-type]
            monotonic=lambda: self.now,
        )  # fmt: skip
        self.alerts._vitals = self.vitals  # type: ignore[assignment]  # the test looks itself, no thread does
        self.alerts.state(State.IDLE, State.RUNNING, "started", 0.0)

    def step(
        self, action: Action | None, verdict: Verdict | None = ACCEPTED, *, s: float = 1.0, dose: float = 0.0,
        budget: float | None = None, state: str = "running",
    ) -> list[tuple[str, str]]:  # fmt: skip
        self.now, self.index = self.now + s, self.index + 1
        frame = Frame(np.zeros((2, 2), np.uint16), self.index, {"z_um": 0.0}, self.now - s, self.now, 0.1)
        self.alerts.listen(
            Step(
                frame, {}, action, verdict, action is None, state, self.index, 0, 0, 0, 0, 0, dose, 0.0, 1.0, 1.0,
                dose_unit="mJ", dose_budget=budget,
            )
        )  # fmt: skip
        return self.look()

    def look(self, later_s: float = 0.0) -> list[tuple[str, str]]:
        self.now += later_s
        with structlog.testing.capture_logs():
            self.alerts.look()
        return self.box.take()


def test_a_long_hold_calls_once_and_once_more_when_it_is_over() -> None:
    watched = Watched(hold_longer_than_s=10.0)
    assert [watched.step(DOUBT) for _ in range(10)] == [[]] * 10
    assert watched.step(DOUBT) == [("hold", "firing")]
    assert [watched.step(DOUBT) for _ in range(50)] == [[]] * 50
    assert watched.step(MOVE) == [("hold", "cleared")]
    assert [watched.step(DOUBT) for _ in range(10)] == [[]] * 10
    assert watched.step(DOUBT) == [("hold", "firing")]  # again, for it was over


@pytest.mark.parametrize("good", [IN_FOCUS, MOVE])
def test_being_in_focus_or_moving_is_no_hold(good: Action) -> None:
    watched = Watched(hold_longer_than_s=5.0)
    for _ in range(100):
        assert watched.step(good) == []
        assert [watched.step(DOUBT) for _ in range(4)] == [[]] * 4


def test_refusals_are_a_hold_and_stale_frames_neither_here_nor_there() -> None:
    watched = Watched(hold_longer_than_s=5.0)
    calls = [watched.step(MOVE, REFUSED) if n % 2 else watched.step(None, None) for n in range(12)]
    assert [call for call in calls if call] == [[("hold", "firing")]]


def test_a_pause_and_a_policy_that_never_moves_are_no_hold() -> None:
    watched = Watched(hold_longer_than_s=5.0)
    watched.alerts.facts({"policy": {"name": "focus.hold"}})
    assert [watched.step(DOUBT) for _ in range(20)] == [[]] * 20
    watched.alerts.facts({"policy": {"name": "focus.belief"}})
    assert watched.look() == [("hold", "firing")]
    watched.alerts.state(State.RUNNING, State.PAUSED, "lunch", 0.0)
    assert watched.look() == [("hold", "cleared")]
    assert watched.step(DOUBT, None, s=50.0, state="paused") == []  # one frame was asked for
    watched.alerts.state(State.PAUSED, State.RUNNING, "resumed", 0.0)
    assert watched.step(DOUBT) == []


def test_no_frame_counts_from_the_last_one_and_only_while_one_is_due() -> None:
    watched = Watched(no_frame_for_s=30.0, patience_s=100.0)
    watched.step(IN_FOCUS)
    assert watched.look(130.0) == []
    assert watched.look(0.5) == [("no_frame", "firing")]
    assert watched.look(100.0) == []
    assert watched.step(IN_FOCUS) == [("no_frame", "cleared")]
    watched.alerts.state(State.RUNNING, State.PAUSED, "lunch", 0.0)
    assert watched.look(1e6) == []
    watched.alerts.state(State.PAUSED, State.RUNNING, "resumed", 0.0)
    assert watched.look() == []
    assert watched.look(131.0) == [("no_frame", "firing")]


def test_not_even_a_first_frame() -> None:
    assert Watched(no_frame_for_s=30.0).look(31.0) == [("no_frame", "firing")]


def test_lost_frames_call_until_there_was_none_for_a_while() -> None:
    watched = Watched(no_frame_for_s=None)
    assert watched.look() == []
    watched.vitals.recorder_lost = 3
    assert watched.look() == [("recorder", "firing")]
    watched.vitals.recorder_lost = 9
    assert watched.look(CALM_S - 1) == []
    assert watched.look(CALM_S - 1) == []
    assert watched.look(2.0) == [("recorder", "cleared")]
    watched.vitals.recorder_lost = 10
    assert watched.look() == [("recorder", "firing")]


def test_the_dose_calls_at_its_share_and_not_without_a_budget() -> None:
    watched = Watched(dose_share=0.9)
    assert watched.step(IN_FOCUS, dose=89.0, budget=100.0) == []
    assert watched.step(IN_FOCUS, dose=90.0, budget=100.0) == [("dose", "firing")]
    assert watched.step(IN_FOCUS, dose=99.0, budget=100.0) == []
    assert watched.step(IN_FOCUS, dose=99.0, budget=1000.0) == [("dose", "cleared")]  # somebody raised it
    assert Watched().step(IN_FOCUS, dose=1e9) == []


def test_what_is_null_is_never_called_about() -> None:
    watched = Watched(hold_longer_than_s=None, no_frame_for_s=None, dose_share=None)
    assert [watched.step(DOUBT, s=1e4, dose=1.0, budget=1.0) for _ in range(5)] == [[]] * 5
    assert watched.look(1e6) == []


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [("tripped", "tripped"), ("failed", "failed"), ("safe", "safe"), ("done", None), ("stopped", None)],
)
def test_how_it_ended(outcome: str, kind: str | None) -> None:
    watched = Watched()
    with structlog.testing.capture_logs():
        watched.alerts.end(Summary("s", "x", True, outcome, error="the camera is gone"))
        watched.alerts.failed(RuntimeError("later"))  # once is enough
    if kind is None:
        assert watched.box.take() == []
        return
    (posted,) = watched.box.messages
    assert (posted["kind"], posted["status"]) == (kind, "firing")
    assert "the camera is gone" in posted["text"]


def test_an_error_in_no_summary_is_called_about_but_not_ctrl_c() -> None:
    watched = Watched()
    with structlog.testing.capture_logs():
        watched.alerts.failed(KeyboardInterrupt())
        assert watched.box.messages == []
        watched.alerts.failed(ZeroDivisionError("oh"))
    assert "FAILED: ZeroDivisionError: oh" in watched.box.messages[0]["text"]


def test_that_it_ended_has_cured_nothing() -> None:
    watched = Watched(hold_longer_than_s=5.0)
    assert [call for call in [watched.step(DOUBT, s=3.0) for _ in range(4)] if call] == [[("hold", "firing")]]
    watched.alerts.state(State.RUNNING, State.STOPPING, "its length", 0.0)
    assert watched.look() == []
    with structlog.testing.capture_logs():
        watched.alerts.end(Summary("s", "x", True, "done"))
    assert watched.box.take() == []


def test_what_is_wrong_at_the_very_end_is_still_said() -> None:
    watched = Watched()
    watched.vitals.recorder_lost = 1
    with structlog.testing.capture_logs():
        watched.alerts.end(Summary("s", "x", True, "done"))
    assert watched.box.take() == [("recorder", "firing")]


def test_a_message_says_where_which_session_and_that_it_is_simulated() -> None:
    about = {"session": "20260101-night", "simulated": True, "shadow": True}
    posted = message("hold", "firing", "HOLDS <!channel> & more", name="Scope 3", about=about)
    start = "parfocal SIMULATED SHADOW Scope 3 (20260101-night): HOLDS "
    assert posted["text"] == start + "&lt;!channel&gt; &amp; more"
    assert posted["microscope"] == "Scope 3"
    assert message("hold", "firing", "x", name=None, about={})["microscope"]


def test_without_the_section_nobody_is_called() -> None:
    from parfocal.daemon.config import load_config

    assert alerts_of(load_config(None)) is None
