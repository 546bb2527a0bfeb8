"""The only door between a policy and the hardware: accepts or refuses a whole action, and never changes one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from parfocal import ParfocalError
from parfocal.daemon.config_models import Limit
from parfocal.drivers.base import Parameter
from parfocal.policies.base import Action, Change, Finish

ROUNDING = 1e-9  # relative slack where sums of floats meet a bound; never where a device's limit does


class SafetyTripError(ParfocalError):
    """The guard ended the session: budget spent, or a policy that goes on asking for what it may not have."""

    exit_code = 5


class Refusal(Enum):
    """Why an action was refused. `RATE` and `STALE` cure themselves by waiting and do not count towards a trip."""

    UNKNOWN = "unknown parameter"
    NOT_FINITE = "not finite"
    LIMIT = "outside its limits"
    STEP = "largest step"
    RATE = "largest rate"
    TRAVEL = "total travel"
    STALE = "stale anchor"
    LEASE = "beam lease"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the guard says of an action, and when; `settings` is exactly what may be sent, empty if refused."""

    accepted: bool
    reason: str
    settings: Mapping[str, float] = field(default_factory=dict)
    refusal: Refusal | None = None
    time_s: float = math.nan


@dataclass(frozen=True, slots=True)
class GuardState:
    """What is true when an action is judged.

    Parameters
    ----------
    settings : mapping
        Last read-backs.
    time_s : float
        Now, on the microscope's clock.
    anchor_s : float
        Start of the exposure of the frame the action rests on.
    settled_s : float
        When the last commanded change had settled; an older anchor is stale.
    """

    settings: Mapping[str, float]
    time_s: float
    anchor_s: float = math.inf
    settled_s: float = -math.inf


