"""The plain sweep: an even scan of the whole range, and the peak of a parabola through the log of the score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from parfocal.policies.focus.oughtafocus import scan
from parfocal.policies.focus.routine import RoutineOptions, RoutinePolicy, Search
from parfocal.policies.options import parse_options


class SweepOptions(RoutineOptions):
    """The start +- `range_um` in steps of `step_um`."""

    score: str = "midband"
    range_um: float = Field(default=30.0, gt=0)
    step_um: float = Field(default=2.0, gt=0)

    @model_validator(mode="after")
    def _not_endless(self) -> Self:
        if self.range_um / self.step_um > 5000:
            raise ValueError(f"a range of {self.range_um:g} um in steps of {self.step_um:g} um is over 10 000 frames")
        return self


class SweepPolicy(RoutinePolicy):
    """See `SweepOptions`."""

    name = "focus.sweep"
    options: SweepOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = parse_options(SweepOptions, self.name, options)

    def search(self, home_um: float) -> Search:
        """Scan as far as the limits allow."""
        o = self.options
        return scan(self.bounded(home_um - o.range_um), self.bounded(home_um + o.range_um), o.step_um)
