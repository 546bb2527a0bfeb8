"""Restoring image files: one after the other, results written whole or not at all, and no source touched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from parfocal import UsageError
from parfocal.daemon.imagefiles import JPEG_SUFFIXES, ImageFileError
from parfocal.daemon.restoregrid import survey
from parfocal.daemon.restoreoptics import Sessions
from parfocal.daemon.restoreoutput import NoRoomError, RestoreOutputError, read_layers
from parfocal.daemon.restoreplaces import RestorePlaces
from parfocal.daemon.restoreplane import JPEG, PlaneRestorer
from parfocal.daemon.restorerecord import ENDING, done_before, fingerprint, record_of, touched
from parfocal.daemon.restorerows import RestoreJob, RestoreRow, failed
from parfocal.daemon.restorework import FileWork, Seen
from parfocal.daemon.scorefiles import renamed
from parfocal.models.restore.base import RestoreError, Verdict


class FileRestorer:
    """Restores files and writes the results.

    Parameters
    ----------
    job : RestoreJob
    places : RestorePlaces
        Claimed by the caller.
    seen : callable, optional
        See `Seen`.

    Attributes
    ----------
    stopped : str
        Why it went no further, such as a full disk; else empty.
    """

    def __init__(self, job: RestoreJob, places: RestorePlaces, seen: Seen | None = None) -> None:
        self.stopped = ""
        self._job, self._places = job, places
        self._seen = seen or (lambda row, look: None)
        self._planes = PlaneRestorer(job)
        self._sessions = Sessions()
        self._weights = self._planes.weights()

    @property
    def notes(self) -> set[str]:
        """What was assumed."""
        return self._planes.notes | self._sessions.notes

    def rows(self, paths: Iterable[Path]) -> Iterator[RestoreRow]:
        """Restore files one after the other; what fails becomes a row that says why.

        Raises
        ------
        ModelError
            The model that estimates the defocus cannot be made, whatever the file.
        """
        for path in paths:
            try:
                yield from self._file(path)
            except NoRoomError as error:
                self.stopped = str(error)
                yield self._without_planes(failed(path, None, self._job.method, error))
                return
            except RestoreOutputError as error:
                yield self._without_planes(failed(path, None, self._job.method, error))
            except (UsageError, OSError) as error:
                yield self._without_planes(failed(path, None, self._job.method, renamed(error, path, path)))

    def _without_planes(self, row: RestoreRow) -> RestoreRow:
        self._seen(row, lambda: None)
        return row

    def _file(self, path: Path) -> list[RestoreRow]:
        if path.suffix.lower() in JPEG_SUFFIXES:
            return [self._without_planes(failed(path, None, self._job.method, RestoreError(JPEG), Verdict.REFUSED))]
        job = self._sessions.job_of(self._job, path)
        images = survey(path)
        before = touched(path)
        source = {"path": self._places.relative(path).as_posix(), **fingerprint(path)}
        if not self._job.force:
            record = done_before(self._places, path, job, self._weights, source["sha256"])
            if record is not None:
                return self._skipped(path, record)
        with ExitStack() as drafts:
            work = FileWork(path, job, self._places, self._planes, self._seen, drafts)
            rows = work.run(images)
            if touched(path) != before:
                raise ImageFileError("it changed while it was read: is it still being written? Nothing of it was kept")
            work.publish(record_of(job, self._weights, source, work.written))
        return rows

    def _skipped(self, path: Path, record: dict[str, Any]) -> list[RestoreRow]:
        """Rows of what an earlier run has done, from its record."""
        rows = []
        total = sum(len(image["planes"]) for image in record["images"])
        for image in record["images"]:
            target = self._places.target(path, ENDING).parent / image["file"]
            size, layers = tuple(image["size_tcz"]), len(image["layers"])
            for plane in image["planes"]:
                row = RestoreRow(path, plane["plane"], plane, self._job.method, target, skipped=True, planes=total)
                self._seen(row, partial(read_layers, target, size, (plane["t"], plane["c"], plane["z"]), layers))
                rows.append(row)
        return sorted(rows, key=lambda row: row.plane or 0)
