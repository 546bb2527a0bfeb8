"""Image files as planes to train on: TIFF and grey PNG; what is left out of a file is counted with its reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.drivers.recorded_stack import COMPUTED

FloatImage = NDArray[np.float32]
TIFF_SUFFIXES, PNG_SUFFIXES = frozenset({".tif", ".tiff"}), frozenset({".png"})
MIN_PX, MOST_PLANES = 128, 8
LEAST_COUNTS, LEAST_SHARE = 8.0, 0.01
"""Range below which a plane is flat: in counts where pixels are whole numbers, else as a share of its brightest. The
unit of floats may be anything (0 to 1, or photons)."""

SMALL, FLAT, NOT_FINITE = f"smaller than {MIN_PX} px", "flat", "with pixels that are not finite"
BEYOND, UNREADABLE = f"planes after a file's {MOST_PLANES}th", "unreadable"
RESTORED, AXES = "computed by `parfocal restore`", "of more than three axes"
"""Why an image is left out."""


class FieldFileError(UsageError):
    """A file that is not an image that can be read."""


class ComputedError(FieldFileError):
    """A file whose pixels parfocal itself has computed."""


@dataclass(frozen=True)
class FilePlanes:
    """What a file gives: its planes scaled to 0..1, and by reason how many images of it are left out.

    `problem` is what the decoder said, of a file that it could not read.
    """

    planes: tuple[FloatImage, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    problem: str = ""


def image_paths(folder: Path) -> list[Path]:
    """All TIFF and PNG files below a folder, by name; hidden ones are skipped."""
    found = (path for path in folder.rglob("*") if path.suffix.lower() in TIFF_SUFFIXES | PNG_SUFFIXES)
    return sorted(
        path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )  # fmt: skip


def read_planes(path: Path) -> FilePlanes:
    """Two-dimensional planes of a file, first eight at most, scaled to 0..1 above the darkest percentile."""
    try:
        array: NDArray[Any] = np.squeeze(read_array(path))
    except ComputedError as error:
        return FilePlanes(left_out={RESTORED: 1}, problem=str(error))
    except FieldFileError as error:
        return FilePlanes(left_out={UNREADABLE: 1}, problem=str(error))
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        array = np.moveaxis(array, -1, 0)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        return FilePlanes(left_out={AXES: 1})
    planes: list[FloatImage] = []
    left_out: Counter[str] = Counter()
    for plane in array[:MOST_PLANES]:
        why, made = _scaled(plane)
        if made is None:
            left_out[why] += 1
        else:
            planes.append(made)
    if len(array) > MOST_PLANES:
        left_out[BEYOND] = len(array) - MOST_PLANES
    return FilePlanes(tuple(planes), dict(left_out))


def _scaled(plane: NDArray[Any]) -> tuple[str, FloatImage | None]:
    """A plane scaled, or why it is left out."""
    if min(plane.shape) < MIN_PX:
        return SMALL, None
    whole = plane.dtype.kind in "bui"
    if not whole and not np.isfinite(plane).all():
        return NOT_FINITE, None
    low, high = np.percentile(plane.astype(np.uint8) if plane.dtype == bool else plane, (1.0, 99.8)).astype(np.float32)
    least = LEAST_COUNTS if whole else LEAST_SHARE * max(abs(float(low)), abs(float(high)))
    if not high - low > least:
        return FLAT, None
    return "", np.clip((plane.astype(np.float32) - low) / (high - low), 0.0, 1.5)


def read_array(path: Path) -> NDArray[Any]:
    """Pixels of a file as they are.

    Raises
    ------
    ComputedError
        A file of `parfocal restore`.
    FieldFileError
        Damaged, not what its name says, or numbers that are no grey values.
    """
    array = _read_png(path) if path.suffix.lower() in PNG_SUFFIXES else _read_tiff(path)
    if array.dtype.kind not in "buif":
        raise FieldFileError(f"{path}: pixels of type {array.dtype} are no grey values")
    if np.squeeze(array).ndim < 2:
        raise FieldFileError(f"{path}: holds no image")
    return array


def _read_tiff(path: Path) -> NDArray[Any]:
    import tifffile

    try:
        with tifffile.TiffFile(path) as file:
            # As `score` tells them: the mark is in the OME-XML that every restored file has.
            computed = COMPUTED in (file.ome_metadata or "")
            array: NDArray[Any] = np.empty(0) if computed else np.asarray(file.asarray())
    except Exception as error:
        raise FieldFileError(f"{path}: cannot be read as TIFF: {error}") from error
    if computed:
        raise ComputedError(
            f"{path}: computed by `parfocal restore`, not taken by a microscope: nothing is learned from such pixels; "
            "the raw image is named in the JSON file beside it"
        )
    return array


_PNG_BITS_AT = 24
"""Where a PNG's header says bit depth and kind: after signature (8), chunk head (8), width and height (8)."""
_PNG_GREY, _PNG_COLOURED = 0, {3: "palette", 4: "partly transparent"}


def _read_png(path: Path) -> NDArray[Any]:
    """A grey PNG of 8 or 16 bits with the numbers that are in it, as `score` takes them; raises `FieldFileError`."""
    from PIL import Image

    try:
        header = path.read_bytes()[: _PNG_BITS_AT + 2]
        with Image.open(path, formats=["PNG"]) as image:
            bits, kind = header[_PNG_BITS_AT:]
            frames = getattr(image, "n_frames", 1)
            pixels: NDArray[Any] = np.array(image)
    except Exception as error:
        raise FieldFileError(f"{path}: cannot be read as PNG: {error}") from error
    problem = next(_png_problems(bits, kind, frames, pixels), "")
    if problem:
        raise FieldFileError(f"{path}: {problem}: save it as one grey image of 8 or 16 bits")
    grey = pixels if pixels.ndim == 2 else pixels[..., 0]
    return grey.astype(np.uint16) if bits == 16 else grey  # older decoders say int32


def _png_problems(bits: int, kind: int, frames: int, pixels: NDArray[Any]) -> Iterator[str]:
    """What keeps a PNG from being one grey image, or the decoder from giving the numbers that are in it."""
    if kind in _PNG_COLOURED:
        yield f"a {_PNG_COLOURED[kind]} image"
    if kind == _PNG_GREY and bits < 8:
        yield f"an image of {bits} bit"
    if kind != _PNG_GREY and bits == 16:
        yield "a colour image of 16 bits a channel"
    if frames > 1:
        yield f"an animation of {frames} frames"
    if pixels.ndim == 3:
        # Many programs save grey images as three equal channels.
        opaque = pixels.shape[2] == 3 or bool((pixels[..., 3:] == pixels[0, 0, 3:]).all())
        if not (opaque and bool((pixels[..., 1:3] == pixels[..., :1]).all())):
            yield "a colour image"
