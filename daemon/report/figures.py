"""The report's figures: where stage and focus were, how far apart, quality, dose, and settings that were changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.daemon.report.axes import Axis, Points, duration, time_axis, value_axis
from parfocal.daemon.report.charts import Band, Chart, Level, Line, Marks
from parfocal.daemon.report.events import FrameRow, MoveRow, Story

HALF, NINETY = 0.6745, 1.6449
"""Half of a Gaussian lies within so many standard deviations, nine tenths within so many."""
WIDE, NARROW = (960, 280), (420, 280)
KNOWN_SD_DOF = 1.0
nan = math.nan


@dataclass(frozen=True)
class Figure:
    """A chart, wide and narrow, with its heading and what it says."""

    title: str
    wide: str
    narrow: str
    legend: Sequence[tuple[str, str]]
    caption: str


def _figure(title: str, chart: Callable[[int], Chart], legend: Sequence[tuple[str, str]], caption: str) -> Figure:
    return Figure(title, chart(9).svg(*WIDE), chart(4).svg(*NARROW), legend, caption)


def figures_of(story: Story, *, dof_um: float | None, config: Mapping[str, Any], dose_unit: str) -> list[Figure]:
    """Draw what there is to be drawn."""
    if len(story.frames) < 2:
        return []
    found = [position(story), defocus(story, dof_um), quality(story, config.get("quality"))]
    found += [other_settings(story, name) for name in _changed_settings(story)]
    found += [other_model(story, name) for name in story.models if name not in ("defocus", "quality")]
    found.append(dose(story, config, dose_unit))
    return [figure for figure in found if figure is not None]


def _points(rows: Sequence[FrameRow], value: Callable[[FrameRow], float]) -> Points:
    return np.array([(row.at_s, value(row)) for row in rows], dtype=np.float64).reshape(-1, 2)


def _known(row: FrameRow) -> bool:
    return row.known and math.isfinite(row.focus_um) and math.isfinite(row.sd_um)


def _bands(rows: Sequence[FrameRow], middle: Callable[[FrameRow], float]) -> list[Band]:
    found = []
    for style, width in (("band90", NINETY), ("band50", HALF)):
        values = [
            (r.at_s, middle(r) - width * r.sd_um, middle(r) + width * r.sd_um) if _known(r) else (r.at_s, nan, nan)
            for r in rows
        ]
        found.append(Band(np.array(values, dtype=np.float64), style))
    return found


def _steps(points: Points) -> Points:
    """Keep only where a value changes, and both ends."""
    if len(points) < 3:
        return points
    changed = np.flatnonzero(np.diff(points[:, 1], prepend=np.nan) != 0)
    kept: Points = points[np.unique(np.concatenate([changed, [len(points) - 1]]))]
    return kept


def _moves(story: Story, name: str) -> list[Marks]:
    made = [m for m in story.moves if m.accepted and name in m.targets and (story.beside or m.index is not None)]
    refused = [m for m in story.moves if m.accepted is False and name in m.targets]
    done = "wanted" if story.shadow else "moved"
    return [_marks(made, name, "moved", "dot", done), _marks(refused, name, "refused", "cross", done)]


def _marks(moves: Sequence[MoveRow], name: str, style: str, shape: str, done: str) -> Marks:
    points = np.array([(m.at_s, m.targets[name]) for m in moves], dtype=np.float64).reshape(-1, 2)
    titles = [f"{duration(m.at_s, 0.1)}: {m.refusal or done}; {m.reason}" for m in moves]
    return Marks(points, style, titles, shape)


def position(story: Story) -> Figure | None:
    """Draw the stage, the focus as believed, and the truth where it is known."""
    rows = [row for row in story.frames if math.isfinite(row.settings.get("z_um", nan))]
    if len(rows) < 2:
        return None
    stage = _points(rows, lambda row: row.settings["z_um"])
    focus = _points(rows, lambda row: row.focus_um if _known(row) else nan)
    truth = _points(rows, lambda row: row.truth_um)
    sure = [row.focus_um for row in rows if _known(row) and row.sd_um < 5.0]
    y = value_axis(np.concatenate([stage[:, 1], truth[:, 1], np.array(sure)]), least=1.0)
    parts: list[Any] = [*_bands(rows, lambda row: row.focus_um), Line(truth, "truth"), Line(focus, "focus")]
    parts += [Line(_steps(stage), "stage", steps=True), *_moves(story, "z_um")]
    legend = [("stage", "stage"), *_belief_legend(focus), *_truth_legend(truth, story.truth)]
    made = "move wanted, not made" if story.shadow else "move made"
    legend += [("moved", made)] if any(m.accepted for m in story.moves) else []
    legend += [("refused", "refused")] if story.refusals else []
    return _figure(
        "Stage and focus",
        lambda most: Chart("z of the stage and of the focus against time", _time(story, most), y, parts, unit="z, um"),
        legend,
        "Point at a mark to read why." if story.moves else "",
    )


def _belief_legend(points: Points) -> list[tuple[str, str]]:
    if not np.isfinite(points[:, 1]).any():
        return []
    return [("focus", "focus, as believed"), ("band50", "50 %"), ("band90", "90 % interval")]


def _truth_legend(points: Points, whose: str) -> list[tuple[str, str]]:
    return [("truth", f"truth ({whose})")] if np.isfinite(points[:, 1]).any() else []


def _time(story: Story, most: int) -> Axis:
    return time_axis(0.0, max(story.span_s, 1e-3), most)


def defocus(story: Story, dof_um: float | None) -> Figure | None:
    """Draw how far from focus each frame was, near it: what the search passed through is marked at the edge."""
    rows = story.frames
    believed = _points(rows, lambda row: row.settings.get("z_um", nan) - row.focus_um if _known(row) else nan)
    truth = _points(rows, lambda row: row.settings.get("z_um", nan) - row.truth_um)
    values = np.concatenate([believed[:, 1], truth[:, 1]])
    values = values[np.isfinite(values)]
    if values.size < 2:
        return None
    unit = dof_um or 1.0
    reach = float(min(np.abs(values).max(), max(1.6 * unit, 1.4 * float(np.percentile(np.abs(values), 90)))))
    y = value_axis([-reach, reach], least=unit)
    parts: list[Any] = []
    if dof_um:
        ends = [(0.0, -dof_um / 2, dof_um / 2), (max(story.span_s, 1e-3), -dof_um / 2, dof_um / 2)]
        parts.append(Band(np.array(ends), "field"))
    parts += _bands(rows, lambda row: row.settings.get("z_um", nan) - row.focus_um)
    parts += [Line(truth, "truth"), Line(believed, "focus")]
    legend = [*_belief_legend(believed), *_truth_legend(truth, story.truth)]
    legend += [("field", f"depth of field, {dof_um:.2f} um")] if dof_um else []
    return _figure(
        "Defocus",
        lambda most: Chart("Defocus against time", _time(story, most), y, parts, unit="defocus, um"),
        legend,
        "Stage minus focus: above 0 the stage is too high."
        + (" The plan's own steps are in it." if story.beside else ""),
    )


def quality(story: Story, gate: Mapping[str, Any] | None) -> Figure | None:
    """Draw the quality of the frames, and what is not good enough."""
    model = (gate or {}).get("model", "quality")
    rows = [row for row in story.frames if model in row.values]
    if not rows:
        return None
    values = _points(rows, lambda row: row.values[model][0])
    flagged = np.array([(r.at_s, r.values[model][0]) for r in rows if r.flagged], dtype=np.float64).reshape(-1, 2)
    parts: list[Any] = [Line(values, "quality"), Marks(flagged, "refused", [], "cross")]
    levels = [(gate or {}).get(key) for key in ("below", "above")]
    parts += [Level(float(level), "limit", f"{level:g}") for level in levels if level is not None]
    y = value_axis([0.0, 1.0]) if model == "quality" else value_axis(values[:, 1])
    legend = [("quality", str(model))] + ([("refused", "flagged")] if len(flagged) else [])
    return _figure(
        "Quality",
        lambda most: Chart("Quality of the frames against time", _time(story, most), y, parts, unit=str(model)),
        legend, "",
    )  # fmt: skip


def _changed_settings(story: Story) -> list[str]:
    """Name the settings other than z that anybody wanted changed."""
    names = {name for move in story.moves if move.index is not None for name in move.targets}
    return sorted(names - {"z_um"})


def other_settings(story: Story, name: str) -> Figure | None:
    """Draw one setting."""
    points = _points(story.frames, lambda row: row.settings.get(name, nan))
    if not np.isfinite(points[:, 1]).any():
        return None
    parts: list[Any] = [Line(_steps(points), "stage", steps=True), *_moves(story, name)]
    y = value_axis(points[:, 1])
    return _figure(
        name, lambda most: Chart(f"{name} against time", _time(story, most), y, parts, unit=name), [("stage", name)], ""
    )


def other_model(story: Story, name: str) -> Figure | None:
    """Draw what another model said."""
    rows = [row for row in story.frames if name in row.values]
    if len(rows) < 2:
        return None
    points = _points(rows, lambda row: row.values[name][0])
    y = value_axis(points[:, 1])
    return _figure(
        name, lambda most: Chart(f"{name} against time", _time(story, most), y, [Line(points, "quality")], unit=name),
        [("quality", name)], "",
    )  # fmt: skip


def dose(story: Story, config: Mapping[str, Any], unit: str) -> Figure | None:
    """Draw the light spent, and the budget."""
    points = _points(story.frames, lambda row: row.dose)
    budget = ((config.get("limits") or {}).get("dose") or {}).get("budget")
    y = value_axis([*points[:, 1], *([float(budget)] if budget else [])], zero=True)
    parts: list[Any] = [Line(points, "dose")]
    parts += [Level(float(budget), "limit", "budget")] if budget else []
    return _figure(
        "Dose",
        lambda most: Chart("Light spent against time", _time(story, most), y, parts, unit=f"dose, {unit}"),
        [("dose", "spent")], "",
    )  # fmt: skip
