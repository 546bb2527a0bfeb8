"""What STED settings are worth in truth: objectives without noise, in the mean over fields that nobody has tuned on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from parfocal.models.sted_measures import StedMeasures, foreground
from parfocal.policies.sted.objectives import COARSEST_NM
from parfocal.policies.sted.preference import Preference
from parfocal.policies.sted.space import Settings, Space
from parfocal.simulator.sted.detector import after_dead_time, count
from parfocal.simulator.sted.dyes import Dye, make_dye
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import light, plan_for
from parfocal.simulator.sted.settings import StedSettings

PIXEL_UM = 0.02
FRESH_SEED = 990_000
"""Of the fields on which is judged; the seeds of the fields on which is tuned are small numbers."""
FEW, SOME, MANY = 2, 6, 16
SCREENED = 256
NEAR_WIDTH = 0.05


@dataclass(frozen=True)
class Place:
    """What is to be imaged: a structure with a dye, named or as a mapping (its items, so that it can be a key)."""

    structure: str
    dye: str | tuple[tuple[str, Any], ...]
    size_px: int = 128

    @property
    def dye_option(self) -> Any:
        """The dye as a configuration names it."""
        return self.dye if isinstance(self.dye, str) else dict(self.dye)

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.structure}/{self.dye if isinstance(self.dye, str) else dict(self.dye).get('base')}"


@dataclass(frozen=True)
class Wanted:
    """What counts: the preference, where settings may lie, the confocal settings, the detector's highest rate."""

    wish: Preference
    space: Space
    confocal: Mapping[str, float]
    max_rate_mhz: float


@lru_cache(maxsize=64)
def _field(place: Place, number: int) -> StedSample:
    dye: Dye = make_dye(place.dye_option)
    shape, seed = (place.size_px, place.size_px), FRESH_SEED + number
    return StedSample.make(place.structure, shape, pixel_um=PIXEL_UM, seed=seed, dye=dye)


@lru_cache(maxsize=64)
def _reference(place: Place, number: int, confocal: StedSettings) -> float:
    """Return the 75 % quantile of the foreground of the confocal frame that the signal ratio refers to."""
    return foreground(_noiseless(_field(place, number), confocal)[0])["foreground_p75"]


def _noiseless(sample: StedSample, settings: StedSettings) -> tuple[Any, float, Any]:
    """Return mean counts of a scan, the share of molecules it takes, and the photons that make the counts."""
    plan = plan_for(sample, settings)
    photons = light(sample.molecules, plan)
    events = photons + sample.optics.background_per_us * settings.pixel_us
    present = sample.field(sample.molecules).astype(np.float64)
    lost = float(np.sum(present * (1.0 - sample.field(plan.survive)))) / max(float(present.sum()), 1.0)
    return np.asarray(after_dead_time(events, sample.optics, settings), dtype=np.float64), lost, photons


def scan_settings(settings: Mapping[str, float]) -> StedSettings:
    """Settings as the simulator takes them."""
    return StedSettings(
        settings["excitation_power"], settings["depletion_power"], settings["dwell_us"],
        int(settings.get("line_steps", 1)),
    )  # fmt: skip


def objectives(place: Place, settings: Mapping[str, float], confocal: Mapping[str, float], fields: int) -> Settings:
    """Return the objectives of settings, in the mean over so many fresh fields.

    Signal ratio and bleaching are those of the expected image and of the molecules themselves. A resolution is that of
    counts: the mean of what the thinned Fourier ring correlation finds; field n always has the same noise.
    """
    asked, reference = scan_settings(settings), scan_settings({"depletion_power": 0.0, **confocal})
    ratios, lost, frames, rates = [], [], [], []
    for number in range(fields):
        sample = _field(place, number)
        mean, share, photons = _noiseless(sample, asked)
        seen = foreground(mean)
        ratios.append((seen["foreground_p75"] - seen["background_mean"]) / _reference(place, number, reference))
        lost.append(share)
        rates.append(float(mean.max()) / asked.pixel_us)
        frames.append(count(photons, sample.optics, asked, np.random.default_rng([FRESH_SEED, number])))
    measures = StedMeasures(with_decorrelation=False)
    nm = [said.detail["resolution_nm"] for said in measures.assess(np.stack(frames), PIXEL_UM)]
    finite = [min(value, COARSEST_NM) if np.isfinite(value) else COARSEST_NM for value in nm]
    ratio = float(np.mean(np.nan_to_num(ratios)))
    return {
        "signal_ratio": ratio, "bleach": float(np.mean(lost)), "resolution_nm": float(np.mean(finite)),
        "pixel_us": asked.pixel_us, "rate_mhz": float(np.max(rates)),
    }  # fmt: skip


def utility(place: Place, settings: Mapping[str, float], wanted: Wanted, fields: int) -> float:
    """Return what settings are worth in truth, 0 to 1; nothing where the detector would see more than it may."""
    known = objectives(place, settings, wanted.confocal, fields)
    if known["rate_mhz"] > wanted.max_rate_mhz:
        return 0.0
    return float(wanted.wish.utility({name: np.array([value]) for name, value in known.items()})[0])


def best_settings(
    place: Place, wanted: Wanted, screened: int = SCREENED, fields: Sequence[int] = (FEW, SOME, MANY)
) -> Settings:
    """Search the whole space for the settings of the highest true utility.

    A Sobol set on a few fields; the best eighth of it, and neighbours of the best of those, on more; the best on many.
    """
    space, (few, some, many) = wanted.space, fields
    rows = space.candidates(screened, [7])
    made = [space.settings(row) for row in rows]
    made = _best_of(made, place, wanted, few, max(4, screened // 8))
    made = _best_of(made, place, wanted, some, 8)
    rng = np.random.default_rng(7)
    for width in (NEAR_WIDTH, NEAR_WIDTH / 2):
        centres = np.concatenate([space.unit(space.array(one)) for one in made[:4]])
        shifted = np.repeat(centres, max(2, screened // 32), axis=0)
        shifted = np.clip(shifted + width * rng.standard_normal(shifted.shape), 0.0, 1.0)
        made = _best_of([*made, *map(space.settings, space.from_unit(shifted))], place, wanted, some, 8)
    return _best_of(made, place, wanted, many, 1)[0]


def _best_of(made: Sequence[Settings], place: Place, wanted: Wanted, fields: int, keep: int) -> list[Settings]:
    ranked = sorted(made, key=lambda settings: -utility(place, settings, wanted, fields))
    return list(ranked[:keep])
