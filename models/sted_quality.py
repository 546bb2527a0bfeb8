"""The model `sted_quality`: how much fine detail of the sample a STED image shows, how sure that is, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from parfocal import did_you_mean
from parfocal.models.base import Assessment, ImageError, ModelCard, ModelError, check_images
from parfocal.models.cards import load_card, load_into, packaged_card_path
from parfocal.models.saturation import saturated_share
from parfocal.models.sted_measures import MIN_DISPERSION, SATURATED_SHARE, dispersion
from parfocal.models.sted_quality_net import NETWORKS, judged

NAME = "sted_quality"
OPTIONS = ("card", "device", "threads", "gain", "offset", "saturation_counts", "min_dispersion")
MAX_COUNTS = 1e6
NEGATIVE_SHARE = 0.05
PIXEL_TOLERANCE = 0.1


class StedQualityModel:
    """Quality of STED images of photon counts, from 0 to 1, with what is wrong with them.

    ``value`` is the share of the variance of the sample's fine detail that the image explains (see
    docs/decisions/0025-sted-truth.md), ``sd`` the error found on validation frames of about that value. ``detail``:

    - ``too_dim``: what photon noise has taken of what a noiseless image would explain, 0..1;
    - ``bleached``: share of the molecules that this scan took, as far as it shows;
    - ``unresolved``: what the width of the PSF alone keeps it from explaining;
    - ``mean_counts``, ``dispersion``, ``dispersion_threshold``, ``saturated_share``.

    It abstains on frames that are constant, saturated or without structure, where the size of a pixel is not known or
    not one that it has learned, and where the pixels are no photon counts. Frames may have any size from 32 px.

    Parameters
    ----------
    options : mapping
        See `make`.

    Raises
    ------
    ModelError
        An unknown option, a value out of range, a card or weights that do not fit.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for key in options:
            if key not in OPTIONS:
                raise ModelError(f"{NAME}: unknown option {key!r}{did_you_mean(key, OPTIONS)}")
        self._gain = _number("gain", options.get("gain", 1.0), positive=True)
        self._offset = _number("offset", options.get("offset", 0.0))
        saturation = options.get("saturation_counts")
        self._saturation = None if saturation is None else _number("saturation_counts", saturation, positive=True)
        self._min_dispersion = _number("min_dispersion", options.get("min_dispersion", MIN_DISPERSION), positive=True)
        path = Path(options["card"]) if options.get("card") else packaged_card_path(NAME)
        self.card: ModelCard = load_card(path)
        self._pixels_um = _range(self.card)
        self._sd = _Calibration(self.card)
        self._device = _device(options.get("device") or "cpu")
        if options.get("threads") is not None:
            torch.set_num_threads(int(_number("threads", options["threads"], positive=True)))
        self._network = load_network(self.card, path).to(self._device)
        kind = NETWORKS[self.card.architecture]
        self._names, self._min_px = kind.names, kind.min_px

    def describe(self) -> dict[str, Any]:
        """How it runs here."""
        return {"device": str(self._device), "backend": "torch", "precision": "float32"}

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Judge raw frames (n, height, width), each by itself; see the class.

        Raises
        ------
        ImageError
            Not a batch of finite real images of at least 32x32 px, or counts beyond a million.
        """
        batch = check_images(images)
        if float(batch.max(initial=0)) > MAX_COUNTS:
            raise ImageError(f"{NAME}: pixels beyond {MAX_COUNTS:g} are no photon counts")
        return [self._one(frame, pixel_um) for frame in batch]

    def _one(self, frame: NDArray[Any], pixel_um: float) -> Assessment:
        photons = (np.asarray(frame, dtype=np.float64) - self._offset) / self._gain
        detail = {"mean_counts": float(photons.mean()), "saturated_share": saturated_share(frame, self._saturation)}
        detail |= dispersion(photons) | {"dispersion_threshold": self._min_dispersion}
        reason = self._refusal(photons, pixel_um, detail)
        if reason:
            return Assessment.abstain(NAME, reason, detail)
        counts = torch.from_numpy(np.maximum(photons, 0.0).astype(np.float32))[None, None].to(self._device)
        with torch.inference_mode():
            size = torch.tensor([pixel_um], dtype=torch.float32, device=self._device)
            said = [float(one) for one in judged(self._network, counts, size)[0].cpu()]
        value = said[0]
        return Assessment(
            NAME, value, self._sd.at(value), detail=detail | dict(zip(self._names[1:], said[1:], strict=True))
        )

    def _refusal(self, photons: NDArray[np.float64], pixel_um: float, detail: Mapping[str, float]) -> str:
        """Why nothing can be said of a frame, or nothing."""
        if float(photons.min()) == float(photons.max()):
            return "empty: all pixels are the same"
        if float(np.mean(photons < 0)) > NEGATIVE_SHARE:
            return "no photon counts: many pixels are negative; is 'offset' the count without light?"
        share = detail["saturated_share"]
        if share > SATURATED_SHARE:
            return f"saturated: {share:.1%} of the pixels are at the detector's limit"
        found = detail["dispersion"]
        if not found > self._min_dispersion:
            return f"no structure: it varies {found:.2f} times as much as photon noise alone"
        if not (math.isfinite(pixel_um) and pixel_um > 0):
            return "the size of a pixel is not known, and resolution is in nm: give pixel_um"
        if min(photons.shape) < self._min_px:
            return f"too small for this network: it needs {self._min_px} px"
        low, high = self._pixels_um
        if not low * (1 - PIXEL_TOLERANCE) <= pixel_um <= high * (1 + PIXEL_TOLERANCE):
            return f"pixels of {1000 * pixel_um:.3g} nm: it has learned {1000 * low:.3g} to {1000 * high:.3g} nm"
        return ""


class _Calibration:
    """Standard deviation of a value, by the errors found on validation frames of about that value."""

    def __init__(self, card: ModelCard) -> None:
        held = card.measured.get("calibration", {})
        self._value, self._sd = (np.asarray(held.get(name, ()), dtype=np.float64) for name in ("value", "sd"))
        if len(self._value) == 0 or self._value.shape != self._sd.shape or not (self._sd > 0).all():
            raise ModelError(f"card {card.name!r} has no calibration: train it again")

    def at(self, value: float) -> float:
        """Between the bins' centres in proportion; beyond them that of the last."""
        return float(np.interp(value, self._value, self._sd))


