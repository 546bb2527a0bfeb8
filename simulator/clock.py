"""Time as an injected dependency: the wall's, or a virtual one that only moves when told to."""

from __future__ import annotations

import time
from typing import Protocol, runtime_checkable


@runtime_checkable
class Clock(Protocol):
    """Monotonic seconds, and a way to let them pass."""

    @property
    def virtual(self) -> bool:
        """Whether time only passes when somebody sleeps."""
        ...

    def now(self) -> float:
        """Seconds since an arbitrary start; never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Let `seconds` pass; negative or zero returns at once."""
        ...


class RealClock:
    """The machine's monotonic clock."""

    virtual = False

    def now(self) -> float:
        """Seconds of `time.monotonic`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block the calling thread for `seconds`."""
        if seconds > 0:
            time.sleep(seconds)


class VirtualClock:
    """A clock that advances only by `sleep`, so that an hour of drift takes the time its arithmetic takes."""

    virtual = True

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = float(start_s)

    def now(self) -> float:
        """Seconds on this clock."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Advance this clock by `seconds` at once."""
        if seconds > 0:
            self._now_s += seconds
