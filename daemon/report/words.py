"""What happened, in words: the first thing that is read in the morning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report import shadow
from parfocal.daemon.report.axes import duration
from parfocal.daemon.report.events import Story

OUTCOMES = {
    "done": "It ran to its end.",
    "focused": "It found the focus and ended, as it was told to.",
    "finished": "The policy finished.",
    "bad_quality": "It ended because the images were not good enough.",
    "stopped": "It was stopped by a person.",
    "safe": "Somebody asked for the safe state, and it ended at once.",
    "tripped": "A safety limit ended it.",
    "failed": "It failed.",
}


@dataclass(frozen=True)
class Tile:
    """A number that matters, and what it is."""

    value: str
    what: str
    note: str = ""


def outcome(reader: SessionReader) -> str:
    """Return how it ended, in a sentence."""
    if reader.ended is None:
        return "It did not end in good order: the program was killed, or is still running."
    return OUTCOMES.get(str(reader.summary.get("outcome")), f"It ended: {reader.summary.get('outcome')}.")


def paragraphs(reader: SessionReader, story: Story, dof_um: float | None) -> list[str]:
    """Return what happened as a few sentences."""
    policy = str(story.policies[0]["policy"]) if story.policies else "no policy"
    said = [outcome(reader)]
    if reader.summary.get("error"):
        said.append(f"The reason: {reader.summary['error']}")
    lines = [" ".join(said)]
    if not story.frames:
        return [*lines, "No frame was taken."]
    lines.append(_looked(story, policy))
    if story.shadow:
        return [*lines, *shadow.lines(shadow.shadow_of(story, dof_um), dof_um, story.truth)]
    found = reader.summary.get("recommendation")
    focus = _recommended(found) if found else _focus(reader, story, dof_um)
    if focus:
        lines.append(focus)
    lines.append(_moved(reader, story))
    return lines


def _looked(story: Story, policy: str) -> str:
    frames, unfit = len(story.frames), story.unfit
    line = (
        f"In {duration(story.span_s)}, {_many(frames, 'frame')} were exposed; {policy} decided on {unfit['']} of them"
    )
    rest = [
        f"{unfit[key]} {words}"
        for key, words in (
            ("stale", "exposed before a change had settled"),
            ("missed", "while another was looked at"),
            ("doubtful", "not fit to decide on"),
            ("snap", "asked for while paused"),
        )
        if unfit[key]
    ]
    return f"{line} (the others: {', '.join(rest)})." if rest else f"{line}."


def _recommended(found: Mapping[str, Any]) -> str:
    from parfocal.daemon.stedtrials import Recommendation

    nan = math.nan
    worth, sd = (nan if found.get(name) is None else float(found[name]) for name in ("utility", "utility_sd"))
    best = Recommendation(dict(found.get("settings") or {}), worth, sd)
    if not best.settings:
        return f"It recommends nothing: {found.get('reason')}"
    images = _many(int(found.get("images") or 0), "STED image")
    why = str(found.get("reason", "")).partition("; recommended")[0]
    return f"It recommends {best.words()}. It ended after {images}: {why}."


def _focus(reader: SessionReader, story: Story, dof_um: float | None) -> str:
    if story.beside:
        return "It sat beside somebody else's acquisition: what the plan did is not listed, only what was corrected."
    first = reader.summary.get("frames_to_focus")
    share, truth = in_focus_share(story, dof_um)
    if first is None and share is None:
        return ""
    line = (
        f"The focus was found after {_many(int(first), 'frame')}"
        if first is not None
        else "The focus was not confirmed"
    )
    if share is not None and dof_um:
        basis = f"in truth ({story.truth})" if truth else "by its own belief"
        line += f"; from then on {share:.1%} of the frames were within half the depth of field "
        line += f"({dof_um / 2:.2f} um), {basis}"
    return line + "."


def in_focus_share(story: Story, dof_um: float | None) -> tuple[float | None, bool]:
    """Return the share of frames within half the depth of field from the first in focus on; and whether it is truth."""
    if not dof_um or story.beside:  # a plan leaves the focus on purpose
        return None, False
    begin = next((n for n, row in enumerate(story.frames) if row.focused), None)
    rows = story.frames[begin:] if begin is not None else []
    truth = [row.settings.get("z_um", math.nan) - row.truth_um for row in rows]
    true = bool(np.isfinite(truth).any()) if truth else False
    values = np.abs(truth if true else [row.settings["z_um"] - row.focus_um for row in rows if row.known])
    values = values[np.isfinite(values)]
    return (float(np.mean(values <= dof_um / 2)) if values.size else None), true


def _moved(reader: SessionReader, story: Story) -> str:
    travel = reader.summary.get("travel_um")
    line = f"It {'corrected' if story.beside else 'moved'} {_many(story.made, 'time')}" + (
        f", {travel:.1f} um in all" if travel is not None else ""
    )
    refused = len(story.refusals)
    line += f"; the guard refused {_many(refused, 'action')}." if refused else "; the guard refused nothing."
    orders = len(story.orders)
    return line + (f" {_many(orders, 'command')} came from outside." if orders else "")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def tiles(reader: SessionReader, story: Story, dof_um: float | None, dose_unit: str) -> list[Tile]:
    """Return the numbers for a glance."""
    summary = reader.summary
    found = [Tile(str(len(story.frames)), "frames", duration(story.span_s))]
    found += _would_be(story, dof_um) if story.shadow else _was(summary, story, dof_um)
    found.append(Tile(str(len(story.refusals)), "refused"))
    spent = story.frames[-1].dose if story.frames else 0.0
    most = budget(reader)
    left = f"{100 * (1 - spent / most):.0f} % of {most:g} left" if most else "no budget set"
    found.append(Tile(f"{spent:.4g}", f"dose, {dose_unit}", left))
    gate = summary.get("gate")
    if gate:
        found.append(Tile(str(gate["flagged"]), "frames flagged", f"of {gate['judged']} judged"))
    return found


def _was(summary: Mapping[str, Any], story: Story, dof_um: float | None) -> list[Tile]:
    share, truth = in_focus_share(story, dof_um)
    found = []
    if share is not None:
        note = f"truth, {story.truth}" if truth else "as believed"
        found.append(Tile(f"{100 * share:.1f} %", "in focus once found", note))
    travel = summary.get("travel_um")
    note = f"{travel:.1f} um" if travel is not None else ""
    return [*found, Tile(str(story.made), "corrections" if story.beside else "moves", note)]


def _would_be(story: Story, dof_um: float | None) -> list[Tile]:
    would = shadow.shadow_of(story, dof_um)
    found = []
    if math.isfinite(would.claimed):
        note = f"in truth {100 * would.true:.1f} %" if math.isfinite(would.true) else f"of {would.known} frames"
        found.append(Tile(f"{100 * would.claimed:.1f} %", "in focus, it claims", note))
    return [*found, Tile(str(would.wanted), "moves wanted", "none made")]


def ledger(story: Story) -> list[tuple[str, int, float]]:
    """Return the dose by what became of the frames: words, frames, dose; what the camera lost counts as lost."""
    names = {"": "decided on", "stale": "stale", "missed": "not looked at", "doubtful": "not fit to decide on"}
    names["snap"] = "asked for while paused"
    sums: dict[str, list[float]] = {}
    before, step, last = 0.0, 0.0, None
    for row in story.frames:
        lost = row.index - last - 1 if last is not None else 0
        step = (row.dose - before) / (1 + max(lost, 0))
        if lost > 0:
            entry = sums.setdefault("lost by the camera", [0, 0.0])
            entry[0], entry[1] = entry[0] + lost, entry[1] + lost * step
        entry = sums.setdefault(names.get(row.unfit, row.unfit), [0, 0.0])
        entry[0], entry[1] = entry[0] + 1, entry[1] + step
        before, last = row.dose, row.index
    return [(name, int(count), dose) for name, (count, dose) in sums.items()]


def asked(reader: SessionReader, story: Story) -> list[tuple[str, str]]:
    """Return what the session was to do: microscope, policy with every option it had, limits, length."""
    config, optics = reader.config, reader.optics
    rows: list[tuple[str, str]] = []
    if "na" in optics:
        text = f"NA {optics['na']:g}, {optics['magnification']:g}x, {1000 * optics['emission_um']:.0f} nm"
        rows.append(("optics", text + (f", pixel {optics['pixel_um']:g} um" if "pixel_um" in optics else "")))
    elif config:
        rows.append(("optics", "not known"))
    microscope = config.get("microscope") or {}
    times = [f"{key} {microscope[key]:g}" for key in ("exposure_ms", "interval_ms") if microscope.get(key) is not None]
    rows += [("frames", ", ".join(times))] if times else []
    for policy in story.policies:
        options = ", ".join(f"{key} {_short(value)}" for key, value in policy.get("options", {}).items())
        rows.append(("policy", f"{policy['policy']}{f' ({options})' if options else ''}"))
    for name, limit in (reader.journal.header.get("limits") or {}).items():
        rows.append((f"limits of {name}", ", ".join(f"{key} {_short(value)}" for key, value in limit.items())))
    quality = config.get("quality")
    rows += [("quality", ", ".join(f"{key} {_short(value)}" for key, value in quality.items()))] if quality else []
    session = config.get("session") or {}
    ends = [f"{key} {session[key]}" for key in ("max_frames", "max_seconds", "until_focused") if session.get(key)]
    rows += (
        [("ends at", ", ".join(ends) or "no end of its own"), ("record", str(session.get("record")))] if session else []
    )
    return rows


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def budget(reader: SessionReader) -> float | None:
    """Return the dose budget that the session began with, if it had one."""
    given = ((reader.config.get("limits") or {}).get("dose") or {}).get("budget")
    return None if given is None else float(given)


def dose_unit(reader: SessionReader) -> str:
    """Return the unit of the dose, as the run resolved it."""
    from parfocal.daemon.dose import DoseLedger

    given = ((reader.config.get("limits") or {}).get("dose") or {}).get("unit") or ""
    return DoseLedger(None, given).resolve_unit(reader.journal.header.get("parameters") or {})


def settings_words(settings: Mapping[str, float]) -> str:
    """Write settings in a line."""
    return ", ".join(f"{name} {value:.5g}" for name, value in settings.items())


def first_lines(items: Sequence[Any], most: int) -> tuple[Sequence[Any], int]:
    """Return the first of a long list, and how many are left out."""
    return items[:most], max(0, len(items) - most)
