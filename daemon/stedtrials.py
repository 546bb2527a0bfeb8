"""The trials of a STED session, gathered from what its policy says with every action; which of them nothing beats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

SETTING, RECOMMENDED = "trial_", "recommended_"
UNITS = {"excitation_power": "uW", "depletion_power": "mW", "dwell_us": "us", "line_steps": "lines"}
WORDS = {
    "excitation_power": "excitation",
    "depletion_power": "depletion",
    "dwell_us": "dwell",
    "line_steps": "line steps",
}
BETTER = {"resolution_nm": -1.0, "bleach": -1.0, "signal_ratio": 1.0, "pixel_us": -1.0, "quality": 1.0}
"""Objectives, and whether more of them is better."""
FRONT = ("resolution_nm", "bleach")
"""The two that every choice of settings trades against each other; with more, hardly a trial is ever beaten."""


@dataclass
class TrialRow:
    """One trial: its number from 1, settings, what was measured (empty: it came to nothing), what it was worth."""

    number: int
    settings: dict[str, float]
    objectives: dict[str, float] = field(default_factory=dict)
    utility: float = math.nan
    dose: float = math.nan

    @property
    def done(self) -> bool:
        """Whether there is an outcome."""
        return math.isfinite(self.utility)


@dataclass
class Recommendation:
    """What is recommended: settings, the utility to be expected, and its standard deviation; NaN: not known."""

    settings: dict[str, float] = field(default_factory=dict)
    utility: float = math.nan
    sd: float = math.nan

    def words(self) -> str:
        """Return it in a line."""
        if not self.settings:
            return "nothing yet"
        text = ", ".join(f"{WORDS.get(n, n)} {v:.3g} {UNITS.get(n, '')}".rstrip() for n, v in self.settings.items())
        if math.isfinite(self.utility):
            text += f"; utility {self.utility:.2f}" + (f" \u00b1 {self.sd:.2f}" if math.isfinite(self.sd) else "")
        return text


class StedTrials:
    """Collects trials from the details of actions, in order."""

    def __init__(self) -> None:
        self.rows: list[TrialRow] = []
        self.recommended = Recommendation()
        self.history: list[tuple[int, float, float]] = []
        """What was recommended after how many trials: their number, utility, standard deviation."""

    def take(self, detail: Mapping[str, float], dose: float = math.nan) -> bool:
        """Take in one action's detail; return whether there is a new trial in it."""
        new = self._take_trial(detail, dose)
        self._take_recommended(detail)
        return new

    def _take_trial(self, detail: Mapping[str, float], dose: float) -> bool:
        settings = {n.removeprefix(SETTING): v for n, v in detail.items() if n.startswith(SETTING)}
        if not settings:
            return False
        objectives = {name: detail[name] for name in (*BETTER, "rate_mhz", "resolution_censored") if name in detail}
        last = self.rows[-1] if self.rows else None
        if last is not None and (last.settings, last.objectives) == (settings, objectives):
            return False
        self.rows.append(TrialRow(len(self.rows) + 1, settings, objectives, detail.get("utility", math.nan), dose))
        return True

    def _take_recommended(self, detail: Mapping[str, float]) -> None:
        found = {n.removeprefix(RECOMMENDED): v for n, v in detail.items() if n.startswith(RECOMMENDED)}
        utility, sd = found.pop("utility", math.nan), found.pop("utility_sd", math.nan)
        if not found:
            return
        new = Recommendation(found, utility, sd)
        if math.isfinite(utility) and self.rows:
            number = len(self.rows)
            kept = self.history[:-1] if self.history and self.history[-1][0] == number else self.history
            self.history = [*kept, (number, utility, sd)]
        self.recommended = new

    def front(self) -> set[int]:
        """Return the numbers of the trials that no other beats: as fine with as little bleaching, and better in one."""
        done = [row for row in self.rows if row.done]
        return {row.number for row in done if not any(beats(other, row) for other in done)}


def beats(one: TrialRow, other: TrialRow) -> bool:
    """Whether one trial is as good as another in both objectives of `FRONT`, and better in one."""
    names = [name for name in FRONT if name in one.objectives and name in other.objectives]
    gains = [BETTER[name] * (one.objectives[name] - other.objectives[name]) for name in names]
    return bool(gains) and min(gains) >= 0 and max(gains) > 0


def axis_range(values: Sequence[float], least: float) -> tuple[float, float]:
    """Return a range that holds all values with a little air, from 0 where they come near it."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, least
    low, high = min(finite), max(finite)
    width = max(high - low, least)
    low, high = low - 0.08 * width, low + 1.08 * width
    return (0.0, high) if 0 < low < 0.15 * high else (low, high)
