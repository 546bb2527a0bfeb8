"""Files of restored images: the raw plane and what was computed from it as channels of one OME-TIFF or OME-Zarr."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError
from parfocal.daemon.recorder import IN_FLIGHT, confirm
from parfocal.daemon.restoreome import LAYERS, WARNING, ImageFacts, ome_xml
from parfocal.daemon.restorerows import Place
from parfocal.drivers.recorded_stack import COMPUTED

RESERVE_BYTES = 64 * 1024 * 1024
BIG_BYTES = 3_500_000_000
"""From where on a TIFF needs 64-bit addresses."""
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = ("No space left", "Disk quota exceeded", "requested and")
TIFF, ZARR = ".ome.tif", ".ome.zarr"


class RestoreOutputError(ParfocalError):
    """A restored image cannot be written."""

    exit_code = 4


class NoRoomError(RestoreOutputError):
    """The disk is full: nothing that follows can be written either."""


@dataclass(frozen=True)
class Layers:
    """One plane of what is written: NaN, and refused, where it could not be read.

    Parameters
    ----------
    raw : ndarray, shape (height, width)
        Counts, as in the source.
    restored : ndarray, shape (height, width)
    refused : ndarray of bool, shape (height, width)
        Where the restored pixels are the raw ones.
    sd : ndarray, shape (height, width), optional
        Standard deviation that the method claims.
    """

    raw: NDArray[Any]
    restored: NDArray[Any]
    refused: NDArray[np.bool_]
    sd: NDArray[Any] | None = None

    @staticmethod
    def missing(shape: tuple[int, int]) -> Layers:
        """A plane that could not be read."""
        nothing = np.full(shape, np.nan, dtype=np.float32)
        return Layers(nothing, nothing, np.ones(shape, dtype=bool))

    def pages(self) -> list[NDArray[Any]]:
        """In the order of `LAYERS`; the last is absent where the method claims nothing."""
        pages = [self.raw, self.restored, self.refused]
        return pages if self.sd is None else [*pages, self.sd]


class Output(Protocol):
    """An image being written to a draft."""

    layers: int

    def add(self, place: Place, layers: Layers) -> None:
        """Write a plane; raises `RestoreOutputError`."""

    def finish(self, method: str, record: str) -> None:
        """Complete the file with the record of how it was made; raises `RestoreOutputError`."""

    def close(self) -> None:
        """Let go of the file, complete or not; idempotent."""


def exact_dtype(raw: np.dtype[Any]) -> np.dtype[np.floating]:
    """The smaller floating type that holds every number of a camera's type as it is."""
    holds = raw.itemsize <= 2 or raw == np.float32
    return np.dtype(np.float32 if holds else np.float64)


