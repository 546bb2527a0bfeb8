"""Options of the STED policies, and the contradictions among them that are found before anything moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from parfocal.policies.options import Options
from parfocal.policies.sted.preference import Preference, make_preference
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, TUNED, Space

DEFAULT_BOUNDS: dict[str, tuple[float, float]] = {
    EXCITATION: (0.1, 10.0),
    DEPLETION: (0.0, 300.0),
    DWELL: (1.0, 60.0),
}
POSITIONS = ("x_um", "y_um")
LEAST_FACTOR = 1.2
CONFOCAL_SHARE = 0.1
"""Of the highest depletion power: with more than this no frame is confocal."""


class StedOptions(Options):
    """What every STED policy takes; powers in uW (excitation) and mW (depletion).

    Parameters
    ----------
    bounds : mapping
        ``{parameter: [lower, upper]}`` of ``excitation_power``, ``depletion_power``, ``dwell_us`` and, where they can
        be changed, ``line_steps``; of ``x_um`` and ``y_um``, where fresh fields lie. Parameters not named keep the
        defaults. No trial is ever asked for outside.
    max_step : mapping
        Largest single change of a parameter (the guard's); trials that would need a larger one are not made.
    max_images : int
        STED images that may be taken; then the policy finishes.
    confocal : mapping
        Settings of the confocal frames before and after.
    start : mapping, optional
        The first trial's settings; by default half the confocal dose at a tenth of the highest depletion power.
    max_dose_factor : float
        No trial has more than this many times the highest dose, of excitation or of depletion, that was tolerated.
    max_bleach : float
        A trial that bleached more was not tolerated: nothing as strong is tried again.
    max_rate_mhz : float
        Highest count rate of a pixel that the detector may see.
    dose_budget : float, optional
        The session's budget in its own unit; no trial is begun that would not fit in what is left.
    field_um : float
        Distance between fields; 0: always the same one.
    max_empty_fields, max_failures : int
        So many fields without structure, or trials without an outcome, in a row, and the policy finishes.
    preference : mapping
        Weights (see `Weights`), or ``{"prefnet": ...}``.
    warm_start : mapping, optional
        What an earlier run learned (`learned()` of ``sted.bayes``).
    deadline_s : float
        A suggestion that is not there by then is not waited for: the policy takes its fallback.
    model, quality_model : str
        Which assessments are read.
    seed : int
    """

    bounds: dict[str, tuple[float, float]] = Field(default_factory=dict)
    max_step: dict[str, float] = Field(default_factory=dict)
    max_images: int = Field(default=20, ge=1, le=500)
    confocal: dict[str, float] = Field(default_factory=dict)
    start: dict[str, float] = Field(default_factory=dict)
    max_dose_factor: float = Field(default=4.0, ge=LEAST_FACTOR)
    max_bleach: float = Field(default=0.6, gt=0, le=1)
    max_rate_mhz: float = Field(default=15.0, gt=0)
    dose_budget: float | None = Field(default=None, gt=0)
    field_um: float = Field(default=5.0, ge=0, lt=math.inf)
    max_empty_fields: int = Field(default=5, ge=1)
    max_failures: int = Field(default=3, ge=1)
    preference: dict[str, Any] = Field(default_factory=dict)
    warm_start: dict[str, Any] | None = None
    deadline_s: float = Field(default=10.0, gt=0, lt=math.inf)
    model: str = "sted_measures"
    quality_model: str = "sted_quality"
    seed: int = 0

    @field_validator("bounds")
    @classmethod
    def _known_bounds(cls, bounds: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (lower, upper) in bounds.items():
            if name not in (*TUNED, *POSITIONS):
                raise ValueError(f"{name!r} is none of {', '.join((*TUNED, *POSITIONS))}")
            if not (math.isfinite(lower) and math.isfinite(upper)):
                raise ValueError(f"{name} must have finite bounds (got {lower:g}..{upper:g})")
            if lower > upper:
                raise ValueError(f"{name}: the lower bound {lower:g} is above the upper one {upper:g}")
            if name not in POSITIONS and (upper <= 0 or lower < 0):
                raise ValueError(f"{name}: {lower:g}..{upper:g} leaves no positive value to try")
            if name == LINES and math.ceil(lower) > upper:
                raise ValueError(f"{name}: there is no whole number in {lower:g}..{upper:g}")
        return bounds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, step in self.max_step.items():
            if not step > 0:
                raise ValueError(f"max_step: {name} must be positive (got {step:g})")
        try:
            make_preference(self.preference)
        except ValueError as error:
            raise ValueError(f"preference: {_first(error)}") from None
        bounds = self.box
        for what, settings in (("confocal", self.confocal), ("start", self.start)):
            for name, value in settings.items():
                if name not in TUNED:
                    raise ValueError(f"{what}: {name!r} is none of {', '.join(TUNED)}")
                lower, upper = bounds.get(name, (value, value))
                if not lower <= value <= upper and not (name == DEPLETION and value == 0):
                    raise ValueError(f"{what}: {name} {value:g} lies outside the bounds {lower:g}..{upper:g}")
        self._reachable()
        return self

    def _reachable(self) -> None:
        """Refuse limits under which no trial could be made."""
        space, confocal = self.space, self.confocal_settings
        lowest, highest = self.box[DEPLETION]
        if DEPLETION not in self.confocal and lowest > CONFOCAL_SHARE * highest:
            raise ValueError(
                f"bounds: {DEPLETION} from {lowest:g} up leaves no confocal frame to compare with: let it go down to 0"
            )
        for name, low, high in zip(space.names, space.lower, space.upper, strict=True):
            step = self.max_step.get(name, math.inf)
            if name not in confocal:
                continue
            nearest = min(max(confocal[name], low), high)
            if abs(nearest - confocal[name]) > step:
                raise ValueError(
                    f"max_step: {name} cannot go from the confocal {confocal[name]:g} to its bounds {low:g}..{high:g} "
                    f"in steps of {step:g}"
                )
        for axis in POSITIONS:
            if axis in self.bounds and self.max_step.get(axis, math.inf) < self.field_um:
                raise ValueError(
                    f"max_step: {axis} ({self.max_step[axis]:g}) is less than field_um ({self.field_um:g})"
                )

    @property
    def box(self) -> dict[str, tuple[float, float]]:
        """Bounds of the tuned parameters, with the defaults."""
        return DEFAULT_BOUNDS | {name: pair for name, pair in self.bounds.items() if name in TUNED}

    @property
    def space(self) -> Space:
        """Where trials may be made."""
        return Space.of(self.box)

    @property
    def confocal_settings(self) -> dict[str, float]:
        """The confocal frames' settings: those given; else depletion off, 1 uW and 10 us as far as the bounds allow."""
        wanted = {EXCITATION: 1.0, DEPLETION: 0.0, DWELL: 10.0}
        space, made = self.space, {}
        for name, value in wanted.items():
            low, high = self.box[name]
            if name != DEPLETION:
                low = space.lower[space.names.index(name)]
            made[name] = min(max(value, low), high)
        if LINES in self.box:
            made[LINES] = float(math.ceil(self.box[LINES][0]) or 1)
        return made | self.confocal

    @property
    def wish(self) -> Preference:
        """What is wanted of an image."""
        return make_preference(self.preference)

    @property
    def reads(self) -> tuple[str, ...]:
        """The models whose assessments are needed."""
        return (self.model, self.quality_model) if "quality" in self.wish.needs else (self.model,)


def _first(error: ValueError) -> str:
    """Say the first problem of a pydantic error, or the error itself."""
    problems = getattr(error, "errors", None)
    if problems is None:
        return str(error)
    problem = problems(include_url=False)[0]
    where = ".".join(str(part) for part in problem["loc"])
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{where}: {message} (got {problem['input']!r})" if where else message


def bounds_from_limits(limits: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """Keep of all limits of a microscope those that a STED policy takes as `bounds`."""
    return {name: (float(low), float(high)) for name, (low, high) in limits.items() if name in (*TUNED, *POSITIONS)}
