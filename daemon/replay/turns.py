"""A journal as a replay needs it: policies as they came and went, observations as they were told, and what followed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from parfocal.daemon.journal import JournalReading
from parfocal.daemon.records import Grids, read_assessment, read_observation
from parfocal.models.base import Assessment
from parfocal.policies.base import Observation

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Made:
    """A policy takes over; `continues` from the checkpoint of the one before."""

    name: str
    options: Mapping[str, Any]
    continues: bool = False


@dataclass(frozen=True, slots=True)
class Ordered:
    """An operator's accepted command (kind ``command_received``)."""

    record: Record


@dataclass(frozen=True, slots=True)
class Arrived:
    """A setting that was commanded, as it was read back."""

    parameter: str
    readback: float
    settled_s: float


@dataclass(frozen=True, slots=True)
class Seen:
    """A frame that was fit to decide on; the loop believes its settings from then on."""

    frame: Record


@dataclass(frozen=True, slots=True)
class Turn:
    """An observation the policy was told, with what it wanted then and what the guard said.

    `action` is `None` where the process was killed before it could be written; so is `verdict`, or the guard tripped.
    """

    observation: Observation
    frame: Record
    action: Record | None = None
    verdict: Record | None = None
    suggestions: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class Heard:
    """An observation that no frame made, and about which nothing was decided."""

    observation: Observation


Event = Made | Ordered | Arrived | Seen | Heard | Turn


@dataclass
class _Open:
    """A turn that is still being read."""

    frame: Record
    assessments: dict[str, Assessment] = field(default_factory=dict)
    action: Record | None = None
    verdict: Record | None = None
    suggestions: list[Record] = field(default_factory=list)

    def close(self) -> Turn:
        """Make the turn."""
        observation = read_observation(self.frame, self.assessments)
        return Turn(observation, self.frame, self.action, self.verdict, tuple(self.suggestions))


def events(journal: JournalReading) -> Iterator[Event]:
    """Read a journal as events, in the order in which they took effect."""
    grids, frames = Grids(), dict[int, Record]()
    turn: _Open | None = None
    for record in journal.records:
        kind = record["kind"]
        if turn is not None and not _belongs(turn, record):
            yield turn.close()
            turn = None
        if kind == "grid":
            grids.learn(record)
        elif kind == "frame":
            frames = {record["index"]: record}  # whatever follows is about this one
            if record.get("unfit") not in ("missed", "stale"):
                yield Seen(record)
        elif kind == "assessment" and (turn is not None or _decided_on(frames.get(record["index"]))):
            turn = turn or _Open(frames[record["index"]])
            turn.assessments[record["model"]] = read_assessment(record, grids)
        elif turn is not None and kind in ("action", "verdict", "suggestion"):
            _add(turn, record)
        elif kind in ("policy", "command_received", "readback", "observation"):
            event = _other(record)
            if event is not None:
                yield event
    if turn is not None:
        yield turn.close()


def _decided_on(frame: Record | None) -> bool:
    """Whether the policy was told of a frame; one that somebody snapped while paused is scored, and no more."""
    return frame is not None and not frame.get("unfit")


def _belongs(turn: _Open, record: Record) -> bool:
    """Whether a record is still about the frame of a turn."""
    kind = record["kind"]
    if kind in ("grid", "stored"):
        return True
    if kind in ("action", "suggestion") and turn.action is not None:
        return False  # decided later, and not by the policy: beside an acquisition
    if kind not in ("assessment", "action", "verdict", "suggestion"):
        return False
    return bool(record.get("index") == turn.frame["index"])


def _add(turn: _Open, record: Record) -> None:
    if record["kind"] == "action":
        turn.action = record
    elif record["kind"] == "verdict":
        turn.verdict = record
    else:
        turn.suggestions.append(record)


def _other(record: Record) -> Event | None:
    match record["kind"]:
        case "policy":
            return Made(record["policy"], numbers(record.get("options", {})), bool(record.get("continues")))
        case "observation":
            settings, time_s = numbers(record["settings"]), float(record["time_s"])
            return Heard(Observation(int(record["index"]), settings, time_s, float(record["dose"]), {}))
        case "readback":
            return Arrived(record["parameter"], float(record["readback"]), float(record["settled_s"]))
    return Ordered(record) if record.get("accepted") else None


def numbers(value: Any) -> Any:
    """Turn the words that the journal writes for NaN and infinities into numbers again."""
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return (
        {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}.get(value, value)
        if isinstance(value, str)
        else value
    )
