"""What became of all images at one glance: counts, what was refused and why; for a terminal, and as an HTML page."""

from __future__ import annotations

import importlib.resources
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import parfocal
from parfocal.daemon.restoreoutput import writing
from parfocal.daemon.restorepictures import Gallery, Pictures
from parfocal.daemon.restoreplaces import INDEX, RestorePlaces
from parfocal.daemon.restorerows import FAILED, VERDICTS, RestoreJob, RestoreRow
from parfocal.daemon.scoretable import encodable
from parfocal.daemon.session import write_text
from parfocal.models.restore.base import Verdict

MOST_SQUARES, MOST_LINES = 10_000, 500
LISTED = 20
"""Refused planes that are named one by one at once; of more it is said first how many there are of each kind."""


@dataclass(frozen=True)
class Line:
    """What is kept of a row: little, for there may be a hundred thousand."""

    path: Path
    plane: int | None
    where: str
    verdict: str
    reason: str
    defocus_um: float
    sd_um: float
    share: float
    output: Path | None
    skipped: bool

    @property
    def partly(self) -> bool:
        """Restored, but not everywhere."""
        return self.verdict == Verdict.RESTORED and self.share > 0


class RestoreReport:
    """Counts rows, and keeps what the page needs of them."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.counts: Counter[str] = Counter()
        self.gallery = Gallery()

    def add(self, row: RestoreRow) -> None:
        """Take a row."""
        self.counts[row.verdict] += 1
        self.counts["skipped"] += row.skipped
        self.lines.append(
            Line(
                row.path, row.plane, row.where, row.verdict, row.reason, row.number("defocus_um"),
                row.number("defocus_sd_um"), row.number("refused_share"), row.output, row.skipped,
            )
        )  # fmt: skip

    @property
    def all_failed(self) -> bool:
        """Whether nothing could be read or written at all."""
        return self.counts[FAILED] == len(self.lines)

    def of(self, *verdicts: str) -> list[Line]:
        """Rows of these verdicts, in order."""
        return [line for line in self.lines if line.verdict in verdicts]

    def write(self, places: RestorePlaces, job: RestoreJob, notes: Iterable[str], stopped: str = "") -> Path:
        """Write the page.

        Raises
        ------
        RestoreOutputError
            It cannot be written.
        """
        target = places.out / INDEX
        page = self.render(places, job, sorted(notes), stopped)
        with writing(target):
            write_text(target, page)
        return target

    def render(self, places: RestorePlaces, job: RestoreJob, notes: Sequence[str] = (), stopped: str = "") -> str:
        """Return the page; everything from files is escaped."""
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup

        environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        environment.filters |= {
            "href": lambda path: _href(path, places.out),
            "defocus": defocus_words,
            "name": lambda line: f"{places.relative(line.path).as_posix()} {line.where}".strip(),
        }
        refused = self.of(Verdict.REFUSED, FAILED)
        page = environment.from_string(
            _resource("restored.html")
        ).render(
            style=Markup(_resource("page.css")),  # noqa: S704 - our own style sheet
            counts=self.counts,
            files=len({line.path for line in self.lines}),
            lines=self.lines[:MOST_SQUARES],
            more_lines=max(0, len(self.lines) - MOST_SQUARES),
            refused=refused[:MOST_LINES],
            more_refused=max(0, len(refused) - MOST_LINES),
            kinds=kinds_of(line.reason for line in refused) if len(refused) > LISTED else [],
            sections=self._sections(),
            words=WORDS,
            job=job,
            facts=_facts(job),
            notes=notes,
            stopped=stopped,
            version=parfocal.__version__,
            written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
        return encodable(str(page))

    def _sections(self) -> list[tuple[str, int, list[tuple[Line, Pictures]]]]:
        """What is shown in pictures: title, how many there are of it, and those that were drawn."""
        groups = {
            "Refused or failed": self.of(Verdict.REFUSED, FAILED),
            "Restored, but not everywhere": [line for line in self.lines if line.partly],
            "Restored": [line for line in self.of(Verdict.RESTORED) if not line.partly],
            "In focus: left as they are": self.of(Verdict.IN_FOCUS),
        }
        sections = []
        for title, lines in groups.items():
            drawn = [(line, found) for line in lines if (found := self.gallery.of(line.path, line.plane)) is not None]
            if drawn:
                sections.append((title, len(lines), drawn))
        return sections


WORDS: Mapping[str, str] = {"restored": "restored", "in_focus": "in focus", "refused": "refused", FAILED: "failed"}


def summary(report: RestoreReport) -> Any:
    """Counts as a small table for a terminal (rich)."""
    from rich.table import Table

    colours = {"restored": "green", "in_focus": "cyan", "refused": "yellow", FAILED: "red"}
    table = Table(show_header=False, box=None, padding=(0, 2))
    for verdict in VERDICTS:
        count = report.counts[verdict]
        style = colours[verdict] if count else "dim"
        table.add_row(f"[{style}]{WORDS[verdict]}[/]", f"[{style}]{count}[/]", _remark(report, verdict))
    return table


def _remark(report: RestoreReport, verdict: str) -> str:
    if verdict == Verdict.RESTORED:
        partly = sum(line.partly for line in report.lines)
        return f"[dim]{partly} of them not everywhere[/]" if partly else ""
    return ""


def reasons(report: RestoreReport) -> list[str]:
    """Say for each plane that was refused or failed why; of many, how many there are of a kind."""
    lines = report.of(Verdict.REFUSED, FAILED)
    if len(lines) <= LISTED:
        return [f"{WORDS[line.verdict]:>8}  {line.path} {line.where}".rstrip() + f": {line.reason}" for line in lines]
    return [f"{count:>8}  {example}" for example, count in kinds_of(line.reason for line in lines)]


def kinds_of(said: Iterable[str]) -> list[tuple[str, int]]:
    """Reasons that differ in their numbers only are one kind: the first of each, and how many there are; most first."""
    examples: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for reason in said:
        kind = re.sub(r"[-+]?\d[\d.,]*", "#", reason)
        examples.setdefault(kind, reason)
        counts[kind] += 1
    return [(examples[kind], count) for kind, count in counts.most_common()]


def defocus_words(line: Line) -> str:
    """Defocus without its sign, which does not matter here; empty where it is not known."""
    if not math.isfinite(line.defocus_um):
        return ""
    return f"{abs(line.defocus_um):.2f} \u00b1 {line.sd_um:.2f} um"


def _facts(job: RestoreJob) -> list[tuple[str, str]]:
    rows = [("method", job.method)]
    given = ", ".join(f"{name} {value:g}" for name, value in job.given.known().items())
    rows.append(("optics given", given or "none: as the files or their sessions say"))
    told = "estimated from each plane by the defocus network"
    if job.defocus_um is not None:
        told = f"given: {job.defocus_um:g} \u00b1 {job.defocus_sd_um:g} um"
    return [*rows, ("defocus", told)]


def _href(path: Path, out: Path) -> str:
    return quote(os.fsencode(Path(os.path.relpath(path, out)).as_posix()))


def _resource(name: str) -> str:
    return (importlib.resources.files("parfocal.daemon.report") / name).read_text(encoding="utf-8")
