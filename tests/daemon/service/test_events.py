"""Events: a step becomes a plain dict that holds everything a screen needs, no pixels, and no NaN."""

from __future__ import annotations

import gc
import json
import math
import weakref
from typing import Any

import numpy as np
import pytest
from daemon_doubles import GRID
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.guard import Refusal, Verdict
from parfocal.daemon.service import events
from parfocal.daemon.service.errors import MessageError
from parfocal.daemon.service.eventmodels import End, Hello, StateEvent, StepEvent, event_of, read_event
from parfocal.daemon.service.health import Health
from parfocal.daemon.service.messages import encode
from parfocal.daemon.summary import Step, Summary
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, Distribution, PatchMap
from parfocal.policies.base import Change, Finish, Hold

anything = st.floats() | st.integers(-(10**6), 10**6)


def make_step(pixels: Any = None, **changes: Any) -> Step:
    pixels = np.zeros((8, 8), np.uint16) if pixels is None else pixels
    frame = Frame(
        pixels, 7, {"z_um": 3.0, "exposure_ms": math.nan}, 1.0, 1.5, 0.3, simulated=True, truth={"defocus_um": 1.0}
    )
    patch_map = PatchMap(np.ones((2, 2)), np.ones((2, 2)), 84, 42, "um")
    distribution = Distribution(GRID, np.full(GRID.size, 1 / GRID.size), signed=True)
    said = {
        "defocus": Assessment("defocus", np.float32(1.5), 0.5, detail={"certainty": np.float32(0.5)}, patch_map=patch_map, distribution=distribution),  # type: ignore[arg-type]  # noqa: E501
        "quality": Assessment("quality", 0.8, 0.1),
        "sharpness": Assessment.abstain("sharpness", "an empty field"),
    }  # fmt: skip
    action = Change({"z_um": 2.0}, "1 um off", {"defocus_um": 1.0, "defocus_sd_um": 0.5, "focus_z_um": 2.0})
    fields: dict[str, Any] = {
        "frame": frame, "assessments": said, "action": action, "verdict": Verdict(True, "within limits", {"z_um": 2.0}),
        "stale": False, "state": "running", "frames": 8, "scored": 6, "stale_frames": 1, "dropped": 1, "actions": 2,
        "refused": 0, "dose": 80.0, "travel_um": 12.0, "fps": 5.0, "latency_ms": 1.5, "notes": "", "dose_unit": "ms",
        "dose_budget": 100.0,
    }  # fmt: skip
    return Step(**(fields | changes))


def event(step: Step) -> StepEvent:
    read = read_event(encode(events.step_event(events.note(step, 1, 2.0))))
    assert isinstance(read, StepEvent)
    return read


def test_a_step_has_what_a_screen_needs() -> None:
    one = event(make_step())
    assert (one.index, one.t_s, one.z_um, one.n, one.simulated) == (7, 1.25, 3.0, 1, True)
    assert one.settings == {"z_um": 3.0, "exposure_ms": None}
    assert (one.assessments["defocus"].value, one.assessments["defocus"].detail) == (1.5, {"certainty": 0.5})
    assert one.assessments["sharpness"].abstained
    assert one.assessments["sharpness"].reason == "an empty field"
    assert (one.quality, one.defocus_um, one.defocus_sd_um, one.focus_z_um) == (0.8, 1.0, 0.5, 2.0)
    assert one.action is not None
    assert (one.action.kind, one.action.reason, one.action.settings) == ("change", "1 um off", {"z_um": 2.0})
    assert one.verdict is not None
    assert (one.verdict.accepted, one.verdict.settings, one.verdict.refusal) == (True, {"z_um": 2.0}, None)
    assert one.counters == {"frames": 8, "scored": 6, "stale": 1, "dropped": 1, "actions": 2, "refused": 0}
    assert (one.dose.spent, one.dose.budget, one.dose.left, one.dose.unit) == (80.0, 100.0, 20.0, "ms")
    assert (one.travel_um, one.fps, one.latency_ms, one.state, one.truth) == (
        12.0,
        5.0,
        1.5,
        "running",
        {"defocus_um": 1.0},
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"assessments": None, "action": None, "verdict": None, "stale": True}, None),
        ({"action": Hold("doubt"), "verdict": None}, "hold"),
        ({"action": Finish({"z_um": 1.0}, "found")}, "finish"),
        ({"verdict": Verdict(False, "too far", {}, Refusal.STEP)}, "change"),
    ],
)
def test_every_kind_of_step_is_an_event(changes: dict[str, Any], kind: str | None) -> None:
    one = event(make_step(**changes))
    assert (one.action.kind if one.action else None) == kind
    if kind == "change":
        assert one.verdict is not None
        assert (one.verdict.accepted, one.verdict.refusal) == (False, "step")


