"""How far `parfocal restore` is: a bar on stderr that counts planes, also within one large stack."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

from rich.console import Console

from parfocal.daemon.restorerows import FAILED, RestoreRow
from parfocal.daemon.scoreprogress import planes_bar, say
from parfocal.models.restore.base import Verdict


class RestoreProgress:
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
        self._bar = planes_bar(console, shown=shown and console.is_terminal, refused="refused", failed="failed")
        self._task = self._bar.add_task("", total=files, planes=0, refused=0, failed=0)
        self._path: object = None
        self._files = 0
        self._done = 0
        self._counts = {"planes": 0, "refused": 0, FAILED: 0}

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def see(self, row: RestoreRow) -> None:
        """Count a plane; planes come file by file."""
        if row.path != self._path:
            self._path, self._done = row.path, 0
            self._files += 1
        self._done += 1
        self._counts["planes"] += row.plane is not None
        self._counts["refused"] += row.verdict == Verdict.REFUSED
        self._counts[FAILED] += row.verdict == FAILED
        share = 1.0 if not row.planes else min(1.0, self._done / row.planes)
        counts: dict[str, Any] = dict(self._counts)
        self._bar.update(self._task, completed=self._files - 1 + share, **counts)

    def say(self, text: str) -> None:
        """Write a line to stdout; above the bar where both are the same terminal."""
        say(self._bar, text)
