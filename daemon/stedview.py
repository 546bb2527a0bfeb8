"""The live view of a run that tunes STED settings: settings, trials, front and recommendation, as lines of text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from parfocal.daemon.stedtrials import UNITS, WORDS, StedTrials, TrialRow, axis_range
from parfocal.daemon.viewparts import ALERT, CALM, FAINT, STRONG, rule

if TYPE_CHECKING:
    from parfocal.daemon.summary import Step

LEAST_PLOT_ROWS = 5
LABEL = 8
PLACES = ("x_um", "y_um", "z_um")


class StedPanel:
    """Takes in steps and draws what a person needs to see of a search for settings."""

    def __init__(self) -> None:
        self.trials = StedTrials()

    def listen(self, step: Step) -> None:
        """Remember what the action of one step says."""
        if step.action is not None:
            self.trials.take(step.action.detail, step.dose)

    def lines(self, step: Step, width: int, room: int, *, ascii_only: bool = False) -> list[Text]:
        """Return at most `room` lines: first what is now and what is recommended; trials and front as there is room."""
        head = [rule("settings", width, ascii_only=ascii_only), *self._now(step)]
        head += [rule("recommended so far", width, ascii_only=ascii_only), *self._recommended(step)]
        left = room - len(head)
        if left < 3:
            return head[: max(room, 0)]
        rows = self._table(max(2, min(len(self.trials.rows) + 1, left // 2)), width, ascii_only=ascii_only)
        plot = self._front(width, left - len(rows) - 1, ascii_only=ascii_only)
        return [*head, rule("trials, the last one first", width, ascii_only=ascii_only), *rows, *plot][:room]

    def _now(self, step: Step) -> list[Text]:
        settings = step.frame.settings
        line = Text(" ")
        for name, unit in UNITS.items():
            if name in settings:
                line.append(f"{WORDS[name]} ").append(f"{settings[name]:.4g}", style=STRONG)
                line.append(f" {unit}   " if name != "line_steps" else "   ")
        kind = "confocal frame" if settings.get("depletion_power", 0.0) == 0 else "STED frame"
        line.append(kind, style=FAINT if kind.startswith("confocal") else ALERT)
        second = Text(" field at " + ", ".join(f"{n[0]} {settings[n]:.1f}" for n in PLACES if n in settings) + " um")
        said = (step.assessments or {}).get("sted_measures")
        if said is not None and said.abstained:
            second.append(f"   not measured: {said.reason}", style=ALERT)
        elif said is not None:
            second.append(f"   signal {said.value:.3g} \u00b1 {said.sd:.2g} counts a pixel")
        return [line, second]

    def _recommended(self, step: Step) -> list[Text]:
        found = self.trials.recommended
        if not found.settings:
            return [Text(" nothing yet: the first trial has to be seen", style=FAINT)]
        line = Text(" ").append(found.words(), style=f"bold {CALM}")
        detail = step.action.detail if step.action is not None else {}
        gain = detail.get("expected_improvement")
        if detail.get("finished") == 1.0:
            line.append("   FINISHED", style=STRONG)
        if gain is None:
            return [line]
        return [line, Text(f" at best {gain:.3f} of utility is still to be gained", style=FAINT)]

    def _table(self, room: int, width: int, *, ascii_only: bool) -> list[Text]:
        names = [name for name in UNITS if any(name in row.settings for row in self.trials.rows)]
        names = [n for n in names if n != "line_steps" or any(row.settings[n] != 1 for row in self.trials.rows)]
        head = "  no. " + "".join(f"{UNITS[name]:>8}" for name in names)
        head += "   signal  bleached  resolution  utility"
        front = self.trials.front()
        shown = self.trials.rows[::-1][: room - 1]
        return [Text(head, style=FAINT), *(self._row(row, names, row.number in front, ascii_only) for row in shown)]

    def _row(self, row: TrialRow, names: Sequence[str], on_front: bool, ascii_only: bool) -> Text:
        line = Text(f"{row.number:>5} " + "".join(f"{row.settings.get(n, math.nan):>8.4g}" for n in names))
        if not row.done:
            return line.append("   no outcome" + _share(row.objectives.get("bleach"), ", {:.0%} bleached"), style=ALERT)
        seen = row.objectives
        sign = {1.0: "<", -1.0: ">"}.get(seen.get("resolution_censored", 0.0), " ")
        line.append(f"{seen.get('signal_ratio', math.nan):>9.2f}{seen.get('bleach', math.nan):>10.0%}")
        line.append(f"{sign:>5}{seen.get('resolution_nm', math.nan):>4.0f} nm").append(f"{row.utility:>9.2f}", STRONG)
        mark = "*" if ascii_only else "\u25cf"
        return line.append(f"  {mark} on the front", style=CALM) if on_front else line

    def _front(self, width: int, room: int, *, ascii_only: bool) -> list[Text]:
        """Plot resolution against bleaching: dots, and filled ones for what nothing beats in all objectives."""
        done = [r for r in self.trials.rows if r.done and {"bleach", "resolution_nm"} <= r.objectives.keys()]
        if room < LEAST_PLOT_ROWS + 2 or len(done) < 2 or width < 40:
            return []
        points = [(r.objectives["bleach"], r.objectives["resolution_nm"], r.number) for r in done]
        title = "resolution (nm) against share bleached: down and left is better"
        columns, height = width - LABEL - 2, room - 2
        x, y = axis_range([p[0] for p in points], 0.1), axis_range([p[1] for p in points], 20.0)
        grid = [[(" ", "")] * columns for _ in range(height)]
        front, last = self.trials.front(), done[-1].number
        marks = (".", "*", "@") if ascii_only else ("\u00b7", "\u25cf", "\u25ce")
        for bleach, resolution, number in points:
            at = min(columns - 1, max(0, round((bleach - x[0]) / (x[1] - x[0]) * (columns - 1))))
            row = min(height - 1, max(0, round((y[1] - resolution) / (y[1] - y[0]) * (height - 1))))
            mark = marks[2] if number == last else marks[1] if number in front else marks[0]
            grid[row][at] = (mark, ALERT if number == last else CALM if number in front else "")
        rows = []
        for number, cells in enumerate(grid):
            label = {0: f"{y[1]:.0f}", height - 1: f"{y[0]:.0f}"}.get(number, "")
            rows.append(Text.assemble((f"{label:>{LABEL}} ", FAINT), *cells))
        span = f"{x[0]:.0%}".ljust(columns - 6) + f"{x[1]:>6.0%}"
        said = f"   {marks[1]} on the front  {marks[2]} the last"
        head = rule(title + said, width, ascii_only=ascii_only)
        return [head, *rows, Text(f"{'':{LABEL}} {span}", style=FAINT)]


def _share(value: float | None, form: str) -> str:
    return "" if value is None or not math.isfinite(value) else form.format(value)
