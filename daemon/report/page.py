"""The report itself: a session's folder in, one HTML file out that needs nothing else."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

import parfocal
from parfocal import ParfocalError
from parfocal.daemon.replay.decisions import ReplayError, reproduce
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report import words
from parfocal.daemon.report.axes import duration
from parfocal.daemon.report.events import Story, collapsed, story_of
from parfocal.daemon.report.figures import dose, figures_of
from parfocal.daemon.report.shadow import shadow_of
from parfocal.daemon.report.thumbnails import thumbnails_of
from parfocal.daemon.session import write_text

NAME = "report.html"
MOST_MOVES = 400
"""Moves listed; a night has some hundreds, and a page of thousands is read by nobody. The journal has them all."""


class ReportError(ParfocalError):
    """The report cannot be written."""

    exit_code = 4


def write_report(folder: Path, out: Path | None = None, *, verify: bool = True) -> Path:
    """Write a session's report.

    Parameters
    ----------
    folder : Path
        The session's.
    out : Path, optional
        The file; by default ``report.html`` in that folder.
    verify : bool
        Repeat every decision from the record, and say in the report whether they come out the same.

    Returns
    -------
    Path
        Of the file.

    Raises
    ------
    SessionReadError
        No session.
    ReportError
        The file cannot be written.
    """
    reader = SessionReader(folder)
    target = out or reader.folder / NAME
    page = render(reader, verify=verify)
    try:
        write_text(target, page)
    except OSError as error:
        raise ReportError(f"{target}: the report cannot be written ({error.strerror})") from error
    return target


def render(reader: SessionReader, *, verify: bool = True) -> str:
    """Return the page; everything from the record is escaped."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    from parfocal.daemon.stedplot import sted_figures

    story = story_of(reader)
    unit = words.dose_unit(reader)
    # A search for settings is told by its trials; the sawtooth of every setting over time says nothing more.
    figures = sted_figures(reader, unit)
    budget = dose(story, reader.config, unit) if figures and len(story.frames) > 1 else None
    figures = [*figures, *([budget] if budget else [])] or figures_of(
        story, dof_um=reader.dof_um, config=reader.config, dose_unit=unit
    )
    thumbnails = thumbnails_of(reader, story)
    moves, more_moves = words.first_lines(collapsed(story.moves) if story.shadow else story.moves, MOST_MOVES)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"duration": lambda s: duration(s, 0.1), "settings": words.settings_words}
    page = environment.from_string(_resource("page.html")).render(
        reader=reader,
        story=story,
        style=Markup(_resource("page.css")),  # noqa: S704 - our own style sheet
        started=_utc(reader.journal.header.get("started_utc")),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        paragraphs=words.paragraphs(reader, story, reader.dof_um),
        tiles=words.tiles(reader, story, reader.dof_um, unit),
        figures=figures,
        svg=Markup,  # the figures are made by us, their words escaped there
        moves=moves,
        more_moves=more_moves,
        holds=sorted(story.holds.values(), key=lambda hold: -hold.count),
        ledger=words.ledger(story),
        unit=unit,
        budget=words.budget(reader),
        thumbnails=thumbnails,
        asked=words.asked(reader, story),
        config=yaml.safe_dump(reader.config, sort_keys=False, allow_unicode=True) if reader.config else "",
        facts=_facts(reader, verify=verify),
        version=parfocal.__version__,
        shadow=story.shadow,
    )
    return str(page)


def _resource(name: str) -> str:
    return (importlib.resources.files("parfocal.daemon.report") / name).read_text(encoding="utf-8")


def _utc(text: Any) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:
        return str(text)


def _facts(reader: SessionReader, *, verify: bool) -> list[tuple[str, Sequence[tuple[str, str]]]]:
    """Return versions and hashes in groups."""
    facts = reader.facts
    software: list[tuple[str, str]] = [
        (name, str(facts[name])) for name in ("parfocal", "python", "platform") if name in facts
    ]
    software += [(name, str(version)) for name, version in (facts.get("packages") or {}).items()]
    hashes = [("configuration, sha256", str(facts.get("config_sha256", "not known")))]
    hashes.append(("journal, sha256", hashlib.sha256((reader.folder / "journal.jsonl").read_bytes()).hexdigest()))
    stated = reader.summary.get("decisions_sha256")
    if stated:
        hashes.append(("decisions, sha256", str(stated)))
    if verify:
        hashes.append(("decisions, repeated from the record", _verified(reader)))
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        ("Software", software),
        ("Models", _models(reader)),
        ("Hashes", hashes),
    ]
    return [(name, rows) for name, rows in groups if rows]


def _verified(reader: SessionReader) -> str:
    try:
        found = reproduce(reader)
    except ReplayError as error:
        return f"could not be repeated: {error}"
    if found.identical:
        return f"all {found.decisions} identical, bit for bit"
    if found.differing:
        return f"{len(found.differing)} of {found.decisions} DIFFER (parfocal replay lists them)"
    return "identical, but not those that the run itself stated: the journal was CHANGED"


def _models(reader: SessionReader) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, described in (reader.journal.header.get("models") or {}).items():
        card: Mapping[str, Any] = described.get("card", {}) if isinstance(described, Mapping) else {}
        parts = [f"version {card['version']}" if card.get("version") else "", str(card.get("architecture") or "")]
        parts.append(f"weights {card['weights_sha256']}" if card.get("weights_sha256") else "no weights")
        rows.append((str(name), ", ".join(part for part in parts if part)))
    return rows


def as_json(reader: SessionReader) -> dict[str, Any]:
    """Return the report's numbers as one object, for programs."""
    story: Story = story_of(reader)
    share, truth = words.in_focus_share(story, reader.dof_um)
    content = {
        "session": str(reader.folder),
        "simulated": reader.simulated,
        "ended": reader.ended is not None,
        "frames": len(story.frames),
        "span_s": story.span_s,
        "moves": story.made,
        "refused": len(story.refusals),
        "holds": [{"reason": hold.reason, "count": hold.count} for hold in story.holds.values()],
        "orders": len(story.orders),
        "in_focus_share": share,
        "in_focus_is_truth": truth,
        "shadow": shadow_of(story, reader.dof_um).to_json() if story.shadow else None,
        "dose": {"unit": words.dose_unit(reader), "ledger": words.ledger(story)},
        "notes": reader.notes,
        "summary": reader.summary,
    }
    return dict(json.loads(json.dumps(content, default=float)))
