"""One source from its first plane to the images and the record of what was made of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError
from parfocal.daemon.imagefiles import Plane, is_zarr, iter_planes
from parfocal.daemon.readahead import read_ahead
from parfocal.daemon.restoregrid import Survey
from parfocal.daemon.restoreome import ImageFacts
from parfocal.daemon.restoreoutput import TIFF, ZARR, Layers, Output, exact_dtype, open_output
from parfocal.daemon.restoreplaces import RestorePlaces, publish, remove
from parfocal.daemon.restoreplane import PlaneRestorer, refusal, unfit
from parfocal.daemon.restorerecord import ENDING, Written, dump, write_record
from parfocal.daemon.restorerows import FAILED, Place, PlaneResult, RestoreJob, RestoreRow
from parfocal.daemon.scorefiles import renamed
from parfocal.models.restore.base import Restoration, RestoreError, Verdict
from parfocal.models.restore.gate import spread

Seen = Callable[[RestoreRow, Callable[[], Layers | None]], None]
"""Told of every plane as it is done, and how to look at its pixels: for the progress bar and the pictures."""


@dataclass(frozen=True)
class _Read:
    """A plane read, or why it was not."""

    plane: Plane
    pixels: NDArray[Any] | None
    error: Exception | None = None


class FileWork:
    """Restores the planes of one source into drafts, and gives these their names at the end.

    Parameters
    ----------
    path : Path
        Of the source.
    job : RestoreJob
    places : RestorePlaces
    planes : PlaneRestorer
    seen : callable
        See `Seen`.
    drafts : ExitStack
        Closes and removes the drafts, whatever happens.
    """

    def __init__(
        self, path: Path, job: RestoreJob, places: RestorePlaces, planes: PlaneRestorer, seen: Seen, drafts: ExitStack
    ) -> None:
        self._path, self._job, self._places, self._planes, self._seen = path, job, places, planes, seen
        self._drafts = drafts
        self._begun: list[_Image] = []
        self._targets: dict[int, Path] = {}
        self.written: list[Written] = []

    def run(self, images: Sequence[Survey]) -> list[RestoreRow]:
        """Restore all planes into drafts; a row for each, in the order in which the file holds them.

        Raises
        ------
        RestoreOutputError
            A draft cannot be written.
        """
        by_number = {image.number: image for image in images}
        rows: list[RestoreRow] = []
        for number, reads in groupby(read_ahead(self._reads(images)), lambda read: read.plane.axes.get("image", 0)):
            found = by_number[number]
            image = _Image(found, self._target(found, len(images)), self)
            self._drafts.callback(image.close)
            results = [self._plane(image, read) for read in reads]
            rows += [self._row(result, image) for result in results]
            if image.output is not None:
                self._begun.append(image)
                which = number if len(images) > 1 else None
                made = Written(image.target, which, found.size, image.output.layers, tuple(results))
                self.written.append(made)
        return sorted(rows, key=lambda row: row.plane or 0)

    def publish(self, record: dict[str, Any]) -> None:
        """Give everything its name: first the images, then the record, without which they do not count as done.

        Raises
        ------
        RestoreOutputError
            A file cannot be completed.
        """
        if not self.written:
            return
        place = self._places.target(self._path, ENDING)
        for image in self._begun:
            image.finish(self._job.method, dump(record))
        remove(place)
        for image in self._begun:
            publish(image.draft, image.target)
        write_record(place, record)

    def facts(self, image: Survey, shape: tuple[int, int], dtype: np.dtype[Any]) -> ImageFacts:
        """What is known of an image as it is begun."""
        known = [self._job.optics(said).with_dry_index() for said in image.optics]
        first = known[0]
        return ImageFacts(
            self._path.name, image.size, shape, exact_dtype(dtype), first.pixel_um, image.z_step_um, first.na,
            first.immersion_index, [one.emission_um for one in known], image.axes,
        )  # fmt: skip

    def draft(self, target: Path) -> Path:
        """Where a target is written until it is whole; nothing is left there in the end."""
        draft = self._places.draft(target)
        self._drafts.callback(remove, draft)
        return draft

    def _target(self, image: Survey, images: int) -> Path:
        kind = ZARR if is_zarr(self._path) else TIFF
        return self._places.target(self._path, f"-image{image.number}{kind}" if images > 1 else kind)

    def _reads(self, images: Sequence[Survey]) -> Iterator[_Read]:
        """Planes read, in the order in which they are written: of an OME-Zarr t, z, c, of a file its own."""
        planes: Iterable[Plane] = iter_planes(self._path)
        if is_zarr(self._path):  # whose planes can be read in any order, at any time
            order = {index: (t, z, c) for image in images for index, (t, c, z) in image.places.items()}
            planes = sorted(planes, key=lambda plane: (plane.axes.get("image", 0), order[plane.index]))
        for plane in planes:
            reason = unfit(plane)
            if reason:
                yield _Read(plane, None, RestoreError(reason))
                continue
            try:
                pixels = plane.read()
            except Exception as error:  # noqa: BLE001 - the other planes may be whole
                yield _Read(plane, None, renamed(error, self._path, self._path))
                continue
            if pixels.dtype.kind not in "uif":  # which could not even be written beside what is computed
                yield _Read(plane, None, RestoreError(f"pixels are no real numbers but {pixels.dtype}"))
                continue
            yield _Read(plane, pixels)

    def _plane(self, image: _Image, read: _Read) -> PlaneResult:
        place = image.survey.places[read.plane.index]
        layers: Layers | None = None
        if read.pixels is not None:
            result, layers = self._restored(read.plane, place, read.pixels)
        elif isinstance(read.error, RestoreError):
            result = PlaneResult(read.plane, place, Verdict.REFUSED.value, str(read.error))
        else:
            result = PlaneResult(read.plane, place, FAILED, str(read.error), type(read.error).__name__)
        image.add(place, layers)
        self._seen(self._row(result, image), lambda: layers)
        return result

    def _restored(self, plane: Plane, place: Place, pixels: NDArray[Any]) -> tuple[PlaneResult, Layers]:
        verdict, error = "", ""
        try:
            made = self._planes.restore(pixels, plane, self._job)
        except ParfocalError:  # of the models, whatever the plane
            raise
        except Exception as problem:  # noqa: BLE001 - a method may fail on one plane, and not on the next
            verdict, error = FAILED, type(problem).__name__
            made = refusal(self._job.method, pixels, f"{error}: {problem}", None)
        share = float(np.mean(made.refused))
        verdict = verdict or made.verdict.value
        told = self._job.optics_from(plane.optics)
        result = PlaneResult(plane, place, verdict, made.reason, error, made.blur, share, made.detail, told)
        return result, layers_of(pixels, made)

    def _row(self, result: PlaneResult, image: _Image) -> RestoreRow:
        target = None if image.output is None else image.target
        plane = result.plane
        return RestoreRow(self._path, plane.index, result.to_json(), self._job.method, target, planes=plane.planes)


class _Image:
    """One image of a source while it is written; begun with the first plane that can be read."""

    def __init__(self, survey: Survey, target: Path, work: FileWork) -> None:
        self.survey, self.target, self.draft = survey, target, target
        self.output: Output | None = None
        self._work = work
        self._missing: list[Place] = []
        self._shape = (0, 0)

    def add(self, place: Place, layers: Layers | None) -> None:
        """Write a plane, or note that there is none."""
        if self.output is None:
            if layers is None:
                self._missing.append(place)
                return
            self._begin(layers)
        if self.output is not None:
            self.output.add(place, layers or Layers.missing(self._shape))

    def _begin(self, layers: Layers) -> None:
        self._shape = (layers.raw.shape[0], layers.raw.shape[1])
        self.draft = self._work.draft(self.target)
        self.output = open_output(self.draft, self._work.facts(self.survey, self._shape, layers.raw.dtype))
        for place in self._missing:
            self.output.add(place, Layers.missing(self._shape))

    def finish(self, method: str, record: str) -> None:
        """Complete the draft."""
        if self.output is not None:
            self.output.finish(method, record)

    def close(self) -> None:
        """Let go of the draft."""
        if self.output is not None:
            self.output.close()


def layers_of(pixels: NDArray[Any], made: Restoration) -> Layers:
    """What is written of a plane; where nothing was restored, the restored pixels are the raw ones, to the bit."""
    refused = spread(made.refused, pixels.shape)
    restored = made.pixels if made.verdict is Verdict.RESTORED else pixels
    # What is the frame's own again has no error of the method.
    sd = None if made.sd is None else np.where(refused, np.float32(np.nan), made.sd)
    return Layers(pixels, np.where(refused, pixels, restored), refused, sd)
