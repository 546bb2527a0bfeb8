"""A decision in words, and the last few of them, holds in a row counted as one."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parfocal.policies.base import Change, Finish

if TYPE_CHECKING:
    from parfocal.daemon.guard import Verdict
    from parfocal.daemon.summary import Step
    from parfocal.policies.base import Action


@dataclass(frozen=True)
class Decision:
    """One decision as a person reads it.

    Parameters
    ----------
    frame : int
        Index of the frame it was made on.
    what : str
        ``move``, ``hold``, ``finish`` or ``REFUSED``, with the target.
    reason : str
        Of the policy, or of the guard that refused.
    count : int
        How many decisions in a row this stands for.
    """

    frame: int
    what: str
    reason: str
    count: int = 1

    @property
    def holds(self) -> bool:
        """Whether nothing was to be done."""
        return self.what == "hold"

    def line(self) -> str:
        """Return all of it in one line."""
        times = f" x{self.count}" if self.count > 1 else ""
        return f"frame {self.frame}  {self.what}{times}: {self.reason}"

    def same_words(self, other: Decision) -> bool:
        """Whether both say the same but for their numbers."""
        return self.what == other.what and _words(self.reason) == _words(other.reason)


def side_known(detail: Mapping[str, float]) -> bool:
    """Whether a belief about defocus, as the detail of an action gives it, knows the side; near focus it has none."""
    between = 0.1 < detail.get("positive", 1.0) < 0.9
    return not (between and abs(detail.get("defocus_um", 0.0)) > 2.0 * detail.get("defocus_sd_um", math.inf))


def decision_of(frame: int, action: Action, verdict: Verdict | None, *, shadow: bool = False) -> Decision:
    """Put an action and what the guard said of it into words; in shadow mode it is only what would have been."""
    would = "would " if shadow else ""
    targets = ""
    if isinstance(action, (Change, Finish)):
        targets = ", ".join(f"{name} to {value:.4g}" for name, value in action.settings.items())
    if verdict is not None and not verdict.accepted:
        return Decision(frame, f"REFUSED {targets}".strip(), f"{verdict.reason} (wanted: {action.reason})")
    if isinstance(action, Finish):
        return Decision(frame, f"{would}finish {targets}".strip(), action.reason)
    if isinstance(action, Change):
        return Decision(frame, f"{would}move {targets}", action.reason)
    return Decision(frame, "hold", action.reason)


class DecisionHistory:
    """The last decisions of a run."""

    def __init__(self, length: int = 50, *, shadow: bool = False) -> None:
        self._kept: deque[Decision] = deque(maxlen=length)
        self._shadow = shadow

    def add(self, step: Step) -> Decision | None:
        """Take in one step; return its decision, or None where none was made."""
        if step.action is None:
            return None
        decision = decision_of(step.frame.index, step.action, step.verdict, shadow=self._shadow)
        if decision.holds and self._kept and self._kept[-1].holds:
            before = self._kept.pop()
            self._kept.append(Decision(decision.frame, decision.what, decision.reason, before.count + 1))
        else:
            self._kept.append(decision)
        return decision

    def latest(self, count: int) -> list[Decision]:
        """Return at most `count` decisions, newest first."""
        return list(self._kept)[-count:][::-1] if count > 0 else []


def _words(reason: str) -> str:
    return re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", reason)
