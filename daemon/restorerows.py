"""What `parfocal restore` is asked, what became of one plane, and the rows and the table that say so."""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import parfocal
from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import Plane
from parfocal.daemon.scoretable import FIRST, Table
from parfocal.models.restore.base import Blur, Verdict
from parfocal.simulator.optics import psf_size_px

FAILED = "failed"
"""Verdict of a plane that could not be read or written; beside those of `Verdict`."""
VERDICTS = (Verdict.RESTORED.value, Verdict.IN_FOCUS.value, Verdict.REFUSED.value, FAILED)
Place = tuple[int, int, int]
"""Where a plane lies in what is written: t, c, z."""


@dataclass(frozen=True)
class RestoreJob:
    """What is wanted of every file.

    Parameters
    ----------
    method : str
        Name of a method of `parfocal.models.restore`.
    given : PartialOptics
        From the command line: wins over what the file says.
    fallback : PartialOptics
        From a configuration: used where neither the file nor its session says anything.
    recorded : PartialOptics
        From the configuration of the session whose frames the file holds: used where the file itself says nothing.
    defocus_um, defocus_sd_um : float, optional
        Told by the person, instead of estimated from every plane.
    options, defocus_options : mapping
        Further options of the method, and of the model that estimates the defocus.
    aberrations : mapping
        What is told of them, by the names of `restoreoptics.ABERRATIONS`; empty where nobody knows.
    force : bool
        Restore again what is restored already.
    """

    method: str
    given: PartialOptics = field(default_factory=PartialOptics)
    fallback: PartialOptics = field(default_factory=PartialOptics)
    defocus_um: float | None = None
    defocus_sd_um: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    defocus_options: Mapping[str, Any] = field(default_factory=dict)
    aberrations: Mapping[str, Any] = field(default_factory=dict)
    force: bool = False
    recorded: PartialOptics = field(default_factory=PartialOptics)

    def optics(self, said: PartialOptics) -> PartialOptics:
        """What is known where the file says these: each part from the first who knows it."""
        return self.given.over(said).over(self.recorded).over(self.fallback)

    def optics_from(self, said: PartialOptics) -> dict[str, str]:
        """Who knows each part: ``options``, ``file``, ``session``, ``config``; ``assumed`` where it was."""
        known = self.optics(said)
        found = dict.fromkeys(known.with_dry_index().known(), "assumed")
        parts = {"config": self.fallback, "session": self.recorded, "file": said, "options": self.given}
        for where, part in parts.items():
            found |= dict.fromkeys(part.known(), where)
        return found

    def asked(self) -> dict[str, Any]:
        """Whatever of it changes the result, as plain JSON: a run that asks something else starts over."""
        facts = {name: value for name, value in asdict(self).items() if name != "force"}
        return {**facts, "parfocal": parfocal.__version__}