def open_output(draft: Path, facts: ImageFacts) -> Output:
    """Start an image; its kind follows from the ending of its name.

    Raises
    ------
    NoRoomError
        The disk has not enough room for all of it.
    """
    planes = int(np.prod(facts.size)) * int(np.prod(facts.shape)) * facts.dtype.itemsize
    zarr = draft.name.endswith(ZARR)
    # What is refused everywhere or nowhere compresses to nothing.
    needed = planes * (2 if zarr else len(LAYERS)) + RESERVE_BYTES
    with writing(draft):
        free = shutil.disk_usage(draft.parent).free
        if free < needed:
            raise NoRoomError(
                f"{draft.name} needs {needed / 1e6:.0f} MB on the disk, where {free / 1e6:.0f} MB are free"
            )
        return ZarrOutput(draft, facts) if zarr else TiffOutput(draft, facts, big=needed > BIG_BYTES)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say what went wrong with a file that is written, and whether going on makes sense.

    Raises
    ------
    NoRoomError
        The disk, or the quota on it, is full.
    RestoreOutputError
        Anything else.
    """
    try:
        yield
    except ParfocalError:
        raise
    except Exception as error:
        if _is_full(error):
            raise NoRoomError(f"{path.name} cannot be written: the disk is full") from error
        reason = getattr(error, "strerror", None) or error
        raise RestoreOutputError(f"{path.name} cannot be written: {reason}") from error


def _is_full(error: Exception) -> bool:
    """Whether it was for want of room; numpy and tensorstore say so in words only, and numpy in words of its own."""
    return getattr(error, "errno", None) in FULL or any(words in str(error) for words in FULL_WORDS)


class TiffOutput:
    """An OME-TIFF, uncompressed: a page a plane and layer, in the order in which they come.

    Which page is what is said in the OME-XML, which is written last, when it is known whether there is an sd at all.
    """

    def __init__(self, draft: Path, facts: ImageFacts, *, big: bool = False) -> None:
        import tifffile

        self.layers = len(LAYERS) - 1
        self._draft, self._facts = draft, facts
        self._pages: list[tuple[Place, int]] = []
        # "x": a link that somebody laid there is not followed.
        self._file = draft.open("x+b")
        self._writer: Any = tifffile.TiffWriter(self._file, bigtiff=big)

    def add(self, place: Place, layers: Layers) -> None:
        """See `Output`."""
        pages = layers.pages()
        self.layers = max(self.layers, len(pages))
        with writing(self._draft):
            for layer, page in enumerate(pages):
                self._page(page, place, layer)

    def _page(self, page: NDArray[Any], place: Place, layer: int) -> None:
        pixel_um = self._facts.pixel_um
        resolution = {} if pixel_um is None else {"resolution": (1e4 / pixel_um,) * 2, "resolutionunit": "CENTIMETER"}
        self._writer.write(
            np.ascontiguousarray(page, dtype=self._facts.dtype),
            photometric="minisblack",
            metadata=None,
            contiguous=False,
            description=None if self._pages else "parfocal",
            **resolution,
        )
        self._pages.append((place, layer))

    def finish(self, method: str, record: str) -> None:
        """See `Output`."""
        import tifffile

        with writing(self._draft):
            if self.layers == len(LAYERS):
                nothing = np.full(self._facts.shape, np.nan, dtype=self._facts.dtype)
                claimed = {place for place, layer in self._pages if layer == self.layers - 1}
                for place in sorted({place for place, _ in self._pages} - claimed):
                    self._page(nothing, place, self.layers - 1)
            self.close()
            xml = ome_xml(self._facts, self.layers, self._pages, method, record)
            tifffile.tiffcomment(self._draft, xml)
            with self._draft.open("rb+") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """See `Output`."""
        with suppress(OSError):  # what could not be written has been said already
            self._writer.close()
        self._file.close()


class ZarrOutput:
    """An OME-Zarr as the recorder writes them; planes come in the order of t, z, c, and there is always an sd."""

    def __init__(self, draft: Path, facts: ImageFacts) -> None:
        from ome_writers import AcquisitionSettings, Dimension, OmeZarrFormat, create_stream

        self.layers = len(LAYERS)
        self._draft, self._facts = draft, facts
        self._ranges: dict[int, tuple[float, float]] = {}
        self._stream: Any = create_stream(
            AcquisitionSettings(
                root_path=str(draft),
                format=OmeZarrFormat(backend="tensorstore"),
                dtype=facts.dtype.name,
                compression="blosc-zstd",
                storage_order="ome",
                dimensions=tuple(Dimension(**one) for one in self._dimensions()),
            )
        )

    def _dimensions(self) -> Iterator[dict[str, Any]]:
        (t, c, z), facts = self._facts.size, self._facts
        if t > 1 or "t" in facts.axes:
            yield {"name": "t", "count": t, "type": "time", "chunk_size": 1}
        if z > 1 or "z" in facts.axes:
            step = {} if facts.z_step_um is None else {"scale": facts.z_step_um, "unit": "micrometer"}
            yield {"name": "z", "count": z, "type": "space", "chunk_size": 1, **step}
        yield {"name": "c", "count": c * self.layers, "type": "channel", "chunk_size": 1}
        pixel = {} if facts.pixel_um is None else {"scale": facts.pixel_um, "unit": "micrometer"}
        for axis, size in zip("yx", facts.shape, strict=True):
            yield {"name": axis, "count": size, "type": "space", "chunk_size": size, **pixel}

    def add(self, place: Place, layers: Layers) -> None:
        """See `Output`."""
        pages = layers.pages()
        nothing = np.full(self._facts.shape, np.nan)
        with writing(self._draft):
            for layer, page in enumerate([*pages, *[nothing] * (self.layers - len(pages))]):
                self._stream.append(np.ascontiguousarray(page, dtype=self._facts.dtype))
                self._widen(place[1] * self.layers + layer, page)
            confirm(self._stream, IN_FLIGHT)

    def finish(self, method: str, record: str) -> None:
        """See `Output`."""
        import json

        with writing(self._draft):
            confirm(self._stream, 0)
            facts = {COMPUTED: True, "warning": WARNING, "method": method, "record": json.loads(record)}
            self._stream.set_global_metadata("parfocal", facts)
            described = self._stream.get_metadata()
            described["."]["ome"]["omero"] = {"channels": self._channels()}
            self._stream.update_metadata(described)
            self._stream.close()

    def _widen(self, channel: int, page: NDArray[Any]) -> None:
        """Note between which numbers a channel lies, for the contrast that viewers begin with."""
        some = page[:: max(1, page.shape[0] // 256), :: max(1, page.shape[1] // 256)]
        some = some[np.isfinite(some)]
        if some.size:
            low, high = self._ranges.get(channel, (np.inf, -np.inf))
            self._ranges[channel] = (min(low, float(some.min())), max(high, float(some.max())))

    def _channels(self) -> list[dict[str, Any]]:
        """Describe the channels; ome-writers itself can name those of whole numbers only."""
        channels = []
        for number, name in enumerate(self._facts.channels(self.layers)):
            low, high = self._ranges.get(number, (0.0, 1.0))
            window = {"min": low, "max": max(high, low + 1.0), "start": low, "end": max(high, low + 1.0)}
            channels.append({"label": name, "color": "FFFFFF", "active": number < 2, "window": window})
        return channels

    def close(self) -> None:
        """See `Output`."""
        with suppress(Exception):  # what could not be written has been said already
            self._stream.close()


def read_layers(path: Path, size: Place, place: Place, layers: int) -> Layers | None:
    """Read a plane of what an earlier run wrote, for its picture; None where that does not work out."""
    try:
        read = _read_zarr if path.name.endswith(ZARR) else _read_tiff
        raw, restored, refused = read(path, size, place, layers)
    except Exception:  # noqa: BLE001 - a picture that cannot be drawn again is no reason to fail
        return None
    return Layers(raw, restored, refused > 0)


def _read_tiff(path: Path, size: Place, place: Place, layers: int) -> list[NDArray[Any]]:
    import tifffile

    (_, channels, depth), (t, c, z) = size, place
    with tifffile.TiffFile(path) as file:
        pages = file.series[0].pages
        first = ((t * depth + z) * channels + c) * layers
        return [np.asarray(pages[first + layer].asarray()) for layer in range(3)]  # type: ignore[union-attr]


def _read_zarr(path: Path, size: Place, place: Place, layers: int) -> list[NDArray[Any]]:
    import yaozarrs

    group: Any = yaozarrs.open_group(path)
    names = [axis["name"] for axis in group.attrs["ome"]["multiscales"][0]["axes"]][:-2]
    array = group["0"].to_tensorstore()
    at = dict(zip("tcz", place, strict=True))
    return [
        np.asarray(array[tuple({**at, "c": at["c"] * layers + layer}[name] for name in names)].read().result())
        for layer in range(3)
    ]
