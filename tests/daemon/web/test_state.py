"""What the pages show: whoever comes late knows what those know who were there all the time."""

from __future__ import annotations

import asyncio
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.service.clientview import DaemonStatus
from parfocal.daemon.service.eventmodels import Event, event_of
from parfocal.daemon.web.state import MOVED, REFUSED, ROW, ROWS, Picture
from parfocal.daemon.web.tabs import GROWING, MOST, Tab, Tabs

HEAD = {"version": 1, "n": 1, "sent_s": 1000.0}
FACTS = {"folder": "/s/one", "session": "one", "simulated": True, "shadow": False, "policy": {"name": "focus.belief", "options": {}}, "limits": {"z_um": {"lower": -10.0, "upper": 10.0}}}  # fmt: skip  # noqa: E501


def hello(**facts: Any) -> Event:
    return event_of({**HEAD, "kind": "hello", "parfocal": "0.1.0", "facts": {**FACTS, **facts}})


def state(new: str, reason: str = "because") -> Event:
    return event_of({**HEAD, "kind": "state", "old": "idle", "new": new, "reason": reason, "time_s": 1.0})


def order(**changes: Any) -> Event:
    base = {"who": "ann", "role": "operate", "via": "terminal", "command": "pause", "arguments": {"reason": "lunch"}, "accepted": True, "text": "paused after the frame at hand", "code": ""}  # fmt: skip  # noqa: E501
    return event_of({**HEAD, "kind": "order", **base, **changes})


def health(**changes: Any) -> Event:
    base = {"state": "running", "fps": 5.0, "latency_ms": {"p50": 1.0, "p99": 2.0}, "since_step_s": 0.1, "lost_events": 0, "refused": {}}  # fmt: skip  # noqa: E501
    return event_of({**HEAD, "kind": "health", **base, **changes})


def end() -> Event:
    return event_of({**HEAD, "kind": "end", "outcome": "done", "summary": {"frames": 3}})


def step(index: int, kind: str | None = "hold", *, accepted: bool = True, **changes: Any) -> Event:
    detail = {"defocus_um": 0.1, "defocus_sd_um": 0.2, "focus_z_um": 4.9, "focused": 1.0}
    settings = {} if kind in (None, "hold") else {"z_um": float(index)}
    action = {"kind": kind, "reason": f"reason {index}", "settings": settings, "detail": changes.pop("detail", detail)}
    verdict = {"accepted": accepted, "reason": "as the guard says", "settings": settings if accepted else {}, "refusal": None if accepted else "limit"}  # fmt: skip  # noqa: E501
    content = {
        **HEAD, "kind": "step", "n": index + 1, "index": index, "t_s": 0.5 * index, "start_s": 0.0, "end_s": 0.1,
        "z_um": 5.0, "settings": {"z_um": 5.0}, "assessments": {}, "action": action if kind else None,
        "verdict": verdict if kind else None,
        "defocus_um": detail["defocus_um"] if kind else None, "defocus_sd_um": 0.2 if kind else None,
        "focus_z_um": 4.9 if kind else None, "quality": None, "state": "running", "stale": kind is None,
        "counters": {"frames": index, "scored": index, "stale": 0, "dropped": 0, "actions": 0, "refused": 0},
        "dose": {"spent": 1.0, "budget": None, "left": None, "unit": "ms"}, "travel_um": 0.0, "fps": 5.0,
        "latency_ms": 1.0, "notes": "", "simulated": True, "truth": {"focus_z_um": 4.8},
    }  # fmt: skip
    return event_of(content | changes)


