"""The tables that `parfocal evaluate quality` prints and the cards of the quality networks hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from parfocal.models import make_model
from parfocal.models.base import Assessment
from parfocal.models.training.degradations import ARTEFACTS
from parfocal.models.training.evaluate_quality import (
    DRAWN,
    REAL,
    TARGETS,
    Judge,
    agreement,
    along_rows,
    held_out,
    invariance,
    kinds_of,
    label_judge,
    order,
    order_of_labels,
    pairs_below,
)
from parfocal.models.training.quality_data import QualitySource, raw_chunk, real_objects
from parfocal.models.training.quality_real import APART, WITH_APART, RealSet, real_sets, why_none
from parfocal.models.training.quality_series import quality_series

log = structlog.get_logger()
Peers = Mapping[str, tuple[Judge, tuple[str, ...]]]
"""By name: what judges an image, and the targets it answers."""
RealSets = Mapping[str, RealSet]


def tables(
    *,
    fields: Path | None,
    stacks: Path | None,
    peers: Peers,
    images: int = 240,
    samples: int = 24,
    seed: int = 2026,
) -> dict[str, Any]:
    """Measure everything; a plain dictionary of tables by name, a row for each peer. What is done is logged."""
    source, large = held_out(fields, seed=seed), held_out(fields, seed=seed, size_px=512)
    rows, began = max(4, samples // 3), monotonic()

    def done(table: str, name: str) -> None:
        log.info("measured", table=table, network=name, seconds=round(monotonic() - began))

    sets = real_sets(fields, stacks)
    found: dict[str, Any] = {"fields": fields is not None, "agreement": {}, "order": {}, "rows": {}, "invariance": {}}
    found |= {"made of": _made_of(source, large, samples=samples, rows=rows), "real": {}}
    found["real sets"] = {
        name: {"clean": dict(one.sources), "bad": len(one.bad)} for name, one in sets.items()
    } or why_none(fields, stacks)  # fmt: skip
    for name, (judge, targets) in peers.items():
        found["agreement"][name] = agreement(judge, source, images=images, targets=targets)
        done("agreement with the labels", name)
        found["order"][name] = order(judge, source, samples=samples, targets=targets)
        done("order of levels", name)
        found["rows"][name] = along_rows(judge, large, samples=rows)
        done("patches", name)
        found["invariance"][name] = invariance(judge, source, images=samples, targets=targets)
        done("camera", name)
        found["real"][name] = _pairs(judge, sets, targets)
        done("real bad images", name)
    found["order"]["the labels"] = order_of_labels(source, samples=samples)
    if sets:
        found["real"]["the labels"] = _pairs(label_judge(), sets, TARGETS)
    done("the labels' own", "the labels")
    if stacks is not None and (stacks / "truth.csv").exists():
        found["series"] = quality_series(peers, stacks)
        done("focus series", "all")
    return found


def _made_of(source: QualitySource, large: QualitySource, *, samples: int, rows: int) -> dict[str, dict[str, int]]:
    """How many of the images of every table but the first are of real fields, and how many are procedural."""
    return {
        "order": kinds_of(real_objects(source, samples)),
        "rows": kinds_of(real_objects(large, rows, varying=True)),
        "invariance": kinds_of(one.real for one in raw_chunk(source, 0, samples)),
    }


def _pairs(judge: Judge, sets: RealSets, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    known: dict[int, Assessment] = {}

    def once(image: NDArray[Any]) -> Assessment:
        # An image is in several sets, and asked for both targets.
        if id(image) not in known:
            known[id(image)] = judge(image)
        return known[id(image)]

    return {
        f"{kind}, {target}": pairs_below(once, one.clean, one.bad, target)
        for kind, one in sets.items()
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
    made = {name: _made(kinds) for name, kinds in found["made of"].items()}
    lines = ["### Agreement with the labels", "", *_agreement_lines(found["agreement"])]
    lines += ["", f"### Kendall's tau with the level, five levels ({made['order']})", ""]
    lines += _table(("network", "artefact, score", "of the means", "median of samples", "answered"), [
        (name, what, row["grouped"], row["median"], row["answered"])
        for name, by_kind in found["order"].items() for what, row in by_kind.items()
    ])  # fmt: skip
    lines += ["", f"### Patches of images that get worse downwards, Spearman with the row ({made['rows']})", ""]
    lines += _table(("network", "blur", "noise"), [(name, r["blur"], r["noise"]) for name, r in found["rows"].items()])
    lines += ["", f"### Shift under gain 0.5-2 and offset 0-500, and by one hot pixel, label sd ({made['invariance']})"]
    moved = ("network", "score", "mean", "95th percentile", "hot pixel, mean", "hot pixel, 95th percentile")
    lines += ["", *_table(moved, [
        (name, target, *(row[f"{target}_{what}"] for what in ("mean", "p95", "hot_mean", "hot_p95")))
        for name, row in found["invariance"].items() for target in TARGETS if f"{target}_mean" in row
    ])]  # fmt: skip
    lines += ["", "### Real bad images below real clean ones, share of pairs", "", *_real_lines(found)]
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


def _agreement_lines(networks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Both kinds together and each by itself, where there are both."""
    columns = ("network", "what", "images", "target", "Spearman", "mean error, label sd", "artefact accuracy")
    rows: list[tuple[Any, ...]] = []
    for name, whole in networks.items():
        kinds = whole["by kind"]
        for kind, row in kinds.items() if len(kinds) == 1 else {"both": whole, **kinds}.items():
            rows += [
                (name, kind, row["images"], target, row[f"{target}_spearman"], row[f"{target}_mae_sd"],
                 row.get("artefact_accuracy"))
                for target in TARGETS if f"{target}_spearman" in row
            ]  # fmt: skip
    return _table(columns, rows)


def _real_lines(found: Mapping[str, Any]) -> list[str]:
    sets = found["real sets"]
    if isinstance(sets, str):
        return [sets]
    lines = _table(("network", "set, score", "clean", "bad", "below"), [
        (name, what, row["clean"], row["bad"], row["below"])
        for name, by_kind in found["real"].items() for what, row in by_kind.items()
    ])  # fmt: skip
    lines += ["", *(
        f"- {name}: {one['bad']} bad; clean, test split: "
        + (", ".join(f"{many} {source}" for source, many in one["clean"].items()) or "none")
        for name, one in sets.items()
    )]  # fmt: skip
    if any(name.endswith(WITH_APART) for name in sets):
        lines += [
            "",
            f"{APART} is among the clean only where the set's name says so: it was left out when the sets were made, "
            "and why was not written down.",
        ]
    return lines


def _made(kinds: Mapping[str, int]) -> str:
    return ", ".join(f"{kinds[kind]} {kind}" for kind in (REAL, DRAWN) if kind in kinds)


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(value) for value in row) + " |" for row in rows]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if np.isfinite(value) else "-"
    return str(value)