class BeamLease:
    """A dead-man's switch: beams may only be on while somebody keeps renewing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.renewals = 0
        self._until_s = -math.inf

    def renew(self, now_s: float) -> None:
        """Promise to be back within `seconds`."""
        self._until_s = now_s + self.seconds
        self.renewals += 1

    def drop(self) -> None:
        """Give the lease back at once."""
        self._until_s = -math.inf

    def valid(self, now_s: float) -> bool:
        """Whether the promise still holds."""
        return now_s <= self._until_s


class _Refused(Exception):  # noqa: N818 - carried to the one place that turns it into a verdict
    def __init__(self, refusal: Refusal, reason: str) -> None:
        super().__init__(reason)
        self.refusal = refusal
        self.reason = reason


class Guard:
    """Judges actions against limits, largest step, rate, travel and beam lease.

    The dose budget is not among them: it is kept where frames are taken (`DoseLedger`), and no action makes a frame.

    Parameters
    ----------
    limits : mapping
        By parameter name; both `lower` and `upper` given (`resolve_limits`). What is not here is not commanded.
    parameters : mapping
        What the microscope has.
    lease : BeamLease
        Needed to raise a parameter of kind ``beam``.
    max_refusals : int
        So many refusals in a row that waiting cannot cure, and `check` raises `SafetyTripError`.
    """

    def __init__(
        self,
        limits: Mapping[str, Limit],
        parameters: Mapping[str, Parameter],
        lease: BeamLease,
        *,
        max_refusals: int = 10,
    ) -> None:
        self.limits: Mapping[str, Limit] = dict(limits)
        self._parameters = dict(parameters)
        self._lease = lease
        self._max_refusals = max_refusals
        self._in_a_row = 0
        self._moved_s: dict[str, float] = {}
        self.travel: dict[str, float] = dict.fromkeys(parameters, 0.0)
        self.refused = 0

    def begin(self, time_s: float) -> None:
        """Count rates from now on, for parameters that have not been changed yet."""
        for name in self._parameters:
            self._moved_s.setdefault(name, time_s)

    def check(self, action: Action, state: GuardState) -> Verdict:
        """Judge an action as a whole: one setting that may not be sent refuses all of them.

        Raises
        ------
        SafetyTripError
            The last of `max_refusals` refusals in a row.
        """
        if not isinstance(action, (Change, Finish)) or not action.settings:
            return Verdict(True, "nothing to send", time_s=state.time_s)
        try:
            if state.anchor_s < state.settled_s:
                raise _Refused(Refusal.STALE, "the frame behind this was exposed before the last change had settled")
            for name, value in action.settings.items():
                self._check_one(name, value, state)
        except _Refused as refused:
            return self._refuse(refused, state.time_s)
        self._in_a_row = 0
        return Verdict(True, "within limits", dict(action.settings), time_s=state.time_s)

    def commit(self, name: str, before: float, after: float, time_s: float) -> None:
        """Account for a change that was made, by its read-backs."""
        if math.isfinite(before) and math.isfinite(after):
            self.travel[name] = self.travel.get(name, 0.0) + abs(after - before)
        self._moved_s[name] = time_s

    def _refuse(self, refused: _Refused, time_s: float) -> Verdict:
        self.refused += 1
        if refused.refusal not in (Refusal.RATE, Refusal.STALE):
            self._in_a_row += 1
        if self._in_a_row >= self._max_refusals:
            raise SafetyTripError(
                f"{self._in_a_row} actions in a row were refused; the last one because {refused.reason}"
            )
        return Verdict(False, refused.reason, {}, refused.refusal, time_s)

    def _check_one(self, name: str, value: float, state: GuardState) -> None:
        parameter, limit = self._parameters.get(name), self.limits.get(name)
        if parameter is None or limit is None or limit.lower is None or limit.upper is None:
            known = ", ".join(sorted(set(self.limits) & set(self._parameters))) or "none"
            raise _Refused(Refusal.UNKNOWN, f"{name!r} is not a parameter with limits (there are: {known})")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _Refused(Refusal.NOT_FINITE, f"{name}: {value!r} is not a finite number")
        lower, upper = max(limit.lower, parameter.lower), min(limit.upper, parameter.upper)
        if not lower <= value <= upper:
            raise _Refused(Refusal.LIMIT, f"{name}: {value:g} is outside {lower:g}..{upper:g} {parameter.unit}")
        now = state.settings.get(name, math.nan)
        if not math.isfinite(now):
            raise _Refused(Refusal.NOT_FINITE, f"{name}: where it is now is not known (read-back {now!r})")
        self._check_change(parameter, limit, abs(value - now), state.time_s)
        if parameter.kind == "beam" and value > now and not self._lease.valid(state.time_s):
            raise _Refused(Refusal.LEASE, f"{name}: a beam is only raised while the loop holds its lease")

    def _check_change(self, parameter: Parameter, limit: Limit, step: float, time_s: float) -> None:
        name, unit = parameter.name, parameter.unit
        if limit.max_step is not None and step > limit.max_step * (1 + ROUNDING):
            raise _Refused(Refusal.STEP, f"{name}: a step of {step:g} {unit} is more than {limit.max_step:g}")
        travel = self.travel.get(name, 0.0) + step
        if limit.max_travel is not None and travel > limit.max_travel * (1 + ROUNDING):
            raise _Refused(
                Refusal.TRAVEL, f"{name}: {travel:g} {unit} of travel would be more than {limit.max_travel:g}"
            )
        if limit.max_rate is not None:
            passed = time_s - self._moved_s.get(name, time_s)
            if step > limit.max_rate * passed * (1 + ROUNDING):
                why = f"{name}: {step:g} {unit} within {passed:.3g} s is faster than {limit.max_rate:g} {unit}/s"
                raise _Refused(Refusal.RATE, why)


def resolve_limits(
    limits: Mapping[str, Limit], parameters: Mapping[str, Parameter]
) -> tuple[dict[str, Limit], list[str]]:
    """Complete the limits by the device's own range; return them, and what is wrong with them.

    A parameter nobody limited keeps the device's range where that is finite, else it cannot be commanded at all.
    Nor can one that the device cannot change.
    """
    resolved: dict[str, Limit] = {}
    problems: list[str] = []
    for name in limits:
        if name not in parameters:
            problems.append(
                f"limits.{name}: this microscope has no such parameter (it has {', '.join(sorted(parameters))})"
            )
    for name, parameter in parameters.items():
        limit = limits.get(name, Limit())
        lower = parameter.lower if limit.lower is None else max(limit.lower, parameter.lower)
        upper = parameter.upper if limit.upper is None else min(limit.upper, parameter.upper)
        if not (math.isfinite(lower) and math.isfinite(upper)):
            if name in limits:
                problems.append(f"limits.{name}: the device names no range of its own: lower and upper must be given")
            continue
        if parameter.lower == parameter.upper and lower <= upper:
            continue  # the device cannot change it (the exposure of a recording): nobody can command it
        if lower >= upper:
            device = f"{parameter.lower:g}..{parameter.upper:g}"
            problems.append(f"limits.{name}: leaves nothing of the device's range {device}")
            continue
        resolved[name] = limit.model_copy(update={"lower": lower, "upper": upper})
    return resolved, problems


def in_safe_order(
    settings: Mapping[str, float], parameters: Mapping[str, Parameter], now: Mapping[str, float]
) -> list[tuple[str, float]]:
    """Return settings in the order in which they are sent: beams that go down first, beams that go up last."""
    beams = {name for name, parameter in parameters.items() if parameter.kind == "beam"}

    def rank(item: tuple[str, float]) -> int:
        name, value = item
        return 0 if name not in beams else (1 if value > now.get(name, 0.0) else -1)

    return sorted(settings.items(), key=rank)
