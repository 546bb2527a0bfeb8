"""Patch maps drawn over their image, with the scale of their values; and the arrays themselves beside the picture."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parfocal import UsageError
from parfocal.daemon.mapcolours import colour_code, coloured

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image, ImageFont

    from parfocal.models.base import PatchMap

LEVEL_PX, LEVELS = 3.0, 10
"""A level of defocus is a step of blur diameter; the scale ends at the last one."""

SMALL_PX, LARGE_PX = 480, 1200
"""Images below the first are drawn enlarged, by a whole factor; those above the second reduced, by a whole factor."""

MARGIN, BAR, ARROW, FONT_PX, LINE, NARROWEST = 14, 26, 10, 15, 20, 420
BAR_LIGHTNESS = 0.62
INK, PAPER = (30, 30, 30), (255, 255, 255)


@dataclass(frozen=True)
class Scale:
    """What the colours of a map stand for.

    Parameters
    ----------
    low, high : float
        Values at the ends; beyond them the colour stays the same.
    label : str
        What is measured, and its unit.
    higher_is_better : bool
        Blue is the good end and orange the one to look at, whichever of them is the larger number.
    below, above : bool
        Whether values may lie beyond an end; drawn as an arrow there.
    """

    low: float
    high: float
    label: str
    higher_is_better: bool = False
    below: bool = False
    above: bool = False

    def share(self, value: NDArray[Any]) -> NDArray[np.float64]:
        """Place of values between blue (0) and orange (1); NaN stays NaN."""
        share: NDArray[np.float64] = np.clip((value - self.low) / (self.high - self.low), 0.0, 1.0)
        return 1.0 - share if self.higher_is_better else share


@dataclass(frozen=True)
class DrawnMap:
    """A map as the bytes of two files, so that it can come from another machine.

    Parameters
    ----------
    stem : str
        Name of the files without their ending.
    png, npz : bytes
        The picture; and ``value``, ``certainty``, ``patch_px``, ``stride_px``, ``unit``.
    """

    stem: str
    png: bytes
    npz: bytes

    def write(self, folder: Path) -> Path:
        """Write both files into `folder`, which is made if need be; return the path of the picture.

        Raises
        ------
        UsageError
            The folder or a file cannot be written.
        """
        path = folder / f"{self.stem}.png"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".npz").write_bytes(self.npz)
            path.write_bytes(self.png)
        except OSError as error:
            raise UsageError(f"{path}: the map cannot be written: {error.strerror or error}") from error
        return path


def draw(pixels: NDArray[Any], patch_map: PatchMap, scale: Scale, stem: str) -> DrawnMap:
    """Draw a patch map over its image, with its scale below; see `overlay` for the parameters."""
    png, npz = io.BytesIO(), io.BytesIO()
    _with_scale(overlay(pixels, patch_map, scale), scale).save(png, format="PNG", compress_level=1)
    np.savez_compressed(
        npz,
        value=patch_map.value,
        certainty=patch_map.certainty,
        patch_px=np.int64(patch_map.patch_px),
        stride_px=np.int64(patch_map.stride_px),
        unit=np.str_(patch_map.unit),
    )
    return DrawnMap(stem, png.getvalue(), npz.getvalue())


def stem_of(path: Path, plane: int, model: str) -> str:
    """Name the files of a map so that no two images share one, whatever folders they lie in."""
    stamp = hashlib.sha256(str(path.absolute()).encode(errors="surrogateescape")).hexdigest()[:6]
    return f"{path.name.replace('.', '_')}-{stamp}-p{plane:04d}-{model}"


def scale_of(model: str, patch_map: PatchMap, blur_px_per_um: float | None) -> Scale:
    """Choose what the colours stand for: the same in every picture of a model that is known, else this map's range.

    Parameters
    ----------
    model : str
        Its name.
    patch_map : PatchMap
        For its unit, and its range where nothing else is known.
    blur_px_per_um : float or None
        What a um of defocus is in px of blur diameter; None where defocus is in those px itself.
    """
    unit = f", {patch_map.unit}" if patch_map.unit else ""
    if model == "defocus":
        return Scale(0.0, LEVEL_PX * LEVELS / (blur_px_per_um or 1.0), f"{model}{unit or ', px'}", above=True)
    if model == "quality":
        # Its values are a probability or a share of Nyquist's frequency; a patch alone may lie beyond.
        return Scale(0.0, 1.0, f"patch {model}{unit}", higher_is_better=True, below=True, above=True)
    finite = patch_map.value[np.isfinite(patch_map.value)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    return Scale(low, high if high > low else low + max(abs(low), 1.0), f"{model}{unit}")


def overlay(pixels: NDArray[Any], patch_map: PatchMap, scale: Scale) -> NDArray[np.uint8]:
    """Tint an image by its patch map.

    The image keeps its lightness, so that all of its structure stays visible; hue is the value, colourfulness the
    certainty. Where the model abstained or is unsure the image is grey.

    Parameters
    ----------
    pixels : ndarray, shape (height, width)
        Raw counts; stretched between their 0.5 and 99.5 percentiles, for the eye only.
    patch_map : PatchMap
        Of that image; NaN where a patch abstained.
    scale : Scale
        Of its values.

    Returns
    -------
    ndarray of uint8, shape (rows, columns, 3)
        The image enlarged or reduced by a whole factor where it is very small or large.
    """
    zoom = _zoom(*pixels.shape)
    image = _reduced(np.asarray(pixels, dtype=np.float32), zoom)
    low, high = np.percentile(image[:: max(1, image.size // 250_000)], [0.5, 99.5])
    lightness = (image - low) / (high - low) if high > low else np.full(image.shape, 0.5)
    enlarged = max(1, round(zoom))
    lightness = lightness.repeat(enlarged, axis=0).repeat(enlarged, axis=1)
    value = np.asarray(patch_map.value, dtype=np.float64)
    certainty = np.where(np.isfinite(value), np.nan_to_num(patch_map.certainty), 0.0)
    # The last row and column of codes, which index -1 finds, are the grey of what no patch covers.
    code = np.pad(colour_code(np.nan_to_num(scale.share(value)), certainty), (0, 1))
    rows = _cells(lightness.shape[0], zoom, value.shape[0], patch_map)
    columns = _cells(lightness.shape[1], zoom, value.shape[1], patch_map)
    return coloured(lightness, code[rows][:, columns])


def _zoom(height: int, width: int) -> float:
    """Return the factor, whole or one over a whole number."""
    longest = max(height, width)
    if longest > LARGE_PX:
        return 1.0 / min(math.ceil(longest / LARGE_PX), height, width)
    return float(max(1, math.ceil(SMALL_PX / longest)))


def _reduced(image: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    """Take the mean over blocks, where `zoom` is below 1; what does not fill a block at the far edges is left out."""
    if zoom >= 1:
        return image
    block = round(1 / zoom)
    rows, columns = image.shape[0] // block, image.shape[1] // block
    blocks = image[: rows * block, : columns * block].reshape(rows, block, columns, block)
    return np.asarray(blocks.mean(axis=(1, 3)))


def _cells(length: int, zoom: float, cells: int, patch_map: PatchMap) -> NDArray[np.int_]:
    """Return for every row (or column) drawn the patch whose centre is nearest; -1 outside of all patches."""
    at = (np.arange(length) + 0.5) / zoom - 0.5
    index = np.round((at - (patch_map.patch_px - 1) / 2) / patch_map.stride_px).astype(int)
    inside = at < (cells - 1) * patch_map.stride_px + patch_map.patch_px
    return np.where(inside, np.clip(index, 0, cells - 1), -1)


def _with_scale(picture: NDArray[np.uint8], scale: Scale) -> Image.Image:
    """Put the scale below a picture: hue along it, certainty falling downwards, numbers, and what they are."""
    from PIL import Image, ImageDraw

    font = _font()
    height, width, _ = picture.shape
    full = max(width, NARROWEST)
    canvas = Image.new("RGB", (full, height + 2 * MARGIN + BAR + 2 * LINE), PAPER)
    canvas.paste(Image.fromarray(picture), ((full - width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    caption = round(max(pen.textlength(word, font=font) for word in ("certain", "unsure")))
    left, right, top = 2 * MARGIN, full - 3 * MARGIN - caption, height + MARGIN
    along = scale.share(np.linspace(scale.low, scale.high, right - left))[None, :]
    down = np.linspace(1.0, 0.0, BAR)[:, None]
    canvas.paste(Image.fromarray(coloured(np.full((1, 1), BAR_LIGHTNESS), colour_code(along, down))), (left, top))
    for there, edge, tip in ((scale.below, left - 2, -ARROW), (scale.above, right + 1, ARROW)):
        if there:
            pen.polygon([(edge, top), (edge, top + BAR - 1), (edge + tip, top + BAR // 2)], fill=INK)
    pen.text((full - MARGIN, top - 2), "certain", fill=INK, font=font, anchor="rt")
    pen.text((full - MARGIN, top + BAR + 2), "unsure", fill=INK, font=font, anchor="rb")
    for value in ticks(scale.low, scale.high):
        x = left + round((value - scale.low) / (scale.high - scale.low) * (right - left - 1))
        pen.line((x, top + BAR, x, top + BAR + 4), fill=INK)
        pen.text((x, top + BAR + 7), f"{value:g}", fill=INK, font=font, anchor="mt")
    pen.text(((left + right) // 2, top + BAR + 7 + LINE), scale.label, fill=INK, font=font, anchor="mt")
    return canvas


def ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers (1, 2 or 5 times a power of ten apart) from `low` to `high`."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((1.0, 2.0, 5.0, 10.0), key=lambda one: abs(math.log(one * power / rough))) * power
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12) + 0.0 for k in range(first, last + 1)]


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(FONT_PX)
