"""Training of the two quality networks, from seeds: the student, and the paper's as its peer or its teacher."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from parfocal import UsageError
from parfocal.models.artefacts import load_classifier
from parfocal.models.base import ModelError
from parfocal.models.metrics.markers import markers
from parfocal.models.precision import training_autocast
from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import WEIGHT_FLOOR, PaperQualityNet
from parfocal.models.quality_student import StudentQualityNet, outputs
from parfocal.models.training.fields import Split
from parfocal.models.training.quality_batches import Chunk, ImageBuffer, QualityBatch, make_batch, random_patches
from parfocal.models.training.quality_loss import artefact_loss, frame_loss, ladder_loss, order_loss, paper_loss
from parfocal.models.training.quality_measures import measure
from parfocal.models.training.quality_recipe import LADDER, QualityRecipe, pick_device, scaled
from parfocal.models.training.quality_teacher import Teacher

log = structlog.get_logger()
Labels = Mapping[str, LabelScale]
WARM_UP = 0.02
SETTLING_IMAGES = 24
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
"""Procedural specimens have no field to split by: another seed for every split keeps theirs apart."""


@dataclass(frozen=True)
class Trained:
    """A trained network in evaluation mode on the CPU, and what its numbers mean."""

    network: nn.Module
    labels: Labels
    recipe: QualityRecipe


def train(recipe: QualityRecipe, out: Path) -> Trained:
    """Train from the recipe; ``checkpoint.pt`` on the way, ``weights.safetensors`` and ``recipe.json`` at the end.

    A checkpoint of the same recipe found in `out` is gone on from.

    Raises
    ------
    UsageError
        Weights to start from without a ``recipe.json`` beside them that says what their numbers mean.
    ModelError
        No usable labels.
    """
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    job = QualityJob(recipe, pick_device(recipe.device))
    start = job.restore(out / "checkpoint.pt")
    stream = stream_chunks(recipe, "train", count=recipe.chunks, images=recipe.chunk_images, start=start)
    if not job.labels:
        head = list(itertools.islice(stream, recipe.label_chunks))
        job.labels = measured_labels(recipe, head)
        stream = itertools.chain(head, stream)
        job.settle(head[0])
    log.info("labels", **{target: scale.to_json() for target, scale in job.labels.items()})
    _learn_all(job, stream, start, out)
    network = job.averaged.module.to("cpu").eval()
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, out / "weights.safetensors")
    _write_recipe(recipe, job.labels, out / "recipe.json")
    return Trained(network, job.labels, recipe)


def _learn_all(job: QualityJob, stream: Iterator[Chunk], start: int, out: Path) -> None:
    recipe, began = job.recipe, time.monotonic()
    buffer = ImageBuffer(recipe.buffer_chunks)
    held_out: Chunk | None = None
    for number, chunk in enumerate(stream, start):
        buffer.add(chunk)
        parts = job.learn(buffer, number)
        if number % 5 == 0 or number == recipe.chunks - 1:
            log.info("trained", chunk=number, of=recipe.chunks, seconds=round(time.monotonic() - began), **parts)
        if parts.get("alive") == 0.0:
            log.warning("the weight head is dead: no patch has a weight, every mean is a plain one", chunk=number)
        if (number + 1) % recipe.checkpoint_every == 0:
            job.save(out / "checkpoint.pt", number + 1)
        if recipe.validate_every and (number + 1) % recipe.validate_every == 0:
            if held_out is None:
                alone = stream_chunks(recipe, "validation", count=1, images=recipe.validation_images, workers=0)
                held_out = next(alone)
            log.info("validated", chunk=number, **job.validate(held_out))


def stream_chunks(
    recipe: QualityRecipe, split: Split, *, count: int, images: int, start: int = 0, workers: int | None = None
) -> Iterator[Chunk]:
    """Chunks `start` to `count` of a split, in order, made ahead by the recipe's worker processes (0: in this one)."""
    from parfocal.models.training.quality_data import QualitySource, chunks

    taught = recipe.network == "student" and split == "train"
    source = QualitySource(
        fields=Path(recipe.fields) if recipe.fields else None, split=split, procedural=recipe.procedural,
        size_px=recipe.size_px, seed=recipe.seed + SPLITS.index(split),
        graded=recipe.graded if taught else 0.0,
        ladders=LADDER * recipe.ladders / recipe.batch_frames if taught else 0.0,
    )  # fmt: skip
    workers = recipe.workers if workers is None else workers
    return chunks(source, count=count, images=images, workers=workers, start=start)


