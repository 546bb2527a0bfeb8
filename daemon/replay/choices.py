"""Another choice for the same observations: another policy, other options, another model. Open loop, and says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from parfocal import ParfocalError
from parfocal.daemon.replay.compare import Comparison
from parfocal.daemon.replay.decisions import PolicyMaker, ReplayError, as_recorded, decide_again, gated
from parfocal.daemon.replay.frames import Rescoring, need_frames, other_model, specs_of
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.turns import Made
from parfocal.policies import make_policy
from parfocal.policies.base import Policy, reads_of

OPEN_LOOP = (
    "open loop: it is told what was observed then, at the places where the recorded policy had gone, so this is what "
    "it would have said, not what would have happened; --against simulator closes the loop"
)
COMMON = ("lower_um", "upper_um", "max_step_um", "dof_um", "seed")
"""Options that all focus policies take, which another one inherits from the session."""


@dataclass(frozen=True)
class Choice:
    """What is to be different from the record.

    Parameters
    ----------
    policy : str, optional
        Another policy; the recorded one when absent.
    options : mapping
        Of the policy; they come on top of the session's limits and depth of field (another policy) or of all its
        options (the same one).
    model : str, optional
        Another model, or the same one with `model_options`; the recorded frames are scored with it.
    frames : bool
        Score the recorded frames again, with the session's own models if no other is named.
    """

    policy: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    model: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    frames: bool = False

    @property
    def of_policy(self) -> bool:
        """Whether the policy is another, or has other options."""
        return self.policy is not None or bool(self.options)


@dataclass(frozen=True)
class Tried:
    """What came of a choice."""

    comparison: Comparison
    rescoring: Rescoring | None
    open_loop: bool


def try_choice(reader: SessionReader, choice: Choice, each: Callable[[int], None] | None = None) -> Tried:
    """Decide again with a choice, and compare with the record.

    Raises
    ------
    ReplayError
        The record does not hold what is needed for it.
    """
    rescoring = _rescoring(reader, choice)
    make = as_recorded(reader) if not choice.of_policy and choice.model is None else chosen(reader, choice)
    comparison = Comparison("the record", describe(reader, choice), reader.dof_um)
    observe = None if rescoring is None else rescoring.observe
    for decided in decide_again(reader, make, observe, suggested=not choice.of_policy):
        comparison.add(decided)
        if each is not None:
            each(len(comparison.decisions))
        if choice.of_policy and comparison.over:
            break  # it would have ended the session here: what was observed later it would not have seen
    return Tried(comparison, rescoring, open_loop=choice.of_policy or choice.model is not None)


def describe(reader: SessionReader, choice: Choice) -> str:
    """Name a choice in a few words."""
    first = next(reader.journal.of("policy"), {})
    name = choice.policy or str(first.get("policy", "the recorded policy"))
    set_ = ", ".join(f"{key}={value}" for key, value in choice.options.items())
    looked = (
        f" on frames scored by {choice.model}" if choice.model else (" on frames scored again" if choice.frames else "")
    )
    return name + (f" ({set_})" if set_ else "") + looked


def chosen(reader: SessionReader, choice: Choice) -> PolicyMaker:
    """Make the policy of a choice at the first `Made`; what the operators switched to later does not concern it.

    Raises
    ------
    ReplayError
        It does not take the options, or reads a model that nobody scored the frames with.
    """
    made_once: list[Policy] = []

    def make(made: Made) -> Policy | None:
        if made_once and choice.policy is not None:
            return None
        policy = _made(reader, choice, made)
        made_once.append(policy)
        return policy

    return make


def _made(reader: SessionReader, choice: Choice, made: Made) -> Policy:
    name = choice.policy or made.name
    options = options_for(name, made.name, made.options) | dict(choice.options)
    if choice.model is not None and "model" not in choice.options and choice.model != options.get("model", "defocus"):
        options["model"] = choice.model
    try:
        policy = make_policy(name, options)
    except ParfocalError as error:
        raise ReplayError(f"{name} cannot be made for this session: {error}") from error
    scored = {record["model"] for record in reader.journal.of("assessment")} | {choice.model or ""}
    lacking = [model for model in _reads(policy) if model not in scored]
    if lacking:
        had = ", ".join(sorted(scored - {""})) or "nothing"
        raise ReplayError(
            f"{name} reads {', '.join(lacking)}, but the session was scored with {had}: give --model {lacking[0]}, "
            "which scores the recorded frames"
        )
    return gated(reader, policy)


def _reads(policy: Policy) -> Sequence[str]:
    """Models whose assessments a policy wants."""
    model = getattr(getattr(policy, "options", None), "model", None)
    return reads_of(policy) or ([model] if isinstance(model, str) else [])


def options_for(name: str, was: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a policy inherits from that of the session."""
    if name == was:
        return dict(options)
    if name.partition(".")[0] != was.partition(".")[0]:
        return {}
    return {key: options[key] for key in COMMON if key in options}


def _rescoring(reader: SessionReader, choice: Choice) -> Rescoring | None:
    if choice.model is not None or choice.frames or choice.model_options:
        need_frames(reader)
    if choice.model is not None:
        specs: Sequence[Any] = [other_model(reader, choice.model, choice.model_options)]
    elif choice.frames or choice.model_options:
        specs = specs_of(reader)
    else:
        return None
    return Rescoring(reader, specs).start()
