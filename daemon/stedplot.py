"""The plot of a STED session: what was tried, what came of it, which trials nothing beats, what is recommended."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.turns import numbers
from parfocal.daemon.report.axes import Axis, Points, value_axis
from parfocal.daemon.report.charts import Band, Chart, Level, Line, Marks
from parfocal.daemon.report.figures import Figure
from parfocal.daemon.session import write_text
from parfocal.daemon.stedtrials import UNITS, WORDS, StedTrials, TrialRow

NAME = "sted.svg"
WIDE, NARROW, PANEL = (960, 240), (420, 240), (470, 230)
MOST_MARKS = 12
nan = math.nan
Draw = Callable[[], Chart]
STYLE = """
svg text { font: 12.5px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: #59636f }
text.title { font-size: 19px; font-weight: 700; fill: #1a2027 } text.lead { font-size: 14px; fill: #1a2027 }
text.alert { font-weight: 700; fill: #a84b00 } text.head { font-size: 14px; font-weight: 600; fill: #1a2027 }
.grid { stroke: #dfe4e9; fill: none } .axis { stroke: #59636f; fill: none; opacity: .6 }
.stage { fill: none; stroke: #6d7783; stroke-width: 1.6 } .focus, .dose { fill: none; stroke: #0b66b0; stroke-width: 2 }
.limit { fill: none; stroke: #a84b00; stroke-width: 1.5; stroke-dasharray: 8 4 } .band90 { fill: #0b66b026 }
g.trial { fill: #6d7783 } g.front { fill: #0b66b0 } g.refused { fill: none; stroke: #a84b00; stroke-width: 2.4 }
"""
LEGEND = (
    ("trial", "a trial"),
    ("front", "on the Pareto front: no trial is finer with as little bleaching"),
    ("refused", "a trial without an outcome"),
    ("limit", "what is recommended"),
)


def trials_of(reader: SessionReader) -> StedTrials:
    """Gather the trials of a recorded session, each with the light spent until then."""
    found, dose = StedTrials(), nan
    for record in reader.journal.records:
        if record["kind"] == "frame":
            dose = float(numbers(record["dose"]))
        elif record["kind"] == "action":
            found.take(numbers(record.get("detail", {})), dose)
    return found


def is_sted(reader: SessionReader) -> bool:
    """Whether the session looked for STED settings."""
    policies = [str(r.get("policy", "")) for r in reader.journal.records if r["kind"] == "policy"]
    return any(name.startswith("sted.") for name in policies)


def write_plot(folder: Path) -> Path | None:
    """Write the plot of a session into its folder; None where it made no trial."""
    reader = SessionReader(folder)
    trials = trials_of(reader) if is_sted(reader) else StedTrials()
    if not trials.rows:
        return None
    target = reader.folder / NAME
    write_text(target, whole_svg(reader, trials))
    return target


def sted_figures(reader: SessionReader, dose_unit: str) -> list[Figure]:
    """Return the report's figures of a session that looked for STED settings; none for any other."""
    trials = trials_of(reader) if is_sted(reader) else StedTrials()
    return [
        Figure(title, make().svg(*WIDE), make().svg(*NARROW), _legend(trials, title), caption)
        for title, make, caption in _charts(trials, dose_unit)
    ] if trials.rows else []  # fmt: skip


def _legend(trials: StedTrials, title: str) -> list[tuple[str, str]]:
    shown = [*LEGEND[:2], *([LEGEND[2]] if any(not row.done for row in trials.rows) else [])]
    if title == "Light spent":
        return [("dose", "after each trial")]
    if title == "Utility":
        return [*shown, ("focus", "expected of what is recommended by then"), ("band90", "its 90 % interval")]
    return [*shown, LEGEND[3]] if trials.recommended.settings and title.lower() in WORDS.values() else shown


def _charts(trials: StedTrials, dose_unit: str) -> list[tuple[str, Draw, str]]:
    """Return title, chart and caption of each panel."""
    rows, across = trials.rows, "Across: number of the trial."
    best = "Where the line is flat and its band narrow, more trials would hardly raise it." if trials.history else ""
    found: list[tuple[str, Draw, str]] = [("Utility", lambda: _utility(trials), f"{across} {best}")]
    if sum(row.done for row in rows) > 1:
        found.append(
            ("Resolution and bleaching", lambda: _front(trials), "Across: share bleached. Lower left is best.")
        )
    for name in UNITS:
        values = [row.settings.get(name, nan) for row in rows]
        if name != "line_steps" or len(set(values)) > 1:
            draw = _setting(trials, name)
            found.append((WORDS[name].capitalize(), draw, across))
    for name, title, unit in (
        ("signal_ratio", "Signal", "signal ratio"),
        ("bleach", "Bleaching", "share bleached"),
        ("resolution_nm", "Resolution", "resolution, nm"),
        ("quality", "Quality", "quality"),
    ):
        if any(name in row.objectives for row in rows):
            found.append((title, _objective(trials, name, unit), across))
    return [*found, ("Light spent", lambda: _light(trials, dose_unit), f"{across} Confocal frames included.")]


def _marks(trials: StedTrials, value: Callable[[TrialRow], float], across: Callable[[TrialRow], float]) -> list[Marks]:
    """Return the trials as marks: common ones, those on the front, those without an outcome."""
    front = trials.front()
    kinds = {
        "trial": [row for row in trials.rows if row.done and row.number not in front],
        "front": [row for row in trials.rows if row.number in front],
        "refused": [row for row in trials.rows if not row.done],
    }
    return [
        Marks(
            _points(rows, across, value), style, [_said(row) for row in rows], "cross" if style == "refused" else "dot"
        )
        for style, rows in kinds.items()
        if rows
    ]


def _points(
    rows: Sequence[TrialRow], across: Callable[[TrialRow], float], value: Callable[[TrialRow], float]
) -> Points:
    return np.array([(across(row), value(row)) for row in rows], dtype=np.float64).reshape(-1, 2)


def _said(row: TrialRow) -> str:
    settings = ", ".join(f"{WORDS.get(n, n)} {v:.4g}" for n, v in row.settings.items())
    came = ", ".join(f"{n} {v:.3g}" for n, v in row.objectives.items()) or "no outcome"
    return f"trial {row.number}: {settings}; {came}" + (f"; utility {row.utility:.3f}" if row.done else "")


def _number(row: TrialRow) -> float:
    return float(row.number)


def _trial_axis(trials: StedTrials) -> Axis:
    last = len(trials.rows)
    step = max(1, math.ceil(last / MOST_MARKS))
    at = tuple(float(n) for n in range(1, last + 1, step))
    return Axis(0.5, last + 0.5, at, tuple(f"{n:g}" for n in at))


def _utility(trials: StedTrials) -> Chart:
    history = np.array([(n, value, sd) for n, value, sd in trials.history], dtype=np.float64).reshape(-1, 3)
    sd = 1.645 * np.nan_to_num(history[:, 2])
    band = np.stack([history[:, 0], history[:, 1] - sd, history[:, 1] + sd], axis=1)
    seen = [row.utility for row in trials.rows]
    y = value_axis([*seen, *band[:, 1], *band[:, 2]], least=0.1)
    parts: list[Band | Line | Marks | Level] = [Band(band, "band90"), Line(history[:, :2], "focus")]
    parts += _marks(trials, lambda row: row.utility, _number)
    return Chart("Utility by trial", _trial_axis(trials), y, parts, unit="utility, 0 to 1")


def _front(trials: StedTrials) -> Chart:
    def bleach(row: TrialRow) -> float:
        return row.objectives.get("bleach", nan)

    def resolution(row: TrialRow) -> float:
        return row.objectives.get("resolution_nm", nan)

    done = [row for row in trials.rows if row.done]
    x = value_axis([bleach(row) for row in done], least=0.1)
    y = value_axis([resolution(row) for row in done], least=20.0)
    front = trials.front()
    joined = sorted((row for row in done if row.number in front), key=bleach)
    parts: list[Line | Marks] = [Line(_points(joined, bleach, resolution), "focus", steps=True)]
    parts += [mark for mark in _marks(trials, resolution, bleach) if mark.style != "refused"]
    return Chart("Resolution against bleaching", x, y, parts, unit="resolution, nm")


def _setting(trials: StedTrials, name: str) -> Draw:
    def draw() -> Chart:
        wanted = trials.recommended.settings.get(name, nan)
        y = value_axis([*(row.settings.get(name, nan) for row in trials.rows), wanted, 0.0], zero=True)
        line = Line(_points(trials.rows, _number, lambda row: row.settings.get(name, nan)), "stage")
        parts: list[Line | Marks | Level] = [line, *_marks(trials, lambda row: row.settings.get(name, nan), _number)]
        if math.isfinite(wanted):
            parts.append(Level(wanted, "limit", f"{wanted:.3g}"))
        return Chart(f"{WORDS[name]} by trial", _trial_axis(trials), y, parts, unit=f"{WORDS[name]}, {UNITS[name]}")

    return draw


def _objective(trials: StedTrials, name: str, unit: str) -> Draw:
    def draw() -> Chart:
        values = [row.objectives.get(name, nan) for row in trials.rows]
        marks = _marks(trials, lambda row: row.objectives.get(name, nan), _number)
        y = value_axis(values, least=0.05 if name != "resolution_nm" else 20.0)
        return Chart(f"{unit} by trial", _trial_axis(trials), y, marks, unit=unit)

    return draw


def _light(trials: StedTrials, unit: str) -> Chart:
    points = _points(trials.rows, _number, lambda row: row.dose)
    y = value_axis(points[:, 1], zero=True)
    return Chart("Light spent by trial", _trial_axis(trials), y, [Line(points, "dose")], unit=f"dose, {unit}")


def whole_svg(reader: SessionReader, trials: StedTrials) -> str:
    """Return all panels on one page, with what is recommended and why it ended, as an SVG of its own."""
    from parfocal.daemon.report.words import dose_unit

    panels = _charts(trials, dose_unit(reader))
    width, (wide, high), head = 2 * PANEL[0] + 60, PANEL, 150
    height = head + (high + 34) * math.ceil(len(panels) / 2) + 60
    out = [_heading(reader, trials)]
    for number, (title, make, caption) in enumerate(panels):
        x, y = 20 + (wide + 20) * (number % 2), head + (high + 34) * (number // 2)
        drawn = make().svg(wide, high).replace("<svg ", f'<svg x="{x}" y="{y + 6}" width="{wide}" height="{high}" ', 1)
        note = " (across: share bleached)" if caption.startswith("Across: share") else ""
        if title == "Utility":
            note = " (line: the recommendation; band: 90 %)"
        out.append(f'<text class="head" x="{x}" y="{y}">{escape(title + note)}</text>{drawn}')
    left = 20.0
    for style, words in LEGEND:
        sign = (
            f'<path class="limit" d="M{left} {height - 24}h22"/>' if style == "limit"
            else f'<g class="refused"><path d="M{left + 6} {height - 28}l8 8m0 -8l-8 8"/></g>' if style == "refused"
            else f'<g class="{style}"><circle cx="{left + 10}" cy="{height - 24}" r="3.4"/></g>'
        )  # fmt: skip
        out.append(f'{sign}<text x="{left + 28}" y="{height - 20}">{escape(words)}</text>')
        left += 50 + 6.6 * len(words)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f'<style>{STYLE}</style><rect width="{width}" height="{height}" fill="#ffffff"/>{"".join(out)}</svg>\n'
    )


def _heading(reader: SessionReader, trials: StedTrials) -> str:
    found = reader.summary.get("recommendation") or {}
    reason = str(found.get("reason") or "not known: the session did not end in good order").partition("; recommended")[
        0
    ]
    lines = [f"Recommended: {trials.recommended.words()}", *_wrapped(f"Why it ended: {reason}")]
    text = f'<text class="title" x="20" y="34">{escape(reader.name)}</text>'
    if reader.simulated:
        text += '<text class="alert" x="20" y="56">SIMULATED: no microscope, no sample</text>'
    for number, line in enumerate(lines[:3]):
        text += f'<text class="lead" x="20" y="{80 + 20 * number}">{escape(line)}</text>'
    return text


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 130)
