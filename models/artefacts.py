"""The model `mm_style`: which artefact an image shows, and how much of a reference it is, from a few markers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal import did_you_mean
from parfocal.models.base import Assessment, ModelCard, ModelError, check_images
from parfocal.models.cards import load_card, load_into, packaged_card_path
from parfocal.models.metrics.markers import MARKER_NAMES, MARKERS, Resolution, markers
from parfocal.models.saturation import saturated_share

NAME = "mm_style"
CARD = "artefacts"
ARTEFACTS = ("reference", "blur", "dark", "readout", "shot", "vignetting")
HIDDEN = 48
SATURATED_SHARE = 0.01
_OPTIONS = ("card", "saturation_counts")


class Classifier(nn.Module):
    """Standardised markers, two hidden layers, a logit for each artefact."""

    mean: Tensor
    sd: Tensor

    def __init__(self, hidden: int = HIDDEN) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(MARKERS))
        self.register_buffer("sd", torch.ones(MARKERS))
        self.layers = nn.Sequential(
            nn.Linear(MARKERS, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(),
            nn.Linear(hidden, len(ARTEFACTS)),
        )  # fmt: skip

    def forward(self, measured: Tensor) -> Tensor:
        """Logits (n, 6) of markers (n, MARKERS)."""
        # What lies far outside of all that was trained on is held at its border, not extrapolated.
        standard = ((measured - self.mean) / self.sd).clamp(-5.0, 5.0)
        logits: Tensor = self.layers(standard)
        return logits

    def probabilities(self, images: Tensor, frc: Resolution | None = None) -> Tensor:
        """Probabilities (n, 6) of frames (n, h, w)."""
        return torch.softmax(self(markers(images, frc)), dim=1)

    def scores(self, images: Tensor, frc: Resolution | None = None) -> Tensor:
        """MM-style scores (n,): probability of the reference."""
        return self.probabilities(images, frc)[:, 0]


def load_classifier(card: Path | None = None) -> Classifier:
    """The trained classifier, in evaluation mode: the packaged one, or that of another card.

    Raises
    ------
    ModelError
        No such card, another architecture or other markers than this version measures, or weights that are not those
        the card describes.
    """
    path = card or packaged_card_path(CARD)
    return _load(load_card(path), path)


def _load(card: ModelCard, path: Path) -> Classifier:
    if card.architecture != "MarkerClassifier":
        raise ModelError(f"{path} describes a {card.architecture!r}, not a 'MarkerClassifier'")
    if tuple(card.input.get("markers", ())) != MARKER_NAMES:
        raise ModelError(f"{path}: it was trained on other markers than this version measures; train it again")
    classifier = Classifier(int(card.input.get("hidden", HIDDEN)))
    load_into(classifier, card, path, "marker classifier")
    return classifier.eval()


class MmStyle:
    """Artefact classifier of frames; see `make` for the options.

    ``value`` is the MM-style score, the probability of the class "reference": our own substitute for the MM-IQA of
    Corbetta 2024, whose markers and classifier are not published in full. ``sd`` is that of an event of this
    probability, ``sqrt(p (1 - p))``. ``detail`` has ``artefact_<name>`` of each class, ``artefact``, the index of the
    likeliest in `ARTEFACTS`, and the markers themselves. It abstains on a constant and on a saturated frame.
    """

    def __init__(self, card: Path | None = None, saturation_counts: float | None = None) -> None:
        path = card or packaged_card_path(CARD)
        self.card = load_card(path)
        self._classifier = _load(self.card, path)
        self._saturation_counts = saturation_counts

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Assess raw frames (n, height, width); `pixel_um` does not enter.

        Raises
        ------
        ImageError
            Not a batch of finite real images of at least 32x32 px.
        """
        array = check_images(images)
        frames = torch.from_numpy(array.astype(np.float32))
        with torch.inference_mode():
            measured = markers(frames)
            p = torch.softmax(self._classifier(measured), dim=1)
        return [self._one(array[i], p[i].tolist(), measured[i].tolist()) for i in range(len(array))]

    def describe(self) -> dict[str, Any]:
        """How it runs here."""
        return {"device": "cpu", "backend": "torch", "precision": "float32"}

    def _one(self, frame: NDArray[Any], p: list[float], measured: list[float]) -> Assessment:
        saturated = saturated_share(frame, self._saturation_counts)
        detail = {f"artefact_{name}": share for name, share in zip(ARTEFACTS, p, strict=True)}
        detail["artefact"] = float(np.argmax(p))
        detail |= dict(zip(MARKER_NAMES, measured, strict=True))
        detail["saturated_share"] = saturated
        if frame.min() == frame.max():
            return Assessment.abstain(NAME, "constant: every pixel has the same count", detail)
        if saturated > SATURATED_SHARE:
            return Assessment.abstain(
                NAME, f"saturated: {saturated:.1%} of the pixels are at the camera's limit", detail
            )
        return Assessment(NAME, p[0], float(np.sqrt(p[0] * (1.0 - p[0]))), detail=detail)


def make(options: Mapping[str, Any]) -> MmStyle:
    """Make the model from plain options.

    Parameters
    ----------
    options : mapping
        ``card``: path of another classifier's card. ``saturation_counts``: the count at which the camera clips; by
        default the largest of the pixel type, or the frame's own ceiling.

    Raises
    ------
    ModelError
        An unknown option, a value out of range, or what `load_classifier` finds wrong.
    """
    for key in options:
        if key not in _OPTIONS:
            raise ModelError(f"{NAME}: unknown option {key!r}{did_you_mean(key, _OPTIONS)}")
    card, saturation = options.get("card"), options.get("saturation_counts")
    if card is not None and not isinstance(card, str):
        raise ModelError(f"{NAME}: 'card' must be a path (got {card!r})")
    if saturation is not None and (
        isinstance(saturation, bool) or not isinstance(saturation, int | float) or not 0 < saturation < np.inf
    ):
        raise ModelError(f"{NAME}: 'saturation_counts' must be a positive number (got {saturation!r})")
    return MmStyle(Path(card) if card else None, None if saturation is None else float(saturation))
