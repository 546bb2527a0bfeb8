"""The accuracy tables of the defocus network, as `parfocal bench defocus` prints them."""

from __future__ import annotations

import argparse
from typing import Any


def defocus(options: argparse.Namespace) -> dict[str, Any]:
    """Level accuracy, intervals and abstentions by content and light; focus series if there are any."""
    from parfocal.models.training.tables import tables

    found = tables(
        fields=options.fields, stacks=options.stacks, yang=options.yang, card=None, limit=None, seed=options.seed,
    )  # fmt: skip
    rows: list[list[Any]] = []
    for name, table in found.items():
        if isinstance(table, dict):
            for peer, by_light in table.items():
                rows += [_row(name, peer, light, row) for light, row in by_light.items()]
    notes = [f"empty fields abstained: {found['empty fields abstained']:.3f}"]
    for series in found.get("focus series", ()):
        notes.append(f"{series['series']}: best plane {series['planes_off']} off, {series['abstained']} abstained")
    columns = ["content", "network", "light", "images", "abstained", "level ±1", "error px", "50 %", "90 %"]
    return {"title": "Defocus network", "columns": columns, "rows": rows, "notes": notes}


def _row(name: str, peer: str, light: str, row: dict[str, Any]) -> list[Any]:
    keys = ("images", "abstained", "level_within_1", "mean_error_px", "cover50", "cover90")
    return [name, peer, light, *(row[key] for key in keys)]
