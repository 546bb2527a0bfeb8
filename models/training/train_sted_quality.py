"""Training of the networks of STED quality on simulated frames, side by side, from seeds."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from parfocal import UsageError, did_you_mean
from parfocal.models.cards import load_card
from parfocal.models.sted_quality import load_network
from parfocal.models.sted_quality_net import NETWORKS, RobitailleNet, judged
from parfocal.models.training.sted_quality_data import Chunk, StedSource, chunks, joined, make_chunk
from parfocal.models.training.sted_quality_recipe import FrameBuffer, StedRecipe

log = structlog.get_logger()
WARM_UP = 0.03
VALIDATION_SEED, TEST_SEED = 1_000_003, 2_000_003
"""Added to the recipe's seed: specimens, dyes and settings of their own."""
MAX_NORM = 2.0
ASK_AT_ONCE = 64


def train(recipe: StedRecipe, out: Path, *, start_from: Sequence[Path] = ()) -> dict[str, nn.Module]:
    """Train from the recipe; ``checkpoint.pt`` on the way; the networks in evaluation mode, by name.

    A checkpoint of the same recipe found in `out` is gone on from, with frames made from there on. Otherwise networks
    begin with the weights of the cards to start from that are theirs.

    Raises
    ------
    UsageError
        There is no network of that name, or a card to start from is of none of them.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    stream = source(recipe)
    jobs = [_job(name, recipe) for name in recipe.networks]
    for card in start_from:
        _begin_with(card, jobs)
    start = _restore(out / "checkpoint.pt", recipe, jobs)
    held_out = validation_frames(recipe)
    buffer, began = FrameBuffer(recipe.buffer_frames), time.monotonic()
    for number, chunk in enumerate(chunks(stream, count=recipe.chunks, frames=recipe.chunk_frames, start=start), start):
        buffer.add(chunk)
        losses = {job.name: round(job.learn(buffer, number), 4) for job in jobs}
        if number % 5 == 0 or number == recipe.chunks - 1:
            log.info("trained", chunk=number, of=recipe.chunks, seconds=round(time.monotonic() - began), **losses)
        if (number + 1) % recipe.validate_every == 0 or number == recipe.chunks - 1:
            log.info("validated", chunk=number, **{job.name: job.validate(held_out) for job in jobs})
        if (number + 1) % recipe.checkpoint_every == 0:
            _save(out / "checkpoint.pt", recipe, jobs, number + 1)
    return {job.name: job.finished() for job in jobs}


def source(recipe: StedRecipe) -> StedSource:
    """What the recipe's training frames are made of."""
    return StedSource(
        recipe.seed, recipe.kinds, size_px=recipe.size_px, structures=recipe.structures, specimens=recipe.specimens
    )


def validation_frames(recipe: StedRecipe) -> Chunk:
    """Frames of other specimens, dyes and settings than the training's; of the same kinds."""
    held = StedSource(recipe.seed + VALIDATION_SEED, recipe.kinds, size_px=recipe.size_px, structures=8, specimens=1)
    count = max(1, round(recipe.validation_frames / recipe.chunk_frames))
    return joined([make_chunk(held, number, recipe.chunk_frames) for number in range(count)])


def ask(network: nn.Module, counts: NDArray[Any], pixel_um: NDArray[Any]) -> NDArray[np.float64]:
    """Outputs (n, k), 0..1, of a network in evaluation mode for frames (n, h, w) of one shape."""
    found = []
    with torch.inference_mode():
        for begin in range(0, len(counts), ASK_AT_ONCE):
            part = torch.from_numpy(np.asarray(counts[begin : begin + ASK_AT_ONCE], dtype=np.float32))[:, None]
            size = torch.from_numpy(np.asarray(pixel_um[begin : begin + ASK_AT_ONCE], dtype=np.float32))
            found.append(judged(network, part, size).double().numpy())
    return np.concatenate(found)


class CompactJob:
    """The compact network with its optimiser and the moving average of its weights."""

    name = "StedQualityNet"

    def __init__(self, recipe: StedRecipe) -> None:
        self.recipe = recipe
        self.network = _fast(NETWORKS[self.name]())
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.averaged = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.rng = np.random.default_rng((recipe.seed, 1))
        self.steps = max(1, round(recipe.passes * recipe.chunk_frames / recipe.batch))

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """Take these weights instead of fresh ones."""
        self.network.load_state_dict(state)
        self.averaged.module.load_state_dict(state)

    def learn(self, buffer: FrameBuffer, number: int) -> float:
        """The steps that go with one new chunk; mean loss."""
        total = 0.0
        for step in range(self.steps):
            progress = (number + step / self.steps) / self.recipe.chunks
            rate = min(1.0, progress / WARM_UP + 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * rate + 1e-7
            drawn = buffer.draw(self.recipe.batch, self.rng)
            loss = compact_loss(self.network(drawn["counts"], drawn["pixel_um"]), drawn["labels"], self.recipe)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.network.parameters(), MAX_NORM)
            self.optimiser.step()
            self.averaged.update_parameters(self.network)
            total += float(loss.detach())
        return total / self.steps

    def validate(self, held_out: Chunk) -> dict[str, float]:
        """What the averaged network does on held-out frames."""
        network = self.averaged.module.eval()
        found = score(network, held_out)
        self.averaged.module.train()
        return found

    def finished(self) -> nn.Module:
        """The network to keep."""
        kept: nn.Module = self.averaged.module.eval()
        return kept

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
        }  # fmt: skip

    def load(self, held: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])


