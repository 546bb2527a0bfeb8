"""What one acquisition amounts to: the numbers that the handle shows, the session's summary, and its state."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from parfocal.daemon.config import Config
from parfocal.daemon.config_models import Limit
from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import Guard, Verdict
from parfocal.daemon.journal import Journal, JournalError
from parfocal.daemon.mda.follower import Told
from parfocal.daemon.owner import Done, Taken
from parfocal.daemon.record import Record
from parfocal.daemon.recorder import Recorder
from parfocal.daemon.session import Session
from parfocal.daemon.states import State, StateMachine
from parfocal.daemon.summary import Summary
from parfocal.drivers.base import Frame, Microscope, Parameter
from parfocal.policies.base import Action, Observation
from parfocal.simulator.clock import Clock

ANYWHERE_UM = 1e5
"""Where nobody limits the stage, this still refuses what is not finite, or absurd."""


@dataclass
class Tally:
    """What happened so far."""

    events: int = 0
    corrected: int = 0
    held: int = 0
    refused: int = 0
    skipped: int = 0
    looks: int = 0
    searches: int = 0
    frames: int = 0
    scored: int = 0
    dropped: int = 0
    added_ms: list[float] = field(default_factory=list)

    COUNTS: ClassVar[tuple[str, ...]] = (
        "events", "corrected", "held", "refused", "skipped", "looks", "searches", "frames", "scored", "dropped"
    )  # fmt: skip


@dataclass(frozen=True)
class Seated:
    """What the journal's header needs to know of the microscope that somebody else drives."""

    name: str
    simulated: bool
    clock: Clock


