"""Patch maps drawn over their image: hue says the level, lightness the certainty."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parfocal import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

    from parfocal.daemon.scorefiles import ScoreRow
    from parfocal.models.base import PatchMap

HUE_NEAR, HUE_FAR = 0.60, 0.08
"""Blue for in focus to orange for far: a pair that colour-blind eyes tell apart, joined through green."""

SHARE = 0.45
"""Of the map in the picture; the rest is the image, in grey."""

LEGEND_ROWS = 12
CAPTION_ROWS, CAPTION_FROM_PX = 14, 240
LEVEL_PX, LEVELS = 3.0, 10
"""A level is a step of blur diameter; the last one stands for all beyond it."""


def write_overlay(row: ScoreRow, folder: Path) -> Path | None:
    """Write the patch map of one row over its plane as ``<file>-p<plane>-<model>.png``; None where there is no map.

    Raises
    ------
    UsageError
        The folder or file cannot be written.
    """
    patch_map = row.assessment.patch_map
    if patch_map is None or row.pixels is None:
        return None
    name = f"{row.path.name.replace('.', '_')}-{_stamp(row.path)}-p{row.plane:04d}-{row.model}.png"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _captioned(overlay(row.pixels, patch_map, row.blur_px_per_um or 1.0)).save(folder / name)
    except OSError as error:
        raise UsageError(f"{folder / name}: the map cannot be written: {error.strerror or error}") from error
    return folder / name


def overlay(pixels: NDArray[Any], patch_map: PatchMap, blur_px: float = 1.0) -> NDArray[np.uint8]:
    """Blend a patch map over its image.

    Parameters
    ----------
    pixels : ndarray, shape (height, width)
        Raw counts.
    patch_map : PatchMap
        Of that image; NaN where a patch abstained, which leaves the image grey.
    blur_px : float
        Blur diameter in pixels that one unit of the map's values stands for.

    Returns
    -------
    ndarray of uint8, shape (height + 12, width, 3)
        The last rows are the scale: hue from level 0 to 10, the same in every picture, certainty falling downwards.
    """
    height, width = pixels.shape
    value, certainty = np.asarray(patch_map.value), np.clip(np.nan_to_num(patch_map.certainty), 0.0, 1.0)
    share = np.clip(np.abs(value) * blur_px / (LEVEL_PX * LEVELS), 0.0, 1.0)
    rows = _cells(height, value.shape[0], patch_map)
    columns = _cells(width, value.shape[1], patch_map)
    colours = _coloured(share, certainty)[rows][:, columns]
    shown = (np.isfinite(value)[rows][:, columns] & (rows >= 0)[:, None] & (columns >= 0)[None, :])[..., None]
    grey = np.repeat(_stretched(pixels)[..., None], 3, axis=2)
    picture = np.where(shown, (1 - SHARE) * grey + SHARE * colours, grey)
    scale = np.linspace(0.0, 1.0, width)[None, :].repeat(LEGEND_ROWS, axis=0)
    legend = _coloured(scale, np.linspace(1.0, 0.0, LEGEND_ROWS)[:, None].repeat(width, axis=1))
    return np.round(255 * np.concatenate([picture, legend])).astype(np.uint8)


def _cells(length: int, cells: int, patch_map: PatchMap) -> NDArray[np.int_]:
    """Return for every pixel the patch whose centre is nearest; -1 outside of all patches."""
    at = np.arange(length)
    index = np.round((at - (patch_map.patch_px - 1) / 2) / patch_map.stride_px).astype(int)
    inside = at < (cells - 1) * patch_map.stride_px + patch_map.patch_px
    return np.where(inside, np.clip(index, 0, cells - 1), -1)


def _stretched(pixels: NDArray[Any]) -> NDArray[np.float64]:
    image = np.asarray(pixels, dtype=np.float64)
    low, high = np.percentile(image, [0.5, 99.5])
    stretched: NDArray[np.float64] = np.clip((image - low) / max(high - low, 1e-12), 0.0, 1.0)
    return stretched


def _coloured(share: NDArray[Any], certainty: NDArray[Any]) -> NDArray[np.float64]:
    """Colours of full saturation, shape (..., 3): HLS with the hue by `share`, the lightness by `certainty`."""
    hue = HUE_NEAR + (HUE_FAR - HUE_NEAR) * np.nan_to_num(share)
    lightness = 0.08 + 0.47 * certainty
    chroma = 1.0 - np.abs(2.0 * lightness - 1.0)
    # Hue to RGB as in Foley and van Dam, vectorised: each channel is the same ramp, shifted by a third of the circle.
    ramps = [np.clip(np.abs(((hue + shift) % 1.0) * 6.0 - 3.0) - 1.0, 0.0, 1.0) for shift in (0.0, 2 / 3, 1 / 3)]
    coloured: NDArray[np.float64] = np.stack([lightness + chroma * (ramp - 0.5) for ramp in ramps], axis=-1)
    return coloured


def _captioned(picture: NDArray[np.uint8]) -> Image.Image:
    """Say below the scale what its ends are, where there is room for that."""
    from PIL import Image, ImageDraw

    height, width, _ = picture.shape
    if width < CAPTION_FROM_PX:
        return Image.fromarray(picture)
    canvas = Image.new("RGB", (width, height + CAPTION_ROWS))
    canvas.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(canvas)
    draw.text((2, height), "in focus", fill="white")
    draw.text((width - 2, height), f"blur of {LEVEL_PX * LEVELS:g} px or more", fill="white", anchor="ra")
    return canvas


def _stamp(path: Path) -> str:
    import hashlib

    return hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:6]
