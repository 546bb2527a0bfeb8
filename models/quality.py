"""The model `quality`: how good a frame is, how sure that is, what is wrong with it, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from parfocal import did_you_mean
from parfocal.models.artefacts import ARTEFACTS
from parfocal.models.base import Assessment, ImageError, ModelCard, ModelError, PatchMap, check_images
from parfocal.models.cards import load_card, packaged_card_path
from parfocal.models.emptiness import content
from parfocal.models.metrics.planes import Planes
from parfocal.models.quality_labels import NYQUIST_PX, LabelScale
from parfocal.models.quality_net import PATCH_PX, QualityOutput
from parfocal.models.quality_runtime import QualityNetwork, Said
from parfocal.models.quality_student import TARGETS
from parfocal.models.saturation import saturated_share

log = structlog.get_logger()

MAX_SATURATED = 0.01
MAX_PIXEL = 1e30
MIN_CONTRAST = 1.2
ILLUMINATION_ORDER = 2
OPTIONS = frozenset(
    {"network", "target", "card", "device", "backend", "precision", "threads", "patch_map", "saturation_counts"}
)
NETWORKS: Mapping[str, str] = {"student": "StudentQualityNet", "paper": "PaperQualityNet"}
CARDS: Mapping[tuple[str, str], str] = {
    ("student", "mm"): "quality_student", ("student", "frc"): "quality_student",
    ("paper", "mm"): "quality_mm", ("paper", "frc"): "quality_frc",
}  # fmt: skip


class QualityModel:
    """Quality of a frame from 0 to 1, higher is better, with its artefact and a map.

    For target ``mm`` (the default) the value is the MM-style score, the probability that the frame is a reference. For
    target ``frc`` it is 2 px over the resolution that single-image FRC would find: the share of the camera's Nyquist
    frequency up to which the frame holds signal.

    Parameters
    ----------
    options : mapping
        ``network`` ("student", the default, or "paper"), ``target`` ("mm" or "frc"), ``card`` (path of another card),
        ``device``, ``backend``, ``precision``, ``threads``, ``patch_map`` (default true), ``saturation_counts``.

    Raises
    ------
    ModelError
        Unknown option or value, a card of another architecture or target, weights that are missing or not those of
        the card.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        for name in sorted(set(options) - OPTIONS):
            raise ModelError(f"model 'quality' knows no option {name!r}{did_you_mean(name, OPTIONS)}")
        kind = _one_of("network", options.get("network") or "student", tuple(NETWORKS))
        self.target = _one_of("target", options.get("target") or "mm", TARGETS)
        path = Path(options["card"]) if options.get("card") else packaged_card_path(CARDS[kind, self.target])
        self.card: ModelCard = load_card(path)
        if options.get("network") and self.card.architecture != NETWORKS[kind]:
            raise ModelError(f"network {kind!r} was asked for, and {path} describes a {self.card.architecture!r}")
        self._network = QualityNetwork(self.card, path, options)
        self._labels: Mapping[str, LabelScale] = self._network.labels
        if self.target not in self._labels:
            raise ModelError(f"{path} was trained for {', '.join(self._labels)}, not for target {self.target!r}")
        self._sd = _Calibration(self.card, self.target)
        self._options = dict(options)
        self._warned = False

    def describe(self) -> Mapping[str, Any]:
        """Which device, precision and backend run the network."""
        return self._network.describe()

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Assess a batch of raw frames, shape (n, height, width); see the class for the value."""
        batch = check_images(images)
        if batch.dtype.kind == "f" and float(np.abs(batch).max()) > MAX_PIXEL:
            raise ImageError(f"pixels beyond {MAX_PIXEL:g} are too large for single precision")
        found = [self._refused(frame) for frame in batch]
        rest = [index for index, refusal in enumerate(found) if refusal is None]
        if rest:
            for index, said in zip(rest, self._network.judge(batch[rest]), strict=True):
                found[index] = self._report(said, batch[index], pixel_um)
        return [one for one in found if one is not None]

    def _refused(self, frame: NDArray[Any]) -> Assessment | None:
        """Say nothing of a frame whose pixels say nothing."""
        saturated = saturated_share(frame, self._options.get("saturation_counts"))
        if saturated > MAX_SATURATED:
            reason = f"{100 * saturated:.1f} % of the pixels are saturated: lower the exposure or the light"
            return Assessment.abstain("quality", reason, {"saturated": saturated})
        if frame.min() == frame.max():
            return Assessment.abstain("quality", "all pixels have one value: no light, or no camera")
        held = content(
            Planes(frame[None]), MIN_CONTRAST, integer=frame.dtype.kind in "ui", illumination_order=ILLUMINATION_ORDER
        )
        contrast = float(held.contrast[0])
        if not contrast > float(held.threshold[0]):
            return Assessment.abstain("quality", "no structure above the noise", {"contrast": contrast})
        return None

    def _report(self, said: Said, frame: NDArray[Any], pixel_um: float) -> Assessment:
        out = said.targets[self.target]
        value = float(self._labels[self.target].value(out.score)[0])
        alive = float(out.alive[0])
        detail: dict[str, float] = {
            **self._numbers(said, pixel_um), "alive": alive,
            "saturated": saturated_share(frame, self._options.get("saturation_counts")),
        }  # fmt: skip
        if out.artefact_logits is not None:
            chance = torch.softmax(out.artefact_logits[0].double(), dim=0)
            detail |= {f"artefact_{name}": float(p) for name, p in zip(ARTEFACTS, chance, strict=True)}
            detail["artefact"] = float(chance.argmax())
        if alive == 0.0 and not self._warned:
            self._warned = True
            log.warning("no patch of a frame has a weight: its score is a plain mean", model="quality")
        patch_map = self._patch_map(out) if self._options.get("patch_map", True) else None
        return Assessment("quality", value, self._sd.at(value), False, "", detail, None, patch_map)

    def _numbers(self, said: Said, pixel_um: float) -> dict[str, float]:
        """What the network says of every target that it knows."""
        found: dict[str, float] = {}
        for target, out in said.targets.items():
            value = float(self._labels[target].value(out.score)[0])
            if target == "mm":
                found["mm"] = value
            else:
                found["frc_px"] = NYQUIST_PX / value
                if pixel_um > 0:
                    found["frc_um"] = pixel_um * NYQUIST_PX / value
        return found

    def _patch_map(self, out: QualityOutput) -> PatchMap:
        """Quality of the patches in the unit of the value; their weights over the greatest, 0 where all are dead."""
        value = self._labels[self.target].value(out.patch_quality[0]).double().numpy()
        weight = out.patch_weight[0].double().numpy()
        certainty = weight / weight.max() if float(out.alive[0]) > 0 else np.zeros_like(weight)
        return PatchMap(value, certainty, PATCH_PX, PATCH_PX, "" if self.target == "mm" else "of Nyquist")


class _Calibration:
    """Standard deviation of a value, by the errors found on validation images of about that value."""

    def __init__(self, card: ModelCard, target: str) -> None:
        held = card.measured.get("calibration", {}).get(target, {})
        self._value, self._sd = (np.asarray(held.get(name, ()), dtype=np.float64) for name in ("value", "sd"))
        if len(self._value) == 0 or self._value.shape != self._sd.shape or not (self._sd > 0).all():
            raise ModelError(f"card {card.name!r} has no calibration for target {target!r}: publish it again")

    def at(self, value: float) -> float:
        """Between the bins' centres in proportion; beyond them that of the last."""
        return float(np.interp(value, self._value, self._sd))


def make(options: Mapping[str, Any]) -> QualityModel:
    """Make the model from plain JSON options (see `QualityModel`)."""
    return QualityModel(options)


def _one_of(what: str, value: Any, known: Sequence[str]) -> str:
    if value not in known:
        raise ModelError(f"{what} {value!r} of model 'quality'{did_you_mean(str(value), known)}; {' or '.join(known)}")
    return str(value)
