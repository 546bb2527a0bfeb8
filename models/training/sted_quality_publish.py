"""From a trained network of STED quality to its card: spread calibrated on validation frames, weights, provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from parfocal import __version__
from parfocal.models.base import ModelCard
from parfocal.models.cards import load_card, save_card, save_weights
from parfocal.models.sted_measures import MIN_DISPERSION, dispersion
from parfocal.models.sted_quality_net import COUNTS_SCALE, NETWORKS, RobitailleNet
from parfocal.models.training.sted_quality_data import HELD_OUT, PIXELS_UM, Chunk
from parfocal.models.training.sted_quality_recipe import StedRecipe
from parfocal.models.training.sted_quality_truth import BAND
from parfocal.models.training.train_sted_quality import ask, score

FILES: Mapping[str, str] = {"StedQualityNet": "sted_quality", "RobitailleNet": "sted_quality_robitaille"}
WIDTH, LEAST_A_BIN, LEAST_SD = 0.1, 15, 0.005
UNTOLD = ("networks", "threads", "validate_every", "checkpoint_every")
NOTES = (
    "Quality: share of the variance of the fresh structure's detail, between 25 nm and the diffraction limit, that the "
    "image explains; see docs/decisions/0025-sted-truth.md.",
    "Trained on simulated frames only. What it says of a real microscope is a rank until that microscope's own rated "
    "images have trained it.",
    "sd: root mean square error on validation frames of about the same value.",
)


def publish(network: nn.Module, recipe: StedRecipe, held_out: Chunk, out: Path) -> Path:
    """Measure a trained network on validation frames; write its weights and card into `out`; the path of the card."""
    kind = type(network).__name__
    sha = save_weights(network.state_dict(), out / f"{FILES[kind]}.safetensors")
    seen = with_structure(held_out)
    said = ask(network, seen["counts"], seen["pixel_um"])[:, 0]
    told = {name: value for name, value in asdict(recipe).items() if name not in UNTOLD}
    card = ModelCard(
        name=FILES[kind], version=__version__, architecture=kind, weights_file=f"{FILES[kind]}.safetensors",
        weights_sha256=sha, input=input_of(network), training=told | {"never_seen": list(HELD_OUT), "truth": BAND},
        measured={
            "validation": {"frames": len(said), **score(network, seen)},
            "calibration": calibration(said, seen["quality"]),
        },
        notes=NOTES,
    )  # fmt: skip
    path = out / f"{FILES[kind]}.json"
    save_card(_listed(card), path)
    return path


def input_of(network: nn.Module) -> dict[str, Any]:
    """How the network wants its frames."""
    scaling: dict[str, Any] = {"scaling": "sqrt", "counts": COUNTS_SCALE}
    if isinstance(network, RobitailleNet):
        scaling = {"scaling": "standard", "mean": round(float(network.mean), 4), "sd": round(float(network.sd), 4)}
    return {
        "pixels": "photon counts, absolute: nothing normalised by the image", **scaling,
        "min_px": NETWORKS[type(network).__name__].min_px,
        "pixel_um": [min(PIXELS_UM), max(PIXELS_UM)],
    }  # fmt: skip


def with_structure(chunk: Chunk) -> Chunk:
    """The frames that the model would not abstain on for want of structure."""
    kept = [index for index, frame in enumerate(chunk["counts"]) if dispersion_of(frame) > MIN_DISPERSION]
    return {key: values[kept] for key, values in chunk.items()}


def dispersion_of(frame: NDArray[Any]) -> float:
    """Variance of the smoothed frame over that of photon noise; 0 of a frame without light."""
    found = dispersion(frame.astype(np.float64))["dispersion"]
    return found if np.isfinite(found) else 0.0


def calibration(said: NDArray[np.float64], truth: NDArray[Any]) -> dict[str, list[float]]:
    """Root mean square error in bins a tenth wide of the value said; bins with few frames join the one below.

    Returns
    -------
    dict
        ``value``, the bins' medians in ascending order, and ``sd``; and ``within`` one and two sd, the shares found.
    """
    order = np.argsort(said, kind="stable")
    edges = np.searchsorted(said[order], np.arange(WIDTH, 1.0, WIDTH))
    parts: list[NDArray[np.intp]] = []
    for part in np.split(order, edges):
        if parts and (len(part) < LEAST_A_BIN or len(parts[-1]) < LEAST_A_BIN):
            parts[-1] = np.concatenate([parts[-1], part])
        elif len(part):
            parts.append(part)
    centre = np.asarray([np.median(said[part]) for part in parts])
    sd = np.asarray([max(LEAST_SD, float(np.sqrt(np.mean((said - truth)[part] ** 2)))) for part in parts])
    distance = np.abs(said - truth) / np.interp(said, centre, sd)
    within = [float(np.mean(distance <= limit)) for limit in (1.0, 2.0)]
    return {"value": _rounded(centre), "sd": _rounded(sd), "within": _rounded(within)}


def add_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Put the tables of `parfocal evaluate sted-quality` into a card."""
    card = load_card(path)
    save_card(_listed(replace(card, measured={**card.measured, "tables": tables})), path)


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in values]


def _listed(card: ModelCard) -> ModelCard:
    """Tuples as lists, as they come back from JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list | tuple) else value

    return replace(card, training=plain(card.training), measured=plain(card.measured), input=plain(card.input))
