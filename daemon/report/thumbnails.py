"""Small pictures of recorded frames, inside the page: those that led to moves, and some in between."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report.axes import duration
from parfocal.daemon.report.events import FrameRow, Story

MOST = 12
SIDE_PX = 200


@dataclass(frozen=True)
class Thumbnail:
    """A picture as a data URI, and what is said below it."""

    source: str
    title: str
    lines: Sequence[str]


def thumbnails_of(reader: SessionReader, story: Story) -> list[Thumbnail]:
    """Choose and draw; nothing where no frames were recorded."""
    if not reader.stored or reader.frames.problem:
        return []
    rows = [row for row in story.frames if row.index in reader.stored and reader.frames.holds(reader.stored[row.index])]
    found = []
    for row in _chosen(rows, {move.index for move in story.moves if move.accepted}):
        pixels = reader.frames.read(reader.stored[row.index])
        if pixels is not None:
            found.append(Thumbnail(png(pixels), f"frame {row.index}", _lines(row)))
    return found


def _chosen(rows: Sequence[FrameRow], moved: set[int | None]) -> list[FrameRow]:
    """The first frames that led to moves, and others spread evenly; in order."""
    if len(rows) <= MOST:
        return list(rows)
    chosen = {row.index: row for row in [r for r in rows if r.index in moved][: MOST // 2]}
    chosen[rows[-1].index] = rows[-1]
    for place in np.linspace(0, len(rows) - 1, MOST):
        if len(chosen) < MOST:
            row = rows[round(place)]
            chosen[row.index] = row
    return [chosen[index] for index in sorted(chosen)]


def _lines(row: FrameRow) -> list[str]:
    lines = [f"at {duration(row.at_s, 0.1)}"]
    z_um = row.settings.get("z_um", math.nan)
    if math.isfinite(z_um):
        lines.append(f"z {z_um:.2f} um")
    if row.known and math.isfinite(row.focus_um):
        lines.append(f"defocus {z_um - row.focus_um:+.2f} \u00b1 {row.sd_um:.2f} um")
    if "quality" in row.values:
        lines.append(f"quality {row.values['quality'][0]:.2f}")
    if row.unfit:
        lines.append(row.unfit)
    return lines


def png(pixels: NDArray[Any]) -> str:
    """Draw a frame as a small PNG, its contrast stretched between the 0.5 and 99.8 percentiles; a data URI."""
    from PIL import Image

    step = max(1, max(pixels.shape) // 1024)
    image = np.asarray(pixels[::step, ::step], dtype=np.float32)
    low, high = np.percentile(image, [0.5, 99.8])
    shown = np.clip((image - low) / (high - low), 0.0, 1.0) if high > low else np.full(image.shape, 0.5)
    picture = Image.fromarray((255 * shown).astype(np.uint8))
    picture.thumbnail((SIDE_PX, SIDE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
