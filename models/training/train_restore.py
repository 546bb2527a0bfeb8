"""Training of the restoring U-Net from seeds."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parfocal.models.precision import training_autocast
from parfocal.models.restore.unet_net import RestoreNet
from parfocal.models.training.chunks import Source, chunks
from parfocal.models.training.restore_chunks import make_pair_chunk
from parfocal.models.training.train_defocus import pick_device

log = structlog.get_logger()
SURE_SHARE = 0.05
"""Weight of the error's own likelihood beside the image's error."""
LEAST_ERROR = 3e-5
"""Squared error, of the squared range, below which an image counts as right (45 dB)."""


@dataclass(frozen=True)
class RestoreRecipe:
    """Everything that a training depends on; written beside the weights."""

    chunks: int = 500
    chunk_examples: int = 48
    passes: int = 2
    batch: int = 8
    buffer_chunks: int = 24
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    seed: int = 1
    size_px: int = 256
    procedural: int = 700
    fields: str | None = None
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    precision: str = "auto"
    checkpoint_every: int = 20
    start_from: str | None = None


def restore_loss(restored: Tensor, log_sd: Tensor, truth: Tensor, span: Tensor) -> dict[str, Tensor]:
    """Half the logarithm of each image's mean squared error (its PSNR, but for a factor), and the error's likelihood.

    `restored`, `log_sd` and `truth` are (n, 1, h, w), `span` (n,) the range of each truth. The likelihood judges the
    stated sd only: it does not pull at the image.
    """
    error = restored - truth
    square = error.square().mean(dim=(1, 2, 3)) / span.square()
    image = 0.5 * torch.log(square + LEAST_ERROR).mean()
    unsure = (0.5 * error.detach().square() * torch.exp(-2.0 * log_sd)).clamp(max=50.0) + log_sd
    sure = unsure.mean()
    return {"image": image, "sure": sure, "total": image + SURE_SHARE * sure}


def train(recipe: RestoreRecipe, out: Path) -> RestoreNet:
    """Train from the recipe; writes ``checkpoint.pt`` on the way, weights and ``recipe.json`` at the end.

    Returns the averaged network in evaluation mode, on the CPU. A checkpoint of the same recipe in `out` is gone on
    from; the examples held at that moment are made again.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    job = _Job(recipe, pick_device(recipe.device))
    start = job.restore(out / "checkpoint.pt")
    source = Source(
        Path(recipe.fields) if recipe.fields else None, "train", recipe.procedural, recipe.size_px, recipe.seed
    )
    first = max(0, start - recipe.buffer_chunks) if start < recipe.chunks else start
    held: deque[dict[str, NDArray[Any]]] = deque(maxlen=recipe.buffer_chunks)
    began = time.monotonic()
    stream = chunks(
        source, count=recipe.chunks, examples=recipe.chunk_examples, workers=recipe.workers, start=first,
        make=make_pair_chunk,
    )  # fmt: skip
    for number, chunk in enumerate(stream, first):
        held.append(chunk)
        if number < start:
            continue
        parts = job.learn(held, number)
        if number % 5 == 0 or number == recipe.chunks - 1:
            log.info("trained", chunk=number, of=recipe.chunks, seconds=round(time.monotonic() - began), **parts)
        if (number + 1) % recipe.checkpoint_every == 0:
            job.save(out / "checkpoint.pt", number + 1)
    network: RestoreNet = job.averaged.module.to("cpu").eval()  # type: ignore[assignment]
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out / "weights.safetensors")
    (out / "recipe.json").write_text(
        json.dumps(asdict(recipe) | {"fields": bool(recipe.fields), "start_from": bool(recipe.start_from)}, indent=1)
    )
    return network


class _Job:
    """Network, optimiser, averaged weights and random state of one training."""

    def __init__(self, recipe: RestoreRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        network = RestoreNet()
        if recipe.start_from:
            network.load_state_dict(load_file(recipe.start_from))
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.995)  # type: ignore[no-untyped-call]
        self.averaged = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=average)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.rng = np.random.default_rng(recipe.seed)
        self.steps_a_chunk = max(1, recipe.passes * recipe.chunk_examples // recipe.batch)

    def learn(self, held: deque[dict[str, NDArray[Any]]], number: int) -> dict[str, float]:
        """The steps that go with one new chunk; mean of the loss's parts."""
        sums: dict[str, float] = {}
        for step in range(self.steps_a_chunk):
            progress = (number + step / self.steps_a_chunk) / self.recipe.chunks
            rate = self.recipe.learning_rate * min(1.0, progress * 40 + 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = rate + 1e-6
            for name, value in self._step(held).items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: round(value / self.steps_a_chunk, 4) for name, value in sums.items()}

    def _step(self, held: deque[dict[str, NDArray[Any]]]) -> dict[str, float]:
        batch = self._batch(held)
        self.optimiser.zero_grad(set_to_none=True)
        with training_autocast(self.recipe.precision, self.device.type):
            restored, log_sd = self.network(batch["channels"], batch["conditions"])
        parts = restore_loss(restored.float(), log_sd.float(), batch["truth"], batch["range"])
        parts["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _batch(self, held: deque[dict[str, NDArray[Any]]]) -> dict[str, Tensor]:
        """A random batch of all that is held, turned and flipped."""
        which = self.rng.integers(len(held), size=self.recipe.batch)
        row = self.rng.integers(len(held[0]["range"]), size=self.recipe.batch)
        turns, flip = int(self.rng.integers(4)), bool(self.rng.random() < 0.5)
        batch = {
            name: torch.from_numpy(np.stack([held[c][name][r] for c, r in zip(which, row, strict=True)])).float()
            for name in held[0]
        }
        batch["truth"] = batch["truth"][:, None]
        for name in ("channels", "truth"):
            turned = torch.rot90(batch[name], turns, (2, 3))
            turned = turned.flip(3) if flip else turned
            batch[name] = turned.contiguous(memory_format=torch.channels_last)
        return {name: value.to(self.device) for name, value in batch.items()}

    def save(self, path: Path, chunks_done: int) -> None:
        """Write everything needed to go on; a training killed meanwhile leaves the checkpoint before it."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
                "chunks": chunks_done, "recipe": asdict(self.recipe),
            },
            partial,
        )  # fmt: skip
        partial.replace(path)

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint of the same recipe; returns the chunks already done, 0 if there is none."""
        if not path.exists():
            return 0
        held = torch.load(path, weights_only=True, map_location=self.device)
        if held["recipe"] != asdict(self.recipe):
            log.warning("checkpoint is of another recipe: training starts anew and will replace it", path=str(path))
            return 0
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        return int(held["chunks"])
