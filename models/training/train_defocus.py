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
    passes: int = 3
    batch: int = 32
    buffer_chunks: int = 60
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    seed: int = 1
    size_px: int = 256
    procedural: int = 1400
    fields: str | None = None
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    checkpoint_every: int = 40
    start_from: str | None = None


class Buffer:
    """The last so many chunks, to draw batches from: every example serves about `passes` times."""

    def __init__(self, capacity_chunks: int) -> None:
        self._capacity = capacity_chunks
        self._chunks: list[dict[str, NDArray[Any]]] = []
        self._next = 0

    def add(self, chunk: dict[str, NDArray[Any]]) -> None:
        """Put a chunk in, the oldest out if full."""
        if len(self._chunks) < self._capacity:
            self._chunks.append(chunk)
        else:
            self._chunks[self._next] = chunk
            self._next = (self._next + 1) % self._capacity

    def batch(self, size: int, rng: np.random.Generator) -> dict[str, NDArray[Any]]:
        """A random batch of all chunks held."""
        which = rng.integers(len(self._chunks), size=size)
        row = rng.integers(len(self._chunks[0]["blur_px"]), size=size)
        names = self._chunks[0]
        return {name: np.stack([self._chunks[c][name][r] for c, r in zip(which, row, strict=True)]) for name in names}


def pick_device(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu`` or ``cuda``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def train(recipe: Recipe, out: Path) -> nn.Module:
    """Train from the recipe; writes ``checkpoint.pt`` on the way, weights and ``recipe.json`` at the end.

    Returns the trained network in evaluation mode, on the CPU. A checkpoint found in `out` is gone on from.
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
    buffer = Buffer(recipe.buffer_chunks)
    began = time.monotonic()
    stream = chunks(source, count=recipe.chunks, examples=recipe.chunk_examples, workers=recipe.workers, start=start)
    for number, chunk in enumerate(stream, start):
        buffer.add(chunk)
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
        self.steps_a_chunk = max(1, recipe.passes * recipe.chunk_examples // recipe.batch)

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
        with torch.autocast(self.device.type, torch.bfloat16):
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
        """Write everything needed to go on."""
        torch.save(
            {
                "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
                "chunks": chunks_done, "recipe": asdict(self.recipe),
            },
            path,
        )  # fmt: skip

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint of the same recipe; returns the chunks already done, 0 if there is none."""
        if not path.exists():
            return 0
        held = torch.load(path, weights_only=True, map_location=self.device)
        if held["recipe"] != asdict(self.recipe):
            log.warning("checkpoint of another recipe is left alone", path=str(path))
            return 0
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        return int(held["chunks"])
