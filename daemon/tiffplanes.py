"""Planes and optics of a TIFF: plain, OME, ImageJ, Micro-Manager, MetaMorph."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parfocal.daemon.fileoptics import PartialOptics, length_um, optics_of_ome, z_step_of_ome
from parfocal.daemon.imagefiles import ImageFileError, Plane, grey, refuse_computed
from parfocal.drivers.recorded_stack import COMPUTED

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries


_Place = tuple[dict[str, int], Callable[[], NDArray[Any]]]
"""Where in the file, and what reads it."""

PALETTE = 3
"""TIFF's PhotometricInterpretation of images whose pixels are indices into a table of colours."""
LOSSY = {6: "JPEG", 7: "JPEG", 33007: "JPEG", 34892: "JPEG"}
"""TIFF's Compression of images whose pixels were changed; other codecs are lossless, or do not say what they did."""


def tiff_planes(path: Path) -> Iterator[Plane]:
    """Go through the planes of a TIFF that lie in this very file.

    A file of a multi-file OME-TIFF names the planes of its sisters too; those are left to the sisters, or a folder of
    them would be read once for each file.

    Raises
    ------
    ImageFileError
        Not a TIFF, damaged, or empty.
    """
    import tifffile

    _quieten()
    try:
        file = tifffile.TiffFile(path)
    except (tifffile.TiffFileError, OSError, ValueError, KeyError) as error:
        raise ImageFileError(f"{path}: not a TIFF that can be read: {error}") from error
    with file:
        try:
            series = list(file.series)
        except Exception as error:  # a file may break in any way a byte can be wrong
            raise ImageFileError(f"{path}: damaged TIFF: {error}") from error
        if file.is_ome and COMPUTED in (file.ome_metadata or ""):
            refuse_computed(path)
        index, planes = 0, sum(_count(one) for one in series)
        for number, one in enumerate(series):
            shape, z_step_um = _shape(one), _z_step_um(file, number)
            lossy = LOSSY.get(int(one.keyframe.compression), "")
            for axes, read in _planes_of_series(path, file, one):
                where = {"image": number, **axes} if len(series) > 1 else axes
                optics = _optics(file, one, number, axes.get("c", 0))
                yield Plane(path, index, read, where, optics, planes, shape, lossy, z_step_um)
                index += 1
    if index == 0:
        raise ImageFileError(f"{path}: holds no image")


def _quieten() -> None:
    """Whatever keeps a plane from being read is said in its own row; the library's own remarks would hide it."""
    log = logging.getLogger("tifffile")
    if log.level != logging.CRITICAL:  # setting it, for every file, empties the caches of all loggers
        log.setLevel(logging.CRITICAL)


def _count(series: TiffPageSeries) -> int:
    """Count the planes of a series, those in sister files included."""
    inner = 3 if series.axes.endswith("S") else 2
    return int(np.prod(series.shape[:-inner]))


def _shape(series: TiffPageSeries) -> tuple[int, int] | None:
    if not {"Y", "X"} <= set(series.axes):
        return None
    return int(series.shape[series.axes.index("Y")]), int(series.shape[series.axes.index("X")])


def _planes_of_series(path: Path, file: TiffFile, series: TiffPageSeries) -> Iterator[_Place]:
    page_shape = series.keyframe.shape
    samples = series.axes[len(series.axes) - len(page_shape) :]
    outer_shape = series.shape[: len(series.shape) - len(page_shape)]
    outer_axes = series.axes[: len(outer_shape)].lower()
    if len(series.pages) == int(np.prod(outer_shape)) and set(samples) <= set("YXS"):
        for flat, page in enumerate(series.pages):
            if page is not None and page.parent is file:
                yield from _planes_of_page(path, page, _place(outer_axes, outer_shape, flat), samples)
        return
    # Hyperstacks with one page for all planes, as ImageJ writes above 4 GB, are mapped, never in memory as a whole.
    # Volumes and what is compressed as one can only be read whole, once, when first asked for.
    mapped = "memmap" if series.dataoffset is not None else None
    whole = cache(partial(_read, path, partial(series.asarray, out=mapped)))
    inner = 3 if series.axes.endswith("S") else 2
    for flat in range(int(np.prod(series.shape[:-inner]))):
        place = _place(series.axes[:-inner].lower(), series.shape[:-inner], flat)
        yield place, partial(_slice, path, whole, np.unravel_index(flat, series.shape[:-inner]))


