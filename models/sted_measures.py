"""The model `sted_measures`: what a STED or confocal frame of photon counts says without any network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal import did_you_mean
from parfocal.models.base import Assessment, ModelCard, ModelError, check_images
from parfocal.models.metrics.decorrelation import decorrelation
from parfocal.models.metrics.frc import FrcResult, FrcStatus, two_half_frc
from parfocal.models.saturation import saturated_share

NAME = "sted_measures"
SMOOTH_PX = 1.0
FLOOR_PX = 3.0
FLOOR_SHARE = 0.05
SATURATED_SHARE = 0.01
MIN_DISPERSION = 1.25
_BINS = 256
_THINNING_SEED = 20180917
_OPTIONS = ("gain", "offset", "saturation_counts", "min_dispersion", "decorrelation")
_COARSER = (FrcStatus.NO_CORRELATION, FrcStatus.CONSTANT)


class StedMeasures:
    """Signal, background and resolution of frames of photon counts; see `make` for the options.

    ``value`` is the signal: mean of the foreground minus mean of the background, in photons a pixel, ``sd`` its noise.
    Foreground is what Otsu's threshold of the frame, smoothed by `SMOOTH_PX`, calls bright. ``detail`` holds, also
    when the model abstains:

    - ``foreground_p75`` (75 % quantile of the smoothed frame: raw counts of dim frames are few whole numbers),
      ``foreground_mean``, ``foreground_sem``, ``foreground_share``, ``background_mean``, ``background_sem`` (means and
      their standard errors from the photons, of the raw frame); ``mean_counts``, ``max_counts``;
    - ``light_counts``, ``light_sem``: mean of the whole frame above its floor (5 % quantile of the frame smoothed by
      `FLOOR_PX`). It is linear in what is there to glow, wherever that lies, which a threshold of its own for every
      frame is not: what is bleached unevenly moves the foreground;
    - ``resolution_nm``, ``resolution_sd_nm``: Fourier ring correlation of the thinned frame, 1/7; px where the size
      of a pixel is not known. ``resolution_censored``: 1, the number is a bound and the frame at least as fine; -1,
      nothing correlates and there is no number; 0, measured. ``decorrelation_nm``;
    - ``dispersion``: variance of the smoothed frame over what photon noise alone gives; ``structured``: 1 if it is
      above ``dispersion_threshold``; ``saturated_share``.

    It abstains on frames that are constant, without structure, or saturated.
    """

    def __init__(
        self,
        gain: float = 1.0,
        offset: float = 0.0,
        saturation_counts: float | None = None,
        min_dispersion: float = MIN_DISPERSION,
        with_decorrelation: bool = True,
    ) -> None:
        self._gain, self._offset = gain, offset
        self._saturation_counts, self._min_dispersion = saturation_counts, min_dispersion
        self._with_decorrelation = with_decorrelation
        self.card = ModelCard(
            name=NAME,
            version="1",
            architecture="Otsu foreground and thinned Fourier ring correlation, no weights",
            weights_file="none",
            weights_sha256="0" * 64,
            input={"unit": "photon counts", "gain": gain, "offset": offset},
            notes=("needs raw counts: nothing filtered, no baseline moved but the stated offset",),
        )

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Measure raw frames (n, height, width); `pixel_um` 0 means unknown.

        Raises
        ------
        ImageError
            Not a batch of finite real images of at least 32x32 px.
        """
        array = check_images(images)
        unit = 1000.0 * pixel_um if math.isfinite(pixel_um) and pixel_um > 0 else 1.0
        with torch.inference_mode():
            frc = two_half_frc(array, _THINNING_SEED, self._gain, self._offset)
            fine = decorrelation(array).resolution_px.tolist() if self._with_decorrelation else [math.nan] * len(array)
        return [
            self._one(frame, _resolution(frc, index, unit) | {"decorrelation_nm": fine[index] * unit})
            for index, frame in enumerate(array)
        ]

    def describe(self) -> dict[str, Any]:
        """How it runs here."""
        return {"device": "cpu", "backend": "torch", "precision": "float64"}

    def _one(self, frame: NDArray[Any], resolution: dict[str, float]) -> Assessment:
        photons = (np.asarray(frame, dtype=np.float64) - self._offset) / self._gain
        detail = foreground(photons) | dispersion(photons) | resolution
        detail["mean_counts"], detail["max_counts"] = float(photons.mean()), float(photons.max())
        floor = float(np.quantile(gaussian_filter(photons, FLOOR_PX), FLOOR_SHARE))
        detail["light_counts"], detail["light_sem"] = detail["mean_counts"] - floor, _photon_sem(photons.ravel())
        detail["dispersion_threshold"] = self._min_dispersion
        detail["saturated_share"] = saturated_share(frame, self._saturation_counts)
        detail["structured"] = 1.0 if detail["dispersion"] > self._min_dispersion else 0.0
        if detail["max_counts"] == float(photons.min()):
            return Assessment.abstain(NAME, "empty: all pixels are the same", detail)
        if detail["saturated_share"] > SATURATED_SHARE:
            share = detail["saturated_share"]
            return Assessment.abstain(NAME, f"saturated: {share:.1%} of the pixels are at the detector's limit", detail)
        if not detail["structured"]:
            why = f"no structure: it varies {detail['dispersion']:.2f} times as much as photon noise alone"
            return Assessment.abstain(NAME, why, detail)
        sd = math.hypot(detail["foreground_sem"], detail["background_sem"])
        return Assessment(NAME, detail["foreground_mean"] - detail["background_mean"], sd, detail=detail)