def measured_labels(recipe: QualityRecipe, chunks: list[Chunk]) -> dict[str, LabelScale]:
    """Mean and standard deviation of every target over some chunks, for the z-scores."""
    found = {}
    for target in recipe.targets:
        values = np.concatenate([chunk[target] for chunk in chunks])
        censored = np.concatenate([chunk["frc_censored"] for chunk in chunks]).astype(bool) if target == "frc" else None
        found[target] = LabelScale.of(target, recipe.form(target), values, censored)
    return found


class QualityJob:
    """Network, optimiser, averaged weights, label scales and random state of one training."""

    def __init__(self, recipe: QualityRecipe, device: torch.device) -> None:
        self.recipe = recipe
        self.device = device
        self.labels: Labels = {}
        network = _fresh(recipe)
        if recipe.start_from:
            network.load_state_dict(load_file(recipe.start_from))
            self.labels = read_labels(Path(recipe.start_from).with_name("recipe.json"), recipe)
        self.network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if recipe.heads_only and isinstance(self.network, StudentQualityNet):
            self.network.stages.requires_grad_(requires_grad=False).eval()
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        self.averaged = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=average, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.rate,
            weight_decay=recipe.weight_decay if recipe.network == "student" else 0.0, fused=True,
        )  # fmt: skip
        self.teachers = [Teacher(Path(card), recipe.scaling, device) for card in recipe.teachers]
        self.rng = np.random.default_rng(recipe.seed)
        self.steps_a_chunk = max(1, round(recipe.passes * recipe.chunk_images / recipe.batch_frames))

    def settle(self, chunk: Chunk) -> None:
        """Fit a fresh network of the paper to the images; the student's normalisation does so all the time."""
        if isinstance(self.network, PaperQualityNet) and not self.recipe.start_from:
            counts = torch.from_numpy(np.asarray(chunk["counts"][:SETTLING_IMAGES])).to(self.device)
            self.network.settle(random_patches(scaled(counts, self.recipe.scaling), 16, self.rng))
            self.averaged.module.load_state_dict(self.network.state_dict())

    def learn(self, buffer: ImageBuffer, number: int) -> dict[str, float]:
        """The steps that go with one new chunk; mean of the loss's parts."""
        sums: dict[str, float] = {}
        for step in range(self.steps_a_chunk):
            progress = (number + step / self.steps_a_chunk) / self.recipe.chunks
            rate = self.recipe.rate * min(1.0, progress / WARM_UP + 0.02) * 0.5 * (1 + math.cos(math.pi * progress))
            for group in self.optimiser.param_groups:
                group["lr"] = rate + 1e-7
            for name, value in self.step(self._drawn(buffer)).items():
                sums[name] = sums.get(name, 0.0) + value
        return {name: round(value / self.steps_a_chunk, 4) for name, value in sums.items()}

    def _drawn(self, buffer: ImageBuffer) -> Chunk:
        ladders = self.recipe.ladders if self.recipe.network == "student" else 0
        return buffer.draw(self.recipe.batch_frames, self.rng, ladders=ladders)

    def step(self, drawn: Chunk) -> dict[str, float]:
        """One step on images drawn from the buffer; the loss's parts."""
        student = self.recipe.network == "student"
        batch = make_batch(
            drawn, self.labels, self.rng, scaling=self.recipe.scaling,
            mixed=self.recipe.mixed if student else 0.0, device=self.device,
        )  # fmt: skip
        self.optimiser.zero_grad(set_to_none=True)
        with training_autocast(self.recipe.precision, self.device.type):
            parts = self._student(batch) if student else self._paper(batch)
        parts["total"].backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.averaged.update_parameters(self.network)
        return {name: float(value.detach()) for name, value in parts.items()}

    def _student(self, batch: QualityBatch) -> dict[str, Tensor]:
        images = batch.images.contiguous(memory_format=torch.channels_last)
        maps, logits = self.network(images, markers(batch.images[:, 0]))
        said = outputs(maps.float(), logits.float())
        parts: dict[str, Tensor] = {}
        total = artefact_loss(logits.float(), batch.artefact, batch.unmixed, batch.level)
        parts["artefact"] = total
        for target, label in batch.labels.items():
            found = frame_loss(said[target], label, batch.censored[target], batch.unmixed, self.labels[target])
            parts |= {f"{target}_whole": found["whole"], f"{target}_patch": found["patch"]}
            parts[f"{target}_order"] = order_loss(said[target], label, batch.censored[target], self.labels[target])
            total = total + found["total"] + self.recipe.order * parts[f"{target}_order"]
            if self.recipe.ladders:
                order = ladder_loss(said[target].score, batch.ladder, batch.level, batch.unmixed, self.labels[target])
                parts[f"{target}_ladder"] = order
                total = total + self.recipe.ladder_share * order
        for teacher in self.teachers:
            taught = teacher.lesson(batch.images, self.labels)
            answer = said[teacher.target].patch_quality[: len(taught)]
            parts[f"{teacher.target}_teacher"] = (answer - taught).abs().mean()
            total = total + self.recipe.teacher_share * parts[f"{teacher.target}_teacher"]
        with torch.no_grad():
            right = (logits.argmax(dim=1) == batch.artefact)[batch.unmixed]
            parts["accuracy"] = right.float().mean() if len(right) else torch.zeros(())
        return parts | {"total": total}

    def _paper(self, batch: QualityBatch) -> dict[str, Tensor]:
        """The paper's batch: patches of one image; of several, side by side, where the recipe says so."""
        (target,) = batch.labels
        patches = random_patches(batch.images, self.recipe.patches, self.rng)
        quality, weight = self.network(patches.contiguous(memory_format=torch.channels_last))
        shape = (len(batch.images), self.recipe.patches)
        quality, weight = quality.float().reshape(shape), weight.float().reshape(shape)
        parts = paper_loss(quality, weight, batch.labels[target][:, 0, 0], batch.censored[target][:, 0, 0])
        return parts | {"alive": (weight.detach() > 2 * WEIGHT_FLOOR).float().mean()}

    def validate(self, chunk: Chunk) -> dict[str, float]:
        """What the averaged network does on a held-out chunk."""
        network = self.averaged.module.eval()
        found = measure(network, chunk, self.labels, scaling=self.recipe.scaling, device=self.device)
        self.averaged.module.train()
        return found

    def save(self, path: Path, chunks_done: int) -> None:
        """Write everything needed to go on; the file is whole or the old one, also if the power fails."""
        part = path.with_suffix(".part")
        torch.save(
            {
                "network": self.network.state_dict(), "averaged": self.averaged.state_dict(),
                "optimiser": self.optimiser.state_dict(), "rng": json.dumps(self.rng.bit_generator.state),
                "torch_rng": torch.get_rng_state(), "chunks": chunks_done, "recipe": _plain(self.recipe),
                "labels": {target: scale.to_json() for target, scale in self.labels.items()},
            },
            part,
        )  # fmt: skip
        part.replace(path)

    def restore(self, path: Path) -> int:
        """Go on from a checkpoint of the same recipe; returns the chunks already done, 0 if there is none."""
        if not path.exists():
            return 0
        held = torch.load(path, weights_only=True, map_location=self.device)
        if held["recipe"] != _plain(self.recipe):
            log.warning("checkpoint of another recipe is left alone", path=str(path))
            return 0
        self.network.load_state_dict(held["network"])
        self.averaged.load_state_dict(held["averaged"])
        self.optimiser.load_state_dict(held["optimiser"])
        self.rng.bit_generator.state = json.loads(held["rng"])
        torch.set_rng_state(held["torch_rng"].cpu())
        self.labels = {target: LabelScale.from_json(target, data) for target, data in held["labels"].items()}
        return int(held["chunks"])


