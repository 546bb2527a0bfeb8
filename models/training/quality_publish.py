"""From a trained quality network to its card: measured on validation images, spread calibrated, weights packed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from parfocal import __version__
from parfocal.models.base import ModelCard
from parfocal.models.cards import save_card, save_weights
from parfocal.models.metrics.markers import MARKER_NAMES
from parfocal.models.precision import settled
from parfocal.models.quality_labels import LabelScale
from parfocal.models.training.degradations import ARTEFACTS
from parfocal.models.training.fields import fields_used
from parfocal.models.training.quality_batches import Chunk
from parfocal.models.training.quality_measures import Said, ask, summary
from parfocal.models.training.quality_recipe import QualityRecipe, pick_device
from parfocal.models.training.train_quality import Trained, stream_chunks

VALIDATION_IMAGES = 384
CHUNK = 48
BINS, LEAST_A_BIN = 10, 12
LEAST_SD = 1e-3
UNTOLD = ("fields", "start_from", "teachers", "workers", "threads", "device", "checkpoint_every", "validate_every")
"""Of the recipe: what says where things were and not what was learned."""
OTHERS_ONLY = {
    "paper": (
        "mixed", "graded", "order", "ladders", "ladder_share", "heads_only", "teachers", "teacher_share",
    ),
    "student": ("patches",),
}  # fmt: skip
"""Of the recipe, by network: what only the other one is trained with."""


def publish(trained: Trained, out: Path, *, images: int = VALIDATION_IMAGES) -> Path:
    """Measure a trained network on validation images; write weights and card into `out`; return the path of the card.

    The paper's network is kept in half precision (10.5 MB); what is measured is the network as it is kept.
    """
    name, network = name_of(trained.recipe), _as_kept(trained)
    chunk = _joined(list(stream_chunks(trained.recipe, "validation", count=-(-images // CHUNK), images=CHUNK)))
    scaling = trained.recipe.scaling
    said = ask(network, chunk, trained.labels, scaling=scaling)
    measured: dict[str, Any] = {
        "validation": {"images": len(chunk["counts"]), **summary(said, chunk["artefact"])},
        "calibration": {target: calibration(said, target, scale) for target, scale in trained.labels.items()},
        "bfloat16_error_sd": bfloat16_error(network, chunk, trained.labels, scaling),
    }
    state = network.state_dict()
    kept = {key: value.half() for key, value in state.items()} if trained.recipe.network == "paper" else state
    sha = save_weights(kept, out / f"{name}.safetensors")
    card = ModelCard(
        name=name, version=__version__, architecture=type(network).__name__, weights_file=f"{name}.safetensors",
        weights_sha256=sha,
        input=_input(trained.recipe),
        training=_training(trained), measured=measured,
        notes=(
            "Splits are by field or cell, never by patch; procedural specimens have a seed of their own in each.",
            "The MM-style score is our own substitute for MM-IQA, whose markers are not published.",
            "sd: root mean square error on validation images of about the same value.",
        ),
    )  # fmt: skip
    path = out / f"{name}.json"
    save_card(card, path)
    return path


def _input(recipe: QualityRecipe) -> dict[str, Any]:
    held = {
        "pixels": "raw counts, any gain and offset", "scaling": recipe.scaling, "min_px": 32,
        "artefacts": list(ARTEFACTS),
    }  # fmt: skip
    return held | ({"markers": list(MARKER_NAMES)} if recipe.network == "student" else {})


def name_of(recipe: QualityRecipe) -> str:
    """The card's name: there is one paper's network a target."""
    return "quality_student" if recipe.network == "student" else f"quality_{recipe.target}"


def calibration(said: Said, target: str, scale: LabelScale) -> dict[str, list[float]]:
    """Root mean square error of the values shown, in bins of as many images each, by the value.

    Returns
    -------
    dict
        ``value``, the bins' medians in ascending order, and ``sd``; and ``within`` one and two sd, the shares found.
    """
    use = ~said.censored[target]
    value = np.asarray(scale.value(torch.from_numpy(said.z[target][use])))
    truth = np.asarray(scale.value(torch.from_numpy(said.label[target][use])))
    order = np.argsort(value, kind="stable")
    parts = np.array_split(order, max(1, min(BINS, len(order) // LEAST_A_BIN)))
    centre = np.asarray([np.median(value[part]) for part in parts])
    sd = np.asarray([max(LEAST_SD, float(np.sqrt(np.mean((value - truth)[part] ** 2)))) for part in parts])
    distance = np.abs(value - truth) / np.interp(value, centre, sd)
    within = [float(np.mean(distance <= limit)) for limit in (1.0, 2.0)]
    return {"value": _rounded(centre), "sd": _rounded(sd), "within": _rounded(np.asarray(within))}


def bfloat16_error(network: nn.Module, chunk: Chunk, labels: Mapping[str, LabelScale], scaling: str) -> float:
    """Root mean square difference of the scores from those of float32, label sd, of the worst target."""
    some = {key: values[:CHUNK] for key, values in chunk.items()}
    exact = ask(network, some, labels, scaling=scaling)
    with torch.autocast("cpu", torch.bfloat16):
        low = ask(network, some, labels, scaling=scaling)
    return round(max(float(np.sqrt(np.mean((low.z[t] - exact.z[t]) ** 2))) for t in labels), 5)


def _as_kept(trained: Trained) -> nn.Module:
    """The network with the precision that its file has."""
    network = trained.network.to("cpu").eval()
    if trained.recipe.network == "paper":
        network.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
    return network


def _joined(chunks: list[Chunk]) -> dict[str, NDArray[Any]]:
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _training(trained: Trained) -> dict[str, Any]:
    recipe = trained.recipe
    told = {key: value for key, value in asdict(recipe).items() if key not in UNTOLD and value is not None}
    told["learning_rate"], told["batch"] = recipe.rate, recipe.batch_frames
    told["precision"] = settled(recipe.precision, pick_device(recipe.device).type)
    told["fields"] = fields_used(recipe.fields)
    told["went_on"], told["teachers"] = bool(recipe.start_from), len(recipe.teachers)
    told["labels"] = {target: scale.to_json() for target, scale in trained.labels.items()}
    return {key: value for key, value in told.items() if key not in OTHERS_ONLY[recipe.network]}


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 5) for value in values]
