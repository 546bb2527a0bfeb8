"""How well a quality network does on labelled images: rank correlation, error in label units, artefacts told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import PaperQualityNet, QualityOutput
from parfocal.models.quality_student import StudentQualityNet
from parfocal.models.training.quality_batches import label_of
from parfocal.models.training.quality_recipe import scaled

BATCH = 8
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Said:
    """What a network said of n labelled images: by target z-scores and labels' z-scores; which were censored.

    `artefact` (n,) is what it took for the artefact, or None of a network that does not say; `alive` the mean share of
    patches with a weight.
    """

    z: Mapping[str, Array]
    label: Mapping[str, Array]
    censored: Mapping[str, NDArray[np.bool_]]
    artefact: NDArray[np.int64] | None
    alive: float


def ask(
    network: nn.Module,
    chunk: Mapping[str, NDArray[Any]],
    labels: Mapping[str, LabelScale],
    *,
    scaling: str,
    device: torch.device | None = None,
) -> Said:
    """Let a network, in evaluation mode, judge all images of a chunk in float32."""
    found: dict[str, list[QualityOutput]] = {target: [] for target in labels}
    counts = torch.from_numpy(np.asarray(chunk["counts"]))
    with torch.inference_mode():
        for begin in range(0, len(counts), BATCH):
            images = scaled(counts[begin : begin + BATCH].to(device or "cpu"), scaling)
            for target, output in _outputs(network, images, tuple(labels)).items():
                found[target].append(output)
    logits = [output.artefact_logits for output in next(iter(found.values()))]
    truth = {target: scale.bounded(*label_of(chunk, target)) for target, scale in labels.items()}
    return Said(
        z={target: _array(torch.cat([o.score for o in each])) for target, each in found.items()},
        label={target: _array(values) for target, (values, _) in truth.items()},
        censored={target: bound.numpy() for target, (_, bound) in truth.items()},
        artefact=None if logits[0] is None else np.concatenate([_array(x).argmax(1) for x in logits if x is not None]),
        alive=float(torch.cat([o.alive for o in next(iter(found.values()))]).mean()),
    )


def measure(
    network: nn.Module,
    chunk: Mapping[str, NDArray[Any]],
    labels: Mapping[str, LabelScale],
    *,
    scaling: str,
    device: torch.device | None = None,
) -> dict[str, float]:
    """Numbers of `summary` for one chunk."""
    return summary(ask(network, chunk, labels, scaling=scaling, device=device), chunk["artefact"])


def summary(said: Said, artefact: NDArray[Any]) -> dict[str, float]:
    """Spearman's rank correlation and mean absolute error in label sd by target; share of artefacts told right.

    Censored labels are bounds: they count in neither, and in ``_beyond``, the mean by which answers are above them.
    """
    found: dict[str, float] = {}
    for target, z in said.z.items():
        label, censored = said.label[target], said.censored[target]
        error = z - label
        found[f"{target}_spearman"] = spearman(z[~censored], label[~censored])
        found[f"{target}_mae_sd"] = float(np.abs(error[~censored]).mean()) if not censored.all() else 0.0
        if censored.any():
            found[f"{target}_beyond_sd"] = float(np.maximum(error[censored], 0.0).mean())
            found[f"{target}_censored"] = float(censored.mean())
    if said.artefact is not None:
        found["artefact_accuracy"] = float(np.mean(said.artefact == artefact))
    found["alive"] = said.alive
    return {name: round(value, 4) for name, value in found.items()}


def spearman(one: Array, two: Array) -> float:
    """Spearman's rank correlation; 0 where either does not vary, or there are fewer than three."""
    from scipy.stats import spearmanr

    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(two) == 0:
        return 0.0
    return float(spearmanr(one, two).statistic)


def _outputs(network: nn.Module, images: torch.Tensor, targets: tuple[str, ...]) -> dict[str, QualityOutput]:
    if isinstance(network, StudentQualityNet):
        said = network.outputs(images)
        return {target: said[target] for target in targets}
    if isinstance(network, PaperQualityNet):
        return {targets[0]: network.frames(images)}
    raise TypeError(f"{type(network).__name__} is no quality network")


def _array(values: torch.Tensor) -> Array:
    return np.asarray(values.detach().double().cpu().numpy())
