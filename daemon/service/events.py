"""The events that a daemon publishes: the one place where a step of the loop becomes a plain dict for a screen.

`note` is what the event loop's thread pays for: a tuple of references, without the pixels. Everything else happens in
the service's own thread. What is not known is ``None``, never NaN, so that every event is strict JSON but for previews.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from parfocal import __version__
from parfocal.daemon.service.messages import VERSION
from parfocal.policies.base import Change, Finish

if TYPE_CHECKING:
    from parfocal.daemon.guard import Verdict
    from parfocal.daemon.requests import Answer, Order
    from parfocal.daemon.summary import Step, Summary
    from parfocal.models.base import Assessment
    from parfocal.policies.base import Action

KINDS = ("hello", "step", "state", "order", "health", "preview", "restored", "end")


class Note(NamedTuple):
    """A step without its pixels: whoever waits in a queue must not keep images in memory."""

    number: int
    sent_s: float
    frame_index: int
    start_s: float
    end_s: float
    settings: Mapping[str, float]
    truth: Mapping[str, float]
    simulated: bool
    assessments: Mapping[str, Assessment] | None
    action: Action | None
    verdict: Verdict | None
    stale: bool
    state: str
    frames: int
    scored: int
    stale_frames: int
    dropped: int
    actions: int
    refused: int
    dose: float
    dose_budget: float | None
    dose_unit: str
    travel_um: float
    fps: float
    latency_ms: float
    notes: str


def note(step: Step, number: int, sent_s: float) -> Note:
    """Take from a step what its event needs; cheap, and nothing in it keeps the frame."""
    frame = step.frame
    return Note(
        number, sent_s, frame.index, frame.start_s, frame.end_s, frame.settings, frame.truth, frame.simulated,
        step.assessments, step.action, step.verdict, step.stale, step.state, step.frames, step.scored,
        step.stale_frames, step.dropped, step.actions, step.refused, step.dose, step.dose_budget, step.dose_unit,
        step.travel_um, step.fps, step.latency_ms, step.notes,
    )  # fmt: skip


def step_event(noted: Note) -> dict[str, Any]:
    """Return the ``step`` event: one frame's way through the loop.

    Keys: ``index``, ``t_s`` (middle of the exposure), ``start_s``, ``end_s`` on the microscope's clock; ``z_um``,
    ``settings``; ``assessments`` by model; ``action`` (kind, reason, settings, detail) and ``verdict`` (accepted,
    reason, settings, refusal), ``None`` where there is none; ``defocus_um``, ``defocus_sd_um``, ``focus_z_um`` as the
    policy believes; ``quality``; ``state``, ``stale``, ``counters``, ``dose``, ``travel_um``, ``fps``, ``latency_ms``,
    ``notes``, ``simulated``, ``truth`` (of simulated frames).
    """
    action = noted.action
    detail = action.detail if action is not None else {}
    said = {name: assessment_note(one) for name, one in (noted.assessments or {}).items()}
    return {
        **_head("step", noted.number, noted.sent_s),
        "index": noted.frame_index,
        "t_s": 0.5 * (noted.start_s + noted.end_s),
        "start_s": noted.start_s,
        "end_s": noted.end_s,
        "z_um": known(noted.settings.get("z_um")),
        "settings": numbers(noted.settings),
        "assessments": said,
        "action": action_note(action),
        "verdict": verdict_note(noted.verdict),
        "defocus_um": known(detail.get("defocus_um")),
        "defocus_sd_um": known(detail.get("defocus_sd_um")),
        "focus_z_um": known(detail.get("focus_z_um")),
        "quality": said["quality"]["value"] if "quality" in said else None,
        "state": noted.state,
        "stale": noted.stale,
        "counters": {
            "frames": noted.frames, "scored": noted.scored, "stale": noted.stale_frames, "dropped": noted.dropped,
            "actions": noted.actions, "refused": noted.refused,
        },
        "dose": dose_note(noted.dose, noted.dose_budget, noted.dose_unit),
        "travel_um": known(noted.travel_um),
        "fps": known(noted.fps),
        "latency_ms": known(noted.latency_ms),
        "notes": noted.notes,
        "simulated": noted.simulated,
        "truth": numbers(noted.truth),
    }  # fmt: skip


def assessment_note(one: Assessment) -> dict[str, Any]:
    """Return what a model said, without distribution and map."""
    return {
        "value": known(one.value), "sd": known(one.sd), "abstained": one.abstained, "reason": one.reason,
        "detail": numbers(one.detail), "signed": None if one.distribution is None else one.distribution.signed,
    }  # fmt: skip


def action_note(action: Action | None) -> dict[str, Any] | None:
    """Return what the policy wants."""
    if action is None:
        return None
    settings = numbers(action.settings) if isinstance(action, (Change, Finish)) else {}
    kind = type(action).__name__.lower()
    return {"kind": kind, "reason": action.reason, "settings": settings, "detail": numbers(action.detail)}


def verdict_note(verdict: Verdict | None) -> dict[str, Any] | None:
    """Return what the guard says of it."""
    if verdict is None:
        return None
    refusal = verdict.refusal.name.lower() if verdict.refusal is not None else None
    settings = numbers(verdict.settings)
    return {"accepted": verdict.accepted, "reason": verdict.reason, "settings": settings, "refusal": refusal}


def dose_note(spent: float, budget: float | None, unit: str) -> dict[str, Any]:
    """Return the dose, and what is left of its budget."""
    left = None if budget is None else known(max(budget - spent, 0.0))
    return {"spent": known(spent), "budget": known(budget), "left": left, "unit": unit}


def hello_event(number: int, sent_s: float, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``hello`` event: what holds for the session until the next one. Published again now and then."""
    return {**_head("hello", number, sent_s), "parfocal": __version__, "facts": plain(facts)}


