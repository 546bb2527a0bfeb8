"""From a frame to an action: the scorer in a worker thread, the policy told and asked; doubt of any kind holds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import structlog
from numpy.typing import NDArray

from parfocal.daemon.deliberate import DEADLINE_S, Deliberating, Deliberator, Suggested
from parfocal.daemon.owner import Taken
from parfocal.daemon.records import as_told, middle_s
from parfocal.daemon.worker import Worker
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, ImageError, ScorerError
from parfocal.policies.base import Action, Hold, Observation, Policy

log = structlog.get_logger()


AHEAD_AFTER_S = 0.001
"""A policy works ahead from so long after its frame went to the scorer. Not at once: the scorer, too, needs Python to
begin, and whoever computes keeps it from others. A frame that is scored sooner needs none of it."""

PolicyMaker = Callable[[Frame | None], tuple[Policy, Mapping[str, Any]]]


class Scoring(Protocol):
    """What the loop needs of a scorer; see `parfocal.models.scoring`."""

    def start(self) -> None:
        """Load the models."""
        ...

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float) -> dict[str, Assessment]:
        """Assess one frame with every model; raises `ScorerError` if that did not come back in time."""
        ...

    def restart(self) -> None:
        """Start again after a `ScorerError`."""
        ...

    def close(self) -> None:
        """End."""
        ...

    def describe(self) -> dict[str, Any]:
        """By model: its card and how it runs."""
        ...


@runtime_checkable
class Expecting(Protocol):
    """A policy that can work ahead: what does not depend on a frame's assessments, while they are being made."""

    def expect(self, settings: Mapping[str, float], time_s: float) -> None:
        """Learn where and when the next frame is taken; what is decided may not depend on whether this is called."""
        ...


class ScorerLostError(ScorerError):
    """The scorer did not come back, however often it was started again."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, the assessments it rests on (`None`: there are none, hold), and the time the networks took.

    `suggested`: what a policy whose suggestions take time accepted before it decided.
    """

    action: Action
    assessments: Mapping[str, Assessment] | None
    scoring_s: float
    note: str = ""
    suggested: Suggested | None = None


