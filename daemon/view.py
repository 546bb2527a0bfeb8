"""The live terminal: what the loop sees, believes and decides, redrawn a few times a second whatever the frame rate."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from parfocal.daemon.decisions import DecisionHistory
from parfocal.daemon.quality_gate import QualityCounts
from parfocal.daemon.stedview import StedPanel
from parfocal.daemon.viewparts import (
    ALERT,
    CALM,
    FAINT,
    STRONG,
    Traces,
    believed_defocus,
    clock,
    decided,
    milliseconds,
    numbers,
    per_second,
    quality_line,
    restored_line,
    rule,
)

if TYPE_CHECKING:
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.summary import Step

REDRAWS_PER_S = 5
"""A redraw holds the interpreter for a few ms; more of them would show up in the loop's latency, not to the eye."""

TRACE_POINTS = 6000


@dataclass(frozen=True)
class RunFacts:
    """What is known of a run before its first frame.

    Parameters
    ----------
    driver, policy : str
        Names.
    simulated, shadow : bool
        No microscope, or no commands: both are said in the banner.
    folder : str
        Of the session.
    page : str
        Address of the web page, if there is one.
    max_frames, max_seconds : optional
        The session's length.
    dof_um : float, optional
        Depth of field: what counts as in focus.
    quality_below, quality_above : float, optional
        What the quality gate calls bad.
    """

    driver: str
    policy: str
    simulated: bool
    shadow: bool = False
    folder: str = ""
    page: str = ""
    max_frames: int | None = None
    max_seconds: float | None = None
    dof_um: float | None = None
    quality_below: float | None = None
    quality_above: float | None = None