def foreground(photons: NDArray[np.float64]) -> dict[str, float]:
    """Measure foreground and background of a frame, told apart by Otsu's threshold of the smoothed frame."""
    smooth = gaussian_filter(photons, SMOOTH_PX)
    bright = smooth > otsu(smooth)
    if bright.all() or not bright.any():
        bright = np.zeros_like(bright)
    inside, outside = photons[bright], photons[~bright]
    none = math.nan
    return {
        "foreground_p75": float(np.quantile(smooth[bright], 0.75)) if inside.size else none,
        "foreground_mean": float(inside.mean()) if inside.size else none,
        "foreground_sem": _photon_sem(inside),
        "foreground_share": float(bright.mean()),
        "background_mean": float(outside.mean()),
        "background_sem": _photon_sem(outside),
    }


def dispersion(photons: NDArray[np.float64]) -> dict[str, float]:
    """Variance of the smoothed frame over that of photon noise; 1 without structure, NaN without light.

    The kernel passes the share ``sum(k^2)`` of white noise; for Poisson counts its variance is their mean.
    """
    smooth = gaussian_filter(photons, SMOOTH_PX)
    expected = photons.mean() * _KERNEL_POWER
    return {"dispersion": float(smooth.var() / expected) if expected > 0 else math.nan}


def otsu(values: NDArray[np.float64]) -> float:
    """Threshold that leaves the least variance within the two classes (Otsu 1979), on 256 bins."""
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return high
    counts, edges = np.histogram(values, _BINS, (low, high))
    middles = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    summed = np.cumsum(counts * middles)
    mean_below = summed[:-1] / np.maximum(below, 1)
    mean_above = (summed[-1] - summed[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_below - mean_above) ** 2))])


def _kernel_power() -> float:
    """Sum of the squares of the smoothing kernel."""
    size = 33
    point = np.zeros((size, size))
    point[size // 2, size // 2] = 1.0
    return float((gaussian_filter(point, SMOOTH_PX) ** 2).sum())


_KERNEL_POWER = _kernel_power()


def _photon_sem(values: NDArray[np.float64]) -> float:
    """Standard error of a mean of Poisson counts, as if there was one count more: none seen is not no noise."""
    return math.sqrt(max(float(values.sum()), 0.0) + 1.0) / values.size if values.size else math.nan


def _resolution(frc: FrcResult, index: int, unit: float) -> dict[str, float]:
    status = FrcStatus(int(frc.status[index]))
    if status == FrcStatus.MEASURED:
        value, sd, censored = float(frc.resolution_px[index]), float(frc.sd_px[index]), 0.0
    elif status in _COARSER or not bool(frc.censored[index]):
        value, sd, censored = math.nan, math.nan, -1.0
    else:
        value, sd, censored = float(frc.bound_px[index]), math.nan, 1.0
    return {
        "resolution_nm": value * unit,
        "resolution_sd_nm": sd * unit,
        "resolution_censored": censored,
        "resolution_status": float(status),
    }


def make(options: Mapping[str, Any]) -> StedMeasures:
    """Make the model from plain options.

    Parameters
    ----------
    options : mapping
        ``gain`` (1) and ``offset`` (0): counts per photon and counts without light. ``saturation_counts``: the count
        at which the detector clips; by default guessed from the frame. ``min_dispersion`` (1.25): variance over photon
        noise below which a frame has no structure. ``decorrelation`` (true): measure that too.

    Raises
    ------
    ModelError
        An unknown option, or a value out of range.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ModelError(f"{NAME}: unknown option {key!r}{did_you_mean(key, _OPTIONS)}")
    offset, with_decorrelation = options.get("offset", 0.0), options.get("decorrelation", True)
    if isinstance(offset, bool) or not isinstance(offset, int | float) or not math.isfinite(offset):
        raise ModelError(f"{NAME}: 'offset' must be a finite number (got {offset!r})")
    if not isinstance(with_decorrelation, bool):
        raise ModelError(f"{NAME}: 'decorrelation' must be true or false (got {with_decorrelation!r})")
    saturation = options.get("saturation_counts")
    return StedMeasures(
        _positive("gain", options.get("gain", 1.0)),
        float(offset),
        None if saturation is None else _positive("saturation_counts", saturation),
        _positive("min_dispersion", options.get("min_dispersion", MIN_DISPERSION)),
        with_decorrelation,
    )


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value <= 0:
        raise ModelError(f"{NAME}: {name!r} must be a positive number (got {value!r})")
    return float(value)
