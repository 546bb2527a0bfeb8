"""Suggestions that take time: a policy's solver in a process of its own, with a deadline, and a fallback beyond it."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, runtime_checkable

import structlog

from parfocal import ParfocalError

log = structlog.get_logger()

DEADLINE_S = 10.0
START_S = 90.0
"""How long the process may take to import what it needs; libraries of Gaussian processes take their time."""
JOIN_S = 2.0


class DeliberationError(ParfocalError):
    """A solver failed, died or was too late; the policy takes its fallback."""


@runtime_checkable
class Deliberating(Protocol):
    """A policy whose suggestions take time."""

    def problem(self) -> Mapping[str, Any] | None:
        """Return plain JSON for a pure function, named in it under ``solve`` as ``module:function``; None: none due."""
        ...

    def accept(self, suggestion: Mapping[str, Any] | None) -> None:
        """Take that function's answer; None: there was none in time."""
        ...


@dataclass(frozen=True, slots=True)
class Suggested:
    """What a policy accepted: the suggestion (None: it fell back, and `reason` says why), and how long it took."""

    suggestion: Mapping[str, Any] | None
    elapsed_s: float
    reason: str = ""


class Deliberator:
    """Solves problems one at a time in a spawned process, which is made when it is first needed.

    JSON crosses, nothing is pickled. A process that does not answer by the deadline is killed: what it computes nobody
    waits for any more. Methods block, and are called from one thread.

    Parameters
    ----------
    start_s : float
        How long the process may take until it is ready; this does not count towards a deadline.
    """

    def __init__(self, start_s: float = START_S) -> None:
        self._start_s = start_s
        self._child: _Child | None = None
        self._closed = False
        self._lock = threading.Lock()

    def solve(self, problem: Mapping[str, Any], deadline_s: float = DEADLINE_S) -> Suggested:
        """Solve; whatever goes wrong is the reason of an empty suggestion, never an error."""
        began = time.monotonic()
        try:
            child = self._ready(str(problem.get("solve", "")))
            began = time.monotonic()
            answer = child.ask({"problem": dict(problem)}, deadline_s)
        except (DeliberationError, OSError, ValueError) as error:
            self._drop()
            log.warning("suggestion.failed", error=str(error))
            return Suggested(None, time.monotonic() - began, str(error))
        elapsed_s = time.monotonic() - began
        if "error" in answer:
            log.warning("suggestion.failed", error=answer["error"])
            return Suggested(None, elapsed_s, str(answer["error"]))
        return Suggested(answer["suggestion"], elapsed_s)

    def warm_up(self, target: str) -> None:
        """Have the process import a solver's module; a failure is said when something is to be solved."""
        with contextlib.suppress(DeliberationError, OSError):
            self._ready(target)

    def close(self) -> None:
        """End the process. Idempotent; from any thread."""
        self._closed = True
        self._drop()

    def _ready(self, target: str) -> _Child:
        with self._lock:
            if self._closed:
                raise DeliberationError("the session is over")
            child = self._child
            if child is None or not child.alive:
                child = self._child = _Child()
        child.wait_until_ready(target, self._start_s)
        return child

    def _drop(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.close()


class _Child:
    """The parent's handle on the process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe(duplex=True)
        self._process = context.Process(target=main, args=(theirs,), name="parfocal-solver", daemon=True)
        try:
            self._process.start()
        finally:
            theirs.close()
        self._warm: set[str] = set()
        self._end = weakref.finalize(self, _dispose, self._connection, self._process)

    @property
    def alive(self) -> bool:
        return self._end.alive and self._process.is_alive()

    def wait_until_ready(self, target: str, timeout_s: float) -> None:
        if target not in self._warm:
            self.ask({"warm_up": target}, timeout_s)
            self._warm.add(target)

    def ask(self, message: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        try:
            self._connection.send_bytes(json.dumps(message, allow_nan=False).encode())
            if not self._connection.poll(timeout_s):
                raise DeliberationError(f"no suggestion within {timeout_s:g} s")
            answer = json.loads(self._connection.recv_bytes())
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            raise DeliberationError("the process that makes suggestions died") from error
        return dict(answer)

    def close(self) -> None:
        self._end()


def _dispose(connection: Connection, process: BaseProcess) -> None:
    """Kill: there is nothing in it worth a farewell."""
    process.kill()
    process.join(JOIN_S)
    connection.close()
    if not process.is_alive():
        process.close()


def main(connection: Connection) -> None:
    """Answer until the connection closes; entry point of the spawned process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    sys.stdout = sys.stderr  # stdout is the parent's to write on
    threading.Thread(target=_die_with_parent, daemon=True).start()
    try:
        while True:
            message = json.loads(connection.recv_bytes())
            connection.send_bytes(json.dumps(_answer(message), allow_nan=False).encode())
    except (EOFError, OSError):
        pass
    os._exit(0)


def _answer(message: Mapping[str, Any]) -> dict[str, Any]:
    from parfocal.policies.sted.solving import solve, warm_up

    try:
        if "warm_up" in message:
            warm_up(message["warm_up"])
            return {}
        return {"suggestion": _finite(solve(message["problem"]))}
    except Exception as error:  # noqa: BLE001 - whatever a solver raises becomes a reason, and the policy falls back
        return {"error": f"{type(error).__name__}: {error}"}


def _finite(suggestion: dict[str, Any]) -> dict[str, Any]:
    """Refuse what JSON cannot carry: the journal has to give back exactly what was accepted."""
    json.dumps(suggestion, allow_nan=False)
    return suggestion


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
