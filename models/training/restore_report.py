"""All tables of restoring in one run, and how they are printed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from parfocal.models.training.evaluate_restore import IDENTITY, Peers, estimator, run
from parfocal.models.training.restore_cases import DEPTHS, PHOTONS, Sample, cases, samples
from parfocal.models.training.restore_cost import costs
from parfocal.models.training.restore_refusals import refusal_frames, refusals
from parfocal.models.training.restore_stacks import far_frames, far_table, stack_table, stray_frames
from parfocal.models.training.restore_tables import gains, goals, table

FIELDS, SIZE_PX, PER_KIND = 24, 256, 24
COLUMNS = (
    ("refused", "refused"), ("psnr", "PSNR"), ("ssim", "SSIM"), ("pcc", "PCC"), ("gain", "gain dB"),
    ("gain_fit", "gain after own fit"), ("ssim_higher", "SSIM higher"), ("over_filters", "lead, by image"),
    ("over_filter_means", "lead, of means"),
)  # fmt: skip
STRUCTURES = (
    ("spots_false", "spots invented"), ("spots_false_identity", "by the raw frame"), ("spots_recall", "spots found"),
    ("nuclei_false", "nuclei invented"), ("nuclei_false_identity", "by the raw frame"),
    ("nuclei_recall", "nuclei found"), ("sd_pixels_median", "sd, pixels"), ("sd_pixels_mean", "mean"),
    ("sd_squares_median", "sd, squares"), ("sd_ratio_median", "error over sd"),
)  # fmt: skip
SERIES = (
    ("planes", "planes"), ("refused", "refused"), ("in_focus", "left"), ("gain", "gain dB"), ("worst", "worst"),
    ("worse", "worse"), ("gain_aligned", "aligned"), ("ssim", "SSIM"), ("pcc", "PCC"), ("spectrum_db", "spectrum dB"),
    ("spectrum_db_raw", "of the raw plane"),
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What to measure on.

    Parameters
    ----------
    fields : Path, optional
        Folder of real fields, of which the test split is taken; procedural specimens where absent.
    stacks : Path, optional
        Folder of focus series with a ``truth.csv``.
    count, size_px, per_kind, seed : int
        Fields, side of the frames, frames of each kind to be refused.
    """

    fields: Path | None = None
    stacks: Path | None = None
    count: int = FIELDS
    size_px: int = SIZE_PX
    per_kind: int = PER_KIND
    seed: int = 2026


def measure(peers: Peers, plan: Plan) -> dict[str, Any]:
    """Every table: plain dictionaries by name.

    Raises
    ------
    UsageError
        The folder of fields holds none of the test split.
    """
    drawn = samples(plan.fields, count=plan.count, size_px=plan.size_px, seed=plan.seed)
    estimate = estimator()
    rows = run(cases(drawn, seed=plan.seed), peers.here, estimate)
    told = run(cases(drawn, seed=plan.seed), peers.here)
    found: dict[str, Any] = {
        "setting": _setting(plan, drawn), "absent": dict(peers.absent),
        "held out": {"table": table(rows), "gains": gains(rows)}, "true blur": {"table": table(told)},
    }  # fmt: skip
    bad = refusal_frames(drawn, seed=plan.seed, per_kind=plan.per_kind)
    strays = [stray_frames(plan.stacks), far_frames(plan.stacks)] if plan.stacks is not None else []
    found["refusals"] = refusals(itertools.chain(bad, *strays), peers.here, estimate)
    if plan.stacks is not None:
        found["series"] = stack_table(plan.stacks, peers.here, estimate)
        found["series"] += far_table(plan.stacks, peers.here, estimate)
    found["cost"] = costs(peers.here)
    found["goals"] = {method: goals(found, method) for method in peers.here if method != IDENTITY}
    return found


