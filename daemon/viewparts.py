"""Parts of the live view: the numbers, the traces and the decisions, each as lines of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from parfocal.daemon.decisions import Decision, side_known
from parfocal.daemon.plot import plot_rows, spread
from parfocal.daemon.quality_gate import QUALITY, QualityCounts, quality_of
from parfocal.daemon.restored import IN_FOCUS, LABEL, RESTORED, said_of

if TYPE_CHECKING:
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.summary import Step
    from parfocal.models.base import Assessment

# Blue, orange and weight, never red against green; and whatever a colour says, a word says too.
CALM, ALERT, FAINT, STRONG = "bright_blue", "bold dark_orange", "dim", "bold"

TRACE_S = 60.0
LABEL_COLUMNS = 11
BAR_CELLS = 10
ROOM_FOR_THREE = 14
"""Lines from which on quality gets a plot of its own, below z and defocus."""


def believed_defocus(step: Step) -> tuple[float | None, float | None]:
    """Return defocus and its standard deviation, in um: what the policy believes, or else what the network says."""
    if step.action is not None and "defocus_um" in step.action.detail:
        return step.action.detail["defocus_um"], step.action.detail.get("defocus_sd_um")
    assessment = (step.assessments or {}).get("defocus")
    if assessment is None or assessment.abstained or not _in_um(assessment):
        return None, None
    return assessment.value, assessment.sd


def knows_side(step: Step) -> bool:
    """Whether the defocus that is shown has a sign: as the policy believes, or else as the network can tell."""
    detail = step.action.detail if step.action is not None else {}
    if "defocus_um" in detail:
        return side_known(detail)
    assessment = (step.assessments or {}).get("defocus")
    return assessment is None or assessment.distribution is None or assessment.distribution.signed


def _in_um(assessment: Assessment) -> bool:
    """Whether the network knew the optics; without them it says pixels of blur."""
    return assessment.detail.get("in_um") != 0.0


def numbers(step: Step, dof_um: float | None) -> list[Text]:
    """Return where the stage is, the defocus believed, what the network says, and the simulator's truth."""
    z_um = step.frame.settings.get("z_um")
    first = Text(" z ").append("?" if z_um is None else f"{z_um:+.3f} um", style=STRONG)
    defocus_um, sd_um = believed_defocus(step)
    first.append("   defocus ")
    if defocus_um is None:
        first.append("not known", style=STRONG)
    else:
        value = f"{defocus_um:+.3f}" if knows_side(step) else f"|{abs(defocus_um):.3f}|"
        first.append(f"{value} um" if sd_um is None else f"{value} \u00b1 {sd_um:.3f} um", style=STRONG)
    first.append("   ").append(*_focus_word(step.action.detail if step.action is not None else {}, defocus_um, dof_um))
    if dof_um:
        first.append(f"   depth {dof_um:.2f} um", style=FAINT)
    return [first, _second_line(step)]


def _focus_word(detail: Mapping[str, float], defocus_um: float | None, dof_um: float | None) -> tuple[str, str]:
    """Return what the policy says of focus; a frame taken before the move that leads there is not in focus yet."""
    near = dof_um is None or defocus_um is None or abs(defocus_um) <= dof_um / 2
    if detail.get("focused", near and defocus_um is not None and dof_um is not None):
        return ("IN FOCUS", f"bold {CALM}") if near else ("focus found", STRONG)
    if detail.get("found"):
        return "focus found", STRONG
    return ("searching", ALERT) if defocus_um is not None or detail else ("", "")


def _second_line(step: Step) -> Text:
    line = Text(" ")
    for name, assessment in (step.assessments or {}).items():
        if name == QUALITY:
            continue  # has a line of its own
        unit = "um" if _in_um(assessment) else "px"
        signless = unit == "px" or (assessment.distribution is not None and not assessment.distribution.signed)
        value = f"|{assessment.value:.3f}|" if signless else f"{assessment.value:+.3f}"
        said = f"{value} \u00b1 {assessment.sd:.3f}{f' {unit}' if name == 'defocus' else ''}"
        line.append(f"model {name} {f'abstains: {assessment.reason}' if assessment.abstained else said}   ")
    if step.stale:
        line.append("frame is stale: exposed before the stage had settled   ")
    if "defocus_um" in step.frame.truth:
        line.append(f"truth {step.frame.truth['defocus_um']:+.3f} um (simulated)", style="italic")
    return line


