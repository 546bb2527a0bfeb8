"""Metrics and alerts of a seat: the page stays from attaching to detaching, each acquisition is a session on it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, cast

from parfocal.daemon.manners.opening import manners_of
from parfocal.daemon.manners.vitals import Vitals
from parfocal.daemon.requests import Requests
from parfocal.daemon.states import State
from parfocal.daemon.summary import Counts, Step

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.decide import Scoring
    from parfocal.daemon.guard import BeamLease
    from parfocal.daemon.mda.follower import Told
    from parfocal.daemon.mda.run import SeatRun
    from parfocal.daemon.record import Record
    from parfocal.daemon.recorder import Recorder
    from parfocal.daemon.summary import Summary


class _OfTheRun:
    """What is read of the acquisition at hand, or of the last one: its lease, and its recorder if it has one."""

    def __init__(self) -> None:
        self.run: SeatRun | None = None

    @property
    def renewals(self) -> int:
        return self.run.lease.renewals if self.run is not None else 0

    @property
    def recorder(self) -> Recorder | None:
        return self.run.book.recorder if self.run is not None else None


class SeatManners:
    """Tells the parts of the manners what they would be told by a loop; a service manager is not among them.

    Parameters
    ----------
    config : Config
    scorer : Scoring

    Raises
    ------
    ConfigError, MetricsError
        Alerts have nowhere to go, or the page cannot be served.
    """

    def __init__(self, config: Config, scorer: Scoring) -> None:
        self._stack = ExitStack()
        self._manners = self._stack.enter_context(manners_of(config, managed=False))
        self._counts, self._of = Counts(), _OfTheRun()
        self.address = self._manners.address
        lease, record = cast("BeamLease", self._of), cast("Record", self._of)
        self._manners.read(Vitals(lease, self._counts, scorer, record, Requests(lambda: None)))

    def began(self, run: SeatRun) -> None:
        """Begin with an acquisition."""
        self._of.run = run
        facts: Mapping[str, Any] = run.about()
        self._counts.doubtful = 0
        self._manners.facts({**facts, "session": run.session.folder.name})
        self._manners.state(State.IDLE, State.RUNNING, "beside an acquisition (MDA)", run.clock.now())

    def told(self, run: SeatRun, told: Told) -> None:
        """Pass on what came of a frame; the latency is what was added to the event before it."""
        tally, counts = run.tally, self._counts
        counts.note_frame(told.frame.end_s)
        counts.frames, counts.scored, counts.missed = tally.frames, tally.scored, tally.dropped
        counts.doubtful += told.assessments is None
        verdict, run.verdict = run.verdict, None  # counted once, however many frames its event has
        step = Step(
            told.frame, told.assessments, told.action, verdict, False, "running", tally.frames, tally.scored, 0,
            tally.dropped, tally.corrected + tally.looks, run.guard.refused, told.dose,
            run.guard.travel.get("correction_um", 0.0), counts.fps, tally.added_ms[-1] if tally.added_ms else math.nan,
            "", run.dose.unit, run.dose.budget,
        )  # fmt: skip
        self._manners.listen(step)

    def ended(self, run: SeatRun, summary: Summary) -> None:
        """End with an acquisition."""
        now_s = run.clock.now()
        self._manners.state(State.RUNNING, State.STOPPING, summary.outcome, now_s)
        self._manners.end(summary)
        self._manners.state(State.STOPPING, State.ENDED, summary.outcome, now_s)

    def close(self) -> None:
        """Let go of the page, and send what still waits. Idempotent."""
        self._stack.close()
