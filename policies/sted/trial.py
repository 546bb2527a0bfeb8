"""One trial: three frames of a fresh field (confocal, STED, confocal), told one by one, and what became of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from parfocal.models.base import Assessment
from parfocal.policies.base import Observation
from parfocal.policies.sted.objectives import NoOutcomeError, Outcome, has_light, light, measure

Frame = Literal["before", "sted", "after"]
FRAMES: tuple[Frame, ...] = ("before", "sted", "after")
SATURATED_SHARE = 0.01
RELATIVE, ABSOLUTE = 0.02, 1e-6
POSITION_UM = 0.2


@dataclass
class Trial:
    """A trial made.

    Parameters
    ----------
    settings : dict
        Of the STED frame, as read back.
    outcome : Outcome, optional
        None: it came to nothing, and `reason` says why.
    bleach : float
        Share lost, also where there is no other objective; NaN if not known.
    dark : bool
        The STED frame showed nothing above its background.
    """

    settings: dict[str, float]
    outcome: Outcome | None = None
    reason: str = ""
    bleach: float = math.nan
    dark: bool = False

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "settings": dict(self.settings),
            "outcome": None if self.outcome is None else self.outcome.to_json(),
            "reason": self.reason,
            "bleach": None if math.isnan(self.bleach) else self.bleach,
            "dark": self.dark,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Trial:
        """Inverse of `to_json`."""
        outcome = data["outcome"]
        return Trial(
            {name: float(value) for name, value in data["settings"].items()},
            None if outcome is None else Outcome.from_json(outcome),
            str(data["reason"]),
            math.nan if data["bleach"] is None else float(data["bleach"]),
            bool(data["dark"]),
        )


@dataclass
class Sequence:
    """The trial in progress: which frame is waited for, and what the ones before said."""

    frame: Frame = "before"
    settings: dict[str, float] = field(default_factory=dict)
    shown: dict[str, float] = field(default_factory=dict)
    before: dict[str, float] = field(default_factory=dict)
    sted: dict[str, float] = field(default_factory=dict)
    quality: float | None = None
    quality_sd: float | None = None
    saturated: bool = False
    retakes: int = 0

    def take_sted(self, detail: Mapping[str, float], settings: Mapping[str, float], quality: Assessment | None) -> None:
        """Keep what the STED frame said."""
        self.sted, self.shown = dict(detail), dict(settings)
        if quality is not None and not quality.abstained and math.isfinite(quality.value):
            self.quality = float(quality.value)
            self.quality_sd = float(quality.sd) if math.isfinite(quality.sd) else 0.05
        self.saturated = saturated(detail)
        self.frame, self.retakes = "after", 0

    def finish(self, after: Mapping[str, float], confocal_scale: float) -> Trial:
        """Compute the objectives, now that the last frame is there; a trial that came to nothing says why.

        `confocal_scale`: dose of this trial's confocal frames over the nominal one, by which signal ratios compare.
        """
        bleach, dark = _lost(self.before, after), not has_light(self.sted)
        if self.saturated:
            return Trial(self.shown, None, "the detector was saturated in the STED frame", bleach)
        judged = None
        if self.quality is not None and self.quality_sd is not None:
            judged = Assessment("quality", self.quality, self.quality_sd)
        before = dict(self.before)
        before["foreground_p75"] = before["foreground_p75"] / confocal_scale
        try:
            return Trial(self.shown, measure(before, self.sted, after, self.shown, judged), "", bleach)
        except NoOutcomeError as nothing:
            return Trial(self.shown, None, str(nothing), bleach, dark)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; NaN as null."""
        data = asdict(self)
        for name in ("before", "sted"):
            data[name] = {key: None if math.isnan(value) else value for key, value in data[name].items()}
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Sequence:
        """Inverse of `to_json`."""
        made = Sequence(**data)
        for name in ("before", "sted"):
            known = {key: math.nan if value is None else float(value) for key, value in data[name].items()}
            setattr(made, name, known)
        return made


def _lost(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Share of the confocal signal that is gone."""
    first, _ = light(before)
    if not has_light(after):
        return 1.0
    return min(1.0 - light(after)[0] / first, 1.0) if first > 0 else math.nan


def saturated(detail: Mapping[str, float]) -> bool:
    """Whether a frame says that its detector was at its limit."""
    return detail.get("saturated_share", 0.0) > SATURATED_SHARE


def not_as_commanded(observation: Observation, commanded: Mapping[str, float]) -> str:
    """Say which setting a frame was not taken with; empty if all are as commanded, within the device's rounding."""
    for name, wanted in commanded.items():
        got = observation.settings.get(name, math.nan)
        slack = POSITION_UM if name.endswith("_um") else max(RELATIVE * abs(wanted), ABSOLUTE)
        if not abs(got - wanted) <= slack:
            return f"{name} is {got:g}, {wanted:g} was asked for"
    return ""
