"""The small change of checkpoints: numbers that may be NaN, as strict JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def pack(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write NaN as null."""
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in fields.items()}


def unpack(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Read null as NaN."""
    return {k: math.nan if v is None else v for k, v in fields.items()}