def load_network(card: ModelCard, path: Path) -> nn.Module:
    """The network that a card describes, in evaluation mode; raises `ModelError` where card and weights do not fit."""
    if card.architecture not in NETWORKS:
        raise ModelError(f"{path} describes a {card.architecture!r}, not a {' or '.join(map(repr, NETWORKS))}")
    network: nn.Module = NETWORKS[card.architecture]()
    load_into(network, card, path)
    return network.eval().requires_grad_(False)


def make(options: Mapping[str, Any]) -> StedQualityModel:
    """Make the model from plain options.

    Parameters
    ----------
    options : mapping
        ``gain`` (1) and ``offset`` (0): counts per photon and counts without light. ``saturation_counts``: the count
        at which the detector clips; by default guessed from the frame. ``min_dispersion`` (1.25): variance over photon
        noise below which a frame has no structure. ``card``: path of another card than the shipped one. ``device``
        ("cpu"), ``threads``.

    Raises
    ------
    ModelError
        An unknown option, or a value out of range.
    """
    return StedQualityModel(options)


def _range(card: ModelCard) -> tuple[float, float]:
    held = card.input.get("pixel_um")
    if not isinstance(held, list) or len(held) != 2 or not 0 < held[0] <= held[1]:
        raise ModelError(f"card {card.name!r} does not say for which pixels: 'input' needs 'pixel_um': [least, most]")
    return float(held[0]), float(held[1])


def _device(wanted: str) -> torch.device:
    try:
        device = torch.device(
            "cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu")
        )
    except RuntimeError as error:
        raise ModelError(f"{NAME}: unknown device {wanted!r}: cpu, cuda or auto") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"{NAME}: device {wanted!r} was asked for, but torch finds no CUDA GPU here")
    return device


def _number(name: str, value: Any, *, positive: bool = False) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ModelError(f"{NAME}: {name!r} must be a finite number (got {value!r})")
    if positive and value <= 0:
        raise ModelError(f"{NAME}: {name!r} must be positive (got {value!r})")
    return float(value)
