"""How a run shows itself: live on a terminal, as lines in a pipe, or as JSON for a program."""

from __future__ import annotations

import json
import logging
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import structlog
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from parfocal.daemon.logs import logs_to
from parfocal.daemon.plainlog import PlainLog
from parfocal.daemon.summarytext import summary_lines
from parfocal.daemon.view import RunFacts, RunView
from parfocal.daemon.viewparts import CALM, FAINT

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.summary import Step, Summary

LOG_FILE, REPORT, PLOT = "log.jsonl", "report.html", "sted.svg"
KEPT_WARNINGS = 100


class Presenter(Protocol):
    """What shows a run."""

    def shown(self) -> AbstractContextManager[None]:
        """Show the run while inside."""
        ...

    def served(self, address: str, link: str) -> None:
        """Learn where the web page is, and the link that lets a person in."""
        ...

    def built(self, folder: Path) -> None:
        """Learn the session's folder, once there is one."""
        ...

    def listen(self, step: Step) -> None:
        """Take in one step, in the loop's thread, at once."""
        ...

    def restored(self, shown: RestoredFrame) -> None:
        """Take in a restored preview, in a thread of its own."""
        ...

    def say_stopping(self, reason: str) -> None:
        """Learn that the run was asked to end; called from a signal handler."""
        ...

    def finish(self, summary: Summary, folder: Path) -> None:
        """Say how it went."""
        ...


def make_presenter(facts: RunFacts, *, as_json: bool) -> Presenter:
    """Choose by where the output goes."""
    if as_json:
        return JsonPresenter(facts)
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal:
        return LivePresenter(facts, console)
    return PlainPresenter(facts)


class LivePresenter:
    """The live view; log records go to a file in the session's folder, the latest warning also into the view."""

    def __init__(self, facts: RunFacts, console: Console) -> None:
        self._console = console
        self._recent: deque[str] = deque(maxlen=KEPT_WARNINGS)
        self._view = RunView(facts, self._recent)
        self._logs = ExitStack()
        self.listen, self.restored = self._view.listen, self._view.restored
        self.say_stopping = self._view.say_stopping

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw until left."""
        with self._logs, self._view.live(self._console):
            self._logs.enter_context(logs_to(recent=self._recent))
            yield

    def served(self, address: str, link: str) -> None:
        """Show where the page is; its link has more letters than a line."""
        self._view.facts = replace(self._view.facts, page=address)

    def built(self, folder: Path) -> None:
        """Show where the record lies, and log there."""
        self._view.facts = replace(self._view.facts, folder=short_path(folder))
        self._logs.enter_context(logs_to(file=folder / LOG_FILE, recent=self._recent))

    def finish(self, summary: Summary, folder: Path) -> None:
        """Leave a panel with the summary on the screen."""
        table = Table.grid(padding=(0, 2))
        for name, value in summary_lines(summary.to_json(), summary.dose_unit, shadow=self._view.facts.shadow):
            table.add_row(name, value)
        table.add_row("session", short_path(folder), style=FAINT)
        table.add_row("journal", short_path(folder / "journal.jsonl"), style=FAINT)
        if (folder / REPORT).exists():
            table.add_row("report", short_path(folder / REPORT), style=FAINT)
        if (folder / PLOT).exists():
            table.add_row("plot", short_path(folder / PLOT), style=FAINT)
        kind = _kind(summary, self._view.facts)
        style = CALM if summary.exit_code == 0 else "bold dark_orange"
        self._console.print(Panel(table, title=f"{kind}: {summary.outcome}", border_style=style, expand=False))
        _say_errors(summary, self._recent, folder)


class PlainPresenter:
    """One line a decision on stdout; log records go to a file in the session's folder."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        self._recent: deque[str] = deque(maxlen=KEPT_WARNINGS)
        self._logs = ExitStack()
        self._log = PlainLog(lambda line: _say(line.text()), shadow=facts.shadow)
        self.listen = self._log.listen

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Write until left."""
        with self._logs, closing(self._log):
            what = "SIMULATED: no microscope" if self._facts.simulated else f"microscope {self._facts.driver}"
            shadow = ", SHADOW: nothing is commanded" if self._facts.shadow else ""
            _say(f"parfocal run  {what}{shadow}, policy {self._facts.policy}")
            yield

    def served(self, address: str, link: str) -> None:
        """Print the link."""
        _say(f"page {link}")

    def built(self, folder: Path) -> None:
        """Say where the record lies, and log there."""
        self._logs.enter_context(logs_to(file=folder / LOG_FILE, recent=self._recent))
        _say(f"session {folder}")

    def restored(self, shown: RestoredFrame) -> None:
        """Nothing to do: lines are for decisions, and this is none."""

    def say_stopping(self, reason: str) -> None:
        """Nothing to do: the summary says it, and a signal handler must not write to a pipe."""

    def finish(self, summary: Summary, folder: Path) -> None:
        """Write the summary as lines."""
        _say(f"{_kind(summary, self._facts)} ended")
        rows = summary_lines(summary.to_json(), summary.dose_unit, shadow=self._facts.shadow)
        rows = [*rows, ("session", str(folder)), ("journal", str(folder / "journal.jsonl"))]
        if (folder / REPORT).exists():
            rows.append(("report", str(folder / REPORT)))
        if (folder / PLOT).exists():
            rows.append(("plot", str(folder / PLOT)))
        for name, value in rows:
            _say(f"  {name:<16} {value}")
        _say_errors(summary, self._recent, folder)


class JsonPresenter:
    """Nothing on stdout but one object at the end; decisions and everything else are log records on stderr."""

    def __init__(self, facts: RunFacts) -> None:
        self._facts = facts
        log = structlog.get_logger("parfocal.run")
        self._log = PlainLog(lambda line: log.info("decision", **line.to_json()), shadow=facts.shadow)
        self.listen = self._log.listen

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Log until left."""
        with logs_to(stream=sys.stderr, level=logging.INFO), closing(self._log):
            yield

    def served(self, address: str, link: str) -> None:
        """Say where the page is; no log is to hold its link."""
        structlog.get_logger("parfocal.run").info("page", address=address, link="`parfocal web --link` prints it")

    def built(self, folder: Path) -> None:
        """Say where the record lies."""
        structlog.get_logger("parfocal.run").info("session", folder=str(folder), simulated=self._facts.simulated)

    def restored(self, shown: RestoredFrame) -> None:
        """Nothing to do: it is for people to look at."""

    def say_stopping(self, reason: str) -> None:
        """Nothing to do: the loop logs it."""

    def finish(self, summary: Summary, folder: Path) -> None:
        """Write the object."""
        _say(json.dumps(summary.to_json(), allow_nan=False))
        _say_errors(summary)


def short_path(path: Path) -> str:
    """Return a path relative to the working folder where it lies below it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _kind(summary: Summary, facts: RunFacts) -> str:
    return f"{'SIMULATED ' if summary.simulated else ''}{'SHADOW ' if facts.shadow else ''}session"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _say_errors(summary: Summary, warnings: Sequence[str] = (), folder: Path | None = None) -> None:
    if summary.error:
        sys.stderr.write(f"parfocal: {summary.error}\n")
    elif warnings and folder is not None:
        more = "+" if len(warnings) == KEPT_WARNINGS else ""
        where = short_path(folder / LOG_FILE)
        sys.stderr.write(f"parfocal: {len(warnings)}{more} warnings, the last: {warnings[-1]} (all in {where})\n")
