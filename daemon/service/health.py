"""How the loop is doing, from the steps that pass by: frame rate, latency, and how long ago the last one was."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from parfocal.daemon.service.events import Note
from parfocal.daemon.summary import percentile

KEPT = 1000


class Health:
    """Keeps the latencies of the last frames.

    Parameters
    ----------
    monotonic : callable
        Seconds that never jump.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._latencies_ms: deque[float] = deque(maxlen=KEPT)
        self._last: Note | None = None
        self._last_s = math.nan

    def note(self, noted: Note) -> None:
        """Take in a step."""
        if math.isfinite(noted.latency_ms):
            self._latencies_ms.append(noted.latency_ms)
        self._last, self._last_s = noted, self._monotonic()

    def numbers(self) -> dict[str, Any]:
        """Return what is known now."""
        last = self._last
        return {
            "fps": last.fps if last is not None else None,
            "frames": last.frames if last is not None else 0,
            "dropped": last.dropped if last is not None else 0,
            "latency_ms": {name: percentile(self._latencies_ms, p) for name, p in (("p50", 50.0), ("p99", 99.0))},
            "since_step_s": self._monotonic() - self._last_s,
        }
