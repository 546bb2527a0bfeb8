"""Image files on disk as planes: which files a person means, which planes they hold, and grey pixels or a refusal."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.daemon.fileoptics import PartialOptics

TIFF_SUFFIXES = frozenset({".tif", ".tiff", ".btf", ".tf8"})
PNG_SUFFIXES = frozenset({".png"})
JPEG_SUFFIXES = frozenset({".jpg", ".jpeg", ".jfif"})
"""Never read: their numbers are no counts. Found where a verb has something to say of them."""
ZARR_MARKERS = ("zarr.json", ".zgroup", ".zarray")
READABLE = "TIFF, OME-TIFF, PNG and OME-Zarr"
KINDS_NAMED = 8


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
    planes : int or None
        How many the file holds, where that is known before they are read; for a progress bar.
    shape : tuple of int or None
        Height and width, where they are known before it is read.
    lossy : str
        Name of the compression, if it is one that changes pixels.
    z_step_um : float or None
        Distance of neighbouring planes along z, where the file says so.
    """

    path: Path
    index: int
    read: Callable[[], NDArray[Any]]
    axes: Mapping[str, int] = field(default_factory=dict)
    optics: PartialOptics = field(default_factory=PartialOptics)
    planes: int | None = None
    shape: tuple[int, int] | None = None
    lossy: str = ""
    z_step_um: float | None = None


def find_images(
    paths: Iterable[Path],
    skip: Collection[Path] = (),
    also: Collection[str] = frozenset(),
    others: Counter[str] | None = None,
) -> list[Path]:
    """List the images meant by `paths`: files as they are, folders searched recursively, hidden ones skipped.

    A folder below those asked for that cannot be listed is in the list itself: `iter_planes` says why.

    Parameters
    ----------
    paths : iterable of Path
        Files and folders.
    skip : collection of Path
        Folders not to search, such as the one that maps of these very images are written to.
    also : collection of str
        Endings of further files in folders that the caller has something to say of, such as `JPEG_SUFFIXES`.
    others : Counter, optional
        Counts, by their ending, the files in folders that are of other kinds and are not in the list.

    Raises
    ------
    ImageFileError
        A path does not exist or may not be seen, or a folder holds no image.
    """
    found: list[Path] = []
    others = Counter() if others is None else others
    skipped = frozenset(path.resolve() for path in skip)
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except FileNotFoundError as error:
            raise ImageFileError(f"{path}: no such file or folder") from error
        except OSError as error:
            raise ImageFileError(f"{path}: {error.strerror or error}") from error
        if not is_folder or is_zarr(path):
            found.append(path)
            continue
        passed: Counter[str] = Counter()
        inside = list(_walk(path, skipped, TIFF_SUFFIXES | PNG_SUFFIXES | frozenset(also), passed))
        if not inside:
            there = f"; there are {kinds_of(passed)}" if passed else ""
            raise ImageFileError(
                f"{path}: the folder holds no images ({READABLE} are read, folders are searched){there}"
            )
        found.extend(inside)
        others.update(passed)
    return list(dict.fromkeys(found))


def kinds_of(others: Counter[str]) -> str:
    """Files by their endings in words, the most frequent first: ``.jpg 3, .txt 1``."""
    listed = sorted(others.items(), key=lambda one: (-one[1], one[0]))
    words = [f"{ending or 'without an ending'} {count}" for ending, count in listed[:KINDS_NAMED]]
    if len(listed) > KINDS_NAMED:
        words.append(f"and {len(listed) - KINDS_NAMED} more kinds")
    return ", ".join(words)


def is_zarr(path: Path) -> bool:
    """Whether a folder is the root of a Zarr hierarchy."""
    try:
        return path.is_dir() and any((path / marker).is_file() for marker in ZARR_MARKERS)
    except PermissionError:
        return path.suffix.lower() == ".zarr"


def _walk(folder: Path, skipped: Collection[Path], suffixes: Collection[str], others: Counter[str]) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:  # its own row says so, and the other folders are searched
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            # A Zarr is one image, however many folders it is made of; links to folders could lead in circles.
            if is_zarr(path):
                yield path
            elif not entry.is_symlink() and not (skipped and path.resolve() in skipped):
                yield from _walk(path, skipped, suffixes, others)
        elif path.suffix.lower() in suffixes:
            yield path
        else:
            others[path.suffix.lower()] += 1


def iter_planes(path: Path) -> Iterator[Plane]:
    """Go through the planes of one file; pixels are read only when `Plane.read` is called, before going on.

    Raises
    ------
    ImageFileError
        The file cannot be opened as what its name says, or holds no plane.
    """
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
        if is_folder and not is_zarr(path):
            os.scandir(path).close()
    except FileNotFoundError as error:
        raise ImageFileError(f"{path}: no such file") from error
    except OSError as error:
        raise ImageFileError(f"{path}: {error.strerror or error}") from error
    if is_folder:
        from parfocal.daemon.zarrplanes import zarr_planes

        return zarr_planes(path)
    suffix = path.suffix.lower()
    if suffix in TIFF_SUFFIXES:
        from parfocal.daemon.tiffplanes import tiff_planes

        return tiff_planes(path)
    if suffix in PNG_SUFFIXES:
        return iter([Plane(path, 0, lambda: read_png(path), planes=1)])
    raise ImageFileError(f"{path}: {suffix or 'a file without an ending'} is not read; {READABLE} are")


def refuse_computed(path: Path) -> None:
    """Raise `ImageFileError` for a file whose pixels parfocal itself has computed."""
    raise ImageFileError(
        f"{path}: computed by `parfocal restore`, not taken by a microscope: nothing is concluded from such pixels; "
        "the raw image is named in the JSON file beside it"
    )


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
    """Read a grey PNG of 8 or 16 bits, with the numbers that are in it.

    Raises
    ------
    ImageFileError
        Not a PNG, damaged, a colour image, an animation, or one whose numbers the decoder would change.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with path.open("rb") as file:
            header = file.read(_PNG_BITS_AT + 2)
            file.seek(0)
            with Image.open(file, formats=["PNG"]) as image:
                bits, kind = header[_PNG_BITS_AT:]
                _refuse_png(path, bits, kind, getattr(image, "n_frames", 1))
                image.load()
                pixels = np.array(image)
    except UnidentifiedImageError as error:
        raise ImageFileError(f"{path}: not a PNG file, whatever its name says") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageFileError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if bits == 16 and pixels.dtype != np.uint16:  # older decoders say int32
        pixels = pixels.astype(np.uint16)
    return grey(pixels, str(path))


def _refuse_png(path: Path, bits: int, kind: int, frames: int) -> None:
    """Refuse what the decoder would rescale: it stretches 2 and 4 bits to 8, and squeezes 16 bits of colour into 8."""
    if kind in _PNG_KINDS:
        raise ImageFileError(f"{path}: a {_PNG_KINDS[kind]} image: save it as grey values of 8 or 16 bits")
    if kind == _PNG_GREY and bits < 8:
        what = "black-and-white" if bits == 1 else f"{bits}-bit"
        raise ImageFileError(f"{path}: a {what} image: save it as grey values of 8 or 16 bits")
    if kind != _PNG_GREY and bits == 16:
        raise ImageFileError(f"{path}: a colour image of 16 bits a channel: save one grey image a channel")
    if frames > 1:
        raise ImageFileError(f"{path}: an animation of {frames} frames: save each as an image of its own")


_PNG_BITS_AT = 24
"""Where a PNG's header says bit depth and kind: after signature (8), chunk head (8), width and height (8)."""
_PNG_GREY = 0
_PNG_KINDS = {3: "palette", 4: "partly transparent"}
