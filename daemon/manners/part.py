"""What every part of the manners can be told; each listens to what it needs and lets the rest pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parfocal.daemon.manners.vitals import Vitals
    from parfocal.daemon.restored import RestoredFrame
    from parfocal.daemon.states import State
    from parfocal.daemon.summary import Step, Summary


class Part:
    """Told of all that happens; `listen`, `facts` and `state` are called in the loop's thread, and return at once."""

    def attach(self, vitals: Vitals) -> None:
        """Learn where the loop's vital signs are read; before it starts."""

    def listen(self, step: Step) -> None:
        """Take in one frame's way through the loop."""

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Learn what holds for the session until told otherwise."""

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Learn of a change of state."""

    def restored(self, shown: RestoredFrame) -> None:
        """Learn what became of a restored preview; in the preview's own thread."""

    def end(self, summary: Summary) -> None:
        """Learn how the session ended."""

    def failed(self, error: BaseException) -> None:
        """Learn that it ended with an error that is not in any summary."""

    def close(self) -> None:
        """Let go of everything. Idempotent."""
