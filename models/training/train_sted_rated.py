"""Training of STED quality on a lab's own rated images: TIFF files, and a CSV of path and score."""

from __future__ import annotations

import copy
import csv
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

from parfocal import UsageError, __version__
from parfocal.models.base import ModelCard, check_images
from parfocal.models.cards import load_card, packaged_card_path, save_card, save_weights
from parfocal.models.sted_quality import load_network
from parfocal.models.sted_quality_net import judged
from parfocal.models.training.sted_quality_publish import LEAST_A_BIN, calibration

log = structlog.get_logger()
LEAST, FEW = 40, 300
"""Images below which there is no training, and below which its figures are said to be loose (the paper had 1140)."""
LEAST_HELD_OUT = 4
_COLUMNS = ("path", "score")


@dataclass(frozen=True)
class Rated:
    """An image in photon counts, the score somebody gave it, and the file it is from."""

    path: Path
    counts: NDArray[np.float32]
    score: float


@dataclass(frozen=True)
class RatedRecipe:
    """How a network is fitted to rated images: patience as in the paper, batch and rate for going on from weights."""

    pixel_um: float
    gain: float = 1.0
    offset: float = 0.0
    seed: int = 1
    epochs: int = 60
    patience: int = 10
    batch: int = 16
    learning_rate: float = 3e-4
    threads: int = 1


def read_scores(images: Path, scores: Path) -> list[tuple[Path, float]]:
    """Read the CSV with the columns path (below `images`, or absolute) and score (0..1).

    Raises
    ------
    UsageError
        No such folder or file, a missing column, a file that is not there, a score that is no number in 0..1, a file
        named twice; all such rows are told at once, with their lines.
    """
    if not images.is_dir():
        raise UsageError(f"--images {images}: there is no such folder")
    try:
        with scores.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"--scores {scores} cannot be read: {error}") from error
    if missing:
        raise UsageError(f"--scores {scores}: no column {', '.join(missing)}; it needs the columns path and score")
    found: dict[Path, float] = {}
    first: dict[Path, int] = {}
    problems = []
    for line, row in enumerate(rows, 2):
        path = images / (row["path"] or "").strip()
        score = _number(row["score"])
        if not path.is_file():
            problems.append(f"line {line}: there is no file {path}")
        elif path.resolve() in first:
            problems.append(f"line {line}: {row['path']} was rated in line {first[path.resolve()]} already")
        elif not 0.0 <= score <= 1.0:
            problems.append(f"line {line}: a score must be a number in 0..1 (got {row['score']!r})")
        else:
            first[path.resolve()], found[path] = line, score
    if problems:
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise UsageError(f"--scores {scores}:\n  " + "\n  ".join(problems[:10]) + more)
    return list(found.items())


def read_rated(rows: Sequence[tuple[Path, float]], recipe: RatedRecipe) -> list[Rated]:
    """Read the images; each a single plane of at least 32 px.

    Raises
    ------
    UsageError
        A file that is no TIFF of one plane, or whose pixels cannot be counts with this gain and offset.
    """
    import tifffile

    found = []
    for path, score in rows:
        try:
            pixels = np.squeeze(tifffile.imread(path))
        except (OSError, ValueError, tifffile.TiffFileError) as error:
            raise UsageError(f"{path} cannot be read as TIFF: {error}") from error
        if pixels.ndim != 2:
            raise UsageError(f"{path} has the shape {pixels.shape}: a rated image must be one plane")
        photons = (np.asarray(check_images(pixels)[0], dtype=np.float32) - recipe.offset) / recipe.gain
        if float(np.mean(photons < 0)) > 0.05:
            raise UsageError(
                f"{path}: many pixels are below --offset {recipe.offset:g}: what is the count without light?"
            )
        found.append(Rated(path, np.maximum(photons, 0).astype(np.float32), score))
    return found


def split_of(path: Path) -> str:
    """Which split a file is of, by a hash of its stem: 80 % train, 10 % validation, 10 % test.

    Files of one stem (the same field in two folders, or formats) are never on both sides.
    """
    number = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:4], "big") % 10
    return "validation" if number == 0 else "test" if number == 1 else "train"


def train_rated(
    images: Path, scores: Path, recipe: RatedRecipe, out: Path, *, start_from: Path | None = None
) -> tuple[Path, str]:
    """Fit the network of a card to rated images; write ``sted_quality.safetensors`` and ``.json`` into `out`.

    Its other outputs are held to what the network said before. Normalisation keeps its statistics, training stops
    after `patience` epochs without improvement on the validation images, and the best weights are kept.

    Returns
    -------
    (Path, str)
        The card, and what was found in words.

    Raises
    ------
    UsageError
        What `read_scores` and `read_rated` find wrong, or too few images.
    """
    rows = read_scores(images, scores)
    if len(rows) < LEAST:
        raise UsageError(f"{len(rows)} rated images are too few to train with: at least {LEAST}, better {FEW} or more")
    splits = {name: [row for row in rows if split_of(row[0]) == name] for name in ("train", "validation", "test")}
    for name in ("validation", "test"):
        if len(splits[name]) < LEAST_HELD_OUT:
            raise UsageError(
                f"only {len(splits[name])} of {len(rows)} images fall to {name} (a tenth, by a hash of the file's "
                f"stem): at least {LEAST_HELD_OUT} are needed, so rate more"
            )
    held = {name: read_rated(some, recipe) for name, some in splits.items()}
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    path = start_from or packaged_card_path("sted_quality")
    old = load_card(path)
    network = load_network(old, path)
    before = _ask(network, [*held["validation"], *held["test"]], recipe)
    fitted = _fit(network, held, recipe)
    out.mkdir(parents=True, exist_ok=True)
    return _publish(fitted, old, held, before, recipe, out)


