"""The tables that `parfocal evaluate quality` prints and the cards of the quality networks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal.models import make_model
from parfocal.models.training.degradations import ARTEFACTS
from parfocal.models.training.evaluate_quality import (
    TARGETS,
    Counts,
    Judge,
    agreement,
    along_rows,
    held_out,
    invariance,
    label_judge,
    order,
    order_of_labels,
    pairs_below,
    real_sets,
)
from parfocal.models.training.quality_series import quality_series

Peers = Mapping[str, tuple[Judge, tuple[str, ...]]]
"""By name: what judges an image, and the targets it answers."""
RealSets = Mapping[str, tuple[list[Counts], list[Counts]]]


def tables(
    *,
    fields: Path | None,
    stacks: Path | None,
    peers: Peers,
    images: int = 240,
    samples: int = 24,
    seed: int = 2026,
) -> dict[str, Any]:
    """Measure everything; a plain dictionary of tables by name, a row for each peer."""
    source = held_out(fields, seed=seed)
    sets = real_sets(fields, stacks)
    found: dict[str, Any] = {"fields": fields is not None, "agreement": {}, "order": {}, "rows": {}, "invariance": {}}
    found["real"] = {}
    for name, (judge, targets) in peers.items():
        found["agreement"][name] = agreement(judge, source, images=images, targets=targets)
        found["order"][name] = order(judge, source, samples=samples, targets=targets)
        found["rows"][name] = along_rows(judge, held_out(fields, seed=seed, size_px=512), samples=max(4, samples // 3))
        found["invariance"][name] = invariance(judge, source, images=samples, targets=targets)
        found["real"][name] = _pairs(judge, sets, targets)
    found["order"]["the labels"] = order_of_labels(source, samples=samples)
    if sets:
        found["real"]["the labels"] = _pairs(label_judge(), sets, TARGETS)
    if stacks is not None and (stacks / "truth.csv").exists():
        found["series"] = quality_series(peers, stacks)
    return found


def _pairs(judge: Judge, sets: RealSets, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    return {
        f"{kind}, {target}": pairs_below(judge, clean, bad, target)
        for kind, (clean, bad) in sets.items()
        for target in targets
    }


def model_peers(networks: Sequence[tuple[str, Mapping[str, Any], tuple[str, ...]]]) -> Peers:
    """Peers made of the model `quality`: name, options and the targets it answers."""

    def judge_of(options: Mapping[str, Any]) -> Judge:
        model = make_model("quality", options)
        return lambda image: model.assess(image[None], float("nan"))[0]

    return {name: (judge_of(options), targets) for name, options, targets in networks}


SHIPPED: tuple[tuple[str, Mapping[str, Any], tuple[str, ...]], ...] = (
    ("student", {"network": "student"}, TARGETS),
    ("paper's, FRC", {"network": "paper", "target": "frc"}, ("frc",)),
    ("paper's, MM-style", {"network": "paper", "target": "mm"}, ("mm",)),
)
"""The networks that ship, as options of the model `quality`, with the targets they answer."""


def render(found: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["### Agreement with the labels, " + ("held-out fields" if found["fields"] else "procedural specimens"), ""]
    lines += _table(("network", "images", "target", "Spearman", "mean error, label sd", "artefact accuracy"), [
        (name, row["images"], target, row[f"{target}_spearman"], row[f"{target}_mae_sd"], row.get("artefact_accuracy"))
        for name, row in found["agreement"].items() for target in TARGETS if f"{target}_spearman" in row
    ])  # fmt: skip
    lines += ["", "### Kendall's tau with the level, five levels", ""]
    lines += _table(("network", "artefact, score", "of the means", "median of samples", "answered"), [
        (name, what, row["grouped"], row["median"], row["answered"])
        for name, by_kind in found["order"].items() for what, row in by_kind.items()
    ])  # fmt: skip
    lines += ["", "### Patches of images that get worse downwards, Spearman with the row", ""]
    lines += _table(("network", "blur", "noise"), [(name, r["blur"], r["noise"]) for name, r in found["rows"].items()])
    lines += ["", "### Shift under gain 0.5-2 and offset 0-500, and by one hot pixel, label sd", ""]
    moved = ("network", "score", "mean", "95th percentile", "hot pixel, mean", "hot pixel, 95th percentile")
    lines += _table(moved, [
        (name, target, *(row[f"{target}_{what}"] for what in ("mean", "p95", "hot_mean", "hot_p95")))
        for name, row in found["invariance"].items() for target in TARGETS if f"{target}_mean" in row
    ])  # fmt: skip
    lines += ["", "### Real bad images below real clean ones, share of pairs", ""]
    lines += _table(("network", "set, score", "clean", "bad", "below"), [
        (name, what, row["clean"], row["bad"], row["below"])
        for name, by_kind in found["real"].items() for what, row in by_kind.items()
    ])  # fmt: skip
    if "series" in found:
        lines += ["", "### Quality along focus series", ""]
        columns = ("series", "score", "planes", "best plane off by", "Spearman with the distance from focus")
        lines += _table(columns, [
            (r["series"], r["score"], len(r["quality"]), r["planes_off"], r["spearman"]) for r in found["series"]
        ])  # fmt: skip
    for name, row in found["agreement"].items():
        if "confusion" in row:
            lines += ["", f"### Artefacts named by the {name}: a row a true class", ""]
            lines += _table(("true", *ARTEFACTS), [(a, *c) for a, c in zip(ARTEFACTS, row["confusion"], strict=True)])
    return "\n".join(lines)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
