"""How a quality network is loaded from its card and run: folded, and in arithmetic that was measured to be safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import load_into
from parfocal.models.folding import fold_batch_norm
from parfocal.models.metrics.markers import MARKER_NAMES, quick_markers
from parfocal.models.precision import has_bfloat16
from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import FoldedPaperNet, PaperQualityNet, QualityOutput, covering, gathered, patches_of
from parfocal.models.quality_scaling import paper_scale, scale
from parfocal.models.quality_student import TARGETS, StudentQualityNet, StudentTrunk, outputs
from parfocal.models.runtime import Runner

PATCHES_A_CHUNK: Mapping[str, int] = {"float32": 64, "bfloat16": 128}
"""Patches of the paper's network run at a time, by precision: so many activations stay in the cache."""
MAX_BFLOAT16_ERROR = 0.05
"""Root mean square error of scores, in label sd, up to which ``auto`` takes bfloat16 for the paper's network."""
ARCHITECTURES = {"StudentQualityNet": StudentQualityNet, "PaperQualityNet": PaperQualityNet}
SCALINGS = {"fixed": scale, "paper": paper_scale}


@dataclass(frozen=True)
class Said:
    """What a network says of one frame, by target, in z-scores."""

    targets: Mapping[str, QualityOutput]


class QualityNetwork:
    """The network of a card, ready to judge raw frames.

    Parameters
    ----------
    card : ModelCard
    path : Path
        Where the card lies; its weights lie beside it.
    options : mapping
        ``device``, ``backend``, ``precision``, ``threads`` as of `Runner`. A backend of "auto" is torch. A precision of
        "auto" is float32 for the student (a replay gives the same bits, see docs/decisions); for the paper's network
        it is bfloat16 where this machine has its arithmetic and the card says that the trained weights bear it.

    Raises
    ------
    ModelError
        A card of no quality network, weights of another architecture, a scaling or labels that are not described.
    """

    def __init__(self, card: ModelCard, path: Path, options: Mapping[str, Any]) -> None:
        network = load_network(card, path)
        self.labels = labels_of(card)
        self._scaling = SCALINGS[card.input["scaling"]]
        device = options.get("device") or "auto"
        backend, precision = options.get("backend") or "auto", options.get("precision") or "auto"
        self._paper = isinstance(network, PaperQualityNet)
        self._head: StudentQualityNet | None = None
        self._lead: ThreadPoolExecutor | None = None
        self._aside: ThreadPoolExecutor | None = None
        if precision == "auto":
            precision = "bfloat16" if self._paper and bears_bfloat16(card) else "float32"
        body: nn.Module = network
        if isinstance(network, StudentQualityNet):
            body = StudentTrunk(fold_batch_norm(network))
            self._head = fold_batch_norm(network).requires_grad_(requires_grad=False)
            if (options.get("threads") or torch.get_num_threads()) == 2:
                # One thread for the convolutions and one for the markers. Were every layer shared out over both, it
                # would wait for the markers, and threads that share a small operation go on spinning after it.
                # Two pools: what waits for the markers must never hold the thread that is to measure them.
                self._lead, self._aside = (
                    ThreadPoolExecutor(1, name, torch.set_num_threads, (1,)) for name in ("quality", "quality-markers")
                )
        elif isinstance(network, PaperQualityNet):
            body = FoldedPaperNet(network)
        self._runner = Runner(
            body, device=device, backend="torch" if backend == "auto" else backend, precision=precision,
            chunk=PATCHES_A_CHUNK.get(precision, 64) if self._paper else 1, threads=options.get("threads"),
        )  # fmt: skip

    def describe(self) -> Mapping[str, Any]:
        """Device, backend, precision, chunk."""
        return self._runner.describe()

    def judge(self, frames: NDArray[Any]) -> Iterator[Said]:
        """Judge raw frames (n, h, w), one after the other: the answer does not depend on its neighbours."""
        for frame in frames:
            yield self._judged(frame) if self._lead is None else self._lead.submit(self._judged, frame).result()

    def _judged(self, frame: NDArray[Any]) -> Said:
        scaled = self._scaling(frame[None])
        images, share = covering(scaled)
        if self._head is None:
            (target,) = self.labels
            quality, weight = self._runner.run(patches_of(images))
            found = {target: gathered(quality, weight, images)}
        else:
            said = self._student(self._head, scaled, images)
            found = {target: said[target] for target in self.labels}
        if float(share.min()) < 1.0:
            found = {target: out.counting(share) for target, out in found.items()}
        return Said(found)

    def _student(self, head: StudentQualityNet, scaled: Tensor, images: Tensor) -> dict[str, QualityOutput]:
        """Where there are two threads, the markers are measured beside the convolutions."""
        if self._aside is None:
            return _concluded(head, self._runner.run(images), _measured(scaled))
        measuring = self._aside.submit(_measured, scaled)
        return _concluded(head, self._runner.run(images), measuring.result())


def _concluded(head: StudentQualityNet, looked: Sequence[Tensor], measured: Tensor) -> dict[str, QualityOutput]:
    embedding, pooled = looked
    with torch.inference_mode():
        return outputs(*head.conclude(embedding, pooled, measured))


def _measured(scaled: Tensor) -> Tensor:
    with torch.inference_mode():
        return quick_markers(scaled[:, 0])


def load_network(card: ModelCard, path: Path) -> nn.Module:
    """The network that a card describes, in evaluation mode; raises `ModelError` where the two do not fit."""
    if card.architecture not in ARCHITECTURES:
        raise ModelError(f"{path} describes a {card.architecture!r}, not a {' or '.join(map(repr, ARCHITECTURES))}")
    if card.input.get("scaling") not in SCALINGS:
        raise ModelError(f"{path} does not say how frames are scaled: 'input' needs 'scaling', {' or '.join(SCALINGS)}")
    network: nn.Module = ARCHITECTURES[card.architecture]()
    if card.architecture == "StudentQualityNet" and tuple(card.input.get("markers", ())) != MARKER_NAMES:
        raise ModelError(f"{path}: it was trained on other markers than this version measures; train it again")
    load_into(network, card, path)  # kept in half precision, used in single
    return network.eval()


def labels_of(card: ModelCard) -> dict[str, LabelScale]:
    """What the numbers of the card's network mean, in the order of its targets."""
    held = card.training.get("labels")
    if not isinstance(held, Mapping) or not held:
        raise ModelError(f"card {card.name!r} does not say what its network was taught: 'training' needs 'labels'")
    found = {target: LabelScale.from_json(target, held[target]) for target in TARGETS if target in held}
    if len(found) != len(held) or (card.architecture == "PaperQualityNet" and len(found) != 1):
        raise ModelError(f"card {card.name!r}: a {card.architecture} cannot have the targets {', '.join(held)}")
    return found


def bears_bfloat16(card: ModelCard) -> bool:
    """Whether this machine computes in bfloat16 and the card's weights were measured to bear it."""
    error = card.measured.get("bfloat16_error_sd")
    if not isinstance(error, float) or error > MAX_BFLOAT16_ERROR:
        return False
    return torch.cuda.is_available() or has_bfloat16()
