"""The record beside a restored image: source, method, weights, optics, defocus and verdicts; enough to redo it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import parfocal
from parfocal.daemon.restoreome import LAYERS, WARNING
from parfocal.daemon.restoreplaces import RestorePlaces
from parfocal.daemon.restorerows import FAILED, PlaneResult, RestoreJob
from parfocal.daemon.session import write_text
from parfocal.models.base import ModelCard
from parfocal.models.restore.base import CELL_PX

ENDING = ".json"
FORMAT = "parfocal restored image"
VERSION = 1


@dataclass(frozen=True)
class Written:
    """One image that was written.

    Parameters
    ----------
    path : Path
    image : int or None
        Which image of the source, where it holds several.
    size : tuple of int
        How many t, c, z of the source.
    layers : int
        How many channels for each of the source.
    results : tuple of PlaneResult
    """

    path: Path
    image: int | None
    size: tuple[int, int, int]
    layers: int
    results: tuple[PlaneResult, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON; the planes by the order in which the source holds them."""
        return {
            "file": self.path.name,
            "image": self.image,
            "size_tcz": list(self.size),
            "layers": list(LAYERS[: self.layers]),
            "cell_px": CELL_PX,
            "planes": [result.to_json() for result in self.results],
        }


def record_of(
    job: RestoreJob, weights: Mapping[str, Any], source: Mapping[str, Any], images: Iterable[Written]
) -> dict[str, Any]:
    """Everything that is known of how a source was restored, as plain JSON."""
    return {
        "format": FORMAT,
        "format_version": VERSION,
        "computed": True,
        "warning": WARNING,
        "parfocal": parfocal.__version__,
        "written_utc": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "method": job.method,
        **weights,
        "asked": job.asked(),
        "source": dict(source),
        "images": [image.to_json() for image in images],
    }


def dump(record: Mapping[str, Any]) -> str:
    """As text, without any number that JSON has not."""
    return json.dumps(record, indent=1, allow_nan=False)


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write it beside its image, whole."""
    write_text(path, dump(record) + "\n")


def weights_of(card: ModelCard | None) -> dict[str, Any] | None:
    """Which network it was; None where there is none."""
    if card is None:
        return None
    facts = {"name": card.name, "version": card.version, "architecture": card.architecture}
    return {**facts, "weights_sha256": card.weights_sha256}


def done_before(
    places: RestorePlaces, path: Path, job: RestoreJob, weights: Mapping[str, Any], sha256: str
) -> dict[str, Any] | None:
    """The record of an earlier run that asked the same of the same bytes, if all it wrote is there; else None."""
    try:
        record = json.loads(places.target(path, ENDING).read_text(encoding="utf-8"))
        same = (
            record["format"] == FORMAT and record["format_version"] == VERSION and record["asked"] == plain(job.asked())
        )
        same = same and record["source"]["sha256"] == sha256
        same = same and all(record[name] == value for name, value in plain(weights).items())
        images = record["images"]
        folder = places.target(path, ENDING).parent
        there = bool(images) and all((folder / image["file"]).exists() for image in images)
        failed = any(plane["verdict"] == FAILED for image in images for plane in image["planes"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if same and there and not failed else None


def plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON would give it back."""
    return dict(json.loads(json.dumps(facts)))


def fingerprint(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file; of a folder (OME-Zarr) over the names, sizes and bytes of its files, sorted.

    Raises
    ------
    OSError
        It cannot be read.
    """
    digest, total = hashlib.sha256(), 0
    if path.is_dir():
        for one in sorted(_files(path)):
            size = one.stat().st_size
            digest.update(f"{one.relative_to(path).as_posix()}\0{size}\0".encode(errors="surrogateescape"))
            total += _feed(digest, one)
    else:
        total = _feed(digest, path)
    return {"sha256": digest.hexdigest(), "bytes": total}


def touched(path: Path) -> tuple[tuple[int, int], ...]:
    """Size and time of the last change, to see whether somebody writes to a source while it is read."""
    files = sorted(_files(path)) if path.is_dir() else [path]
    return tuple((facts.st_size, facts.st_mtime_ns) for facts in (one.stat() for one in files))


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (Path(parent) / name for name in names)


def _feed(digest: Any, path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            total += len(block)
    return total