def quality_line(
    step: Step, counts: QualityCounts, below: float | None, above: float | None = None, *, ascii_only: bool = False
) -> list[Text]:
    """Return the quality with a bar, what is wrong with the image, and what the gate counted; nothing without any."""
    assessment = (step.assessments or {}).get(QUALITY)
    value = quality_of(step.action, step.assessments)
    gated = counts.to_json() is not None
    if assessment is None and math.isnan(value) and not gated:
        return []
    detail = step.action.detail if step.action is not None else {}
    line = Text(" quality ")
    if math.isfinite(value):
        bad = (below is not None and value < below) or (above is not None and value > above)
        sd = detail.get("quality_sd", assessment.sd if assessment is not None else math.nan)
        line.append(f"{value:.3g}" + (f" \u00b1 {sd:.2g}" if math.isfinite(sd) else ""), style=ALERT if bad else STRONG)
        if 0.0 <= value <= 1.0 and assessment is not None:
            line.append("  ").append(_bar(value, below, ascii_only=ascii_only))
        line.append("  BAD" if bad else "", style=ALERT)
    elif assessment is not None and assessment.abstained:
        line.append(f"abstains: {assessment.reason}")
    else:
        line.append("not known", style=STRONG)
    artefact = worst_artefact(assessment)
    if artefact is not None:
        line.append(f"  {artefact[0].replace('_', ' ')} ({artefact[1]:.0%})", style=ALERT)
    if gated:
        line.append(f"  flagged {counts.flagged}", style=ALERT if counts.flagged else "")
        line.append(f" of {counts.judged}" + (f" ({counts.share:.1%})" if counts.judged else ""))
        line.append(f"  retakes {counts.retakes}" if counts.retakes else "", style=ALERT)
    return [line]


def restored_line(shown: RestoredFrame | None) -> list[Text]:
    """Return what became of the restored preview, whose image only the page shows; nothing where there is none."""
    if shown is None:
        return []
    line = Text.assemble(" restored", (f" ({LABEL}, {shown.method})  ", FAINT))
    line.append(said_of(shown), style="" if shown.verdict in (RESTORED, IN_FOCUS) else ALERT)
    if shown.verdict == RESTORED and shown.defocus_um is not None:
        line.append(f"  from {abs(shown.defocus_um):.2f} um off")
    if shown.index is not None:
        line.append(f"  frame {shown.index}", style=FAINT)
    return [line]


def worst_artefact(assessment: Assessment | None) -> tuple[str, float] | None:
    """Return the most probable artefact and its probability; nothing if the image most probably has none."""
    prefix = "artefact_"
    chances = {} if assessment is None or assessment.abstained else assessment.detail
    named = {key.removeprefix(prefix): chance for key, chance in chances.items() if key.startswith(prefix)}
    if not named:
        return None
    name = max(named, key=lambda key: named[key])
    return None if name == "reference" else (name, named[name])


def _bar(share: float, mark: float | None, *, ascii_only: bool) -> Text:
    """Draw a share of 1, with a mark where the gate stands."""
    full, empty, limit = ("#", ".", "|") if ascii_only else ("\u2501", "\u2500", "\u2502")
    cells = round(share * BAR_CELLS)
    bar = Text(full * cells, style=CALM).append(empty * (BAR_CELLS - cells), style=FAINT)
    if mark is None or not 0.0 < mark < 1.0:
        return bar
    at = min(BAR_CELLS - 1, round(mark * BAR_CELLS))
    return bar[:at].append(limit, style=STRONG).append_text(bar[at:])


def decided(decisions: list[Decision], width: int, room: int) -> list[Text]:
    """Return the newest decision, wrapped, and below it earlier ones a line each."""
    if not decisions:
        return [Text(" none yet", style=FAINT)]
    latest, *before = decisions
    style = ALERT if latest.what.startswith("REFUSED") else STRONG
    times = f" x{latest.count}" if latest.count > 1 else ""
    now = Text.assemble(f" frame {latest.frame}  ", (f"{latest.what}{times}", style), f": {latest.reason}")
    wrapped = now.wrap(Console(width=width), width - 1)
    lines = [wrapped[0], *(Text.assemble(" ", part) for part in wrapped[1 : max(2, room - 2)])]
    for decision in before[: room - len(lines)]:
        lines.append(Text(f" {decision.line()}", style=ALERT if decision.what.startswith("REFUSED") else FAINT))
    return lines


