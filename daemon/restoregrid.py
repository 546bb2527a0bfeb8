"""Which images a file holds and where their planes lie along t, c and z, before any pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import ImageFileError, Plane, iter_planes
from parfocal.daemon.restorerows import Place

AXES = "tcz"
SAMPLES = "s"
"""Samples of a TIFF that are stored apart are channels."""


@dataclass(frozen=True)
class Survey:
    """One image of a file.

    Parameters
    ----------
    number : int
        Which image of the file.
    size : tuple of int
        How many t, c, z.
    places : mapping
        From a plane's index in the file to its t, c, z.
    axes : str
        Those of t, c and z that the file names; empty where its axes are others, and its planes are numbered along t.
    shape : tuple of int or None
        Height and width, where known.
    optics : sequence of PartialOptics
        Of each channel, as the file says.
    z_step_um : float or None
    """

    number: int
    size: Place
    places: Mapping[int, Place]
    axes: str
    shape: tuple[int, int] | None
    optics: Sequence[PartialOptics]
    z_step_um: float | None


def survey(path: Path) -> list[Survey]:
    """Look at all planes of a file.

    Raises
    ------
    ImageFileError
        The file cannot be opened, or holds no plane.
    """
    images: dict[int, list[Plane]] = {}
    for plane in iter_planes(path):
        images.setdefault(plane.axes.get("image", 0), []).append(plane)
    if not images:
        raise ImageFileError(f"{path}: holds no image")
    return [_survey(number, planes) for number, planes in images.items()]


def _survey(number: int, planes: Sequence[Plane]) -> Survey:
    size, places, axes = grid_of([{name: at for name, at in one.axes.items() if name != "image"} for one in planes])
    by_index = {plane.index: place for plane, place in zip(planes, places, strict=True)}
    optics = [PartialOptics()] * size[1]
    for plane in planes:
        optics[by_index[plane.index][1]] = plane.optics
    return Survey(number, size, by_index, axes, planes[0].shape, optics, planes[0].z_step_um)


def grid_of(axes: Sequence[Mapping[str, int]]) -> tuple[Place, list[Place], str]:
    """Size of the grid that planes fill, the place of each in it, and the axes that have names.

    Planes that fill no grid of t, c and z (other axes, a hole) are numbered along t.
    """
    named = [{"c" if name == SAMPLES else name: at for name, at in one.items()} for one in axes]
    names = {name for one in named for name in one}
    alike = all(len(one) == len(names) == len(given) for one, given in zip(named, axes, strict=True))
    if alike and names <= set(AXES):
        # A file of a set holds some planes of the whole only: what is there is counted anew.
        values = {name: sorted({one.get(name, 0) for one in named}) for name in AXES}
        size = (len(values["t"]), len(values["c"]), len(values["z"]))
        places = [_place(one, values) for one in named]
        if size[0] * size[1] * size[2] == len(set(places)) == len(places):
            return size, places, "".join(name for name in AXES if name in names)
    return (len(axes), 1, 1), [(at, 0, 0) for at in range(len(axes))], ""


def _place(axes: Mapping[str, int], values: Mapping[str, Sequence[int]]) -> Place:
    t, c, z = (values[name].index(axes.get(name, 0)) for name in AXES)
    return t, c, z