def _setting(plan: Plan, drawn: Sequence[Sample]) -> dict[str, Any]:
    kinds = sorted({sample.kind for sample in drawn})
    return {
        "what": "real fields, held out" if plan.fields is not None else "procedural specimens, unseen seeds",
        "fields": len(drawn), "size_px": plan.size_px, "seed": plan.seed, "depths": list(DEPTHS),
        "photons": list(PHOTONS), "kinds": {kind: sum(one.kind == kind for one in drawn) for kind in kinds},
    }  # fmt: skip


def render(found: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    setting, held = found["setting"], found["held out"]
    kinds = ", ".join(f"{many} {kind}" for kind, many in setting["kinds"].items())
    lines = [
        f"{setting['what']}: {setting['fields']} fields of {setting['size_px']} px ({kinds}) at "
        f"{len(setting['depths'])} defocus and {len(setting['photons'])} lights, seed {setting['seed']}"
    ]
    lines += ["", "### Blur as the defocus model estimates it", "", *_table(held["table"], COLUMNS, found["absent"])]
    lines += ["", "### Structures and uncertainty", "", *_table(held["table"], STRUCTURES, {})]
    lines += ["", "### Gain in dB, by defocus and light", "", *_gain_lines(held["gains"])]
    lines += ["", "### Blur told as it is", "", *_table(found["true blur"]["table"], COLUMNS, {})]
    lines += ["", "### Refused that should be", "", *_refusal_lines(found["refusals"])]
    if found.get("series"):
        lines += ["", "### Real focus series", "", *_series_lines(found["series"])]
    for method, asked in found["goals"].items():
        if method not in ("wiener", "richardson_lucy"):
            lines += ["", f"### Asked of {method}, and found", "", *_goal_lines(asked)]
    return "\n".join(lines)


def _table(methods: Mapping[str, Mapping[str, Any]], columns: Iterable[tuple[str, str]], absent: Mapping[str, str]
           ) -> list[str]:  # fmt: skip
    names = list(columns)
    lines = _head(["method", "images", *(title for _, title in names)])
    for method, row in methods.items():
        lines.append(_line([method, row["images"], *(row[name] for name, _ in names)]))
    return lines + [_line([method, f"no weights: {why}", *[None] * len(names)]) for method, why in absent.items()]


def _gain_lines(methods: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    depths = [f"{depth:g}" for depth in DEPTHS]
    lines = _head(["method", "photons", *depths, "mean", "refused", "SSIM higher"])
    for method, held in methods.items():
        for light in (*PHOTONS, None):
            row = [cell for cell in held if cell["photons"] == light]
            every = row[-1]
            name = "both" if light is None else f"{light:g}"
            gained = [cell["gain"] for cell in row]
            lines.append(_line([method, name, *gained, every["refused"], every["ssim_higher"]]))
    return lines


def _refusal_lines(kinds: Mapping[str, Any]) -> list[str]:
    methods = list(next(iter(kinds.values()))["methods"]) if kinds else []
    lines = _head(["kind", "frames", "blur unknown", *(f"{name}: refused" for name in methods),
                   *(f"{name}: left" for name in methods)])  # fmt: skip
    for kind, held in kinds.items():
        shares = [held["methods"][name]["refused"] for name in methods]
        left = [held["methods"][name]["in_focus"] for name in methods]
        lines.append(_line([kind, held["frames"], held["blur_unknown"], *shares, *left]))
    return lines


def _series_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = _head(["series", "method", *(title for _, title in SERIES)])
    return lines + [_line([row["series"], row["method"], *(row.get(name) for name, _ in SERIES)]) for row in rows]


def _goal_lines(asked: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = _head(["what", "reach", "found", ""])
    return lines + [
        _line([row["what"], row["reach"], row["found"], "reached" if row["reached"] else "short"]) for row in asked
    ]


def _head(titles: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(titles) + " |", "|" + "---|" * len(titles)]


def _line(values: Iterable[Any]) -> str:
    return "| " + " | ".join(_cell(value) for value in values) + " |"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
