"""Search routines on a sharpness score as ask/tell policies: one frame at each place asked for, then the best place."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.base import Action, Change, Finish, Hold, Observation, PolicyError
from parfocal.policies.checkpoint import pack, unpack
from parfocal.policies.options import FocusOptions

# A search yields the z where it wants a score, is sent that score, and returns where the focus is.
Search = Generator[float, float, float]

_STATE = ("_z_um", "_time_s", "_ended_s", "_finished", "_doubt")


class RoutineOptions(FocusOptions):
    """Options common to the routines that search on a sharpness score.

    Parameters
    ----------
    model, score : str
        Which assessment, and which key of its ``detail``, is maximised.
    then : {"finish", "hold"}
        What follows a search.
    repeat_every_s : float, optional
        With ``then: hold``: search again so long after the end of the last search.
    arrival_um : float
        A frame counts for the place asked for if it was taken within this of it.
    arrival_frames : int
        So many frames may pass until the stage has arrived.
    """

    model: str = "sharpness"
    score: str = "midband"
    then: Literal["finish", "hold"] = "finish"
    repeat_every_s: float | None = Field(default=None, gt=0)
    arrival_um: float = Field(default=0.25, gt=0)
    arrival_frames: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _repeat_needs_hold(self) -> Self:
        if self.repeat_every_s is not None and self.then == "finish":
            raise ValueError("repeat_every_s needs then: hold (a finished policy is not asked again)")
        return self


@dataclass
class _Run:
    """One search: what it was told, and where it stands."""

    home_um: float
    samples: list[tuple[float, float]] = field(default_factory=list)
    target_um: float = math.nan
    waited: int = 0
    result_um: float = math.nan
    problem: str = ""

    @property
    def done(self) -> bool:
        return bool(self.problem) or not math.isnan(self.result_um)


class RoutinePolicy:
    """Runs a search of a subclass (`search`), frame by frame.

    A search that meets an unusable frame, a stage that does not arrive, or scores that are all alike has failed: the
    stage goes back to where the search began, and the reason says so. The state is the list of scores told; a
    restored policy runs its search through them again, and so stands where it stood.
    """

    name: ClassVar[str]
    options: RoutineOptions

    def __init__(self) -> None:
        self._run: _Run | None = None
        self._search: Search | None = None
        self._z_um = math.nan
        self._time_s = math.nan
        self._ended_s = math.nan
        self._finished = False
        self._doubt = "no frame yet"

    @property
    def reads(self) -> tuple[str, ...]:
        """The model whose score is maximised."""
        return (self.options.model,)

    def search(self, home_um: float) -> Search:
        """Yield places and be sent scores; return the best place."""
        raise NotImplementedError

    def bounded(self, z_um: float) -> float:
        """Keep a place of the search's own range within the stage's limits."""
        return min(max(z_um, self.options.lower_um), self.options.upper_um)

    def tell(self, observation: Observation) -> None:
        """Take a frame's score, if the stage is where it was wanted."""
        self._z_um = float(observation.settings.get("z_um", math.nan))
        time_s = float(observation.time_s)
        self._time_s = time_s if math.isfinite(time_s) else self._time_s
        self._doubt = "" if math.isfinite(self._z_um) else "the frame does not say where it was taken"
        if self._doubt or self._finished:
            return
        if self._run is None or self._due():
            score, problem = self._score(observation)
            if problem:
                self._doubt = problem
                return
            run = self._begin(self._z_um)
            if not run.done and abs(self._z_um - run.target_um) <= 1e-6:
                self._sample(run, score)
            return
        run = self._run
        if run.done:
            return
        if abs(self._z_um - run.target_um) > self.options.arrival_um:
            run.waited += 1
            if run.waited > self._patience(run.target_um):
                run.problem = f"the stage does not arrive at z={run.target_um:.2f} um (it is at {self._z_um:.2f} um)"
            return
        score, problem = self._score(observation)
        if problem:
            run.problem = problem
        else:
            self._sample(run, score)

    def _due(self) -> bool:
        """Whether another search is to begin."""
        every = self.options.repeat_every_s
        run = self._run
        back = run is not None and abs(self._z_um - self._end(run)) <= self.options.arrival_um
        return back and every is not None and run is not None and run.done and self._time_s - self._ended_s >= every

    def _patience(self, target_um: float) -> float:
        """Frames until arrival: a few, and one for each step of a split move."""
        return self.options.arrival_frames + math.ceil(abs(target_um - self._z_um) / self.options.max_step_um)

    def _score(self, observation: Observation) -> tuple[float, str]:
        """Read the score; the second is what is wrong with it."""
        o = self.options
        assessment = observation.assessments.get(o.model)
        if assessment is None:
            return math.nan, f"the frame was not assessed by {o.model!r}"
        if assessment.abstained:
            return math.nan, assessment.reason or f"{o.model} abstained"
        score = float(assessment.detail.get(o.score, math.nan))
        if not math.isfinite(score):
            return math.nan, f"{o.model} gave no usable {o.score!r} ({score:g})"
        return score, ""

    def _begin(self, home_um: float) -> _Run:
        run = self._run = _Run(home_um)
        self._search, self._ended_s = self.search(home_um), math.nan
        self._advance(run, None)
        return run

    def _sample(self, run: _Run, score: float) -> None:
        run.samples.append((run.target_um, score))
        run.waited = 0
        self._advance(run, score)

    def _advance(self, run: _Run, score: float | None) -> None:
        """Let the search think until it wants another frame or is done."""
        if self._search is None:
            return
        try:
            run.target_um = next(self._search) if score is None else self._search.send(score)
        except StopIteration as stop:
            scores = [s for _, s in run.samples]
            if len(scores) > 1 and max(scores) == min(scores):
                run.problem = f"all {len(scores)} scores are equal"
            else:
                run.result_um = self.bounded(float(stop.value))

    def ask(self) -> Action:
        """Decide."""
        run = self._run
        if self._finished:
            return Finish({}, f"{self.name} has finished", self._detail(run))
        if self._doubt:
            if run is not None and not run.done:
                run.problem = self._doubt
            if run is None or not math.isfinite(self._z_um):
                return Hold(f"not moving on doubt: {self._doubt}", {"focused": 0.0})
        if run is None:
            return Hold("no search is running", {"focused": 0.0})
        if run.done:
            return self._conclude(run)
        if abs(run.target_um - self._z_um) <= 1e-6:
            return Hold(f"waiting for a frame at z={run.target_um:.2f} um", self._detail(run))
        return self._go(run.target_um, f"look {len(run.samples) + 1} of the search: z={run.target_um:.2f} um", run)

    def _end(self, run: _Run) -> float:
        return run.home_um if run.problem else run.result_um

    def _conclude(self, run: _Run) -> Action:
        """Go to the best place, or back; then finish or hold."""
        end, o = self._end(run), self.options
        looks = len(run.samples)
        said = (
            f"search failed after {looks} looks ({run.problem}): back to z={end:.2f} um"
            if run.problem
            else f"focus at z={end:.2f} um after {looks} looks"
        )
        reachable = o.lower_um <= end <= o.upper_um
        far = abs(end - self._z_um) > (1e-6 if math.isnan(self._ended_s) else o.arrival_um)
        if abs(end - self._z_um) > o.max_step_um and reachable:
            return self._go(end, said, run)
        self._ended_s = self._time_s if math.isnan(self._ended_s) or far else self._ended_s
        settings = {"z_um": end} if far and reachable else {}
        if o.then == "finish":
            self._finished = True
            return Finish(settings, said, self._detail(run))
        return Change(settings, said, self._detail(run)) if settings else Hold(said, self._detail(run))

    def _go(self, target: float, reason: str, run: _Run) -> Action:
        """Move, in steps the stage may take; never outside the limits."""
        o = self.options
        first, detail = target, self._detail(run)
        if abs(target - self._z_um) > o.max_step_um:
            detail = detail | {"focused": 0.0}  # half-way is not there, whatever is known of where there is
            first = self._z_um + math.copysign(o.max_step_um * (1.0 - 1e-9), target - self._z_um)
            reason += f", by way of z={first:.2f} um (largest step {o.max_step_um:g} um)"
        if not o.lower_um <= first <= o.upper_um:
            return Hold(f"z={first:.2f} um lies outside the stage's limits: not moving", detail)
        return Change({"z_um": first}, reason, detail)

    def _detail(self, run: _Run | None) -> dict[str, float]:
        if run is None or run.problem or math.isnan(run.result_um):
            return {"focused": 0.0}
        return {"focused": 1.0, "focus_z_um": run.result_um, "defocus_um": self._z_um - run.result_um}

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON (NaN is written as null)."""
        run = None
        if self._run is not None:
            run = pack(vars(self._run)) | {"samples": [list(s) for s in self._run.samples]}
        return {"policy": self.name, "run": run, "state": pack({k: getattr(self, k) for k in _STATE})}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            state, stored = unpack(checkpoint["state"]), checkpoint["run"]
            values = {k: state[k] for k in _STATE}
            run = None if stored is None else _Run(**unpack(stored))
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        for key, value in values.items():
            setattr(self, key, value)
        self._run, self._search = run, None
        if run is not None:
            run.samples = [(float(z), float(s)) for z, s in run.samples]
            self._rerun(run)

    def _rerun(self, run: _Run) -> None:
        """Bring a fresh search to where the stored one stood."""
        search = self.search(run.home_um)
        try:
            next(search)
            for _, score in run.samples:
                search.send(score)
        except StopIteration:
            return
        self._search = search


def log_parabola(z_um: list[float], scores: list[float]) -> float:
    """Peak of an even scan: the vertex of a parabola through the log of the best score and of its neighbours.

    Stands in for a fit of a Gaussian: exact for one. At an end of the scan, or where a score is not positive, the best
    sample itself.
    """
    best = int(np.argmax(scores))
    if best in (0, len(scores) - 1) or min(scores[best - 1 : best + 2]) <= 0.0:
        return z_um[best]
    (x0, x1, x2), (y0, y1, y2) = z_um[best - 1 : best + 2], np.log(scores[best - 1 : best + 2])
    left, right = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    if not left > right:
        return z_um[best]
    vertex = 0.5 * (x0 + x1) + left * 0.5 * (x2 - x0) / (left - right)
    return float(min(max(vertex, x0), x2))