def _planes_of_page(path: Path, page: Any, place: dict[str, int], samples: str) -> Iterator[_Place]:
    if page.keyframe.photometric == PALETTE:
        yield place, partial(_refuse_palette, path)
    elif samples == "SYX":
        # Samples stored apart, one image after the other, are channels; interleaved ones are the colours of a pixel.
        whole = cache(partial(_read, path, page.asarray))
        for sample in range(page.keyframe.shape[0]):
            yield {**place, "s": sample}, partial(_slice, path, whole, (sample,))
    else:
        yield place, partial(_slice, path, partial(_read, path, page.asarray), (...,))


def _refuse_palette(path: Path) -> NDArray[Any]:
    raise ImageFileError(f"{path}: palette colours are not intensities: save it as grey values")


def _slice(path: Path, whole: Callable[[], NDArray[Any]], at: tuple[Any, ...]) -> NDArray[Any]:
    part = whole()[at]
    # What is mapped is read here, where an error still is one of this file's.
    return grey(np.array(part) if isinstance(part, np.memmap) else part, str(path))


def _place(axes: str, shape: tuple[int, ...], flat: int) -> dict[str, int]:
    return {axis: int(at) for axis, at in zip(axes, np.unravel_index(flat, shape), strict=True)} if shape else {}


def _read(path: Path, read: Callable[[], Any]) -> NDArray[Any]:
    try:
        return np.asanyarray(read())
    except Exception as error:  # decoders raise whatever their codec raises
        hint = "; pip install imagecodecs" if "imagecodecs" in str(error) else ""
        raise ImageFileError(f"{path}: cannot be decoded: {error}{hint}") from error


def _optics(file: TiffFile, series: TiffPageSeries, number: int, channel: int) -> PartialOptics:
    if file.is_ome and file.ome_metadata:
        return _ome(file.ome_metadata, number, channel)
    if file.is_imagej:
        return PartialOptics(pixel_um=_imagej_pixel_um(file))
    if file.is_metaseries:
        return _metamorph((file.metaseries_metadata or {}).get("PlaneInfo", {}))
    if file.is_micromanager:
        tags = series.keyframe.tags.get("MicroManagerMetadata")
        return PartialOptics(pixel_um=length_um(_number(tags.value, "PixelSizeUm"), "um") if tags else None)
    return PartialOptics()


@lru_cache(maxsize=32)
def _ome(xml: str, number: int, channel: int) -> PartialOptics:
    return optics_of_ome(xml, number, channel)


def _z_step_um(file: TiffFile, number: int) -> float | None:
    if file.is_ome and file.ome_metadata:
        return _ome_z_step(file.ome_metadata, number)
    if file.is_imagej:
        facts = file.imagej_metadata or {}
        return length_um(_number(facts, "spacing"), str(facts.get("unit")))
    return None


@lru_cache(maxsize=32)
def _ome_z_step(xml: str, number: int) -> float | None:
    return z_step_of_ome(xml, number)


def _imagej_pixel_um(file: TiffFile) -> float | None:
    tag = file.pages.first.tags.get("XResolution")
    unit = (file.imagej_metadata or {}).get("unit")
    if tag is None or not tag.value[0]:
        return None
    return length_um(tag.value[1] / tag.value[0], str(unit))


def _metamorph(plane: dict[str, Any]) -> PartialOptics:
    calibrated = plane.get("spatial-calibration-state", True)
    unit = str(plane.get("spatial-calibration-units"))
    return PartialOptics(
        na=_number(plane, "_MagNA_"),
        immersion_index=_number(plane, "_MagRI_"),
        emission_um=length_um(_number(plane, "wavelength"), "nm"),
        pixel_um=length_um(_number(plane, "spatial-calibration-x"), unit) if calibrated else None,
    )


def _number(facts: dict[str, Any], name: str) -> float | None:
    value = facts.get(name)
    return float(value) if isinstance(value, (int, float)) and value > 0 else None
