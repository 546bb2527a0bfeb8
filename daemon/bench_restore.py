"""Restoring, every method in one run: how near the truth, how honest, how much work, and how long on one core."""

from __future__ import annotations

import argparse
from typing import Any

from parfocal.daemon.bench_speed import timed
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restorer
from parfocal.models.training.evaluate_restore import WEIGHED, Peers, peers
from parfocal.models.training.restore_cost import DEFOCUS_UM, OPTICS, SIDE_PX, frame, work_gmac
from parfocal.models.training.restore_report import Plan, measure

REPEATS = 7
COLUMNS = (
    "images", "refused", "psnr", "ssim", "pcc", "gain", "ssim_higher", "over_filters", "over_filter_means",
    "spots_false", "spots_false_identity", "nuclei_false", "nuclei_false_identity", "sd_pixels_median",
)  # fmt: skip
TITLES = [
    "method", "images", "refused", "PSNR", "SSIM", "PCC", "gain over affine identity, dB", "SSIM higher",
    "over the better filter, dB", "over their means, dB", "spots invented", "by the raw frame", "nuclei invented",
    "by the raw frame", "sd, Spearman", "refused of what should be", "GMAC", "ms", "ms processor",
]  # fmt: skip


def restore(options: argparse.Namespace) -> dict[str, Any]:
    """The table of restoring; real fields and focus series where folders of them are given."""
    import torch

    torch.set_num_threads(1)
    cards = {"comi": options.comi} if options.comi else {}
    made = peers(cards=cards, options={"device": "cpu"})
    found = measure(made, Plan(options.fields, options.stacks, seed=options.seed))
    rows = []
    for method, held in found["held out"]["table"].items():
        bad = found["refusals"]["all"]["methods"].get(method, {}).get("refused")
        cost = _cost(made.here[method]) if method in made.here else [None, None, None]
        rows.append([method, *(held[name] for name in COLUMNS), bad, *cost])
    blank = [None] * (len(TITLES) - 1)
    rows += [[f"{method}: no weights", *blank] for method in made.absent]
    rows += [[name, *blank[:-3], *cost] for name, cost in [*_blur_cost(), *_gpu_costs(made, cards)]]
    return {"title": "Restoring", "columns": TITLES, "rows": rows, "notes": [*_notes(found, made), *_less_work(rows)]}


def _cost(restorer: Restorer) -> list[float]:
    """Work and time of a whole restoration, its gate included, of a frame whose blur is known."""
    shown, blur = frame(), Blur(OPTICS, DEFOCUS_UM, 0.1)
    took = timed(lambda: restorer.restore(shown, blur), REPEATS)
    return [work_gmac(lambda: restorer.restore(shown, blur)), took.median, took.processor]


def _blur_cost() -> list[tuple[str, list[Any]]]:
    """The defocus model, which has to say the blur first."""
    from parfocal.models.training.evaluate_restore import estimator

    estimate, shown = estimator(), frame()
    took = timed(lambda: estimate(shown, OPTICS), REPEATS)
    return [("the blur, by the defocus model", [None, took.median, took.processor])]


def _gpu_costs(made: Peers, cards: dict[str, Any]) -> list[tuple[str, list[Any]]]:
    """The networks on a GPU where there is one: whole restorations, from a frame in memory to one in memory."""
    import torch

    if not torch.cuda.is_available():
        return []
    name = torch.cuda.get_device_name()
    rows: list[tuple[str, list[Any]]] = []
    for method in made.here:
        if method in WEIGHED:
            card = {"card": str(cards[method])} if method in cards else {}
            _, *took = _cost(make_restorer(method, {"device": "cuda", **card}))
            rows.append((f"{method} on {name}", [None, *took]))
    return rows


def _notes(found: dict[str, Any], made: Peers) -> list[str]:
    setting = found["setting"]
    notes = [
        f"{setting['what']}: {setting['fields']} fields of {setting['size_px']} px, defocus 1 to 6 depths of field, "
        "2000 and 200 electrons at the in-focus peak; the blur as the defocus model estimates it",
        "refused frames are in no mean; the gain is that of the image as it is over the raw frame after its best fit",
        f"work and time: a {SIDE_PX}² frame on one core, gate included, the blur being known",
    ]
    notes += [f"{method} is absent: {why}" for method, why in made.absent.items()]
    for method, held in found["true blur"]["table"].items():
        notes.append(f"blur told as it is: {method} gains {held['gain']:.2f} dB, refuses {held['refused']:.3f}")
    for kind, held in found["refusals"].items():
        shares = ", ".join(f"{method} {share['refused']:.2f}" for method, share in held["methods"].items())
        notes.append(f"refused of {held['frames']} frames ({kind}): {shares}")
    for row in found.get("series", ()):
        gained = f"gain {row['gain']:.2f} dB, worst {row['worst']:.2f}" if "gain" in row else ""
        spectra = f"spectrum {row['spectrum_db']:.1f} dB off, raw {row['spectrum_db_raw']:.1f}"
        refused = f"{row['refused']} of {row['planes']} planes refused"
        notes.append(f"{row['series']}, {row['method']}: {'; '.join(filter(None, (refused, gained, spectra)))}")
    for method, asked in found["goals"].items():
        if method in WEIGHED:
            notes += [_goal(method, row) for row in asked]
    return notes


def _less_work(rows: list[list[Any]]) -> list[str]:
    """How much less the U-Net works than the CycleGAN, where both are here."""
    work = {row[0]: row[-3] for row in rows if row[0] in WEIGHED}
    return (
        [f"the CycleGAN works {work['comi'] / work['unet']:.1f} times as much as the U-Net"] if len(work) == 2 else []
    )


def _goal(method: str, row: dict[str, Any]) -> str:
    verdict = "reached" if row["reached"] else "short"
    return f"{method}, {row['what']}: {row['found']:.3f} (asked {row['reach']}), {verdict}"
