"""Training of COMI's networks on the U-Net's pairs, for so many steps or so many minutes."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal import __version__
from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.precision import settled, training_autocast
from parfocal.models.restore.comi_net import (
    BLOCKS,
    WIDTH,
    ComiGenerator,
    PatchDiscriminator,
    Upsampling,
    gmac,
    parameters_of,
    to_network,
)
from parfocal.models.training.chunks import Source, chunks
from parfocal.models.training.fields import fields_used
from parfocal.models.training.restore_chunks import make_pair_chunk
from parfocal.models.training.restore_comi_features import QualityFeatures, load_vgg19
from parfocal.models.training.restore_comi_loss import Images, Style, discriminator_loss, generator_parts, weighted
from parfocal.models.training.train_defocus import pick_device

log = structlog.get_logger()
BETAS = (0.5, 0.99)
CROP_PX: dict[str, int] = {"cpu": 128}
CROP_ELSEWHERE_PX = 256
LEAST_CROP_PX = 32
PROGRESS_FILE = "progress.json"
"""Beside the weights: steps and seconds that they took, on which kind of device."""
NAME = "restore_comi"
PAPER_IMAGES, PAPER_SIDE_PX = 100_000, 512
"""What the paper learnt from: 100 000 iterations of one image."""
FAIR_SHARE = 0.5
UNTOLD = ("fields", "vgg19", "workers", "threads", "device", "checkpoint_every")
"""Of the recipe: what says where things were and not what was learnt."""
NOTES = (
    "The generator of Zhang et al. (2022), trained on the pairs of our own U-Net, one network for all defocus.",
    "Shown the frame alone: neither the optics nor the defocus. States no error of its own.",
)
Chunk = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ComiRecipe:
    """Everything that a training depends on; written beside the weights.

    Parameters
    ----------
    steps : int
        The paper's 100 000 unless `minutes` ends it earlier.
    minutes : float, optional
        Wall time after which it ends; the learning rate falls by whichever of steps and minutes is further on.
        A training so ended is not the same twice.
    batch, learning_rate : int, float
        The paper's.
    size_px : int, optional
        Side of the random crops that are learnt from; by default 128 on a CPU, else 256.
    pair_px : int
        Side of the pairs that are cropped, the U-Net's.
    losses : {"paper", "code"}
        See `restore_comi_loss.WEIGHTS`.
    cycle_every : int
        The way back through the other generator is computed in one of so many steps, and counts as much more then:
        of a weight of 0.001 it takes half of the work.
    upsampling, residual, width, blocks
        See `ComiGenerator`.
    vgg19 : str, optional
        File of VGG-19 weights for the content loss; by default our own quality network.
    chunk_examples, passes, buffer_chunks : int
        Pairs made at a time, times each is learnt from, and chunks held.
    """

    steps: int = 100_000
    minutes: float | None = None
    batch: int = 1
    learning_rate: float = 1e-4
    size_px: int | None = None
    pair_px: int = 256
    losses: Style = "paper"
    cycle_every: int = 1
    upsampling: Upsampling = "transposed"
    residual: bool = True
    width: int = WIDTH
    blocks: int = BLOCKS
    vgg19: str | None = None
    seed: int = 1
    procedural: int = 700
    fields: str | None = None
    chunk_examples: int = 24
    passes: int = 1
    buffer_chunks: int = 8
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    precision: str = "auto"
    checkpoint_every: int = 10


@dataclass(frozen=True)
class Progress:
    """How far a training came: `steps`, wall time in `seconds` of all its sessions, kind of device."""

    steps: int
    seconds: float
    device: str


def crop_px(recipe: ComiRecipe, device: torch.device) -> int:
    """Side of the crops.

    Raises
    ------
    ValueError
        Not between `LEAST_CROP_PX` and the pairs' own side, or no multiple of 4.
    """
    side = recipe.size_px or CROP_PX.get(device.type, CROP_ELSEWHERE_PX)
    if not LEAST_CROP_PX <= side <= recipe.pair_px or side % 4:
        raise ValueError(f"crops must be {LEAST_CROP_PX} to {recipe.pair_px} px, a multiple of 4 (got {side})")
    return side


def train(recipe: ComiRecipe, out: Path) -> ComiGenerator:
    """Train from the recipe; writes ``checkpoint.pt`` on the way, ``recipe.json`` and ``progress.json`` at the end.

    Returns the generator that makes frames sharp, in evaluation mode, on the CPU; `publish_comi` writes its weights. A
    checkpoint of the same recipe in `out` is gone on from, and one that is at its end is not trained further.
    """
    began = time.monotonic()
    torch.manual_seed(recipe.seed)
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    job = Job(recipe, pick_device(recipe.device))
    done = job.restore(out / "checkpoint.pt")
    before = job.seconds
    if job.progress() < 1.0:
        _learn(job, out, done, lambda: before + time.monotonic() - began)
    told = asdict(recipe) | {"fields": bool(recipe.fields), "vgg19": bool(recipe.vgg19)}
    (out / "recipe.json").write_text(json.dumps(told, indent=1))
    progress = Progress(job.steps, round(job.seconds, 1), job.device.type)
    (out / PROGRESS_FILE).write_text(json.dumps(asdict(progress)))
    network: ComiGenerator = job.sharpen.to("cpu").to(memory_format=torch.contiguous_format).eval()
    return network


def _learn(job: Job, out: Path, done: int, clock: Callable[[], float]) -> None:
    """Chunk by chunk from `done` on, until the steps or the minutes are over."""
    recipe = job.recipe
    fields = Path(recipe.fields) if recipe.fields else None
    source = Source(fields, "train", recipe.procedural, recipe.pair_px, recipe.seed)
    held: deque[Chunk] = deque(maxlen=recipe.buffer_chunks)
    first = max(0, done - recipe.buffer_chunks)
    stream = chunks(
        source, count=math.ceil(recipe.steps / job.steps_a_chunk), examples=recipe.chunk_examples,
        workers=recipe.workers, start=first, make=make_pair_chunk,
    )  # fmt: skip
    for number, chunk in enumerate(stream, first):
        held.append(chunk)
        if number < done:
            continue
        parts = job.learn(held, clock)
        log.info("trained", step=job.steps, of=recipe.steps, seconds=round(job.seconds), rate=job.rate, **parts)
        over = job.progress() >= 1.0
        if over or (number + 1) % recipe.checkpoint_every == 0:
            job.save(out / "checkpoint.pt", number + 1)
        if over:
            break


class Job:
    """Both generators, both discriminators, their optimisers and the random state of one training.

    Parameters
    ----------
    recipe : ComiRecipe
    device : torch.device
    """

    def __init__(self, recipe: ComiRecipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.side = crop_px(recipe, device)
        self.sharpen, self.blur = (self._placed(_generator(recipe)) for _ in range(2))
        self.judge_sharp, self.judge_blurred = (self._placed(PatchDiscriminator(recipe.width)) for _ in range(2))
        features: nn.Module = load_vgg19(Path(recipe.vgg19)) if recipe.vgg19 else QualityFeatures()
        self.features = self._placed(features)
        self.judges = nn.ModuleList([self.judge_sharp, self.judge_blurred])
        makers = [*self.sharpen.parameters(), *self.blur.parameters()]
        self.makers = torch.optim.Adam(makers, lr=recipe.learning_rate, betas=BETAS)
        self.critics = torch.optim.Adam(self.judges.parameters(), lr=recipe.learning_rate, betas=BETAS)
        self.rng = np.random.default_rng(recipe.seed)
        self.steps_a_chunk = max(1, recipe.passes * recipe.chunk_examples // recipe.batch)
        self.steps, self.seconds, self.rate = 0, 0.0, recipe.learning_rate

    def _placed(self, module: Any) -> Any:
        return module.to(self.device).to(memory_format=torch.channels_last)

    def progress(self) -> float:
        """0 at the start, 1 at the end: of the steps, or of the minutes where these are further on."""
        done = self.steps / self.recipe.steps
        return max(done, self.seconds / (60.0 * self.recipe.minutes)) if self.recipe.minutes else done

    def learn(self, held: deque[Chunk], clock: Callable[[], float]) -> dict[str, float]:
        """The steps that go with one new chunk; mean of the loss's parts. `clock` gives the seconds trained so far."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for _ in range(self.steps_a_chunk):
            # Constant for the first half, then linearly to 0 (section 3.3).
            self.rate = self.recipe.learning_rate * min(1.0, max(0.0, 2.0 * (1.0 - self.progress())))
            for optimiser in (self.makers, self.critics):
                for group in optimiser.param_groups:
                    group["lr"] = self.rate
            for name, value in self._step(*self._batch(held)).items():
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + 1
            self.steps += 1
            self.seconds = clock()
            if self.progress() >= 1.0:
                break
        return {name: round(value / counts[name], 4) for name, value in sums.items()}

    def _step(self, blurred: Tensor, sharp: Tensor) -> dict[str, float]:
        """Both discriminators, then both generators, as the code does."""
        with training_autocast(self.recipe.precision, self.device.type):
            to_sharp, to_blurred = self._directions(blurred, sharp)
            found = self._judge(to_sharp, to_blurred)
            return found | self._make(to_sharp, to_blurred)

    def _directions(self, blurred: Tensor, sharp: Tensor) -> tuple[Images, Images]:
        """What the generators make of both images, there and, where it is the turn, back."""
        code = self.recipe.losses == "code"
        made_sharp, made_blurred = self.sharpen(blurred), self.blur(sharp)
        turn = self.steps % self.recipe.cycle_every == 0
        back_sharp, back_blurred = (self.sharpen(made_blurred), self.blur(made_sharp)) if turn else (None, None)
        same_sharp, same_blurred = (self.sharpen(sharp), self.blur(blurred)) if code else (None, None)
        return (
            Images(sharp, made_sharp, back_sharp, same_sharp),
            Images(blurred, made_blurred, back_blurred, same_blurred),
        )

    def _judge(self, to_sharp: Images, to_blurred: Images) -> dict[str, float]:
        style = self.recipe.losses
        self.judges.requires_grad_(True)
        self.critics.zero_grad(set_to_none=True)
        loss = discriminator_loss(self.judge_sharp, to_sharp, style)
        loss = loss + discriminator_loss(self.judge_blurred, to_blurred, style)
        loss.backward()  # type: ignore[no-untyped-call]
        self.critics.step()
        return {"critics": float(loss.detach())}

    def _make(self, to_sharp: Images, to_blurred: Images) -> dict[str, float]:
        style = self.recipe.losses
        self.judges.requires_grad_(False)
        self.makers.zero_grad(set_to_none=True)
        there = generator_parts(self.judge_sharp, self.features, to_sharp, style)
        other = generator_parts(self.judge_blurred, self.features, to_blurred, style)
        total = weighted(there, style, cycle_every=self.recipe.cycle_every)
        total = total + weighted(other, style, cycle_every=self.recipe.cycle_every)
        total.backward()  # type: ignore[no-untyped-call]
        self.makers.step()
        off = (to_sharp.made.detach() - to_sharp.wanted).square().mean()
        return {name: float(value.detach()) for name, value in there.items()} | {"mse": float(off)}

    def _batch(self, held: deque[Chunk]) -> tuple[Tensor, Tensor]:
        """Random crops of what is held, the frame and its truth, turned and flipped, in the networks' units."""
        frames, truths = [], []
        for _ in range(self.recipe.batch):
            chunk = held[int(self.rng.integers(len(held)))]
            row = int(self.rng.integers(len(chunk["truth"])))
            top, left = (int(self.rng.integers(extent - self.side + 1)) for extent in chunk["truth"].shape[1:])
            inner = (slice(top, top + self.side), slice(left, left + self.side))
            frames.append(chunk["channels"][row, 0][inner])
            truths.append(chunk["truth"][row][inner])
        turns, flip = int(self.rng.integers(4)), bool(self.rng.random() < 0.5)
        pair = []
        for images in (frames, truths):
            image = torch.rot90(torch.from_numpy(np.stack(images)).float()[:, None], turns, (2, 3))
            image = image.flip(3) if flip else image
            pair.append(to_network(image).contiguous(memory_format=torch.channels_last).to(self.device))
        return pair[0], pair[1]

    def _parts(self) -> dict[str, Any]:
        return {
            "sharpen": self.sharpen, "blur": self.blur, "judges": self.judges,
            "makers": self.makers, "critics": self.critics,
        }  # fmt: skip

    def save(self, path: Path, chunks_done: int) -> None:
        """Write everything needed to go on; a training killed meanwhile leaves the checkpoint before it."""
        partial = path.with_suffix(".partial")
        state = {name: part.state_dict() for name, part in self._parts().items()}
        torch.save(
            state | {
                "rng": json.dumps(self.rng.bit_generator.state), "chunks": chunks_done, "steps": self.steps,
                "seconds": self.seconds, "recipe": asdict(self.recipe),
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
        for name, part in self._parts().items():
            part.load_state_dict(held[name])
        self.rng.bit_generator.state = json.loads(held["rng"])
        self.steps, self.seconds = int(held["steps"]), float(held["seconds"])
        return int(held["chunks"])


def _generator(recipe: ComiRecipe) -> ComiGenerator:
    return ComiGenerator(recipe.width, recipe.blocks, upsampling=recipe.upsampling, residual=recipe.residual)


def publish_comi(network: ComiGenerator, recipe: ComiRecipe, out: Path, seconds: float, machine: str) -> ModelCard:
    """Write ``restore_comi.safetensors``, in half precision, and its card into `out`.

    `seconds` is the wall time of the training and `machine` what it ran on, both as the card shall tell. The steps are
    those of ``progress.json`` in `out`, which `train` wrote.

    Raises
    ------
    ModelError
        There is no ``progress.json`` that can be read: a card that cannot say how long was trained is not written.
    """
    progress = read_progress(out)
    side = crop_px(recipe, torch.device(progress.device))
    halved = {name: value.half() for name, value in network.state_dict().items()}
    sha = save_weights(halved, out / f"{NAME}.safetensors")
    told = {key: value for key, value in asdict(recipe).items() if key not in UNTOLD and value is not None}
    card = ModelCard(
        name=NAME, version=__version__, architecture=type(network).__name__, weights_file=f"{NAME}.safetensors",
        weights_sha256=sha,
        input={
            "pixels": "raw counts", "scaling": "prepare: zero and scale", "width": recipe.width,
            "blocks": recipe.blocks, "upsampling": recipe.upsampling, "residual": recipe.residual,
        },
        training={
            **told, "precision": settled(recipe.precision, progress.device), "size_px": side,
            "fields": fields_used(recipe.fields), "machine": machine, "seconds": round(seconds, 1),
            "steps": progress.steps, "content": "VGG-19 conv3_3" if recipe.vgg19 else "quality network, first block",
        },
        measured={"parameters": parameters_of(network), "gmac_512": round(gmac(network), 2)},
        notes=(how_long(recipe, progress.steps, side, seconds, machine), *NOTES),
    )  # fmt: skip
    save_card(card, out / f"{NAME}.json")
    return card


def read_progress(out: Path) -> Progress:
    """What `train` left in `out`; raises `ModelError` where there is nothing of the kind."""
    path = out / PROGRESS_FILE
    try:
        return Progress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} does not tell how far a training of COMI came: {error}") from error


def how_long(recipe: ComiRecipe, steps: int, side: int, seconds: float, machine: str) -> str:
    """One sentence on how long was trained, on what, and what that means."""
    images = steps * recipe.batch
    share, pixels = images / PAPER_IMAGES, images * side**2 / (PAPER_IMAGES * PAPER_SIDE_PX**2)
    if share >= 1.0 and pixels >= 1.0:
        worth = "as long as in the paper or longer"
    else:
        worth = (
            "far less than its authors', so what it reaches is a lower bound of the method's worth"
            if pixels < FAIR_SHARE
            else "less than its authors', which is to be borne in mind where it is compared"
        )
    return (
        f"Trained for {seconds / 3600:.2f} hours on {machine}: {steps} steps of {recipe.batch} crop(s) of {side} px. "
        f"That is {100 * share:.3g} % of the paper's images and {100 * pixels:.3g} % of its pixels: {worth}."
    )
