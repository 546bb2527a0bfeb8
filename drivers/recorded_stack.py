"""Focus stacks on disk: a folder of planes, a TIFF of many pages, an OME-Zarr; read whole, checked, sorted by z."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from parfocal.drivers.base import CameraError, DeviceNotFoundError

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (*TIFF_SUFFIXES, ".png")
PIXEL_TYPES = ("uint8", "uint16", "float32")

_T = TypeVar("_T")

COMPUTED = "parfocal:computed"
"""Written into every image whose pixels parfocal has computed, so that it never takes them for a microscope's."""


@dataclass(frozen=True, slots=True)
class Stack:
    """The planes of one recording, z ascending.

    Parameters
    ----------
    planes : ndarray, shape (n, height, width)
        uint8, uint16 or float32.
    z_um : ndarray, shape (n,)
        Strictly ascending.
    names : tuple of str
        Where each plane comes from.
    pixel_um : float or None
        If the recording says.
    defocus_um : ndarray, shape (n,), or None
        Signed distance of each plane from focus, if the recording says; NaN where it does not.
    """

    planes: NDArray[Any]
    z_um: NDArray[np.float64]
    names: tuple[str, ...]
    pixel_um: float | None = None
    defocus_um: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class _Planes:
    """Planes as they lie on disk, before z has been settled."""

    planes: NDArray[Any]
    names: tuple[str, ...]
    z_um: Sequence[float] | None = None
    pixel_um: float | None = None
    defocus_um: Sequence[float] | None = None


def load_stack(
    path: Path,
    *,
    z_start_um: float | None = None,
    z_step_um: float | None = None,
    z_csv: Path | None = None,
    channel: int | None = None,
) -> Stack:
    """Read a recording.

    The z of the planes comes, in this order, from `z_start_um` and `z_step_um`, from a csv with the columns ``file,
    z_um`` (and, if known, ``pixel_um`` and ``defocus_um``), or from the file's own OME metadata.

    Parameters
    ----------
    path : Path
        A folder of TIFF or PNG planes, a TIFF, or an ``.ome.zarr``.
    z_start_um, z_step_um : float or None
        z of the first plane, in order of file names or pages, and the (signed) step.
    z_csv : Path or None
        None: the folder's only csv that has these columns.
    channel : int or None
        Which channel of a recording with several.

    Raises
    ------
    DeviceNotFoundError
        Nothing there, no images, a csv row too few or too many, no z.
    CameraError
        A file that cannot be read, planes of different shapes or types, colour.
    """
    if not path.exists():
        raise DeviceNotFoundError(f"no recording at {path}: microscope.path must name a folder, a TIFF or an .ome.zarr")
    if path.is_dir() and (path.suffix == ".zarr" or any((path / f).exists() for f in ("zarr.json", ".zgroup"))):
        found = _read_zarr(path, channel)
    elif path.is_dir():
        found = _read_folder(path, z_csv, want_csv=z_step_um is None)
    elif path.suffix.lower() in TIFF_SUFFIXES:
        found = _read_tiff_stack(path, channel)
    else:
        raise DeviceNotFoundError(f"{path}: not a recording: a folder, a .tif/.tiff or an .ome.zarr is needed")
    return _sorted(path, found, z_start_um, z_step_um)


def _sorted(path: Path, found: _Planes, z_start_um: float | None, z_step_um: float | None) -> Stack:
    count = len(found.planes)
    if (z_start_um is None) != (z_step_um is None):
        raise DeviceNotFoundError(f"{path}: z_start_um and z_step_um come together")
    if z_start_um is not None and z_step_um is not None:
        z = z_start_um + z_step_um * np.arange(count, dtype=np.float64)
    elif found.z_um is not None:
        z = np.asarray(found.z_um, dtype=np.float64)
    else:
        raise DeviceNotFoundError(
            f"{path}: nothing says at which z its {count} planes were taken: give microscope.z_start_um and z_step_um, "
            "or a csv with the columns file,z_um"
        )
    order = np.argsort(z, kind="stable")
    z = z[order]
    if not np.all(np.isfinite(z)) or np.any(np.diff(z) <= 0):
        raise DeviceNotFoundError(f"{path}: the z of the planes must be finite and all different (got {_short(z)})")
    defocus = None if found.defocus_um is None else np.asarray(found.defocus_um, dtype=np.float64)[order]
    planes = np.ascontiguousarray(found.planes[order])
    planes.flags.writeable = False
    return Stack(planes, z, tuple(found.names[i] for i in order), found.pixel_um, defocus)


