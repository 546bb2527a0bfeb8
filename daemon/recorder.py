"""Frames to OME-Zarr, in a thread of its own behind a bounded queue: never slows the loop, never drops in silence."""

from __future__ import annotations

import queue
import threading
from pathlib import Path
from typing import Any

import structlog

from parfocal import ParfocalError
from parfocal.drivers.base import Frame

log = structlog.get_logger()
QUEUE_BYTES = 256 * 1024 * 1024


class RecorderError(ParfocalError):
    """The frames cannot be written: disk full, or a format the writer does not take."""

    exit_code = 4


class Recorder:
    """Writes frames into one OME-Zarr image, dimensions (t, y, x), one uncompressed chunk a frame.

    Its place in the image is known when a frame is accepted, so that the journal can name it before it is on disk.

    Parameters
    ----------
    path : Path
        Folder to make, ``frames.ome.zarr``.
    queue_bytes : int
        Frames waiting for the disk may take this much memory; more are refused and counted in `dropped`.
    """

    def __init__(self, path: Path, *, queue_bytes: int = QUEUE_BYTES) -> None:
        self.path = path
        self.accepted = 0
        self.dropped = 0
        self.error: BaseException | None = None
        self._room = queue_bytes
        self._queue: queue.SimpleQueue[Frame | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._first: Frame | None = None
        self._stream: Any = None
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def offer(self, frame: Frame) -> int | None:
        """Take a frame to write; return its place, or `None` if it was dropped for want of room. Any thread."""
        with self._lock:
            first = self._first = self._first or frame
            same = frame.pixels.shape == first.pixels.shape and frame.pixels.dtype == first.pixels.dtype
            if self.error is not None or not same or frame.pixels.nbytes > self._room:
                self.dropped += 1
                return None
            self._room -= frame.pixels.nbytes
            self._queue.put(frame)
            self.accepted += 1
            return self.accepted - 1

    def check(self) -> None:
        """Raise what stopped the writing thread, if anything did.

        Raises
        ------
        RecorderError
            The disk is full, or the writer failed.
        """
        if self.error is not None:
            raise RecorderError(f"{self.path}: frames cannot be written ({self.error})") from self.error

    def close(self, timeout_s: float = 30.0) -> None:
        """Write what is waiting, and close; raises `RecorderError` if that did not work out. Idempotent."""
        self._queue.put(None)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise RecorderError(
                f"{self.path}: {self._queue.qsize()} frames are still not written after {timeout_s:g} s"
            )
        self.check()

    def _run(self) -> None:
        try:
            while (frame := self._queue.get()) is not None:
                if self.error is None:
                    self._write(frame)
                with self._lock:
                    self._room += frame.pixels.nbytes
        finally:
            self._finish()

    def _write(self, frame: Frame) -> None:
        try:
            if self._stream is None:
                self._stream = open_stream(self.path, frame)
            self._stream.append(frame.pixels, frame_metadata=self._metadata(frame))
        except Exception as error:  # noqa: BLE001 - told to the loop by `check`
            log.error("recorder.failed", path=str(self.path), error=str(error))
            self.error = error

    def _finish(self) -> None:
        try:
            if self._stream is not None:
                self._stream.close()
        except Exception as error:  # noqa: BLE001 - told to the loop by `check`
            self.error = self.error or error

    def _metadata(self, frame: Frame) -> dict[str, Any]:
        settings = {name: float(value) for name, value in frame.settings.items()}
        metadata: dict[str, Any] = {
            "delta_t": frame.start_s,
            "exposure_time": frame.end_s - frame.start_s,
            "index": frame.index,
            "simulated": frame.simulated,
            "settings": settings,
        }
        if "z_um" in settings:
            metadata["position_z"] = settings["z_um"]
        return metadata


def open_stream(path: Path, frame: Frame) -> Any:
    """Open an ome-writers stream for frames like this one."""
    from ome_writers import AcquisitionSettings, Dimension, OmeZarrFormat, create_stream

    height, width = frame.pixels.shape
    return create_stream(
        AcquisitionSettings(
            root_path=str(path),
            format=OmeZarrFormat(backend="tensorstore"),
            dtype=str(frame.pixels.dtype),
            dimensions=(
                Dimension(name="t", count=None, chunk_size=1, type="time"),
                *(
                    Dimension(
                        name=axis, count=size, chunk_size=size, type="space", scale=frame.pixel_um, unit="micrometer"
                    )
                    for axis, size in (("y", height), ("x", width))
                ),
            ),
        )
    )
