"""What a replay found, for people: a table, the differences, a trace in the terminal, and a picture to keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parfocal.daemon.plot import plot_rows, spread
from parfocal.daemon.replay.against import Against
from parfocal.daemon.replay.compare import Comparison, focus_um, said, target_um
from parfocal.daemon.replay.decisions import Decided, Reproduction
from parfocal.daemon.report.axes import Points, duration, time_axis, value_axis
from parfocal.daemon.report.charts import Chart, Line, Marks

MOST_LISTED = 12
SHOWN_OF_HASH = 16
PLOT_ROWS = 8
THEN, NOW = "focus", "other"
COLOURS = """
svg { font: 13px system-ui, sans-serif; background: #fff }
text { fill: #5b6470 } .grid { stroke: #e3e6ea; fill: none } .axis { stroke: #9aa3ad; fill: none }
.stage { fill: none; stroke: #9aa3ad; stroke-width: 1.5 }
.focus { fill: none; stroke: #0b66b0; stroke-width: 2 } .other { fill: none; stroke: #b85c00; stroke-width: 2 }
g.focus { fill: #0b66b0; stroke: none } g.other { fill: #b85c00; stroke: none }
.truth { fill: none; stroke: #333; stroke-width: 1.2; stroke-dasharray: 4 4 }
.legend { fill: #20262d }
"""


def reproduction_table(found: Reproduction) -> Table:
    """Return what came of repeating the decisions."""
    table = Table.grid(padding=(0, 2))
    verdict = "identical, bit for bit" if found.identical else f"{len(found.differing)} differ"
    table.add_row("decisions", str(found.decisions))
    table.add_row("replayed", Text(verdict, style="bold bright_blue" if found.identical else "bold dark_orange"))
    table.add_row("hash of the record", f"{found.recorded_sha256[:SHOWN_OF_HASH]}...")
    table.add_row("hash of the replay", f"{found.replayed_sha256[:SHOWN_OF_HASH]}...")
    if found.stated_sha256 is not None:
        same = "the same" if found.stated_sha256 == found.recorded_sha256 else f"ANOTHER: {found.stated_sha256}"
        table.add_row("hash stated by the run", same)
    else:
        table.add_row("hash stated by the run", "none (an older version, or it was killed)")
    if found.unfinished:
        table.add_row("unfinished", f"{found.unfinished}: told, but killed before the decision was written")
    return table


def comparison_table(comparison: Comparison) -> Table:
    """Return the counts of both sides."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("")
    table.add_column(comparison.then, justify="right")
    table.add_column(comparison.now, justify="right")
    for what, then, now in comparison.rows():
        table.add_row(what, _cell(then), _cell(now))
    share = len(comparison.differing) / max(len(comparison.decisions), 1)
    table.add_row(
        "decisions that differ", "", f"{len(comparison.differing)} of {len(comparison.decisions)} ({share:.1%})"
    )
    return table


def differences_table(differing: Sequence[Decided], first_s: float) -> Table:
    """Return the differences, those in a row that come to the same as one, the first `MOST_LISTED` of them."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for name in ("frames", "at", "then", "now", "reason now"):
        table.add_column(name, overflow="fold")
    runs = [list(run) for _, run in groupby(differing, key=_sides)]
    for run in runs[:MOST_LISTED]:
        one, (then, now) = run[0], _sides(run[0])
        frames = str(one.index) if len(run) == 1 else f"{one.index}-{run[-1].index} ({len(run)})"
        table.add_row(frames, duration(one.time_s - first_s, 0.1), then, now, str(one.now["reason"]))
    if len(runs) > MOST_LISTED:
        rest = sum(len(run) for run in runs[MOST_LISTED:])
        table.add_row("...", "", "", "", f"{rest} more (--json lists them all)")
    return table


def _sides(one: Decided) -> tuple[str, str]:
    then, now = said(one.recorded, one.verdict), said(one.now, one.now_verdict)
    return (then, now) if then != now else (_exact(one.recorded), _exact(one.now))


def _exact(action: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in ((action or {}).get("settings") or {}).items()) or str(
        (action or {}).get("reason")
    )


def _cell(value: Any) -> str:
    if value is None:
        return "never"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def traces(comparison: Comparison) -> tuple[Points, Points, Points]:
    """Return what both sides believed the focus to be, or else wanted, and where the stage stood; times from 0."""
    decisions = comparison.decisions
    first = decisions[0].time_s if decisions else 0.0
    at = [d.time_s - first for d in decisions]
    then = [_where(d.recorded) for d in decisions]
    now = [_where(d.now) for d in decisions]
    stage = [float(d.settings.get("z_um", math.nan)) for d in decisions]
    return _points(at, then), _points(at, now), _points(at, stage)


def _where(action: Any) -> float:
    found = focus_um(action)
    return found if math.isfinite(found) else target_um(action)


def _points(x: Sequence[float], y: Sequence[float]) -> Points:
    return np.array([x, y], dtype=np.float64).T.reshape(-1, 2)


def terminal_plot(comparison: Comparison, console: Console) -> list[Text]:
    """Draw both beliefs in characters, one above the other on the same scale."""
    then, now, _ = traces(comparison)
    both = np.concatenate([then[:, 1], now[:, 1]])
    both = both[np.isfinite(both)]
    if len(both) < 2 or len(then) < 2:
        return []
    # The guesses of a search reach far; they are drawn at the edge, so that what came of it can be seen.
    low, high = np.percentile(both, [4.0, 96.0])
    y_range, x_range = spread([float(low), float(high)], 1.0), (0.0, float(then[-1, 0]) or 1.0)
    width = max(20, min(console.width - 12, 100))
    lines = []
    for points, name in ((then, comparison.then), (now, comparison.now)):
        lines.append(Text(f"focus z, um: {name}", style="bold"))
        rows = plot_rows(
            [(float(x), float(y)) for x, y in points], width=width, height=PLOT_ROWS, x_range=x_range, y_range=y_range,
            ascii_only=console.encoding.lower() not in ("utf-8", "utf8"),
        )  # fmt: skip
        for number, row in enumerate(rows):
            label = (
                f"{y_range[1]:8.2f} "
                if number == 0
                else (f"{y_range[0]:8.2f} " if number == PLOT_ROWS - 1 else " " * 9)
            )
            lines.append(Text(label, style="dim").append(row, style="bright_blue"))
    return lines


def save_plot(comparison: Comparison, path: Path, *, simulated: bool, note: str = "") -> None:
    """Write the picture as an SVG that stands by itself."""
    path.write_text(picture(comparison, simulated=simulated, note=note), encoding="utf-8")


def picture(comparison: Comparison, *, simulated: bool, note: str = "") -> str:
    """Draw stage, both beliefs, and both sides' moves."""
    then, now, stage = traces(comparison)
    span = float(stage[-1, 0]) if len(stage) else 1.0
    moves = [_moves(comparison, now=side) for side in (False, True)]
    values = np.concatenate([then[:, 1], now[:, 1], stage[:, 1]])
    values = values[np.isfinite(values)]
    if values.size:  # the guesses of a search reach far; beyond the edge a line leaves the picture, a mark stays at it
        values = np.percentile(values, [3.0, 97.0])
    chart = Chart(
        f"Focus as believed by {comparison.then} and by {comparison.now}",
        time_axis(0.0, span), value_axis(values, least=1.0),
        [Line(stage, "stage", steps=True), Line(then, THEN), Line(now, NOW),
         Marks(moves[0], THEN, shape="dot"), Marks(moves[1], NOW, shape="triangle")],
        unit="z, um",
    )  # fmt: skip
    inner = chart.svg(960, 380)
    title = (
        f"{'SIMULATED: ' if simulated else ''}{comparison.then} (blue, dots) and {comparison.now} (orange, triangles)"
    )
    lines = [title, "stage in grey; marks are moves that were wanted" + (f"; {note}" if note else "")]
    texts = "".join(
        f'<text class="legend" x="58" y="{22 + 19 * n}">{escape(line)}</text>' for n, line in enumerate(lines)
    )
    body = inner.replace('<svg class="chart"', '<svg y="48" width="960" height="380"', 1)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 436" width="960" height="436">'
        f'<style>{COLOURS}</style><rect width="960" height="436" fill="#fff"/>{texts}{body}</svg>\n'
    )


def _moves(comparison: Comparison, *, now: bool) -> Points:
    decisions = comparison.decisions
    first = decisions[0].time_s if decisions else 0.0
    found = [(d.time_s - first, target_um(d.now if now else d.recorded)) for d in decisions]
    return (
        _points(*zip(*[(x, y) for x, y in found if math.isfinite(y)], strict=True))
        if any(math.isfinite(y) for _, y in found)
        else np.empty((0, 2))
    )


COURSE_ROWS = (
    ("outcome", "outcome", "{}"),
    ("frames", "frames", "{}"),
    ("frames to focus", "frames_to_focus", "{}"),
    ("moves", "moves", "{}"),
    ("refused", "refused", "{}"),
    ("travel um", "travel_um", "{:.2f}"),
    ("dose", "dose", "{:.4g}"),
    ("within half the depth of field, once found", "in_focus_share", "{:.1%}"),
    ("p95 |defocus| um, once found", "p95_defocus_um", "{:.3f}"),
    ("defocus as", "defocus_is", "{}"),
)


def courses_table(found: Against) -> Table:
    """Return the session and the simulated runs side by side."""
    table = Table(box=None, padding=(0, 2), pad_edge=False)
    table.add_column("")
    courses = [found.session, *found.runs]
    for course in courses:
        table.add_column(course.name, justify="right")
    for what, key, form in COURSE_ROWS:
        values = [course.counts.get(key) for course in courses]
        table.add_row(what, *("-" if value is None else form.format(value) for value in values))
    return table


def save_courses(found: Against, path: Path) -> None:
    """Draw stage and focus of the session and of every run, one chart below the other on the same scale."""
    courses = [found.session, *found.runs]
    everything = np.concatenate([part[:, 1] for course in courses for part in (course.stage, course.focus)])
    last_s = max(float(course.stage[-1, 0]) for course in courses if len(course.stage))
    x, y, height = time_axis(0.0, last_s), value_axis(everything, least=1.0), 260
    parts = []
    for number, course in enumerate(courses):
        focus_style = "truth" if course.counts["defocus_is"] == "truth" else THEN
        chart = Chart(
            course.name, x, y, [Line(course.stage, NOW, steps=True), Line(course.focus, focus_style)], unit="z, um"
        )
        top = number * (height + 34)
        parts.append(f'<text class="legend" x="58" y="{top + 20}">{escape(_course_title(course))}</text>')
        parts.append(
            chart.svg(960, height).replace(
                '<svg class="chart"', f'<svg y="{top + 26}" width="960" height="{height}"', 1
            )
        )
    whole = len(courses) * (height + 34)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 960 {whole}" width="960" height="{whole}">'
        f'<style>{COLOURS}</style><rect width="960" height="{whole}" fill="#fff"/>{"".join(parts)}</svg>\n',
        encoding="utf-8",
    )


def _course_title(course: Any) -> str:
    line = "dashed: where the focus was" if course.counts["defocus_is"] == "truth" else "blue: where it was believed"
    return f"{course.name}: stage in orange, {line}"
