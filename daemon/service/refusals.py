"""Who was turned away: each one logged, those of a flood as a number a second."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog

log = structlog.get_logger()
IN_FULL_PER_S = 5
"""So many of a kind are logged one by one within a second; a log that fills the disk would stop the session."""


class Refusals:
    """Counts and logs refusals.

    Parameters
    ----------
    monotonic : callable
        Seconds that never jump.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._second: Counter[str] = Counter()
        self._since_s = monotonic()
        self.total: Counter[str] = Counter()

    def note(self, code: str, who: str, reason: str) -> None:
        """Count one, and log it."""
        self.total[code] += 1
        self._second[code] += 1
        if self._second[code] <= IN_FULL_PER_S:
            log.warning("service.refused", code=code, who=who, reason=reason)

    def tick(self) -> None:
        """Log how many more there were; to be called about once a second, and at the end."""
        now = self._monotonic()
        for code, count in self._second.items():
            if count > IN_FULL_PER_S:
                more = count - IN_FULL_PER_S
                log.warning("service.refused_more", code=code, count=more, within_s=round(now - self._since_s, 1))
        self._second.clear()
        self._since_s = now
