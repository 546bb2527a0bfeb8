"""What a client knows of a daemon, for people: a line, lines, HTML for a notebook, JSON for a program."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from parfocal.daemon.decisions import side_known
from parfocal.daemon.service.errors import MessageError
from parfocal.daemon.service.eventmodels import End, Event, Health, Hello, OrderEvent, StepEvent, event_of
from parfocal.daemon.service.messages import Done, StatusReply

OF_ORDERS = frozenset({"refused", "snap_failed", "not_running", "ending", "journal"})
"""Codes of orders that were understood, and not carried out; with any other a message was turned away."""


@dataclass(frozen=True)
class DaemonStatus:
    """What a daemon is doing.

    Parameters
    ----------
    address : str
        Where it was asked.
    state : str
        ``idle``, ``running``, ``paused``, ``stopping``, ``safe`` or ``ended``.
    name, role : str
        As whom it knows who asks.
    hello : Hello, optional
        Facts of the session; `None` before there is one.
    step : StepEvent, optional
        The last frame's way through the loop.
    health : Health, optional
        Of loop and service.
    end : End, optional
        How it ended.
    order : OrderEvent, optional
        What somebody ordered last.
    """

    address: str
    state: str
    name: str
    role: str
    hello: Hello | None = None
    step: StepEvent | None = None
    health: Health | None = None
    end: End | None = None
    order: OrderEvent | None = None

    @classmethod
    def of(cls, address: str, reply: Done | StatusReply) -> DaemonStatus:
        """Read a reply to ``status``; raises `MessageError` for any other."""
        if not isinstance(reply, StatusReply):
            raise MessageError("malformed", f"{address}: an answer to another question ({reply.kind})")
        found: dict[str, Event] = {}
        for kind in ("hello", "step", "health", "end", "order"):
            content = reply.events.get(kind)
            if content is not None:
                found[kind] = event_of(content)
        return cls(address, reply.state, reply.you.get("name", ""), reply.you.get("role", ""), **found)  # type: ignore[arg-type]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        events = {
            "hello": self.hello, "step": self.step, "health": self.health, "end": self.end, "order": self.order,
        }  # fmt: skip
        plain = {kind: event.model_dump(mode="json") if event is not None else None for kind, event in events.items()}
        return {"address": self.address, "state": self.state, "you": {"name": self.name, "role": self.role}, **plain}

    def rows(self) -> list[tuple[str, str]]:
        """Return what a person wants to know, as name and value."""
        rows = [("state", self.state)]
        if self.hello is not None:
            facts = self.hello.facts
            banner = "SIMULATED, " if facts.get("simulated") else ""
            shadow = "SHADOW: nothing is commanded, " if facts.get("shadow") else ""
            rows.append(("microscope", f"{banner}{shadow}{facts.get('microscope', '')} ({facts.get('driver', '')})"))
            rows.append(("policy", str(facts.get("policy", {}).get("name", ""))))
            rows.append(("session", str(facts.get("folder", ""))))
        if self.order is not None:
            rows.append(("last order", order_line(self.order)))
        if self.step is not None:
            rows += step_rows(self.step)
        if self.health is not None:
            latency = self.health.latency_ms
            rows.append(("loop latency", f"p50 {_number(latency.get('p50'))} ms, p99 {_number(latency.get('p99'))} ms"))
            refused = self.health.refused
            unmet = sum(count for code, count in refused.items() if code in OF_ORDERS)
            if unmet:
                rows.append(("refused", f"{unmet} order{'' if unmet == 1 else 's'}"))
            if sum(refused.values()) > unmet:
                rows.append(("turned away", f"{sum(refused.values()) - unmet} messages"))
        if self.end is not None:
            error = self.end.summary.get("error") or ""
            rows.append(("ended", f"{self.end.outcome}{': ' + error if error else ''}"))
        rows.append(("asked at", f"{self.address} as {self.name} ({self.role})"))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        width = max(14, *(len(name) for name, _ in rows))
        return "\n".join(f"{name:<{width}} {value}" for name, value in rows)

    __repr__ = __str__  # at a prompt, too: what a program reads is in the fields

    def html(self) -> str:
        """Return a small table for a notebook."""
        return _table("parfocal", self.rows())

    def _repr_html_(self) -> str:
        return self.html()

    @staticmethod
    def html_of_error(address: str, text: str) -> str:
        """Return what a notebook shows where there is no daemon to ask."""
        return _table("parfocal", [("address", address), ("no answer", text)])


def step_rows(step: StepEvent) -> list[tuple[str, str]]:
    """Return a step as name and value."""
    rows = [("frame", f"{step.index}, {_number(step.fps)} a second")]
    if step.z_um is not None:
        rows.append(("z", f"{step.z_um:.2f} um"))
    if step.defocus_um is not None:
        rows.append(("belief", _belief(step)))
    for name, one in step.assessments.items():
        text = f"abstained: {one.reason}" if one.abstained else assessment_text(name, one.model_dump())
        rows.append((f"model {name}", text))
    if step.action is not None:
        refused = step.verdict is not None and not step.verdict.accepted
        rows.append(("decided", f"{step.action.kind}: {step.action.reason}"))
        if refused and step.verdict is not None:
            rows.append(("REFUSED", step.verdict.reason))
    counters = step.counters
    rows.append(("frames", ", ".join(f"{value} {name}" for name, value in counters.items() if name != "frames")))
    left = f", {step.dose.left:.4g} left" if step.dose.left is not None else ""
    rows.append(("dose", f"{_number(step.dose.spent)} {step.dose.unit}{left}"))
    return rows


def assessment_text(name: str, one: Mapping[str, Any]) -> str:
    """Return what a model said: the number with its spread and, of a defocus, its unit; bars where it has no side."""
    value, sd = one.get("value"), one.get("sd")
    spread = f" ± {_number(sd)}" if sd is not None else ""
    if name != "defocus":
        return f"{_number(value)}{spread}"
    unit = "px" if (one.get("detail") or {}).get("in_um") == 0.0 else "um"
    if value is None or one.get("signed") is True:
        return f"{'?' if value is None else f'{value:+.3g}'}{spread} {unit}"
    side = ", of either side" if one.get("signed") is False else ""
    return f"{_number(value)}{spread} {unit}{side}"


def _belief(step: StepEvent) -> str:
    """Return the defocus that the policy believes in; without a sign where it does not know the side."""
    sd = f" ± {_number(step.defocus_sd_um)}" if step.defocus_sd_um is not None else ""
    detail = {k: v for k, v in (step.action.detail if step.action is not None else {}).items() if v is not None}
    defocus_um = step.defocus_um or 0.0
    if not side_known(detail):
        return f"defocus {abs(defocus_um):.2f}{sd} um, of either side"
    return f"defocus {defocus_um:+.2f}{sd} um"


def order_line(order: OrderEvent) -> str:
    """Return an order in one line."""
    what = " ".join(str(value) for value in order.arguments.values() if value not in ("", None, {}))
    refused = "" if order.accepted else "REFUSED: "
    return f"{order.command}{f' {what}' if what else ''} ({order.sender}): {refused}{order.text}"


def step_line(step: StepEvent) -> str:
    """Return a step in one line."""
    z = f"z {step.z_um:8.2f} um" if step.z_um is not None else "z        ?   "
    defocus = ""
    if step.defocus_um is not None:
        defocus = f"  {_belief(step)}"
    quality = f"  quality {step.quality:.2f}" if step.quality is not None else ""
    decided = ""
    if step.verdict is not None and not step.verdict.accepted:
        decided = f"  REFUSED: {step.verdict.reason}"
    elif step.action is not None:
        decided = f"  {step.action.kind}: {step.action.reason}"
    elif step.stale:
        decided = "  (exposed before the last change had settled)"
    simulated = "SIMULATED  " if step.simulated else ""
    return f"{simulated}frame {step.index:6d}  {z}{defocus}{quality}  {_number(step.fps)} fps{decided}"


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"


def _table(title: str, rows: list[tuple[str, str]]) -> str:
    cells = "".join(
        f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
        f"<td style='text-align:left'>{html.escape(value)}</td></tr>"
        for name, value in rows
    )
    return f"<table><caption style='text-align:left'><b>{html.escape(title)}</b></caption>{cells}</table>"
