"""Deciding again: the policy of the record, or another, told exactly what was observed, and the guard asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from parfocal import ParfocalError
from parfocal.daemon.config_models import Limit
from parfocal.daemon.controls import narrowed
from parfocal.daemon.deliberate import Deliberating
from parfocal.daemon.guard import BeamLease, Guard, GuardState, SafetyTripError
from parfocal.daemon.records import DecisionDigest, action_fields, canonical, verdict_fields
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.turns import Arrived, Heard, Made, Ordered, Seen, Turn, events, numbers
from parfocal.drivers.base import Parameter
from parfocal.policies import make_policy
from parfocal.policies.base import Action, Observation, Policy
from parfocal.policies.quality_gate import GatedPolicy, GateTerms

Record = Mapping[str, Any]
PolicyMaker = Callable[[Made], Policy | None]
"""Makes the policy for a `Made`, or `None` to go on with the one at work."""


class ReplayError(ParfocalError):
    """A session that cannot be decided on again; the message says what the record lacks."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision, as recorded and as it comes out now.

    Parameters
    ----------
    index : int
        Of the frame.
    time_s : float
        Middle of the exposure.
    recorded, verdict : mapping or None
        The fields of the ``action`` and ``verdict`` records; `None` where the record ends before.
    now, now_verdict : mapping or None
        The same of this replay.
    """

    index: int
    time_s: float
    settings: Mapping[str, float]
    recorded: Record | None
    verdict: Record | None
    now: Record
    now_verdict: Record | None

    @property
    def same_action(self) -> bool:
        """Whether the action is the same, bit for bit."""
        return self.recorded is not None and _action(self.recorded) == _action(self.now)

    @property
    def same_verdict(self) -> bool:
        """Whether the guard says the same."""
        if self.verdict is None or self.now_verdict is None:
            return self.verdict is None and self.now_verdict is None
        return _verdict(self.verdict) == _verdict(self.now_verdict)


class GuardAgain:
    """The guard once more, fed with the read-backs of the record.

    The beam lease is a matter of the wall's time then, so that a refusal for want of it is taken from the record.
    """

    def __init__(self, header: Record) -> None:
        parameters = {name: Parameter(**numbers(fields)) for name, fields in (header.get("parameters") or {}).items()}
        self._base = {name: Limit(**numbers(fields)) for name, fields in (header.get("limits") or {}).items()}
        self._lease = BeamLease(math.inf)
        self._guard = Guard(self._base, parameters, self._lease)
        self._settings: dict[str, float] = dict(numbers(header.get("settings") or {}))
        self._settled_s = -math.inf
        self._guard.begin(float(header.get("clock_s") or 0.0))

    def see(self, event: Arrived | Seen | Ordered) -> None:
        """Take in what changed since the last decision."""
        if isinstance(event, Arrived):
            before = self._settings.get(event.parameter, math.nan)
            self._guard.commit(event.parameter, before, event.readback, event.settled_s)
            self._settings[event.parameter] = event.readback
            self._settled_s = event.settled_s
        elif isinstance(event, Seen):
            self._settings.update(numbers(event.frame["settings"]))
        elif event.record["command"] == "set_limit":
            self._narrow(event.record["arguments"])

    def _narrow(self, arguments: Record) -> None:
        name = arguments["parameter"]
        if name in self._base:
            limit = narrowed(self._base[name], self._guard.limits[name], name, arguments["bound"], arguments["value"])
            self._guard.limits = {**self._guard.limits, name: limit}

    def judge(self, action: Action, turn: Turn) -> Record | None:
        """Return the fields of the verdict; `None` if the guard trips."""
        start_s = float(turn.frame["start_s"])
        recorded = turn.verdict or {}
        time_s = float(recorded.get("time_s", turn.frame["end_s"]))
        if recorded.get("refusal") == "lease":
            self._lease.drop()
        else:
            self._lease.renew(time_s)
        try:
            verdict = self._guard.check(action, GuardState(self._settings, time_s, start_s, self._settled_s))
        except SafetyTripError:
            return None
        refusal = verdict.refusal.name.lower() if verdict.refusal else None
        return verdict_fields(verdict.accepted, verdict.reason, refusal)


def gated(reader: SessionReader, policy: Policy) -> Policy:
    """Put the session's quality gate round a policy, if it had one there; beside an acquisition it stands elsewhere."""
    terms = None if reader.facts.get("beside") else reader.config.get("quality")
    return policy if terms is None else GatedPolicy(policy, GateTerms(**terms))


def as_recorded(reader: SessionReader) -> PolicyMaker:
    """Make the policies of the record, with the options of the record."""

    def make(made: Made) -> Policy:
        try:
            return gated(reader, make_policy(made.name, made.options))
        except ParfocalError as error:
            raise ReplayError(f"{reader.folder}: the session's policy cannot be made again: {error}") from error

    return make


