"""What a STED policy remembers between frames, beside its trials and what is known to be safe."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Memory:
    """Plain numbers, words and JSON.

    `phase` is ``begin`` (no frame yet), ``choose`` (the next trial is to be chosen), ``trial`` or ``finished``.
    """

    phase: str = "begin"
    doubt: str = "no frame yet"
    commanded: dict[str, float] = field(default_factory=dict)
    origin: dict[str, float] = field(default_factory=dict)
    field_number: int = -1
    images: int = 0
    empty: int = 0
    failures: int = 0
    mismatches: int = 0
    dimmed: int = 0
    forced: dict[str, float] = field(default_factory=dict)
    suggestion: dict[str, Any] = field(default_factory=dict)
    recommended: dict[str, Any] = field(default_factory=dict)
    fell_back: str = ""
    said: str = ""
    dose: float = math.nan
    dose_per_unit: float = 0.0
    ended: str = ""
    darkened: bool = False
    lines: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; NaN as null."""
        return asdict(self) | {"dose": None if math.isnan(self.dose) else self.dose}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Memory:
        """Inverse of `to_json`."""
        return Memory(**{**data, "dose": math.nan if data["dose"] is None else float(data["dose"])})
