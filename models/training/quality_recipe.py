"""What a training of a quality network depends on, and nothing else does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from parfocal import UsageError
from parfocal.models.quality_labels import FORMS, Form
from parfocal.models.quality_net import PATCH_PX
from parfocal.models.quality_student import TARGETS

LEARNING_RATES: Mapping[str, float] = {"student": 2e-3, "paper": 1e-4}
LADDER = 5
"""Levels of a ladder."""
BATCHES: Mapping[str, int] = {"student": 16, "paper": 1}
"""Frames a step, unless told otherwise; the paper's network is taught one image at a time."""


@dataclass(frozen=True)
class QualityRecipe:
    """Everything that a training depends on; written beside the weights.

    Parameters
    ----------
    network : {"student", "paper"}
    target : {"frc", "mm", "both"}
        The paper's network has one output, so a target of its own; the student learns either or both.
    scaling : {"fixed", "paper"}
        How frames are scaled: as they are live; or from least to greatest pixel as in the paper, to measure the cost.
    mm_form : {"logit", "probability"}
        Unit of the MM-style label; see `LabelScale`.
    chunks, chunk_images : int
        How many new chunks are seen, of how many images each.
    passes : float
        How often an image is drawn, on average.
    batch : int, optional
        Frames a step.
    patches : int
        Of one image a step, at random places, for the paper's network (128 in the paper).
    mixed : float
        Share of the student's frames that are made of two, patch by patch labelled: what is learned is local.
    graded : float
        Share of the student's blurred and noisy images that get worse from top to bottom, likewise labelled by patch.
    order : float
        Weight of the order of a graded or mixed frame's patches in the student's loss, see `quality_loss.order_loss`.
    ladders : int
        Ladders in the batch of every step of the student: five levels of one artefact on one specimen, see
        `quality_loss.ladder_loss`.
    ladder_share : float
        Weight of their order in the loss.
    heads_only : bool
        Leave the student's trunk as it is, which takes `start_from`: a step costs a third, and what is learned anew is
        how patches and frames are judged from the same features.
    teachers : tuple of str
        Cards of the paper's network whose patches the student imitates besides its labels.
    procedural : int
        Procedural specimens beside the real fields.
    label_chunks : int
        Chunks from which mean and sd of the labels are measured.
    validate_every : int
        Chunks between measurements on validation images; 0: never.
    """

    network: str = "student"
    target: str = "both"
    scaling: str = "fixed"
    mm_form: str = "logit"
    chunks: int = 300
    chunk_images: int = 64
    passes: float = 4.0
    batch: int | None = None
    patches: int = 128
    buffer_chunks: int = 40
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    average: float = 0.995
    mixed: float = 0.25
    graded: float = 0.25
    order: float = 1.0
    ladders: int = 0
    ladder_share: float = 3.0
    heads_only: bool = False
    teachers: tuple[str, ...] = ()
    teacher_share: float = 0.5
    seed: int = 1
    size_px: int = 256
    procedural: int = 400
    fields: str | None = None
    workers: int = 1
    threads: int = 1
    device: str = "auto"
    precision: str = "auto"
    checkpoint_every: int = 20
    validate_every: int = 0
    validation_images: int = 96
    label_chunks: int = 2
    start_from: str | None = None

    def __post_init__(self) -> None:
        problem = self._problem()
        if problem:
            raise UsageError(f"this quality network cannot be trained: {problem}")

    def _problem(self) -> str:
        if self.network not in LEARNING_RATES:
            return f"network {self.network!r} is neither 'student' nor 'paper'"
        if self.target not in (*TARGETS, "both"):
            return f"target {self.target!r} is none of 'frc', 'mm', 'both'"
        if self.network == "paper" and (self.target == "both" or self.teachers):
            return "the paper's network has one output: choose target 'frc' or 'mm', and no teacher"
        if self.heads_only and (self.network != "student" or not self.start_from):
            return "heads alone can only be trained on the trunk of a student to start from"
        if self.scaling not in ("fixed", "paper"):
            return f"scaling {self.scaling!r} is neither 'fixed' nor 'paper'"
        if self.mm_form not in FORMS["mm"]:
            return f"mm_form {self.mm_form!r} is none of {', '.join(FORMS['mm'])}"
        if self.size_px < PATCH_PX or self.size_px % PATCH_PX:
            return f"size_px {self.size_px} is no multiple of {PATCH_PX}"
        for name in ("mixed", "graded"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                return f"{name} {getattr(self, name)} is no share"
        for name in ("order", "ladder_share"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                return f"{name} {getattr(self, name)} is no weight"
        if self.ladders < 0 or LADDER * self.ladders > self.batch_frames:
            return f"{self.ladders} ladders of {LADDER} levels do not fit a batch of {self.batch_frames} frames"
        counts = (self.chunks, self.chunk_images, self.patches, self.buffer_chunks, self.label_chunks)
        if min(*counts, self.batch or 1) < 1 or self.passes <= 0:
            return "chunks, images, patches, batch and passes must be positive"
        return ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets learned, in the network's order."""
        return TARGETS if self.target == "both" else (self.target,)

    @property
    def batch_frames(self) -> int:
        """Frames a step."""
        return self.batch or BATCHES[self.network]

    @property
    def rate(self) -> float:
        """Greatest learning rate."""
        return self.learning_rate or LEARNING_RATES[self.network]

    def form(self, target: str) -> Form:
        """Unit in which a target's labels are averaged."""
        if target == "frc":
            return "log2_px"
        return "logit" if self.mm_form == "logit" else "probability"


def scaled(counts: Tensor, scaling: str) -> Tensor:
    """Scale counts (n, h, w) to (n, 1, h, w) as a recipe or a card says."""
    from parfocal.models.quality_scaling import paper_scale, scale

    return scale(counts) if scaling == "fixed" else paper_scale(counts)


def pick_device(name: str) -> torch.device:
    """The device meant by ``auto``, ``cpu`` or ``cuda``."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
