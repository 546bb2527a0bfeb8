"""Trains the marker classifier behind the MM-style score, and writes its card with the confusion measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal import __version__
from parfocal.models.artefacts import CARD, HIDDEN, Classifier
from parfocal.models.base import ModelCard
from parfocal.models.cards import save_card, save_weights
from parfocal.models.metrics.markers import MARKER_NAMES, MARKERS, markers
from parfocal.models.training.degradations import ARTEFACTS, NOISES, TABLE1
from parfocal.models.training.fields import check_fields, fields_used
from parfocal.models.training.quality_data import QualitySource, raw_chunk
from parfocal.models.training.workers import worker_pool

log = structlog.get_logger()

CHUNK = 48
JITTER = 0.05
NOISE_FROM, NOISE_TO, NOISE_SHARE = 0.003, 0.7, 0.3
SHARES = {
    "blur": (0.1, 0.01),
    "dark": (0.25, 0.05),
    "readout": (0.25, 0.03),
    "shot": (0.15, 0.01),
    "vignetting": (0.1, 0.02),
}
"""How much of a reference an image still is at the least and at the greatest parameter of Table 1: our judgement.

A classifier taught 0 for every degraded image says 0 for all of them, and a score that is 0 throughout ranks nothing.
"""


@dataclass(frozen=True)
class Measured:
    """Markers of drawn images (n, MARKERS) float32; class (n,) int64; level and noise (n,) float32, see `Drawn`."""

    markers: NDArray[np.float32]
    artefact: NDArray[np.int64]
    level: NDArray[np.float32]
    noise: NDArray[np.float32]


@dataclass(frozen=True)
class ArtefactRecipe:
    """What the classifier is trained on, and how long."""

    fields: Path | None
    images: int = 19_200
    held_out: int = 2_400
    procedural: int = 120
    epochs: int = 60
    batch: int = 256
    learning_rate: float = 3e-3
    seed: int = 5
    workers: int = 1


def reference_share(artefact: str, level: float, noise: float) -> float:
    """What the classifier is to say for the reference, given an artefact at a level and the variance of the noise.

    The artefact's part is 1 without it (level -1), falling with the square of what there is of it to `SHARES` at level
    0, and from there geometrically, so that equal steps of the level are equal steps of the score's logarithm. Where
    noise is not the artefact, its part is 1 up to `NOISE_FROM` and falls with the square of its logarithm to
    `NOISE_SHARE` at `NOISE_TO`, where the noisy classes begin: the better exposed of two good images scores higher.
    """
    share = 1.0
    if artefact not in NOISES:
        depth = np.log(max(noise, NOISE_FROM) / NOISE_FROM) / np.log(NOISE_TO / NOISE_FROM)
        share = float(NOISE_SHARE ** min(depth, 1.0) ** 2)
    if artefact == "reference":
        return share
    least, worst = SHARES[artefact]
    if level < 0.0:
        return share * float(least ** ((1.0 + level) ** 2))
    return share * float(least * (worst / least) ** level)


def measure_chunk(source: QualitySource, number: int) -> Measured:
    """Markers of chunk `number` of a source."""
    torch.set_num_threads(1)
    drawn = raw_chunk(source, number, CHUNK)
    with torch.inference_mode():
        batches = [torch.from_numpy(np.stack([d.counts for d in drawn[i : i + 16]])) for i in range(0, CHUNK, 16)]
        found = torch.cat([markers(batch) for batch in batches])
    return Measured(
        found.numpy(),
        np.asarray([one.artefact for one in drawn], dtype=np.int64),
        np.asarray([one.level for one in drawn], dtype=np.float32),
        np.asarray([one.noise for one in drawn], dtype=np.float32),
    )


def measure(source: QualitySource, images: int, workers: int) -> Measured:
    """Markers of so many images, made by worker processes (0: in this one)."""
    numbers = range(-(-images // CHUNK))
    if workers == 0:
        return _joined(map(partial(measure_chunk, source), numbers))
    with worker_pool(workers) as pool:
        return _joined(pool.map(partial(measure_chunk, source), numbers))


def train(
    measured: Measured, recipe: ArtefactRecipe, *, report: Callable[[int, float], None] | None = None
) -> Classifier:
    """Fit a classifier to soft targets: `reference_share` for the reference, the rest for the artefact."""
    torch.manual_seed(recipe.seed)
    inputs, targets = torch.from_numpy(measured.markers), _targets(measured)
    classifier = Classifier(HIDDEN)
    classifier.mean.copy_(inputs.mean(0))
    classifier.sd.copy_(inputs.std(0).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(classifier.layers.parameters(), lr=recipe.learning_rate, weight_decay=1e-2)
    steps = -(-len(inputs) // recipe.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.learning_rate, total_steps=steps * recipe.epochs)
    for epoch in range(recipe.epochs):
        total = 0.0
        for rows in torch.split(torch.randperm(len(inputs)), recipe.batch):
            # Jitter: real images lie a little off what is simulated, and a marker's third digit should decide nothing.
            jittered = inputs[rows] + JITTER * classifier.sd * torch.randn(len(rows), MARKERS)
            loss = torch.nn.functional.cross_entropy(classifier(jittered), targets[rows])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += float(loss.detach()) * len(rows)
        if report:
            report(epoch, total / len(inputs))
    return classifier.eval()


def evaluate(classifier: Classifier, measured: Measured) -> dict[str, Any]:
    """Accuracy, and confusion by class: rows true, columns said, shares of the row."""
    with torch.inference_mode():
        said = classifier(torch.from_numpy(measured.markers)).argmax(1).numpy()
    count = np.zeros((len(ARTEFACTS), len(ARTEFACTS)))
    np.add.at(count, (measured.artefact, said), 1)
    shares = count / np.maximum(count.sum(axis=1, keepdims=True), 1)
    return {
        "accuracy": round(float(np.mean(said == measured.artefact)), 4),
        "images": len(said),
        "confusion": {
            name: dict(zip(ARTEFACTS, row.round(4).tolist(), strict=True))
            for name, row in zip(ARTEFACTS, shares, strict=True)
        },
    }


def publish(recipe: ArtefactRecipe, out: Path) -> ModelCard:
    """Make the data, train, judge on held-out fields, and write ``artefacts.safetensors`` and ``artefacts.json``."""
    check_fields(recipe.fields, ("train", "test"))
    source = QualitySource(recipe.fields, "train", recipe.procedural, seed=recipe.seed)
    classifier = train(measure(source, recipe.images, recipe.workers), recipe, report=_log)
    found = {}
    for name, table1_only in (
        ("table 1, held-out fields", True),
        ("all of the training's kinds, held-out fields", False),
    ):
        held = QualitySource(recipe.fields, "test", 120, seed=recipe.seed + 1, table1_only=table1_only)
        found[name] = evaluate(classifier, measure(held, recipe.held_out, recipe.workers))
    return write(classifier, recipe, found, out)


def write(classifier: Classifier, recipe: ArtefactRecipe, found: Mapping[str, Any], out: Path) -> ModelCard:
    """Write a trained classifier and its card, with what was measured of it."""
    sha = save_weights(classifier.state_dict(), out / f"{CARD}.safetensors")
    card = ModelCard(
        name=CARD, version=__version__, architecture="MarkerClassifier", weights_file=f"{CARD}.safetensors",
        weights_sha256=sha,
        input={
            "pixels": "raw counts, any gain and offset", "markers": list(MARKER_NAMES), "hidden": HIDDEN, "min_px": 32,
        },
        training={
            "images": recipe.images, "epochs": recipe.epochs, "seed": recipe.seed, "procedural": recipe.procedural,
            "levels": {name: list(values) for name, values in TABLE1.items()},
            "shares": {name: list(values) for name, values in SHARES.items()},
            "fields": fields_used(recipe.fields),
        },
        measured=dict(found),
        notes=(
            "MM-style is our own substitute for MM-IQA, whose markers are not published in full.",
            "The score is graded: at Table 1's least artefact it is taught `shares`, not 0.",
            "Splits are by field or cell.",
        ),
    )  # fmt: skip
    save_card(card, out / f"{CARD}.json")
    return card


def _targets(measured: Measured) -> Tensor:
    targets = torch.zeros(len(measured.artefact), len(ARTEFACTS))
    for row, artefact in enumerate(measured.artefact):
        share = reference_share(ARTEFACTS[artefact], float(measured.level[row]), float(measured.noise[row]))
        # What a reference lacks, it lacks for its noise: photons, as a rule.
        targets[row, artefact or ARTEFACTS.index("shot")] = 1.0 - share
        targets[row, 0] = share
    return targets


def _joined(parts: Iterable[Measured]) -> Measured:
    held = list(parts)
    return Measured(
        *(np.concatenate([getattr(p, name) for p in held]) for name in ("markers", "artefact", "level", "noise"))
    )


def _log(epoch: int, loss: float) -> None:
    log.info("artefact classifier", epoch=epoch, loss=round(loss, 4))
