"""The loop: frame, score, decision, guard, journal, command, and on every way out a microscope that is safe."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import structlog

from parfocal import ParfocalError
from parfocal.daemon.accounts import Run, facts_of, summary_of
from parfocal.daemon.alive import kept_alive
from parfocal.daemon.arrival import Arrivals
from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.config import ConfigError
from parfocal.daemon.controls import Controls
from parfocal.daemon.decide import Decider, Decision
from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, Guard, GuardState, SafetyTripError, Verdict, in_safe_order, resolve_limits
from parfocal.daemon.intake import Intake
from parfocal.daemon.manners.vitals import Vitals
from parfocal.daemon.orders import Orders
from parfocal.daemon.owner import Done, Owner, Taken
from parfocal.daemon.quality_gate import outcome_of_finish
from parfocal.daemon.record import Record
from parfocal.daemon.requests import Requests
from parfocal.daemon.session import Session
from parfocal.daemon.snapping import take_one
from parfocal.daemon.states import State, StateMachine
from parfocal.daemon.steady import steady
from parfocal.daemon.summary import Counts, Step, Summary
from parfocal.daemon.terms import Deadlines, Ending
from parfocal.daemon.worker import uninterrupted
from parfocal.drivers.base import HardwareError, Microscope, Parameter
from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Change, Finish, Hold

log = structlog.get_logger()
Listener = Callable[[Step], None]
RENEWED_WITHIN = 0.25  # of the lease, while the loop waits


class Onlooker(Protocol):
    """Who is told of more than frames; called in the event loop's thread, and must return at once."""

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Learn what holds for the session until told otherwise, as plain JSON."""
        ...

    def state(self, old: State, new: State, reason: str, time_s: float) -> None:
        """Learn of a change of state."""
        ...


class Loop:
    """Runs one session.

    Parameters
    ----------
    microscope : Microscope
        Not opened yet; opened, used and closed by one thread of its own.
    decider : Decider
        Scorer and policy.
    session : Session
        Folder and journal.
    start : mapping
        Settings applied before the first frame, through the guard.
    shadow : bool
        Decide and record everything, command nothing.
    listeners : sequence of callable
        Called in the event loop's thread with a `Step` for every frame looked at; what they raise is logged.
    onlooker : Onlooker, optional
        Told of the session's facts and states.
    choice : PolicyChoice, optional
        What the decider makes its policy with; with it, policy and options can be changed while the session runs.

    Attributes
    ----------
    orders : Orders
        Where commands of others are handed in, from any thread.
    requests : Requests
        ``stop``, ``safe``, ``pause``, ``resume``, from any thread.
    """

    def __init__(
        self,
        microscope: Microscope,
        decider: Decider,
        session: Session,
        *,
        ending: Ending | None = None,
        deadlines: Deadlines | None = None,
        shadow: bool = False,
        listeners: Sequence[Listener] = (),
        onlooker: Onlooker | None = None,
        choice: PolicyChoice | None = None,
    ) -> None:
        config = session.config
        self.session = session
        self.state = StateMachine(self._state_changed)
        self._microscope, self._decider, self._config = microscope, decider, config
        self._ending, self._deadlines, self._shadow = ending or Ending(), deadlines or Deadlines(), shadow
        self._listeners, self._onlooker, self._choice = list(listeners), onlooker, choice
        dose = config.limits.dose
        self.ledger = DoseLedger(dose.budget if dose else None, dose.unit if dose else "")
        self._lease, self._record = BeamLease(config.limits.beam_lease_s), Record(session)
        interval_ms = config.microscope.interval_ms
        self._owner = Owner(
            microscope,
            self.ledger,
            self._lease,
            interval_s=interval_ms / 1000.0 if interval_ms else None,
            max_frames=self._ending.max_frames,
            on_frame=self._record.offer_any,
            on_request=config.takes_on_request,
        )
        self._intake, self._arrivals = Intake(), Arrivals()
        self._guard = Guard({}, {}, self._lease)
        self._counts, self._run = Counts(), Run()
        self._policy: object = None
        self.requests = requests = Requests(self._owner.wake)
        self.request_stop, self.request_safe = requests.stop, requests.safe
        self.pause, self.resume = requests.pause, requests.resume
        self.vitals = Vitals(self._lease, self._counts, decider.scorer, self._record, requests)
        self._controls = Controls(decider, choice, self.ledger, self._policy_changed)
        self.orders = Orders(
            requests, self._controls, self.state, self._record, session, microscope.clock, self._snap,
            self._lease_keeper,
        )  # fmt: skip

    # -- the run --------------------------------------------------------------------------------------------------

    async def run(self) -> Summary:
        """Run the session to its end; every error parfocal knows becomes the summary's `outcome` and `error`.

        Raises
        ------
        Exception
            A mistake in parfocal or a plugin. The microscope has been made safe and the session closed.
        """
        self.requests.begin()
        try:
            await self._begin()
            with steady():
                await self._frames()
        except asyncio.CancelledError as error:
            self._cancelled(error)
        except BaseException as error:  # noqa: BLE001 - kept, and raised again once the microscope is safe
            self._failed(error)
        self.requests.task = None  # from here on there is nothing left to interrupt: `_end` makes safe first of all
        self.orders.close()
        summary = await uninterrupted(self._end())
        if self._run.error is not None and not isinstance(self._run.error, ParfocalError):
            raise self._run.error
        return summary

    def _cancelled(self, error: asyncio.CancelledError) -> None:
        self._run.outcome = "safe"
        asked, task = self.requests.safe_reason, self.requests.task
        if asked and task is not None:
            while task.cancelling():  # asked once or five times, it is one request
                task.uncancel()
            self._run.error = SafetyTripError(f"made safe at once: {asked}")
        else:
            self._run.error = error

    def _failed(self, error: BaseException) -> None:
        self._run.error = error
        if not (isinstance(error, SafetyTripError) and self._run.outcome == "safe"):
            self._run.outcome = "tripped" if isinstance(error, SafetyTripError) else "failed"
        log.error("loop.failed", error=str(error), kind=type(error).__name__)

    async def _begin(self) -> None:
        await self._decider.start()
        self._owner.start()
        parameters = await self._owner.open(self._deadlines.open_s)
        run, clock = self._run, self._owner.clock
        self._guard = self._make_guard(parameters)
        self._intake = Intake(self._config.microscope.frames_to_freeze(simulated=self._microscope.simulated))
        self.ledger.resolve_unit(parameters)
        run.settings = await self._owner.read(self._deadlines.command_s)
        run.began_s = clock.now()
        self._guard.begin(run.began_s)
        self._record.header(
            self._microscope,
            parameters,
            self._guard.limits,
            self._shadow,
            run.settings,
            self._decider.scorer.describe(),
        )
        self.orders.begin()
        self._controls.begin(self._guard)
        self._tell_facts(parameters)
        self.state.to(State.RUNNING, "shadow: commands nothing" if self._shadow else "started")
        self._lease.renew(clock.now())
        if self._config.start:
            await self._apply_start()
        self._owner.stream(True)

    def _make_guard(self, parameters: Mapping[str, Parameter]) -> Guard:
        limits, problems = resolve_limits(self._config.limits.parameters, parameters)
        for name in self._config.start:
            if name not in parameters:
                known = ", ".join(sorted(parameters))
                problems.append(f"start.{name}: this microscope has no such parameter (it has {known})")
        if problems:
            keys = [problem.partition(":")[0].split(".") for problem in problems]
            texts = [problem.partition(":")[2] for problem in problems]
            raise ConfigError([f"{self._config.where(*k)}:{t}" for k, t in zip(keys, texts, strict=True)])
        return Guard(limits, parameters, self._lease)

    async def _apply_start(self) -> None:
        action = Change(self._config.start, "start settings of the configuration")
        self._record.action(None, action)
        verdict = self._guard.check(action, self._guard_state(float("inf")))
        self._record.verdict(None, verdict)
        if not verdict.accepted:
            raise SafetyTripError(f"the start settings were refused: {verdict.reason}")
        await self._send(verdict, None)

    async def _frames(self) -> None:
        while not self._over():
            await self._carry_out()
            if self.requests.pause_reason:
                await self._paused()
                continue
            self._lease.renew(self._owner.clock.now())
            waiting = time.perf_counter()
            taken = await self._next()
            if taken is not None:
                await self._handle(taken, waiting)

    async def _carry_out(self) -> None:
        """Carry out what others ordered, and tell what is different now."""
        if self.orders.waiting:
            await self.orders.carry_out(self._run.last.frame if self._run.last is not None else None)
            self._tell_facts(self._microscope.parameters)

    async def _snap(self, who: str) -> Mapping[str, Any]:
        """Take one frame while paused, score it, write it down, and do nothing about it."""
        counts, run = self._counts, self._run
        snapped = await take_one(self._owner, self._decider, self._record, self._deadlines)
        counts.frames = self._owner.frames
        run.last, run.notes, run.latency_ms = snapped.taken, f"one frame while paused ({who})", float("nan")
        run.settings.update(snapped.taken.frame.settings)
        decision = Decision(Hold("one frame was asked for: nothing is done about it"), snapped.assessments, 0.0)
        self._report(decision, None, stale=False)
        return snapped.to_json()

    def _policy_changed(self, name: str, options: Mapping[str, Any], continues: bool) -> None:
        self._policy = self._decider.policy
        self._record.policy(name, options, continues)

    def _tell_facts(self, parameters: Mapping[str, Parameter]) -> None:
        """Tell what a person who comes to look should know of this session."""
        if self._onlooker is None:
            return
        config = self._choice.config if self._choice is not None else self._config
        self._onlooker.facts(
            facts_of(self.session, config, self._microscope, parameters, self._shadow)
            | {"limits": self._controls.limits, "dose_unit": self.ledger.unit, "clock_s": self._run.began_s}
        )

    def _over(self) -> bool:
        """Whether the session has come to its end; notes as what."""
        run, ending, requests = self._run, self._ending, self.requests
        elapsed = self._owner.clock.now() - run.began_s
        if requests.safe_reason:
            run.outcome = "safe"
            raise SafetyTripError(f"made safe at once: {requests.safe_reason}")
        if requests.stop_reason:
            run.outcome, why = "stopped", requests.stop_reason
        elif run.outcome:
            why = run.outcome
        elif self._owner.drained:
            run.outcome, why = "done", f"{ending.max_frames} frames"
        elif ending.max_seconds is not None and elapsed >= ending.max_seconds:
            run.outcome, why = "done", f"{ending.max_seconds:g} s"
        else:
            return False
        self.state.to(State.STOPPING, why)
        return True

    async def _paused(self) -> None:
        requests = self.requests
        self._owner.stream(False)
        self.state.to(State.PAUSED, requests.pause_reason)
        while requests.pause_reason and not requests.stop_reason:
            await requests.wait()
            await self._carry_out()
        if requests.stop_reason:
            return
        self.state.to(State.RUNNING, "resumed")
        self._lease.renew(self._owner.clock.now())
        self._owner.stream(True)

    async def _next(self) -> Taken | None:
        exposure_s = self._run.settings.get("exposure_ms", self._config.microscope.exposure_ms or 0.0) / 1000.0
        interval_s = (self._config.microscope.interval_ms or 0.0) / 1000.0
        timeout_s = self._deadlines.frame_s + exposure_s + interval_s
        left_s = float("inf")
        if self._ending.max_seconds is not None and not self._owner.lockstep:
            left_s = max(self._run.began_s + self._ending.max_seconds - self._owner.clock.now(), 0.0)
        with self._waiting():  # for a beat that is not due yet, say, or an exposure longer than the lease
            taken = await self._owner.next(min(timeout_s, left_s), patient=left_s < timeout_s)
        for missed in self._owner.missed():
            self._counts.missed += 1
            self._record.frame(missed, "missed")
        self._counts.frames, self._counts.lost = self._owner.frames, self._owner.lost
        self._record.check()
        return taken

    async def _handle(self, taken: Taken, waiting: float) -> None:
        """Take one frame all the way to a command, or to the reason why there is none."""
        run, frame = self._run, taken.frame
        structlog.contextvars.bind_contextvars(frame=frame.index)
        run.last, run.notes, run.latency_ms = taken, "", float("nan")
        self._counts.note_frame(frame.end_s)
        if frame.start_s < self._owner.settled_s:
            self._counts.stale += 1
            self._record.frame(taken, "stale")
            self._report(None, None, stale=True)
            return
        run.settings.update(frame.settings)  # newer than the last command's read-back: a stage can be moved by hand
        doubt = self._intake.doubt(frame)
        self._record.frame(taken, "doubtful" if doubt else "")
        if doubt:
            self._hold(taken, doubt)
            return
        began = max(taken.arrived, waiting)
        decision = await self._decider.decide(taken, self._lease_keeper, self._record.flush)
        run.notes = decision.note
        if decision.assessments is None:
            self._hold(taken, decision.action.reason)
            return
        if self._policy is None:
            config = self._choice.config if self._choice is not None else self._config
            self._policy_changed(config.policy.name, self._decider.policy_options, continues=False)
        self._counts.scored += 1
        self._record.assessments(frame.index, decision.assessments)
        if decision.suggested is not None:
            self._record.suggestion(frame.index, decision.suggested)
            began += decision.suggested.elapsed_s  # thinking takes what it takes, in another process
        verdict, sent = await self._act(taken, decision)
        self._note_latency(sent - began - decision.scoring_s)
        self._note_focus(decision.action)
        self._counts.quality.note(decision.action, decision.assessments)
        self._report(decision, verdict, stale=False)

    def _hold(self, taken: Taken, reason: str) -> None:
        """Do nothing about a frame that the policy was not told of."""
        self._counts.doubtful += 1
        decision = Decision(Hold(reason), None, 0.0)
        self._record.action(taken.frame.index, decision.action)
        self._report(decision, None, stale=False)

    async def _act(self, taken: Taken, decision: Decision) -> tuple[Verdict, float]:
        """Judge an action and send what is accepted; return the verdict and when it was sent or settled upon."""
        action = decision.action
        self._record.action(taken.frame.index, action)
        verdict = self._guard.check(action, self._guard_state(taken.frame.start_s))
        moves = verdict.accepted and bool(verdict.settings)
        self._record.verdict(taken.frame.index, verdict, taken if moves else None)
        sent = time.perf_counter()
        self._counts.refused = self._guard.refused
        if moves:
            self._counts.actions += 1
            sent = await self._send(verdict, taken)
        if isinstance(action, Finish) and verdict.accepted:
            self._run.outcome = outcome_of_finish(action)
        return verdict, sent

    async def _send(self, verdict: Verdict, taken: Taken | None) -> float:
        """Write the command down, wait for the disk, then send it; return when the first setting was sent.

        In shadow mode nothing is sent, so nothing is written down as sent either.
        """
        run = self._run
        if self._shadow:
            return time.perf_counter()
        self._record.command(taken.frame.index if taken else None, verdict.settings)
        first = float("inf")
        for name, value in in_safe_order(verdict.settings, self._microscope.parameters, run.settings):
            with self._waiting():
                done: Done = await self._owner.set(name, value, self._deadlines.command_s)
            first = min(first, done.sent)
            before = run.settings.get(name, float("nan"))
            self._guard.commit(name, before, done.readback, done.settled_s)
            run.settings[name] = done.readback
            self._record.readback(name, value, done)
            self._arrivals.note(self._microscope.parameters[name], before, value, done.readback)
        return first

    def _guard_state(self, anchor_s: float) -> GuardState:
        return GuardState(self._run.settings, self._owner.clock.now(), anchor_s, self._owner.settled_s)

    def _lease_keeper(self) -> None:
        self._lease.renew(self._owner.clock.now())

    def _waiting(self) -> AbstractContextManager[None]:
        return kept_alive(self._lease_keeper, RENEWED_WITHIN * self._lease.seconds)

    def _note_latency(self, seconds: float) -> None:
        self._run.latency_ms = 1000.0 * max(seconds, 0.0)
        self._counts.latencies_ms.append(self._run.latency_ms)

    def _note_focus(self, action: Action) -> None:
        run = self._run
        run.last_action = action
        run.focused = run.focused + 1 if action.detail.get("focused") == 1.0 else 0
        if run.focused >= self._ending.focused_frames:
            if self._counts.frames_to_focus is None:
                self._counts.frames_to_focus = self._counts.frames
            if self._ending.until_focused and not run.outcome:
                run.outcome = "focused"

    def _state_changed(self, old: State, new: State, reason: str) -> None:
        log.info("session.state", old=old.value, new=new.value, reason=reason)
        time_s = self._microscope.clock.now()
        if self._onlooker is not None:
            self._onlooker.state(old, new, reason, time_s)
        self._record.state(old, new, reason, time_s)

    def _report(self, decision: Decision | None, verdict: Verdict | None, *, stale: bool) -> None:
        run, counts = self._run, self._counts
        self._record.flush()
        if run.last is None:
            return
        assessments: Mapping[str, Assessment] | None = decision.assessments if decision else None
        step = Step(
            run.last.frame, assessments, decision.action if decision else None, verdict, stale,
            self.state.state.value, counts.frames, counts.scored, counts.stale, counts.dropped, counts.actions,
            counts.refused, run.last.dose, self.travel_um, counts.fps, run.latency_ms, run.notes,
            self.ledger.unit, self.ledger.budget,
        )  # fmt: skip
        for listener in self._listeners:
            try:
                listener(step)
            except Exception as error:  # noqa: BLE001 - whoever watches cannot stop the session
                log.error("listener.failed", listener=repr(listener), error=str(error))

    @property
    def travel_um(self) -> float:
        """How far the stage has gone in this session."""
        return self._guard.travel.get("z_um", 0.0)

    async def _end(self) -> Summary:
        """Make safe, first of all; then write down how it ended, whatever else fails."""
        run = self._run
        self._lease.drop()
        if not await self._owner.close(self._deadlines.safe_s) and run.error is None:
            run.error, run.outcome = HardwareError("the driver hung while the microscope was made safe"), "failed"
        self._counts.frames, self._counts.lost, self._counts.refused = (
            self._owner.frames,
            self._owner.lost,
            self._guard.refused,
        )
        await self._decider.close()
        return await asyncio.to_thread(self._finish)

    def _finish(self) -> Summary:
        run, now_s = self._run, self._microscope.clock.now()
        if run.error is not None:
            self._attempt(self._record.error, run.error, now_s)
        self._attempt(self.state.to, State.SAFE, "microscope made safe")
        self._attempt(self._record.finish, run.last)
        self._attempt(self.state.to, State.ENDED, run.outcome or "failed")
        summary = self._summary()
        self._attempt(self._record.end, summary)
        return self._summary()

    def _attempt(self, function: Callable[..., None], *args: Any) -> None:
        """Do one step of ending; a step that fails is said, and does not keep the others from being done."""
        try:
            function(*args)
        except ParfocalError as error:
            log.error("session.record_failed", error=str(error))
            if self._run.error is None:
                self._run.error, self._run.outcome = error, "failed"

    def _summary(self) -> Summary:
        return summary_of(
            self._run,
            self._counts,
            self.ledger,
            session=str(self.session.folder),
            driver=self._config.microscope.driver,
            simulated=self._microscope.simulated,
            travel_um=self.travel_um,
        )
