"""From trained restoring weights to a card: how honest the stated error is, what is strange, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parfocal import __version__
from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.precision import settled
from parfocal.models.restore.base import Blur
from parfocal.models.restore.deconvolution import reblur_residual
from parfocal.models.restore.estimate import BlurEstimator, NotEstimatedError
from parfocal.models.restore.gate import Claim, Gate, block_rms, claimed_gain_db, relative_noise
from parfocal.models.restore.strangeness import Strangeness
from parfocal.models.restore.traits import NAMES, traits
from parfocal.models.restore.unet import UnetRestorer
from parfocal.models.restore.unet_net import RestoreNet, prepare
from parfocal.models.training.chunks import Source, object_bank
from parfocal.models.training.fields import Split, fields_used
from parfocal.models.training.restore_pairs import Pair, PairMaker
from parfocal.models.training.train_defocus import pick_device
from parfocal.models.training.train_restore import RestoreRecipe

TRAINING_FRAMES, VALIDATION_FRAMES, SPECIMENS = 480, 300, 200
UNTOLD = ("fields", "start_from", "workers", "threads", "device", "checkpoint_every")
"""Of the recipe: what says where things were and not what was learned."""
NEUTRAL = Strangeness(torch.zeros(len(NAMES)), torch.eye(len(NAMES)), torch.tensor([1e9]))


@dataclass(frozen=True)
class Seen:
    """What calibration takes from one frame: its traits, squared error over squared sd, and the gain in decibels."""

    traits: Tensor
    ratio: float
    gain_db: float


def publish_restore(network: RestoreNet, recipe: RestoreRecipe, out: Path, *, fields: Path | None) -> ModelCard:
    """Calibrate a trained network and write ``restore.safetensors`` and ``restore.json`` into `out`.

    The stated sd is scaled by one number so that, on the median validation frame, its mean square is that of the
    error; the gate's strangeness is fitted to training fields and its limit to validation fields, all with the blur
    that the shipped defocus model estimates.

    Raises
    ------
    ModelError
        The gate lets none of the frames through: there is nothing to calibrate on.
    """
    _write(network, recipe, out, NEUTRAL, {"sd_scale": 1.0}, {}, fields)
    restorer, estimator = UnetRestorer({"card": str(out / "restore.json"), "precision": "float32"}), BlurEstimator()
    known = list(_seen(restorer, estimator, _pairs(fields, "train", TRAINING_FRAMES, recipe)))
    held_out = list(_seen(restorer, estimator, _pairs(fields, "validation", VALIDATION_FRAMES, recipe)))
    if not known or not held_out:
        raise ModelError("the gate refuses every calibration frame: the network cannot be calibrated")
    strangeness = Strangeness.fit(*(torch.stack([one.traits for one in many]) for many in (known, held_out)))
    # The median frame decides: one that was got quite wrong must not make all the others look unsure.
    scale = float(np.sqrt(np.median([one.ratio for one in held_out])))
    validation = {"frames": len(held_out), "gain_db": float(np.mean([one.gain_db for one in held_out]))}
    return _write(network, recipe, out, strangeness, {"sd_scale": scale}, validation, fields)


def _write(
    network: RestoreNet, recipe: RestoreRecipe, out: Path, strangeness: Strangeness, calibration: dict[str, float],
    validation: dict[str, Any], fields: Path | None,
) -> ModelCard:  # fmt: skip
    state = {name: value.detach() for name, value in network.state_dict().items()} | strangeness.state()
    sha = save_weights(state, out / "restore.safetensors")
    said = {name: value for name, value in asdict(recipe).items() if name not in UNTOLD}
    said["precision"] = settled(recipe.precision, pick_device(recipe.device).type)
    card = ModelCard(
        name="restore", version=__version__, architecture="RestoreNet", weights_file="restore.safetensors",
        weights_sha256=sha,
        input={"pixels": "raw counts, any gain and offset", "told": "optics, defocus and its sd", "min_px": 64},
        training={**said, "fields": fields_used(fields), "went_on": bool(recipe.start_from)},
        measured={"calibration": calibration, "validation": validation},
        notes=(
            "Splits are by field or cell, never by patch.", "Apertures in HELD_OUT_NA are never trained on.",
            "For people to look at: restored pixels feed no score, no policy and no record.",
        ),
    )  # fmt: skip
    save_card(card, out / "restore.json")
    return card


def _pairs(fields: Path | None, split: Split, count: int, recipe: RestoreRecipe) -> Iterator[Pair]:
    """Pairs of a split; procedural specimens of a seed of their own."""
    seed = recipe.seed + {"train": 1000, "validation": 2000, "test": 3000}[split]
    maker = PairMaker(
        object_bank(Source(fields, split, SPECIMENS, recipe.size_px, seed)), size_px=recipe.size_px, seed=seed
    )
    for _ in range(count):
        yield maker.pairs(1)[0]


def _seen(restorer: UnetRestorer, estimator: BlurEstimator, pairs: Iterator[Pair]) -> Iterator[Seen]:
    """Restore the pairs that the gate lets in, with the blur as it is estimated."""
    gate = Gate()
    for pair in pairs:
        try:
            blur = estimator.blur(pair.frame, pair.blur.optics)
        except NotEstimatedError:
            continue
        if gate.before("unet", pair.frame, pair.frame, blur) is None:
            yield _one(restorer, pair, blur)


def _one(restorer: UnetRestorer, pair: Pair, blur: Blur) -> Seen:
    with torch.inference_mode():
        ready = prepare(pair.frame, blur)
        image, sd = restorer.run(ready)
    restored, claim = (image * ready.scale + ready.zero).numpy(), Claim((sd * ready.scale).numpy(), NEUTRAL)
    residual = block_rms(reblur_residual(ready.seen, restored).numpy())
    gain_db = claimed_gain_db(pair.frame, ready.seen, restored, claim)
    error = float(np.mean(np.square(restored - pair.truth)))
    before = float(np.mean(np.square(pair.frame - pair.truth)))
    return Seen(
        traits(pair.frame, ready.seen, residual, blur, relative_noise(ready.seen, restored), gain_db),
        error / float(np.mean(np.square(claim.sd))), 10.0 * float(np.log10(before / error)),
    )  # fmt: skip
