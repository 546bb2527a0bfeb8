"""Real in-focus fields as objects to be blurred: read from a folder, split by field or cell, filtered by sharpness."""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import UsageError
from parfocal.models.training.fieldfiles import BEYOND, FilePlanes, image_paths, read_planes

log = structlog.get_logger()
FloatImage = NDArray[np.float32]
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
SKIPPED = ("vignetted", "sted_real", "live_low_snr")
"""Folders that are no in-focus widefield objects: uneven light, other optics, noise of their own."""
KEPT = 0.6
SOFT, OTHER_FOLDER = "softer than the rest", "in a folder that is skipped by its name"
EXPECTED = frozenset({SOFT, OTHER_FOLDER, BEYOND})
"""Reasons to leave an image out that say nothing against it."""


_CHANNEL_PATTERNS = (
    r"(?<=target_avg400_\d{3})_[0-9]$",  # W2S: field of view, then channel
    r"^Channel[0-9]+-",
    r"_[DFR]$",  # CellProfiler's fly cells
    r"d[0-9]$",  # CellProfiler's human cells
    r"hrh(2ax|oe)[0-9.]*$",
    r"(?i)_(actin|mito|nuclei)$",
)
"""What in a file's name tells the channel and not the field of view."""


@dataclass(frozen=True)
class Field:
    """One real plane: `group` names what must not be split (a field of view, a cell), `source` the folder."""

    image: FloatImage
    group: str
    source: str


@dataclass
class Tally:
    """What became of the images of one source: used by split, left out by reason, and an example of each reason."""

    used: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)


def split_of(group: str) -> Split:
    """Where a group belongs: 70 % train, 10 % validation, 20 % test, by a hash of its name and of nothing else."""
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 70 else "validation" if bucket < 80 else "test"


def load_fields(folder: Path, split: Split, *, keep_sharpest: float = KEPT) -> list[Field]:
    """Read the fields of one split; `survey` says what is left out.

    Parameters
    ----------
    folder : Path
        Holds one folder a source, or the images themselves and is then the one source; TIFF files of one or several
        channels, and grey PNG.
    split : {"train", "validation", "test"}
    keep_sharpest : float
        Share kept of every source by `edge_sharpness`, because some published "in-focus" fields are soft.

    Raises
    ------
    UsageError
        If the folder holds no image.
    """
    by_source: dict[str, list[Field]] = {}
    for path in _paths(folder):
        source = source_of(path, folder)
        if source is None or split_of(group_of(path)) != split:
            continue
        for plane in read_planes(path).planes:
            by_source.setdefault(source, []).append(Field(plane, group_of(path), source))
    kept: list[Field] = []
    for fields in by_source.values():
        scores = [edge_sharpness(field.image) for field in fields]
        order = np.argsort(scores)[::-1][: _kept(len(fields), keep_sharpest)]
        kept.extend(fields[index] for index in sorted(order))
    return kept


@lru_cache(maxsize=2)
def survey(folder: Path) -> Mapping[str, Tally]:
    """Count by source what `load_fields` takes of a folder and what it leaves out, by reading every image once.

    Held for as long as the process lives: a card tells of the folder as it was when the training began.

    Raises
    ------
    UsageError
        If the folder holds no image.
    """
    found: dict[str, Tally] = {}
    for path in _paths(folder):
        source = source_of(path, folder)
        if source is None:
            _leave_out(found.setdefault(path.relative_to(folder).parts[0], Tally()), {OTHER_FOLDER: 1}, path.name)
            continue
        held = read_planes(path)
        tally = found.setdefault(source, Tally())
        tally.used[split_of(group_of(path))] += len(held.planes)
        _leave_out(tally, held.left_out, _example(path, held))
    for tally in found.values():
        for split, many in tally.used.items():
            tally.used[split] = _kept(many, KEPT)
            tally.left_out[SOFT] += many - tally.used[split]
    return dict(sorted(found.items()))


def fields_used(folder: Path | str | None) -> dict[str, int]:
    """How many fields of each source are in the train split, for a card; nothing of where they were."""
    if folder is None:
        return {}
    return {source: tally.used["train"] for source, tally in survey(Path(folder)).items() if tally.used["train"]}


def check_fields(folder: Path | None, needed: Sequence[Split] = ("train", "validation")) -> None:
    """Log what of a folder is used and what is left out and why, before an hour is spent on it.

    Raises
    ------
    UsageError
        If the folder holds no image, or none that can be trained on.
    """
    if folder is None:
        return
    found = survey(folder)
    for source, tally in found.items():
        told = {reason: many for reason, many in tally.left_out.items() if many}
        log.info("fields", source=source, **tally.used, left_out=told)
        for reason in sorted(set(told) - EXPECTED):
            log.warning(
                "images left out", source=source, images=told[reason], why=reason, for_example=tally.examples[reason]
            )
    many: dict[Split, int] = {split: sum(tally.used[split] for tally in found.values()) for split in SPLITS}
    if not many["train"]:
        raise UsageError(_nothing(folder, found, many))
    for split in needed:
        if not many[split]:
            log.warning(
                f"no field of the {split} split: what is measured on it is measured on procedural specimens alone; "
                "more fields of view are needed",
                **many,
            )


def _nothing(folder: Path, found: Mapping[str, Tally], many: Mapping[Split, int]) -> str:
    """Why there is no field to train on, and what to do."""
    left_out: Counter[str] = sum((tally.left_out for tally in found.values()), Counter())
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()) if count)
    if any(many.values()):
        return (
            f"{folder}: no field is in the train split ({many['validation']} validation, {many['test']} test; by a "
            "hash of the names of folder and file): give more fields of view"
            + (f"; left out: {reasons}" if reasons else "")
        )  # fmt: skip
    return f"{folder}: no image in it can be trained on ({reasons}): give grey TIFF or PNG images of at least 128 px"


def group_of(path: Path) -> str:
    """What must stay together: the field of view or cell in a file's name, without its channel."""
    name = path.stem
    for pattern in _CHANNEL_PATTERNS:
        name = re.sub(pattern, "", name)
    return f"{path.parent.name}/{name}"


def source_of(path: Path, folder: Path) -> str | None:
    """The folder within `folder` that an image is in, or `folder` itself; None for a folder of `SKIPPED`."""
    inside = path.relative_to(folder).parts
    if len(inside) == 1:
        return folder.resolve().name
    return None if inside[0] in SKIPPED else inside[0]


def edge_sharpness(image: FloatImage) -> float:
    """Steepness of the strongest edges in units of the image's own range a pixel, after taking out pixel noise."""
    smooth = ndimage.gaussian_filter(image, 0.7)
    gradient = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)) / 8.0
    return float(np.percentile(gradient, 99.5) / max(1e-9, np.percentile(image, 99.9) - np.percentile(image, 1)))


def _paths(folder: Path) -> Iterator[Path]:
    paths = image_paths(folder)
    if not paths:
        raise UsageError(f"{folder} holds no TIFF or PNG image to train on")
    yield from paths


def _kept(many: int, share: float) -> int:
    """How many of a source's fields are kept: never none of some."""
    return min(many, max(1, math.ceil(many * share)))


def _leave_out(tally: Tally, left_out: Mapping[str, int], example: str) -> None:
    tally.left_out.update(left_out)
    for reason in left_out:
        tally.examples.setdefault(reason, example)


def _example(path: Path, held: FilePlanes) -> str:
    return held.problem or str(path)
