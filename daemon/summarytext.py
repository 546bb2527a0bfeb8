"""The end of a run in words: the object of `run --json` as rows of a small table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def summary_lines(summary: Mapping[str, Any], dose_unit: str = "", *, shadow: bool = False) -> list[tuple[str, str]]:
    """Put the object of `run --json` into the rows of a small table: name and value in words.

    In a `shadow` run no action was sent, and those that are counted read as what would have been.
    """
    final, truth = summary.get("final") or {}, summary.get("truth") or {}
    latency = summary.get("latency_ms") or {}
    tuned = summary.get("recommendation") is not None and summary.get("frames_to_focus") is None
    rows = [
        ("outcome", str(summary.get("outcome", ""))),
        ("frames", _counts(summary, shadow)),
        *_recommended(summary.get("recommendation")),
        *([] if tuned else [("frames to focus", _form(summary.get("frames_to_focus"), "{} exposed", "not reached"))]),
        ("travel", _form(summary.get("travel_um"), "{:.1f} um", "not known")),
        ("dose", _form(summary.get("dose"), f"{{:.4g}} {dose_unit}".rstrip(), "not known")),
    ]
    settings = ", ".join(f"{name} {_form(value, '{:.4g}')}" for name, value in (final.get("settings") or {}).items())
    # What it was left at, not what it is at now: whoever reads of a laser here must not think that it is still on.
    rows.append(("last settings", f"{settings} (then made safe)" if settings else "not known"))
    sd = _form(final.get("defocus_sd_um"), " \u00b1 {:.3f}", "")
    if not tuned:
        rows.append(("final defocus", _form(final.get("defocus_um"), f"{{:+.3f}}{sd} um", "not known")))
    if final.get("quality") is not None:
        rows.append(("final quality", f"{final['quality']:.3g}"))
    if summary.get("gate"):
        rows.append(("quality gate", _gate(summary["gate"])))
    if truth.get("defocus_um") is not None:
        rows.append(("true defocus", f"{truth['defocus_um']:+.3f} um (simulated)"))
    if latency.get("p50") is not None:
        parts = (f"{name} {_form(latency.get(name), '{:.2f} ms')}" for name in ("p50", "p99"))
        rows.append(("loop latency", ", ".join(parts)))
    return rows


def _recommended(found: Mapping[str, Any] | None) -> list[tuple[str, str]]:
    """What a policy that looked for settings recommends, and why it stopped there."""
    if found is None:
        return []
    settings = ", ".join(f"{name} {value:.4g}" for name, value in (found.get("settings") or {}).items())
    worth = _form(found.get("utility"), "; utility {:.3f}", "") + _form(found.get("utility_sd"), " \u00b1 {:.3f}", "")
    rows = [("recommended", f"{settings}{worth}" if settings else "nothing")]
    rows.append(("STED images", str(found.get("images"))))
    return [*rows, ("why", str(found.get("reason", "")).partition("; recommended")[0])]


def _counts(summary: Mapping[str, Any], shadow: bool) -> str:
    names = {name: name for name in ("scored", "stale", "dropped", "actions", "refused")}
    if shadow:
        names |= {"actions": "actions it would have sent", "refused": "that would have been refused"}
    return f"{summary.get('frames')} ({', '.join(f'{summary.get(name)} {said}' for name, said in names.items())})"


def _gate(gate: Mapping[str, Any]) -> str:
    share = _form(gate.get("flagged_share"), " ({:.1%})", "")
    parts = [f"{gate.get('flagged')} of {gate.get('judged')} frames flagged{share}"]
    parts += [f"{gate['retakes']} retakes asked for"] if gate.get("retakes") else []
    parts += [f"{gate['unjudged']} could not be judged"] if gate.get("unjudged") else []
    return ", ".join(parts)


def _form(value: Any, form: str, otherwise: str = "?") -> str:
    missing = value is None or (isinstance(value, float) and math.isnan(value))
    return otherwise if missing else form.format(value)
