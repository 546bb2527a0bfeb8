"""JAF(H&P), Micro-Manager's oldest autofocus: a coarse and a fine pass upward, each stopped once the score falls."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal

from pydantic import Field

from parfocal.policies.focus.routine import RoutineOptions, RoutinePolicy, Search
from parfocal.policies.options import parse_options


class JafOptions(RoutineOptions):
    """Steps (um) and steps on either side of the two passes; `stop` as in `climb`."""

    score: str = "jaf"
    coarse_step_um: float = Field(default=2.0, gt=0)
    coarse_steps: int = Field(default=1, ge=0, le=1000)
    fine_step_um: float = Field(default=0.2, gt=0)
    fine_steps: int = Field(default=5, ge=0, le=1000)
    threshold: float = Field(default=0.02, ge=0, lt=1)
    stop: Literal["original", "two_frames"] = "original"


class JafPolicy(RoutinePolicy):
    """See `climb`."""

    name = "focus.jaf"
    options: JafOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = parse_options(JafOptions, self.name, options)

    def search(self, home_um: float) -> Search:
        """Climb coarsely about the start, then finely about the best."""
        o = self.options
        best = yield from climb(self._places(home_um, o.coarse_step_um, o.coarse_steps), o.threshold, o.stop)
        return (yield from climb(self._places(best, o.fine_step_um, o.fine_steps), o.threshold, o.stop))

    def _places(self, centre: float, step: float, steps: int) -> list[float]:
        """Places of one pass, without those outside the stage's limits."""
        o = self.options
        places = [centre + k * step for k in range(-steps, steps + 1)]
        return [z for z in places if o.lower_um <= z <= o.upper_um] or [self.bounded(centre)]


def climb(
    places: list[float], threshold: float, stop: Literal["original", "two_frames"]
) -> Generator[float, float, float]:
    """Go through `places` upward and return the best.

    ``original``: stop at the first score more than `threshold` (a share) below the best. ``two_frames``: only when the
    score had risen and has then been below for two frames in a row, which noise seldom does.
    """
    best, best_score, first = places[0], -float("inf"), float("nan")
    fallen = 0
    for index, z in enumerate(places):
        score = yield z
        first = score if index == 0 else first
        if score > best_score:
            best, best_score, fallen = z, score, 0
            continue
        fallen = fallen + 1 if best_score - score > threshold * abs(best_score) else 0
        if stop == "original" and fallen >= 1:
            break
        if stop == "two_frames" and fallen >= 2 and best_score > first:
            break
    return best
