"""Quality along real focus series: the paper's focus figure, as a table and as a drawing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from parfocal.models.training.evaluate_defocus import read_plane, read_series
from parfocal.models.training.evaluate_quality import Judge, Target

PANEL_PX, GAP_PX, COLUMNS = (200, 130), 44, 4
COLOURS = ("#0a6e8a", "#b3541e", "#5b4b9a", "#4d7a29")


def quality_series(judges: Mapping[str, tuple[Judge, Sequence[str]]], folder: Path) -> list[dict[str, Any]]:
    """Score every plane of the series in a folder.

    Parameters
    ----------
    judges : mapping
        By name: what judges an image, and the targets it answers.
    folder : Path
        With ``truth.csv``, see `evaluate_defocus.read_series`.

    Returns
    -------
    list of dict
        A row a series and score: ``series``, ``modality``, ``score`` ("student, mm"), ``defocus_um`` and ``quality`` of
        every plane (higher is better; null where the judge abstained), ``planes_off`` of the best plane from the one
        nearest focus, and ``spearman`` of quality with the distance from focus, -1 where all is in order.
    """
    rows: list[dict[str, Any]] = []
    for series in read_series(folder):
        images = [read_plane(path) for path in series.planes]
        for name, (judge, targets) in judges.items():
            told = [judge(image) for image in images]
            for target in targets:
                quality = np.asarray([Target(target).score(one) for one in told])
                rows.append(
                    {"series": series.name, "modality": series.modality, "score": f"{name}, {target}"}
                    | {"defocus_um": list(series.defocus_um), **_judged(quality, np.asarray(series.defocus_um))}
                )
    return rows


def _judged(quality: NDArray[np.float64], defocus_um: NDArray[np.float64]) -> dict[str, Any]:
    told = np.isfinite(quality)
    found: dict[str, Any] = {"quality": [float(q) if ok else None for q, ok in zip(quality, told, strict=True)]}
    if np.count_nonzero(told) < 2:
        return found | {"planes_off": None, "spearman": None}
    order = stats.spearmanr(quality[told], np.abs(defocus_um[told])).statistic
    off = abs(int(np.nanargmax(quality)) - int(np.argmin(np.abs(defocus_um))))
    return found | {"planes_off": off, "spearman": float(order) if np.isfinite(order) else None}


def figure(rows: Sequence[Mapping[str, Any]]) -> str:
    """Draw quality against defocus as SVG, a panel a series, every score between its own least and greatest value."""
    names = list(dict.fromkeys(str(row["series"]) for row in rows))
    scores = list(dict.fromkeys(str(row["score"]) for row in rows))
    (wide, high), across = PANEL_PX, min(COLUMNS, max(1, len(names)))
    width = across * (wide + GAP_PX) + GAP_PX
    height = -(-len(names) // across) * (high + GAP_PX + 16) + GAP_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="10" fill="#222"><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for number, name in enumerate(names):
        left = GAP_PX + number % across * (wide + GAP_PX)
        top = GAP_PX + number // across * (high + GAP_PX + 16)
        parts.append(_panel([row for row in rows if row["series"] == name], scores, left, top))
    for index, score in enumerate(scores):
        x = GAP_PX + index * 150
        parts.append(f'<path d="M{x} 16h18" stroke="{_colour(index)}" stroke-width="2"/>')
        parts.append(f'<text x="{x + 24}" y="20">{escape(score)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(rows: Sequence[Mapping[str, Any]], scores: Sequence[str], left: int, top: int) -> str:
    wide, high = PANEL_PX
    z = np.asarray(rows[0]["defocus_um"])
    low, reach = float(z.min()), max(float(np.ptp(z)), 1e-9)
    focus = left + wide * (0.0 - low) / reach
    parts = [
        f'<rect x="{left}" y="{top}" width="{wide}" height="{high}" fill="none" stroke="#999"/>',
        f'<path d="M{focus:.1f} {top}v{high}" stroke="#bbb" stroke-dasharray="3 3"/>',
        f'<text x="{left}" y="{top - 5}">{escape(str(rows[0]["series"]))}</text>',
        f'<text x="{left}" y="{top + high + 13}">{low:g}</text>',
        f'<text x="{left + wide}" y="{top + high + 13}" text-anchor="end">{low + reach:g} um of defocus</text>',
    ]
    for row in rows:
        quality = np.asarray([np.nan if q is None else q for q in row["quality"]], dtype=np.float64)
        told = np.isfinite(quality)
        if np.count_nonzero(told) < 2:
            continue
        share = (quality[told] - quality[told].min()) / max(float(np.ptp(quality[told])), 1e-9)
        xs, ys = left + wide * (z[told] - low) / reach, top + high - 6 - (high - 12) * share
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        colour = _colour(scores.index(row["score"]))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{colour}"/>' for x, y in zip(xs, ys, strict=True)]
    return "\n".join(parts)


def _colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]
