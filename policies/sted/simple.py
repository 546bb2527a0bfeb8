"""``sted.random`` and ``sted.fixed``: what every cleverer policy is held against."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.sted.base import StedPolicy
from parfocal.policies.sted.options import StedOptions
from parfocal.policies.sted.space import DEPLETION, DWELL, EXCITATION, LINES, TUNED, Settings

EXPERT: dict[str, float] = {EXCITATION: 1.5, DEPLETION: 100.0, DWELL: 10.0, LINES: 1.0}
"""Where experts begin with an ATTO647N-like dye: 1-2 uW, 10 us, 80-120 mW."""
TRIES = 64


class UnguidedOptions(StedOptions):
    """As all STED policies, but without dose steps or tolerance unless they are asked for.

    Bounds, the detector's rate, the dose budget and the guard hold for these policies too.
    """

    max_dose_factor: float = Field(default=math.inf, ge=1.2)
    max_bleach: float = Field(default=1.0, gt=0, le=1)


class UnguidedPolicy(StedPolicy):
    """A policy whose first trial is like any other, unless a factor limits its steps in dose."""

    options_model: ClassVar[type[StedOptions]] = UnguidedOptions

    def _first(self) -> tuple[Settings, str] | None:
        if math.isfinite(self.options.max_dose_factor):
            return super()._first()
        return self._without_problem()


class RandomOptions(UnguidedOptions):
    """Options of ``sted.random``, beside those of all STED policies.

    Parameters
    ----------
    scale : {"linear", "log"}
        Drawn uniformly over the bounds themselves, or over their logarithms.
    """

    scale: Literal["linear", "log"] = "linear"


class RandomPolicy(UnguidedPolicy):
    """Tries settings drawn at random; recommends the best it has seen."""

    name: ClassVar[str] = "sted.random"
    options_model: ClassVar[type[StedOptions]] = RandomOptions
    options: RandomOptions

    def _without_problem(self) -> tuple[Settings, str] | None:
        rng = np.random.default_rng([self.options.seed, len(self._trials)])
        low, high = np.array(self.space.lower), np.array(self.space.upper)
        for unit in rng.random((TRIES, self.space.size)):
            row = self.space.from_unit(unit)[0] if self.options.scale == "log" else low + unit * (high - low)
            settings = self.space.settings(row)
            if self._may(settings):
                return settings, "at random"
        return self._fallback()


class FixedOptions(UnguidedOptions):
    """Options of ``sted.fixed``, beside those of all STED policies.

    Parameters
    ----------
    settings : mapping
        What is tried; by default where experts begin with an ATTO647N-like dye, moved into the bounds.
    """

    settings: dict[str, float] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for name, value in self.settings.items():
            if name not in TUNED:
                raise ValueError(f"settings: {name!r} is none of {', '.join(TUNED)}")
            lower, upper = self.box.get(name, (value, value))
            if not lower <= value <= upper:
                raise ValueError(f"settings: {name} {value:g} lies outside the bounds {lower:g}..{upper:g}")
        return self


class FixedPolicy(UnguidedPolicy):
    """Tries the same settings on every field, and says what they are worth."""

    name: ClassVar[str] = "sted.fixed"
    options_model: ClassVar[type[StedOptions]] = FixedOptions
    options: FixedOptions

    def _without_problem(self) -> tuple[Settings, str] | None:
        settings = self._fixed()
        if self._may(settings):
            return settings, "as always"
        dimmer = self._within_rate(settings)
        return None if dimmer is None else (dimmer, "as always, but for the excitation, which the detector limits")

    def _fixed(self) -> Settings:
        given = EXPERT | self.options.settings
        row = np.clip([given[name] for name in self.space.names], self.space.lower, self.space.upper)
        return self.space.settings(row)

    def recommendation(self) -> dict[str, Any]:
        """Return the fixed settings, with the mean utility of their trials and its standard error."""
        seen = [self.utility(trial) for trial in self._trials if trial.outcome is not None]
        found: dict[str, Any] = {"settings": self._fixed(), "utility": None, "sd": None}
        if seen:
            found["utility"] = float(np.mean(seen))
        if len(seen) > 1:
            found["sd"] = float(np.std(seen, ddof=1) / math.sqrt(len(seen)))
        return found