def _share_or_spread(values: Sequence[float]) -> tuple[float, float]:
    """Range of an axis: 0 to 1 for shares, or what the values span."""
    shares = all(0.0 <= value <= 1.0 for value in values if math.isfinite(value))
    return (0.0, 1.0) if shares else spread(values, 1e-6)


def _labelled(rows: list[str], name: str, low: float, high: float) -> list[Text]:
    labels = [""] * len(rows)
    labels[0], labels[-1] = f"{high:+.1f}", f"{low:+.1f}"
    if len(rows) > 2:
        labels[len(rows) // 2] = name
    return [
        Text.assemble((f"{label:>{LABEL_COLUMNS}} ", FAINT), (row, CALM))
        for label, row in zip(labels, rows, strict=True)
    ]


def rule(title: str, width: int, *, ascii_only: bool) -> Text:
    """Return a heading in a line across the screen."""
    line = "-" if ascii_only else "\u2500"
    return Text(f"{line} {title} ".ljust(width, line), style=FAINT)


def per_second(rate: float) -> str:
    """Return a rate; before it is known, a dash."""
    return f"{rate:.1f}/s" if math.isfinite(rate) else "-/s"


def milliseconds(duration_ms: float) -> str:
    """Return a short duration; before it is known, a dash."""
    return f"{duration_ms:.2f} ms" if math.isfinite(duration_ms) else "-"


def clock(seconds: float) -> str:
    """Return a duration as m:ss or h:mm:ss."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


@dataclass(frozen=True)
class Traces:
    """What is plotted: (time in s, value) of z, of the defocus believed, and of quality where there is room for it.

    The depth of field sets the scale of the first two.
    """

    z: Sequence[tuple[float, float]]
    defocus: Sequence[tuple[float, float]]
    start_s: float
    dof_um: float | None
    quality: Sequence[tuple[float, float]] = ()

    def rows(self, width: int, room: int, *, ascii_only: bool) -> list[Text]:
        """Draw both into `room` lines, or nothing where that is too few; defocus on an asinh scale about focus."""
        if room < 5 or width < 40:
            return []
        unit = self.dof_um or 1.0
        start_s, end_s = self._window()
        z = [point for point in self.z if point[0] >= start_s]
        defocus = [(at, math.asinh(value / unit)) for at, value in self.defocus if at >= start_s]
        quality = [point for point in self.quality if point[0] >= start_s] if room >= ROOM_FOR_THREE else []
        lowest = (room - 1) // 4 if quality else 0
        columns, upper = width - LABEL_COLUMNS - 1, (room - 1 - lowest) // 2
        draw = partial(plot_rows, width=columns, x_range=(start_s, end_s), ascii_only=ascii_only)
        z_range = spread([value for _, value in z], 4 * unit)
        rows = _labelled(draw(z, height=upper, y_range=z_range), "z um", *z_range)
        reach = max(math.asinh(2.0), max((abs(value) for _, value in defocus), default=0.0))
        edge_um = math.sinh(reach) * unit
        rows += _labelled(
            draw(defocus, height=room - 1 - lowest - upper, y_range=(-reach, reach)), "defocus um", -edge_um, edge_um
        )
        if quality:
            low, high = _share_or_spread([value for _, value in quality])
            rows += _labelled(draw(quality, height=lowest, y_range=(low, high)), "quality", low, high)
        ago = f"{end_s - start_s:.0f} s ago"
        return [*rows, Text(f"{'':{LABEL_COLUMNS}} {ago:<{columns - 3}}now", style=FAINT)]

    def _window(self) -> tuple[float, float]:
        end_s = max((points[-1][0] for points in (self.z, self.defocus) if points), default=self.start_s)
        if end_s - self.start_s < TRACE_S:
            return self.start_s, max(end_s, self.start_s + 5.0)
        return end_s - TRACE_S, end_s
