"""What happened, in words and in order: decisions (holds in a row as one), refusals, states, orders, changed facts."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from parfocal.daemon.service.eventmodels import OrderEvent, StateEvent, StepEvent

KEPT = 400
Entry = dict[str, Any]


class Feed:
    """Keeps the last entries. An entry that changes keeps its `id`, so that whoever shows it can replace it."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque(maxlen=KEPT)
        self._next = 0

    def step(self, step: StepEvent, *, shadow: bool) -> Entry | None:
        """Take in a step; return its entry, new or changed, or `None` where nothing was decided."""
        action, verdict = step.action, step.verdict
        if action is None:
            return None
        targets = ", ".join(f"{name} to {value:.4g}" for name, value in action.settings.items() if value is not None)
        kind, what, reason = action.kind, action.kind, action.reason
        if verdict is not None and not verdict.accepted:
            kind, what = "refused", f"refused: {targets}"
            reason = f"{verdict.reason} (wanted: {action.reason})"
        elif kind in ("change", "finish"):
            word = "move" if kind == "change" else "finish"
            what = f"{'would ' if shadow else ''}{word} {targets}".strip()
        last = self.entries[-1] if self.entries else None
        if kind == "hold" and last is not None and last["kind"] == "hold":
            last |= {"reason": reason, "count": last["count"] + 1, "frame": step.index, "until_s": step.sent_s}
            return last
        return self._add(kind, what, reason, step.sent_s, frame=step.index)

    def state(self, event: StateEvent) -> Entry:
        """Take in a change of state."""
        return self._add("state", f"{event.old} to {event.new}", event.reason, event.sent_s)

    def order(self, who: str, command: str, text: str, wall_s: float, *, accepted: bool) -> Entry:
        """Take in what a person asked for on this page, and what became of it."""
        return self._add("order" if accepted else "order-refused", f"{command} asked for by {who}", text, wall_s)

    def ordered(self, event: OrderEvent) -> Entry:
        """Take in what the daemon says that somebody ordered, on this page or anywhere else."""
        said = str(event.arguments.get("reason", "")).strip()
        text = f"{said}: {event.text}" if said and event.accepted and said not in event.text else event.text
        return self.order(event.sender, event.command, text, event.sent_s, accepted=event.accepted)

    def facts(self, old: Mapping[str, Any], new: Mapping[str, Any], wall_s: float) -> list[Entry]:
        """Take in what is different in the session's facts: somebody changed a limit, an option or the policy."""
        entries = []
        before, after = old.get("policy") or {}, new.get("policy") or {}
        if before.get("name") != after.get("name"):
            what = f"policy {before.get('name')} to {after.get('name')}"
            entries.append(self._add("setting", what, "set while running", wall_s))
        for label, ours, theirs in (
            ("option", before.get("options") or {}, after.get("options") or {}),
            ("limit", _flat(old.get("limits") or {}), _flat(new.get("limits") or {})),
        ):
            for name in sorted({*ours, *theirs}):
                if ours.get(name) != theirs.get(name):
                    what = f"{label} {name}: {_value(ours.get(name))} to {_value(theirs.get(name))}"
                    entries.append(self._add("setting", what, "set while running", wall_s))
        return entries

    def link(self, what: str, reason: str, wall_s: float) -> Entry:
        """Take in that the connection to the daemon came or went."""
        return self._add("link", what, reason, wall_s)

    def _add(self, kind: str, what: str, reason: str, wall_s: float, frame: int | None = None) -> Entry:
        self._next += 1
        entry = {
            "id": self._next, "kind": kind, "what": what, "reason": reason, "frame": frame, "count": 1,
            "wall_s": wall_s, "until_s": wall_s,
        }  # fmt: skip
        self.entries.append(entry)
        return entry


def _flat(limits: Mapping[str, Any]) -> dict[str, Any]:
    return {
        f"{name}.{bound}": value
        for name, bounds in limits.items()
        if isinstance(bounds, Mapping)
        for bound, value in bounds.items()
    }


def _value(value: object) -> str:
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
