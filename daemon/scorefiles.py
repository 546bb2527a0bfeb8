"""Assessing image files: every plane of every file by every model wanted, one row each, and no row lost to an error."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError, UsageError
from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import ImageFileError, Plane, iter_planes
from parfocal.models import available_models, make_model
from parfocal.models.base import Assessment, ImageError, Model
from parfocal.models.names import did_you_mean

DRY = "assumed immersion index 1.0 (a dry objective), because the NA is below 1; --immersion-index says otherwise"


@dataclass(frozen=True)
class ScoreRow:
    """What one model says of one plane, or why nothing can be said.

    Parameters
    ----------
    path : Path
        Of the file.
    plane : int or None
        Index in the file; None where the file itself cannot be read.
    axes : mapping
        Where in the file, by axis.
    model : str
        Its name.
    assessment : Assessment
        An abstention where the row failed.
    error : str
        Kind of the error of a row that failed, else empty.
    blur_px_per_um : float, optional
        What a um of defocus is in px of blur diameter, where the optics are known.
    pixels : ndarray, optional
        The plane, for a map drawn over it.
    """

    path: Path
    plane: int | None
    model: str
    assessment: Assessment
    axes: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    blur_px_per_um: float | None = None
    pixels: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def unit(self) -> str:
        """Of value and sd: um, px (blur diameter, where the optics are not known), or none."""
        in_um = self.assessment.detail.get("in_um")
        return "" if in_um is None else ("um" if in_um else "px")

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
            "detail": {name: _known(value) for name, value in said.detail.items()},
        }
        return row | ({"error": self.error} if self.error else {})


class FileScorer:
    """Scores files with models made for the optics of each.

    Parameters
    ----------
    models : sequence of str
        Names.
    given : PartialOptics
        From the command line: wins over what the file says.
    fallback : PartialOptics
        From a configuration: used where the file says nothing.
    options : mapping
        Further options of the models, by model name.

    Raises
    ------
    UsageError
        An unknown model, or impossible optics.
    """

    def __init__(
        self,
        models: Sequence[str],
        given: PartialOptics | None = None,
        fallback: PartialOptics | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        known = available_models()
        for name in models:
            if name not in known:
                raise UsageError(f"there is no model {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
        self._names = tuple(models)
        self._given = given or PartialOptics()
        self._fallback = fallback or PartialOptics()
        self._options = dict(options or {})
        self._made: dict[tuple[str, PartialOptics], Model] = {}
        self._given.check("the optics given")
        self.notes: set[str] = set()

    def rows(self, paths: Sequence[Path]) -> Iterator[ScoreRow]:
        """Score files one after the other; a file or plane that fails becomes a row that says why.

        Raises
        ------
        ModelError
            A model cannot be made, whatever the file: weights are absent or not those of the card, options unknown.
        """
        for path in paths:
            try:
                for plane in iter_planes(path):
                    yield from self._plane_rows(plane)
            except ImageFileError as error:
                for name in self._names:
                    yield _failed(path, None, name, error)

    def _plane_rows(self, plane: Plane) -> Iterator[ScoreRow]:
        try:
            pixels = plane.read()
        except ImageFileError as error:
            for name in self._names:
                yield _failed(plane.path, plane, name, error)
            return
        optics = self._given.over(plane.optics).over(self._fallback)
        for name in self._names:
            try:
                usable = self._usable(name, optics)
            except UsageError as error:  # impossible optics in this file
                yield _failed(plane.path, plane, name, error)
                continue
            model = self._model(name, usable)  # absent weights concern every file, and end it here
            try:
                (assessment,) = model.assess(pixels[None], optics.pixel_um or math.nan)
            except (ParfocalError, ValueError) as error:
                yield _failed(plane.path, plane, name, error)
                continue
            yield ScoreRow(
                plane.path, plane.index, name, assessment, plane.axes,
                blur_px_per_um=_blur_px_per_um(usable), pixels=pixels,
            )  # fmt: skip

    def _model(self, name: str, optics: PartialOptics) -> Model:
        key = (name, optics)
        if key not in self._made:
            self._made[key] = make_model(name, {**optics.known(), **self._options.get(name, {})})
        return self._made[key]

    def _usable(self, name: str, optics: PartialOptics) -> PartialOptics:
        """Return the optics if a defocus in um can follow from them, and say what was assumed or missing."""
        from parfocal.daemon.compose import TAKES_OPTICS

        if name not in TAKES_OPTICS:
            return PartialOptics()
        filled = optics.with_dry_index()
        if filled != optics:
            self.notes.add(DRY)
        missing = filled.missing()
        if missing:
            wanted = ", ".join(f"--{_OPTION[name]}" for name in missing)
            self.notes.add(f"defocus in px of blur diameter, not in um, where the optics are not known; give {wanted}")
            return PartialOptics()
        filled.check("the optics")
        return filled


_OPTION = {
    "na": "na",
    "immersion_index": "immersion-index",
    "emission_um": "emission-nm",
    "pixel_um": "pixel-um",
}


def _blur_px_per_um(optics: PartialOptics) -> float | None:
    from parfocal.simulator.optics import Optics

    return Optics.from_options(optics.known()).blur_px_per_um if optics.known() else None


def _failed(path: Path, plane: Plane | None, model: str, error: Exception) -> ScoreRow:
    text = str(error).removeprefix(f"{path}: ")
    return ScoreRow(
        path,
        plane.index if plane is not None else None,
        model,
        Assessment.abstain(model, text),
        plane.axes if plane is not None else {},
        error=type(error).__name__,
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


__all__ = ["FileScorer", "ImageError", "ScoreRow"]