class Decider:
    """Scorer and policy, as one step of the loop.

    Parameters
    ----------
    scorer : Scoring
        Called from one worker thread.
    make_policy : callable
        Makes the policy from the first frame, which knows its pixel size; returns it with its options.
    timeout_s : float
        For one frame; then the scorer counts as stalled.
    max_restarts : int
        So many failures in a row, and `decide` raises `ScorerLostError`.
    """

    def __init__(
        self, scorer: Scoring, make_policy: PolicyMaker, *, timeout_s: float = 10.0, max_restarts: int = 3
    ) -> None:
        self.scorer = scorer
        self.policy: Policy | None = None
        self.policy_options: Mapping[str, Any] = {}
        self._make_policy = make_policy
        self._timeout_s, self._max_restarts = timeout_s, max_restarts
        self._failures = 0
        self._worker: Worker | None = None
        self._deliberator: Deliberator | None = None
        self._thinking: Worker | None = None

    async def start(self) -> None:
        """Load the models; raises `ModelError`."""
        self._worker = Worker("scoring")
        await self._worker.call(self.scorer.start)

    async def decide(
        self, taken: Taken, alive: Callable[[], None], meanwhile: Callable[[], None] | None = None
    ) -> Decision:
        """Score a frame, tell the policy, ask it.

        Parameters
        ----------
        taken : Taken
            A frame fit to decide on.
        alive : callable
            Called now and then while the scorer is waited for.
        meanwhile : callable, optional
            Called once, when the scorer has begun: work that then costs the decision no time.

        Raises
        ------
        ScorerLostError
            The scorer failed too often in a row.
        PolicyError
            Or whatever else the policy raises.
        """
        frame = taken.frame
        settings = {name: float(value) for name, value in frame.settings.items()}
        time_s = middle_s(frame.start_s, frame.end_s)
        ahead = asyncio.get_running_loop().call_later(AHEAD_AFTER_S, _work_ahead, self.policy, settings, time_s)
        try:
            raw, scoring_s = await self._wait(self._score, alive, self._timeout_s + 1.0, frame, meanwhile=meanwhile)
        except ScorerLostError:
            raise
        except ImageError as error:
            return Decision(Hold(f"the frame cannot be assessed: {error}"), None, 0.0)
        except ScorerError as error:
            return await self._restart(error, alive)
        finally:
            ahead.cancel()
        self._failures = 0
        assessments = {name: as_told(assessment) for name, assessment in raw.items()}
        if self.policy is None:
            self.policy, self.policy_options = self._make_policy(frame)
        observation = Observation(frame.index, settings, time_s, taken.dose, assessments)
        if getattr(self.policy, "off_loop", False):
            return Decision(await asyncio.to_thread(_decided, self.policy, observation), assessments, scoring_s)
        self.policy.tell(observation)
        suggested = await self._deliberate(self.policy, alive)
        return Decision(self.policy.ask(), assessments, scoring_s, suggested=suggested)

    async def _deliberate(self, policy: Policy, alive: Callable[[], None]) -> Suggested | None:
        """Have a slow suggestion made in another process, and the policy accept it; None: none was due."""
        if not isinstance(policy, Deliberating):
            return None
        problem = policy.problem()
        if self._deliberator is None:
            self._begin_deliberating(policy)
        if problem is None:
            return None
        deadline_s = float(getattr(policy, "deadline_s", DEADLINE_S))
        suggested: Suggested = await self._think(alive, problem, deadline_s)
        policy.accept(suggested.suggestion)
        return suggested

    def _begin_deliberating(self, policy: Policy) -> None:
        """Make the process ready while the first frames are taken."""
        self._deliberator, self._thinking = Deliberator(), Worker("deliberation")
        solver = getattr(policy, "solver", "")
        if solver:
            self._thinking.call(self._deliberator.warm_up, solver)

    async def _think(self, alive: Callable[[], None], problem: Mapping[str, Any], deadline_s: float) -> Suggested:
        """Wait for the deliberation, saying meanwhile that the loop is alive."""
        assert self._deliberator is not None and self._thinking is not None  # noqa: S101 - made just before
        future = self._thinking.call(self._deliberator.solve, problem, deadline_s)
        while not future.done():
            alive()
            await asyncio.wait([future], timeout=min(0.25, deadline_s))
        return future.result()

    async def close(self) -> None:
        """End the scorer, from another thread than the one it may hang in; end the deliberation."""
        if self._deliberator is not None and self._thinking is not None:
            await asyncio.to_thread(self._deliberator.close)
            self._thinking.close()
            self._deliberator = self._thinking = None
        if self._worker is None:
            return
        self._worker.close()
        self._worker = None
        worker = Worker("scoring-close")
        closing = worker.call(self.scorer.close)
        worker.close()
        try:
            async with asyncio.timeout(5.0):
                await closing
        except Exception as error:  # noqa: BLE001 - the microscope is safe already; this must not hide how it ended
            log.warning("scorer.close_failed", error=str(error) or "still busy")

    def _score(self, frame: Frame) -> tuple[dict[str, Assessment], float]:
        began = time.perf_counter()
        assessments = self.scorer.score(frame.pixels, frame.pixel_um, self._timeout_s)
        return assessments, time.perf_counter() - began

    async def _restart(self, error: ScorerError, alive: Callable[[], None]) -> Decision:
        self._failures += 1
        log.error("scorer.failed", error=str(error), in_a_row=self._failures)
        if self._failures > self._max_restarts:
            raise ScorerLostError(
                f"the scorer failed {self._failures} times in a row; the last time: {error}"
            ) from error
        try:
            await self._wait(self._start_again, alive, 120.0)
        except ScorerLostError:
            raise
        except ScorerError as again:
            return await self._restart(again, alive)
        note = f"scorer started again ({error})"
        return Decision(Hold(f"the scorer failed and was started again: {error}"), None, 0.0, note)

    def _start_again(self, *_: object) -> None:
        self.scorer.restart()

    async def _wait(
        self,
        function: Callable[..., Any],
        alive: Callable[[], None],
        timeout_s: float,
        *args: Any,
        meanwhile: Callable[[], None] | None = None,
    ) -> Any:
        """Wait for the worker, saying meanwhile that the loop is alive; a call that hangs is a `ScorerLostError`."""
        if self._worker is None:
            raise ScorerError("the scorer was not started")
        future = self._worker.call(function, *args)
        events, until, every_s = asyncio.get_running_loop(), time.monotonic() + timeout_s, min(0.5, timeout_s)

        def watch() -> None:
            if future.done():
                return
            alive()
            if time.monotonic() <= until:
                events.call_later(every_s, watch)
                return
            hangs = f"the scorer did not answer within {timeout_s:g} s, not even to say that it stalled"
            future.set_exception(ScorerLostError(hangs))

        # A timer and a bare future: `asyncio.wait` would cost a frame more than its journal does.
        first = events.call_later(every_s, watch)
        try:
            if meanwhile is not None:
                meanwhile()
            return await future
        finally:
            first.cancel()
            future.cancel()  # ends the watch where this was interrupted


def _work_ahead(policy: object, settings: Mapping[str, float], time_s: float) -> None:
    """Have a policy that can work ahead do so; not one that is called in another thread."""
    if isinstance(policy, Expecting) and not getattr(policy, "off_loop", False):
        policy.expect(settings, time_s)


def _decided(policy: Policy, observation: Observation) -> Action:
    """Tell and ask a policy that takes milliseconds; nobody else touches it while a frame is decided on."""
    policy.tell(observation)
    return policy.ask()