class RunView:
    """Takes in steps (cheap, in the loop's thread) and draws itself (in the thread of `live`).

    Parameters
    ----------
    facts : RunFacts
        Of the run.
    warnings : deque of str, optional
        Where log records of level warning and above arrive; the latest is shown.
    """

    def __init__(self, facts: RunFacts, warnings: deque[str] | None = None) -> None:
        self.facts = facts
        self._warnings = warnings if warnings is not None else deque(maxlen=1)
        self._lock = threading.Lock()
        self._step: Step | None = None
        self._decisions = DecisionHistory(shadow=facts.shadow)
        self._z: deque[tuple[float, float]] = deque(maxlen=TRACE_POINTS)
        self._defocus: deque[tuple[float, float]] = deque(maxlen=TRACE_POINTS)
        self._quality: deque[tuple[float, float]] = deque(maxlen=TRACE_POINTS)
        self._counts = QualityCounts()
        self._sted = StedPanel() if facts.policy.startswith("sted.") else None
        self._judged: Step | None = None
        self._restored: RestoredFrame | None = None
        self._first_s: float | None = None
        self._stopping = ""
        self._made_s = time.monotonic()

    def listen(self, step: Step) -> None:
        """Remember one step; the loop calls this for every frame."""
        time_s = step.frame.end_s
        with self._lock:
            self._step = step
            if step.frame.simulated and not self.facts.simulated:
                self.facts = replace(self.facts, simulated=True)
            self._first_s = time_s if self._first_s is None else self._first_s
            self._decisions.add(step)
            if self._sted is not None:
                self._sted.listen(step)
            if "z_um" in step.frame.settings:
                self._z.append((time_s, step.frame.settings["z_um"]))
            defocus_um, _ = believed_defocus(step)
            if defocus_um is not None:
                self._defocus.append((time_s, defocus_um))
            if step.action is not None:
                self._judged = step  # a stale frame has no quality, and the line is not to come and go
                self._counts.note(step.action, step.assessments or {})
                self._quality.append((time_s, self._counts.value))

    def restored(self, shown: RestoredFrame) -> None:
        """Remember what became of the restored preview of a frame; the image itself is on the page."""
        self._restored = shown

    def say_stopping(self, reason: str) -> None:
        """Show that the run is coming to its end, and why."""
        self._stopping = reason

    def live(self, console: Console) -> Live:
        """Return a context that draws this view on a screen of its own; the terminal's contents come back after it."""
        return Live(self, console=console, screen=True, refresh_per_second=REDRAWS_PER_S, transient=True)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw into whatever room there is."""
        height = options.height or console.height
        for line in self.lines(options.max_width, height, ascii_only=options.ascii_only):
            if options.ascii_only:
                line = Text(line.plain.replace("\u00b1", "+-"))
            line.truncate(options.max_width, overflow="crop" if options.ascii_only else "ellipsis")
            line.no_wrap = True
            yield line

    def lines(self, width: int, height: int, *, ascii_only: bool = False) -> list[Text]:
        """Return the view as at most `height` lines: the plots and the list of decisions take what the rest leaves."""
        with self._lock:
            step, first_s = self._step, self._first_s
            quality = list(self._quality) if any(value == value for _, value in self._quality) else []
            traces = Traces(list(self._z), list(self._defocus), first_s or 0.0, self.facts.dof_um, quality)
            judged, counts = self._judged, replace(self._counts)
            decisions = self._decisions.latest(12)
        head = [self._banner(width), self._title(), self._progress(step, first_s, width, ascii_only=ascii_only)]
        if step is None:
            waited_s = time.monotonic() - self._made_s
            text = f" loading the networks, opening the microscope, waiting for the first frame: {waited_s:.0f} s"
            return [*head, Text(), Text(text), Text(), *self._foot(None)][:height]
        foot = self._foot(step)
        if self._sted is not None:
            below = [rule("decision", width, ascii_only=ascii_only), *decided(decisions, width, 4)]
            room = height - len(head) - len(below) - len(foot)
            with self._lock:
                found = self._sted.lines(step, width, room, ascii_only=ascii_only)
            found = [*found[: room - 1], *restored_line(self._restored)] if self._restored is not None else found
            found += [Text()] * (room - len(found))
            return [*head, *found, *below, *foot][:height]
        now = [rule("focus", width, ascii_only=ascii_only), *numbers(step, self.facts.dof_um)]
        limits = (self.facts.quality_below, self.facts.quality_above)
        now += quality_line(judged or step, counts, *limits, ascii_only=ascii_only)
        now += restored_line(self._restored)
        room = height - len(head) - len(now) - len(foot)
        past = 1 + max(3, min(8, room // 4))
        below = [rule("decision", width, ascii_only=ascii_only), *decided(decisions, width, past)]
        plots = traces.rows(width, room - len(below), ascii_only=ascii_only)
        return [*head, *now, *plots, *below, *foot][:height]

    def _banner(self, width: int) -> Text:
        facts = self.facts
        parts = []
        if facts.simulated:
            parts.append("SIMULATED  no microscope: images, stage and truth are computed")
        else:
            parts.append(f"MICROSCOPE {facts.driver}")
        if facts.shadow:
            parts.append("SHADOW  decides and records, commands nothing")
        style = "bold black on dark_orange" if facts.simulated or facts.shadow else "bold white on blue"
        return Text(f" {'  |  '.join(parts)}".ljust(width), style=style)

    def _title(self) -> Text:
        facts = self.facts
        page = f"  page {facts.page} (parfocal web --link)" if facts.page else ""
        return Text.assemble((" parfocal run", STRONG), f"  {facts.policy}  ", (facts.folder, FAINT), (page, FAINT))

    def _progress(self, step: Step | None, first_s: float | None, width: int, *, ascii_only: bool) -> Text:
        facts = self.facts
        frames = step.frames if step is not None else 0
        passed_s = step.frame.end_s - first_s if step is not None and first_s is not None else 0.0
        shares, words = [], f"{frames} frames"
        if facts.max_frames:
            shares.append(frames / facts.max_frames)
            words = f"{frames}/{facts.max_frames} frames"
        words += f"  {clock(passed_s)}"
        if facts.max_seconds:
            shares.append(passed_s / facts.max_seconds)
            words += f" of {clock(facts.max_seconds)}"
        state = "stopping" if self._stopping else (step.state if step is not None else "starting")
        line = Text(" ")
        if shares:
            cells = max(10, min(30, width - len(words) - len(state) - 8))
            done = min(cells, round(max(shares) * cells))
            full, empty = ("#", ".") if ascii_only else ("\u2501", "\u2500")
            line.append(full * done, style=CALM).append(empty * (cells - done), style=FAINT).append("  ")
        return line.append(words).append("  ").append(state, style=ALERT if self._stopping else STRONG)

    def _foot(self, step: Step | None) -> list[Text]:
        lines = []
        if step is not None:
            refused = (f"refused {step.refused}", ALERT if step.refused else "")
            lines.append(
                Text.assemble(
                    f" frames {step.frames} ({per_second(step.fps)})  scored {step.scored}  stale {step.stale_frames}  "
                    f"dropped {step.dropped}  actions {step.actions}  ",
                    refused,
                )
            )
            dose = f"{step.dose:.4g} {step.dose_unit}".rstrip()
            spent = f" travel {step.travel_um:.1f} um  dose {dose}  latency {milliseconds(step.latency_ms)}"
            lines.append(Text(spent))
            note = self._warnings[-1] if self._warnings else step.notes
            if note:
                lines[-1].append("  ").append(note.splitlines()[0], style=ALERT)
        stop = "Ctrl-C stops in order; a second Ctrl-C makes safe and leaves at once"
        if self._stopping:
            stop = f"stopping: {self._stopping}; Ctrl-C: safe state at once"
        lines.append(Text(f" {stop}", style=FAINT))
        return lines