@given(anything, anything, anything, anything, st.none() | anything)
def test_an_event_is_strict_json_whatever_is_not_known(
    fps: Any, dose: Any, value: Any, travel: Any, budget: Any
) -> None:
    said = {"defocus": Assessment("defocus", value, value, detail={"x": value})}
    action = Change({"z_um": value}, "", {"defocus_um": value})
    step = make_step(assessments=said, action=action, fps=fps, dose=dose, travel_um=travel, dose_budget=budget)
    content = events.step_event(events.note(step, 1, 2.0))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    read = event(step)
    assert read.travel_um == (travel if math.isfinite(travel) else None)


def test_a_note_does_not_keep_the_pixels() -> None:
    """Thousands of notes may wait; thousands of images would fill the memory."""
    pixels = np.zeros((64, 64), np.uint16)
    gone = weakref.ref(pixels)
    step = make_step(pixels)
    noted = events.note(step, 1, 2.0)
    del step, pixels
    gc.collect()
    assert gone() is None
    assert noted.frame_index == 7


def test_the_other_events() -> None:
    hello = event_of(events.hello_event(1, 2.0, {"session": "s", "limits": {"z_um": {"upper": math.inf}}, "x": (1, 2)}))
    assert isinstance(hello, Hello)
    assert hello.facts == {"session": "s", "limits": {"z_um": {"upper": None}}, "x": [1, 2]}
    state = event_of(events.state_event(1, 2.0, "idle", "running", "started", 5.0))
    assert isinstance(state, StateEvent)
    end = event_of(events.end_event(1, 2.0, Summary("s", "simulated", True, "done", frames=3)))
    assert isinstance(end, End)
    assert (end.outcome, end.summary["frames"], end.summary["final"]["defocus_um"]) == ("done", 3, None)


def test_health_knows_the_latencies_of_the_frames_that_were_decided_on() -> None:
    now = [10.0]
    health = Health(lambda: now[0])
    assert math.isnan(health.numbers()["since_step_s"])
    for latency in (1.0, 2.0, math.nan, 9.0):
        health.note(events.note(make_step(latency_ms=latency), 1, 2.0))
    now[0] = 12.5
    found = health.numbers()
    assert (found["latency_ms"]["p50"], found["latency_ms"]["p99"], found["since_step_s"], found["fps"]) == (
        2.0,
        9.0,
        2.5,
        5.0,
    )
    content = {"state": "running", "lost_events": 0, "refused": {}} | found
    assert event_of(events.health_event(1, 2.0, content)).kind == "health"


def test_an_event_of_a_newer_daemon_may_say_more() -> None:
    content = events.step_event(events.note(make_step(), 1, 2.0)) | {"mood": "good"}
    assert event_of(content).model_dump()["mood"] == "good"


@pytest.mark.parametrize("content", [{"kind": "rumour"}, {"kind": "step"}, {}])
def test_what_is_no_event_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(MessageError):
        event_of({"version": 1, "n": 1, "sent_s": 1.0} | content)
