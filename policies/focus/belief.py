"""The belief policy: a Bayesian filter over the focus position decides where to look, and follows what it found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from parfocal.policies.base import Action, Change, Hold, Observation, PolicyError
from parfocal.policies.checkpoint import pack, unpack
from parfocal.policies.focus.beliefoptions import BeliefOptions
from parfocal.policies.focus.bias import OF_RESPONSE, BiasPrior
from parfocal.policies.focus.density import Vector
from parfocal.policies.focus.drift import Drift
from parfocal.policies.focus.grid import Estimate, FocusGrid
from parfocal.policies.focus.likelihood import Look, Novelty, read_look
from parfocal.policies.focus.looks import best_look, candidates, sample_belief
from parfocal.policies.focus.response import Response
from parfocal.policies.focus.tracking import Tracking, correction, expected_z
from parfocal.policies.options import parse_options

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
ELSEWHERE_FROM = 0.9
"""Probability, at least, of the focus not being where it is sought from which it is no longer sought."""
BEYOND_DOF, BEYOND_RANGES, BEYOND_SHARE = 12.0, 0.5, 0.1
"""A focus past the searched range is thought possible, as far as the larger of the two, and so much less likely. Were
it held for impossible, what points there would be an error of the field, and a focus be found where none is."""


@dataclass
class _Memory:
    """What the policy remembers beside the belief; all of it plain numbers and words."""

    state: State = "search"
    centre_um: float = math.nan
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


@dataclass(frozen=True)
class _Awaited:
    """A frame on its way: when and where it is taken, the belief by then, and the one that this was made from."""

    z_um: float
    time_s: float
    grid: FocusGrid
    before: FocusGrid


@dataclass(frozen=True)
class Handed:
    """What a belief is taken over with: a checkpoint that nobody wrote down."""

    memory: _Memory
    looks: list[tuple[float, float]]
    grid: FocusGrid | None


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
        self.reads = (o.model,)
        self.dof = float(o.dof_um or 0.0)
        self._drift = Drift(o.drift_rate_um_per_min, o.drift_rate_walk_um_per_min, o.drift_walk_um, o.jump_per_min)
        self._table = None if o.response is None else Response.from_json(o.response)
        self._expected = self._table or Response.surrogate(self.dof, o.near_dof, o.far, 2.5 * o.range_um)
        self._bias = BiasPrior(self.dof, o.bias_spread, **({} if self._table is None else OF_RESPONSE))
        self._window = 3.0 * self.dof
        self._tracking = Tracking(self.dof, o.correct_gain, o.lead_dof, o.cross_dof, o.cross_sd_dof)
        self._novelty = Novelty(o.correlation_dof * self.dof, o.correlation_s)
        self._grid: FocusGrid | None = None
        self._awaited: _Awaited | None = None
        self._m = _Memory()

    # -- learning ----------------------------------------------------------------------------------------------

    def expect(self, settings: Mapping[str, float], time_s: float) -> None:
        """Work out, while a frame is being looked at by the network, what does not depend on what that will say.

        Nothing is learned by it: told of the frame, of another one, or of none, the policy goes on as it would have.
        """
        z, m, grid = float(settings.get("z_um", math.nan)), self._m, self._grid
        self._awaited = None
        if grid is None or not (abs(z) < _FAR and abs(time_s) < _FAR):
            return
        then = grid.copy()
        if time_s > m.time_s:
            then.predict(time_s - m.time_s)
        self._centre(then)
        then.look_from(z)
        self._awaited = _Awaited(z, time_s, then, grid)

    def tell(self, observation: Observation) -> None:
        """Learn from one frame; an unusable one only lets time pass."""
        m = self._m
        z, time_s = float(observation.settings.get("z_um", math.nan)), float(observation.time_s)
        look = self._read(observation, z, time_s)
        then = None if isinstance(look, str) else self._worked_out(z, time_s)
        self._awaited = None
        if abs(time_s) < _FAR:
            self._let_pass(time_s, then)
        m.z_um = z
        if isinstance(look, str):
            m.doubt, m.unusable = look, m.unusable + 1
            self._learn_of_nothing(observation, z, time_s)
            return
        m.doubt, m.unusable, m.signed = "", 0, look.signed
        if self._grid is None:
            self._grid = self._new_grid(z)
        self._learn(self._grid, look, z, time_s, self._grid is then)

    def _worked_out(self, z: float, time_s: float) -> FocusGrid | None:
        """The belief by now, if it was this frame that was expected."""
        awaited = self._awaited
        if awaited is None or awaited.before is not self._grid or (awaited.z_um, awaited.time_s) != (z, time_s):
            return None
        return awaited.grid

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

    def _let_pass(self, time_s: float, grid: FocusGrid | None = None) -> None:
        """Move the belief along, unless `grid` already is what it will be."""
        m = self._m
        if math.isfinite(m.time_s):
            dt = max(0.0, time_s - m.time_s)
            m.interval_s = dt if m.interval_s == 0.0 else m.interval_s + 0.3 * (dt - m.interval_s)
            if grid is not None:
                self._grid = grid
            elif self._grid is not None and dt > 0.0:
                self._grid.predict(dt)
        m.time_s = time_s if not math.isfinite(m.time_s) else max(time_s, m.time_s)

    def _new_grid(self, z_um: float) -> FocusGrid:
        """Flat over what is searched from `z_um` on, and some way past that and the stage's limits."""
        reach = self._reach()
        grid = FocusGrid(z_um - reach, z_um + reach, SEARCH_STEP_DOF * self.dof, self._drift, self._bias, SEARCH_RATES)
        return self._about(grid, z_um)

    def _reach(self) -> float:
        """How far from the middle of the search a focus is thought possible."""
        return self.options.range_um + max(BEYOND_DOF * self.dof, BEYOND_RANGES * self.options.range_um)

    def _about(self, grid: FocusGrid, z_um: float) -> FocusGrid:
        """Search about `z_um` from now on: what lies past the range and the limits is less likely."""
        self._m.centre_um = z_um
        lower, upper = self._searched()
        grid.weigh(np.where((grid.z_um >= lower) & (grid.z_um <= upper), 1.0, BEYOND_SHARE))
        return grid

    def _searched(self) -> tuple[float, float]:
        """Where the focus is sought: the range about the middle of the search (and its field), within the limits."""
        o, centre = self.options, self._m.centre_um
        if math.isnan(centre):
            return o.lower_um, o.upper_um
        reach = o.range_um + self.dof
        return max(o.lower_um, centre - reach), min(o.upper_um, centre + reach)

    def _learn(self, grid: FocusGrid, look: Look, z: float, time_s: float, centred: bool) -> None:
        o, m = self.options, self._m
        if m.state == "track":
            if not centred:
                self._centre(grid)
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

    def _centre(self, grid: FocusGrid) -> None:
        """While tracking the grid is a window, which goes along with the focus."""
        if self._m.state == "track":
            centre = float(grid.marginal() @ grid.z_um)
            if abs(centre - grid.middle_um) > 0.25 * self._window:
                grid.resize(centre - self._window, centre + self._window)

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
        m, reach = self._m, self._reach()
        wide = grid.resampled(m.z_um - reach, m.z_um + reach, SEARCH_STEP_DOF * self.dof, SEARCH_RATES)
        wide.flatten(share)
        self._about(wide, m.z_um)
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
        lower, upper = self._searched()
        if estimate.inside >= o.confidence and lower <= estimate.mean_um <= upper:
            return self._arrive(estimate)
        if float(marginal[(grid.z_um < lower) | (grid.z_um > upper)].sum()) >= max(o.confidence, ELSEWHERE_FROM):
            return self._out_of_reach(estimate, self._say(grid, marginal))
        if m.search_frames >= o.max_frames_search:
            m.state = "gave_up"
        if m.state == "gave_up":
            return Hold(
                f"cannot find the focus: {m.search_frames} frames looked at, best guess z={estimate.mean_um:.1f} um "
                f"with {100 * estimate.inside:.0f} % certainty; check the sample, the range and the optics",
                self._detail(estimate),
            )
        foci = sample_belief(grid.z_um, marginal)
        places = candidates(foci, m.z_um, self.dof, lower, upper)
        if not len(places):
            return Hold("nowhere to look within the range and the stage's limits", self._detail(estimate))
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
        lower, upper = self._searched()
        if not lower <= target <= upper:
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

    def _out_of_reach(self, estimate: Estimate, told: str = "") -> Hold:
        """Say that the focus lies where it is not sought; `told` what is known of it, if not one place."""
        o = self.options
        told = told or f"the focus is at z={estimate.mean_um:.1f} ± {estimate.sd_um:.1f} um or beyond"
        lower, upper = self._searched()
        if o.lower_um < lower > estimate.mean_um or o.upper_um > upper < estimate.mean_um:
            advice = f"{lower:.1f} to {upper:.1f} um: widen range_um, or bring the stage nearer"
            return Hold(f"{told}, outside of what is searched, {advice}", self._detail(estimate))
        return Hold(f"{told}, outside the limits {o.lower_um:g} to {o.upper_um:g} um", self._detail(estimate))

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
        above = self._grid.below(m.z_um) if self._grid is not None else math.nan
        return {
            "focus_z_um": estimate.mean_um,
            "defocus_um": m.z_um - estimate.mean_um,
            "defocus_sd_um": estimate.sd_um,
            "positive": above,
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
        self._m, self._novelty.looks, self._grid, self._awaited = memory, looks, grid, None

    def hand_over(self) -> Handed:
        """Everything needed to go on identically, for another one in this program that takes over at once."""
        memory = replace(self._m, seen_um=[*self._m.seen_um], said=[*self._m.said])
        return Handed(memory, [*self._novelty.looks], self._grid)

    def take_over(self, handed: object) -> None:
        """Go on as from the checkpoint of who handed over; raises `PolicyError` if that was another kind."""
        if not isinstance(handed, Handed):
            raise PolicyError(f"{self.name!r} can only take over from one of its kind")
        self._m, self._novelty.looks, self._awaited = handed.memory, handed.looks, None
        self._grid = None if handed.grid is None else handed.grid.handed_over(self._drift, self._bias)
