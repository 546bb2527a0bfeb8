"""`parfocal watch`: a running daemon, frame by frame, on a terminal, in a pipe, or as JSON lines for a program."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from parfocal.daemon.client import Client
from parfocal.daemon.plot import plot_rows
from parfocal.daemon.service.clientview import order_line, step_line, step_rows
from parfocal.daemon.service.eventmodels import End, Event, Hello, OrderEvent, StateEvent, StepEvent

KEPT = 600
PLOT_COLUMNS, PLOT_ROWS, LABEL_COLUMNS = 60, 8, 12
REDRAWS_PER_S = 4


def watch_json(client: Client, silence_s: float, count: int | None) -> None:
    """Write every event but previews as one JSON object a line; images would be base64."""
    frames = 0
    with client.events("hello", "step", "state", "order", "health", "end", silence_s=silence_s) as events:
        for event in events:
            sys.stdout.write(json.dumps(event.model_dump(), default=_text, allow_nan=False) + "\n")
            sys.stdout.flush()
            frames += event.kind == "step"
            if count is not None and frames >= count:
                return


def watch_lines(client: Client, silence_s: float, count: int | None) -> None:
    """Draw a live view on a terminal; elsewhere write a line a frame."""
    console = Console()
    if not console.is_terminal or console.is_dumb_terminal:
        _lines(client, silence_s, count)
        return
    screen, now = Screen(client.address), client.status()
    for known in (now.hello, now.step):  # a paused session has no frames to show it by
        if known is not None:
            screen.take(known, 0)
    with (
        client.events("hello", "step", "state", "order", "end", silence_s=silence_s) as events,
        Live(screen.draw(), console=console, refresh_per_second=REDRAWS_PER_S) as live,
    ):
        frames = 0
        for event in events:
            screen.take(event, events.missed)
            live.update(screen.draw())
            frames += event.kind == "step"
            if count is not None and frames >= count:
                return


def _lines(client: Client, silence_s: float, count: int | None) -> None:
    frames = 0
    sys.stdout.write(f"{client.address}: {client.status().state}\n")
    sys.stdout.flush()
    with client.events("step", "state", "order", "end", silence_s=silence_s) as events:
        for event in events:
            text = event_line(event)
            if text:
                sys.stdout.write(text + "\n")
                sys.stdout.flush()
            frames += event.kind == "step"
            if count is not None and frames >= count:
                return


def event_line(event: Event) -> str:
    """Return an event in one line; empty for those that are no news."""
    if isinstance(event, StepEvent):
        return step_line(event)
    if isinstance(event, StateEvent):
        return f"{event.old} -> {event.new}: {event.reason}"
    if isinstance(event, OrderEvent):
        return f"order: {order_line(event)}"
    if isinstance(event, End):
        error = event.summary.get("error") or ""
        return f"ended: {event.outcome}{': ' + str(error) if error else ''}"
    return ""


class Screen:
    """What the live view shows: the last step as a table, z over time, the last few things that happened."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._hello: Hello | None = None
        self._step: StepEvent | None = None
        self._z: list[tuple[float, float]] = []
        self._news: list[str] = []
        self._missed = 0

    def take(self, event: Event, missed: int) -> None:
        """Take in an event."""
        self._missed = missed
        if isinstance(event, Hello):
            self._hello = event
        elif isinstance(event, StepEvent):
            self._step = event
            if event.z_um is not None:
                self._z = [*self._z[-KEPT + 1 :], (event.t_s, event.z_um)]
            if event.action is not None and event.action.kind != "hold":
                self._news.append(step_line(event).removeprefix("SIMULATED  "))  # the title says it
        else:
            self._news.append(event_line(event))
        self._news = self._news[-5:]

    def draw(self) -> Table:
        """Return what is shown now."""
        table = Table(box=None, show_header=False, title=self._title(), title_justify="left", pad_edge=False)
        table.add_column(style="dim", no_wrap=True, min_width=LABEL_COLUMNS)
        table.add_column(overflow="ellipsis", no_wrap=True)
        if self._step is None:
            table.add_row("", "waiting for the first frame")
        else:
            for name, value in step_rows(self._step):
                table.add_row(name, Text(value, style="bold red" if name == "REFUSED" else ""))
        if len(self._z) > 1:
            times, places = zip(*self._z, strict=True)
            low, high = min(places), max(places)
            pad = max(0.5, 0.05 * (high - low))
            rows = plot_rows(
                self._z, width=PLOT_COLUMNS, height=PLOT_ROWS, x_range=(times[0], times[-1]),
                y_range=(low - pad, high + pad),
            )  # fmt: skip
            labels = [f"z {high:.2f}", *[""] * (PLOT_ROWS - 2), f"{low:.2f} um"]
            for label, row in zip(labels, rows, strict=True):
                table.add_row(label, Text(row))
        for line in self._news:
            table.add_row("", Text(line, style="dim"))
        if self._missed:
            table.add_row("missed", f"{self._missed} events: this terminal is too slow")
        return table

    def _title(self) -> Text:
        facts: dict[str, Any] = self._hello.facts if self._hello is not None else {}
        title = Text(f"parfocal {self._address}  {facts.get('session', '')}", style="bold")
        if facts.get("simulated") or (self._step is not None and self._step.simulated):
            title.append("  SIMULATED", style="bold magenta")
        if facts.get("shadow"):
            title.append("  SHADOW: nothing is commanded", style="bold yellow")
        if self._step is not None and self._step.state != "running":
            title.append(f"  {self._step.state.upper()}", style="bold yellow")
        return title


def _text(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return str(value)