# -- a folder of planes ---------------------------------------------------------------------------------------------


def _read_folder(path: Path, z_csv: Path | None, *, want_csv: bool) -> _Planes:
    files = sorted((f for f in path.iterdir() if f.suffix.lower() in IMAGE_SUFFIXES), key=_natural)
    if not files:
        raise DeviceNotFoundError(f"{path}: no images in this folder ({', '.join(IMAGE_SUFFIXES)} are looked for)")
    rows = _read_csv(path, z_csv) if want_csv or z_csv is not None else None
    if rows is None:
        return _Planes(_stacked([(f.name, _read_plane(f)) for f in files]), tuple(f.name for f in files))
    there = {f.name: f for f in files}
    if absent := [name for name in rows if name not in there]:
        raise DeviceNotFoundError(f"{path}: the csv names {_short(absent)}, which are not in the folder")
    if missing := [name for name in there if name not in rows]:
        raise DeviceNotFoundError(f"{path}: the csv has no row for {_short(missing)}")
    names = tuple(rows)
    pixels = {row["pixel_um"] for row in rows.values() if "pixel_um" in row}
    if len(pixels) > 1:
        raise DeviceNotFoundError(f"{path}: the csv gives several pixel sizes ({_short(sorted(pixels))} um)")
    defocus = [rows[name].get("defocus_um", math.nan) for name in names]
    return _Planes(
        planes=_stacked([(name, _read_plane(there[name])) for name in names]),
        names=names,
        z_um=[rows[name]["z_um"] for name in names],
        pixel_um=pixels.pop() if pixels else None,
        defocus_um=None if all(map(math.isnan, defocus)) else defocus,
    )


def _read_csv(folder: Path, given: Path | None) -> dict[str, dict[str, float]] | None:
    """Rows by file name, numbers as floats; None if no csv here has the columns."""
    tables = [given] if given is not None else sorted(folder.glob("*.csv"))
    fitting = {}
    for table in tables:
        try:
            with table.open(newline="", encoding="utf-8-sig") as lines:
                rows = list(csv.DictReader(lines))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DeviceNotFoundError(f"{table}: cannot be read as csv ({error})") from error
        if rows and {"file", "z_um"} <= set(rows[0]):
            fitting[table] = rows
    if given is not None and not fitting:
        raise DeviceNotFoundError(f"{given}: no csv with rows and the columns file,z_um")
    if len(fitting) > 1:
        raise DeviceNotFoundError(f"{folder}: several csv files give z: name one with microscope.z_csv")
    for table, rows in fitting.items():
        return _numbers(table, rows)
    return None


def _numbers(table: Path, rows: Sequence[Mapping[str, str | None]]) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    for line, row in enumerate(rows, start=2):
        name = (row["file"] or "").strip()
        if name in out:
            raise DeviceNotFoundError(f"{table}:{line}: {name!r} stands there twice")
        values = {}
        for key in ("z_um", "pixel_um", "defocus_um"):
            text = (row.get(key) or "").strip()
            if not text and key != "z_um":
                continue
            try:
                values[key] = float(text)
            except ValueError:
                raise DeviceNotFoundError(f"{table}:{line}: {key} must be a number (got {text!r})") from None
        out[name] = values
    return out


def _read_plane(path: Path) -> NDArray[Any]:
    return _guarded(path, lambda: _read_png(path) if path.suffix.lower() == ".png" else _read_tiff_plane(path))


