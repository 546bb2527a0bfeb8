"""How far `parfocal score` is: a bar on stderr for a person, and the counts for the last line."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from parfocal.daemon.scorerows import ScoreRow


@dataclass
class Tally:
    """Counts of what has come so far."""

    rows: int = 0
    planes: int = 0
    failed: int = 0
    abstained: int = 0
    files: float = 0.0
    """Files done, the one being read by its share of planes."""
    _path: Path | None = None
    _plane: int | None = None
    _begun: int = 0

    def add(self, row: ScoreRow) -> None:
        """Count a row; rows come file by file and plane by plane."""
        if row.path != self._path:
            self._path, self._begun, self._plane = row.path, self._begun + 1, -1
        if row.plane != self._plane:
            self._plane = row.plane
            self.planes += row.plane is not None
        self.rows += 1
        self.failed += bool(row.error)
        self.abstained += row.assessment.abstained and not row.error
        share = 0.0 if row.plane is None or not row.planes else min(1.0, (row.plane + 1) / row.planes)
        self.files = self._begun - 1 + share


class _Speed(ProgressColumn):
    """Planes a second, over the last moments."""

    def render(self, task: Task) -> Text:
        """Write it."""
        elapsed = task.elapsed or 0.0
        planes = task.fields["planes"]
        return Text(f"{planes / elapsed:.1f}/s" if elapsed and planes else "-/s")


def planes_bar(console: Console, *, shown: bool, **texts: str) -> Progress:
    """A bar over files that counts planes; each of `texts` is shown with the number of the field of its name."""
    return Progress(
        BarColumn(bar_width=24),
        TextColumn("{task.fields[planes]} planes"),
        _Speed(),
        *(TextColumn(f"{{task.fields[{field}]}} {text}") for field, text in texts.items()),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=True,
        disable=not shown,
    )


def say(bar: Progress, text: str) -> None:
    """Write a line to stdout; above the bar where both are the same terminal."""
    if not bar.disable and sys.stdout.isatty():
        bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo(text)


class ScoreProgress:
    """A bar that lives on stderr while rows go elsewhere; nothing at all where stderr is no terminal.

    Parameters
    ----------
    files : int
        How many there are.
    shown : bool
        False keeps it from being drawn in any case.
    """

    def __init__(self, files: int, *, shown: bool = True) -> None:
        console = Console(stderr=True)
        self.tally = Tally()
        self._files = files
        self._bar = planes_bar(console, shown=shown and console.is_terminal, failed="failed")

    def follow(self, rows: Iterable[ScoreRow]) -> Iterator[ScoreRow]:
        """Pass rows on and count them; the bar is drawn from the first look to the last row."""
        with self._bar:
            task = self._bar.add_task("", total=self._files, planes=0, failed=0)
            for row in rows:
                self.tally.add(row)
                yield row
                self._bar.update(task, completed=self.tally.files, planes=self.tally.planes, failed=self.tally.failed)

    def say(self, text: str) -> None:
        """Write a line to stdout; above the bar where both are the same terminal."""
        say(self._bar, text)
