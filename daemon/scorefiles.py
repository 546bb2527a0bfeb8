"""Assessing image files: every plane of every file by every model wanted, one row each, and no row lost to an error."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError, did_you_mean
from parfocal.daemon.fileoptics import DRY, PartialOptics
from parfocal.daemon.imagefiles import ImageFileError, Plane, iter_planes
from parfocal.daemon.overlays import draw, scale_of, stem_of
from parfocal.daemon.readahead import read_ahead
from parfocal.daemon.scorerows import ScoreJob, ScoreRow
from parfocal.models import available_models, make_model
from parfocal.models.base import Assessment, Model, ModelError

CHUNK_FILES, CHUNK_BYTES = 16, 1 << 25
"""Files, and how large together, whose planes may share a batch. On a cluster they are one task: the same batches give
the same bits, and large files still spread."""

WINDOW_PIXELS, WINDOW_PLANES = 1 << 21, 64
"""Planes held at a time: no more than fit either, but at least one."""

BATCH_PIXELS = 1 << 18
"""Planes of equal shape go to a model together up to so many pixels, beyond which a batch leaves a core's cache and is
slower than its parts; a model that knows better (one on a GPU) has an attribute ``batch_pixels``."""


@dataclass(frozen=True)
class _Read:
    """A plane read, or the error in its place."""

    path: Path
    plane: Plane | None
    pixels: NDArray[Any] | None
    error: Exception | None = None


_Answer = Assessment | Exception


class FileScorer:
    """Scores files with models made for the optics of each.

    Parameters
    ----------
    job : ScoreJob
        What is wanted.
    seen_from : str
        Where a missing file is missing, for its row: another machine may not see what this one does.

    Raises
    ------
    UsageError
        An unknown model, or impossible optics.
    """

    def __init__(self, job: ScoreJob, seen_from: str = "") -> None:
        known = available_models()
        for name in job.models:
            if name not in known:
                raise UsageError(f"there is no model {name!r}{did_you_mean(name, known)}; there are {', '.join(known)}")
        self._job = job
        self._seen_from = seen_from
        self._made: dict[tuple[str, PartialOptics], Model] = {}
        self._told = lru_cache(maxsize=256)(self._tell)  # planes by the thousand share their optics
        job.given.check("the optics given")
        self.notes: set[str] = set()

    def rows(self, paths: Sequence[Path], places: Sequence[Path] | None = None) -> Iterator[ScoreRow]:
        """Score files one after the other; a file or plane that fails becomes a row that says why.

        Parameters
        ----------
        paths : sequence of Path
            As rows name them.
        places : sequence of Path, optional
            Where they are, if that is written differently here.

        Raises
        ------
        ModelError
            A model cannot be made, whatever the file: weights are absent or not those of the card, options unknown.
        """
        for window in read_ahead(self._windows(paths, places or paths)):
            yield from self._window_rows(window)

    def _windows(self, paths: Sequence[Path], places: Sequence[Path]) -> Iterator[list[_Read]]:
        """Planes read, in order, a few at a time."""
        names = iter(paths)
        for chunk in chunks(places):
            window: list[_Read] = []
            pixels = 0
            for read in chain.from_iterable(map(self._read_file, islice(names, len(chunk)), chunk)):
                size = read.pixels.size if read.pixels is not None else 0
                if window and (pixels + size > WINDOW_PIXELS or len(window) == WINDOW_PLANES):
                    yield window
                    window, pixels = [], 0
                window.append(read)
                pixels += size
            yield window

    def _read_file(self, path: Path, place: Path) -> Iterator[_Read]:
        try:
            if self._seen_from and not place.exists():
                raise ImageFileError(f"no such file, as seen from {self._seen_from}")
            for plane in iter_planes(place):
                named = replace(plane, path=path)
                try:
                    pixels = plane.read()
                except Exception as error:  # noqa: BLE001 - the other planes may be whole
                    yield _Read(path, named, None, renamed(error, path, place))
                else:
                    yield _Read(path, named, pixels)
        except Exception as error:  # noqa: BLE001 - a damaged file can fail in any way, and the next may be whole
            yield _Read(path, None, None, renamed(error, path, place))

    def _window_rows(self, window: Sequence[_Read]) -> Iterator[ScoreRow]:
        answers = {name: self._answers(name, window) for name in self._job.models}
        for at, read in enumerate(window):
            for name in self._job.models:
                yield self._row(name, read, *answers[name][at])

    def _answers(self, name: str, window: Sequence[_Read]) -> list[tuple[_Answer, PartialOptics]]:
        """Return what one model says of each plane of a window, and the optics it was told."""
        answers: list[tuple[_Answer, PartialOptics]] = []
        alike: dict[Any, list[int]] = {}
        for at, read in enumerate(window):
            error, usable = read.error, PartialOptics()
            if read.plane is not None and read.pixels is not None:
                try:
                    usable, pixel_um = self._told(name, read.plane.optics)
                    key = (usable, pixel_um, read.pixels.shape, read.pixels.dtype)
                    alike.setdefault(key, []).append(at)
                except UsageError as impossible:  # optics in this file
                    error = impossible
            answers.append((error or ImageFileError("not read"), usable))
        for (usable, pixel_um, _, _), members in alike.items():
            model = self._model(name, usable)  # absent weights concern every file, and end it here
            images = [pixels for at in members if (pixels := window[at].pixels) is not None]
            for at, answer in zip(members, assess_alike(model, images, pixel_um or math.nan), strict=True):
                answers[at] = (answer, usable)
        return answers

    def _row(self, name: str, read: _Read, answer: _Answer, optics: PartialOptics) -> ScoreRow:
        plane, drawn = read.plane, None
        if isinstance(answer, Exception):
            said, error = Assessment.abstain(name, str(answer) or type(answer).__name__), type(answer).__name__
        else:
            said, error = replace(answer, distribution=None, patch_map=None), ""
            patch_map = answer.patch_map
            if self._job.maps and patch_map is not None and plane is not None and read.pixels is not None:
                scale = scale_of(name, patch_map, _blur_px_per_um(optics))
                drawn = draw(read.pixels, patch_map, scale, stem_of(read.path, plane.index, name))
        if plane is None:
            return ScoreRow(read.path, None, name, said, error=error)
        return ScoreRow(read.path, plane.index, name, said, plane.axes, error, drawn, plane.planes)

    def _model(self, name: str, optics: PartialOptics) -> Model:
        key = (name, optics)
        if key not in self._made:
            self._made[key] = make_model(name, {**optics.known(), **self._job.options.get(name, {})})
        return self._made[key]

    def _tell(self, name: str, said: PartialOptics) -> tuple[PartialOptics, float | None]:
        """Return the optics a model is made for, where the file says these, and the size of a pixel in um."""
        optics = self._job.given.over(said).over(self._job.fallback)
        return self._usable(name, optics), optics.pixel_um

    def _usable(self, name: str, optics: PartialOptics) -> PartialOptics:
        """Return the optics if a defocus in um can follow from them, and say what was assumed or missing."""
        from parfocal.daemon.compose import TAKES_OPTICS

        if name not in TAKES_OPTICS:
            return PartialOptics()
        filled = optics.with_dry_index()
        if filled != optics:
            self.notes.add(DRY)
        wanted = filled.asked_for()
        if wanted:
            self.notes.add(f"defocus in px of blur diameter, not in um, where the optics are not known; give {wanted}")
            return PartialOptics()
        filled.check("the optics")
        return filled


def chunks(places: Iterable[Path]) -> Iterator[list[Path]]:
    """Cut files into runs of neighbours; a folder (an OME-Zarr) goes alone, for its size is not known."""
    chunk: list[Path] = []
    total = 0
    for place in places:
        try:
            facts = place.stat()
            size = CHUNK_BYTES if stat.S_ISDIR(facts.st_mode) else facts.st_size
        except OSError:
            size = 0
        if chunk and (len(chunk) == CHUNK_FILES or total + size > CHUNK_BYTES):
            yield chunk
            chunk, total = [], 0
        chunk.append(place)
        total += size
    if chunk:
        yield chunk


def assess_alike(model: Model, images: Sequence[NDArray[Any]], pixel_um: float) -> list[_Answer]:
    """Assess planes of equal shape and type in batches; one that a model refuses spoils no other's answer."""
    room = int(getattr(model, "batch_pixels", BATCH_PIXELS))
    count = max(1, room // images[0].size)
    answers: list[_Answer] = []
    for begin in range(0, len(images), count):
        batch = images[begin : begin + count]
        found = _assess(model, batch, pixel_um)
        if isinstance(found, list):
            answers.extend(found)
        elif len(batch) == 1:
            answers.append(found)
        else:
            for image in batch:
                alone = _assess(model, [image], pixel_um)
                answers.extend(alone if isinstance(alone, list) else [alone])
    return answers


def _assess(model: Model, images: Sequence[NDArray[Any]], pixel_um: float) -> list[_Answer] | Exception:
    try:
        found = model.assess(images[0][None] if len(images) == 1 else np.stack(images), pixel_um)
    except Exception as error:  # noqa: BLE001 - whatever a model or plugin raises is said in the row of its plane
        return error
    if len(found) != len(images):
        return ModelError(f"the model gave {len(found)} assessments for {len(images)} planes")
    return list(found)


@lru_cache(maxsize=64)
def _blur_px_per_um(optics: PartialOptics) -> float | None:
    from parfocal.simulator.optics import Optics

    return Optics.from_options(optics.known()).blur_px_per_um if optics.known() else None


def renamed(error: Exception, path: Path, place: Path) -> Exception:
    """Let a message name the file as the person did, and not at its beginning, where the row does."""
    text = str(error).replace(str(place), str(path)).removeprefix(f"{path}: ")
    if isinstance(error, UsageError):
        return type(error)(text)
    return ImageFileError(f"{type(error).__name__}: {text}")


__all__ = ["FileScorer", "ScoreJob", "ScoreRow", "assess_alike", "chunks", "renamed"]
