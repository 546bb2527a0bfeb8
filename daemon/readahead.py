"""Reading the next planes in a thread while the models are busy with these, never more than a few at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TypeVar

_T = TypeVar("_T")
_POLL_S = 0.1
_LEAVE_S = 1.0
"""A thread that hangs in a file on a lost share is left behind: it keeps no program alive."""


def read_ahead(source: Iterator[_T]) -> Iterator[_T]:
    """Go through `source` in a thread, one item ahead; at most three exist: in work, waiting, being made.

    What `source` raises is raised here, in its place. A consumer that stops early ends the thread with the item it is
    making.
    """
    waiting: queue.Queue[tuple[bool, _T | BaseException | None]] = queue.Queue(maxsize=1)
    stopped = threading.Event()

    def put(more: bool, item: _T | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                waiting.put((more, item), timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False

    def run() -> None:
        try:
            for item in source:
                if not put(True, item):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the items are wanted
            put(False, error)
        else:
            put(False, None)

    thread = threading.Thread(target=run, name="read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            try:  # with a limit, so that Ctrl-C gets through on every system
                more, item = waiting.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            if isinstance(item, BaseException):
                raise item
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        stopped.set()
        thread.join(_LEAVE_S)
