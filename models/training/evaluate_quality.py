"""How well a quality model judges: agreement with labels, order of levels, local maps, real bad images, invariance."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from parfocal.models.artefacts import load_classifier
from parfocal.models.base import Assessment
from parfocal.models.metrics.frc import single_image_frc
from parfocal.models.training.degradations import (
    ARTEFACTS,
    NOISES,
    TABLE2_LEVELS,
    degrade,
    expected,
    parameter,
    scaled,
)
from parfocal.models.training.fields import Split
from parfocal.models.training.quality_camera import to_counts
from parfocal.models.training.quality_data import (
    COARSEST_PX,
    Drawn,
    QualitySource,
    label,
    objects,
    quality_chunk,
    spatially_varying,
)

Counts = NDArray[Any]
Judge = Callable[[Counts], Assessment]
TARGETS = ("frc", "mm")
GAINS, OFFSETS = (0.5, 1.0, 2.0), (0.0, 100.0, 500.0)
CHUNK = 48
LEAST_LABELS = 3
HOT = 3.0
ORDERED = ("blur", "vignetting", *NOISES)
"""The first two without any noise, as in the paper's Supplementary Table 2; the noises over its Table 1."""

REAL, DRAWN = "real fields, held out", "procedural, unseen seeds"
"""The two kinds of images that every table is made of, unless it is of procedural ones alone."""


@dataclass(frozen=True)
class Target:
    """One of a model's numbers and the label it was taught: `unit` of an assessment and of a label in the same unit."""

    name: str

    def said(self, assessment: Assessment) -> float:
        """The model's answer in the label's unit; NaN if it abstained."""
        if assessment.abstained:
            return float("nan")
        if self.name == "frc":
            return float(np.log2(assessment.detail["frc_px"]))
        return float(assessment.detail["mm"])

    def score(self, assessment: Assessment) -> float:
        """The same, higher for a better image."""
        return -self.said(assessment) if self.name == "frc" else self.said(assessment)


def held_out(fields: Path | None, *, seed: int, size_px: int = 256, split: Split = "test") -> QualitySource:
    """Images as the paper's Table 1 has them, of fields and procedural specimens that no training has seen."""
    return QualitySource(fields, split, 120, size_px=size_px, seed=seed, table1_only=True)


