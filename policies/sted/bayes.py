"""``sted.bayes``: Gaussian processes of the objectives, a preference over them, the next trial by what it may gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from parfocal.policies.base import PolicyOptionError
from parfocal.policies.sted.base import SCHEMA, StedPolicy
from parfocal.policies.sted.options import StedOptions
from parfocal.policies.sted.solver import TARGET
from parfocal.policies.sted.space import DEPLETION, DWELL, Settings, dose_of, pixel_us_of

WARM_SHARE = 0.6
"""A warm start begins with this share of the dwell and of the depletion power that an earlier run recommends."""


class BayesOptions(StedOptions):
    """Options of ``sted.bayes``, beside those of all STED policies.

    Parameters
    ----------
    acquisition : {"thompson", "improvement", "greedy"}
        Try what is best under one draw of the surrogates; what is expected to gain most over the recommendation; or
        the recommendation itself.
    candidates : int
        Settings that are considered, beside those near the best so far.
    min_images : int
        Before so many it does not stop by itself.
    stop_improvement : float
        It stops when no candidate is expected to be better than the recommendation by more; 0: never.
    """

    acquisition: Literal["thompson", "improvement", "greedy"] = "thompson"
    candidates: int = Field(default=384, ge=32, le=2048)
    min_images: int = Field(default=8, ge=1)
    stop_improvement: float = Field(default=0.003, ge=0, lt=1)


class BayesPolicy(StedPolicy):
    """See `BayesOptions`.

    The fallback, when a suggestion is not there in time: the best trial so far again, on another field.
    """

    name: ClassVar[str] = "sted.bayes"
    options_model: ClassVar[type[StedOptions]] = BayesOptions
    solver: ClassVar[str] = TARGET
    options: BayesOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        if self.options.warm_start is not None:
            self._warm(self.options.warm_start)

    def _warm(self, earlier: Mapping[str, Any]) -> None:
        """Begin a step below what an earlier run recommends, instead of at the bottom."""
        try:
            if earlier["schema"] != SCHEMA:
                raise ValueError(f"schema {earlier['schema']!r} is not {SCHEMA!r}")
            trials, found = earlier["trials"], earlier["recommended"]
            float(earlier["confocal_dose"])
            if not isinstance(trials, list):
                raise TypeError("trials is not a list")
            settings = {name: float(found["settings"][name]) for name in self.space.names} if found else {}
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyOptionError(
                f"policy {self.name}: option 'warm_start' is not what `learned()` writes: "
                f"{type(error).__name__}: {error}"
            ) from error
        if settings and not self.options.start:
            self.start = self._below(settings)
            self._envelope.dose = dose_of(self.start)
            self._envelope.depletion_dose = self.start.get(DEPLETION, 0.0) * pixel_us_of(self.start)

    def _below(self, settings: Mapping[str, float]) -> Settings:
        """Return settings with less dose and less depletion: the sample may be another."""
        row = self.space.array(settings)
        for name in (DWELL, DEPLETION):
            row[self.space.names.index(name)] *= WARM_SHARE
        return self.space.settings(row)

    def _problem(self) -> dict[str, Any] | None:
        o, best = self.options, self._best_seen()
        near = [best["settings"]] if best else []
        last = self._m.recommended
        if last:
            near.append(last["settings"])
        return {
            "solve": TARGET,
            "space": self.space.to_json(),
            "lines": self._m.lines,
            "confocal_dose": self._nominal,
            "preference": o.preference,
            "envelope": self._envelope.to_json(),
            "trials": [trial.to_json() for trial in self._trials],
            "warm": o.warm_start,
            "near": near,
            "reach": self._reach(),
            "candidates": o.candidates,
            "acquisition": o.acquisition,
            "min_images": o.min_images,
            "stop_improvement": o.stop_improvement,
            "seed": o.seed,
        }
