"""Real in-focus fields as objects to be blurred: read from a folder, split by field or cell, filtered by sharpness."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import UsageError

FloatImage = NDArray[np.float32]
Split = Literal["train", "validation", "test"]
SKIPPED = ("vignetted", "sted_real", "live_low_snr")
"""Folders that are no in-focus widefield objects: uneven light, other optics, noise of their own."""


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


def split_of(group: str) -> Split:
    """Where a group belongs: 70 % train, 10 % validation, 20 % test, by a hash of its name and of nothing else."""
    bucket = int.from_bytes(hashlib.sha256(group.encode()).digest()[:4], "big") % 100
    return "train" if bucket < 70 else "validation" if bucket < 80 else "test"


def load_fields(folder: Path, split: Split, *, keep_sharpest: float = 0.6) -> list[Field]:
    """Read the fields of one split.

    Parameters
    ----------
    folder : Path
        Holds one folder a source; TIFF files of one or several channels.
    split : {"train", "validation", "test"}
    keep_sharpest : float
        Share kept of every source by `edge_sharpness`, because some published "in-focus" fields are soft.

    Raises
    ------
    UsageError
        If the folder holds no image.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".tif", ".tiff"))
    if not paths:
        raise UsageError(f"{folder} holds no TIFF image to train on")
    by_source: dict[str, list[Field]] = {}
    for path in paths:
        source = path.relative_to(folder).parts[0]
        if source in SKIPPED or split_of(group_of(path)) != split:
            continue
        for plane in _planes(path):
            by_source.setdefault(source, []).append(Field(plane, group_of(path), source))
    kept: list[Field] = []
    for fields in by_source.values():
        scores = [edge_sharpness(field.image) for field in fields]
        order = np.argsort(scores)[::-1][: max(1, int(np.ceil(len(fields) * keep_sharpest)))]
        kept.extend(fields[index] for index in sorted(order))
    return kept


def group_of(path: Path) -> str:
    """What must stay together: the field of view or cell in a file's name, without its channel."""
    name = path.stem
    for pattern in _CHANNEL_PATTERNS:
        name = re.sub(pattern, "", name)
    return f"{path.parent.name}/{name}"


def edge_sharpness(image: FloatImage) -> float:
    """Steepness of the strongest edges in units of the image's own range a pixel, after taking out pixel noise."""
    smooth = ndimage.gaussian_filter(image, 0.7)
    gradient = np.hypot(ndimage.sobel(smooth, 0), ndimage.sobel(smooth, 1)) / 8.0
    return float(np.percentile(gradient, 99.5) / max(1e-9, np.percentile(image, 99.9) - np.percentile(image, 1)))


def _planes(path: Path) -> list[FloatImage]:
    """Two-dimensional planes of a file, first eight at most, scaled to 0..1 above the darkest percentile."""
    import tifffile

    array: NDArray[Any] = np.squeeze(tifffile.imread(path))
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = np.moveaxis(array, -1, 0)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        return []
    planes = []
    for plane in array[:8]:
        low, high = np.percentile(plane, (1.0, 99.8)).astype(np.float32)
        if min(plane.shape) >= 128 and high - low > 8:
            planes.append(np.clip((plane.astype(np.float32) - low) / (high - low), 0.0, 1.5))
    return planes
