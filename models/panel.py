"""The models that look at every frame, side by side: made from their specs, warmed up, asked one frame at a time."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError
from parfocal.models import ModelSpec
from parfocal.models.base import Assessment, ImageError, Model, ModelError, ScorerError, check_images

WARM_UP_PX = 512
WARM_UP_PIXEL_UM = 0.325


class Panel:
    """Models by name; every one assesses every frame.

    Parameters
    ----------
    specs : sequence of ModelSpec
        Which models; a name may occur once.

    Raises
    ------
    ModelError
        A name twice, none at all, or a model that cannot be made.
    """

    def __init__(self, specs: Sequence[ModelSpec]) -> None:
        check_specs(specs)
        self.models: Mapping[str, Model] = {spec.name: spec.make() for spec in specs}

    def warm_up(self) -> None:
        """Let every model see one textured frame, so that no real frame waits for first-call costs.

        Raises
        ------
        ModelError
            A model that cannot assess at all.
        """
        try:
            self.assess(textured_frame(WARM_UP_PX), WARM_UP_PIXEL_UM)
        except ImageError:
            # A model may well refuse this artificial frame; that says nothing against the frames to come.
            return

    def assess(self, pixels: NDArray[Any], pixel_um: float) -> dict[str, Assessment]:
        """Assess one frame (height, width).

        Raises
        ------
        ImageError
            A model refuses the image.
        ScorerError
            A model failed in a way it should not have, or returned something that is no assessment.
        """
        return {name: _one(name, model, pixels, pixel_um) for name, model in self.models.items()}

    def describe(self) -> dict[str, dict[str, Any]]:
        """By model: its card and, where it has a `describe`, how it runs here; plain JSON."""
        described: dict[str, dict[str, Any]] = {}
        for name, model in self.models.items():
            tell = getattr(model, "describe", None)
            described[name] = {"card": dataclasses.asdict(model.card), "runtime": tell() if callable(tell) else {}}
        plain: dict[str, dict[str, Any]] = json.loads(json.dumps(described, default=str))
        return plain


def check_specs(specs: Sequence[ModelSpec]) -> None:
    """Refuse an empty panel and names that occur twice."""
    names = [spec.name for spec in specs]
    if not names:
        raise ModelError("no models to score with: name at least one")
    for name in names:
        if names.count(name) > 1:
            raise ModelError(f"model {name!r} is named more than once")


def check_frame(pixels: NDArray[Any], pixel_um: float) -> NDArray[Any]:
    """Refuse what is not one frame with a pixel size; returns it as (height, width).

    Raises
    ------
    ImageError
        Not 2-D, not real numbers, NaN, too small; or a pixel size that is not positive and finite.
    """
    array = np.asarray(pixels)
    if array.ndim != 2:
        raise ImageError(f"expected one frame (height, width), got shape {array.shape}")
    frame: NDArray[Any] = check_images(array)[0]
    if not (np.isfinite(pixel_um) and pixel_um > 0):
        raise ImageError(f"pixel size must be positive and finite, got {pixel_um!r} um")
    return frame


def _one(name: str, model: Model, pixels: NDArray[Any], pixel_um: float) -> Assessment:
    try:
        assessments = model.assess(pixels[None], pixel_um)
    except ParfocalError:
        raise
    except Exception as error:  # whatever a model does wrong must reach the loop as one kind of error
        raise ScorerError(f"model {name!r} failed on this frame: {type(error).__name__}: {error}") from error
    if not isinstance(assessments, list) or len(assessments) != 1 or not isinstance(assessments[0], Assessment):
        got = f"{assessments!r:.200}"
        raise ScorerError(f"model {name!r} must return a list of one Assessment for one frame, got {got}")
    return assessments[0]


def textured_frame(size_px: int) -> NDArray[np.uint16]:
    """Smooth blobs with shot noise, the same every time: something every model can look at."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(size_px)[:, None], np.fft.rfftfreq(size_px)[None, :])
    spectrum = np.fft.rfft2(rng.normal(size=(size_px, size_px))) * np.exp(-((frequency / 0.05) ** 2))
    blobs = np.clip(np.fft.irfft2(spectrum, s=(size_px, size_px)), 0, None)
    frame: NDArray[np.uint16] = rng.poisson(100 + 2000 * blobs / blobs.max()).astype(np.uint16)
    return frame
