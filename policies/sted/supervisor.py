"""Focus held between images: a focus policy told of the confocal frames, beside the policy that tunes the settings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field

from parfocal.policies.base import Action, Change, Finish, Hold, Observation, Policy, PolicyError
from parfocal.policies.options import Options, parse_options
from parfocal.policies.sted.base import StedPolicy
from parfocal.policies.sted.bayes import BayesPolicy
from parfocal.policies.sted.simple import FixedPolicy, RandomPolicy
from parfocal.policies.sted.thompson import ThompsonPolicy

TUNERS: Mapping[str, type[StedPolicy]] = {
    kind.name: kind for kind in (BayesPolicy, ThompsonPolicy, RandomPolicy, FixedPolicy)
}
Focus = Literal["focus.belief", "focus.quality", "focus.supervised", "focus.oughtafocus", "focus.jaf", "focus.sweep"]
Z = "z_um"


class SupervisorOptions(Options):
    """Options of ``sted.supervised``.

    Parameters
    ----------
    tune : str
        Which STED policy tunes; `sted` are its options.
    focus : str
        Which focus policy holds the focus; `focusing` are its options.
    max_focus_frames : int
        So many confocal frames in a row may be spent on the focus of one field; then the trial goes on as it is.
    """

    tune: Literal["sted.bayes", "sted.thompson", "sted.random", "sted.fixed"] = "sted.bayes"
    sted: dict[str, Any] = Field(default_factory=dict)
    focus: Focus = "focus.belief"
    focusing: dict[str, Any] = Field(default_factory=dict)
    max_focus_frames: int = Field(default=6, ge=1)


class SupervisorPolicy:
    """See `SupervisorOptions`.

    The focus policy is told the confocal frame before each trial, in which nothing but the field has changed. While it
    moves the stage, that frame is taken again and the tuner is not told; the STED frame is taken in focus. A move that
    it asks for is made at once, the tuner's settings staying as they are.
    """

    name = "sted.supervised"

    def __init__(self, options: Mapping[str, Any]) -> None:
        from parfocal.policies import make_policy  # the registry names this module

        self.options = o = parse_options(SupervisorOptions, self.name, options)
        self._tuner = TUNERS[o.tune](o.sted)
        self._focus: Policy = make_policy(o.focus, o.focusing)
        self.reads = (*self._tuner.reads, *self._focus.reads)
        self.solver, self.deadline_s = self._tuner.solver, self._tuner.deadline_s
        self._spent = 0
        self._move: Change | None = None
        self._said = ""

    def tell(self, observation: Observation) -> None:
        """Learn from one frame: about the focus, if it is the confocal one before a trial, and then about settings."""
        self._move, self._said = None, ""
        if self._tuner.expects_confocal(observation):
            self._focus.tell(observation)
            action = self._focus.ask()
            if isinstance(action, Change) and self._spent < self.options.max_focus_frames:
                self._spent += 1
                self._move = replace(action, settings={Z: action.settings[Z]} if Z in action.settings else {})
                if self._move.settings:
                    return
                self._move = None
            self._said = action.reason if action.detail.get("focused") != 1.0 else "in focus"
        self._spent = 0
        self._tuner.tell(observation)

    def ask(self) -> Action:
        """Decide: the move to the focus, or what the tuner wants."""
        if self._move is not None:
            return replace(self._move, reason=f"focus before the trial: {self._move.reason}")
        action = self._tuner.ask()
        if not self._said or isinstance(action, Hold):
            return action
        reason = f"{action.reason}; focus: {self._said}"
        return (
            Finish(action.settings, reason, action.detail)
            if isinstance(action, Finish)
            else replace(action, reason=reason)
        )

    def problem(self) -> dict[str, Any] | None:
        """See `StedPolicy.problem`."""
        return None if self._move is not None else self._tuner.problem()

    def accept(self, suggestion: Mapping[str, Any] | None) -> None:
        """See `StedPolicy.accept`."""
        self._tuner.accept(suggestion)

    def recommendation(self) -> dict[str, Any]:
        """See `StedPolicy.recommendation`."""
        return self._tuner.recommendation()

    def learned(self) -> dict[str, Any]:
        """See `StedPolicy.learned`."""
        return self._tuner.learned()

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        move = None if self._move is None else {
            "settings": dict(self._move.settings), "reason": self._move.reason, "detail": _finite(self._move.detail),
        }  # fmt: skip
        return {
            "policy": self.name,
            "tuner": self._tuner.checkpoint(),
            "focus": self._focus.checkpoint(),
            "spent": self._spent,
            "move": move,
            "said": self._said,
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            self._tuner.restore(checkpoint["tuner"])
            self._focus.restore(checkpoint["focus"])
            self._spent, self._said = int(checkpoint["spent"]), str(checkpoint["said"])
            move = checkpoint["move"]
            self._move = None if move is None else Change(move["settings"], move["reason"], move["detail"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error


def _finite(detail: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in detail.items() if math.isfinite(value)}
