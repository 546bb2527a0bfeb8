"""From trained weights to a card: calibration on held-out validation fields, hash, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from parfocal import __version__
from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.defocus_posterior import edges_px
from parfocal.models.precision import settled
from parfocal.models.training.blur import random_optics
from parfocal.models.training.evaluate_defocus import Case, assessor, blurred_cases, field_objects, procedural_objects
from parfocal.models.training.fields import fields_used, load_fields
from parfocal.models.training.synthesis import SEEN_FROM
from parfocal.models.training.train_defocus import Recipe, pick_device
from parfocal.simulator.optics import Optics

FLOOR = 0.002
"""Share of the prior in every answer, so that nothing is impossible; more would weigh on every standard deviation."""
SIGNAL_FROM = 0.8
"""Probability of a signal from which one is believed: a good field refused costs a frame, an empty one a move."""
HALF_WITHIN, MOST_WITHIN = 0.05, 0.03
"""How far the coverage of the 50 and of the 90 % interval may be off before anything else counts."""
NEUTRAL = {"temperature": 1.0, "floor": 1e-6, "signal_from": 1e-6}
OPTICS_DRAWN, SPECIMENS_DRAWN, SIDE_PX = 12, 60, 512
"""How much is drawn to calibrate on, beside real fields: optics, specimens, empty fields; the side of the last two."""


def publish(network: nn.Module, recipe: Recipe, out: Path, *, fields: Path | None, seed: int = 99) -> ModelCard:
    """Calibrate a trained compact network and write ``defocus.safetensors`` and ``defocus.json`` into `out`."""
    sha = save_weights(network.state_dict(), out / "defocus.safetensors")
    save_card(_card(recipe, sha, NEUTRAL, fields), out / "defocus.json")
    calibration = calibrate(out / "defocus.json", fields=fields, seed=seed)
    card = _card(recipe, sha, calibration, fields)
    save_card(card, out / "defocus.json")
    return card


def _card(recipe: Recipe, sha: str, calibration: dict[str, float], fields: Path | None) -> ModelCard:
    training: dict[str, Any] = {
        name: value for name, value in asdict(recipe).items() if name not in ("fields", "start_from", "workers")
    }
    training["precision"] = settled(recipe.precision, pick_device(recipe.device).type)
    training["fields"], training["went_on"] = fields_used(fields), bool(recipe.start_from)
    return ModelCard(
        name="defocus", version=__version__, architecture="CompactDefocusNet", weights_file="defocus.safetensors",
        weights_sha256=sha,
        input={"pixels": "raw counts, any gain and offset", "scale": "mean 0, sd 1 over the frame", "min_px": 32},
        training=training, measured={"calibration": calibration},
        notes=("Splits are by field or cell, never by patch.", "Apertures in HELD_OUT_NA are never trained on."),
    )  # fmt: skip


def calibrate(card: Path, *, fields: Path | None, seed: int) -> dict[str, float]:
    """Temperature that makes the intervals cover what they say, with the floor and the signal threshold.

    On validation fields and fresh procedural specimens, optics as in training, frames of up to 512 px.

    Raises
    ------
    ModelError
        The network abstains on every specimen.
    """
    assess = assessor(card)
    said, truth = [], []
    for case in _validation(fields, seed):
        told = assess(case.counts, case.optics)
        if not told.abstained and told.distribution is not None and case.detectability > SEEN_FROM:
            said.append(_blur_probabilities(told.distribution.probability))
            truth.append(abs(case.defocus_um) * case.optics.blur_px_per_um / told.detail["binning"])
    if not said:
        raise ModelError("the network sees a specimen in none of the validation fields: it cannot be calibrated")
    temperature = _best_temperature(np.stack(said), np.asarray(truth))
    return {"temperature": temperature, "floor": FLOOR, "signal_from": SIGNAL_FROM}


def _blur_probabilities(signed: NDArray[Any]) -> NDArray[Any]:
    """Undo the flat prior of a `Distribution`: the network's own probabilities of the blur bins."""
    from parfocal.models.defocus_posterior import trained_prior

    half = len(signed) // 2
    masses = (signed[half:] + signed[:half][::-1]) / np.diff(edges_px()) * trained_prior()
    return np.asarray(masses / masses.sum())


def _validation(fields: Path | None, seed: int) -> Iterator[Case]:
    def optics_of(rng: np.random.Generator) -> Optics:
        return pool[int(rng.integers(len(pool)))]

    # So few optics that the model is made a dozen times and not for every frame.
    pool = [random_optics(np.random.default_rng((seed, number))) for number in range(OPTICS_DRAWN)]
    photons = (10_000.0, 1_000.0, 100.0, 20.0)
    if fields is not None:
        real = field_objects(load_fields(fields, "validation"))
        yield from blurred_cases(real, seed=seed, photons=photons, optics_of=optics_of)
    drawn = procedural_objects(SPECIMENS_DRAWN, seed=seed, side_px=SIDE_PX)
    yield from blurred_cases(drawn, seed=seed + 1, photons=photons, optics_of=optics_of)


def _best_temperature(p: NDArray[Any], truth_px: NDArray[Any]) -> float:
    """Temperature with the least gap between stated and found coverage of the 50 and 90 % intervals."""
    from parfocal.models.defocus_posterior import trained_prior

    def gap(temperature: float) -> tuple[float, float]:
        scaled = p ** (1.0 / temperature)
        q = (1 - FLOOR) * scaled / scaled.sum(axis=1, keepdims=True) + FLOOR * trained_prior()
        rank = np.abs(_cumulative_at(q, truth_px) - 0.5)
        half, most = float(np.mean(rank <= 0.25)), float(np.mean(rank <= 0.45))
        outside = max(abs(half - 0.5) - HALF_WITHIN, 0.0) + max(abs(most - 0.9) - MOST_WITHIN, 0.0)
        return round(outside, 3), abs(half - 0.5) + 2 * abs(most - 0.9)

    return round(float(min(np.arange(0.3, 2.55, 0.05), key=gap)), 3)


def _cumulative_at(p: NDArray[Any], truth_px: NDArray[Any]) -> NDArray[Any]:
    """Where the truth lies in each distribution, 0..1."""
    cumulative = np.concatenate([np.zeros((len(p), 1)), np.cumsum(p, axis=1)], axis=1)
    return np.asarray([np.interp(x, edges_px(), row) for x, row in zip(truth_px, cumulative, strict=True)])
