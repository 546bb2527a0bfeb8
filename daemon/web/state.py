"""What the page shows: everything a browser that comes late must be told, and the difference every event makes.

Kept here and not in the browsers, so that two of them agree.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from parfocal.daemon.decisions import side_known
from parfocal.daemon.service.eventmodels import End, Event, Health, Hello, OrderEvent, Restored, StateEvent, StepEvent
from parfocal.daemon.web.feed import Feed
from parfocal.daemon.web.trials import Trials
from parfocal.daemon.web.wire import preview_bytes, restored_bytes

if TYPE_CHECKING:
    from parfocal.daemon.service.clientview import DaemonStatus

Delta = dict[str, Any]
ROW = ("t_s", "z_um", "defocus_um", "sd_um", "focus_z_um", "quality", "mark", "truth_z_um")
MOVED, REFUSED = 1, 2
ROWS, ROW_EVERY_S = 9000, 0.1
"""Fifteen minutes; between two rows lies at least this time, unless something was done."""

LEVEL_PX, LEVELS = 3.0, 10
"""The scale of defocus maps, as in `parfocal score --maps`: ten levels of blur."""


class Picture:
    """Takes in events; every method returns what has changed.

    Parameters
    ----------
    monotonic : callable
        Seconds that never jump; the ages of things are counted with it.
    wall : callable
        Unix time.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic, self._wall = monotonic, wall
        self.preview: bytes | None = None
        self.restored: bytes | None = None
        self._link: Delta = {"up": False, "text": "not connected yet", "address": "", "at": monotonic()}
        self._people: Delta = {"operate": 0, "observe": 0}
        self._begin()

    def _begin(self) -> None:
        self._feed, self._trials = Feed(), Trials()
        self._rows: deque[list[float | None]] = deque(maxlen=ROWS)
        self._values: Delta = dict.fromkeys(("hello", "state", "step", "belief", "quality", "health", "end"))
        self._scale_um: float | None = None
        self._facts: dict[str, Any] = {}
        self.preview = self.restored = None

    # -- what a browser is told ---------------------------------------------------------------------------------------

    def snapshot(self) -> Delta:
        """Return everything."""
        return {
            "reset": True,
            **self._values,
            "link": self._link,
            "people": self._people,
            "scale_um": self._scale_um,
            "rows": list(self._rows),
            "entries": [dict(entry) for entry in self._feed.entries],
            "trials": list(self._trials.trials),
            "recommended": self._trials.recommended,
        }

    def now(self) -> float:
        """Return the time with which ages are counted."""
        return self._monotonic()

    @property
    def is_up(self) -> bool:
        """Whether events arrive."""
        return bool(self._link["up"])

    @property
    def is_over(self) -> bool:
        """Whether the daemon itself said that the microscope is safe."""
        state = self._values["state"]
        return self._values["end"] is not None or (state is not None and state["name"] in ("safe", "ended"))

    # -- what it is told ----------------------------------------------------------------------------------------------

    def status(self, status: DaemonStatus) -> Delta:
        """Take in what a daemon answers when it is asked; the beginning, and after every loss of the connection."""
        delta: Delta = {}
        for event in (status.hello, status.step, status.health, status.end):
            if event is not None:
                _merge(delta, self.take(event))
        if self._values["state"] is None or self._values["state"]["name"] != status.state:
            _merge(delta, self._state(status.state, ""))
        self._link |= {"up": True, "text": "", "address": status.address, "at": self.now(), "role": status.role}
        return delta | {"link": dict(self._link)}

    def lost(self, text: str) -> Delta:
        """Learn that the daemon does not answer."""
        was_up = self._link["up"]
        if not was_up and self._link["text"] == text:
            return {}
        self._link |= {"up": False, "text": text}
        if was_up:
            self._link["at"] = self.now()
        delta: Delta = {"link": dict(self._link)}
        if was_up and self._values["end"] is None:
            delta["entries"] = [dict(self._feed.link("the daemon is silent", text, self._wall()))]
        return delta

    def people(self, operate: int, observe: int) -> Delta:
        """Learn who looks."""
        self._people = {"operate": operate, "observe": observe}
        return {"people": self._people}

    def order(self, who: str, command: str, text: str, *, accepted: bool) -> Delta:
        """Learn what somebody asked for on this page, where the daemon does not tell."""
        return {"entries": [dict(self._feed.order(who, command, text, self._wall(), accepted=accepted))]}

    def take(self, event: Event) -> Delta:
        """Take in an event; images change `preview` and `restored`."""
        if isinstance(event, StepEvent):
            return self._step(event)
        if isinstance(event, StateEvent):
            delta = self._state(event.new, event.reason)
            return delta | {"entries": [dict(self._feed.state(event))]}
        if isinstance(event, OrderEvent):
            return {"entries": [dict(self._feed.ordered(event))]}
        if isinstance(event, Health):
            self._values["health"] = _dump(event) | {"at": self._at(event.sent_s)}
            delta = {"health": self._values["health"]}
            if self._values["state"] is None or self._values["state"]["name"] != event.state:
                delta |= self._state(event.state, "")
            return delta
        if isinstance(event, Hello):
            return self._hello(event)
        if isinstance(event, End):
            self._values["end"] = _dump(event) | {"at": self._at(event.sent_s)}
            return {"end": self._values["end"]} | self._state("ended", event.outcome)
        if isinstance(event, Restored):
            self.restored = restored_bytes(event, self._at(event.sent_s))
            return {}
        self.preview = preview_bytes(event, self._at(event.sent_s))
        return {}

    def _hello(self, event: Hello) -> Delta:
        old, new = self._facts, event.facts
        if old and old.get("folder") != new.get("folder"):
            self._begin()
            old = {}
        first, self._facts = not old, new
        self._values["hello"] = {"parfocal": event.parfocal, "facts": new}
        delta: Delta = {"hello": self._values["hello"]}
        if first:
            return self.snapshot()
        entries = self._feed.facts(old, new, event.sent_s)
        return delta | ({"entries": [dict(entry) for entry in entries]} if entries else {})

    def _state(self, name: str, reason: str) -> Delta:
        self._values["state"] = {"name": name, "reason": reason, "at": self.now()}
        return {"state": self._values["state"]}

    def _step(self, event: StepEvent) -> Delta:
        values = self._values
        previous = values["step"]
        if previous is not None and previous["n"] >= event.n and previous["index"] >= event.index:
            return {}  # what the status said was this frame already
        values["step"] = _dump(event) | {"at": self._at(event.sent_s)}
        delta: Delta = {"step": values["step"]}
        if values["state"] is None or values["state"]["name"] != event.state:
            delta |= self._state(event.state, "")
        delta |= self._learned(event)
        entry = self._feed.step(event, shadow=bool(self._facts.get("shadow")))
        if entry is not None:
            delta["entries"] = [dict(entry)]
        row = self._row(event)
        if row is not None:
            delta["rows"] = [row]
        return delta

    def _learned(self, event: StepEvent) -> Delta:
        """Note what stays shown, with its age, when the next frame says nothing of it."""
        delta: Delta = {}
        detail = event.action.detail if event.action is not None else {}
        if event.defocus_um is not None:
            self._values["belief"] = delta["belief"] = {
                "defocus_um": event.defocus_um, "sd_um": event.defocus_sd_um, "focus_z_um": event.focus_z_um,
                "focused": detail.get("focused"), "positive": detail.get("positive"), "index": event.index,
                "at": self._at(event.sent_s),
            }  # fmt: skip
        said = event.assessments.get("quality")
        if said is not None:
            self._values["quality"] = delta["quality"] = {
                "value": said.value, "sd": said.sd, "abstained": said.abstained, "reason": said.reason,
                "index": event.index, "at": self._at(event.sent_s),
            }  # fmt: skip
        scale_um = _scale_um(event)
        if scale_um is not None and self._scale_um is None:
            self._scale_um = delta["scale_um"] = scale_um
        trial = self._trials.take(detail, event.index)
        if trial is not None:
            delta |= {"trials": [dict(trial)], "recommended": self._trials.recommended}
        return delta

    def _row(self, event: StepEvent) -> list[float | None] | None:
        mark = 0
        if event.verdict is not None and not event.verdict.accepted:
            mark = REFUSED
        elif event.verdict is not None and event.verdict.settings:
            mark = MOVED
        last = self._rows[-1] if self._rows else None
        if last is not None and not mark and 0 <= event.t_s - (last[0] or 0.0) < ROW_EVERY_S:
            return None
        known = _side_known(event)  # else the mean of what is believed would be drawn on one side, at random
        row = [
            event.t_s, event.z_um, event.defocus_um if known else None, event.defocus_sd_um if known else None,
            event.focus_z_um if known else None, event.quality, float(mark), event.truth.get("focus_z_um"),
        ]  # fmt: skip
        self._rows.append(row)
        return row

    def _at(self, sent_s: float) -> float:
        """When something was sent, on the clock of ages; never in the future, whatever the clocks say."""
        return self.now() - max(self._wall() - sent_s, 0.0)


def _merge(into: Delta, more: Delta) -> None:
    """Add what a later event changed."""
    for key, value in more.items():
        if key in ("rows", "entries", "trials") and key in into and not more.get("reset"):
            into[key] = [*into[key], *value]
        else:
            into[key] = value


def _side_known(event: StepEvent) -> bool:
    detail = event.action.detail if event.action is not None else {}
    return side_known({name: value for name, value in detail.items() if value is not None})


def _scale_um(event: StepEvent) -> float | None:
    """What ten levels of blur are in um, from what the network says in both units of one frame."""
    said = event.assessments.get("defocus")
    if said is None or said.value is None or said.detail.get("in_um") != 1.0:
        return None
    blur_px = said.detail.get("blur_px")
    if blur_px is None or abs(said.value) < 0.05 or blur_px < 0.3:
        return None
    return LEVEL_PX * LEVELS * abs(said.value) / blur_px


def _dump(event: Event) -> dict[str, Any]:
    return event.model_dump(mode="json", exclude={"version", "kind"})
