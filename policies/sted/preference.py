"""What is wanted of an image, as one number between 0 and 1: weights over bounded objectives, or a learned network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, Self

import numpy as np
from pydantic import Field, model_validator

from parfocal.policies.options import Options
from parfocal.policies.sted.prefnet import PrefNet
from parfocal.policies.sted.space import Vector

Values = Mapping[str, Vector]
"""Objectives by name: signal_ratio, bleach, resolution_nm, pixel_us and, where it is judged, quality; equal shapes."""


class Preference(Protocol):
    """Turns objectives into utility."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The objectives that enter."""
        ...

    def utility(self, values: Values) -> Vector:
        """Utility, 0..1, of objectives of any one shape."""
        ...


class Weights(Options):
    """A stated scalarisation: every objective rescaled to 0..1, then the weighted geometric (or arithmetic) mean.

    With ``form: product`` an image is worth nothing where it fails in one respect. A weighted sum would reward the
    frame without light: it bleaches nothing and takes no time.

    Parameters
    ----------
    form : {"product", "sum"}
        Geometric or arithmetic mean.
    resolution, bleach, signal, time, quality : float
        Weights; any scale, what counts is their share. ``quality``: of the value of a network that judges images.
    fine_nm, coarse_nm : float
        Resolution that is worth 1 and 0; linear between, bounded outside. A STED image no finer than a confocal one
        (220 nm) is worth nothing.
    signal_scale : float
        Signal ratio S is worth ``1 - exp(-S / signal_scale)``: beyond two or three times the scale more light is no
        better.
    fast_us, slow_us : float
        Time on a pixel that is worth 1 and 0; linear in the logarithm.
    """

    form: Literal["product", "sum"] = "product"
    resolution: float = Field(default=0.5, ge=0, lt=math.inf)
    bleach: float = Field(default=0.3, ge=0, lt=math.inf)
    signal: float = Field(default=0.12, ge=0, lt=math.inf)
    time: float = Field(default=0.08, ge=0, lt=math.inf)
    quality: float = Field(default=0.0, ge=0, lt=math.inf)
    fine_nm: float = Field(default=40.0, gt=0, lt=math.inf)
    coarse_nm: float = Field(default=220.0, gt=0, lt=math.inf)
    signal_scale: float = Field(default=0.2, gt=0, lt=math.inf)
    fast_us: float = Field(default=1.0, gt=0, lt=math.inf)
    slow_us: float = Field(default=300.0, gt=0, lt=math.inf)

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.resolution + self.bleach + self.signal + self.time + self.quality <= 0:
            raise ValueError("at least one weight must be positive")
        if not self.fine_nm < self.coarse_nm:
            raise ValueError(f"fine_nm ({self.fine_nm:g}) must be below coarse_nm ({self.coarse_nm:g})")
        if not self.fast_us < self.slow_us:
            raise ValueError(f"fast_us ({self.fast_us:g}) must be below slow_us ({self.slow_us:g})")
        return self

    @property
    def needs(self) -> tuple[str, ...]:
        """The objectives that enter."""
        names = {"resolution": "resolution_nm", "bleach": "bleach", "signal": "signal_ratio", "time": "pixel_us"}
        return tuple(
            names.get(part, part)
            for part in ("resolution", "bleach", "signal", "time", "quality")
            if getattr(self, part) > 0
        )

    def worths(self, values: Values) -> dict[str, Vector]:
        """Rescale every objective that has a weight to 0..1, by the name of its weight."""
        scaled: dict[str, Callable[[], Vector]] = {
            "resolution": lambda: (self.coarse_nm - values["resolution_nm"]) / (self.coarse_nm - self.fine_nm),
            "bleach": lambda: 1.0 - values["bleach"],
            "signal": lambda: -np.expm1(-np.maximum(values["signal_ratio"], 0.0) / self.signal_scale),
            "time": lambda: np.log(self.slow_us / values["pixel_us"]) / math.log(self.slow_us / self.fast_us),
            "quality": lambda: values["quality"],
        }
        return {part: np.clip(make(), 0.0, 1.0) for part, make in scaled.items() if getattr(self, part) > 0}

    def utility(self, values: Values) -> Vector:
        """Utility, 0..1."""
        worths = self.worths(values)
        total = sum(getattr(self, part) for part in worths)
        if self.form == "sum":
            mean: Vector = sum((getattr(self, part) / total) * worth for part, worth in worths.items())
            return mean
        logs = sum((getattr(self, part) / total) * np.log(np.maximum(worth, 1e-12)) for part, worth in worths.items())
        product: Vector = np.exp(logs)
        return product


@dataclass(frozen=True)
class Learned:
    """A preference network as utility: its score through a logistic whose scale is that of its training outcomes."""

    net: PrefNet

    @property
    def needs(self) -> tuple[str, ...]:
        """The objectives that enter."""
        return self.net.inputs

    def utility(self, values: Values) -> Vector:
        """Utility, 0..1."""
        stacked = np.stack([np.asarray(values[name], dtype=np.float64) for name in self.net.inputs], axis=-1)
        score = self.net.score(stacked)
        utility: Vector = 1.0 / (1.0 + np.exp(-np.clip((score - self.net.middle) / self.net.width, -50.0, 50.0)))
        return utility


def make_preference(options: Mapping[str, Any]) -> Preference:
    """Make a preference from plain JSON: weights, or ``{"prefnet": ...}`` as `PrefNet.to_json` writes it.

    Raises
    ------
    ValueError
        Neither of the two (pydantic's `ValidationError` is one).
    """
    if "prefnet" in options:
        others = sorted(set(options) - {"prefnet"})
        if others:
            raise ValueError(f"a preference network comes without weights (got {', '.join(others)} beside it)")
        return Learned(PrefNet.from_json(options["prefnet"]))
    return Weights.model_validate(dict(options))
