"""A row of `parfocal score`: what one model says of one plane; and what is asked of every file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.overlays import DrawnMap
from parfocal.models.base import Assessment

REFERENCE = "artefact_reference"
"""Key of a model's detail: how likely nothing is wrong with the image."""


@dataclass(frozen=True)
class ScoreJob:
    """What is wanted of every file; plain enough to cross to another machine.

    Parameters
    ----------
    models : tuple of str
        Names.
    given : PartialOptics
        From the command line: wins over what the file says.
    fallback : PartialOptics
        From a configuration: used where the file says nothing.
    options : mapping
        Further options of the models, by model name.
    maps : bool
        Whether patch maps are drawn.
    """

    models: tuple[str, ...]
    given: PartialOptics = field(default_factory=PartialOptics)
    fallback: PartialOptics = field(default_factory=PartialOptics)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    maps: bool = False


@dataclass(frozen=True)
class ScoreRow:
    """What one model says of one plane, or why nothing can be said.

    Parameters
    ----------
    path : Path
        Of the file, as the person gave it.
    plane : int or None
        Index in the file; None where the file itself cannot be read.
    model : str
        Its name.
    assessment : Assessment
        An abstention where the row failed; without distribution and patch map, which no row shows.
    axes : mapping
        Where in the file, by axis.
    error : str
        Kind of the error of a row that failed, else empty.
    drawn : DrawnMap, optional
        The patch map over the plane, where maps are wanted and the model has one.
    planes : int, optional
        How many planes the file holds, where that is known before they are read.
    """

    path: Path
    plane: int | None
    model: str
    assessment: Assessment
    axes: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    drawn: DrawnMap | None = field(default=None, repr=False, compare=False)
    planes: int | None = field(default=None, repr=False, compare=False)

    @property
    def unit(self) -> str:
        """Of value and sd: um, px (blur diameter, where the optics are not known), or none."""
        in_um = self.assessment.detail.get("in_um")
        return "" if in_um is None else ("um" if in_um else "px")

    @property
    def artefact_name(self) -> str:
        """Of the likeliest class, ``reference`` where nothing is wrong; empty where the model does not tell."""
        from parfocal.daemon.viewparts import worst_artefact

        worst = worst_artefact(self.assessment)
        if worst is not None:
            return worst[0]
        return "" if self.assessment.abstained or REFERENCE not in self.assessment.detail else "reference"

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what is not known is null."""
        said = self.assessment
        row: dict[str, Any] = {
            "path": str(self.path),
            "plane": self.plane,
            "axes": dict(self.axes),
            "model": self.model,
            "value": _known(said.value),
            "sd": _known(said.sd),
            "unit": self.unit,
            "abstained": said.abstained,
            "reason": said.reason,
            "artefact_name": self.artefact_name,
            "detail": {name: _known(value) for name, value in said.detail.items()},
        }
        return row | ({"error": self.error} if self.error else {})


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
