"""A run without a live terminal: one record a decision, written by a thread that the loop never waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from parfocal.daemon.decisions import Decision, decision_of
from parfocal.daemon.viewparts import believed_defocus, knows_side

if TYPE_CHECKING:
    from parfocal.daemon.summary import Step

REPORT_EVERY_S = 10.0
"""A hold that says the same again is written this often, so that a log of an hour can still be read."""


@dataclass(frozen=True)
class Line:
    """One decision with what was known when it was made; `repeats` counts like ones before it that were not written."""

    time_s: float
    frame: int
    z_um: float | None
    defocus_um: float | None
    defocus_sd_um: float | None
    decision: str
    reason: str
    repeats: int
    side_known: bool = True

    def text(self) -> str:
        """Return it as one line for a person."""
        parts = [f"{self.time_s:8.2f} s  frame {self.frame:<5d}"]
        parts.append("z         ? um" if self.z_um is None else f"z {self.z_um:+9.3f} um")
        if self.defocus_um is not None:
            sd = f" (sd {self.defocus_sd_um:.3f})" if self.defocus_sd_um is not None else ""
            value = f"{self.defocus_um:+.3f}" if self.side_known else f"|{abs(self.defocus_um):.3f}|"
            parts.append(f"defocus {value:>8}{sd} um")
        times = f" (and {self.repeats} like it before)" if self.repeats else ""
        parts.append(f"{self.decision}: {self.reason}{times}")
        return "  ".join(parts)

    def to_json(self) -> dict[str, Any]:
        """Return it for a program: a defocus whose side is not known is none, only its distance is."""
        fields = asdict(self)
        known = self.defocus_um is not None and self.side_known
        distance = None if self.defocus_um is None else abs(self.defocus_um)
        return fields | {"defocus_um": self.defocus_um if known else None, "distance_um": distance}


class PlainLog:
    """Writes each move, finish and refusal, each hold that says something new, and a sign of life every few seconds.

    Parameters
    ----------
    write : callable
        Gets one `Line`; called from this object's own thread.
    shadow : bool
        Moves are not commanded, and written as what they would have been.
    """

    def __init__(self, write: Callable[[Line], None], *, shadow: bool = False) -> None:
        self._write, self._shadow = write, shadow
        self._queue: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._last: Decision | None = None
        self._first_s: float | None = None
        self._written_s = float("-inf")
        self._repeats = 0
        self._thread = threading.Thread(target=self._drain, name="plain-log", daemon=True)
        self._thread.start()

    def listen(self, step: Step) -> None:
        """Take in one step; the loop calls this for every frame."""
        now_s = step.frame.end_s
        self._first_s = now_s if self._first_s is None else self._first_s
        if step.action is None:
            return
        decision = decision_of(step.frame.index, step.action, step.verdict, shadow=self._shadow)
        repeats = self._last is not None and decision.holds and decision.same_words(self._last)
        self._last = decision
        if repeats and now_s - self._written_s < REPORT_EVERY_S:
            self._repeats += 1
            return
        z_um, (defocus_um, sd_um) = step.frame.settings.get("z_um"), believed_defocus(step)
        since_s = now_s - self._first_s
        what, why, side = decision.what, decision.reason, knows_side(step)
        self._queue.put(Line(since_s, decision.frame, z_um, defocus_um, sd_um, what, why, self._repeats, side))
        self._written_s, self._repeats = now_s, 0

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left, but do not wait for ever for a pipe that nobody reads."""
        self._queue.put(None)
        self._thread.join(timeout_s)

    def _drain(self) -> None:
        while (line := self._queue.get()) is not None:
            try:
                self._write(line)
            except (OSError, ValueError):
                # The reader is gone (`parfocal run | head`): the run goes on, and its record is in the session.
                return
