"""From rows of single frames to the tables of restoring: means, shares, leads on the same frames, and the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from parfocal.models.restore.base import Verdict
from parfocal.models.training.evaluate_restore import IDENTITY, Row
from parfocal.models.training.restore_stacks import FAR_KIND
from parfocal.models.training.restore_structures import added

FILTERS = ("wiener", "richardson_lucy")
"""What the network has to beat."""
PEER = "comi"
"""And the historical one."""
Frames = list[dict[str, Row]]
"""The rows of every frame by method."""
Asked = tuple[str, str, float, Callable[[float], bool]]
"""What is asked, how much, what was found, and whether that is enough."""


def by_frame(rows: Iterable[Row]) -> Frames:
    """Rows, frame after frame, each frame opened by its identity row."""
    frames: Frames = []
    for row in rows:
        if row.method == IDENTITY:
            frames.append({})
        frames[-1][row.method] = row
    return frames


def summary(frames: Frames, method: str) -> dict[str, Any]:
    """One method over the frames.

    Refused frames are counted and are in no mean. ``gain`` is over the same frames' identity after its own affine fit,
    the method's image as it is; ``gain_fit`` after a fit of its own as well. ``ssim_higher`` is against the raw frame.
    ``over_filters`` is the mean over frames of the lead over the better of Wiener and Richardson-Lucy on that frame,
    ``over_filter_means`` the lead over the better of their means, both where all three show something; ``over_comi``
    the leads in PSNR, SSIM and correlation over the CycleGAN where both do.
    """
    shown = [frame for frame in frames if not frame[method].refused]
    found: dict[str, Any] = {
        "images": len(frames),
        "refused": _share([frame[method].refused for frame in frames]),
        "blur_unknown": _share([not frame[method].known for frame in frames]),
        "in_focus": _share([frame[method].verdict is Verdict.IN_FOCUS for frame in frames]),
        "squares_refused": _mean([frame[method].squares_refused for frame in shown]),
    }
    for name in ("psnr", "ssim", "pcc", "psnr_fit", "ssim_fit"):
        found[name] = _mean([frame[method].measures[name] for frame in shown])
    found["gain"] = _mean([gain(frame, method) for frame in shown])
    found["gain_fit"] = _mean([_lead(frame, method, IDENTITY, "psnr_fit") for frame in shown])
    found["ssim_higher"] = _share([_lead(frame, method, IDENTITY, "ssim") > 0 for frame in shown])
    found |= _over_filters(shown, method) | _over_peer(shown, method)
    return {**found, **_honest(shown, method), **_structures(shown, method)}


def affine_identity(frames: Frames) -> dict[str, Any]:
    """The row of the identity after its best affine fit: what every gain is over."""
    held = summary(frames, IDENTITY)
    for name in ("psnr", "ssim"):
        held[name] = held[f"{name}_fit"]
    ups = [frame[IDENTITY].measures["ssim_fit"] > frame[IDENTITY].measures["ssim"] for frame in frames]
    return {**held, "gain": 0.0, "ssim_higher": _share(ups)}


def gain(frame: Mapping[str, Row], method: str) -> float:
    """PSNR of the method, as it is, over that of the identity after its affine fit, dB."""
    return frame[method].measures["psnr"] - frame[IDENTITY].measures["psnr_fit"]


def table(rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """`summary` of every method, ``affine identity`` beside the identity."""
    frames = by_frame(rows)
    found: dict[str, dict[str, Any]] = {}
    for method in methods_of(rows):
        found[method] = summary(frames, method)
        if method == IDENTITY:
            found["affine identity"] = affine_identity(frames)
    return found


def gains(rows: Sequence[Row]) -> dict[str, list[dict[str, Any]]]:
    """By method: gain, share refused and share with higher SSIM for every defocus and light, and for each of both."""
    frames = by_frame(rows)
    depths = sorted({frame[IDENTITY].depths for frame in frames})
    lights = sorted({frame[IDENTITY].photons for frame in frames}, reverse=True)
    cells = [(depth, light) for light in (*lights, None) for depth in (*depths, None)]
    return {
        method: [
            {"depths": depth, "photons": light, **_cell([f for f in frames if _of(f, depth, light)], method)}
            for depth, light in cells
        ]
        for method in methods_of(rows)
        if method != IDENTITY
    }


def methods_of(rows: Iterable[Row]) -> list[str]:
    """Methods in the order of the first frame."""
    return list(dict.fromkeys(row.method for row in rows))


def goals(found: Mapping[str, Any], method: str) -> list[dict[str, Any]]:
    """What was asked of a method, what was found, and whether that reaches it; what was not measured is left out.

    Parameters
    ----------
    found : mapping
        Of `restore_report.measure`: ``held out`` with its ``table``, ``refusals``, ``series``, ``cost``.
    method : str
    """
    held = found["held out"]["table"].get(method)
    if held is None:
        return []
    asked: list[Asked] = [
        ("gain over affine identity, dB", ">= 5", held["gain"], lambda x: x >= 5.0),
        ("lead over the better of Wiener and RL, image by image, dB", ">= 1", held["over_filters"], lambda x: x >= 1.0),
        ("lead over the better of their means, dB", ">= 1", held["over_filter_means"], lambda x: x >= 1.0),
        ("share of images with higher SSIM", ">= 0.95", held["ssim_higher"], lambda x: x >= 0.95),
        ("good frames refused", "<= 0.02", held["refused"], lambda x: x <= 0.02),
        ("uncertainty against error, Spearman, median", ">= 0.6", held["sd_pixels_median"], lambda x: x >= 0.6),
    ]
    for kind in ("spots", "nuclei"):
        mine, raw = held[f"{kind}_false"], held[f"{kind}_false_identity"]
        if np.isfinite(mine) and np.isfinite(raw):
            asked.append((f"invented {kind}, false discovery rate", f"<= {raw:.3f} (identity)", mine, raw.__ge__))
    for name, value in (held["over_comi"] or {}).items():
        asked.append((f"lead over the CycleGAN, {name.upper()}", "> 0", value, lambda x: x > 0.0))
    series = [row for row in found.get("series", ()) if row["method"] == method and "worse" in row]
    if series:
        worse = float(sum(row["worse"] for row in series))
        asked.append(("planes of real series made worse", "0", worse, lambda x: x == 0.0))
    asked += [*_refusals_asked(found.get("refusals") or {}, method), *_costs_asked(found.get("cost") or {}, method)]
    return [
        {"what": what, "reach": reach, "found": float(value), "reached": bool(test(value))}
        for what, reach, value, test in asked
        if np.isfinite(value)
    ]


def _refusals_asked(refusals: Mapping[str, Any], method: str) -> Iterator[Asked]:
    """Of all frames that should be refused, and of the real ones far out of focus by themselves."""
    for kind, what in (("all", "frames beyond recovery, empty or unlike refused"), (FAR_KIND, f"{FAR_KIND}: refused")):
        if kind in refusals:
            bad = refusals[kind]["methods"].get(method, {}).get("refused", np.nan)
            yield what, ">= 0.95", bad, lambda x: x >= 0.95


def _costs_asked(cost: Mapping[str, Mapping[str, float]], method: str) -> Iterator[Asked]:
    """Less work than the peer, and quick, as far as both were measured."""
    mine, peer = cost.get(method, {}), cost.get(PEER, {})
    if method != PEER and mine.get("gmac") and peer.get("gmac"):
        yield "times less work than the CycleGAN", ">= 20", peer["gmac"] / mine["gmac"], lambda x: x >= 20.0
    if "ms" in mine:
        yield (
            "a 512 px frame on one core, gate included, ms of processor time",
            "<= 60",
            mine["ms"],
            lambda x: x <= 60.0,
        )


def _cell(frames: Frames, method: str) -> dict[str, Any]:
    shown = [frame for frame in frames if not frame[method].refused]
    return {
        "images": len(frames),
        "refused": _share([frame[method].refused for frame in frames]),
        "psnr": _mean([frame[method].measures["psnr"] for frame in shown]),
        "gain": _mean([gain(frame, method) for frame in shown]),
        "ssim_higher": _share([_lead(frame, method, IDENTITY, "ssim") > 0 for frame in shown]),
    }


def _of(frame: Mapping[str, Row], depth: float | None, light: float | None) -> bool:
    row = frame[IDENTITY]
    return depth in (None, row.depths) and light in (None, row.photons)


def _lead(frame: Mapping[str, Row], method: str, other: str, name: str) -> float:
    return frame[method].measures[name] - frame[other].measures[name]


def _over_filters(shown: Frames, method: str) -> dict[str, float]:
    """Lead over the filters; NaN for the filters themselves and where one of them is not in the table."""
    both = [frame for frame in shown if all(name in frame and not frame[name].refused for name in FILTERS)]
    if method in (*FILTERS, IDENTITY) or not both:
        return {"over_filters": np.nan, "over_filter_means": np.nan, "over_filters_images": 0}
    leads = [min(_lead(frame, method, name, "psnr") for name in FILTERS) for frame in both]
    means = {name: _mean([frame[name].measures["psnr"] for frame in both]) for name in (method, *FILTERS)}
    return {
        "over_filters": _mean(leads),
        "over_filter_means": means[method] - max(means[name] for name in FILTERS),
        "over_filters_images": len(both),
    }


def _over_peer(shown: Frames, method: str) -> dict[str, Any]:
    """Leads over the CycleGAN on the frames that it shows too; nothing where it is not in the table."""
    both = [frame for frame in shown if PEER in frame and not frame[PEER].refused]
    if method == PEER or not both:
        return {"over_comi": None}
    names = ("psnr", "ssim", "pcc")
    return {"over_comi": {name: _mean([_lead(frame, method, PEER, name) for frame in both]) for name in names}}


def _honest(shown: Frames, method: str) -> dict[str, float]:
    found = {}
    for name in ("sd_pixels", "sd_squares", "sd_ratio"):
        values = np.asarray([frame[method].measures.get(name, np.nan) for frame in shown])
        values = values[np.isfinite(values)]
        found[f"{name}_median"] = float(np.median(values)) if values.size else np.nan
        found[f"{name}_mean"] = float(np.mean(values)) if values.size else np.nan
    return found


def _structures(shown: Frames, method: str) -> dict[str, Any]:
    """False discovery and recall of all frames together, and of the identity on the very same frames."""
    found: dict[str, Any] = {}
    for kind in ("spots", "nuclei"):
        mine = added(frame[method].structures[kind] for frame in shown)
        raw = added(frame[IDENTITY].structures[kind] for frame in shown)
        found[f"{kind}_found"], found[f"{kind}_true"] = mine.found, mine.true
        found[f"{kind}_false"], found[f"{kind}_recall"] = mine.false_discovery, mine.recall
        found[f"{kind}_false_identity"], found[f"{kind}_recall_identity"] = raw.false_discovery, raw.recall
    return found


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def _share(values: Sequence[bool]) -> float:
    return _mean([float(value) for value in values])