def _fit(start: nn.Module, held: dict[str, list[Rated]], recipe: RatedRecipe) -> nn.Module:
    """Train all weights, statistics of the normalisation left as they are; the best on validation."""
    network = copy.deepcopy(start).eval().requires_grad_(True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=1e-3)
    rng = np.random.default_rng(recipe.seed)
    best, least, waited = copy.deepcopy(network), _error(network, held["validation"], recipe), 0
    for epoch in range(recipe.epochs):
        order = rng.permutation(len(held["train"]))
        for begin in range(0, len(order), recipe.batch):
            _step(
                network,
                start,
                [held["train"][one] for one in order[begin : begin + recipe.batch]],
                optimiser,
                recipe,
                rng,
            )
        found = _error(network, held["validation"], recipe)
        log.info("epoch", number=epoch, validation_rmse=round(found, 4))
        if found < least:
            best, least, waited = copy.deepcopy(network), found, 0
        else:
            waited += 1
            if waited >= recipe.patience:
                break
    return best.eval().requires_grad_(False)


def _step(
    network: nn.Module,
    start: nn.Module,
    batch: Sequence[Rated],
    optimiser: torch.optim.Optimizer,
    recipe: RatedRecipe,
    rng: np.random.Generator,
) -> None:
    """One step; images one by one, since they may have any size, mirrored along the fast axis in half of the cases."""
    optimiser.zero_grad(set_to_none=True)
    for one in batch:
        counts = torch.from_numpy(one.counts)[None, None]
        if rng.random() < 0.5:
            counts = counts.flip(3)
        size = torch.tensor([recipe.pixel_um], dtype=torch.float32)
        logits = network(counts, size)
        with torch.no_grad():
            wanted = torch.sigmoid(start(counts, size))
            wanted[:, 0] = one.score
        loss = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
        (loss[:, 0].sum() + 0.25 * loss[:, 1:].sum()).div(len(batch)).backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), 2.0)
    optimiser.step()


def _ask(network: nn.Module, images: Sequence[Rated], recipe: RatedRecipe) -> NDArray[np.float64]:
    size = torch.tensor([recipe.pixel_um], dtype=torch.float32)
    with torch.inference_mode():
        said = [judged(network, torch.from_numpy(one.counts)[None, None], size)[0, 0] for one in images]
    return np.asarray([float(one) for one in said])


def _error(network: nn.Module, images: Sequence[Rated], recipe: RatedRecipe) -> float:
    truth = np.asarray([one.score for one in images])
    return float(np.sqrt(np.mean((_ask(network, images, recipe) - truth) ** 2)))


def _publish(
    network: nn.Module,
    old: ModelCard,
    held: dict[str, list[Rated]],
    before: NDArray[np.float64],
    recipe: RatedRecipe,
    out: Path,
) -> tuple[Path, str]:
    """Calibrate on validation and test images, and say how it does on the test images."""
    kept = [*held["validation"], *held["test"]]
    said, truth = _ask(network, kept, recipe), np.asarray([one.score for one in kept])
    test = slice(len(held["validation"]), None)
    numbers = {name: len(images) for name, images in held.items()}
    measured: dict[str, Any] = {
        "images": numbers, "test": _figures(said[test], truth[test]),
        "test_before": _figures(before[test], truth[test]),
        # Of all that is held out, since a tenth is few; with fewer than that there is one bin.
        "calibration": calibration(said, truth),
    }  # fmt: skip
    sha = save_weights(network.state_dict(), out / "sted_quality.safetensors")
    card = replace(
        old, version=__version__, weights_file="sted_quality.safetensors", weights_sha256=sha, measured=measured,
        input={**old.input, "gain": recipe.gain, "offset": recipe.offset},
        training={
            "rated_images": numbers, "pixel_um": recipe.pixel_um, "started_from": old.weights_sha256,
            "seed": recipe.seed, "learning_rate": recipe.learning_rate, "batch": recipe.batch,
        },
        notes=(*old.notes, "Quality is what this laboratory's own raters gave."),
    )  # fmt: skip
    path = out / "sted_quality.json"
    save_card(card, path)
    return path, _words(numbers, measured)


def _figures(said: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float | None]:
    rank = float(spearmanr(said, truth).statistic) if np.ptp(said) > 0 and np.ptp(truth) > 0 else math.nan
    return {
        "spearman": round(rank, 3) if math.isfinite(rank) else None,
        "mae": round(float(np.mean(np.abs(said - truth))), 4),
    }


def _words(numbers: dict[str, int], measured: dict[str, Any]) -> str:
    now, then = measured["test"], measured["test_before"]
    total = sum(numbers.values())
    text = (
        f"{total} rated images: {numbers['train']} to train, {numbers['validation']} to validate, {numbers['test']} to "
        f"test. On the test images the mean error is {now['mae']:.3f} (before: {then['mae']:.3f}), "
        f"Spearman {now['spearman']} (before: {then['spearman']})."
    )
    if total < FEW or numbers["test"] < LEAST_A_BIN:
        text += f" {total} images are few: below {FEW}, take these figures as a hint and rate more."
    return text


def _number(text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        return math.nan
