"""The model `frc`: single-image Fourier ring correlation as an assessment, or an abstention where it has no number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from parfocal import did_you_mean
from parfocal.models.base import Assessment, ModelCard, ModelError, check_images
from parfocal.models.emptiness import content
from parfocal.models.metrics.frc import FrcResult, FrcStatus, Mode, single_image_frc
from parfocal.models.metrics.planes import Planes
from parfocal.models.saturation import saturated_share

NAME = "frc"
MODES: tuple[Mode, ...] = ("robust", "reference")
SATURATED_SHARE = 0.01
MIN_CONTRAST = 1.3
_OPTIONS = ("mode", "saturation_counts", "min_contrast")


class Frc:
    """Resolution of a frame by single-image Fourier ring correlation; see `make` for the options.

    ``value`` is the resolution in um, in px where the size of a pixel is not known (0); smaller is finer. ``sd`` comes
    from the noise of the curve at its crossing; the reference mode, which has none, gives 0. ``detail`` holds
    ``resolution_px``, ``cutoff`` (share of Nyquist of the quarter-images), ``bound_px`` (the finest resolution that
    could have been told), ``censored`` (1: at that bound or finer), ``status`` (a `FrcStatus`), ``contrast``,
    ``contrast_threshold`` and ``saturated_share``, also when the model abstains.

    It abstains on an empty frame, on one of which more than 1 % is saturated, and where the correlation gives no
    number; that a frame is censored does not make it sharp. Compare only frames of the same exposure: more light
    resolves more, also out of focus.
    """

    def __init__(
        self, mode: Mode = "robust", saturation_counts: float | None = None, min_contrast: float = MIN_CONTRAST
    ) -> None:
        self._mode: Mode = mode
        self._saturation_counts = saturation_counts
        self._min_contrast = min_contrast
        self.card = ModelCard(
            name=NAME,
            version="1",
            architecture="single-image Fourier ring correlation (Koho 2019), no weights",
            weights_file="none",
            weights_sha256="0" * 64,
            input={"mode": mode, "threshold": "1/7", "unit": "um, or px where the pixel size is unknown"},
            notes=("a measure of signal to noise at each frequency: dose moves it as well as focus",),
        )

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Measure raw frames (n, height, width); `pixel_um` 0 means unknown.

        Raises
        ------
        ImageError
            Not a batch of finite real images of at least 32x32 px.
        """
        array = check_images(images)
        known = bool(np.isfinite(pixel_um)) and pixel_um > 0
        with torch.inference_mode():
            result = single_image_frc(array, mode=self._mode)
            held = content(Planes(array), self._min_contrast, integer=array.dtype.kind in "ui")
        assessments = []
        for index, frame in enumerate(array):
            detail = _numbers(result, index) | {
                "contrast": float(held.contrast[index]),
                "contrast_threshold": float(held.threshold[index]),
                "saturated_share": saturated_share(frame, self._saturation_counts),
            }
            detail["in_um"] = float(known)
            assessments.append(self._one(detail, float(result.sd_px[index]), pixel_um if known else 1.0))
        return assessments

    def describe(self) -> dict[str, Any]:
        """How it runs here."""
        return {"device": "cpu", "backend": "torch", "precision": "float64", "mode": self._mode}

    def _one(self, detail: dict[str, float], sd_px: float, unit: float) -> Assessment:
        if detail["saturated_share"] > SATURATED_SHARE:
            reason = f"saturated: {detail['saturated_share']:.1%} of the pixels are at the camera's limit"
        elif detail["contrast"] < detail["contrast_threshold"]:
            reason = f"empty: contrast is {detail['contrast']:.2f} times what noise alone gives"
        elif detail["status"] != FrcStatus.MEASURED:
            reason = FrcStatus(int(detail["status"])).reason
            if detail["censored"]:
                reason = f"censored at {detail['bound_px']:.2f} px: {reason}"
        else:
            # The reference's procedure has no error of its own: NaN, which is shown as "not known".
            return Assessment(NAME, detail["resolution_px"] * unit, sd_px * unit, detail=detail)
        return Assessment.abstain(NAME, reason, detail)


def _numbers(result: FrcResult, index: int) -> dict[str, float]:
    return {
        "resolution_px": float(result.resolution_px[index]),
        "cutoff": float(result.cutoff[index]),
        "bound_px": float(result.bound_px[index]),
        "censored": float(result.censored[index]),
        "status": float(result.status[index]),
    }


def make(options: Mapping[str, Any]) -> Frc:
    """Make the model from plain options.

    Parameters
    ----------
    options : mapping
        ``mode``: "robust" (default) or "reference" (miplib's number). ``saturation_counts``: the count at which the
        camera clips; by default guessed from the frame. ``min_contrast`` (1.3): contrast over noise below which a
        frame is empty.

    Raises
    ------
    ModelError
        An unknown option or mode, or a value out of range.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ModelError(f"{NAME}: unknown option {key!r}{did_you_mean(key, _OPTIONS)}")
    mode = options.get("mode", MODES[0])
    if mode not in MODES:
        raise ModelError(f"{NAME}: unknown mode {mode!r}{did_you_mean(str(mode), MODES)}; there are {', '.join(MODES)}")
    saturation = options.get("saturation_counts")
    return Frc(
        mode,
        None if saturation is None else _positive("saturation_counts", saturation),
        _positive("min_contrast", options.get("min_contrast", MIN_CONTRAST)),
    )


def _positive(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value <= 0:
        raise ModelError(f"{NAME}: {name!r} must be a positive number (got {value!r})")
    return float(value)
