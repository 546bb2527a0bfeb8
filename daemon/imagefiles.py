"""Image files on disk as planes: which files a person means, which planes they hold, and grey pixels or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.daemon.fileoptics import PartialOptics

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
PNG_SUFFIXES = frozenset({".png"})
ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")
READABLE = "TIFF, OME-TIFF, PNG and OME-Zarr"


class ImageFileError(UsageError):
    """A file that is not an image parfocal can read, or a plane of it that is not one grey image."""


@dataclass(frozen=True)
class Plane:
    """One grey image in a file, not yet read.

    Parameters
    ----------
    path : Path
        The file, or the folder of an OME-Zarr.
    index : int
        Counts the planes of a file from 0, in the order in which the file holds them.
    axes : mapping
        Where in the file: ``{"t": 0, "c": 1, "z": 5}``, and ``image`` where a file holds several.
    optics : PartialOptics
        What the file says of how this plane was made.
    read : callable
        Returns the pixels, shape (height, width); raises `ImageFileError`.
    """

    path: Path
    index: int
    read: Callable[[], NDArray[Any]]
    axes: Mapping[str, int] = field(default_factory=dict)
    optics: PartialOptics = field(default_factory=PartialOptics)


def find_images(paths: Iterable[Path]) -> list[Path]:
    """List the images meant by `paths`: files as they are, folders searched recursively, hidden ones skipped.

    Raises
    ------
    ImageFileError
        A path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for path in paths:
        if not path.exists():
            raise ImageFileError(f"{path}: no such file or folder")
        if path.is_file() or is_zarr(path):
            found.append(path)
            continue
        inside = list(_walk(path))
        if not inside:
            raise ImageFileError(f"{path}: the folder holds no images ({READABLE} are read, folders are searched)")
        found.extend(inside)
    return list(dict.fromkeys(found))


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a Zarr hierarchy."""
    return path.is_dir() and any((path / marker).is_file() for marker in ZARR_MARKERS)


def _walk(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            # A Zarr is one image, however many folders it is made of; links to folders could lead in circles.
            if is_zarr(entry):
                yield entry
            elif not entry.is_symlink():
                yield from _walk(entry)
        elif entry.suffix.lower() in TIFF_SUFFIXES | PNG_SUFFIXES:
            yield entry


def iter_planes(path: Path) -> Iterator[Plane]:
    """Go through the planes of one file; pixels are read only when `Plane.read` is called, before going on.

    Raises
    ------
    ImageFileError
        The file cannot be opened as what its name says, or holds no plane.
    """
    if path.is_dir():
        from parfocal.daemon.zarrplanes import zarr_planes

        return zarr_planes(path)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from parfocal.daemon.tiffplanes import tiff_planes

        return tiff_planes(path)
    if suffix in PNG_SUFFIXES:
        return iter([Plane(path, 0, lambda: read_png(path))])
    raise ImageFileError(f"{path}: {suffix or 'a file without an ending'} is not read; {READABLE} are")


def grey(pixels: NDArray[Any], what: str) -> NDArray[Any]:
    """Return one grey image, shape (height, width).

    An RGB image whose channels are identical, as many programs save grey ones, is grey.

    Raises
    ------
    ImageFileError
        A colour image, or not an image at all.
    """
    if pixels.ndim == 2:
        return pixels
    if pixels.ndim == 3 and pixels.shape[2] in (3, 4):
        opaque = pixels.shape[2] == 3 or bool((pixels[..., 3] == pixels[0, 0, 3]).all())
        same = bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all())
        if opaque and same:
            return np.ascontiguousarray(pixels[..., 0])
        raise ImageFileError(
            f"{what}: a colour image ({pixels.shape[2]} channels in one plane). Which of them to judge is not for "
            "parfocal to guess: save one grey image a channel"
        )
    raise ImageFileError(f"{what}: expected one image (height, width), got shape {pixels.shape}")


def read_png(path: Path) -> NDArray[Any]:
    """Read a grey PNG of 8 or 16 bits.

    Raises
    ------
    ImageFileError
        Not a PNG, damaged, or a colour image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=["PNG"]) as image:
            mode = image.mode
            image.load()
            pixels = np.array(image)
    except UnidentifiedImageError as error:
        raise ImageFileError(f"{path}: not a PNG file, whatever its name says") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageFileError(f"{path}: cannot be read: {error}") from error
    if mode in ("1", "P", "PA", "LA"):
        raise ImageFileError(f"{path}: a {_MODES[mode]} image: save it as grey values of 8 or 16 bits")
    return grey(pixels, str(path))


_MODES = {"1": "black-and-white", "P": "palette", "PA": "palette", "LA": "partly transparent"}
