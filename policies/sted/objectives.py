"""What a trial of three frames was worth: signal, bleaching, resolution, time and rate, each with its noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from parfocal.models.base import Assessment
from parfocal.policies.sted.space import pixel_us_of

SIGMAS_OF_LIGHT = 3.0
"""A frame has signal where its mean above its floor exceeds its own noise this many times."""
COARSEST_NM = 300.0
"""What a frame in which nothing correlates counts as; the confocal PSF is finer."""


@dataclass(frozen=True)
class Outcome:
    """Objectives of one trial.

    Parameters
    ----------
    signal_ratio, signal_sd : float
        ``(P75 of the STED foreground - mean of its background) / P75 of the confocal foreground`` (Durand et al. 2018).
    bleach, bleach_sd : float
        Share of the confocal signal, the frame's mean above its floor, that the STED frame cost.
    resolution_nm, resolution_sd_nm : float
        By Fourier ring correlation of the thinned STED frame.
    censored : int
        1: `resolution_nm` is a bound, the image is at least as fine. -1: nothing correlates, at most as fine.
    pixel_us : float
        Time on a pixel, all line steps together.
    rate_mhz : float
        Highest count rate of a pixel.
    quality, quality_sd : float
        Of a network that judges STED images; NaN where none was asked.
    """

    signal_ratio: float
    signal_sd: float
    bleach: float
    bleach_sd: float
    resolution_nm: float
    resolution_sd_nm: float
    censored: int
    pixel_us: float
    rate_mhz: float
    quality: float = math.nan
    quality_sd: float = math.nan

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; NaN as null."""
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(self).items()}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """Inverse of `to_json`."""
        known: dict[str, Any] = {k: math.nan if v is None else v for k, v in data.items()}
        return Outcome(**known)


class NoOutcomeError(Exception):
    """A trial of which nothing can be said; the message says why. Never leaves the policy."""


def light(detail: Mapping[str, float]) -> tuple[float, float]:
    """Signal of a frame, its mean above its floor, and the standard deviation; counts a pixel."""
    return detail.get("light_counts", math.nan), detail.get("light_sem", 0.0)


def has_light(detail: Mapping[str, float]) -> bool:
    """Whether a frame shows anything above its background."""
    signal, sd = light(detail)
    return "foreground_p75" in detail and detail.get("structured", 0.0) == 1.0 and signal > SIGMAS_OF_LIGHT * sd


def rate_mhz(detail: Mapping[str, float], settings: Mapping[str, float]) -> float:
    """Highest count rate of a pixel in a frame; NaN where counts or dwell are not known."""
    time = pixel_us_of(settings)
    return detail.get("max_counts", math.nan) / time if time > 0 else math.nan


def rate_bound_mhz(detail: Mapping[str, float], settings: Mapping[str, float]) -> float:
    """What the highest count rate may have been, for all that few counts say: two standard deviations more."""
    time, most = pixel_us_of(settings), max(detail.get("max_counts", math.nan), 0.0)
    return (most + 2.0 * math.sqrt(most) + 3.0) / time if time > 0 else math.nan


def measure(
    before: Mapping[str, float],
    sted: Mapping[str, float],
    after: Mapping[str, float],
    settings: Mapping[str, float],
    quality: Assessment | None = None,
) -> Outcome:
    """Compute the objectives of a trial from the details of `sted_measures` of its three frames.

    Parameters
    ----------
    before, sted, after : mapping
        Details of the confocal frame before, the STED frame, the confocal frame after.
    settings : mapping
        As read back while the STED frame was exposed.
    quality : Assessment, optional
        Of the STED frame.

    Raises
    ------
    NoOutcomeError
        The confocal frame before has no signal, or the STED frame none above its background.
    """
    first, first_sd = light(before)
    if not has_light(before):
        raise NoOutcomeError("the confocal frame before shows no structure")
    if not has_light(sted):
        raise NoOutcomeError("the STED frame shows nothing above its background")
    bleach, bleach_sd = _bleach(first, first_sd, after)
    ratio, ratio_sd = _signal(before, sted)
    resolution, resolution_sd, censored = _resolution(sted)
    known = quality is not None and not quality.abstained
    return Outcome(
        signal_ratio=ratio,
        signal_sd=ratio_sd,
        bleach=bleach,
        bleach_sd=bleach_sd,
        resolution_nm=resolution,
        resolution_sd_nm=resolution_sd,
        censored=censored,
        pixel_us=pixel_us_of(settings),
        rate_mhz=rate_mhz(sted, settings),
        quality=float(quality.value) if quality is not None and known else math.nan,
        quality_sd=float(quality.sd) if quality is not None and known else math.nan,
    )


def _signal(before: Mapping[str, float], sted: Mapping[str, float]) -> tuple[float, float]:
    """Return how bright the STED frame is, as a share of the confocal one before, and the sd of that."""
    ratio = (sted["foreground_p75"] - sted["background_mean"]) / before["foreground_p75"]
    if not ratio > 0:
        raise NoOutcomeError("the STED frame's brightest quarter is no brighter than its background")
    (first, first_sd), (lit, lit_sd) = light(before), light(sted)
    return ratio, ratio * math.hypot(lit_sd / lit, first_sd / first)


def _bleach(first: float, first_sd: float, after: Mapping[str, float]) -> tuple[float, float]:
    """Share lost and its noise; a frame after without structure has lost everything it could show."""
    if after.get("structured", 0.0) != 1.0:
        return 1.0, 0.1
    second, second_sd = light(after)
    left = second / first
    # At most what there was; noise may say slightly more, and the surrogate is told by how much.
    return min(1.0 - left, 1.0), math.hypot(second_sd / first, left * first_sd / first)


def _resolution(detail: Mapping[str, float]) -> tuple[float, float, int]:
    censored = int(detail.get("resolution_censored", 0.0))
    value = detail.get("resolution_nm", math.nan)
    if censored < 0 or not math.isfinite(value):
        return COARSEST_NM, COARSEST_NM / 3, -1
    value = min(value, COARSEST_NM)
    sd = detail.get("resolution_sd_nm", math.nan)
    return value, sd if math.isfinite(sd) and sd > 0 else 0.1 * value, censored
