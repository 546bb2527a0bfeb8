"""The tables that a card keeps beside its calibration: what was measured of the very weights it describes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.models.cards import load_card, save_card


def add_tables(path: Path, tables: Mapping[str, Any]) -> None:
    """Put what `parfocal evaluate` measures into the card at `path`; what could not be measured becomes null."""
    card = load_card(path)
    save_card(replace(card, measured={**card.measured, "tables": plain(tables)}), path)


def plain(value: Any) -> Any:
    """Tables as JSON has them: names are text, and what is not finite (a mean over nothing) is null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