def _fresh(recipe: QualityRecipe) -> nn.Module:
    """A network that has learned nothing, but for what the student takes over of the classifier of artefacts."""
    if recipe.network == "paper":
        return PaperQualityNet()
    network = StudentQualityNet()
    network.measured.begin_as(load_classifier())
    return network


def read_labels(path: Path, recipe: QualityRecipe) -> dict[str, LabelScale]:
    """Label scales of weights to go on from, out of the ``recipe.json`` beside them; none if taught another target."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))["labels"]
        if held and not set(recipe.targets) & set(held):
            log.info("weights of another target: the labels are measured anew", had=sorted(held))
            return {}
        found = {target: LabelScale.from_json(target, held[target]) for target in recipe.targets}
    except (OSError, ValueError, KeyError, TypeError, ModelError) as error:
        raise UsageError(
            f"weights to start from need the recipe.json written with them, which says what their numbers mean "
            f"for target {recipe.target}: {path}: {error}"
        ) from error
    for target, scale in found.items():
        if scale.form != recipe.form(target):
            raise UsageError(f"{path}: {target} was learned as {scale.form}, and is now asked as {recipe.form(target)}")
    return found


def _plain(recipe: QualityRecipe) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return data


def _write_recipe(recipe: QualityRecipe, labels: Labels, path: Path) -> None:
    # Whether, not where: paths are nobody's business but the trainer's.
    told = _plain(recipe) | {
        "fields": bool(recipe.fields), "start_from": bool(recipe.start_from), "teachers": len(recipe.teachers),
    }  # fmt: skip
    told["labels"] = {target: scale.to_json() for target, scale in labels.items()}
    path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