class PaperJob:
    """Robitaille's network and its published training: SGD with momentum, mean squared error, best on validation."""

    name = "RobitailleNet"

    def __init__(self, recipe: StedRecipe) -> None:
        self.recipe = recipe
        self.network = _fast(RobitailleNet())
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=recipe.paper_rate, momentum=recipe.paper_momentum
        )
        self.rng = np.random.default_rng((recipe.seed, 2))
        self.best: nn.Module | None = None
        self.least, self.scaled = math.inf, False
        # What does not make up a batch is carried over, so that it sees as many frames as the other.
        self.owed = 0.0

    def begin_with(self, state: Mapping[str, Tensor]) -> None:
        """Take these weights, and the scaling of the input that goes with them."""
        self.network.load_state_dict(state)
        self.scaled = True

    def learn(self, buffer: FrameBuffer, number: int) -> float:
        """The steps that go with one new chunk; mean loss. The first chunk gives the mean and the sd of the input."""
        if not self.scaled:
            self._scale(buffer)
        self.owed += self.recipe.passes * self.recipe.chunk_frames / self.recipe.paper_batch
        losses = []
        while self.owed >= 1:
            self.owed -= 1
            drawn = buffer.draw(self.recipe.paper_batch, self.rng)
            said = torch.sigmoid(self.network(drawn["counts"], drawn["pixel_um"]))[:, 0]
            loss = functional.mse_loss(said, drawn["labels"][:, 0])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses)) if losses else 0.0

    def _scale(self, buffer: FrameBuffer) -> None:
        counts = buffer.draw(min(256, max(64, len(buffer))), np.random.default_rng(self.recipe.seed))["counts"]
        self.network.load_state_dict({"mean": counts.mean(), "sd": counts.std()}, strict=False)
        self.scaled = True

    def validate(self, held_out: Chunk) -> dict[str, float]:
        """What it does on held-out frames; kept if it is the best so far."""
        found = score(self.network.eval(), held_out)
        if found["rmse"] < self.least:
            self.least, self.best = found["rmse"], copy.deepcopy(self.network)
        self.network.train()
        return found

    def finished(self) -> nn.Module:
        """The network to keep."""
        return (self.best if self.best is not None else self.network).eval()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "network": self.network.state_dict(), "best": self.finished().state_dict(), "least": self.least,
            "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
            "owed": self.owed,
        }  # fmt: skip

    def load(self, held: Mapping[str, Any]) -> None:
        """Inverse of `state`."""
        self.network.load_state_dict(held["network"])
        self.best = RobitailleNet()
        self.best.load_state_dict(held["best"])
        self.least, self.owed, self.scaled = float(held["least"]), float(held["owed"]), True
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        self.network.train()


Job = CompactJob | PaperJob


def compact_loss(logits: Tensor, labels: Tensor, recipe: StedRecipe) -> Tensor:
    """Cross-entropy with labels between 0 and 1, whose gradient does not fade where the sigmoid is flat."""
    each = functional.binary_cross_entropy_with_logits(logits, labels, reduction="none").mean(dim=0)
    return each[0] + recipe.others_share * each[1:].sum()


def score(network: nn.Module, held_out: Chunk) -> dict[str, float]:
    """Rank correlation and errors of the quality said of labelled frames."""
    said = ask(network, held_out["counts"], held_out["pixel_um"])[:, 0]
    error = said - held_out["quality"]
    rank = float(spearmanr(said, held_out["quality"]).statistic)
    rmse = float(np.sqrt(np.mean(error**2)))
    return {"spearman": round(rank, 4), "mae": round(float(np.mean(np.abs(error))), 4), "rmse": round(rmse, 4)}


def _begin_with(path: Path, jobs: list[Job]) -> None:
    card = load_card(path)
    for job in jobs:
        if job.name == card.architecture:
            job.begin_with(load_network(card, path).state_dict())
            return
    names = " or ".join(job.name for job in jobs)
    raise UsageError(f"{path} describes a {card.architecture}, and what is trained is a {names}")


def _fast(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def _job(name: str, recipe: StedRecipe) -> Job:
    if name not in NETWORKS:
        raise UsageError(f"there is no network {name!r}{did_you_mean(name, NETWORKS)}; there are {', '.join(NETWORKS)}")
    return PaperJob(recipe) if name == PaperJob.name else CompactJob(recipe)


def _save(path: Path, recipe: StedRecipe, jobs: list[Job], done: int) -> None:
    """Write the checkpoint; the file is whole or the old one, also if the power fails."""
    part = path.with_suffix(".part")
    states = {job.name: job.state() for job in jobs}
    torch.save({"recipe": _plain(recipe), "chunks": done, "torch_rng": torch.get_rng_state(), "jobs": states}, part)
    part.replace(path)


def _restore(path: Path, recipe: StedRecipe, jobs: list[Job]) -> int:
    """Go on from a checkpoint of the same recipe; returns the chunks already done, 0 if there is none."""
    if not path.exists():
        return 0
    held = torch.load(path, weights_only=True)
    if held["recipe"] != _plain(recipe):
        log.warning("checkpoint of another recipe is left alone", path=str(path))
        return 0
    for job in jobs:
        job.load(held["jobs"][job.name])
    torch.set_rng_state(held["torch_rng"])
    return int(held["chunks"])


def _plain(recipe: StedRecipe) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return data