def decide_again(
    reader: SessionReader,
    make: PolicyMaker,
    observe: Callable[[Turn], Observation] | None = None,
    *,
    suggested: bool = True,
) -> Iterator[Decided]:
    """Tell a policy what was observed, and ask it, turn by turn.

    Parameters
    ----------
    reader : SessionReader
    make : callable
        See `PolicyMaker`.
    observe : callable, optional
        Makes the observation of a turn; by default it is the recorded one.
    suggested : bool
        Give a slow policy the suggestions that were accepted then; without, it makes its own.

    Raises
    ------
    ReplayError
        The record does not say which policy decided.
    """
    guard, policy = GuardAgain(reader.journal.header), None
    for event in events(reader.journal):
        if isinstance(event, Made):
            policy = _taken_over(policy, make(event), event)
        elif isinstance(event, (Turn, Heard)) and policy is None:
            raise ReplayError(f"{reader.folder}: the journal does not say which policy decided")
        elif isinstance(event, Heard) and policy is not None:
            policy.tell(event.observation)
        elif isinstance(event, Turn) and policy is not None:
            observation = event.observation if observe is None else observe(event)
            action = _asked(policy, observation, event.suggestions if suggested else ())
            yield Decided(
                observation.index, observation.time_s, observation.settings, event.action, event.verdict,
                action_fields(action), guard.judge(action, event),
            )  # fmt: skip
        elif isinstance(event, (Arrived, Seen, Ordered)):
            guard.see(event)


def _asked(policy: Policy, observation: Observation, suggestions: Sequence[Record]) -> Action:
    """Tell and ask; a slow policy is given what it accepted then, be it a suggestion or that there was none in time.

    Without, it solves its problem by itself when asked.
    """
    policy.tell(observation)
    if isinstance(policy, Deliberating):
        policy.problem()
        for suggestion in suggestions:
            policy.accept(numbers(suggestion.get("suggestion")))
    return policy.ask()


def _taken_over(old: Policy | None, new: Policy | None, made: Made) -> Policy | None:
    if new is None:
        return old
    if made.continues and old is not None:
        new.restore(old.checkpoint())
    return new


@dataclass(frozen=True)
class Reproduction:
    """What came of deciding again with the policy of the record.

    `differing` are the decisions that came out otherwise; `unfinished` counts those the record does not hold whole.
    """

    decisions: int
    differing: tuple[Decided, ...]
    unfinished: int
    recorded_sha256: str
    replayed_sha256: str
    stated_sha256: str | None
    session_s: float

    @property
    def identical(self) -> bool:
        """Whether every decision came out the same, bit for bit, and as the run itself summed them up."""
        stated = self.stated_sha256 in (None, self.recorded_sha256)
        return not self.differing and self.recorded_sha256 == self.replayed_sha256 and stated


def reproduce(reader: SessionReader, each: Callable[[Decided], None] | None = None) -> Reproduction:
    """Decide again on the recorded assessments with the recorded policy, and compare bit for bit."""
    recorded, now = DecisionDigest(), DecisionDigest()
    tripped = any(record["error"] == SafetyTripError.__name__ for record in reader.journal.of("error"))
    differing: list[Decided] = []
    unfinished, first_s, last_s = 0, math.nan, math.nan
    for decided in decide_again(reader, as_recorded(reader)):
        last_s = decided.time_s
        first_s = last_s if math.isnan(first_s) else first_s
        if decided.recorded is None:
            unfinished += 1
            continue
        _digest(recorded, decided.index, decided.recorded, decided.verdict)
        # Without a verdict, and no trip of the guard to explain it, there is nothing to compare with: the process was
        # killed between the two, or the session was one beside an acquisition, where the guard judges corrections.
        cut = decided.verdict is None and not tripped
        _digest(now, decided.index, decided.now, None if cut else decided.now_verdict)
        if not decided.same_action or not (cut or decided.same_verdict):
            differing.append(decided)
        if each is not None:
            each(decided)
    span_s = last_s - first_s if math.isfinite(last_s) else 0.0
    stated = reader.summary.get("decisions_sha256")
    return Reproduction(now.decisions, tuple(differing), unfinished, recorded.sha256, now.sha256, stated, span_s)


def _digest(digest: DecisionDigest, index: int, action: Record, verdict: Record | None) -> None:
    digest.told(index)
    digest.action(index, action)
    if verdict is not None:
        digest.verdict(index, verdict)


def _action(record: Record) -> bytes:
    return canonical({key: record.get(key) for key in ("action", "reason", "settings", "detail")})


def _verdict(record: Record) -> bytes:
    return canonical({key: record.get(key) for key in ("accepted", "reason", "refusal")})
