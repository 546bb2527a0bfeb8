"""Small pictures of what was restored: a part of the raw plane, the same part computed, and where that was refused."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from parfocal.daemon.restoreoutput import Layers
from parfocal.daemon.restorerows import RestoreRow
from parfocal.models.restore.base import CELL_PX

SIDE_PX = 176
"""Of the part shown, at the pixels' own size: a picture of a whole frame made small looks sharp whatever its blur."""
MAP_PX = 176
MOST = 120
"""Pictures of planes of one kind: a page with more is slow to open, and read by nobody."""
STEP_PX = 16
REFUSED_RGB = (255, 157, 77)


@dataclass(frozen=True)
class Pictures:
    """Three pictures as data URIs; `restored` is empty where nothing was."""

    raw: str
    restored: str
    refused: str


class Gallery:
    """Keeps pictures of the first planes of each kind, small enough to hold thousands of images' worth."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Path, int | None], Pictures] = {}
        self._count: Counter[str] = Counter()

    def see(self, row: RestoreRow, look: Callable[[], Layers | None]) -> None:
        """Draw a plane, unless enough of its kind have been."""
        kind = f"{row.verdict}{row.number('refused_share') > 0}"
        if self._count[kind] >= MOST:
            return
        layers = look()
        if layers is not None and np.isfinite(layers.raw).any():
            self._count[kind] += 1
            self._kept[row.path, row.plane] = draw(layers, restored=row.verdict == "restored")

    def of(self, path: Path, plane: int | None) -> Pictures | None:
        """Pictures of a plane, if it was drawn."""
        return self._kept.get((path, plane))


def draw(layers: Layers, *, restored: bool) -> Pictures:
    """Draw a plane; raw and restored with the same contrast, that one may be compared with the other."""
    raw = np.nan_to_num(np.asarray(layers.raw, dtype=np.float32), posinf=0.0, neginf=0.0)
    made = np.asarray(layers.restored, dtype=np.float32) if restored else raw
    top, left, height, width = part = most_structured(made, layers.refused)
    here = (slice(top, top + height), slice(left, left + width))
    both = np.stack([raw[here], made[here]])
    low, high = (float(limit) for limit in np.percentile(both, (0.5, 99.8)))
    return Pictures(
        _jpeg(_grey(raw[here], low, high)),
        _jpeg(_grey(made[here], low, high)) if restored else "",
        _jpeg(_map(raw, layers.refused, part), side=MAP_PX),
    )


def most_structured(image: NDArray[np.float32], refused: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part worth looking at: much structure, and little of it refused."""
    height, width = (min(SIDE_PX, side) for side in image.shape)
    rows, columns = (side // STEP_PX for side in image.shape)
    if (height, width) == image.shape or not (rows and columns):
        return 0, 0, height, width
    blocks = image[: rows * STEP_PX, : columns * STEP_PX].reshape(rows, STEP_PX, columns, STEP_PX)
    size = (max(1, height // STEP_PX), max(1, width // STEP_PX))
    structure = uniform_filter(blocks.std(axis=(1, 3)).astype(np.float64), size, mode="constant")
    own = refused[: rows * STEP_PX : STEP_PX, : columns * STEP_PX : STEP_PX].astype(np.float64)
    score = structure * (1.001 - uniform_filter(own, size, mode="constant"))
    row, column = np.unravel_index(int(np.argmax(score)), score.shape)
    top = int(np.clip((row + 0.5) * STEP_PX - height / 2, 0, image.shape[0] - height))
    left = int(np.clip((column + 0.5) * STEP_PX - width / 2, 0, image.shape[1] - width))
    return top, left, height, width


def _grey(image: NDArray[Any], low: float, high: float) -> NDArray[np.uint8]:
    if not high > low:
        return np.full(image.shape, 128, dtype=np.uint8)
    return np.asarray(255 * np.clip((image - low) / (high - low), 0.0, 1.0), dtype=np.uint8)


def _map(raw: NDArray[np.float32], refused: NDArray[np.bool_], part: tuple[int, int, int, int]) -> NDArray[np.uint8]:
    """Draw the whole frame small, orange where it is its own, with a frame around the part that is shown."""
    step = max(1, max(raw.shape) // (2 * MAP_PX))
    small, own = raw[::step, ::step], refused[::step, ::step]
    low, high = np.percentile(small, (0.5, 99.5))
    light = _grey(small, low, high).astype(np.float32) / 255.0
    colour = np.stack([light] * 3, axis=-1) * 200.0
    # Bright enough to be seen in a dark image, and the structure below stays visible.
    colour[own] = (0.45 + 0.55 * light[own][:, None]) * np.asarray(REFUSED_RGB)
    top, left, height, width = part
    if (height, width) != raw.shape:
        rows, columns = (top // step, (top + height) // step - 1), (left // step, (left + width) // step - 1)
        for row in rows:
            colour[row, columns[0] : columns[1] + 1] = 255.0
        for column in columns:
            colour[rows[0] : rows[1] + 1, column] = 255.0
    return np.asarray(colour, dtype=np.uint8)


def _jpeg(pixels: NDArray[np.uint8], side: int = 0) -> str:
    from PIL import Image

    picture = Image.fromarray(pixels)
    if side and max(picture.size) > side:
        picture.thumbnail((side, side))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=84)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


assert SIDE_PX % STEP_PX == 0 and CELL_PX % STEP_PX == 0  # noqa: S101 - parts and squares are whole blocks