def agreement(judge: Judge, source: QualitySource, *, images: int, targets: Sequence[str]) -> dict[str, Any]:
    """Spearman's correlation with the labels, mean error in label sd, and share of artefacts named rightly.

    Censored labels are bounds, not labels: they are left out, and their share is given. ``by kind`` has the same for
    `REAL` and `DRAWN` images alone, as far as there are any, each relative to the sd of its own labels.
    """
    said: list[Assessment] = []
    chunks = []
    for number in range(-(-images // CHUNK)):
        chunk = quality_chunk(source, number, min(CHUNK, images - number * CHUNK))
        said += [judge(counts) for counts in chunk["counts"]]
        chunks.append({name: values for name, values in chunk.items() if name != "counts"})
    truth = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    found = _agreed(said, truth, targets)
    found["by kind"] = {
        kind: _agreed([said[i] for i in np.flatnonzero(of)], {key: held[of] for key, held in truth.items()}, targets)
        for kind, of in ((REAL, truth["real"]), (DRAWN, ~truth["real"]))
        if of.any()
    }
    return found


def _agreed(said: Sequence[Assessment], truth: Mapping[str, NDArray[Any]], targets: Sequence[str]) -> dict[str, Any]:
    """Of some images; NaN where there are too few labels to compare."""
    found: dict[str, Any] = {"images": len(said), "abstained": float(np.mean([one.abstained for one in said]))}
    for name in targets:
        answers = np.asarray([Target(name).said(one) for one in said])
        use = np.isfinite(answers) & (~truth["frc_censored"] if name == "frc" else True)
        label = truth[name][use]
        enough = len(label) >= LEAST_LABELS
        ranked = enough and bool(np.ptp(answers[use]) and np.ptp(label))
        found[f"{name}_spearman"] = float(stats.spearmanr(answers[use], label).statistic) if ranked else float("nan")
        error = float(np.mean(np.abs(answers[use] - label)) / np.std(label)) if enough else float("nan")
        found[f"{name}_mae_sd"] = error
        found[f"{name}_used"] = float(np.mean(use))
    return found | _artefacts(said, truth["artefact"])


def kinds_of(real: Iterable[bool]) -> dict[str, int]:
    """How many images are of real fields and how many are procedural."""
    flags = list(real)
    return {kind: many for kind, many in ((REAL, sum(flags)), (DRAWN, len(flags) - sum(flags))) if many}


def _artefacts(said: Sequence[Assessment], truth: NDArray[np.int64]) -> dict[str, Any]:
    """Accuracy and confusion (rows true, columns said) of a model that names the artefact."""
    named = np.asarray([one.detail.get("artefact", np.nan) for one in said])
    known = np.isfinite(named)
    if not known.any():
        return {}
    confusion = np.zeros((len(ARTEFACTS), len(ARTEFACTS)), dtype=int)
    np.add.at(confusion, (truth[known], named[known].astype(int)), 1)
    return {"artefact_accuracy": float(np.mean(named[known] == truth[known])), "confusion": confusion.tolist()}


def order(judge: Judge, source: QualitySource, *, samples: int, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    """Kendall's tau of each score with the five levels: of the means over all samples, and the median over samples.

    The protocol of the paper's Supplementary Table 2 for blur and vignetting, without noise; for the noises five levels
    of Table 1. 1: every worse image has the lower score.
    """
    scores: dict[tuple[str, str], list[list[float]]] = {(a, t): [] for a in ORDERED for t in targets}
    for artefact, ladder in _ladders(source, samples):
        said = [judge(one.counts) for one in ladder]
        for name in targets:
            scores[artefact, name].append([Target(name).score(one) for one in said])
    return {f"{artefact} {name}": _taus(np.asarray(rows)) for (artefact, name), rows in scores.items()}


def order_of_labels(source: QualitySource, *, samples: int) -> dict[str, dict[str, float]]:
    """The same of the labels of the same images: what a network that were never wrong would reach in `order`.

    Labels are those of the training: of a noise-free image the reference-noise twin's, a bound where FRC is censored.
    """
    classifier, rng = load_classifier(), np.random.default_rng((source.seed, 4))
    scores: dict[tuple[str, str], list[list[float]]] = {(a, t): [] for a in ORDERED for t in TARGETS}
    for artefact, ladder in _ladders(source, samples):
        frc, _, mm = label(ladder, classifier, rng)
        scores[artefact, "frc"].append([-float(value) for value in frc])
        scores[artefact, "mm"].append([float(value) for value in mm])
    return {f"{artefact} {name}": _taus(np.asarray(rows)) for (artefact, name), rows in scores.items()}


def _ladders(source: QualitySource, samples: int) -> Iterator[tuple[str, list[Drawn]]]:
    """Five images of each sample and artefact, from the least level to the worst; the same for the same source."""
    rng = np.random.default_rng((source.seed, 3))
    for clean in objects(source, samples):
        for artefact in ORDERED:
            yield artefact, [_rung(clean, artefact, level, rng) for level in TABLE2_LEVELS]


def _rung(clean: NDArray[np.float32], artefact: str, level: float, rng: np.random.Generator) -> Drawn:
    free, value = artefact not in NOISES, parameter(artefact, level)
    counts = to_counts(degrade(clean, artefact, rng, level=level, noise_free=free), rng)
    return Drawn(
        counts, expected(scaled(clean), artefact, value), ARTEFACTS.index(artefact), level,
        value if artefact == "blur" else 0.0, 0.0, noise_free=free, physical=False,
    )  # fmt: skip


def _taus(rows: NDArray[np.float64]) -> dict[str, float]:
    """Rows of scores, a sample each; a sample with an abstention counts as disordered (0), and not in the means."""
    level = -np.arange(rows.shape[1])
    whole = np.asarray(np.isfinite(rows).all(axis=1))
    each = [float(stats.kendalltau(row, level).statistic) if ok else 0.0 for row, ok in zip(rows, whole, strict=True)]
    grouped = float(stats.kendalltau(rows[whole].mean(axis=0), level).statistic) if whole.any() else 0.0
    return {"grouped": grouped, "median": float(np.median(np.nan_to_num(each))), "answered": float(np.mean(whole))}


def along_rows(judge: Judge, source: QualitySource, *, samples: int) -> dict[str, float]:
    """Spearman's correlation of a row of patches' mean quality with its place, where images get worse downwards.

    The paper's Supplementary Table 3; median over samples, and sign turned so that 1 is right.
    """
    found = {}
    for kind in ("blur", "noise"):
        each = []
        for number in range(samples):
            counts, _ = spatially_varying(source, kind, number)
            said = judge(counts).patch_map
            if said is None:
                each.append(0.0)
                continue
            rows = np.nansum(said.value * said.certainty, axis=1) / np.maximum(np.nansum(said.certainty, axis=1), 1e-9)
            each.append(-float(np.nan_to_num(stats.spearmanr(rows, np.arange(len(rows))).statistic)))
        found[kind] = float(np.median(each))
    return found


def invariance(judge: Judge, source: QualitySource, *, images: int, targets: Sequence[str]) -> dict[str, float]:
    """How far a score moves, in sd of the labels, mean and 95th percentile: by gain and offset, by one hot pixel."""
    chunk = quality_chunk(source, 0, images)
    found = {}
    moved: dict[tuple[str, str], list[float]] = {(name, by): [] for name in targets for by in ("", "hot_")}
    for counts in chunk["counts"]:
        told = [judge(regained(counts, gain, offset)) for gain in GAINS for offset in OFFSETS]
        pair = [judge(counts), judge(with_hot_pixel(counts))]
        for name in targets:
            for by, said in (("", told), ("hot_", pair)):
                values = np.asarray([Target(name).said(one) for one in said])
                values = values[np.isfinite(values)]
                if values.size:
                    moved[name, by].append(float(np.abs(values - values[len(values) // 2]).max()))
    for (name, by), shifts in moved.items():
        shift = np.asarray(shifts) / float(np.std(chunk[name][~chunk["frc_censored"]]))
        found[f"{name}_{by}mean"], found[f"{name}_{by}p95"] = float(shift.mean()), float(np.percentile(shift, 95))
    return found


def with_hot_pixel(counts: Counts) -> NDArray[np.uint16]:
    """The same frame with one pixel `HOT` times as far above its least pixel as its brightest is."""
    low, high = int(counts.min()), int(counts.max())
    hot = np.array(counts, dtype=np.uint16)
    hot[counts.shape[0] // 3, counts.shape[1] // 3] = min(65535, low + round(HOT * (high - low)))
    return hot


def regained(counts: Counts, gain: float, offset: float) -> NDArray[np.uint16]:
    """The same light by a camera of another gain and offset, in whole counts; nothing clips below 65535."""
    room = (65535.0 - 500.0) / (2.0 * max(float(counts.max()), 1.0))
    return np.round(counts * (gain * min(1.0, room)) + offset).astype(np.uint16)


def pairs_below(judge: Judge, clean: Iterable[Counts], bad: Iterable[Counts], target: str) -> dict[str, float]:
    """Share of pairs of a clean and a bad image in which the bad one has the lower score, or none for want of content.

    A clean image without an answer loses all its pairs.
    """
    good = np.asarray([Target(target).score(judge(image)) for image in clean])
    poor = np.asarray([Target(target).score(judge(image)) for image in bad])
    below = np.nan_to_num(poor, nan=-np.inf)[None, :] < np.nan_to_num(good, nan=-np.inf)[:, None]
    return {"clean": len(good), "bad": len(poor), "below": float(below.mean()) if below.size else float("nan")}


def label_judge() -> Judge:
    """A judge that measures the labels: robust single-image FRC (its bound where censored), and the MM-style score."""
    classifier = load_classifier()

    def judge(image: Counts) -> Assessment:
        frames = torch.from_numpy(image.astype(np.float32))[None]
        with torch.inference_mode():
            told = single_image_frc(frames, mode="robust")
            mm = float(classifier.scores(frames, told)[0])
        px = float(torch.where(told.censored, told.bound_px, told.resolution_px)[0])
        px = COARSEST_PX if np.isnan(px) else min(px, COARSEST_PX)
        return Assessment("labels", mm, float("nan"), detail={"frc_px": px, "mm": mm})

    return judge
