"""Training of the two defocus networks from seeds: the compact one that ships, and the paper's as its peer."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parfocal.models.defocus_net import CompactDefocusNet, normalise
from parfocal.models.precision import training_autocast
from parfocal.models.training.chunks import Source, chunks
from parfocal.models.training.defocus_loss import defocus_loss
from parfocal.models.yang2018 import INPUT_SCALE, LEVELS, PATCH_PX, YangNet, ranked_probability_loss
from parfocal.simulator.optics import PIXELS_PER_LEVEL

log = structlog.get_logger()
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Recipe:
    """Everything that a training depends on; written beside the weights."""

    architecture: str = "compact"
    chunks: int = 300
    chunk_examples: int = 256
    passes: float = 2.0
    batch: int = 32
    buffer_chunks: int = 60
    learning_rate: float = 1.5e-3
    weight_decay: float = 1e-4
    seed: int = 33
    size_px: int = 256
    procedural: int = 1400
    fields: str | None = None
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    precision: str = "auto"
    checkpoint_every: int = 40
    start_from: str | None = None


class Buffer:
    """The last so many chunks, to draw batches from: every example serves about `passes` times.

    Parameters
    ----------
    capacity_chunks : int
    first : int
        Number of the first chunk that will be put in. A chunk's place follows from its number, so that a buffer filled
        again for a resumed training is the one that was lost.
    """

    def __init__(self, capacity_chunks: int, *, first: int = 0) -> None:
        self._capacity = capacity_chunks
        self._chunks: dict[int, dict[str, NDArray[Any]]] = {}
        self._number = first

    def add(self, chunk: dict[str, NDArray[Any]]) -> None:
        """Put the next chunk in, the oldest out if full."""
        self._chunks[self._number % self._capacity] = chunk
        self._number += 1

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """A random batch of all chunks held."""
        held = [self._chunks[place] for place in sorted(self._chunks)]
        which = rng.integers(len(held), size=size)
        row = rng.integers(len(held[0]["blur_px"]), size=size)
        return {name: np.stack([held[c][name][r] for c, r in zip(which, row, strict=True)]) for name in held[0]}


def pick_device(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu`` or ``cuda``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def train(recipe: Recipe, out: Path) -> nn.Module:
    """Train from the recipe; writes ``checkpoint.pt`` on the way, weights and ``recipe.json`` at the end.

    Returns the trained network in evaluation mode, on the CPU. A checkpoint found in `out` is gone on from, and ends
    with the weights of a training that was never interrupted: the chunks that the buffer held are made again.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    device = pick_device(recipe.device)
    out.mkdir(parents=True, exist_ok=True)
    job = _Job(recipe, device)
    start = job.restore(out / "checkpoint.pt")
    source = Source(
        Path(recipe.fields) if recipe.fields else None, "train", recipe.procedural, recipe.size_px, recipe.seed
    )
    # Nothing is left to learn after the last chunk, so nothing needs to be drawn from either.
    first = max(0, start - recipe.buffer_chunks) if start < recipe.chunks else start
    buffer = Buffer(recipe.buffer_chunks, first=first)
    began = time.monotonic()
    stream = chunks(source, count=recipe.chunks, examples=recipe.chunk_examples, workers=recipe.workers, start=first)
    for number, chunk in enumerate(stream, first):
        buffer.add(chunk)
        if number < start:
            continue
        parts = job.learn(buffer, number)
        if number % 5 == 0 or number == recipe.chunks - 1:
            log.info("trained", chunk=number, of=recipe.chunks, seconds=round(time.monotonic() - began), **parts)
        if (number + 1) % recipe.checkpoint_every == 0:
            job.save(out / "checkpoint.pt", number + 1)
    network = job.averaged.module.to("cpu").eval()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out / "weights.safetensors")
    (out / "recipe.json").write_text(
        json.dumps(asdict(recipe) | {"fields": bool(recipe.fields), "start_from": bool(recipe.start_from)}, indent=1)
    )
    return network


