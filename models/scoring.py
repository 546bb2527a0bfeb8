"""Scorers: frame in, one assessment a model out; in this process, or in one of their own that may die alone."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import structlog
from numpy.typing import NDArray

from parfocal.models import ModelSpec
from parfocal.models.base import Assessment, ScorerError
from parfocal.models.child import ScorerChild, ScorerLostError
from parfocal.models.panel import Panel, check_frame, check_specs

__all__ = ["InlineScorer", "ProcessScorer", "Scorer", "ScorerLostError"]

log = structlog.get_logger()

BYTES_PER_PIXEL = 4
"""Room for float32 frames; a frame of wider pixels makes the shared memory grow once."""


@runtime_checkable
class Scorer(Protocol):
    """Assesses frames one at a time; methods may be called from any thread, `score` blocks."""

    @property
    def healthy(self) -> bool:
        """Whether the next `score` can be expected to work."""
        ...

    @property
    def restarts(self) -> int:
        """How often `restart` was called."""
        ...

    def start(self) -> None:
        """Load and warm up the models; raises `ModelError` (or `ScorerError`) if that fails."""
        ...

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        """Assess one raw frame (height, width); by model name.

        Raises
        ------
        ImageError
            The frame is not an image a model can take; the scorer goes on.
        ScorerError
            The scorer is dead, stalled past `timeout_s`, or a model failed: hold, and `restart` it.
        """
        ...

    def restart(self) -> None:
        """Replace the models by fresh ones, whatever state the old are in; raises what `start` raises."""
        ...

    def close(self) -> None:
        """Let everything go. Idempotent."""
        ...

    def describe(self) -> dict[str, Any]:
        """By model: its card and how it runs; empty before `start`."""
        ...


class InlineScorer:
    """Scores in the calling thread, for tests and replay: `timeout_s` cannot be enforced here and is not.

    Parameters
    ----------
    specs : sequence of ModelSpec
        Which models.
    """

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        check_specs(specs)
        self._specs = tuple(specs)
        self._panel: Panel | None = None
        self._restarts = 0

    @property
    def healthy(self) -> bool:
        """Whether it is started and not closed."""
        return self._panel is not None

    @property
    def restarts(self) -> int:
        """How often `restart` was called."""
        return self._restarts

    def start(self) -> None:
        """Make the models."""
        if self._panel is None:
            panel = Panel(self._specs)
            panel.warm_up()
            self._panel = panel

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        """See `Scorer.score`."""
        frame = check_frame(pixels, pixel_um)
        if self._panel is None:
            raise ScorerError("the scorer is not running: call start()")
        return self._panel.assess(frame, pixel_um)

    def restart(self) -> None:
        """Make the models again."""
        self._restarts += 1
        self.close()
        self.start()

    def close(self) -> None:
        """Forget the models."""
        self._panel = None

    def describe(self) -> dict[str, Any]:
        """By model: its card and how it runs."""
        return self._panel.describe() if self._panel is not None else {}


class ProcessScorer:
    """Scores in a process of its own (spawned, never forked), which may crash or hang without harm to this one.

    Frames cross in shared memory, assessments come back as msgpack: nothing is pickled. A process that dies or does not
    answer in time is killed and reported as `ScorerError`; `restart` makes a new one.

    Parameters
    ----------
    specs : sequence of ModelSpec
        Which models.
    max_pixels : int
        Pixels of the largest frame expected, for the size of the shared memory; it grows if a larger one comes.
    threads : int, optional
        Threads for the models' arithmetic; None leaves it to the libraries.
    start_timeout_s : float
        How long loading and warming up may take.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        max_pixels: int = 2048 * 2048,
        *,
        threads: int | None = None,
        start_timeout_s: float = 120.0,
    ) -> None:
        check_specs(specs)
        self._specs = tuple(specs)
        self._pixel_bytes = BYTES_PER_PIXEL * max_pixels
        self._threads = threads
        self._start_timeout_s = start_timeout_s
        self._lock = threading.Lock()
        self._child: ScorerChild | None = None
        self._why_down = "it was not started: call start()"
        self._restarts = 0

    @property
    def healthy(self) -> bool:
        """Whether the process is alive and its heart beats."""
        child = self._child
        return child is not None and child.healthy

    @property
    def restarts(self) -> int:
        """How often `restart` was called."""
        return self._restarts

    @property
    def pid(self) -> int | None:
        """Id of the process, None while there is none."""
        child = self._child
        return None if child is None else child.pid

    def start(self) -> None:
        """Start the process and wait until its models are loaded and warm; nothing happens if one runs already.

        Raises
        ------
        ModelError
            A model that cannot be made (unknown, weights missing or wrong, ...).
        ScorerError
            The process died or took longer than `start_timeout_s`.
        """
        with self._lock:
            if self._child is None:
                self._child = ScorerChild(self._specs, self._pixel_bytes, self._threads, self._start_timeout_s)

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        """See `Scorer.score`."""
        frame = check_frame(pixels, pixel_um)
        with self._lock:
            if self._child is None:
                raise ScorerLostError(f"no scorer process: {self._why_down}")
            try:
                return self._child.score(frame, pixel_um, timeout_s)
            except ScorerLostError as error:
                log.warning("scorer lost", reason=str(error))
                self._drop(f"{error}; call restart()")
                raise

    def restart(self) -> None:
        """End the process, if there is one, and start another."""
        self._restarts += 1
        self.close()
        self.start()

    def close(self) -> None:
        """End the process and remove the shared memory; a `score` still waiting elsewhere gets `ScorerError`."""
        child = self._child
        # Ask for the lock first: only a scorer in the middle of a frame needs to be torn out of it.
        if not self._lock.acquire(timeout=0.05):
            if child is not None:
                child.kill()
            self._lock.acquire()
        try:
            self._drop("it was closed: call start()")
        finally:
            self._lock.release()

    def describe(self) -> dict[str, Any]:
        """By model: its card and how it runs in the scorer process; empty while there is none."""
        child = self._child
        return {} if child is None else dict(child.description)

    def _drop(self, why: str) -> None:
        if self._child is not None:
            self._child.close()
        self._child, self._why_down = None, why
