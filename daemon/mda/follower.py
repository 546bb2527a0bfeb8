"""The thread behind the acquisition: frames in, latest visits first to survive, assessments and a forecast out."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from parfocal.daemon.decide import Scoring
from parfocal.daemon.records import as_told, middle_s
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, ImageError, ScorerError
from parfocal.policies.base import Action, Hold, Observation
from parfocal.policies.focus.follow import VISIT, FollowPolicy
from parfocal.policies.focus.memory import FocusMemory

log = structlog.get_logger()

MOST_WAITING = 16
"""Frames that wait for the scorer at most; of more than one visit only the newest keeps its frames."""


@dataclass(frozen=True, slots=True)
class Told:
    """What came of one frame: assessments (None if there are none), the policy's action, and how long the two took."""

    frame: Frame
    dose: float
    assessments: Mapping[str, Assessment] | None
    action: Action
    scoring_s: float


@dataclass(frozen=True, slots=True)
class Outlook:
    """What is known at one moment, to forecast from; `doubt` says why nothing new may rest on it.

    `guesses` are where extra looks are best taken at positions whose frames did not tell the focus.
    """

    memory: FocusMemory
    doubt: str = ""
    guesses: Mapping[int, float] = field(default_factory=dict)


class Follower:
    """Scores frames in a thread of its own and tells the policy.

    Whoever takes frames never waits: `offer` keeps a reference and returns. Where the scorer is slower than the
    frames come, those of older visits are dropped and counted. A scorer that fails is started again; until it has
    answered, and for good if it fails too often, the outlook says so, and nothing new rests on it.

    Parameters
    ----------
    scorer : Scoring
        Started. Shared with nobody else while this runs.
    policy : FollowPolicy
    on_told, on_missed : callable
        Called with what came of every frame, and with every frame dropped; in the follower's thread or the caller's.
    timeout_s : float
        For one frame.
    max_restarts : int
        So many failures in a row, and it is given up.
    """

    def __init__(
        self,
        scorer: Scoring,
        policy: FollowPolicy,
        *,
        on_told: Callable[[Told], None],
        on_missed: Callable[[Frame, float], None],
        timeout_s: float = 5.0,
        max_restarts: int = 3,
    ) -> None:
        self._scorer, self._policy = scorer, policy
        self._on_told, self._on_missed = on_told, on_missed
        self._timeout_s, self._max_restarts = timeout_s, max_restarts
        self._waiting: deque[tuple[Frame, float]] = deque()
        self._changed = threading.Condition()
        self._deciding = threading.Lock()
        self._busy = self._closing = False
        self._failures = 0
        self.given_up = ""
        self.dropped = self.scored = 0
        self.outlook = Outlook(policy.memory())
        self._thread = threading.Thread(target=self._main, name="parfocal-follower", daemon=True)
        self._thread.start()

    def offer(self, frame: Frame, dose: float) -> None:
        """Have a frame looked at, if there is time."""
        missed: list[tuple[Frame, float]] = []
        with self._changed:
            if self._closing or self.given_up:
                missed.append((frame, dose))
            else:
                self._waiting.append((frame, dose))
                missed += self._older()
                self._changed.notify_all()
            self.dropped += len(missed)
        for one, its_dose in missed:
            self._on_missed(one, its_dose)

    def _older(self) -> list[tuple[Frame, float]]:
        """Take out the frames of visits older than the one before the newest, and whatever is too much."""
        newest = self._waiting[-1][0].settings[VISIT]
        out = [item for item in self._waiting if item[0].settings[VISIT] < newest - 1.0]
        for item in out:
            self._waiting.remove(item)
        while len(self._waiting) > MOST_WAITING:
            out.append(self._waiting.popleft())
        return out

    def decide(self, frame: Frame, dose: float) -> Told:
        """Look at a frame at once, in the caller's thread; for a search, which cannot go on without."""
        with self._deciding:
            return self._decide(frame, dose)

    def tell(self, observation: Observation, write: Callable[[Observation], None]) -> None:
        """Tell the policy what no frame of ours says, and write it down between the same decisions."""
        with self._deciding:
            self._policy.tell(observation)
            write(observation)
            self.outlook = Outlook(self._policy.memory(), self._policy.doubt, self._policy.guesses())

    def drain(self, timeout_s: float) -> bool:
        """Wait until every frame offered has been dealt with; whether that was so in time."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while (self._waiting or self._busy) and not self.given_up:
                if (left := until - time.monotonic()) <= 0 or not self._changed.wait(left):
                    return not (self._waiting or self._busy)
        return True

    def close(self, timeout_s: float = 5.0) -> None:
        """End the thread; frames that wait are not looked at any more. Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _main(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._closing:
                    self._changed.wait(1.0)
                if self._closing:
                    return
                frame, dose = self._waiting.popleft()
                self._busy = True
            try:
                with self._deciding:
                    self._decide(frame, dose)
            except Exception as error:  # noqa: BLE001 - the acquisition goes on, held where it is
                self._give_up(f"{type(error).__name__}: {error}")
            finally:
                with self._changed:
                    self._busy = False
                    self._changed.notify_all()

    def _decide(self, frame: Frame, dose: float) -> Told:
        began = time.perf_counter()
        try:
            raw = self._scorer.score(frame.pixels, frame.pixel_um, self._timeout_s)
        except ImageError as error:
            return self._untold(frame, dose, f"the frame cannot be assessed: {error}", began)
        except ScorerError as error:
            return self._failed(frame, dose, error, began)
        scoring_s, self._failures = time.perf_counter() - began, 0
        assessments = {name: as_told(assessment) for name, assessment in raw.items()}
        settings = {name: float(value) for name, value in frame.settings.items()}
        time_s = middle_s(frame.start_s, frame.end_s)
        self._policy.tell(Observation(frame.index, settings, time_s, dose, assessments))
        action = self._policy.ask()
        self.scored += 1
        self.outlook = Outlook(self._policy.memory(), self._policy.doubt, self._policy.guesses())
        told = Told(frame, dose, assessments, action, scoring_s)
        self._on_told(told)
        return told

    def _untold(self, frame: Frame, dose: float, reason: str, began: float) -> Told:
        """Nothing came of a frame: say so, and hold."""
        self.outlook = replace(self.outlook, doubt=reason)
        told = Told(frame, dose, None, Hold(reason), time.perf_counter() - began)
        self._on_told(told)
        return told

    def _failed(self, frame: Frame, dose: float, error: ScorerError, began: float) -> Told:
        self._failures += 1
        log.error("mda.scorer_failed", error=str(error), in_a_row=self._failures)
        told = self._untold(frame, dose, f"the scorer failed: {error}", began)
        if self._failures > self._max_restarts:
            self._give_up(f"the scorer failed {self._failures} times in a row; the last time: {error}")
            return told
        try:
            self._scorer.restart()
        except ScorerError as again:
            self._give_up(f"the scorer cannot be started again: {again}")
        return told

    def _give_up(self, reason: str) -> None:
        log.error("mda.follower_given_up", reason=reason)
        self.outlook = replace(self.outlook, doubt=reason)
        with self._changed:
            self.given_up = reason
            self._waiting.clear()
            self._changed.notify_all()