def _read_tiff_plane(path: Path) -> NDArray[Any]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        _refuse_computed(path, computed=COMPUTED in (file.ome_metadata or ""))
        return np.squeeze(np.asarray(file.asarray()))


def _refuse_computed(path: Path, *, computed: bool) -> None:
    """A microscope shows frames; restored pixels are none."""
    if computed:
        raise DeviceNotFoundError(f"{path}: computed by `parfocal restore`, not recorded: play what it was made from")


def _read_png(path: Path) -> NDArray[Any]:
    try:
        from PIL import Image
    except ImportError as error:
        raise DeviceNotFoundError(f"{path}: reading PNG needs Pillow: pip install pillow") from error
    with Image.open(path) as image:
        pixels = np.asarray(image)
    # Pillow widens 16-bit grey PNG to int32 in some versions.
    return pixels.astype(np.uint16) if pixels.dtype == np.int32 else pixels


# -- one file of many planes ----------------------------------------------------------------------------------------


def _read_tiff_stack(path: Path, channel: int | None) -> _Planes:
    import tifffile

    def read() -> tuple[NDArray[Any], str, dict[str, Any]]:
        with tifffile.TiffFile(path) as file:
            _refuse_computed(path, computed=COMPUTED in (file.ome_metadata or ""))
            series = file.series[0]
            ome = tifffile.xml2dict(file.ome_metadata) if file.ome_metadata else {}
            return series.asarray(), series.axes, ome

    data, axes, ome = _guarded(path, read)
    planes = _planes_of(path, data, axes, channel)
    z_um, pixel_um = _from_ome(ome, len(planes), channel or 0)
    names = tuple(f"{path.name}[{i}]" for i in range(len(planes)))
    return _Planes(_checked(path, planes), names, z_um, pixel_um)


def _from_ome(ome: Mapping[str, Any], count: int, channel: int) -> tuple[list[float] | None, float | None]:
    """Find z of each plane and the pixel size, in um, as far as the OME-XML has them in um."""
    image = ome.get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    size_x, size_z = pixels.get("PhysicalSizeX"), pixels.get("PhysicalSizeZ")
    in_um = pixels.get("PhysicalSizeXUnit", "µm") in ("µm", "um")
    z_in_um = pixels.get("PhysicalSizeZUnit", "µm") in ("µm", "um")
    given = pixels.get("Plane", [])
    rows = [row for row in (given if isinstance(given, list) else [given]) if int(row.get("TheC", 0)) == channel]
    if len(rows) == count and all(
        "PositionZ" in row and row.get("PositionZUnit", "µm") in ("µm", "um") for row in rows
    ):
        rows.sort(key=lambda row: (int(row.get("TheT", 0)), int(row.get("TheZ", 0))))
        z = [float(row["PositionZ"]) for row in rows]
    else:
        z = [i * float(size_z) for i in range(count)] if size_z and z_in_um else []
    return z or None, float(size_x) if size_x and in_um else None


def _read_zarr(path: Path, channel: int | None) -> _Planes:
    def read() -> tuple[NDArray[Any], str, dict[str, Any], Any]:
        import yaozarrs

        group: Any = yaozarrs.open_group(path)
        _refuse_computed(path, computed=bool(group.attrs.get("parfocal", {}).get(COMPUTED)))
        if _multiscale(group.attrs) is None:
            group = group["0"]  # bioformats2raw layout: one group a position, this is the first
        scales = _multiscale(group.attrs)
        if scales is None:
            raise ValueError("no OME multiscales in it")
        array = group[scales["datasets"][0]["path"]]
        axes = "".join(axis["name"].upper() for axis in scales["axes"])
        return np.asarray(array.to_tensorstore().read().result()), axes, scales, group.attrs.get("ome_writers", {})

    data, axes, scales, extra = _guarded(path, read)
    planes = _planes_of(path, data, axes, channel)
    names = tuple(f"{path.name}[{i}]" for i in range(len(planes)))
    scale, offset = _transforms(scales, len(axes))
    z_um = None
    if "Z" in axes:
        k = axes.index("Z")
        z_um = [offset[k] + i * scale[k] for i in range(len(planes))]
    rows = extra.get("frame_metadata", [])
    if len(rows) == len(planes) and all("position_z" in row for row in rows):
        z_um = [float(row["position_z"]) for row in rows]  # where the stage was, better than where it was sent
    return _Planes(_checked(path, planes), names, z_um, scale[axes.index("X")])