def state_event(number: int, sent_s: float, old: str, new: str, reason: str, time_s: float) -> dict[str, Any]:
    """Return the ``state`` event: the session went from one state to another."""
    return {**_head("state", number, sent_s), "old": old, "new": new, "reason": reason, "time_s": known(time_s)}


def order_event(number: int, sent_s: float, order: Order, said: Answer) -> dict[str, Any]:
    """Return the ``order`` event: somebody ordered something, and what became of it."""
    return {
        **_head("order", number, sent_s),
        "who": order.who, "role": order.role, "via": order.via, "command": order.command,
        "arguments": plain(order.arguments), "accepted": said.accepted, "text": said.reason, "code": said.code,
    }  # fmt: skip


def health_event(number: int, sent_s: float, numbers_: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``health`` event: once a second, how the loop and the service are doing."""
    return {**_head("health", number, sent_s), **plain(numbers_)}


def preview_event(number: int, sent_s: float, index: int, preview: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``preview`` event; its images are raw bytes."""
    return {**_head("preview", number, sent_s), "index": index, **preview}


def restored_event(number: int, sent_s: float, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``restored`` event, a computed image; for `content` see `parfocal.daemon.restored.RestoredFrame`."""
    return {**_head("restored", number, sent_s), **content}


def end_event(number: int, sent_s: float, summary: Summary) -> dict[str, Any]:
    """Return the ``end`` event: how the session ended; nothing comes after it."""
    content = summary.to_json() | {"error": summary.error, "exit_code": summary.exit_code}
    return {**_head("end", number, sent_s), "outcome": summary.outcome, "summary": plain(content)}


def _head(kind: str, number: int, sent_s: float) -> dict[str, Any]:
    return {"version": VERSION, "kind": kind, "n": number, "sent_s": sent_s}


def known(value: float | None) -> float | None:
    """Return a finite number as a plain float, everything else as `None`."""
    return float(value) if value is not None and math.isfinite(value) else None


def numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    """Return numbers by name, `None` where one is not known."""
    return {str(name): known(value) for name, value in values.items()}


def plain(value: Any) -> Any:
    """Return a value as strict JSON: what is not finite is `None`, what is nothing of the kind is its text."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    try:
        return known(float(value))
    except (TypeError, ValueError):
        return str(value)
