"""Looking at the recorded frames again: what a model says of them now, against what was said then."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from parfocal.daemon.decide import Scoring
from parfocal.daemon.records import as_told
from parfocal.daemon.replay.decisions import ReplayError
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.turns import Turn
from parfocal.models import ModelSpec
from parfocal.models.base import Assessment, ImageError
from parfocal.policies.base import Observation

TOLERANCE_SD = 0.05
"""An assessment agrees if it differs by no more than this share of the spread it states: other machines and libraries
round otherwise, and no decision worth trusting hangs on a twentieth of a standard deviation."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one model says of one frame, then and now."""

    index: int
    then: Assessment
    now: Assessment

    @property
    def off_sd(self) -> float:
        """Difference in units of the spread stated then; infinite where only one of them abstains."""
        if self.then.abstained or self.now.abstained:
            return 0.0 if self.then.abstained and self.now.abstained else math.inf
        apart = abs(self.now.value - self.then.value)
        rounding = 1e-6 * abs(self.then.value)
        return 0.0 if apart <= rounding else apart / max(self.then.sd, 1e-12)


@dataclass
class Rescoring:
    """Scores the recorded frames again; `observe` makes the observation that a policy is told.

    Parameters
    ----------
    reader : SessionReader
    specs : sequence of ModelSpec
        Which models; those of the session by default (`specs_of`).
    scorer : Scoring, optional
        Instead of those models, in this process.

    Attributes
    ----------
    looks : list of Look
        By frame and by model that was asked then and now.
    missing : list of int
        Indices of frames whose pixels were not recorded, or did not reach the disk: the recorded assessment stands.
    """

    reader: SessionReader
    specs: Sequence[ModelSpec]
    scorer: Scoring | None = None
    looks: list[Look] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    scored: int = 0

    def start(self) -> Rescoring:
        """Load the models; raises `ReplayError` if there is nothing to look at."""
        need_frames(self.reader)
        if self.scorer is None:
            from parfocal.models.scoring import InlineScorer

            self.scorer = InlineScorer(self.specs)
        self.scorer.start()
        return self

    def observe(self, turn: Turn) -> Observation:
        """Score a turn's frame; what was assessed then stands where its pixels are not there."""
        told = turn.observation
        now = self._assess(told.index)
        if now is None:
            self.missing.append(told.index)
            return told
        self.looks += [Look(told.index, told.assessments[name], now[name]) for name in now if name in told.assessments]
        return replace(told, assessments={**told.assessments, **now})

    def _assess(self, index: int) -> dict[str, Assessment] | None:
        place = self.reader.stored.get(index)
        pixels = None if place is None else self.reader.frames.read(place)
        pixel_um = self.reader.frames.pixel_um
        if pixels is None or pixel_um is None or self.scorer is None:
            return None
        self.scored += 1
        try:
            return {name: as_told(found) for name, found in self.scorer.score(pixels, pixel_um, 60.0).items()}
        except ImageError as error:
            return {spec.name: Assessment.abstain(spec.name, str(error)) for spec in self.specs}

    def to_json(self) -> dict[str, Any]:
        """Return how far what is said now is from what was said then."""
        off = [look.off_sd for look in self.looks]
        return {
            "models": [spec.to_json() for spec in self.specs],
            "scored": self.scored,
            "not_recorded": len(self.missing),
            "compared": len(off),
            "tolerance_sd": TOLERANCE_SD,
            "outside_tolerance": sum(one > TOLERANCE_SD for one in off),
            "largest_difference_sd": max((one for one in off if math.isfinite(one)), default=None),
            "abstained_only_once": sum(math.isinf(one) for one in off),
        }


def need_frames(reader: SessionReader) -> None:
    """Raise `ReplayError` if no frame of the session is on the disk."""
    if not reader.stored:
        raise ReplayError(f"{reader.folder}: there are no frames to score: the session recorded none (session.record)")
    if not any(reader.frames.holds(place) for place in reader.stored.values()):
        why = reader.frames.problem or "none of them reached the disk"
        raise ReplayError(f"{reader.folder}: there are no frames to score: {why}")


def specs_of(reader: SessionReader) -> list[ModelSpec]:
    """Return the models of the session with the options they had."""
    found = reader.facts.get("models") or []
    if not found:
        raise ReplayError(f"{reader.folder}: session.json does not say which models scored the frames; name --model")
    return [ModelSpec.from_json(spec) for spec in found]


def other_model(reader: SessionReader, name: str, options: Mapping[str, Any]) -> ModelSpec:
    """Return another model (or the same with other options), told of the optics as the session's was."""
    from parfocal.daemon.compose import TAKES_OPTICS, TAKES_RUNTIME

    known = next((spec for spec in reader.facts.get("models") or [] if spec["name"] == name), None)
    given: dict[str, Any] = dict(known["options"]) if known is not None else {}
    if known is None and name in TAKES_OPTICS:
        given |= reader.optics
    if known is None and name in TAKES_RUNTIME:
        given |= {"backend": "auto", "device": "auto"}
    return ModelSpec(name, {**given, **options})
