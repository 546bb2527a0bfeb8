"""What may be changed while a session runs: limits, only within what it began with, and the policy."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from pydantic import ValidationError

from parfocal import ParfocalError, did_you_mean
from parfocal.daemon.choice import PolicyChoice, with_limit, with_option, with_policy
from parfocal.daemon.config import Config
from parfocal.daemon.config_models import Limit
from parfocal.daemon.decide import Decider, PolicyMaker
from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, Guard
from parfocal.drivers.base import Frame
from parfocal.policies.base import Policy, PolicyOptionError

BELIEVES = ("focus.belief", "focus.follow", "focus.supervised", "focus.quality")
"""Policies that take a calibration along."""

BRIEF_S = 0.002
"""A policy that was made within this is made again at once: handing it to a thread and back takes longer than that."""


@runtime_checkable
class Handing(Protocol):
    """A policy that takes over from another one of its kind faster than by way of a checkpoint."""

    def hand_over(self) -> object:
        """Return what one of its kind takes over with at once; it goes on being of use itself."""
        ...

    def take_over(self, handed: object) -> None:
        """Go on as after ``restore(other.checkpoint())``; raises `PolicyError`."""
        ...


class ControlError(ParfocalError):
    """A change was refused; nothing was changed."""


@dataclass(frozen=True)
class Change:
    """A change that was checked and can be made: what a person reads, what makes it, what a program reads."""

    text: str
    commit: Callable[[], None]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Made:
    """A choice that was checked; with the policy made anew and how it begins, if one is to take over now."""

    config: Config
    maker: PolicyMaker
    policy: Policy | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    continues: bool = False


class Controls:
    """Checks changes, and makes them; all in the event loop's thread, between two frames.

    Parameters
    ----------
    decider : Decider
        Its policy is replaced.
    choice : PolicyChoice, optional
        Makes policies; without one the policy cannot be changed.
    ledger : DoseLedger
        Its budget can be lowered.
    on_policy : callable
        Told of a policy that takes over: name, options, and whether it continues from its predecessor's checkpoint.
    """

    def __init__(
        self,
        decider: Decider,
        choice: PolicyChoice | None,
        ledger: DoseLedger,
        on_policy: Callable[[str, Mapping[str, Any], bool], None],
    ) -> None:
        self._decider, self._choice, self._ledger, self._on_policy = decider, choice, ledger, on_policy
        self._guard = Guard({}, {}, BeamLease(0.0))
        self._base: dict[str, Limit] = {}
        self._base_budget = ledger.budget
        self._took_s: dict[str, float] = {}

    def begin(self, guard: Guard) -> None:
        """Learn the guard, whose limits now are the widest there will be."""
        self._guard, self._base = guard, dict(guard.limits)

    async def prepare(self, command: str, arguments: Mapping[str, Any], last: Frame | None) -> Change:
        """Check a change and make ready what takes long; raises `ControlError`, and then nothing was changed.

        Parameters
        ----------
        command : {"set_limit", "set_option", "set_policy"}
        arguments : mapping
            As in the message of that name.
        last : Frame, optional
            The latest; a policy needs its pixel size.
        """
        if command == "set_limit":
            return await self._set_limit(arguments["parameter"], arguments["bound"], arguments["value"], last)
        choice = self._choice
        if choice is None:
            raise ControlError("the policy of this run cannot be changed")
        try:
            if command == "set_option":
                config = with_option(choice.config, arguments["option"], arguments["value"])
                value = arguments["value"]
                text = f"policy.{arguments['option']}: {'back to its default' if value is None else value!r}"
            else:
                name = arguments["policy"]
                calibration = choice.config.policy.calibration if name in BELIEVES else None
                config = with_policy(choice.config, name, arguments["options"], calibration)
                text = f"policy {name}"
            made = await self._make(config, last, keep_memory=False)
        except ParfocalError as error:
            raise ControlError(_own_words(error)) from error
        begins = "it begins with the first frame" if made.policy is None else "it begins anew with the next frame"
        return Change(f"{text}; {begins}", lambda: self._use(made), {"options": dict(made.options)})

    async def _set_limit(self, parameter: str, bound: str, value: float | None, last: Frame | None) -> Change:
        if parameter == "dose" or bound == "budget":
            return self._set_budget(parameter, bound, value)
        base = self._base.get(parameter)
        if base is None:
            known = sorted([*self._base, "dose"])
            hint = did_you_mean(parameter, known) or f"; there are {', '.join(known)}"
            raise ControlError(f"no parameter {parameter!r} with limits{hint}")
        limit = narrowed(base, self._guard.limits[parameter], parameter, bound, value)
        made: _Made | None = None
        if self._choice is not None:
            try:
                made = await self._make(with_limit(self._choice.config, parameter, limit), last, keep_memory=True)
            except ParfocalError as error:
                raise ControlError(f"the policy cannot work within that: {_own_words(error)}") from error
        now = getattr(limit, bound)

        def commit() -> None:
            self._guard.limits = {**self._guard.limits, parameter: limit}
            if made is not None:
                self._use(made)

        return Change(f"limits.{parameter}.{bound}: {'none' if now is None else f'{now:g}'}", commit, {"value": now})

    def _set_budget(self, parameter: str, bound: str, value: float | None) -> Change:
        if (parameter, bound) != ("dose", "budget"):
            raise ControlError(f"limits.{parameter} has no {bound}: a budget belongs to dose, the other bounds do not")
        base, unit = self._base_budget, self._ledger.unit
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ControlError(f"limits.dose.budget must be above 0 (got {value:g})")
        if value is not None and base is not None and value > base:
            raise ControlError(
                f"limits.dose.budget: {value:g} is more than the {base:g} {unit} this session began with"
            )
        new = base if value is None else value

        def commit() -> None:
            self._ledger.budget = new

        return Change(f"limits.dose.budget: {'none' if new is None else f'{new:g} {unit}'}", commit, {"value": new})

    async def _make(self, config: Config, last: Frame | None, *, keep_memory: bool) -> _Made:
        """Check a configuration, and make its policy if one is at work already and this is another."""
        choice, old, before = self._choice, self._decider.policy, self._decider.policy_options
        if choice is None:
            raise ControlError("the policy of this run cannot be changed")
        working = last is not None and old is not None

        name = config.policy.name

        def make() -> tuple[PolicyMaker, Policy | None, Mapping[str, Any]]:
            began_s = time.thread_time()
            maker = choice.maker(config)
            made = maker, *(maker(last) if working else (None, {}))
            if working:
                self._took_s[name] = time.thread_time() - began_s
            return made

        # A policy may have to import what takes seconds. One made before, with other limits only, takes no longer now.
        brief = keep_memory and self._took_s.get(name, math.inf) <= BRIEF_S
        maker, policy, options = make() if brief else await asyncio.to_thread(make)
        if old is None or policy is None or (keep_memory and dict(options) == dict(before)):
            return _Made(config, maker)
        continues = keep_memory and _continued(old, policy)
        if keep_memory and not continues:
            maker, policy, options = await asyncio.to_thread(make)  # what failed to restore may be half restored
        return _Made(config, maker, policy, options, continues)

    def _use(self, made: _Made) -> None:
        if self._choice is None:
            return
        self._choice.use(made.config, made.maker)
        if made.policy is not None:
            self._decider.policy, self._decider.policy_options = made.policy, made.options
            self._on_policy(made.config.policy.name, made.options, made.continues)

    @property
    def limits(self) -> dict[str, dict[str, float]]:
        """The limits that hold now, as plain JSON."""
        found = {name: limit.model_dump(exclude_none=True) for name, limit in self._guard.limits.items()}
        if self._ledger.budget is not None:
            found["dose"] = {"budget": self._ledger.budget}
        return found


def narrowed(base: Limit, current: Limit, parameter: str, bound: str, value: float | None) -> Limit:
    """Return the current limit with one bound changed, if that is no wider than the base; else raise `ControlError`."""
    allowed = getattr(base, bound)
    if value is None:
        value = allowed
    elif not math.isfinite(value):
        raise ControlError(f"limits.{parameter}.{bound} must be a finite number (got {value})")
    elif allowed is not None and (value < allowed if bound == "lower" else value > allowed):
        raise ControlError(
            f"limits.{parameter}.{bound}: {value:g} is wider than the {allowed:g} this session began with; "
            "only the configuration can allow more"
        )
    try:
        limit = Limit.model_validate({**current.model_dump(), bound: value})
    except ValidationError as error:
        raise ControlError(f"limits.{parameter}.{bound}: {error.errors(include_url=False)[0]['msg']}") from None
    return limit


def _own_words(error: ParfocalError) -> str:
    """Return what the policy says: where a file has the option is of no use to whoever gave it by hand."""
    return str(error.__cause__ if isinstance(error.__cause__, PolicyOptionError) else error)


def _continued(old: Policy, new: Policy) -> bool:
    """Let a policy go on from where its predecessor is; whether that worked."""
    try:
        if type(old) is type(new) and isinstance(old, Handing) and isinstance(new, Handing):
            new.take_over(old.hand_over())
        else:
            new.restore(old.checkpoint())
    except (ParfocalError, ValueError, KeyError, TypeError):
        return False
    return True