class Browser:
    """What `model.js` does with messages."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.rows: list[Any] = []
        self.entries: dict[int, Any] = {}
        self.trials: dict[int, Any] = {}

    def apply(self, text: str) -> None:
        message = json.loads(text)
        message.pop("now", None)
        message.pop("role", None)
        if message.pop("reset", False):
            self.__init__()  # type: ignore[misc]
        self.rows = [*self.rows, *message.pop("rows", [])][-ROWS:]
        self.entries |= {one["id"]: one for one in message.pop("entries", [])}
        self.trials |= {one["id"]: one for one in message.pop("trials", [])}
        self.values |= message

    def knows(self) -> Any:
        return json.loads(json.dumps([self.values, self.rows, list(self.entries.values()), list(self.trials.values())]))


def still(picture_at: float = 0.0) -> Picture:
    return Picture(lambda: picture_at, lambda: 1000.0)


def news(tab: Tab, browser: Browser) -> None:
    """Read what waits, if there is anything."""
    for message in tab.collect(lambda: 0.0, "operate"):
        if isinstance(message, str):
            browser.apply(message)


KINDS = ("hold", "change", "refused", "finish", "stale", "hello", "limit", "policy", "session", "state", "health", "end", "lost", "order", "elsewhere", "look")  # fmt: skip  # noqa: E501


def happen(picture: Picture, what: str, number: int) -> Any:
    match what:
        case "hold" | "change" | "finish":
            return picture.take(step(number, what))
        case "refused":
            return picture.take(step(number, "change", accepted=False))
        case "stale":
            return picture.take(step(number, None))
        case "hello":
            return picture.take(hello())
        case "limit":
            return picture.take(hello(limits={"z_um": {"lower": -10.0, "upper": float(number)}}))
        case "policy":
            return picture.take(hello(policy={"name": f"p{number}", "options": {"a": number}}))
        case "session":
            return picture.take(hello(folder=f"/s/{number}"))
        case "state":
            return picture.take(state("paused"))
        case "health":
            return picture.take(health(lost_events=number))
        case "end":
            return picture.take(end())
        case "lost":
            return picture.lost("nobody answered")
        case "order":
            return picture.order("the web page", "pause", "paused", accepted=bool(number % 2))
        case "elsewhere":
            return picture.take(order(accepted=bool(number % 2)))
    raise AssertionError(what)


@given(st.lists(st.sampled_from(KINDS), max_size=40))
def test_all_pages_agree_whenever_they_came_and_however_slow_they_are(script: list[str]) -> None:
    picture = still()
    tabs = Tabs(picture.snapshot)
    quick, slow = tabs.join("operate", None), tabs.join("observe", None)
    assert quick is not None and slow is not None
    early, lazy = Browser(), Browser()
    for number, what in enumerate(script):
        if what == "look":
            news(slow, lazy)
            continue
        tabs.put(happen(picture, what, number))
        news(quick, early)
        if number == 0:
            news(slow, lazy)
    tabs.put(picture.people(1, 1))
    for tab, browser in ((quick, early), (slow, lazy)):
        news(tab, browser)
    late = Browser()
    joined = tabs.join("operate", None)
    assert joined is not None
    news(joined, late)
    assert early.knows() == lazy.knows() == late.knows()


def test_holds_in_a_row_are_one_entry_and_anything_between_ends_the_row() -> None:
    picture = still()
    for what in ("hold", "hold", "hold", "change", "hold", "order", "hold"):
        happen(picture, what, len(picture.snapshot()["rows"]))
    entries = picture.snapshot()["entries"]
    assert [(one["kind"], one["count"]) for one in entries] == [("hold", 3), ("change", 1), ("hold", 1), ("order", 1), ("hold", 1)]  # fmt: skip  # noqa: E501
    assert entries[0]["reason"] == "reason 2" and entries[0]["frame"] == 2


def test_a_refusal_says_what_the_guard_says_and_what_was_wanted() -> None:
    picture = still()
    happen(picture, "refused", 7)
    entry = picture.snapshot()["entries"][-1]
    assert entry["kind"] == "refused"
    assert entry["what"] == "refused: z_um to 7"
    assert entry["reason"] == "as the guard says (wanted: reason 7)"


def test_in_shadow_mode_it_only_would() -> None:
    picture = still()
    picture.take(hello(shadow=True))
    picture.take(step(3, "change"))
    assert picture.snapshot()["entries"][-1]["what"] == "would move z_um to 3"


def test_rows_keep_what_was_done_and_thin_out_the_rest() -> None:
    picture = still()
    for index in range(1000):
        kind, accepted = ("change", index % 200 == 1) if index % 100 == 1 else ("hold", True)
        picture.take(step(index, kind, accepted=accepted, t_s=0.01 * index))
    rows = picture.snapshot()["rows"]
    marks = [row[ROW.index("mark")] for row in rows]
    assert marks.count(MOVED) == 5 and marks.count(REFUSED) == 5
    assert 90 <= len(rows) <= 125
    assert rows[-1][ROW.index("truth_z_um")] == 4.8


def test_a_focus_of_unknown_side_is_not_drawn_on_one() -> None:
    picture = still()
    detail = {"defocus_um": 19.0, "defocus_sd_um": 1.0, "focus_z_um": -14.0, "positive": 0.5}
    picture.take(step(1, "change", detail=detail, defocus_um=19.0, defocus_sd_um=1.0, focus_z_um=-14.0))
    picture.take(step(2, "change", detail=detail | {"positive": 0.99}, defocus_um=19.0, focus_z_um=-14.0))
    at = ROW.index("focus_z_um")
    assert [row[at] for row in picture.snapshot()["rows"]] == [None, -14.0]
    assert picture.snapshot()["belief"]["positive"] == 0.99


def test_another_session_begins_anew() -> None:
    picture = still()
    picture.take(hello())
    picture.take(step(5))
    delta = picture.take(hello(folder="/s/two"))
    assert delta["reset"] and delta["rows"] == [] and delta["step"] is None and delta["entries"] == []


def test_what_others_changed_is_told() -> None:
    picture = still()
    picture.take(hello())
    limits = {"z_um": {"lower": -10.0, "upper": 5.0}}
    picture.take(hello(limits=limits))
    picture.take(hello(limits=limits, policy={"name": "focus.hold", "options": {"a": 1}}))
    assert [one["what"] for one in picture.snapshot()["entries"]] == [
        "limit z_um.upper: 10 to 5", "policy focus.belief to focus.hold", "option a: none to 1",
    ]  # fmt: skip
    assert picture.take(hello(limits=limits, policy={"name": "focus.hold", "options": {"a": 1}})).get("entries") is None


def test_what_others_order_is_told_with_who_why_and_what_became_of_it() -> None:
    picture = still()
    picture.take(hello())
    delta = picture.take(order())
    assert delta["entries"][0]["kind"] == "order"
    assert delta["entries"][0]["what"] == "pause asked for by ann, terminal"
    assert delta["entries"][0]["reason"] == "lunch: paused after the frame at hand"
    refused = picture.take(
        order(command="set_limit", arguments={"value": 1e3}, accepted=False, text="too wide", via="")
    )
    assert refused["entries"][0]["kind"] == "order-refused"
    assert (refused["entries"][0]["what"], refused["entries"][0]["reason"]) == (
        "set_limit asked for by ann",
        "too wide",
    )


def test_ages_are_counted_from_when_it_was_sent_and_never_from_the_future() -> None:
    picture = Picture(lambda: 50.0, lambda: 1010.0)
    assert picture.take(step(1))["step"]["at"] == 40.0
    assert picture.take(step(2, sent_s=2000.0))["step"]["at"] == 50.0


def test_a_lost_daemon_is_said_once_and_the_way_back_too() -> None:
    picture = still()
    status = DaemonStatus("tcp://x", "running", "me", "operate", hello(), step(4))  # type: ignore[arg-type]
    assert picture.status(status)["link"]["up"] is True
    lost = picture.lost("silence")
    assert lost["link"]["up"] is False and len(lost["entries"]) == 1
    assert picture.lost("silence") == {}
    assert "entries" not in picture.lost("still silence")
    back = picture.status(status)
    assert back["link"]["up"] is True
    assert [row[0] for row in picture.snapshot()["rows"]] == [2.0], "the step that was known already came twice"


def test_it_is_over_only_when_the_daemon_said_so() -> None:
    picture = still()
    picture.take(step(1))
    picture.lost("gone")
    assert not picture.is_over
    picture.take(state("safe"))
    assert picture.is_over


def test_the_scale_of_a_defocus_map_is_ten_levels_of_blur() -> None:
    picture = still()
    said = {"value": 0.5, "sd": 0.1, "abstained": False, "reason": "", "detail": {"in_um": 1.0, "blur_px": 2.5}}
    picture.take(step(1, assessments={"defocus": {**said, "detail": {"in_um": 0.0, "blur_px": 2.5}}}))
    assert picture.snapshot()["scale_um"] is None
    assert picture.take(step(2, assessments={"defocus": said}))["scale_um"] == pytest.approx(6.0)


def test_trials_of_a_search_for_settings_are_kept_with_their_objectives() -> None:
    picture = still()
    first = {"images": 1.0, "trial_depletion_power": 20.0, "bleach": 0.1, "resolution_nm": 80.0, "pareto": 1.0}
    picture.take(step(1, "change", detail=first))
    picture.take(step(2, "hold", detail=first))
    second = {"images": 2.0, "trial_depletion_power": 40.0, "objective_mine": 3.0, "recommended_depletion_power": 40.0}
    delta = picture.take(step(3, "change", detail=second))
    assert delta["recommended"] == {"depletion_power": 40.0}
    assert [(one["id"], one["settings"], one["objectives"]) for one in picture.snapshot()["trials"]] == [
        (1, {"depletion_power": 20.0}, {"bleach": 0.1, "resolution_nm": 80.0}),
        (2, {"depletion_power": 40.0}, {"mine": 3.0}),
    ]


def test_a_preview_is_header_pixels_and_map() -> None:
    value, certainty = np.arange(6, dtype="<f4"), np.full(6, 0.5, "<f4")
    pixels = bytes(range(12))
    other = {"model": "other", "rows": 1, "columns": 1, "patch_px": 84, "stride_px": 42, "unit": "", "value": b"\0\0\0\x40", "certainty": b"\0\0\0\x41"}  # fmt: skip  # noqa: E501
    found = {"model": "defocus", "rows": 2, "columns": 3, "patch_px": 84, "stride_px": 42, "unit": "um", "value": value.tobytes(), "certainty": certainty.tobytes()}  # fmt: skip  # noqa: E501
    picture = still()
    assert picture.take(event_of({**HEAD, "kind": "preview", "index": 3, "width": 4, "height": 3, "factor": 2, "low": 1.0, "high": 9.0, "pixels": pixels, "patch_maps": [found, other]})) == {}  # fmt: skip  # noqa: E501
    data = picture.preview
    assert data is not None
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    assert (header["index"], header["width"], header["height"], header["maps"][0]["model"]) == (3, 4, 3, "defocus")
    assert "value" not in header["maps"][0]
    assert header["maps"][1]["model"] == "other"
    at = 4 + length
    assert at % 4 == 0, "a browser reads floats only where they are aligned"
    assert data[at : at + 12] == pixels
    np.testing.assert_array_equal(np.frombuffer(data, "<f4", offset=at + 12), [*value, *certainty, 2.0, 8.0])


def test_a_page_that_falls_too_far_behind_begins_anew_instead_of_filling_the_memory() -> None:
    picture = still()
    tabs = Tabs(picture.snapshot)
    tab = tabs.join("observe", None)
    assert tab is not None
    browser = Browser()
    news(tab, browser)
    for index in range(GROWING["rows"] + 2):
        tabs.put(picture.take(step(index, "change")))
        tabs.put_preview(bytes([index % 256]))
    messages = asyncio.run(tab.take(lambda: 1.0, "observe"))
    assert [type(one) for one in messages] == [str, bytes]
    assert isinstance(messages[0], str) and json.loads(messages[0])["reset"] is True
    assert messages[1] == bytes([(GROWING["rows"] + 1) % 256])


def test_there_is_room_for_so_many_pages_and_no_more() -> None:
    tabs = Tabs(dict)
    joined = [tabs.join("operate" if n % 2 else "observe", None) for n in range(MOST)]
    assert None not in joined
    assert tabs.join("operate", None) is None
    assert tabs.counts() == (MOST // 2, MOST // 2)
    assert joined[0] is not None
    tabs.leave(joined[0])
    assert tabs.join("operate", None) is not None
