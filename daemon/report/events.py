"""What happened in a session, gathered from its journal in one pass: frames, decisions, moves, holds, orders."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parfocal.daemon.decisions import side_known
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.turns import numbers

Record = Mapping[str, Any]
nan = math.nan


@dataclass(slots=True)
class FrameRow:
    """One frame: when, with which settings, to what end; and what the models and the policy made of it."""

    index: int
    at_s: float
    settings: Mapping[str, float]
    dose: float
    unfit: str
    truth_um: float = nan
    focus_um: float = nan
    sd_um: float = nan
    known: bool = False
    focused: bool = False
    values: dict[str, tuple[float, float]] = field(default_factory=dict)
    flagged: bool = False


@dataclass(slots=True)
class MoveRow:
    """One thing that was wanted and not nothing: a move, a finish, a refusal.

    `sided`: it was known on which side the focus is. `repeats`: so many like it followed at once, until `until_s`.
    """

    index: int | None
    at_s: float
    what: str
    targets: Mapping[str, float]
    reason: str
    accepted: bool | None
    refusal: str = ""
    readbacks: dict[str, float] = field(default_factory=dict)
    commanded: bool = False
    sided: bool = True
    repeats: int = 0
    until_s: float = nan


@dataclass(slots=True)
class HoldRow:
    """Holds that say the same but for their numbers."""

    reason: str
    count: int
    first_s: float
    last_s: float


@dataclass
class Story:
    """A session as the report tells it; times in seconds since the first record; `truth` says whose truth there is.

    `beside`: it corrected somebody else's acquisition, whose own moves are not its decisions. `shadow`: it commanded
    nothing.
    """

    frames: list[FrameRow] = field(default_factory=list)
    moves: list[MoveRow] = field(default_factory=list)
    holds: dict[str, HoldRow] = field(default_factory=dict)
    orders: list[dict[str, Any]] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    policies: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    unfit: Counter[str] = field(default_factory=Counter)
    models: list[str] = field(default_factory=list)
    first_s: float = 0.0
    truth: str = "simulated"
    beside: bool = False
    shadow: bool = False

    @property
    def made(self) -> int:
        """How many moves were commanded; not those to the start settings."""
        return sum(move.commanded and (self.beside or move.index is not None) for move in self.moves)

    @property
    def span_s(self) -> float:
        """From the start to the last frame."""
        return self.frames[-1].at_s if self.frames else 0.0

    @property
    def refusals(self) -> list[MoveRow]:
        """What the guard refused."""
        return [move for move in self.moves if move.accepted is False]


class _Teller:
    """Reads records in order."""

    def __init__(self, header: Record) -> None:
        self.story = Story(first_s=float(header.get("clock_s") or 0.0))
        self._row: FrameRow | None = None
        self._rows: dict[int, FrameRow] = {}
        self._move: MoveRow | None = None
        self._last_s = 0.0

    def take(self, record: Record) -> None:
        handler = getattr(self, f"_on_{record['kind']}", None)
        if handler is not None:
            handler(record)

    def _at(self, record: Record, key: str = "time_s") -> float:
        return float(record[key]) - self.story.first_s if key in record else self._last_s

    def _on_frame(self, record: Record) -> None:
        middle = 0.5 * (record["start_s"] + record["end_s"]) - self.story.first_s
        truth = float(numbers(record.get("truth", {}).get("focus_z_um", nan)))
        row = FrameRow(
            record["index"], middle, numbers(record["settings"]), float(numbers(record["dose"])),
            record.get("unfit", ""), truth,
        )  # fmt: skip
        self.story.unfit[row.unfit] += 1
        self.story.frames.append(row)
        self._rows, self._last_s = {**dict(list(self._rows.items())[-4:]), row.index: row}, middle

    def _on_assessment(self, record: Record) -> None:
        row, model = self._rows.get(record["index"]), record["model"]
        if model not in self.story.models:
            self.story.models.append(model)
        if row is not None and not record.get("abstained"):
            row.values[model] = (float(numbers(record["value"])), float(numbers(record["sd"])))

    def _on_action(self, record: Record) -> None:
        detail = numbers(record.get("detail", {}))
        row = self._rows.get(record["index"]) if record["index"] is not None else None
        at = row.at_s if row is not None else self._last_s
        if row is not None and "defocus_sd_um" in detail:
            z_um = row.settings.get("z_um", nan)
            row.focus_um = detail.get("focus_z_um", z_um - detail.get("defocus_um", nan))
            row.sd_um, row.known = detail["defocus_sd_um"], side_known(detail)
            row.focused = detail.get("focused") == 1.0
        self._flag(detail)
        self._move = None
        if record["action"] == "hold":
            self._hold(record["reason"], at)
            return
        what = "move" if record["action"] == "change" else "finish"
        targets = numbers(record.get("settings", {}))
        self._move = MoveRow(
            record["index"], at, what, targets, record["reason"], None, sided=side_known(detail), until_s=at
        )
        self.story.moves.append(self._move)

    def _flag(self, detail: Mapping[str, float]) -> None:
        count = int(detail.get("flagged", 0.0))
        judged = [row for row in self.story.frames[-8 * count :] if not row.unfit] if count else []
        for row in judged[-count:] if count else []:
            row.flagged = True

    def _hold(self, reason: str, at: float) -> None:
        words = _words(reason)
        row = self.story.holds.get(words)
        if row is None:
            self.story.holds[words] = HoldRow(reason, 1, at, at)
        else:
            row.reason, row.count, row.last_s = reason, row.count + 1, at

    def _on_verdict(self, record: Record) -> None:
        if self._move is not None:
            self._move.accepted = bool(record["accepted"])
            self._move.refusal = "" if record["accepted"] else record["reason"]

    def _on_command(self, record: Record) -> None:
        if self._move is not None:
            self._move.commanded = True

    def _on_readback(self, record: Record) -> None:
        if self._move is not None:
            self._move.readbacks[record["parameter"]] = float(numbers(record["readback"]))

    def _on_policy(self, record: Record) -> None:
        self.story.policies.append({**record, "at_s": self._last_s})

    def _on_command_received(self, record: Record) -> None:
        self.story.orders.append({**record, "at_s": self._at(record)})

    def _on_state(self, record: Record) -> None:
        self.story.states.append({**record, "at_s": self._at(record)})

    def _on_error(self, record: Record) -> None:
        self.story.errors.append(str(record["message"]))


def _words(reason: str) -> str:
    """Return a reason without its numbers."""
    return re.sub(r"[-+±]?\d[\d.]*(e[-+]?\d+)?", "#", reason)


def collapsed(moves: Sequence[MoveRow]) -> list[MoveRow]:
    """Return moves with those that only say once more that the side is not known as one, with their count.

    A shadow run looks nowhere, so it learns no side, and asks for the same look on every frame.
    """
    rows: list[MoveRow] = []
    for move in moves:
        last = rows[-1] if rows else None
        if last is None or move.sided or last.sided or not _alike(last, move):
            rows.append(replace(move))
        else:
            last.repeats, last.until_s = last.repeats + 1, move.at_s
    return rows


def _alike(one: MoveRow, other: MoveRow) -> bool:
    same = one.what == other.what and one.accepted == other.accepted and set(one.targets) == set(other.targets)
    return same and _words(one.reason + one.refusal) == _words(other.reason + other.refusal)


def story_of(reader: SessionReader) -> Story:
    """Gather a session's events."""
    teller = _Teller(reader.journal.header)
    teller.story.beside = bool(reader.facts.get("beside"))
    teller.story.shadow = bool(reader.journal.header.get("shadow"))
    if not reader.simulated:
        teller.story.truth = "known of the recording"
    for record in reader.journal.records:
        teller.take(record)
    return teller.story
