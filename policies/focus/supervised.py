"""Two ways to the focus: the belief about defocus, and the score of the image where the network says nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from parfocal.policies.base import Action, Observation, PolicyError
from parfocal.policies.focus.belief import BeliefPolicy
from parfocal.policies.focus.beliefoptions import BeliefOptions
from parfocal.policies.focus.quality import QualityFocusOptions, QualityPolicy
from parfocal.policies.focus.response import ResponseTable
from parfocal.policies.options import FocusOptions, parse_options

Driver = Literal["defocus", "quality"]


class SupervisedOptions(FocusOptions):
    """Options of ``focus.supervised``; those of the stage hold for both parts.

    Parameters
    ----------
    range_um : float
        Both seek the focus within the start +- this.
    after : int
        So many frames in a row without an answer of the defocus network, and the score drives.
    back_after : int
        So many answers in a row, and the belief drives again.
    response : table, optional
        Measured response of the defocus network (`parfocal calibrate`), for the belief.
    belief, quality : mapping
        Further options of ``focus.belief`` and of ``focus.quality``.
    """

    range_um: float = Field(default=40.0, gt=0, le=5000)
    after: int = Field(default=5, ge=1)
    back_after: int = Field(default=3, ge=1)
    response: ResponseTable | None = None
    belief: dict[str, Any] = Field(default_factory=dict)
    quality: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _not_finishing(self) -> Self:
        if self.quality.get("then", "hold") != "hold":
            raise ValueError("quality.then must be hold: the defocus network may answer again")
        if self.quality.get("prefer", "quality") != "quality":
            raise ValueError("quality.prefer belongs to focus.quality: here the defocus network always comes first")
        return self


def prefer_defocus(options: Mapping[str, Any]) -> SupervisedPolicy:
    """Make the supervisor from the options of ``focus.quality``."""
    given = {key: value for key, value in options.items() if key != "response"}
    own = parse_options(QualityFocusOptions, QualityPolicy.name, given)
    shared = {key: value for key, value in options.items() if key in (*FocusOptions.model_fields, "response")}
    rest = {key: value for key, value in given.items() if key not in shared and key not in ("prefer", "range_um")}
    return SupervisedPolicy({**shared, "range_um": own.range_um, "quality": rest})


@dataclass
class _Memory:
    """Who drives, and how long the defocus network has answered or not."""

    driver: Driver = "defocus"
    silent: int = 0
    answers: int = 0
    why_silent: str = ""
    said: str = ""


@dataclass(frozen=True)
class Handed:
    """What a supervisor is taken over with: its own memory, and what its parts hand over."""

    memory: _Memory
    focus_um: float
    belief: object
    quality: Mapping[str, Any]


class SupervisedPolicy:
    """See `SupervisedOptions`.

    The belief is told every frame, whoever drives, so that it knows at once where the focus may be when the network
    answers again. The search by score begins afresh at every handover, near the focus if the belief had one.
    """

    name = "focus.supervised"
    off_loop: ClassVar[bool] = QualityPolicy.off_loop

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = o = parse_options(SupervisedOptions, self.name, options)
        shared = {key: getattr(o, key) for key in FocusOptions.model_fields} | {"range_um": o.range_um}
        response = {} if o.response is None else {"response": o.response}
        self._belief_given, self._quality_given = {**shared, **response, **o.belief}, {**shared, **o.quality}
        self._belief_options = parse_options(BeliefOptions, f"{self.name} (belief)", self._belief_given)
        parse_options(QualityFocusOptions, f"{self.name} (quality)", self._quality_given)
        self._belief, self._quality = BeliefPolicy(self._belief_given), QualityPolicy(self._quality_given)
        self.reads = (self._belief_options.model, *self._quality.reads)
        self._m = _Memory()
        self._focus_um = math.nan

    def tell(self, observation: Observation) -> None:
        """Learn from one frame, and see who is to drive."""
        o, m = self.options, self._m
        silence = self._silence(observation)
        self._belief.tell(observation)
        m.silent, m.answers = (m.silent + 1, 0) if silence else (0, m.answers + 1)
        m.why_silent = silence or m.why_silent
        m.said = ""
        if m.driver == "defocus" and m.silent >= o.after:
            m.driver = "quality"
            m.said = f"{self._belief_options.model} has been silent for {m.silent} frames ({m.why_silent}): handed over"
            self._quality = QualityPolicy(self._quality_given)
            z_um = float(observation.settings.get("z_um", math.nan))
            if math.isfinite(self._focus_um) and math.isfinite(z_um):
                self._quality.begin(z_um, self._focus_um)
        elif m.driver == "quality" and m.answers >= o.back_after:
            m.driver = "defocus"
            m.said = f"{self._belief_options.model} has answered {m.answers} times in a row: handed back"
        if m.driver == "quality":
            self._quality.tell(observation)

    def _silence(self, observation: Observation) -> str:
        """Why the defocus network says nothing of this frame; empty if it does."""
        o = self._belief_options
        assessment = observation.assessments.get(o.model)
        if assessment is None:
            return "the frame was not assessed"
        if assessment.abstained:
            return assessment.reason or "abstained"
        certainty = assessment.detail.get("certainty")
        if certainty is not None and not certainty >= o.min_certainty:
            return f"certainty {certainty:.2f}"
        return ""

    def ask(self) -> Action:
        """Decide, by the part that drives; the reason says which."""
        m = self._m
        by_score = m.driver == "quality"
        action = (self._quality if by_score else self._belief).ask()
        if not by_score and action.detail.get("found") == 1.0:
            self._focus_um = action.detail["focus_z_um"]
        handed = f"{m.said}; " if m.said else ""
        driver = self._quality.options.model if by_score else self._belief_options.model
        detail = {**action.detail, "by_score": 1.0 if by_score else 0.0}
        return replace(action, reason=f"{handed}by {driver}: {action.reason}", detail=detail)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        return {
            "policy": self.name,
            "memory": vars(self._m).copy(),
            "focus_um": None if math.isnan(self._focus_um) else self._focus_um,
            "belief": self._belief.checkpoint(),
            "quality": self._quality.checkpoint(),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        belief, quality = BeliefPolicy(self._belief_given), QualityPolicy(self._quality_given)
        try:
            memory = _Memory(**checkpoint["memory"])
            focus = checkpoint["focus_um"]
            belief.restore(checkpoint["belief"])
            quality.restore(checkpoint["quality"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        self._m, self._belief, self._quality = memory, belief, quality
        self._focus_um = math.nan if focus is None else float(focus)

    def hand_over(self) -> Handed:
        """Everything needed to go on identically, for another one in this program that takes over at once."""
        return Handed(replace(self._m), self._focus_um, self._belief.hand_over(), self._quality.checkpoint())

    def take_over(self, handed: object) -> None:
        """Go on as from the checkpoint of who handed over; raises `PolicyError` if that was another kind."""
        if not isinstance(handed, Handed):
            raise PolicyError(f"{self.name!r} can only take over from one of its kind")
        belief, quality = BeliefPolicy(self._belief_given), QualityPolicy(self._quality_given)
        belief.take_over(handed.belief)
        quality.restore(handed.quality)
        self._m, self._focus_um, self._belief, self._quality = handed.memory, handed.focus_um, belief, quality
