"""The tables that `parfocal evaluate defocus` prints and the card holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.models.base import Assessment
from parfocal.models.training.evaluate_defocus import (
    PHOTON_LEVELS,
    Assessor,
    Case,
    assessor,
    blurred_cases,
    empty_abstained,
    field_objects,
    procedural_objects,
    stack_rows,
    summarise,
)
from parfocal.models.training.evaluate_defocus import judged as judge_case
from parfocal.models.training.fields import load_fields
from parfocal.models.training.synthesis import SEEN_FROM
from parfocal.models.yang2018 import LEVELS
from parfocal.simulator.optics import PIXELS_PER_LEVEL, Optics

PROCEDURAL, EMPTY = 100, 200
"""Fields drawn: specimens, and none."""


def tables(
    *, fields: Path | None, stacks: Path | None, yang: Path | None, card: Path | None, limit: int | None, seed: int
) -> dict[str, Any]:
    """Measure everything; a plain dictionary of tables by name.

    Parameters
    ----------
    fields : Path, optional
        Folder of real in-focus fields, of which those of the test split are taken; procedural ones alone if absent.
    stacks : Path, optional
        Folder of focus series with a ``truth.csv``.
    yang : Path, optional
        Weights of the paper's network, for its rows.
    card : Path, optional
        Another card than the packaged one.
    limit : int, optional
        At most so many fields of each kind, empty ones included.
    seed : int

    Raises
    ------
    UsageError
        `fields` holds no image, or none that belongs to the test split.
    """
    compact = assessor(card)
    peers: dict[str, Assessor] = {"compact": compact}
    if yang is not None:
        peers["yang2018, retrained"] = yang_assessor(yang)
    found: dict[str, Any] = {}
    drawn = PROCEDURAL if limit is None else min(limit, PROCEDURAL)
    objects = {"procedural, unseen seeds": procedural_objects(drawn, seed=seed)}
    if fields is not None:
        held_out = load_fields(fields, "test")[:limit]
        if not held_out:
            raise UsageError(f"{fields} holds no field of the test split (a fifth of all, by a hash of their names)")
        objects = {
            "real fields, held out": field_objects(held_out),
            "real fields, held out, binned 2x2": field_objects(held_out, scale=2),
            **objects,
        }
    for name, images in objects.items():
        cases = list(blurred_cases(images, seed=seed, photons=PHOTON_LEVELS))
        found[name] = {peer: by_photons(cases, assess) for peer, assess in peers.items()}
    blank = EMPTY if limit is None else min(limit, EMPTY)
    found["empty fields abstained"] = empty_abstained(compact, count=blank, seed=seed)
    if stacks is not None:
        found["focus series"] = stack_rows(stacks, plain_assessor(card))
    return found


def by_photons(cases: Iterable[Case], assess: Assessor) -> dict[str, Any]:
    """`summarise` for each photon level and for all, over fields that stand out of the noise."""
    rows = [(case, judge_case(assess(case.counts, case.optics), case)) for case in cases]
    good = [(case, row) for case, row in rows if case.detectability > SEEN_FROM]
    table = {"all": summarise([row for _, row in good])}
    for photons in sorted({case.photons for case, _ in rows}, reverse=True):
        table[f"{photons:g} photons"] = summarise([row for case, row in good if case.photons == photons])
    return table


def plain_assessor(card: Path | None) -> Any:
    """The model told no optics: values in pixels of blur, for series whose optics nobody wrote down."""
    from parfocal.models.defocus import DefocusModel

    options = {"patch_map": False, "precision": "float32", "backend": "torch", "card": str(card) if card else None}
    model = DefocusModel(options)

    def assess(image: NDArray[Any], pixel_um: float) -> Assessment:
        return model.assess(image[None], pixel_um)[0]

    return assess


def yang_assessor(weights: Path) -> Assessor:
    """The paper's network on a whole frame: non-overlapping patches, certainty-weighted mean of their distributions."""
    import torch
    from safetensors.torch import load_file

    from parfocal.models.runtime import tiles
    from parfocal.models.yang2018 import INPUT_SCALE, PATCH_PX, YangNet, aggregate

    network = YangNet()
    network.load_state_dict(load_file(weights))
    network.eval()

    def assess(image: NDArray[Any], optics: Optics) -> Assessment:
        patches = tiles(torch.from_numpy(image.astype(np.float32) * INPUT_SCALE), PATCH_PX, PATCH_PX)
        with torch.inference_mode():
            probabilities = torch.softmax(network(patches.reshape(-1, 1, PATCH_PX, PATCH_PX)), dim=1)
        return _levels_as_assessment(aggregate(probabilities).numpy(), optics)

    return assess


def _levels_as_assessment(p: NDArray[Any], optics: Optics) -> Assessment:
    edges = (np.arange(LEVELS + 1) - 0.5).clip(0) * PIXELS_PER_LEVEL
    cumulative = np.concatenate([[0.0], np.cumsum(p)])
    q = {f"q{name:02d}": float(np.interp(name / 100, cumulative, edges)) for name in (5, 25, 50, 75, 95)}
    detail = {name: value / optics.blur_px_per_um for name, value in q.items()}
    detail["level"] = float(np.argmax(p))
    return Assessment("yang2018", q["q50"] / optics.blur_px_per_um, 0.0, detail=detail)


def render(found: Mapping[str, Any]) -> str:
    """The tables as Markdown."""
    lines: list[str] = []
    for name, table in found.items():
        lines += ["", f"### {name}", ""]
        if isinstance(table, float):
            lines.append(f"{table:.3f}")
        elif isinstance(table, list):
            lines += _stack_lines(table)
        else:
            lines += ["| network | photons | images | abstained | level within 1 | error px | cover 50 | cover 90 |"]
            lines += ["|---|---|---|---|---|---|---|---|"]
            for peer, by_level in table.items():
                lines += [_row(peer, photons, row) for photons, row in by_level.items()]
    return "\n".join(lines).strip()


def _row(peer: str, photons: str, row: Mapping[str, Any]) -> str:
    keys = ("images", "abstained", "level_within_1", "mean_error_px", "cover50", "cover90")
    return f"| {peer} | {photons} | " + " | ".join(f"{row[key]:g}" for key in keys) + " |"


def _stack_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    lines = ["| series | planes | abstained | planes off | blur px by plane |", "|---|---|---|---|---|"]
    for row in rows:
        blur = " ".join(f"{value:.1f}" for value in row["blur_px"])
        lines.append(f"| {row['series']} | {row['planes']} | {row['abstained']} | {row['planes_off']} | {blur} |")
    return lines
