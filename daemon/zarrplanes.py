"""Planes and pixel size of an OME-Zarr: an image, a plate, or the several images of one acquisition."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from parfocal.daemon.fileoptics import PartialOptics, length_um
from parfocal.daemon.imagefiles import ImageFileError, Plane, refuse_computed
from parfocal.drivers.recorded_stack import COMPUTED

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from yaozarrs import ZarrGroup
    from yaozarrs._zarr import ZarrArray


def zarr_planes(path: Path) -> Iterator[Plane]:
    """Go through the planes of an OME-Zarr (0.4 or 0.5) at full resolution.

    Raises
    ------
    ImageFileError
        A Zarr without OME metadata, damaged, or empty.
    """
    import yaozarrs

    index = 0
    try:
        group = yaozarrs.open_group(path)
        computed = group.attrs.get("parfocal", {}).get(COMPUTED)
        images = list(_images(group))
    except Exception as error:  # whatever can be wrong in a tree of JSON files written by somebody else
        raise ImageFileError(f"{path}: not an OME-Zarr that can be read: {error}") from error
    if computed:
        refuse_computed(path)
    if not images:
        raise ImageFileError(f"{path}: no OME-Zarr image in there (is its `multiscales` metadata missing?)")
    for number, image in enumerate(images):
        for axes, at, array, (pixel_um, z_step_um) in _planes_of_image(path, image):
            where = {"image": number, **axes} if len(images) > 1 else axes
            optics = PartialOptics(pixel_um=pixel_um)
            # The images of a plate are alike as a rule; a progress bar can live with the exceptions.
            planes = len(images) * int(np.prod(array.shape[:-2]))
            read = partial(_read, path, array, at)
            shape = (int(array.shape[-2]), int(array.shape[-1]))
            yield Plane(path, index, read, where, optics, planes, shape, z_step_um=z_step_um)
            index += 1


def _images(group: ZarrGroup | ZarrArray) -> Iterator[ZarrGroup]:
    """Find the images in a group, plates and bioformats2raw layouts included."""
    if group.node_type() == "array":
        return
    group = cast("ZarrGroup", group)
    ome = group.attrs.get("ome", group.attrs)
    if "multiscales" in ome:
        yield group
    elif "plate" in ome:
        for well in ome["plate"]["wells"]:
            yield from _images(group[well["path"]])
    elif "well" in ome:
        for image in ome["well"]["images"]:
            yield from _images(group[image["path"]])
    elif "bioformats2raw.layout" in ome:
        number = 0
        while str(number) in group:
            yield from _images(group[str(number)])
            number += 1


def _planes_of_image(
    path: Path, group: ZarrGroup
) -> Iterator[tuple[dict[str, int], tuple[int, ...], Any, tuple[float | None, float | None]]]:
    try:
        multiscale = group.attrs.get("ome", group.attrs)["multiscales"][0]
        dataset = multiscale["datasets"][0]
        array = cast("ZarrArray", group[dataset["path"]]).to_tensorstore()
        names = [axis["name"] if isinstance(axis, dict) else axis for axis in multiscale["axes"]]
    except Exception as error:
        raise ImageFileError(f"{path}: damaged OME-Zarr metadata: {error}") from error
    if len(names) != len(array.shape) or names[-2:] != ["y", "x"]:
        raise ImageFileError(
            f"{path}: axes {','.join(names)} of an array of shape {tuple(array.shape)} do not end in y,x"
        )
    steps_um = (
        _step_um(multiscale, dataset, len(names) - 1),
        _step_um(multiscale, dataset, names.index("z")) if "z" in names else None,
    )
    for at in np.ndindex(*array.shape[:-2]):
        yield dict(zip(names[:-2], at, strict=True)), at, array, steps_um


def _step_um(multiscale: dict[str, Any], dataset: dict[str, Any], number: int) -> float | None:
    axis = multiscale["axes"][number]
    unit = axis.get("unit") if isinstance(axis, dict) else None
    scale = 1.0
    scales = [
        step["scale"][number]
        for part in (dataset, multiscale)
        for step in part.get("coordinateTransformations") or []
        if step.get("type") == "scale"
    ]
    if not scales:
        return None
    for one in scales:
        scale *= float(one)
    return length_um(scale, unit)


def _read(path: Path, array: Any, at: tuple[int, ...]) -> NDArray[Any]:
    try:
        return np.asarray(array[at].read().result())
    except Exception as error:
        raise ImageFileError(f"{path}: plane {at} cannot be read: {error}") from error
