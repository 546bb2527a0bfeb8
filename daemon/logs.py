"""Where log records go: stderr (readable on a terminal, JSON for a service), or a file and the live view."""

from __future__ import annotations

import logging
import queue
import sys
from collections import deque
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from pathlib import Path
from typing import Any, TextIO

import structlog

from parfocal.daemon.errors import Debugging

_SESSION: dict[str, str] = {}
"""The session that this process runs: what threads without a context of their own say they belong to."""


def _of_session(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in _SESSION.items():
        event.setdefault(key, value)
    return event


def _of_origin(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Add what held where a record of another library was made: it is formatted in another thread."""
    for key, value in getattr(event.get("_record"), "parfocal_context", {}).items():
        event.setdefault(key, value)
    return event


SHARED: tuple[Any, ...] = (
    structlog.contextvars.merge_contextvars,
    _of_origin,
    _of_session,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


class _Recent(logging.Handler):
    """Keeps the text of warnings and worse for the live view."""

    def __init__(self, kept: deque[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        message = record.msg.get("event") if isinstance(record.msg, dict) else record.getMessage()
        self._kept.append(str(message))


class _PassingQueueHandler(QueueHandler):
    """Hands records over untouched: the formatter behind needs structlog's dictionary, not a finished string."""

    def prepare(self, record: logging.LogRecord) -> Any:
        if not isinstance(record.msg, dict):
            # Now: when it is formatted, in another thread, the session may be over.
            record.parfocal_context = {**_SESSION, **structlog.contextvars.get_contextvars()}
        return record


@contextmanager
def about_session(session: str) -> Iterator[None]:
    """Say in every record made inside, in whatever thread, which session it belongs to.

    The loop adds ``frame``, the index of the frame at hand, to what its own thread says.
    """
    before = dict(_SESSION)
    _SESSION["session"] = session
    try:
        with structlog.contextvars.bound_contextvars(session=session):
            yield
    finally:
        _SESSION.clear()
        _SESSION.update(before)


@contextmanager
def logs_to(
    *,
    stream: TextIO | None = None,
    file: Path | None = None,
    recent: deque[str] | None = None,
    level: int = logging.INFO,
) -> Iterator[None]:
    """Send all records, structlog's and the standard library's, to what is given, from a thread of their own.

    A terminal or pipe that does not take output must stop neither the loop nor the microscope, so that the thread
    that logs never writes.

    Parameters
    ----------
    stream : TextIO, optional
        For example stderr: one readable line a record on a terminal, one JSON object a line otherwise.
    file : Path, optional
        JSON lines, appended.
    recent : deque of str, optional
        Gets the text of warnings and errors.
    level : int
        Records below it are dropped.
    """
    sinks = _sinks(stream, file, recent)
    entry = _PassingQueueHandler(queue.SimpleQueue())
    entry.setLevel(level)  # libraries set levels of their own below the root's
    listener = QueueListener(entry.queue, *sinks, respect_handler_level=True)
    root = logging.getLogger()
    level_before, handlers_before, structlog_before = root.level, root.handlers, structlog.get_config()
    _configure_structlog(level)
    root.handlers = [entry]  # the innermost alone decides: a live view must not be written over by an outer stream
    root.setLevel(level)
    listener.start()
    try:
        yield
    finally:
        root.handlers = handlers_before
        root.setLevel(level_before)
        listener.stop()
        for sink in sinks:
            if isinstance(sink, logging.FileHandler):
                sink.close()
        structlog.configure(**structlog_before)


def _sinks(stream: TextIO | None, file: Path | None, recent: deque[str] | None) -> list[logging.Handler]:
    sinks: list[logging.Handler] = []
    if stream is not None:
        terminal = stream.isatty()
        handler = logging.StreamHandler(stream)
        sinks.append(_formatted(handler, colours=terminal, plain=terminal, keep_tracebacks=Debugging.on))
    if file is not None:
        sinks.append(_formatted(logging.FileHandler(file, encoding="utf-8"), colours=False, plain=False))
    if recent is not None:
        sinks.append(_Recent(recent))
    return sinks


def _configure_structlog(level: int) -> None:
    structlog.configure(
        # An exception is put into words here: in the thread that writes, there is none.
        processors=[
            *SHARED,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )


def _without_traceback(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop the traceback that a record of an expected error may carry along: its message is what a person needs."""
    event.pop("traceback", None)
    return event


def _formatted(
    handler: logging.Handler, *, colours: bool, plain: bool, keep_tracebacks: bool = True
) -> logging.Handler:
    render: list[Any] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if not keep_tracebacks:
        render.append(_without_traceback)
    if plain:
        render.append(structlog.dev.ConsoleRenderer(colors=colours and sys.platform != "win32"))
    else:
        render += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=render, foreign_pre_chain=list(SHARED)))
    return handler
