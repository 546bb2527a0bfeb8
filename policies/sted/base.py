"""What all STED policies share: trials on fresh fields, safe steps, clear ends; how to choose is left to each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from parfocal.policies.base import Action, Change, Finish, Hold, Observation, PolicyError, PolicyOptionError
from parfocal.policies.options import parse_options
from parfocal.policies.sted import report
from parfocal.policies.sted.fields import field_at
from parfocal.policies.sted.memory import Memory
from parfocal.policies.sted.objectives import has_light, rate_bound_mhz, rate_mhz
from parfocal.policies.sted.options import POSITIONS, StedOptions
from parfocal.policies.sted.safety import Envelope, default_start, dimmest
from parfocal.policies.sted.solving import solve
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, Settings, dose_of, pixel_us_of
from parfocal.policies.sted.trial import Sequence, Trial, not_as_commanded, saturated

MAX_RETAKES = 3
MAX_MISMATCHES = 5
MAX_DIMMED = 6
SCHEMA = "parfocal.sted/1"
Suggestion = Mapping[str, Any]


class StedPolicy:
    """Sequences trials; a subclass says what is tried next by `_problem` and `_without_problem`.

    A trial is three frames of one fresh field: confocal, STED, confocal. Each is an ordinary frame of the loop, each
    setting an ordinary `Change` that the guard may refuse.

    Suggestions that take time: `problem` returns what a module-level function (named in it under ``solve``) needs, and
    `accept` takes its answer, or None if there was none in time. Whoever does not know of this just calls `ask`, which
    solves on the spot.
    """

    name: ClassVar[str] = "sted"
    options_model: ClassVar[type[StedOptions]] = StedOptions
    solver: ClassVar[str] = ""
    """Where suggestions come from (``module:function``), for whoever wants to have it ready."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = o = parse_options(self.options_model, self.name, options)
        self.space, self.wish, self.reads = o.space, o.wish, o.reads
        self.deadline_s = o.deadline_s
        self._m = Memory()
        self._confocal = dict(o.confocal_settings)
        self._nominal = dose_of(self._confocal)
        self.start: Settings = default_start(self.space, self._confocal) | o.start
        self._envelope = Envelope(
            o.max_dose_factor,
            o.max_rate_mhz,
            dose_of(self.start),
            self.start.get(DEPLETION, 0.0) * pixel_us_of(self.start),
        )
        self._trials: list[Trial] = []
        self._sequence = Sequence()
        self._check_start()

    def _check_start(self) -> None:
        row = self.space.array(self.start)
        if not ((row >= self.space.lower) & (row <= self.space.upper)).all():
            raise PolicyOptionError(f"policy {self.name}: the first trial {self.start} lies outside the bounds")

    # -- ask/tell -------------------------------------------------------------------------------------------------

    def tell(self, observation: Observation) -> None:
        """Learn from one frame of a trial."""
        m = self._m
        m.said = ""
        self._note_dose(observation)
        if m.phase in ("choose", "finished"):
            return  # a frame that nobody asked for
        if m.phase == "begin":
            self._begin(observation)
            return
        m.doubt = not_as_commanded(observation, m.commanded)
        if m.doubt:
            m.mismatches += 1
            if m.mismatches >= MAX_MISMATCHES:
                self._end(f"the settings are not taken: {m.doubt}, {m.mismatches} times in a row")
            return
        m.mismatches = 0
        assessment = observation.assessments.get(self.options.model)
        if assessment is None or "mean_counts" not in assessment.detail:
            self._retake(f"the frame was not assessed by {self.options.model}")
            return
        {"before": self._tell_before, "sted": self._tell_sted, "after": self._tell_after}[self._sequence.frame](
            assessment.detail, observation
        )

    def ask(self) -> Action:
        """Decide; solves on the spot what nobody solved."""
        m = self._m
        if m.phase == "choose" and not m.suggestion and not m.fell_back:
            problem = self.problem()
            self.accept(None if problem is None else solve(problem))
        if m.phase == "choose":
            self._choose()
        if m.phase == "finished":
            return self._finish()
        if m.phase == "begin":
            return Hold(m.doubt)
        if m.doubt and m.mismatches:
            return Change(dict(m.commanded), f"once more: {m.doubt}", self._detail())
        return self._step()

    def problem(self) -> dict[str, Any] | None:
        """Return what a suggestion needs, if one is due; None: `ask` costs no time."""
        m = self._m
        if m.phase != "choose" or m.suggestion or m.fell_back or not self._trials:
            return None
        if m.forced and m.images < self.options.max_images:
            return None
        return self._problem()

    def accept(self, suggestion: Suggestion | None) -> None:
        """Take a suggestion; None: there was none in time, and the stated fallback is taken."""
        m = self._m
        if m.phase != "choose":
            raise PolicyError(f"{self.name}: no suggestion was asked for")
        if suggestion is None:
            m.fell_back = "the suggestion was not there in time" if self.problem() is not None else "no solver"
            return
        m.suggestion = dict(suggestion)
        m.recommended = dict(suggestion.get("recommended") or m.recommended)
        if "settings" not in m.suggestion:
            m.fell_back = str(m.suggestion.get("reason", "the solver found nothing"))

    def expects_confocal(self, observation: Observation) -> bool:
        """Whether a frame is the confocal one before a trial, taken as it was asked for."""
        m = self._m
        before = m.phase == "trial" and self._sequence.frame == "before"
        return before and not not_as_commanded(observation, m.commanded)

    # -- what a subclass says -------------------------------------------------------------------------------------

    def _problem(self) -> dict[str, Any] | None:
        """Return what the solver needs; None: there is none."""
        return None

    def _without_problem(self) -> tuple[Settings, str] | None:
        """Return what is tried next, and why, by a policy that needs no solver; None: nothing can be tried."""
        return self._fallback()

    def recommendation(self) -> dict[str, Any]:
        """Return what is recommended now: ``settings``, ``utility``, ``sd``; empty before the first outcome."""
        return dict(self._m.recommended) or self._best_seen()

    # -- frames ---------------------------------------------------------------------------------------------------

    def _begin(self, observation: Observation) -> None:
        m = self._m
        missing = [name for name in self.space.names if name not in observation.settings]
        if missing:
            self._end(f"the microscope has no {', '.join(missing)}")
            return
        m.lines = float(observation.settings.get(LINES, 1.0))
        m.origin = {axis: observation.settings[axis] for axis in POSITIONS if axis in observation.settings}
        self._next_field("choose")

    def _tell_before(self, detail: Mapping[str, float], observation: Observation) -> None:
        m, o = self._m, self.options
        rate = rate_mhz(detail, observation.settings)
        bound = rate_bound_mhz(detail, observation.settings)
        self._envelope.note_rate(observation.settings, bound, saturated=False)
        if saturated(detail) or rate > o.max_rate_mhz:
            self._dim_confocal()
        elif not has_light(detail):
            m.empty += 1
            if m.empty >= o.max_empty_fields:
                self._end(f"no structure in {m.empty} fields in a row: is there a sample, and is the excitation on?")
            else:
                m.said = f"no structure in this field ({m.empty} of {o.max_empty_fields}): another one"
                self._next_field("trial")
        else:
            m.empty = 0
            self._sequence.before = dict(detail)
            self._sequence.frame, self._sequence.retakes = "sted", 0
            self._recheck()

    def _recheck(self) -> None:
        """Hold the trial against what this field's confocal frame has just said of the detector's rate, and of dose."""
        if not self.affordable(self._sequence.settings):
            self._end(f"the STED frame would not fit in what is left of the dose budget ({self.options.dose_budget:g})")
            return
        row = self.space.array(self._sequence.settings)
        if not self._may(self._sequence.settings):
            rate = float(self._envelope.expected_rate(self.space, row)[0])
            dimmer = self._within_rate(self._sequence.settings)
            if dimmer is None:
                self._end(f"this field is too bright: {rate:.3g} MHz are to be expected")
                return
            self._sequence.settings = dimmer
            self._m.said = f"excitation lowered for this field, where {rate:.3g} MHz would have been expected"

    def _within_rate(self, settings: Mapping[str, float]) -> Settings | None:
        """Lower the excitation to what the detector stands, and make up for it in time where that is safe.

        None where the excitation would be less than the bounds allow.
        """
        rate = float(self._envelope.expected_rate(self.space, self.space.array(settings))[0])
        share = min(1.0, self.options.max_rate_mhz / max(rate, 1e-12))
        power = float(f"{settings[EXCITATION] * share:.4g}")
        reach = self._confocal[EXCITATION] + self.options.max_step.get(EXCITATION, math.inf)
        dimmer = dict(settings) | {EXCITATION: min(power, reach)}
        longer = settings[DWELL] * settings[EXCITATION] / max(dimmer[EXCITATION], 1e-12)
        patient = dimmer | {DWELL: float(f"{min(longer, self.options.box[DWELL][1]):.4g}")}
        return next((made for made in (patient, dimmer) if self._may(made)), None)

    def _tell_sted(self, detail: Mapping[str, float], observation: Observation) -> None:
        quality = observation.assessments.get(self.options.quality_model)
        if "quality" in self.wish.needs and quality is None:
            self._retake(f"the frame was not assessed by {self.options.quality_model}")
            return
        shown = {name: float(observation.settings[name]) for name in self.space.names}
        shown.setdefault(LINES, self._m.lines)
        self._sequence.take_sted(detail, shown, quality)
        self._m.images += 1
        self._envelope.note_rate(shown, rate_bound_mhz(detail, shown), saturated=self._sequence.saturated)

    def _tell_after(self, detail: Mapping[str, float], observation: Observation) -> None:
        m, o = self._m, self.options
        trial = self._sequence.finish(detail, dose_of(observation.settings) / self._nominal)
        self._trials.append(trial)
        tolerated = not self._sequence.saturated and not trial.bleach > o.max_bleach
        self._envelope.note_trial(trial.settings, tolerated=tolerated)
        m.forced = {}
        if trial.outcome is not None:
            m.failures = 0
        else:
            m.said = f"no outcome: {trial.reason}"
            m.failures += 0 if self._sequence.saturated else 1
            if m.failures >= o.max_failures:
                lost = f"; {trial.bleach:.0%} was bleached" if trial.bleach > o.max_bleach or trial.bleach > 0.9 else ""
                self._end(f"{m.failures} trials in a row without an outcome: {trial.reason}{lost}")
                return
            if trial.dark and tolerated:
                m.forced = self._brighter(trial.settings)
        m.phase = "choose"
        m.suggestion, m.fell_back = {}, ""

    def _retake(self, why: str) -> None:
        """Wait for another frame of the same kind: nothing is decided on doubt."""
        m, s = self._m, self._sequence
        s.retakes += 1
        m.doubt = why
        if s.retakes > MAX_RETAKES:
            self._end(f"{why}, {s.retakes} frames in a row")

    def _dim_confocal(self) -> None:
        m = self._m
        m.dimmed += 1
        low = self.space.lower[self.space.names.index(EXCITATION)]
        step = self.options.max_step.get(EXCITATION, math.inf)
        power = max(0.5 * self._confocal[EXCITATION], low, self._confocal[EXCITATION] - step)
        if m.dimmed > MAX_DIMMED or power >= self._confocal[EXCITATION]:
            self._end("the confocal frame is too bright for the detector even at the least excitation")
            return
        self._confocal[EXCITATION] = max(float(f"{power:.4g}"), low)
        m.said = f"the confocal frame is too bright for the detector: {self._confocal[EXCITATION]:g} uW from now on"

    def _note_dose(self, observation: Observation) -> None:
        """Learn how much of the session's dose a frame takes for its power and time."""
        m = self._m
        spent, unit = observation.dose - m.dose, dose_of(observation.settings)
        if math.isfinite(spent) and spent > 0 and unit > 0:
            m.dose_per_unit = max(m.dose_per_unit, spent / unit)
        m.dose = observation.dose

    def affordable(self, settings: Mapping[str, float]) -> bool:
        """Whether what is left of the budget is enough for a trial with these settings."""
        m, budget = self._m, self.options.dose_budget
        if budget is None or not math.isfinite(m.dose):
            return True
        frames = 2.0 if m.phase == "choose" else 1.0  # confocal ones still to come
        units = frames * dose_of(self._confocal) + dose_of({LINES: m.lines, **settings})
        return m.dose + m.dose_per_unit * units <= budget

    # -- choices --------------------------------------------------------------------------------------------------

    def _choose(self) -> None:
        m, o = self._m, self.options
        if m.images >= o.max_images:
            self._end(f"{m.images} images were taken")
            return
        if m.suggestion.get("stop"):
            self._end(str(m.suggestion.get("reason", "nothing more to gain")))
            return
        chosen = self._chosen()
        if chosen is None:
            self._end(self._nothing_left())
            return
        settings, why = chosen
        if not self.affordable(settings):
            self._end(f"the next trial would not fit in what is left of the dose budget ({o.dose_budget:g})")
            return
        self._sequence = Sequence(settings=dict(settings))
        m.said = "; ".join(part for part in (m.said, why) if part)
        self._next_field("trial")

    def _chosen(self) -> tuple[Settings, str] | None:
        m = self._m
        if not self._trials:
            return self._first()
        if m.forced:
            return dict(m.forced), "brighter, until there is something to see"
        if "settings" in m.suggestion:
            settings = {name: float(m.suggestion["settings"].get(name, math.nan)) for name in self.space.names}
            if self._may(settings):
                return settings, str(m.suggestion.get("reason", ""))
            m.fell_back = "the suggestion lies outside of what is safe"
        if m.fell_back == "no solver":
            return self._without_problem()
        fallback = self._fallback()
        return None if fallback is None else (fallback[0], f"{m.fell_back}: {fallback[1]}")

    def _first(self) -> tuple[Settings, str] | None:
        return (self.start, "a dim start") if self._may(self.start) else self._dimmest()

    def _fallback(self) -> tuple[Settings, str] | None:
        """The best trial so far, on another field; before there is one, the dimmest."""
        best = self._best_seen()
        if best:
            settings = {name: best["settings"][name] for name in self.space.names}
            if self._may(settings):
                return settings, "the best trial so far, on another field"
        return self._dimmest()

    def _dimmest(self) -> tuple[Settings, str] | None:
        settings = dimmest(self.space)
        return (settings, "the dimmest there is") if self._may(settings) else None

    def _may(self, settings: Mapping[str, float]) -> bool:
        """Whether a trial is safe, and can be reached from the confocal settings and back."""
        values = [settings[name] for name in self.space.names]
        if not all(math.isfinite(value) for value in values):
            return False
        steps = self.options.max_step
        reach = all(
            abs(settings[name] - self._confocal.get(name, settings[name])) <= steps.get(name, math.inf)
            for name in self.space.names
        )
        row = self.space.array(settings)
        return reach and bool(self._envelope.allowed(self.space, row, self._m.lines)[0])

    def _reach(self) -> list[list[float]]:
        """Confocal settings, and how far each may be changed from there in one step."""
        steps, finite = self.options.max_step, [10.0 * high for high in self.space.upper]
        middle = [self._confocal.get(name, 0.0) for name in self.space.names]
        known = [steps.get(name, math.inf) if name in self._confocal else math.inf for name in self.space.names]
        return [middle, [min(step, far) for step, far in zip(known, finite, strict=True)]]

    def _brighter(self, settings: Mapping[str, float]) -> Settings:
        """Return the same with more light, as far as it is safe; empty if it is not."""
        factor = min(self.options.max_dose_factor, 4.0)
        while factor > 1.2:
            for name in (EXCITATION, DWELL):
                row = self.space.array(settings)
                row[self.space.names.index(name)] *= factor
                made = self.space.settings(np.minimum(row, self.space.upper))
                if made[name] > 1.1 * settings[name] and self._may(made):
                    return made
            factor = math.sqrt(factor)
        return {}

    def _nothing_left(self) -> str:
        last = self._trials[-1] if self._trials else None
        if last is not None and last.bleach > self.options.max_bleach:
            return (
                f"{last.bleach:.0%} of the signal was bleached by {report.words(last.settings)}, and nothing dimmer "
                "is left to try: this dye does not stand a STED image"
            )
        if last is not None and "saturated" in last.reason:
            return "the detector is saturated, and nothing dimmer is left to try"
        return "no settings are left that are safe to try"

    def _best_seen(self) -> dict[str, Any]:
        """Return the trial of the highest utility as measured; empty if there is none."""
        scored = [(self.utility(t), t) for t in self._trials if t.outcome is not None]
        if not scored:
            return {}
        utility, best = max(scored, key=lambda pair: pair[0])
        return {"settings": {name: best.settings[name] for name in self.space.names}, "utility": utility, "sd": None}

    def utility(self, trial: Trial) -> float:
        """Utility of a trial as measured; NaN without an outcome."""
        return math.nan if trial.outcome is None else report.utility(self.wish, trial.outcome)

    # -- actions --------------------------------------------------------------------------------------------------

    def _next_field(self, phase: str) -> None:
        """Go on to a fresh field; `phase` says what with."""
        m, o = self._m, self.options
        m.phase, m.doubt = phase, ""
        if phase == "choose":
            m.suggestion, m.fell_back = {}, ""
            return
        place = field_at(m.field_number + 1, m.origin, o.field_um, {a: o.bounds[a] for a in POSITIONS if a in o.bounds})
        if place is None:
            self._end(f"no fresh field is left within the bounds after {m.field_number + 1}")
            return
        m.field_number += 1
        self._sequence.frame = "before"
        m.commanded = dict(place)

    def _step(self) -> Action:
        """Ask for the frame that is due; a retake asks for nothing new."""
        m, s = self._m, self._sequence
        if s.retakes:
            return Hold(f"another frame of the same: {m.doubt}", self._detail())
        place = {name: value for name, value in m.commanded.items() if name in POSITIONS}
        settings = s.settings if s.frame == "sted" else self._confocal
        m.commanded = place | settings
        number = f"trial {m.images + (s.frame != 'after')} of {self.options.max_images}"
        what = {
            "before": f"confocal frame of field {m.field_number + 1}",
            "sted": f"STED with {report.words(s.settings)}",
            "after": "confocal frame after it",
        }[s.frame]
        said = f"; {m.said}" if m.said else ""
        return Change(dict(m.commanded), f"{number}: {what}{said}", self._detail())

    def _end(self, why: str) -> None:
        m = self._m
        m.phase, m.ended = "finished", why

    def _finish(self) -> Action:
        """End, with the beams as low as they go; once more without settings if the guard refused those."""
        m = self._m
        found = self.recommendation()
        said = report.recommended(found)
        detail = self._detail() | report.recommended_detail(found) | {"finished": 1.0}
        dark = {} if m.darkened else self._dark()
        m.darkened = True
        return Finish(dark, f"{m.ended}; {said}", detail)

    def _dark(self) -> dict[str, float]:
        return {name: self.options.box[name][0] for name in (EXCITATION, DEPLETION)}

    def _detail(self) -> dict[str, float]:
        """Numbers for the screen: the trial that has just ended, if one has, and what is recommended so far."""
        m = self._m
        detail = {"images": float(m.images), "field": float(m.field_number)}
        if self._trials:
            last = self._trials[-1]
            detail |= report.trial_detail(last, self.utility(last), report.on_front(self._trials, self.wish))
            detail |= report.recommended_detail(self.recommendation())
        if "improvement" in m.suggestion:
            detail["expected_improvement"] = float(m.suggestion["improvement"])
        return detail

    # -- memory ---------------------------------------------------------------------------------------------------

    def learned(self) -> dict[str, Any]:
        """Return what a later run can start from (option `warm_start`), as plain JSON."""
        return {
            "schema": SCHEMA,
            "policy": self.name,
            "space": self.space.to_json(),
            "confocal_dose": self._nominal,
            "lines": self._m.lines,
            "trials": [trial.to_json() for trial in self._trials],
            "recommended": self.recommendation(),
        }

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        return self.learned() | {
            "memory": self._m.to_json(),
            "confocal": dict(self._confocal),
            "envelope": self._envelope.to_json(),
            "sequence": self._sequence.to_json(),
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            made = Memory.from_json(checkpoint["memory"])
            trials = [Trial.from_json(trial) for trial in checkpoint["trials"]]
            envelope, sequence = Envelope.from_json(checkpoint["envelope"]), Sequence.from_json(checkpoint["sequence"])
            confocal = {name: float(value) for name, value in checkpoint["confocal"].items()}
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        self._m, self._trials, self._envelope, self._sequence = made, trials, envelope, sequence
        self._confocal = confocal

    @property
    def trials(self) -> list[Trial]:
        """All trials made so far, in order."""
        return list(self._trials)