class _Job:
    """Network, optimiser, averaged weights and random state of one training."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        network: nn.Module = CompactDefocusNet() if recipe.architecture == "compact" else YangNet()
        if recipe.start_from:
            network.load_state_dict(load_file(recipe.start_from))
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(0.99)  # type: ignore[no-untyped-call]
        self.averaged = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.rng = np.random.default_rng(recipe.seed)
        self.steps_a_chunk = max(1, round(recipe.passes * recipe.chunk_examples / recipe.batch))

    def learn(self, buffer: Buffer, number: int) -> dict[str, float]:
        """The steps that go with one new chunk; mean of the loss's parts."""
        sums: dict[str, float] = {}
        for step in range(self.steps_a_chunk):
            progress = (number + step / self.steps_a_chunk) / self.recipe.chunks
            rate = self.recipe.learning_rate * min(1.0, progress * 50 + 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = rate + 1e-6
            for name, value in self._step(buffer.batch(self.recipe.batch, self.rng)).items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: round(value / self.steps_a_chunk, 4) for name, value in sums.items()}

    def _step(self, arrays: dict[str, NDArray[Any]]) -> dict[str, float]:
        batch = {name: torch.from_numpy(values).to(self.device) for name, values in arrays.items()}
        self.optimiser.zero_grad(set_to_none=True)
        with training_autocast(self.recipe.precision, self.device.type):
            parts = self._compact(batch) if self.recipe.architecture == "compact" else self._yang(batch)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _compact(self, batch: Batch) -> dict[str, Tensor]:
        count = len(batch["blur_px"])
        images = normalise(batch["counts"].float())
        scale = torch.from_numpy(self.rng.lognormal(0.0, 0.25, count).astype(np.float32)).to(self.device)
        images = (images * scale[:, None, None, None]).contiguous(memory_format=torch.channels_last)
        knows_cutoff = torch.from_numpy((self.rng.random(count) < 0.6).astype(np.float32)).to(self.device)
        knows_waves = torch.from_numpy((self.rng.random(count) < 0.6).astype(np.float32)).to(self.device)
        # An image with aberration w at defocus z is the image with -w at -z: only their relative sign exists.
        orientation = torch.where(batch["spherical_waves"] < 0, -1.0, 1.0)
        waves = batch["spherical_waves"].abs() * knows_waves
        told = torch.stack([batch["log2_cutoff"] * knows_cutoff, knows_cutoff, 10.0 * waves, knows_waves], dim=1)
        blur = batch["blur_px"] * orientation
        waves = torch.where(batch["transmitted"], torch.zeros_like(waves), waves)
        return defocus_loss(self.network(images, told), blur, batch["signal"], waves)

    def _yang(self, batch: Batch) -> dict[str, Tensor]:
        """The paper's input and loss: 84 px patches of raw counts, scaled; fields past level 10 are left out."""
        keep = (batch["blur_px"].abs() <= (LEVELS - 0.5) * PIXELS_PER_LEVEL) & (batch["signal"] > 0)
        if not bool(keep.any()):
            keep[:] = True  # a batch without one usable field: rather far ones at the last level than no gradient
        counts, blur = batch["counts"][keep].float() * INPUT_SCALE, batch["blur_px"][keep].abs()
        patches = []
        for _ in range(2):
            top, left = self.rng.integers(0, self.recipe.size_px - PATCH_PX + 1, 2)
            patches.append(counts[:, None, top : top + PATCH_PX, left : left + PATCH_PX])
        levels = torch.round(blur / PIXELS_PER_LEVEL).clamp(max=LEVELS - 1).repeat(2)
        logits = self.network(torch.cat(patches).contiguous(memory_format=torch.channels_last))
        return {"total": ranked_probability_loss(logits.float(), levels)}

    def save(self, path: Path, chunks_done: int) -> None:
        """Write everything needed to go on; whoever kills the training meanwhile leaves the checkpoint before it."""
        partial = path.with_suffix(".partial")
        torch.save(
            {
                "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
                "generator": self._generator_state(), "chunks": chunks_done, "recipe": asdict(self.recipe),
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
        if "generator" not in held:
            log.warning("checkpoint of an older parfocal: dropout goes on otherwise than uninterrupted", path=str(path))
        elif self.device.type == "cuda":
            torch.cuda.set_rng_state(held["generator"].cpu(), self.device)
        else:
            torch.set_rng_state(held["generator"].cpu())
        return int(held["chunks"])

    def _generator_state(self) -> Tensor:
        """State of the device's own generator, which the paper's network drops units by."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()
