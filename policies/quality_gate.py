"""The quality gate: whether what the session records is good enough, judged beside a policy that it never moves for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Change, Finish, Observation, Policy, PolicyError, reads_of

DELIBERATING = ("problem", "accept", "solver", "deadline_s")


@dataclass(frozen=True)
class GateTerms:
    """What is good enough, and what follows where it is not.

    Parameters
    ----------
    model, score : str
        Which assessment is judged: its value or, with `score`, that key of its ``detail``.
    below, above : float, optional
        A frame is bad below the one or above the other; at least one is given.
    for_frames : int
        So many bad frames in a row before anything follows.
    then : {"flag", "retake", "stop"}
        Mark them; ask for the field again; end the session.
    max_retakes : int
        So many retakes in a row; then the field is only marked.
    judge : {"settled", "all"}
        ``settled``: not the frames a policy moves on from without calling them in focus, which are blurred by design.
    abstain_report : int
        So many frames in a row of which the model says nothing, and they are marked as not to be judged.
    """

    model: str = "quality"
    score: str | None = None
    below: float | None = None
    above: float | None = None
    for_frames: int = 3
    then: Literal["flag", "retake", "stop"] = "flag"
    max_retakes: int = 2
    judge: Literal["settled", "all"] = "settled"
    abstain_report: int = 10


@dataclass
class _Memory:
    """What the gate remembers: all of it counts in a row."""

    bad: int = 0
    retakes: int = 0
    unjudged: int = 0


class QualityGate:
    """Judges the frames a policy is settled on.

    An abstention is neither good nor bad: it leaves the count of bad frames as it is, and leads neither to a retake nor
    to a stop. A good frame ends a run of bad ones and the retakes that were asked for.

    What it finds is in the action's reason and, as numbers, in its ``detail``: ``quality`` and ``quality_sd`` (the
    score), ``good`` (1.0 or 0.0), ``flagged`` (how many frames, this one and those before it, are marked with this
    decision), ``retake`` (1.0: the first is asked for...), ``cannot_be_judged`` (frames in a row), and
    ``bad_quality_stop``.
    """

    def __init__(self, terms: GateTerms) -> None:
        self.terms = terms
        self._m = _Memory()

    def judge(self, action: Action, assessment: Assessment | None) -> Action:
        """Return the policy's action with what the gate has to say; or, for ``then: stop``, a `Finish` in its place."""
        if self.terms.judge == "settled" and isinstance(action, Change) and action.detail.get("focused") != 1.0:
            return action
        score, sd, problem = self._read(assessment)
        if problem:
            return self._unjudged(action, problem)
        m, t = self._m, self.terms
        m.unjudged = 0
        numbers = {"quality": score} | ({"quality_sd": sd} if math.isfinite(sd) else {})
        wrong = self._wrong(score, sd)
        if not wrong:
            m.bad = m.retakes = 0
            return _with(action, "", numbers | {"good": 1.0})
        m.bad += 1
        numbers["good"] = 0.0
        if m.bad < t.for_frames:
            return _with(action, f"{wrong} ({m.bad} of {t.for_frames} frames)", numbers)
        # The frames before this one were let pass until it was clear that they are no exception.
        numbers["flagged"] = float(t.for_frames if m.bad == t.for_frames else 1)
        return self._follow(action, wrong, numbers)

    def _follow(self, action: Action, wrong: str, numbers: dict[str, float]) -> Action:
        """Do what the terms say about a run of bad frames that is long enough."""
        m, t = self._m, self.terms
        said = f"{wrong} for {m.bad} frame{'s' if m.bad > 1 else ''} in a row"
        if t.then == "stop" and not isinstance(action, Finish):
            detail = {**action.detail, **numbers, "bad_quality_stop": 1.0}
            return Finish({}, f"bad quality: {said}, and the configuration says to stop", detail)
        if t.then == "retake" and m.retakes < t.max_retakes:
            m.retakes, m.bad = m.retakes + 1, 0
            asked = f"{said}: discarded, the field is to be taken again (retake {m.retakes} of {t.max_retakes})"
            return _with(action, asked, numbers | {"retake": float(m.retakes)})
        given_up = f", and {m.retakes} retakes were no better" if t.then == "retake" else ""
        return _with(action, f"{said}{given_up}: flagged", numbers)

    def _unjudged(self, action: Action, problem: str) -> Action:
        m, t = self._m, self.terms
        m.unjudged += 1
        if m.unjudged < t.abstain_report:
            return action
        said = f"{self._what()} cannot be judged for {m.unjudged} frames in a row ({problem})"
        return _with(action, said, {"cannot_be_judged": float(m.unjudged)})

    def _read(self, assessment: Assessment | None) -> tuple[float, float, str]:
        """Score, sd, and why there is none."""
        t, nan = self.terms, math.nan
        if assessment is None:
            return nan, nan, f"not assessed by {t.model!r}"
        if assessment.abstained:
            return nan, nan, assessment.reason or "abstained"
        score = float(assessment.value if t.score is None else assessment.detail.get(t.score, nan))
        if not math.isfinite(score):
            return nan, nan, f"no usable {t.score or 'value'}"
        return score, float(assessment.sd) if t.score is None else nan, ""

    def _wrong(self, score: float, sd: float) -> str:
        """What is wrong with a score, in words; empty if nothing is."""
        t = self.terms
        shown = f"{self._what()} {score:.3g}" + (f" ± {sd:.2g}" if math.isfinite(sd) and sd > 0 else "")
        if t.below is not None and score < t.below:
            return f"{shown} is below {t.below:g}"
        if t.above is not None and score > t.above:
            return f"{shown} is above {t.above:g}"
        return ""

    def _what(self) -> str:
        return self.terms.model if self.terms.score is None else f"{self.terms.model} {self.terms.score}"

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        return asdict(self._m)

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; raises `TypeError` if it is none."""
        self._m = _Memory(**checkpoint)


class GatedPolicy:
    """A policy with a gate behind it: what it decides is done as before, unless the gate ends the session.

    Pure like every policy, so that a replay of the record reproduces what the gate said.
    """

    def __init__(self, policy: Policy, terms: GateTerms) -> None:
        self.name = policy.name
        self.reads = (*reads_of(policy), terms.model)
        self.off_loop = bool(getattr(policy, "off_loop", False))
        self._policy, self._gate = policy, QualityGate(terms)
        for name in (*DELIBERATING, "expect"):  # a policy that takes time for suggestions, or works ahead, does so here
            if hasattr(policy, name):
                setattr(self, name, getattr(policy, name))
        self._assessment: Assessment | None = None
        self._waiting = False

    def tell(self, observation: Observation) -> None:
        """Let the policy learn from one frame, and remember what is to be judged."""
        self._policy.tell(observation)
        self._assessment, self._waiting = observation.assessments.get(self._gate.terms.model), True

    def ask(self) -> Action:
        """Decide, and judge; a frame is judged once, however often one asks."""
        action = self._policy.ask()
        if not self._waiting:
            return action
        self._waiting = False
        return self._gate.judge(action, self._assessment)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        return {"policy": self.name, "gate": self._gate.checkpoint(), "gated": self._policy.checkpoint()}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint taken after `ask`."""
        if checkpoint.get("policy") != self.name or "gate" not in checkpoint:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of a gated {self.name!r}")
        self._policy.restore(checkpoint["gated"])
        try:
            self._gate.restore(checkpoint["gate"])
        except TypeError as error:
            raise PolicyError(f"the gate's checkpoint cannot be read: {error}") from error
        self._waiting = False


def _with(action: Action, said: str, numbers: Mapping[str, float]) -> Action:
    reason = f"{action.reason}; {said}" if said else action.reason
    return replace(action, reason=reason, detail={**action.detail, **numbers})