def _multiscale(attrs: Mapping[str, Any]) -> dict[str, Any] | None:
    found = attrs.get("ome", attrs).get("multiscales")  # version 0.5, else 0.4
    return dict(found[0]) if found else None


def _transforms(scales: Mapping[str, Any], axes: int) -> tuple[list[float], list[float]]:
    scale, offset = [1.0] * axes, [0.0] * axes
    for transform in scales["datasets"][0].get("coordinateTransformations", []):
        if transform["type"] == "scale":
            scale = [float(x) for x in transform["scale"]]
        elif transform["type"] == "translation":
            offset = [float(x) for x in transform["translation"]]
    return scale, offset


# -- common ---------------------------------------------------------------------------------------------------------


def _planes_of(path: Path, data: NDArray[Any], axes: str, channel: int | None) -> NDArray[Any]:
    """Bring an array with named axes down to (planes, height, width)."""
    if "S" in axes:
        raise CameraError(f"{path}: it is in colour (axes {axes}); grey planes are needed")
    if "C" in axes:
        k = axes.index("C")
        if data.shape[k] > 1 and channel is None:
            raise DeviceNotFoundError(f"{path}: it has {data.shape[k]} channels: choose one with microscope.channel")
        if not 0 <= (channel or 0) < data.shape[k]:
            raise DeviceNotFoundError(f"{path}: microscope.channel {channel} of {data.shape[k]} channels (from 0)")
        data, axes = np.take(data, channel or 0, axis=k), axes.replace("C", "")
    long = [name for name, size in zip(axes, data.shape, strict=True) if name not in "YX" and size > 1]
    if len(long) > 1 or not axes.endswith("YX"):
        raise CameraError(f"{path}: it has the axes {axes} of sizes {data.shape}; one stack of planes is needed")
    return data.reshape(-1, *data.shape[-2:])


def _stacked(planes: Sequence[tuple[str, NDArray[Any]]]) -> NDArray[Any]:
    first_name, first = planes[0]
    for name, plane in planes:
        _check_type(name, plane)
        if plane.shape != first.shape or plane.dtype != first.dtype:
            raise CameraError(
                f"{name} is {plane.shape} {plane.dtype}, but {first_name} is {first.shape} {first.dtype}: the planes "
                "of a stack must be alike"
            )
    return np.stack([plane for _, plane in planes])


def _checked(path: Path, planes: NDArray[Any]) -> NDArray[Any]:
    if planes.size == 0:
        raise DeviceNotFoundError(f"{path}: no planes in it")
    _check_type(path.name, planes[0])
    return planes


def _check_type(name: str, plane: NDArray[Any]) -> None:
    if plane.ndim != 2:
        raise CameraError(f"{name}: shape {plane.shape}: one grey plane is needed")
    if plane.dtype.name not in PIXEL_TYPES:
        raise CameraError(f"{name}: pixels of type {plane.dtype}: one of {', '.join(PIXEL_TYPES)} is needed")


def _guarded(path: Path, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except (CameraError, DeviceNotFoundError):
        raise
    except Exception as error:
        raise CameraError(f"{path}: cannot be read as an image ({type(error).__name__}: {error})") from error


def _natural(path: Path) -> list[int | str]:
    """Sort key with z2 before z10."""
    return [int(part) if part.isdigit() else part.lower() for part in re.split(r"(\d+)", path.name)]


def _short(items: Any, limit: int = 4) -> str:
    names = [str(item) for item in items]
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
