"""Following a focus inside an acquisition: frames come as the plan wants them, and what is asked for is a forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.base import Action, Hold, Observation, PolicyError
from parfocal.policies.focus.belief import BeliefPolicy
from parfocal.policies.focus.beliefoptions import BeliefOptions
from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.drift import Drift
from parfocal.policies.focus.grid import Estimate, FocusGrid
from parfocal.policies.focus.likelihood import Look, read_look
from parfocal.policies.focus.memory import FocusMemory, Forecast, Motion
from parfocal.policies.focus.response import ResponseTable
from parfocal.policies.options import FocusOptions, parse_options

POSITION, VISIT, REFERENCE, SEARCH, DEVICE = "position", "visit", "reference_um", "search", "device_focus"
"""Settings that an observation carries beside ``z_um``: see `FollowPolicy`."""
STANDS_STILL = Drift(1e-9, 0.0, 0.0, 0.0)
GRID_STEP_DOF, WINDOW_DOF, MOST_CELLS = 0.05, 4.0, 600
CLEAR_INSIDE, CLEAR_SD_DOF = 0.8, 0.4
"""A visit's answer counts from this probability of one depth of field on, and up to this sd."""
DENIED_BELOW = 0.1
"""Probability of the forecast's surroundings below which a visit denies it."""
SURPRISE_SD, SURPRISE_DOF = 4.0, 0.5
"""So many sds, and so many depths of field, off the forecast is a contradiction."""
NEAR_DOF, BLURRED_DOF, SUSPECT_DOF = 0.3, 0.3, 0.45
"""Near the focus a frame that reads this much more blur than usual there makes the forecast suspect, by so much."""
DEVICE_SD_DOF = 0.15
"""How well a hardware autofocus is taken to have focused."""
FIELD_MIN = 60.0


class FollowOptions(FocusOptions):
    """Options of ``focus.follow``; lengths in um or, with ``_dof``, in depths of field.

    Parameters
    ----------
    dof_um : float
        Depth of field (required).
    model : str
        Whose assessment is read.
    response : table, optional
        A measured response (`parfocal calibrate`).
    drift_um_per_min : float
        The fastest drift that is usual; about twice as much is still followed.
    drift_change : float
        By how much of that the drift's rate changes within a minute.
    walk_um : float
        What the focus wanders in a minute beside the drift (sd).
    start_within_dof : float
        How well each position was focused when it was planned (sd).
    look_dof : float
        Distance of an extra look from the focus, and least distance between frames that tell where it is.
    wanted_sd_dof : float
        Extra looks are asked for where the forecast is worse than this.
    hold_sd_dof : float
        No correction rests on a forecast that is worse than this.
    bias_spread, floor, noise : float
        How far off a field, a frame, and two looks at one place are to be expected, see ``focus.belief``.
    min_certainty : float
        Frames below this certainty are not used.
    range_um : float
        A search looks within the start +- this.
    search : mapping
        Further options of ``focus.belief``, which searches.
    """

    model: str = "defocus"
    response: ResponseTable | None = None
    drift_um_per_min: float = Field(default=1.0, gt=0)
    drift_change: float = Field(default=0.1, ge=0)
    walk_um: float = Field(default=0.05, ge=0)
    start_within_dof: float = Field(default=0.4, gt=0)
    look_dof: float = Field(default=1.2, ge=0.6, le=5)
    wanted_sd_dof: float = Field(default=0.12, gt=0)
    hold_sd_dof: float = Field(default=0.6, gt=0)
    bias_spread: float = Field(default=1.2, gt=0, le=10)
    floor: float = Field(default=0.02, ge=1e-6, lt=0.5)
    noise: float = Field(default=0.1, gt=0, le=1)
    min_certainty: float = Field(default=0.0, ge=0, le=1)
    range_um: float = Field(default=40.0, gt=0, le=5000)
    search: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.dof_um is None:
            raise ValueError("dof_um (the depth of field in um) is required")
        return self


@dataclass
class _Visit:
    """The frames of one stay at one position, which together tell where its focus is."""

    place: int
    number: int
    time_s: float
    before: FocusMemory
    rate: float
    looks: list[tuple[float, Look]] = field(default_factory=list)
    half_um: float = 0.0
    grid: FocusGrid | None = None

    def apart_um(self) -> float:
        """Greatest distance between two of its frames."""
        places = [u for u, _ in self.looks]
        return max(places) - min(places)


