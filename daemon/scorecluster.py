"""Scoring files on a Dask cluster: the same rows in the same order, whichever worker made them, and none lost."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from parfocal import ParfocalError, UsageError, __version__
from parfocal.daemon.scorefiles import FileScorer, chunks
from parfocal.daemon.scorerows import ScoreJob, ScoreRow
from parfocal.models.base import Assessment

Client = Any
Future = Any
"""Of the package distributed, which has no types to speak of and is imported where it is used."""

CONNECT_S = 10.0
LOST_S = 60.0
"""A cluster whose last worker went may get another (a queue starts them one by one), but not for ever."""
POLL_S = 1.0
TASKS_A_THREAD = 2
"""Submitted at a time: one at work, one ready. More would pile rows up here if the first file is a slow one."""


class ClusterError(UsageError):
    """A Dask cluster that does not answer, has no workers, lost them, or runs another parfocal."""


@dataclass(frozen=True)
class _Task:
    """Files of one task, as the person named them and where they are."""

    paths: tuple[str, ...]
    places: tuple[str, ...]

    def split(self) -> Iterator[_Task]:
        """One task a file."""
        for path, place in zip(self.paths, self.places, strict=True):
            yield _Task((path,), (place,))


class ClusterScorer:
    """Scores files with the workers of a Dask scheduler; used as `FileScorer` is.

    Every worker needs parfocal, of this version, and sees the files under the same absolute paths.

    Parameters
    ----------
    job : ScoreJob
        What is wanted.
    address : str
        Of the scheduler, as ``tcp://host:8786``.

    Raises
    ------
    UsageError
        An unknown model or impossible optics, or the package distributed is not installed.
    """

    def __init__(self, job: ScoreJob, address: str) -> None:
        try:
            import distributed  # noqa: F401 - whether it is there
        except ImportError as error:
            raise UsageError("--scheduler needs the package distributed: pip install 'parfocal[cluster]'") from error
        FileScorer(job)  # what is wrong with the job is said before anybody is bothered with it
        self._job, self._address = job, address
        self.notes: set[str] = set()

    def rows(self, paths: Sequence[Path]) -> Iterator[ScoreRow]:
        """Score files; rows come in the order of the files.

        Raises
        ------
        ClusterError
            See there.
        ModelError
            A model cannot be made on a worker.
        """
        client = self._connect()
        try:
            yield from self._rows(client, paths)
        finally:
            client.close()

    def _connect(self) -> Client:
        from distributed import Client as Connection

        # Its remarks on lost connections would come between the rows; what matters becomes an error or a row here.
        for name in ("distributed", "distributed.client"):  # the second has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
        try:
            client: Client = Connection(self._address, timeout=CONNECT_S, set_as_default=False)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, ImportError) as error:  # ImportError: a protocol that needs another package
            raise ClusterError(f"no Dask scheduler answers at {self._address}: {error}") from error
        try:
            client.wait_for_workers(1, timeout=CONNECT_S)
        except TimeoutError as error:
            client.close()
            raise ClusterError(f"the Dask scheduler at {self._address} has no workers: start some") from error
        return client

    def _rows(self, client: Client, paths: Sequence[Path]) -> Iterator[ScoreRow]:
        waiting = _tasks(paths)
        run = uuid.uuid4().hex[:8]
        sent: deque[tuple[_Task, Future]] = deque()
        number = 0
        more = True
        while more or sent:
            room = TASKS_A_THREAD * max(1, sum(client.nthreads().values()))
            while more and len(sent) < room:
                task = next(waiting, None)
                more = task is not None
                if task is not None:
                    sent.append((task, self._submit(client, task, f"parfocal-score-{run}-{number}")))
                    number += 1
            if sent:
                task, future = sent.popleft()
                yield from self._task_rows(client, task, future)

    def _submit(self, client: Client, task: _Task, key: str) -> Future:
        return client.submit(score_task, self._job, task.paths, task.places, __version__, key=key, pure=False)

    def _task_rows(self, client: Client, task: _Task, future: Future) -> Iterator[ScoreRow]:
        from distributed import KilledWorker

        try:
            rows, notes = self._result(client, future)
        except KilledWorker as error:
            if len(task.paths) == 1:
                # What kills a worker (a crash in a decoder, too little memory) is this file's doing, after four tries.
                reason = "every worker that scored this file died: too little memory, or a decoder that crashes"
                for name in self._job.models:
                    said = Assessment.abstain(name, reason)
                    yield ScoreRow(Path(task.paths[0]), None, name, said, error=type(error).__name__)
                return
            for number, alone in enumerate(list(task.split())):
                again = self._submit(client, alone, f"{future.key}-{number}")
                yield from self._task_rows(client, alone, again)
            return
        self.notes |= notes
        yield from rows

    def _result(self, client: Client, future: Future) -> tuple[list[ScoreRow], set[str]]:
        from distributed import KilledWorker
        from distributed.client import FutureCancelledError

        self._wait(client, future)
        try:
            rows, notes = future.result(timeout=CONNECT_S)
        except (ParfocalError, KilledWorker):
            raise
        except FutureCancelledError as error:
            raise ClusterError(f"the Dask scheduler at {self._address} went away, or cancelled the work") from error
        except Exception as error:
            raise ClusterError(
                f"a worker of {self._address} could not score: {type(error).__name__}: {error} "
                f"(parfocal {__version__} has to be installed there too)"
            ) from error
        finally:
            future.release()
        return list(rows), set(notes)

    def _wait(self, client: Client, future: Future) -> None:
        """Wait for a task as long as there is somebody to do it."""
        from distributed.client import FutureCancelledError

        lost_at: float | None = None
        while not future.done():
            try:
                future.exception(timeout=POLL_S)
            except FutureCancelledError:
                return  # its result says so
            except TimeoutError:
                try:
                    workers = client.nthreads()
                except (OSError, TimeoutError) as error:
                    raise ClusterError(f"the Dask scheduler at {self._address} went away: {error}") from error
                now = time.monotonic()
                lost_at = None if workers else (lost_at or now)
                if lost_at is not None and now - lost_at > LOST_S:
                    raise ClusterError(f"the Dask cluster at {self._address} lost its last worker") from None


def _tasks(paths: Sequence[Path]) -> Iterator[_Task]:
    names = iter(paths)
    for places in chunks(path.absolute() for path in paths):
        yield _Task(tuple(map(str, islice(names, len(places)))), tuple(map(str, places)))


_mine = threading.local()


def score_task(
    job: ScoreJob, paths: Sequence[str], places: Sequence[str], version: str
) -> tuple[list[ScoreRow], set[str]]:
    """Score some files on a worker; the models stay made for the next task of the same thread.

    Returns
    -------
    tuple of list of ScoreRow and set of str
        And what was assumed.
    """
    if version != __version__:
        raise ClusterError(f"{_address()} runs parfocal {__version__}, not {version} as here: rows could differ")
    key = json.dumps(asdict(job), sort_keys=True, default=str)
    if getattr(_mine, "key", None) != key:
        where = f"the worker {_address()} (every machine must see the files under the same path)"
        _mine.key, _mine.scorer = key, FileScorer(job, seen_from=where)
    scorer: FileScorer = _mine.scorer
    rows = list(scorer.rows([Path(path) for path in paths], [Path(place) for place in places]))
    return rows, set(scorer.notes)


def _address() -> str:
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # no worker: called directly
        return "this process"


__all__ = ["ClusterError", "ClusterScorer", "score_task"]