class Syncer:
    """Waits for the disk in a thread of its own, whenever asked to.

    Parameters
    ----------
    journal : Journal
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._asked = threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._main, name="parfocal-journal", daemon=True)
        self._thread.start()
        self.failure: JournalError | None = None

    def ask(self) -> None:
        """Have all that is written synced soon; raises `JournalError` if that failed before."""
        if self.failure is not None:
            raise self.failure
        self._asked.set()

    def close(self) -> None:
        """End the thread; what is left is synced when the journal is closed. Idempotent."""
        self._closing = True
        self._asked.set()
        self._thread.join(10.0)

    def _main(self) -> None:
        while self._asked.wait():
            self._asked.clear()
            if self._closing:
                return
            try:
                self._journal.sync()
            except JournalError as error:
                self.failure = error
                return


class Book:
    """The session of one acquisition, written to from two threads: the runner's and the follower's.

    Parameters
    ----------
    session : Session
    seated : Seated
    """

    def __init__(self, session: Session, seated: Seated) -> None:
        self.session, self._seated = session, seated
        self._record = Record(session)
        self._lock = threading.RLock()
        self._syncer = Syncer(session.journal)
        self._policy: tuple[str, Mapping[str, Any]] | None = None
        self.state = StateMachine(self._state_changed)

    @property
    def recorder(self) -> Recorder | None:
        """Who writes frames, if anybody does."""
        return self._record.recorder

    def begin(
        self,
        parameters: Mapping[str, Parameter],
        limits: Mapping[str, Limit],
        settings: Mapping[str, float],
        models: Mapping[str, Any],
        policy: tuple[str, Mapping[str, Any]],
    ) -> None:
        """Write the header."""
        with self._lock:
            microscope = cast(Microscope, self._seated)
            self._record.header(microscope, parameters, limits, False, settings, models)
            self.state.to(State.RUNNING, "beside an acquisition (MDA)")
            self._policy = policy

    def told(self, told: Told) -> None:
        """Write one frame with what came of it."""
        with self._lock:
            self._frame(told.frame, told.dose, "doubtful" if told.assessments is None else "")
            if told.assessments is not None:
                self._begin_policy()
                self._record.assessments(told.frame.index, told.assessments)
            self._record.action(told.frame.index, told.action)
            self._record.flush()
        self._syncer.ask()

    def observed(self, observation: Observation) -> None:
        """Write what the policy was told that no frame said; a replay tells it, too."""
        with self._lock:
            self._begin_policy()
            self._record.observation(observation)
            self._record.flush()

    def _begin_policy(self) -> None:
        if self._policy is not None:
            self._record.policy(*self._policy)
            self._policy = None

    def missed(self, frame: Frame, dose: float) -> None:
        """Write a frame that nobody looked at."""
        with self._lock:
            self._frame(frame, dose, "missed")
            self._record.flush()

    def judged(self, index: int | None, action: Action, verdict: Verdict) -> None:
        """Write an action that no frame alone brought about, and what the guard says of it."""
        with self._lock:
            self._record.action(index, action)
            self._record.verdict(index, verdict)

    def verdict(self, index: int | None, verdict: Verdict) -> None:
        """Write what the guard says of an action that is written down already."""
        with self._lock:
            self._record.verdict(index, verdict)

    def command(self, index: int | None, settings: Mapping[str, float], *, wait: bool = True) -> None:
        """Write what is about to be sent; and wait until the disk has it, or have that done behind.

        What is written outlives this process at once, and a power cut when the disk has it. An event of an
        acquisition cannot wait for the disk (which takes its 4 ms, or 40): its correction follows from a forecast that
        was synced long before, and its own record is a few ms behind.
        """
        with self._lock:
            if wait:
                self._record.command(index, settings)
                return
            self._record.flush()
            self.session.journal.append("command", index=index, settings=dict(settings))
        self._syncer.ask()

    def readback(self, name: str, value: float, readback: float, settled_s: float, sent: float) -> None:
        """Write what the device said."""
        with self._lock:
            self._record.readback(name, value, Done(readback, settled_s, sent))

    def verified(self, name: str, value: float, readback: float, read_s: float, asked: float) -> None:
        """Write that the device still says so, where nothing had to be sent."""
        with self._lock:
            self._record.flush()
            self._record.readback(name, value, Done(readback, read_s, asked))
        self._syncer.ask()

    def error(self, error: BaseException) -> None:
        """Write what went wrong."""
        with self._lock:
            self._record.error(error, self._seated.clock.now())

    def end(self, summary: Summary) -> None:
        """Write the end and close the journal."""
        self._syncer.close()
        with self._lock:
            if self.state.state is State.RUNNING:
                self.state.to(State.STOPPING, summary.outcome)
            self.state.to(State.SAFE, "commands nothing any more; the light is the acquisition's own")
            self._record.finish(None)
            self.state.to(State.ENDED, summary.outcome)
            self._record.end(summary)

    def _frame(self, frame: Frame, dose: float, unfit: str) -> None:
        self._record.frame(Taken(frame, dose, None, 0.0), unfit)

    def _state_changed(self, old: State, new: State, reason: str) -> None:
        self._record.state(old, new, reason, self._seated.clock.now())


def summary_of(
    config: Config,
    session: Session,
    seated: Seated,
    tally: Tally,
    guard: Guard,
    dose: DoseLedger,
    settings: Mapping[str, float],
    error: str,
) -> Summary:
    """Put an acquisition into the shape that every session ends with."""
    detail = dict(settings)
    focus = detail.pop("focus_z_um", float("nan"))
    sd = detail.pop("defocus_sd_um", float("nan"))
    return Summary(
        session=str(session.folder),
        driver=config.microscope.driver,
        simulated=seated.simulated,
        outcome="failed" if error else "done",
        frames=tally.frames,
        scored=tally.scored,
        dropped=tally.dropped,
        actions=tally.corrected + tally.looks,
        refused=guard.refused,
        travel_um=guard.travel.get("correction_um", 0.0),
        dose=dose.spent,
        dose_unit=dose.unit,
        settings=detail,
        defocus_um=detail.get("z_um", float("nan")) - focus,
        defocus_sd_um=sd,
        latency_p50_ms=_percentile(tally.added_ms, 50),
        latency_p99_ms=_percentile(tally.added_ms, 99),
        error=error,
        exit_code=1 if error else 0,
    )


def _percentile(values: Sequence[float], percent: float) -> float:
    from collections import deque

    from parfocal.daemon.summary import percentile

    return percentile(deque(values), percent)


def guarded(
    config: Config, parameters: Mapping[str, Parameter], most_um: float
) -> tuple[dict[str, Parameter], dict[str, Limit], list[str]]:
    """Return parameters and limits as the guard sees them inside an acquisition, and what is wrong with them.

    The plan's own moves are not ours. What is, is the correction: it is judged against the largest step, rate and
    travel of ``limits.z_um``, and the place it leads to against that section's lower and upper.
    """
    from parfocal.daemon.guard import resolve_limits

    resolved, problems = resolve_limits(config.limits.parameters, parameters)
    z = resolved.pop("z_um", None)
    mine = dict(parameters)
    mine["correction_um"] = Parameter("correction_um", "um", -most_um, most_um)
    given = z or Limit()
    resolved["correction_um"] = Limit(
        lower=-most_um, upper=most_um, max_step=given.max_step, max_rate=given.max_rate, max_travel=given.max_travel
    )
    lower, upper = (-ANYWHERE_UM, ANYWHERE_UM) if z is None else (z.lower, z.upper)
    resolved["z_um"] = Limit(lower=lower, upper=upper)
    return mine, resolved, problems