class FollowPolicy:
    """See `FollowOptions`. Told every scored frame of an acquisition, it never moves anything: it forecasts.

    An observation's settings say where in the plan the frame belongs: ``position`` (of the plan, a number), ``visit``
    (frames with the same number belong together: a z-stack, a frame with its extra looks), ``reference_um`` (the z at
    which the plan has the focus there and in that channel), during an autofocus ``search`` (its number), and after
    one of the microscope's own ``device_focus``. All it knows of the focus is relative to ``reference_um``; what it
    answers is in stage coordinates again.

    Near the focus there is no blur to be seen. What tells where it is, is that a field looks alike on both sides of
    it: so only visits with frames apart count, be they planes of the plan's own stack or extra looks. Between them the
    drift goes on as it went.
    """

    name = "focus.follow"

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = o = parse_options(FollowOptions, self.name, options)
        self.dof = float(o.dof_um or 0.0)
        rate = o.drift_um_per_min / 60.0
        self.motion = Motion(rate, o.drift_change * rate / math.sqrt(60.0), o.walk_um / math.sqrt(60.0),
                             o.start_within_dof * self.dof)  # fmt: skip
        self._bias = BiasPrior(self.dof, o.bias_spread, memory_min=FIELD_MIN)
        shared = {key: getattr(o, key) for key in FocusOptions.model_fields} | {"range_um": o.range_um}
        shared |= {"model": o.model} | ({} if o.response is None else {"response": o.response})
        self._search_given = {**shared, "drift_rate_um_per_min": o.drift_um_per_min, **o.search}
        self.reads = (parse_options(BeliefOptions, f"{self.name} (search)", self._search_given).model,)
        self._search: BeliefPolicy | None = None
        self._search_number = 0
        self._memory = FocusMemory(self.motion)
        self._visit: _Visit | None = None
        self._baseline: dict[int, float] = {}
        self._guesses: dict[int, float] = {}
        self._doubt = "no frame yet"
        self._said = ""
        self._u = self._reference = self._time_s = math.nan
        self._place = 0

    # -- what the engine asks for -------------------------------------------------------------------------------

    def memory(self) -> FocusMemory:
        """Return a copy of what is known, to forecast from."""
        return self._memory.copy()

    def guesses(self) -> dict[int, float]:
        """Return, by position, where frames that did not tell the focus say that it may best be looked for."""
        return dict(self._guesses)

    @property
    def doubt(self) -> str:
        """Why the last frame taught nothing; empty if it did."""
        return self._doubt

    # -- learning -----------------------------------------------------------------------------------------------

    def tell(self, observation: Observation) -> None:
        """Learn from one frame; an unusable one teaches nothing."""
        settings = observation.settings
        z, time_s = float(settings.get("z_um", math.nan)), float(observation.time_s)
        self._place = int(settings.get(POSITION, 0))
        self._reference = float(settings.get(REFERENCE, z if math.isnan(self._reference) else self._reference))
        self._u, self._time_s, self._said = z - self._reference, time_s, ""
        self._memory.begin(time_s)
        if settings.get(DEVICE):
            self._tell_device()
            return
        number = int(settings.get(SEARCH, 0))
        if number:
            self._tell_search(observation, number)
            return
        self._search = None
        look = self._read(observation, z, time_s)
        self._doubt = look if isinstance(look, str) else ""
        if not isinstance(look, str):
            self._learn(look, int(settings.get(VISIT, observation.index)))

    def _tell_device(self) -> None:
        """The microscope's own autofocus has put the stage into focus: believe it, as far as it is good."""
        self._take(self._u, DEVICE_SD_DOF * self.dof)
        self._visit, self._search, self._doubt = None, None, ""

    def _take(self, focus_um: float, sd_um: float) -> None:
        """Believe somebody who knows better, however far off the forecast."""
        forecast = self._memory.at(self._place, self._time_s)
        if abs(focus_um - forecast.focus_um) > SURPRISE_SD * math.hypot(forecast.sd_um, sd_um):
            self._memory.widen(abs(focus_um - forecast.focus_um), self._time_s)
        self._memory.learn(self._place, self._time_s, focus_um, max(sd_um, 0.02 * self.dof))

    def _tell_search(self, observation: Observation, number: int) -> None:
        if self._search is None or number != self._search_number:
            self._search, self._search_number, self._visit = BeliefPolicy(self._search_given), number, None
        self._search.tell(observation)
        self._doubt = ""

    def _read(self, observation: Observation, z: float, time_s: float) -> Look | str:
        o = self.options
        if not (math.isfinite(z) and math.isfinite(time_s)):
            return f"the frame does not say where or when it was taken (z={z:g} um, t={time_s:g} s)"
        assessment = observation.assessments.get(o.model)
        if assessment is None:
            return f"the frame was not assessed by {o.model!r}"
        table = self._response()
        return read_look(
            assessment, response=table, floor=o.floor, min_certainty=o.min_certainty, dof_um=self.dof, noise=o.noise
        )

    def _response(self) -> Any:
        from parfocal.policies.focus.response import Response

        return None if self.options.response is None else Response.from_json(self.options.response)

    def _learn(self, look: Look, number: int) -> None:
        place, time_s = self._place, self._time_s
        visit = self._visit
        if visit is None or (visit.place, visit.number) != (place, number):
            rate = self._memory.at(place, time_s).rate_um_per_s
            visit = self._visit = _Visit(place, number, time_s, self._memory.copy(), rate)
        u = self._u - visit.rate * (time_s - visit.time_s)
        visit.looks.append((u, look))
        self._weigh(visit, look)
        forecast = visit.before.at(place, visit.time_s)
        if visit.apart_um() >= self.options.look_dof * self.dof * (1.0 - 1e-6):
            self._measure(visit, forecast)
        elif len(visit.looks) == 1:
            self._suspect(visit, forecast, look)

    def _weigh(self, visit: _Visit, look: Look) -> None:
        """Multiply the visit's own belief by one more look; begin it anew, and wider, if that sees further."""
        forecast = visit.before.at(visit.place, visit.time_s)
        half = max(WINDOW_DOF * self.dof, 4.0 * forecast.sd_um, look.value + 2.0 * self.dof)
        half = min(half, self.options.range_um + 2.0 * self.dof)
        if visit.grid is not None and half <= visit.half_um:
            visit.grid.update(*visit.looks[-1])
            return
        visit.half_um = half
        step = max(GRID_STEP_DOF * self.dof, 2.0 * half / MOST_CELLS)
        centre = forecast.focus_um
        visit.grid = FocusGrid(centre - half, centre + half, step, STANDS_STILL, self._bias, 2)
        for u, seen in visit.looks:
            visit.grid.update(u, seen)

    def _measure(self, visit: _Visit, forecast: Forecast) -> None:
        """Take the visit's answer for a measurement; one that contradicts the forecast only makes it doubtful."""
        if visit.grid is None:
            return
        found = visit.grid.estimate(self.dof)
        self._memory = visit.before.copy()
        if found.inside < CLEAR_INSIDE or found.sd_um > CLEAR_SD_DOF * self.dof:
            self._said = f"{len(visit.looks)} frames do not tell the focus ({self._say(found)})"
            self._deny(visit, forecast, visit.grid)
            self._guesses[visit.place] = found.mean_um
            return
        self._guesses.pop(visit.place, None)
        missed = found.mean_um - forecast.focus_um
        known = visit.place in visit.before.places
        if known and abs(missed) > max(SURPRISE_SD * math.hypot(forecast.sd_um, found.sd_um), SURPRISE_DOF * self.dof):
            self._memory.widen(abs(missed), visit.time_s)
            self._said = (
                f"{len(visit.looks)} frames put the focus {missed:+.2f} um off the forecast: holding until others agree"
            )
            return
        self._memory.learn(visit.place, visit.time_s, found.mean_um, max(found.sd_um, 0.02 * self.dof))
        near = [look.value for u, look in visit.looks if abs(u - found.mean_um) <= NEAR_DOF * self.dof]
        if near:
            self._baseline[visit.place] = float(np.mean(near))
        self._said = f"seen from {len(visit.looks)} places ({self._say(found)})"

    def _deny(self, visit: _Visit, forecast: Forecast, grid: FocusGrid) -> None:
        """Frames that do not say where the focus is may still say that it is not where it was thought to be."""
        density = grid.marginal()
        distance = np.abs(grid.z_um - forecast.focus_um)
        here = float(density[distance <= self.dof + 2.0 * forecast.sd_um].sum())
        if here < DENIED_BELOW:
            self._memory.widen(float(density @ distance), visit.time_s)
            self._said += f", but not within {self.dof + 2.0 * forecast.sd_um:.1f} um of the forecast: holding"

    def _suspect(self, visit: _Visit, forecast: Forecast, look: Look) -> None:
        """A frame near the focus that is blurred more than usual there: doubt the forecast."""
        usual = self._baseline.get(visit.place)
        near = abs(visit.looks[0][0] - forecast.focus_um) <= NEAR_DOF * self.dof
        if usual is None or not near or look.value <= usual + BLURRED_DOF * self.dof:
            return
        self._memory.widen(SUSPECT_DOF * self.dof, visit.time_s)
        self._said = f"reads {look.value:.2f} um where {usual:.2f} um is usual"

    # -- deciding -----------------------------------------------------------------------------------------------

    def ask(self) -> Action:
        """During a search what it wants; otherwise where the focus is, and nothing to be moved."""
        if self._search is not None:
            return self._ask_search(self._search)
        forecast = self._memory.at(self._place, self._time_s)
        detail = self._detail(forecast)
        if self._doubt:
            return Hold(f"not learned from: {self._doubt}", {**detail, "focused": 0.0})
        drift = f"{60.0 * forecast.rate_um_per_s:+.2f} um/min"
        said = f"; {self._said}" if self._said else ""
        state = "" if self.trusted(forecast) else ": not known well enough to follow"
        return Hold(
            f"defocus {self._u - forecast.focus_um:+.2f} ± {forecast.sd_um:.2f} um, drift {drift}{state}{said}", detail
        )

    def _ask_search(self, search: BeliefPolicy) -> Action:
        action = search.ask()
        if action.detail.get("focused") == 1.0:
            self._take(action.detail["focus_z_um"] - self._reference, action.detail["defocus_sd_um"])
        return action

    def trusted(self, forecast: Forecast) -> bool:
        """Whether a correction may rest on it."""
        return forecast.sd_um <= self.options.hold_sd_dof * self.dof

    def wants_looks(self, forecast: Forecast) -> bool:
        """Whether it should be better than it is."""
        return forecast.sd_um > self.options.wanted_sd_dof * self.dof

    def _detail(self, forecast: Forecast) -> dict[str, float]:
        found = self.trusted(forecast)
        off = self._u - forecast.focus_um
        return {
            "focus_z_um": self._reference + forecast.focus_um,
            "defocus_um": off,
            "defocus_sd_um": forecast.sd_um,
            "drift_um_per_min": 60.0 * forecast.rate_um_per_s,
            "found": 1.0 if found else 0.0,
            "focused": 1.0 if found and abs(off) <= 0.5 * self.dof else 0.0,
        }

    def _say(self, found: Estimate) -> str:
        return f"{found.mean_um:+.2f} ± {found.sd_um:.2f} um, {100 * found.inside:.0f} %"

    # -- going on -----------------------------------------------------------------------------------------------

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on from the next visit, as plain JSON; frames of one visit are not split."""
        return {
            "policy": self.name,
            "memory": self._memory.checkpoint(),
            "baseline": [[place, value] for place, value in self._baseline.items()],
            "guesses": [[place, value] for place, value in self._guesses.items()],
            "reference": None if math.isnan(self._reference) else self._reference,
            "search": None if self._search is None else self._search.checkpoint(),
            "search_number": self._search_number,
        }

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of a policy with the same options."""
        if checkpoint.get("policy") != self.name:
            raise PolicyError(f"a checkpoint of {checkpoint.get('policy')!r} is not one of {self.name!r}")
        try:
            memory = FocusMemory.restored(checkpoint["memory"], self.motion)
            baseline = {int(place): float(value) for place, value in checkpoint["baseline"]}
            guesses = {int(place): float(value) for place, value in checkpoint["guesses"]}
            reference, stored = checkpoint["reference"], checkpoint["search"]
            number = int(checkpoint["search_number"])
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint of {self.name!r} cannot be read: {error}") from error
        search = None
        if stored is not None:
            search = BeliefPolicy(self._search_given)
            search.restore(stored)
        self._memory, self._baseline, self._guesses, self._visit = memory, baseline, guesses, None
        self._reference = math.nan if reference is None else float(reference)
        self._search, self._search_number = search, number
