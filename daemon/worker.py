"""A daemon thread that runs calls for the event loop, one after the other, and never keeps the program alive."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


class Worker:
    """Runs calls in one thread of its own.

    Unlike `concurrent.futures.ThreadPoolExecutor` it is not joined at exit: a call that hangs in a driver or a network
    must not keep a program from ending after it has made the microscope safe.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def call(self, function: Callable[..., _T], *args: Any) -> asyncio.Future[_T]:
        """Run `function(*args)` in the thread; the future belongs to the running event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[_T] = loop.create_future()

        def run() -> None:
            try:
                result = function(*args)
            except BaseException as error:  # noqa: BLE001 - handed to whoever waits
                deliver(loop, future, None, error)
            else:
                deliver(loop, future, result, None)

        self._calls.put(run)
        return future

    def close(self) -> None:
        """End the thread after the calls that are queued."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def deliver(
    loop: asyncio.AbstractEventLoop, future: asyncio.Future[_T], result: Any, error: BaseException | None
) -> None:
    """Settle a future of an event loop from another thread; nobody waiting any more is no error."""

    def settle() -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to tell
        loop.call_soon_threadsafe(settle)


async def uninterrupted(ending: Coroutine[Any, Any, _T]) -> _T:
    """Finish something even while the task is being cancelled; the cancellation is raised again afterwards."""
    task = asyncio.ensure_future(ending)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
        except Exception:  # noqa: BLE001, S110 - `result` below raises it
            pass
    if cancelled is not None:
        raise cancelled
    return task.result()
