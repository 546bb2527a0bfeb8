"""Focus by a score of the image alone: a Bayesian search for its peak, then a watch over what was found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.base import Action, Finish, Hold, Observation, Policy, PolicyError
from parfocal.policies.checkpoint import pack, unpack
from parfocal.policies.focus.moves import step_towards
from parfocal.policies.focus.peak import Peak, PeakFit, Vector
from parfocal.policies.focus.watching import Watch
from parfocal.policies.options import FocusOptions, parse_options

State = Literal["search", "watch", "gave_up", "finished"]

LOOKS = 97
"""Places that are considered for the next look."""


class QualityFocusOptions(FocusOptions):
    """Options of ``focus.quality``; lengths in um or, with ``_dof``, in depths of field.

    Parameters
    ----------
    dof_um : float
        Depth of field (required).
    model, score : str
        Which assessment is maximised: its value or, with `score`, that key of its ``detail``.
    better : {"higher", "lower"}
        Of a resolution in um, lower is better.
    scale : {"linear", "log"}
        ``log`` for sharpness metrics, which span decades: what is small far from the focus then still shows the way.
    prefer : {"quality", "defocus"}
        ``defocus``: a supervisor lets the belief about defocus drive, and this policy only while the defocus network
        abstains (``focus.supervised``).
    range_um : float
        The top is sought within the start +- this.
    step_dof : float
        How far on either side of the start the first two looks are.
    confidence : float
        Probability of being within half a depth of field of the top at which the search ends...
    max_loss : float
        ...or expected loss of score against the top, as a share of the peak's height: a broad top has no exact place.
    min_evidence_nats : float
        By how much a peak must explain the scores better than a flat line.
    travel_frames_per_um : float
        Price of travel while searching, in frames.
    max_frames_search : int
        After so many frames without a top the stage goes back, and the policy holds.
    fall_frames, fall_share, fall_sd : int, float, float
        Watching: so many frames in a row whose mean lies below the reference by this share of the peak's height, and
        by so many standard deviations, start a search nearby.
    blind_frames : int
        Searching: after so many frames in a row that nobody can judge, back to where they could be judged.
    abstain_report : int
        A run of this many unusable frames is pointed out.
    then : {"hold", "finish"}
        What follows a confirmed maximum: watch it, or end the session.
    """

    model: str = "quality"
    score: str | None = None
    better: Literal["higher", "lower"] = "higher"
    scale: Literal["linear", "log"] = "linear"
    prefer: Literal["quality", "defocus"] = "quality"
    range_um: float = Field(default=40.0, gt=0, le=5000)
    step_dof: float = Field(default=3.0, gt=0)
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    max_loss: float = Field(default=0.02, gt=0, lt=0.5)
    min_evidence_nats: float = Field(default=5.0, gt=0)
    travel_frames_per_um: float = Field(default=0.02, ge=0)
    max_frames_search: int = Field(default=40, ge=5)
    fall_frames: int = Field(default=5, ge=1)
    fall_share: float = Field(default=0.15, gt=0, lt=1)
    fall_sd: float = Field(default=4.0, gt=0)
    blind_frames: int = Field(default=3, ge=1)
    abstain_report: int = Field(default=10, ge=1)
    then: Literal["hold", "finish"] = "hold"

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dof_um is None:
            raise ValueError("dof_um (the depth of field in um) is required")
        if self.range_um < 2.0 * self.dof_um:
            raise ValueError(f"range_um ({self.range_um:g}) must be at least two depths of field ({self.dof_um:g} um)")
        return self


@dataclass
class _Memory:
    """What the policy remembers beside the fit; plain numbers, words and lists of numbers."""

    state: State = "search"
    z_um: float = math.nan
    doubt: str = "no frame yet"
    unusable: int = 0
    search_frames: int = 0
    away_frames: int = 0
    home_um: float = math.nan
    near_um: float = math.nan
    span: float = 0.0
    lower_um: float = math.nan
    upper_um: float = math.nan
    focus_um: float = math.nan
    focus_sd_um: float = math.nan
    half_width_um: float = math.nan
    why: str = ""
    plan: list[float] = field(default_factory=list)
    blind: list[float] = field(default_factory=list)
    widths: list[float] | None = None


def make(options: Mapping[str, Any]) -> Policy:
    """Make ``focus.quality``; with ``prefer: defocus`` the supervisor that hands over to it."""
    if options.get("prefer") != "defocus":
        return QualityPolicy(options)
    from parfocal.policies.focus.supervised import prefer_defocus

    return prefer_defocus(options)


class QualityPolicy:
    """See `QualityFocusOptions`. Every frame's score counts, at the z where the frame was taken.

    Searching, it looks where the prediction is least certain for the travel, until one place is the top with
    `confidence`, has been looked at, and has lower places on both sides. Then it stays and watches.
    """

    name = "focus.quality"
    off_loop: ClassVar[bool] = True  # a look of the search takes some 10 ms

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(QualityFocusOptions, self.name, options)
        self.dof = float(self.options.dof_um or 0.0)
        self.reads = (self.options.model,)
        self._m = _Memory()
        self._fit: PeakFit | None = None
        self._watch: Watch | None = None

    def begin(self, home_um: float, near_um: float = math.nan, why: str = "") -> None:
        """Search from `home_um` on; `near_um` is where the top most probably is, `why` what is said of it."""
        o, m = self.options, self._m
        # Room beyond what can be reached: a top that lies there is to be seen as such.
        m.lower_um = max(home_um - o.range_um, o.lower_um) - 2.0 * self.dof
        m.upper_um = max(min(home_um + o.range_um, o.upper_um) + 2.0 * self.dof, m.lower_um + 4.0 * self.dof)
        m.state, m.home_um, m.near_um, m.why = "search", home_um, near_um, why
        m.search_frames = m.away_frames = 0
        m.blind = []
        step = o.step_dof * self.dof * (0.5 if math.isfinite(near_um) else 1.0)
        m.plan = [z for z in (home_um + step, home_um - step) if o.lower_um <= z <= o.upper_um]
        self._fit = PeakFit(
            m.lower_um, m.upper_um, self.dof, near_um=m.near_um, widths=m.widths, span=m.span
        )  # fmt: skip

    # -- learning ----------------------------------------------------------------------------------------------

    def tell(self, observation: Observation) -> None:
        """Learn from one frame; an unusable one is only counted."""
        m = self._m
        m.z_um = float(observation.settings.get("z_um", math.nan))
        if m.state == "finished":
            return
        score, sd, m.doubt = self._read(observation)
        if m.doubt:
            m.unusable += 1
            return
        m.unusable = 0
        if self._fit is None:
            self.begin(m.z_um)
        if m.state == "search":
            cast(PeakFit, self._fit).add(m.z_um, score, sd)
            m.search_frames += 1
            m.plan = [z for z in m.plan if abs(z - m.z_um) > 0.25 * self.dof]
        elif self._watch is not None and self._near(m.focus_um):
            self._watch.add(score)

    def _read(self, observation: Observation) -> tuple[float, float, str]:
        """Score, sd, and what is wrong with them."""
        o, nan = self.options, math.nan
        if not abs(self._m.z_um) < 1e9:
            return nan, nan, f"the frame does not say where it was taken (z={self._m.z_um:g} um)"
        assessment = observation.assessments.get(o.model)
        if assessment is None:
            return nan, nan, f"the frame was not assessed by {o.model!r}"
        if assessment.abstained:
            return nan, nan, assessment.reason or f"{o.model} abstained"
        score = float(assessment.value if o.score is None else assessment.detail.get(o.score, nan))
        sd = float(assessment.sd) if o.score is None else nan
        if not abs(score) < 1e30:
            return nan, nan, f"{o.model} gave no usable {o.score or 'value'} ({score:g})"
        if o.scale == "log":
            if score <= 0.0:
                return nan, nan, f"{o.model} gave {score:g}, which has no logarithm"
            score, sd = math.log(score), sd / score
        return (score if o.better == "higher" else -score), sd, ""

    def _near(self, z_um: float, depths: float = 0.5) -> bool:
        return abs(self._m.z_um - z_um) <= depths * self.dof

    # -- deciding ----------------------------------------------------------------------------------------------

    def ask(self) -> Action:
        """Decide."""
        m = self._m
        if m.state == "finished":
            return Finish({}, f"{self.name} has finished", self._detail())
        if m.doubt:
            return self._on_doubt()
        if m.state == "watch":
            return self._watching()
        if m.state == "gave_up":
            return self._given_up()
        return self._searching()

    def _on_doubt(self) -> Action:
        """Hold; a search that strayed to where nothing can be judged goes back to where it could."""
        o, m = self.options, self._m
        run = f" ({m.unusable} frames in a row)" if m.unusable >= o.abstain_report else ""
        detail = {**self._detail(), "focused": 0.0}
        samples = self._fit.samples if self._fit is not None else []
        if m.state == "search" and samples and m.unusable >= o.blind_frames and abs(m.z_um) < 1e9:
            back = max(samples, key=lambda sample: sample[1])[0]
            steps = math.ceil(abs(back - m.z_um) / o.max_step_um)
            if not self._near(back) and m.unusable <= o.blind_frames + steps + 10:
                if m.unusable == o.blind_frames:
                    m.blind.append(m.z_um)
                    m.plan = [z for z in m.plan if abs(z - m.z_um) > 2.0 * self.dof]
                said = f"{m.unusable} frames in a row cannot be judged here ({m.doubt}): back to"
                return step_towards(m.z_um, back, o, said, detail)
        return Hold(f"not moving on doubt: {m.doubt}{run}", detail)

    def _searching(self) -> Action:
        o, m = self.options, self._m
        fit = cast(PeakFit, self._fit)
        peak = fit.peak()
        known = peak.inside >= o.confidence or peak.loss <= o.max_loss
        if known and peak.evidence_nats >= o.min_evidence_nats and o.lower_um <= peak.z_um <= o.upper_um:
            target, purpose = self._to_confirm(peak)
            if not purpose:
                return self._arrive(peak)
        elif m.plan:
            target, purpose = m.plan[0], "which side is better"
        else:
            target, purpose = self._next_look(fit, peak), "where most is to be learned"
        if m.search_frames >= o.max_frames_search or not math.isfinite(target):
            return self._give_up(peak)
        why = f"{m.why}; " if m.why and m.search_frames == 1 else ""
        said = f"{why}{self._tell(peak)}: look {m.search_frames + 1}, {purpose}, at"
        if abs(target - m.z_um) <= 1e-6:
            return Hold(f"{said} z={target:.2f} um, where the stage is", self._detail(peak))
        return step_towards(m.z_um, target, o, said, self._detail(peak))

    def _to_confirm(self, peak: Peak) -> tuple[float, str]:
        """What is still to be looked at before a top is believed; no purpose: nothing."""
        o, samples = self.options, cast(PeakFit, self._fit).samples
        width = max(self.dof, peak.half_width_um)
        # Near it on both sides, and further out: a shoulder or a side lobe is lower on both sides, too. Not so where
        # the top was before: that it is none was seen then.
        checks = [(1.0, 0.5 * self.dof, 2.0 * width), (3.0, 2.0 * width, 4.5 * width)]
        before = abs(peak.z_um - self._m.near_um) <= width
        for away, nearest, farthest in checks[:1] if before else checks:
            for side in (-1.0, 1.0):
                place = peak.z_um + side * away * width
                reachable = o.lower_um <= place <= o.upper_um and not self._is_blind(place)
                seen = any(nearest < side * (z - peak.z_um) <= farthest for z, _, _ in samples)
                if reachable and not seen:
                    return place, "whether it is lower there"
        z, score, _ = samples[-1]
        if abs(z - peak.z_um) > 0.4 * self.dof:
            return peak.z_um, "whether this is the top"
        best = max(samples, key=lambda sample: sample[1])
        if best[1] - score > 0.1 * peak.height + 4.0 * peak.noise_sd:
            return best[0], "which was better than this"
        return peak.z_um, ""

    def _next_look(self, fit: PeakFit, peak: Peak) -> float:
        """Where most is to be learned for the travel; NaN: nowhere."""
        o, m = self.options, self._m
        lower, upper = max(m.lower_um, o.lower_um), min(m.upper_um, o.upper_um)
        if not lower < upper:
            return math.nan
        about = peak.z_um + peak.half_width_um * np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
        places: Vector = np.concatenate([np.linspace(lower, upper, LOOKS), np.clip(about, lower, upper)])
        allowed = np.array([not self._is_blind(float(z)) for z in places])
        if peak.evidence_nats < 3.0:
            # As long as nothing is found, no place is worth a second look: only elsewhere can there be a peak.
            seen = np.array([z for z, _, _ in fit.samples])
            new = np.abs(places[:, None] - seen).min(axis=1) > self.dof
            allowed = allowed & new if bool((allowed & new).any()) else allowed
        if not allowed.any():
            return math.nan
        places = places[allowed]
        news = fit.news_nats(places, of_place=peak.evidence_nats >= 3.0)
        worth = news / (1.0 + o.travel_frames_per_um * np.abs(places - m.z_um))
        return float(places[int(np.argmax(worth))])

    def _is_blind(self, z_um: float) -> bool:
        return any(abs(z_um - blind) <= 2.0 * self.dof for blind in self._m.blind)

    def _arrive(self, peak: Peak) -> Action:
        """Believe the top, and begin to watch it."""
        o, m = self.options, self._m
        m.focus_um, m.focus_sd_um, m.half_width_um, m.away_frames = peak.z_um, peak.sd_um, peak.half_width_um, 0
        m.widths, m.span = cast(PeakFit, self._fit).width_weights(), peak.height
        self._watch = Watch(o.fall_frames, o.fall_share, o.fall_sd, peak.height, peak.noise_sd)
        m.state = "watch" if o.then == "hold" else "finished"
        looks = f"after {m.search_frames} frames"
        said = f"maximum confirmed at z={peak.z_um:.2f} ± {peak.sd_um:.2f} um {looks} ({self._heights(peak)})"
        return Hold(said, self._detail()) if o.then == "hold" else Finish({}, said, self._detail())

    def _watching(self) -> Action:
        m, watch = self._m, cast(Watch, self._watch)
        if watch.fallen:
            why = f"{self._what()} fell from {self._show(watch.level)} to {self._show(watch.now)}: search again nearby"
            self.begin(m.z_um, m.focus_um, why)
            return self._searching_from_here(watch.latest[-1])
        if not self._near(m.focus_um):
            return self._return_to(m.focus_um, "the stage is not where the maximum is: back to")
        m.away_frames = 0
        level = f", at first {self._show(watch.level)}" if watch.reference else ""
        return Hold(f"at the maximum: {self._what()} {self._show(watch.now)}{level}", self._detail())

    def _searching_from_here(self, score: float) -> Action:
        """Start the new search with the frame that is at hand."""
        cast(PeakFit, self._fit).add(self._m.z_um, score, math.nan)
        self._m.search_frames = 1
        return self._searching()

    def _give_up(self, peak: Peak) -> Action:
        m = self._m
        m.state, m.away_frames = "gave_up", 0
        m.why = (
            f"no maximum of {self._what()} found in {m.search_frames} frames ({self._tell(peak)}); "
            "check the sample, the range and the exposure"
        )
        if self._watch is not None:
            self._watch.latest.clear()
        return self._given_up()

    def _given_up(self) -> Action:
        """Back to the maximum there was, or to the start; a score that is as good as before counts as found again."""
        m, watch = self._m, self._watch
        place = m.focus_um if math.isfinite(m.focus_um) else m.home_um
        if not self._near(place):
            return self._return_to(place, f"{m.why}: back to")
        m.away_frames = 0
        if watch is not None and len(watch.latest) >= watch.frames and watch.level - watch.now <= watch.margin:
            m.state = "watch"
            return Hold(f"{self._what()} is {self._show(watch.now)} again, as at the maximum", self._detail())
        return Hold(m.why, self._detail())

    def _return_to(self, place: float, said: str) -> Action:
        """Go back, as often as the way has steps and a few times more."""
        o, m = self.options, self._m
        m.away_frames += 1
        if m.away_frames > 3 + math.ceil(2.0 * o.range_um / o.max_step_um):
            return Hold(f"the stage does not arrive at z={place:.2f} um (it is at {m.z_um:.2f} um)", self._detail())
        return step_towards(m.z_um, place, o, said, self._detail())

    # -- saying ------------------------------------------------------------------------------------------------

    def _detail(self, peak: Peak | None = None) -> dict[str, float]:
        m = self._m
        found = m.state in ("watch", "finished")
        if found:
            z, sd = m.focus_um, m.focus_sd_um
            if self._watch is not None and self._watch.reference:
                # What the focus may have drifted since without the score telling: near a top it falls as the square.
                unseen = math.sqrt(min(1.0, self._watch.margin / max(self._watch.height, 1e-300)))
                sd = math.hypot(sd, m.half_width_um * unseen)
        elif peak is not None and peak.evidence_nats >= self.options.min_evidence_nats:
            z, sd = peak.z_um, peak.sd_um
        else:
            return {"found": 0.0, "focused": 0.0}
        return {
            "focus_z_um": z,
            "defocus_um": m.z_um - z,
            "defocus_sd_um": sd,
            "found": 1.0 if found else 0.0,
            "focused": 1.0 if found and self._near(z) else 0.0,
        }

    def _what(self) -> str:
        return self.options.model if self.options.score is None else f"{self.options.model} {self.options.score}"

    def _show(self, score: float) -> str:
        score = score if self.options.better == "higher" else -score
        return f"{math.exp(score) if self.options.scale == 'log' else score:.3g}"

    def _heights(self, peak: Peak) -> str:
        return f"{self._what()} {self._show(peak.floor + peak.height)}, far from it {self._show(peak.floor)}"

    def _tell(self, peak: Peak) -> str:
        if peak.evidence_nats < self.options.min_evidence_nats:
            return f"no peak of {self._what()} yet"
        return f"{self._what()} peaks at z={peak.z_um:.1f} ± {peak.sd_um:.1f} um"

    # -- going on ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON (NaN is written as null)."""
        samples = None if self._fit is None else [[None if math.isnan(v) else v for v in s] for s in self._fit.samples]
        watch = None if self._watch is None else asdict(self._watch)
        return {"policy": self.name, "memory": pack(asdict(self._m)), "samples": samples, "watch": watch}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            stored = dict(checkpoint["memory"])
            keep = {key: stored.pop(key) for key in ("plan", "blind", "widths", "why", "state", "doubt")}
            memory = _Memory(**unpack(stored), **keep)
            watch = None if checkpoint["watch"] is None else Watch(**checkpoint["watch"])
            samples = checkpoint["samples"]
            fit = None
            if samples is not None:
                # The widths that the fit began with: those of a later arrival are for the next search.
                fit = PeakFit(memory.lower_um, memory.upper_um, self.dof, near_um=memory.near_um,
                              widths=memory.widths, span=memory.span)  # fmt: skip
                for z, score, sd in samples:
                    fit.add(float(z), float(score), math.nan if sd is None else float(sd))
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        self._m, self._watch, self._fit = memory, watch, fit
