"""The states of a session and the table of allowed transitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

from parfocal import ParfocalError


class State(Enum):
    """Where a session is."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    SAFE = "safe"
    ENDED = "ended"


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.IDLE: frozenset({State.RUNNING, State.SAFE}),
        State.RUNNING: frozenset({State.PAUSED, State.STOPPING, State.SAFE}),
        State.PAUSED: frozenset({State.RUNNING, State.STOPPING, State.SAFE}),
        State.STOPPING: frozenset({State.SAFE}),
        State.SAFE: frozenset({State.ENDED}),
        State.ENDED: frozenset(),
    }
)


class TransitionError(ParfocalError):
    """A change of state that the table does not allow: a mistake in parfocal, not of the person in front of it."""


class StateMachine:
    """Holds one `State`; the only way to `ENDED` leads through `SAFE`.

    Parameters
    ----------
    on_change : callable
        Called with the old state, the new one and the reason, once the new one holds.
    """

    def __init__(self, on_change: Callable[[State, State, str], None] | None = None) -> None:
        self.state = State.IDLE
        self._on_change = on_change

    def to(self, new: State, reason: str) -> None:
        """Go to another state; raises `TransitionError` if the table does not have it."""
        old = self.state
        if new not in TRANSITIONS[old]:
            raise TransitionError(f"a session cannot go from {old.value} to {new.value} ({reason})")
        self.state = new
        if self._on_change is not None:
            self._on_change(old, new, reason)
