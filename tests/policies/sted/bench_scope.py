"""An analytic STED microscope: laws of resolution, bleaching and signal with noise, told as `sted_measures` would."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Change, Finish, Observation, Policy


@dataclass
class Dye:
    """Factors by which a dye departs from the laws."""

    bleach: float = 1.0
    bright: float = 1.0
    saturation_mw: float = 19.6
    bleach_exponent: float = 0.73


ROBUST, FRAGILE, DIM, HARD = Dye(), Dye(3.4, 1.0, 19.6, 0.78), Dye(1.0, 0.15), Dye(1.5, 1.0, 70.0)


@dataclass
class Scope:
    """A microscope with settings, fields and a sample; `frame` takes one."""

    dye: Dye = field(default_factory=Dye)
    seed: int = 0
    field_sd: float = 0.1
    settings: dict[str, float] = field(
        default_factory=lambda: {
            "excitation_power": 0.0, "depletion_power": 0.0, "dwell_us": 10.0, "line_steps": 1.0, "x_um": 0.0,
            "y_um": 0.0, "z_um": 0.0,
        }
    )  # fmt: skip
    empty: bool = False
    dead_after: int = 10**9
    dead_sted: bool = False
    dead_time_us: float = 0.0
    pixels: int = 128 * 128
    stuck: bool = False

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.left: dict[tuple[float, float], float] = {}
        self.brightness: dict[tuple[float, float], float] = {}
        self.index, self.time_s, self.dose, self.bleached, self.spent = 0, 0.0, 0.0, [], 0.0
        self.requests: list[dict[str, float]] = []

    def apply(self, settings: Mapping[str, float]) -> None:
        self.requests.append(dict(settings))
        if not self.stuck:
            self.settings |= settings

    def law(self, s: Mapping[str, float]) -> dict[str, float]:
        """True FWHM, hazard and signal per molecule of a scan."""
        lines = s.get("line_steps", 1.0)
        dose, power = s["excitation_power"] * s["dwell_us"] * lines, s["depletion_power"]
        ratio = 1.0 + power / self.dye.saturation_mw
        hazard = self.dye.bleach * 0.0063 * dose * ((power + 3.0) / 100.0) ** self.dye.bleach_exponent
        seen = (1.0 - math.exp(-hazard)) / hazard if hazard > 1e-9 else 1.0  # it fades while it is scanned
        return {
            "fwhm": 220.0 / math.sqrt(ratio),
            "hazard": hazard,
            "signal": self.dye.bright * 4.0 * dose * ratio**-0.7 * seen,
            "pixel_us": s["dwell_us"] * lines,
        }

    def frame(self) -> Observation:
        s, rng = self.settings, self.rng
        place = (round(s["x_um"], 3), round(s["y_um"], 3))
        bright = self.brightness.setdefault(place, math.exp(self.field_sd * rng.standard_normal()))
        left, law = self.left.setdefault(place, 1.0), self.law(s)
        self.index += 1
        alive = self.index <= self.dead_after and not (self.dead_sted and s["depletion_power"] > 0)
        signal = 0.0 if self.empty or not alive else law["signal"] * bright * left
        background = 0.016 * law["pixel_us"]
        count, share = self.pixels, 0.2
        mean_in = max(rng.poisson((signal + background) * count * share) / (count * share), 0.0)
        mean_out = rng.poisson((background + 0.05 * signal) * count * (1 - share)) / (count * (1 - share))
        top = float(rng.poisson(2.5 * signal + background + 1e-9, 20).max())  # of the brightest pixels
        photons = signal * (law["fwhm"] / 220.0) ** -0.5
        snr = photons / math.sqrt(photons + background + 1e-9)
        seen = law["fwhm"] * (1.0 + 0.8 / max(snr, 1e-3)) * math.exp(0.05 * rng.standard_normal())
        limit = law["pixel_us"] / self.dead_time_us if self.dead_time_us else math.inf
        structured = signal > 0.02 and snr > 0.3
        detail = {
            "foreground_mean": mean_in, "foreground_p75": 1.4 * mean_in,
            "foreground_sem": math.sqrt(mean_in * count * share + 1) / (count * share),
            "background_mean": mean_out, "background_sem": math.sqrt(mean_out * count + 1) / count,
            "light_counts": share * (mean_in - mean_out),
            "light_sem": math.sqrt(mean_in * share + 1) / math.sqrt(count),
            "mean_counts": share * mean_in + (1 - share) * mean_out, "max_counts": min(top, limit),
            "resolution_nm": seen if seen < 300 else math.nan, "resolution_sd_nm": 0.05 * seen,
            "resolution_censored": 0.0 if seen < 300 else -1.0, "structured": float(structured),
            "saturated_share": 0.05 if 2.0 * signal > limit else 0.0,
        }  # fmt: skip
        survived = math.exp(-law["hazard"]) if alive else 1.0
        self.left[place] = left * survived
        if s["depletion_power"] > 0:
            self.bleached.append(1.0 - survived)
        seconds = self.pixels * law["pixel_us"] * 1e-6
        self.time_s += seconds
        self.dose += s["excitation_power"] * seconds * 1e3
        said = Assessment("sted_measures", mean_in - mean_out, 0.1, detail=detail)
        if not structured:
            said = Assessment.abstain("sted_measures", "no structure", detail)
        return Observation(self.index, dict(s), self.time_s, self.dose, {"sted_measures": said})

    def truth(
        self, settings: Mapping[str, float], wish: Any, confocal_dose: float = 10.0, max_rate_mhz: float = 15.0
    ) -> float:
        """Utility of settings without noise."""
        s = {**self.settings, **settings}
        law = self.law(s)
        reference = self.dye.bright * 4.0 * confocal_dose
        photons = law["signal"] * (law["fwhm"] / 220.0) ** -0.5
        snr = photons / math.sqrt(photons + 0.016 * law["pixel_us"])
        values = {
            "resolution_nm": min(law["fwhm"] * (1 + 0.8 / max(snr, 1e-3)), 300.0),
            "bleach": 1 - math.exp(-law["hazard"]),
            "signal_ratio": law["signal"] / reference,
            "pixel_us": law["pixel_us"],
        }
        if 2.5 * law["signal"] / law["pixel_us"] > max_rate_mhz:
            return 0.0
        return float(wish.utility({name: np.array([value]) for name, value in values.items()})[0])


def drive(policy: Policy, scope: Scope, frames: int = 400) -> tuple[list[Action], Finish | None]:
    """Run the ordinary cycle, one frame and one action at a time, until the policy finishes."""
    actions: list[Action] = []
    for _ in range(frames):
        policy.tell(scope.frame())
        action = policy.ask()
        actions.append(action)
        if isinstance(action, Change):
            scope.apply(action.settings)
        if isinstance(action, Finish):
            scope.apply(action.settings)
            return actions, action
    return actions, None
