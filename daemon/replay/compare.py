"""Where two ways of deciding differ: counted, listed, and drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parfocal.daemon.replay.decisions import Decided

Record = Mapping[str, Any]
TOLERANCE_DOF = 0.05
"""Targets agree within this share of the depth of field..."""
TOLERANCE_UM = 0.05
"""...or this far, where it is not known..."""
TOLERANCE_SHARE = 0.01
"""...and settings other than positions within this share of their value."""


@dataclass
class Comparison:
    """Decisions as recorded against decisions as they come out now.

    Parameters
    ----------
    then, now : str
        What decided.
    dof_um : float, optional
        Depth of field.
    """

    then: str
    now: str
    dof_um: float | None = None
    decisions: list[Decided] = field(default_factory=list)
    differing: list[Decided] = field(default_factory=list)
    would_trip: int | None = None
    finished: int | None = None

    def add(self, decided: Decided) -> None:
        """Take in one decision."""
        self.decisions.append(decided)
        if decided.recorded is not None and not self.agrees(decided.recorded, decided.now):
            self.differing.append(decided)
        if decided.now_verdict is None and self.would_trip is None:
            self.would_trip = decided.index
        done = decided.now["action"] == "finish" and decided.now_verdict is not None and decided.now_verdict["accepted"]
        if done and (decided.recorded or {}).get("action") != "finish" and self.finished is None:
            self.finished = decided.index

    @property
    def over(self) -> bool:
        """Whether the session would be at its end: finished, or ended by the guard."""
        return self.finished is not None or self.would_trip is not None

    @property
    def tolerance_um(self) -> float:
        """How far apart two targets may lie."""
        return TOLERANCE_UM if self.dof_um is None else TOLERANCE_DOF * self.dof_um

    def agrees(self, then: Record, now: Record) -> bool:
        """Whether two actions come to the same: the same kind, and targets within tolerance."""
        if then["action"] != now["action"]:
            return False
        first, second = then.get("settings") or {}, now.get("settings") or {}
        if set(first) != set(second):
            return False
        return all(self._near(name, float(first[name]), float(second[name])) for name in first)

    def _near(self, name: str, first: float, second: float) -> bool:
        bound = self.tolerance_um if name.endswith("_um") else TOLERANCE_SHARE * max(abs(first), abs(second))
        return abs(first - second) <= bound

    def to_json(self) -> dict[str, Any]:
        """Return the table as one object."""
        return {
            "then": self.then,
            "now": self.now,
            "decisions": len(self.decisions),
            "differing": len(self.differing),
            "tolerance_um": self.tolerance_um,
            "would_finish_at": self.finished,
            "guard_would_end_it_at": self.would_trip,
            "table": [{"what": what, "then": then, "now": now} for what, then, now in self.rows()],
            "differences": [difference(decided) for decided in self.differing],
        }

    def rows(self) -> list[tuple[str, Any, Any]]:
        """Return what is counted, of the record and of now."""
        then = [d.recorded for d in self.decisions if d.recorded is not None]
        now = [d.now for d in self.decisions]
        verdicts = [d.verdict for d in self.decisions], [d.now_verdict for d in self.decisions]
        rows: list[tuple[str, Any, Any]] = [
            (what, _count(then, kind), _count(now, kind))
            for what, kind in (("moves", "change"), ("holds", "hold"), ("finishes", "finish"))
        ]
        refused = [sum(_refused(verdict) for verdict in side) for side in verdicts]
        rows.append(("refused by the guard", refused[0], refused[1]))
        rows.append(("wanted travel um", _travel(self.decisions, now=False), _travel(self.decisions, now=True)))
        rows.append(("decisions called in focus", _focused(then), _focused(now)))
        rows.append(("first decision in focus (frame)", _first(self.decisions, False), _first(self.decisions, True)))
        return rows


def difference(decided: Decided) -> dict[str, Any]:
    """Return one difference as plain data."""
    return {
        "index": decided.index,
        "time_s": decided.time_s,
        "z_um": decided.settings.get("z_um"),
        "then": said(decided.recorded, decided.verdict),
        "now": said(decided.now, decided.now_verdict),
        "then_reason": (decided.recorded or {}).get("reason"),
        "now_reason": decided.now["reason"],
    }


def said(action: Record | None, verdict: Record | None) -> str:
    """Put an action and its verdict into a few words."""
    if action is None:
        return "not recorded"
    targets = ", ".join(f"{name} to {float(value):.4g}" for name, value in (action.get("settings") or {}).items())
    word = {"change": "move"}.get(action["action"], action["action"])
    refused = " (refused)" if _refused(verdict) else ""
    return f"{word} {targets}".strip() + refused


def focus_um(action: Record | None) -> float:
    """Where an action says that the focus is; NaN if it does not."""
    value = ((action or {}).get("detail") or {}).get("focus_z_um", math.nan)
    return math.nan if isinstance(value, str) else float(value)


def target_um(action: Record | None) -> float:
    """Where an action wants the stage; NaN if nowhere."""
    value = ((action or {}).get("settings") or {}).get("z_um", math.nan)
    return math.nan if isinstance(value, str) else float(value)


def _refused(verdict: Record | None) -> bool:
    return verdict is not None and not verdict["accepted"]


def _count(actions: list[Record], kind: str) -> int:
    return sum(action["action"] == kind for action in actions)


def _focused(actions: list[Record]) -> int:
    return sum((action.get("detail") or {}).get("focused") == 1.0 for action in actions)


def _first(decisions: list[Decided], now: bool) -> int | None:
    for decided in decisions:
        action = decided.now if now else decided.recorded
        if ((action or {}).get("detail") or {}).get("focused") == 1.0:
            return decided.index
    return None


def _travel(decisions: list[Decided], *, now: bool) -> float:
    total = 0.0
    for decided in decisions:
        wanted = target_um(decided.now if now else decided.recorded) - decided.settings.get("z_um", math.nan)
        total += abs(wanted) if math.isfinite(wanted) else 0.0
    return round(total, 6)