@dataclass(frozen=True)
class PlaneResult:
    """What became of one plane, without its pixels.

    Parameters
    ----------
    plane : Plane
    place : tuple of int
        In what is written: t, c, z.
    verdict : str
        One of `VERDICTS`.
    reason : str
        For a person; empty where all of it was restored.
    error : str
        Kind of the error of a plane that failed.
    blur : Blur, optional
        As estimated or given.
    refused_share : float
        Share of the frame's squares that are the frame's own pixels because no other can be trusted.
    detail : mapping
        What the verdict rests on.
    optics_from : mapping
        Who told which part of the optics, see `RestoreJob.optics_from`.
    """

    plane: Plane
    place: Place
    verdict: str
    reason: str = ""
    error: str = ""
    blur: Blur | None = None
    refused_share: float = math.nan
    detail: Mapping[str, float] = field(default_factory=dict)
    optics_from: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As a record keeps it: enough to make the point spread function again."""
        t, c, z = self.place
        said: dict[str, Any] = {
            "plane": self.plane.index, "axes": dict(self.plane.axes), "t": t, "c": c, "z": z,
            "verdict": self.verdict, "reason": self.reason, "error": self.error,
            "refused_share": known(self.refused_share),
            "detail": {name: known(value) for name, value in self.detail.items()},
            "optics_from": dict(self.optics_from),
        }  # fmt: skip
        return said | (blur_to_json(self.blur, self.optics_from) if self.blur is not None else {"defocus_um": None})


def blur_to_json(blur: Blur, told: Collection[str]) -> dict[str, Any]:
    """Defocus, optics, and the point spread function as the call that gives it; `told` names the optics known."""
    optics = asdict(blur.optics)
    if "magnification" not in told:  # nothing depends on it, and nobody is to take a default for a fact
        del optics["magnification"]
    optics["zernike_waves"] = {f"{n},{m}": waves for (n, m), waves in blur.optics.zernike_waves.items()}
    return {
        "defocus_um": blur.defocus_um,
        "defocus_sd_um": blur.sd_um,
        "blur_px": blur.diameter_px,
        "depths_of_field": blur.depths,
        "psf": {
            "made_by": "parfocal.simulator.optics.psf(Optics.from_options(optics), defocus_um, size_px)",
            "optics": optics,
            "defocus_um": blur.defocus_um,
            "size_px": psf_size_px(blur.optics, blur.defocus_um),
        },
    }


@dataclass(frozen=True)
class RestoreRow:
    """What became of one plane, or of a file that cannot be read.

    Parameters
    ----------
    path : Path
        Of the source, as the person gave it.
    plane : int or None
        Index in the file; None where the file itself cannot be read.
    said : mapping
        As in the record of the source, see `PlaneResult.to_json`.
    method : str
    output : Path, optional
        Of the image written.
    skipped : bool
        Whether an earlier run has done it.
    planes : int, optional
        How many the file holds.
    """

    path: Path
    plane: int | None
    said: Mapping[str, Any]
    method: str
    output: Path | None = None
    skipped: bool = False
    planes: int | None = None

    @property
    def verdict(self) -> str:
        """One of `VERDICTS`."""
        return str(self.said["verdict"])

    @property
    def reason(self) -> str:
        """Why not, or why not all of it."""
        return str(self.said.get("reason", ""))

    def number(self, name: str) -> float:
        """A number of what was said; NaN where it is not known."""
        value = self.said.get(name)
        return math.nan if value is None else float(value)

    @property
    def where(self) -> str:
        """Place in the file in a few letters."""
        axes: Mapping[str, int] = self.said.get("axes") or {}
        return ",".join(f"{name}{at}" for name, at in axes.items())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; what is not known is null."""
        row: dict[str, Any] = {
            "path": str(self.path), "plane": self.plane, "axes": dict(self.said.get("axes") or {}),
            "verdict": self.verdict, "reason": self.reason, "method": self.method,
            **{name: known(self.number(name)) for name in NUMBERS},
            "output": None if self.output is None else str(self.output), "skipped": self.skipped,
        }  # fmt: skip
        return row | ({"error": self.said["error"]} if self.said.get("error") else {})


NUMBERS = ("defocus_um", "defocus_sd_um", "blur_px", "refused_share")


class RestoreTable(Table):
    """Rows of `parfocal restore`; one that an earlier run wrote is replaced, as its rows are in this one again."""

    fixed = ("verdict", "reason", *NUMBERS, "method", "output", "skipped", "error")
    text = frozenset({"verdict", "reason", "method", "output", "error"})
    flags = frozenset({"skipped"})

    def __init__(self, path: Path, *, force: bool = False) -> None:
        super().__init__(path, force=force or self._wrote(path))

    def _wrote(self, path: Path) -> bool:
        """Whether a file is a table of this kind, by the names of its columns."""
        try:
            if path.suffix.lower() == ".parquet":
                import pyarrow.parquet as pq

                columns = [str(name) for name in pq.read_schema(path).names]
            else:
                with path.open(encoding="utf-8", newline="") as file:
                    columns = next(csv.reader(file), [])
        except Exception:  # noqa: BLE001 - whatever else it is, it stays
            return False
        return [name for name in columns if not name.startswith("axis_")] == [*FIRST, *self.fixed]

    def add(self, row: RestoreRow) -> None:
        """Take a row."""
        said = row.to_json()
        cells = {name: said.get(name, "") for name in ("path", "plane", *self.fixed)}
        self.add_cells(cells | {"output": said["output"] or ""}, said["axes"], {})


def failed(path: Path, plane: int | None, method: str, error: Exception, verdict: str = FAILED) -> RestoreRow:
    """Return the row of a file, or of a plane of it, of which nothing is written."""
    said = {"verdict": verdict, "reason": str(error) or type(error).__name__, "error": ""}
    if verdict == FAILED:
        said["error"] = type(error).__name__
    return RestoreRow(path, plane, said, method)


WORDS = {"restored": "restored", "in_focus": "in focus", "refused": "REFUSED", FAILED: "FAILED"}


def row_text(row: RestoreRow) -> str:
    """Put a row into one line for a person."""
    place = row.where or (str(row.plane) if row.plane else "-")
    parts = [WORDS[row.verdict]]
    if math.isfinite(row.number("defocus_um")):
        parts.append(f"defocus {abs(row.number('defocus_um')):.2f} +- {row.number('defocus_sd_um'):.2f} um")
    parts += [row.reason] if row.reason else []
    parts += ["done before"] if row.skipped else []
    return f"{row.path}  {place}  {'; '.join(parts)}"


def known(value: float) -> float | None:
    """A number for JSON; null where there is none."""
    return float(value) if math.isfinite(value) else None
