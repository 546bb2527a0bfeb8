"""The model `sharpness`: classical metrics as one assessment, for the baselines and for watching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal import did_you_mean
from parfocal.models.base import Assessment, ModelCard, ModelError, check_images
from parfocal.models.emptiness import Content, content, saturated_fraction
from parfocal.models.metrics import METRICS, Planes, measure

NAME = "sharpness"
DEFAULT_METRIC = "midband"
DEFAULT_METRICS = ("midband", "brenner", "tenengrad", "edges", "log_variance", "jaf")
"""The cheap ones that fail nowhere, and the scores the baseline policies need."""
SATURATED_SHARE = 0.01
MIN_CONTRAST = 1.3
GRID = 4
TILE_MIN_PX = 32
_OPTIONS = ("metric", "metrics", "saturation_counts", "min_contrast")


class Sharpness:
    """Classical focus metrics of a frame; see `make` for the options.

    ``value`` is the chosen metric, in its own unit; larger is sharper. ``sd`` is how far the value would scatter had
    another part of the sample been in view: the metric of each of 4x4 tiles, their relative spread, over the root of
    their number (what a delete-one-tile jackknife gives for a metric that is a sum or a mean over the frame). Frames
    with a side below 64 px have no tiles; there the sd is the value itself. ``detail`` holds every metric under its
    name, ``contrast`` (1: noise alone), ``contrast_threshold``, ``noise_counts`` and ``saturated_share``, also when the
    model abstains. A metric that is undefined, such as one divided by a mean of zero, is NaN.

    It abstains on a frame without contrast above its own noise, on one of which more than 1 % is saturated, and where
    the chosen metric is undefined.
    """

    def __init__(
        self,
        metric: str = DEFAULT_METRIC,
        metrics: Sequence[str] = DEFAULT_METRICS,
        saturation_counts: float | None = None,
        min_contrast: float = MIN_CONTRAST,
    ) -> None:
        self._metric = metric
        self._metrics = tuple(dict.fromkeys((metric, *metrics)))
        self._saturation_counts = saturation_counts
        self._min_contrast = min_contrast
        self.card = ModelCard(
            name=NAME,
            version="1",
            architecture="classical metrics, no weights",
            weights_file="none",
            weights_sha256="0" * 64,
            input={"metric": metric, "metrics": list(self._metrics), "unit": "camera counts"},
            notes=("no training; the value has no absolute meaning, only its change along z",),
        )

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Measure raw frames (n, height, width); `pixel_um` does not enter.

        Raises
        ------
        ImageError
            Not a batch of finite real images of at least 32x32 px.
        """
        array = check_images(images)
        with torch.inference_mode():
            planes = Planes(array)
            values = measure(planes, self._metrics)
            held = content(planes, self._min_contrast, integer=array.dtype.kind in "ui")
            saturated = saturated_fraction(planes, self._level(array.dtype))
            sds = self._sd(planes, values[self._metric])
        return [
            self._one(
                {name: float(value[index]) for name, value in values.items()},
                _content_detail(held, index) | {"saturated_share": float(saturated[index])},
                float(sds[index]),
            )
            for index in range(len(array))
        ]

    def describe(self) -> dict[str, Any]:
        """How it runs here."""
        return {"device": "cpu", "backend": "torch", "precision": "float32, sums in float64"}

    def _one(self, values: dict[str, float], facts: dict[str, float], sd: float) -> Assessment:
        detail = values | facts
        value = values[self._metric]
        if facts["saturated_share"] > SATURATED_SHARE:
            reason = f"saturated: {facts['saturated_share']:.1%} of the pixels are at the camera's limit"
        elif facts["contrast"] < facts["contrast_threshold"]:
            reason = f"empty: contrast is {facts['contrast']:.2f} times what noise alone gives"
        elif not (np.isfinite(value) and np.isfinite(sd)):
            reason = f"{self._metric} is undefined for this frame"
        else:
            return Assessment(NAME, value, sd, detail=detail)
        return Assessment.abstain(NAME, reason, detail)

    def _sd(self, planes: Planes, value: torch.Tensor) -> torch.Tensor:
        grid = min(GRID, planes.height // TILE_MIN_PX, planes.width // TILE_MIN_PX)
        if grid < 2:
            return value.abs()
        tiles = METRICS[self._metric](planes.tiles(grid)).reshape(-1, grid**2)
        spread, mean = torch.std_mean(tiles, dim=1)
        # Tiles of no content at all leave nothing to scale with: then nothing is known of the value's scatter.
        return torch.where(mean != 0, value.abs() * spread / mean.abs() / grid, value.abs())

    def _level(self, dtype: np.dtype[Any]) -> float | None:
        if self._saturation_counts is not None:
            return self._saturation_counts
        return float(np.iinfo(dtype).max) if dtype.kind in "ui" else None


def make(options: Mapping[str, Any]) -> Sharpness:
    """Make the model from plain options.

    Parameters
    ----------
    options : mapping
        ``metric`` (default "midband"): the value. ``metrics``: names for `detail`, or "all"; by default a cheap set.
        ``saturation_counts``: the count at which the camera clips; by default the largest of the pixel type.
        ``min_contrast`` (1.3): contrast over noise below which a frame is empty.

    Raises
    ------
    ModelError
        An unknown option or metric, or a value out of range.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ModelError(f"sharpness: unknown option {key!r}{did_you_mean(key, _OPTIONS)}")
    metrics = options.get("metrics", DEFAULT_METRICS)
    names = tuple(METRICS) if metrics == "all" else metrics
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ModelError(f"sharpness: 'metrics' must be a list of names or 'all' (got {metrics!r})")
    metric = options.get("metric", DEFAULT_METRIC)
    for name in (metric, *names):
        if name not in METRICS:
            raise ModelError(f"sharpness: unknown metric {name!r}{did_you_mean(str(name), METRICS)}")
    saturation = options.get("saturation_counts")
    return Sharpness(
        metric,
        names,
        None if saturation is None else _positive("saturation_counts", saturation),
        _positive("min_contrast", options.get("min_contrast", MIN_CONTRAST)),
    )


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
        raise ModelError(f"sharpness: {name!r} must be a positive number (got {value!r})")
    return float(value)


def _content_detail(held: Content, index: int) -> dict[str, float]:
    return {
        "contrast": float(held.contrast[index]),
        "contrast_threshold": float(held.threshold[index]),
        "noise_counts": float(held.noise[index]),
    }
