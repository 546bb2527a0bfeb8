"""The belief policy: a Bayesian filter over the focus position decides where to look, and follows what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.base import Action, Change, Hold, Observation, PolicyError
from parfocal.policies.checkpoint import pack, unpack
from parfocal.policies.focus.bias import OF_RESPONSE, BiasPrior
from parfocal.policies.focus.grid import Drift, Estimate, FocusGrid, Vector
from parfocal.policies.focus.likelihood import Look, Novelty, read_look
from parfocal.policies.focus.looks import best_look, candidates, sample_belief
from parfocal.policies.focus.response import Response, ResponseTable
from parfocal.policies.focus.tracking import Tracking, correction, expected_z
from parfocal.policies.options import FocusOptions, parse_options

State = Literal["search", "track", "gave_up"]


# No stage and no clock goes so far; also what is NaN fails the comparison with it.
_FAR = 1e9
MOST_UNSEEN, UNSEEN_NEAR = 3, 0.1
"""So many frames in a row that show nothing a search goes on from; the chance that nothing shows nearer than it did."""
SEARCH_NOISE, TRACK_NOISE, LEAST_NOISE, MOST_NOISE = 0.2, 0.08, 0.04, 0.5
"""What differs between two frames at one place, in units of the spread stated: to begin with, and its bounds."""
CONFIRMED_FROM, KEPT_FROM = 0.75, 0.5
"""Probability of being in the field that a frame there must leave of a focus, at first and from then on."""
SEARCH_STEP_DOF, SEARCH_RATES = 0.14, 3
TRACK_STEP_DOF, TRACK_RATES = 0.125, 21
"""A search is over before a drift matters and covers much; tracking resolves both in a small window."""


class BeliefOptions(FocusOptions):
    """Options of ``focus.belief``; lengths in um or, with ``_dof``, in depths of field.

    Parameters
    ----------
    dof_um : float
        Depth of field (required).
    range_um : float
        The focus is sought within the start +- this.
    model : str
        Whose assessment is read.
    response : table, optional
        A measured response (`parfocal calibrate`); the likelihood then comes from it instead of the distribution.
    confidence : float
        Probability of being within half a depth of field at which the search ends.
    correct_gain : float
        While tracking, least rise of the probability of being in the field that is worth a move.
    lead_dof, cross_dof, cross_sd_dof : float
        How a focus is kept, see `Tracking`.
    bias_spread : float
        How far off a field's own error is to be expected, in units of the spread that the model states.
    floor : float
        Chance that a look is simply wrong.
    correlation_dof, correlation_s : float
        While searching, a second look within this distance and time of another counts for little.
    drift_rate_um_per_min, drift_rate_walk_um_per_min, drift_walk_um, jump_per_min : float
        The focus's own motion, see `Drift`.
    near_dof, far : float
        What a look is expected to bring: sd at focus, and its share of the defocus far from it.
    travel_nats_per_um : float
        Price of travel while searching.
    max_frames_search : int
        After so many frames without a focus the search ends in holding.
    lost_after : int
        So many frames in a row against the belief end the tracking.
    min_certainty : float
        Frames below this certainty are not acted on.
    abstain_report : int
        A run of this many unusable frames is pointed out.
    """

    range_um: float = Field(default=40.0, gt=0, le=5000)
    model: str = "defocus"
    response: ResponseTable | None = None
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    correct_gain: float = Field(default=0.1, gt=0, lt=1)
    lead_dof: float = Field(default=0.35, ge=0, le=0.5)
    cross_dof: float = Field(default=0.2, ge=0, le=0.5)
    cross_sd_dof: float = Field(default=0.2, gt=0)
    bias_spread: float = Field(default=1.1, gt=0, le=10)
    floor: float = Field(default=0.02, ge=1e-6, lt=0.5)
    correlation_dof: float = Field(default=0.5, gt=0)
    correlation_s: float = Field(default=15.0, gt=0)
    drift_rate_um_per_min: float = Field(default=1.0, gt=0)
    drift_rate_walk_um_per_min: float = Field(default=0.1, ge=0)
    drift_walk_um: float = Field(default=0.1, ge=0)
    jump_per_min: float = Field(default=1e-3, ge=0, lt=1)
    near_dof: float = Field(default=0.18, gt=0)
    far: float = Field(default=0.08, gt=0)
    travel_nats_per_um: float = Field(default=0.01, ge=0)
    max_frames_search: int = Field(default=30, ge=2)
    lost_after: int = Field(default=3, ge=1)
    min_certainty: float = Field(default=0.0, ge=0, le=1)
    abstain_report: int = Field(default=10, ge=1)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dof_um is None:
            raise ValueError("dof_um (the depth of field in um) is required")
        if self.range_um < 2.0 * self.dof_um:
            raise ValueError(f"range_um ({self.range_um:g}) must be at least two depths of field ({self.dof_um:g} um)")
        return self


@dataclass
class _Memory:
    """What the policy remembers beside the belief; all of it plain numbers and words."""

    state: State = "search"
    z_um: float = math.nan
    time_s: float = math.nan
    interval_s: float = 0.0
    doubt: str = "no frame yet"
    unusable: int = 0
    against: int = 0
    search_frames: int = 0
    good_frames: int = 0
    since_cross: int = 1000
    crossed_s: float = math.nan
    signed: bool = False
    confirmed: bool = False
    noise: float = SEARCH_NOISE
    upper_apart_um: float = math.nan
    seen_um: list[float] = field(default_factory=list)
    said: list[float] = field(default_factory=list)
    said_z_um: float = math.nan


class BeliefPolicy:
    """See `BeliefOptions`. The loop tells it every scored frame; every answer says why.

    Searching, it looks where most is to be learned for the travel. Once the focus is known to half a depth of field it
    goes there, and from then on only corrects: along the drift, past the focus to the far side of a small deadband, so
    that the drift itself carries the focus through the field and no frame or move is spent on looking.
    """

    name = "focus.belief"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = parse_options(BeliefOptions, self.name, options)
        o = self.options
        self.dof = float(o.dof_um or 0.0)
        self._drift = Drift(o.drift_rate_um_per_min, o.drift_rate_walk_um_per_min, o.drift_walk_um, o.jump_per_min)
        self._table = None if o.response is None else Response.from_json(o.response)
        self._expected = self._table or Response.surrogate(self.dof, o.near_dof, o.far, 2.5 * o.range_um)
        self._bias = BiasPrior(self.dof, o.bias_spread, **({} if self._table is None else OF_RESPONSE))
        self._window = 3.0 * self.dof
        self._tracking = Tracking(self.dof, o.correct_gain, o.lead_dof, o.cross_dof, o.cross_sd_dof)
        self._novelty = Novelty(o.correlation_dof * self.dof, o.correlation_s)
        self._grid: FocusGrid | None = None
        self._m = _Memory()

    # -- learning ----------------------------------------------------------------------------------------------

    def tell(self, observation: Observation) -> None:
        """Learn from one frame; an unusable one only lets time pass."""
        m = self._m
        z, time_s = float(observation.settings.get("z_um", math.nan)), float(observation.time_s)
        look = self._read(observation, z, time_s)
        if abs(time_s) < _FAR:
            self._let_pass(time_s)
        m.z_um = z
        if isinstance(look, str):
            m.doubt, m.unusable = look, m.unusable + 1
            self._learn_of_nothing(observation, z, time_s)
            return
        m.doubt, m.unusable, m.signed = "", 0, look.signed
        if self._grid is None:
            self._grid = self._new_grid(z)
        self._learn(self._grid, look, z, time_s)

    def _read(self, observation: Observation, z: float, time_s: float) -> Look | str:
        o = self.options
        if not (abs(z) < _FAR and abs(time_s) < _FAR):
            return f"the frame does not say where or when it was taken (z={z:g} um, t={time_s:g} s)"
        assessment = observation.assessments.get(o.model)
        if assessment is None:
            return f"the frame was not assessed by {o.model!r}"
        return read_look(
            assessment,
            response=self._table,
            floor=o.floor,
            min_certainty=o.min_certainty,
            dof_um=self.dof,
            noise=self._m.noise,
        )

    def _learn_of_nothing(self, observation: Observation, z: float, time_s: float) -> None:
        """Nothing to be seen where a search looked: further off than where there was something, so search on."""
        m, assessment = self._m, observation.assessments.get(self.options.model)
        moved_on = m.state == "search" and m.unusable <= MOST_UNSEEN and abs(z) < _FAR and abs(time_s) < _FAR
        if self._grid is None or assessment is None or not assessment.abstained or not moved_on:
            return
        seen = self._seen_from(self._grid.z_um)
        if not math.isfinite(z) or not len(self._novelty.looks):
            return
        self._grid.weigh(np.where(np.abs(z - self._grid.z_um) < seen, UNSEEN_NEAR, 1.0))
        self._novelty.add(z, time_s)
        m.search_frames += 1
        m.doubt = ""

    def _seen_from(self, foci_um: Vector) -> Vector:
        """How far off the focus something was seen, at most, were the focus at each of `foci_um`."""
        seen = np.asarray(self._m.seen_um)
        distance: Vector = np.abs(seen[:, None] - foci_um[None, :]).max(axis=0)
        return distance

    def _let_pass(self, time_s: float) -> None:
        m = self._m
        if math.isfinite(m.time_s):
            dt = max(0.0, time_s - m.time_s)
            m.interval_s = dt if m.interval_s == 0.0 else m.interval_s + 0.3 * (dt - m.interval_s)
            if self._grid is not None and dt > 0.0:
                self._grid.predict(dt)
        m.time_s = time_s if not math.isfinite(m.time_s) else max(time_s, m.time_s)

    def _new_grid(self, z_um: float) -> FocusGrid:
        """Flat about the start, as far as the stage can reach (and a little further, where it is not to be sought)."""
        o = self.options
        reach = o.range_um + 2.0 * self.dof
        grid = FocusGrid(z_um - reach, z_um + reach, SEARCH_STEP_DOF * self.dof, self._drift, self._bias, SEARCH_RATES)
        grid.exclude(o.lower_um - 2.0 * self.dof, o.upper_um + 2.0 * self.dof)
        return grid

    def _learn(self, grid: FocusGrid, look: Look, z: float, time_s: float) -> None:
        o, m = self.options, self._m
        if m.state == "track":
            centre = float(grid.marginal() @ grid.z_um)
            if abs(centre - grid.middle_um) > 0.25 * self._window:
                grid.resize(centre - self._window, centre + self._window)
            near = self._near_focus(grid, look, z)
            m.against = m.against + 1 if grid.fits(z, near) < 0.5 else 0
            if m.against < o.lost_after:
                look = near
            else:
                grid = self._lose(grid, 0.9)
        self._note_noise(look, z)
        if not m.against:
            searching = m.state == "search"
            grid.update(z, look, float(self._novelty.share(z, time_s)) if searching else 1.0)
        self._novelty.add(z, time_s)
        m.seen_um = [*m.seen_um[-11:], z]
        m.search_frames += m.state == "search"
        m.good_frames = m.good_frames + 1 if m.state == "track" and not m.against else 0
        m.since_cross += 1
        if m.good_frames >= 10:
            m.search_frames = 0

    def _near_focus(self, grid: FocusGrid, look: Look, z: float) -> Look:
        """Count from the upper end while tracking, on from where the median was at the first frame that fitted.

        Where an image carries a sign, it is not the distance alone that tells, and the median stays the number.
        """
        m = self._m
        if look.upper is None or look.signed:
            return look
        if math.isnan(m.upper_apart_um):
            if grid.fits(z, look) < 0.5:
                return look
            m.upper_apart_um = look.upper - look.value
        return look.from_above(m.upper_apart_um)

    def _note_noise(self, look: Look, z: float) -> None:
        """What differs between frames in a row at one place belongs neither to the field nor, if bent, to the drift."""
        m = self._m
        if abs(z - m.said_z_um) > 0.02 * self.dof or m.state != "track":
            m.said = []
        m.said, m.said_z_um = [*m.said[-2:], look.value], z
        if len(m.said) < 2:
            return
        apart = 0.9 * abs(m.said[-1] - m.said[-2])
        bend = 0.5 * abs(m.said[0] - 2.0 * m.said[1] + m.said[2]) if len(m.said) == 3 else apart
        seen = min(apart, bend) / look.spread
        m.noise = min(max(m.noise + 0.2 * (seen - m.noise), LEAST_NOISE), MOST_NOISE)

    def _lose(self, grid: FocusGrid, share: float) -> FocusGrid:
        """Search again, over the whole range; `share` of the belief is forgotten."""
        o, m = self.options, self._m
        reach = o.range_um + 2.0 * self.dof
        wide = grid.resampled(m.z_um - reach, m.z_um + reach, SEARCH_STEP_DOF * self.dof, SEARCH_RATES)
        wide.flatten(share)
        wide.exclude(o.lower_um - 2.0 * self.dof, o.upper_um + 2.0 * self.dof)
        m.state, m.against, m.noise = "search", 0, SEARCH_NOISE
        self._grid = wide
        return wide

    # -- deciding ----------------------------------------------------------------------------------------------

    def ask(self) -> Action:
        """Decide."""
        m, grid = self._m, self._grid
        if m.doubt or grid is None:
            return self._hold_on_doubt()
        marginal = grid.marginal()
        estimate = grid.estimate(self.dof, marginal)
        if m.state == "track":
            if m.against:
                return Hold(
                    f"the frame contradicts the belief ({self._tell(estimate)}), {m.against} of "
                    f"{self.options.lost_after} before searching again",
                    self._detail(estimate),
                )
            m.confirmed = m.confirmed or estimate.inside >= CONFIRMED_FROM
            if estimate.inside >= KEPT_FROM and m.confirmed:
                return self._track(grid, estimate)
            grid = self._lose(grid, 0.1)
            marginal = grid.marginal()
            estimate = grid.estimate(self.dof, marginal)
        return self._search(grid, estimate, marginal)

    def _hold_on_doubt(self) -> Hold:
        m = self._m
        run = f" ({m.unusable} frames in a row)" if m.unusable >= self.options.abstain_report else ""
        detail = self._detail(self._grid.estimate(self.dof)) if self._grid is not None else {"focused": 0.0}
        return Hold(f"not moving on doubt: {m.doubt}{run}", {**detail, "focused": 0.0})

    def _search(self, grid: FocusGrid, estimate: Estimate, marginal: Vector) -> Action:
        o, m = self.options, self._m
        if estimate.inside >= o.confidence:
            return self._arrive(estimate)
        if m.search_frames >= o.max_frames_search:
            m.state = "gave_up"
        if m.state == "gave_up":
            return Hold(
                f"cannot find the focus: {m.search_frames} frames looked at, best guess z={estimate.mean_um:.1f} um "
                f"with {100 * estimate.inside:.0f} % certainty; check the sample, the range and the optics",
                self._detail(estimate),
            )
        foci = sample_belief(grid.z_um, marginal)
        places = candidates(foci, m.z_um, self.dof, o.lower_um, o.upper_um)
        if not len(places):
            return Hold("nowhere to look within the stage's limits", self._detail(estimate))
        news = self._novelty.share(places, m.time_s + m.interval_s) * self._visible(places, foci)
        choice = best_look(places, news, foci, m.z_um, self._expected, o.travel_nats_per_um)
        above = float(marginal[grid.z_um < m.z_um].sum())
        purpose = "resolves the sign" if 0.1 < above < 0.9 else "narrows it"
        return self._move(choice.z_um, f"{self._say(grid, marginal)}: look at", f"which {purpose}", estimate)

    def _visible(self, places: Vector, foci: Vector) -> Vector:
        """How probable it is that there is something to be seen at each place: surely where it is no further off."""
        beyond = np.abs(places[:, None] - foci[None, :]) / np.maximum(self._seen_from(foci), self.dof) - 1.0
        share: Vector = np.exp(-np.maximum(beyond, 0.0) / 0.5).mean(axis=1)
        return share

    def _arrive(self, estimate: Estimate) -> Action:
        """Go to the focus, now known, and begin to track."""
        o, m = self.options, self._m
        target = expected_z(estimate, m.interval_s)
        if not o.lower_um <= target <= o.upper_um:
            return self._out_of_reach(estimate)
        if abs(target - m.z_um) <= o.max_step_um:
            # What is to be confirmed first is that the focus is there, before a step across asks on which side.
            m.state, m.good_frames, m.crossed_s, m.noise = "track", 0, m.time_s, TRACK_NOISE
            m.confirmed, m.upper_apart_um = False, math.nan
            if self._grid is not None:
                lower, upper = target - self._window, target + self._window
                self._grid = self._grid.resampled(lower, upper, TRACK_STEP_DOF * self.dof, TRACK_RATES)
        if abs(target - m.z_um) <= 0.1 * self.dof:
            return Hold(f"in focus: {self._tell(estimate)}", self._detail(estimate))
        return self._move(target, f"{self._tell(estimate)}: go to the focus at", "", estimate)

    def _track(self, grid: FocusGrid, estimate: Estimate) -> Action:
        """Stay, or correct within the field."""
        o, m = self.options, self._m
        if not o.lower_um <= estimate.mean_um <= o.upper_um:
            return self._out_of_reach(estimate)
        may_cross = m.since_cross >= self._tracking.cross_frames and not m.time_s - m.crossed_s < self._tracking.cross_s
        move = correction(grid, estimate, m.z_um, m.interval_s, may_cross, self._tracking, self._news, self._expected)
        target = m.z_um if move is None else min(max(move.z_um, o.lower_um), o.upper_um)
        if move is None or target == m.z_um:
            return Hold(f"in focus: {self._tell(estimate)}", self._detail(estimate))
        if move.crosses:
            m.since_cross, m.crossed_s = 0, m.time_s
            return self._move(target, f"{self._tell(estimate)}: cross the focus to", "which tells the side", estimate)
        return self._move(target, f"{self._tell(estimate)}: correct to", "", estimate)

    def _news(self, places: Vector) -> Vector:
        share: Vector = self._novelty.share(places, self._m.time_s + self._m.interval_s)
        return share

    def _out_of_reach(self, estimate: Estimate) -> Hold:
        o = self.options
        return Hold(
            f"the focus is at z={estimate.mean_um:.2f} um, outside the limits {o.lower_um:g} to {o.upper_um:g} um",
            self._detail(estimate),
        )

    def _move(self, target: float, before: str, after: str, estimate: Estimate) -> Action:
        """Go to `target`, in steps the stage may take."""
        o, m = self.options, self._m
        target = min(max(target, o.lower_um), o.upper_um)
        first, note = target, ""
        if abs(target - m.z_um) > o.max_step_um:
            first = m.z_um + math.copysign(o.max_step_um * (1.0 - 1e-9), target - m.z_um)
            note = f" by way of z={first:.2f} um (largest step {o.max_step_um:g} um)"
            if not o.lower_um <= first <= o.upper_um:
                return Hold(
                    f"z={m.z_um:.2f} um lies outside the stage's limits, further than one step", self._detail(estimate)
                )
        tail = f", {after}" if after else ""
        return Change({"z_um": first}, f"{before} z={target:.2f} um{note}{tail}", self._detail(estimate))

    # -- saying ------------------------------------------------------------------------------------------------

    def _detail(self, estimate: Estimate) -> dict[str, float]:
        m = self._m
        found = m.state == "track" and not m.against and estimate.inside >= KEPT_FROM
        near = abs(m.z_um - estimate.mean_um) <= 0.5 * self.dof
        above = self._grid.marginal()[self._grid.z_um < m.z_um].sum() if self._grid is not None else math.nan
        return {
            "focus_z_um": estimate.mean_um,
            "defocus_um": m.z_um - estimate.mean_um,
            "defocus_sd_um": estimate.sd_um,
            "positive": float(above),
            "found": 1.0 if found else 0.0,
            "focused": 1.0 if found and near else 0.0,
        }

    def _tell(self, estimate: Estimate) -> str:
        return f"defocus {self._m.z_um - estimate.mean_um:+.2f} ± {estimate.sd_um:.2f} um"

    def _say(self, grid: FocusGrid, marginal: Vector) -> str:
        """Describe a belief that may have two sides."""
        defocus = self._m.z_um - grid.z_um
        above = float(marginal[defocus > 0].sum())
        known = not 0.1 < above < 0.9
        quantity = defocus if known else np.abs(defocus)
        order = np.argsort(quantity)
        lower, middle, upper = np.interp([0.16, 0.5, 0.84], np.cumsum(marginal[order]), quantity[order])
        if known:
            return f"defocus {middle:+.1f} ± {0.5 * (upper - lower):.1f} um"
        return f"defocus ±{middle:.1f} ± {0.5 * (upper - lower):.1f} um (sign unknown)"

    # -- going on ----------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON (NaN is written as null)."""
        grid = None if self._grid is None else self._grid.checkpoint()
        return {
            "policy": self.name,
            "memory": pack(vars(self._m)),
            "looks": [list(x) for x in self._novelty.looks],
            "grid": grid,
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            memory = _Memory(**unpack(checkpoint["memory"]))
            looks = [(float(z), float(t)) for z, t in checkpoint["looks"]]
            stored = checkpoint["grid"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        grid = None
        if stored is not None:
            grid = FocusGrid.restored(stored, self._drift, self._bias)
        self._m, self._novelty.looks, self._grid = memory, looks, grid
