"""Frames to OME-Zarr, in a thread of its own behind a bounded queue: never slows the loop, never drops in silence."""

from __future__ import annotations

import importlib
import queue
import shutil
import threading
from pathlib import Path
from typing import Any

import structlog

from parfocal import ParfocalError
from parfocal.drivers.base import Frame

log = structlog.get_logger()
QUEUE_BYTES = 256 * 1024 * 1024
RESERVE_BYTES = 64 * 1024 * 1024
"""Kept free of frames: what the journal and the end of the session need, however full the disk."""
LOOK_EVERY_BYTES = 16 * 1024 * 1024
IN_FLIGHT = 8
"""Frames given to the file system and not confirmed yet; more would hide a full disk, and take memory nobody counts."""


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
    reserve_bytes : int
        What is to stay free on the disk; a frame that would cut into it stops the recording with `RecorderError`.

    Attributes
    ----------
    accepted, dropped, written : int
        Frames taken, refused for want of room, and known to be on the disk.
    """

    def __init__(self, path: Path, *, queue_bytes: int = QUEUE_BYTES, reserve_bytes: int = RESERVE_BYTES) -> None:
        self.path = path
        self.accepted = 0
        self.dropped = 0
        self.written = 0
        self._reserve = reserve_bytes
        self._since_look = LOOK_EVERY_BYTES
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
            if isinstance(self.error, RecorderError):
                raise self.error
            raise RecorderError(
                f"{self.path}: frames cannot be written any more ({self.error}); the {self.written} before are there"
            ) from self.error

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
            _warm_up()

            while (frame := self._queue.get()) is not None:
                if self.error is None:
                    self._write(frame)
                with self._lock:
                    self._room += frame.pixels.nbytes
        finally:
            self._finish()

    def _write(self, frame: Frame) -> None:
        try:
            self._look_for_room(frame)
            if self._stream is None:
                self._stream = open_stream(self.path, frame)
            self._stream.append(frame.pixels, frame_metadata=self._metadata(frame))
            self.written += confirm(self._stream, IN_FLIGHT)
        except Exception as error:  # noqa: BLE001 - told to the loop by `check`
            log.error("recorder.failed", path=str(self.path), error=str(error))
            self.error = error

    def _look_for_room(self, frame: Frame) -> None:
        """Stop before the disk is full: what is left belongs to the journal."""
        self._since_look += frame.pixels.nbytes
        if self._since_look < LOOK_EVERY_BYTES:
            return
        self._since_look = 0
        free = shutil.disk_usage(self.path.parent).free
        if free < self._reserve + LOOK_EVERY_BYTES + frame.pixels.nbytes:
            raise RecorderError(
                f"{self.path}: only {free / 1e6:.0f} MB are left on the disk, which the journal needs: frames are "
                f"recorded up to number {self.written} and no further; make room, or record less (session.record)"
            )

    def _finish(self) -> None:
        """Wait for what was written and close, the second also where the first fails: an open stream speaks at exit."""
        if self._stream is None:
            return
        for end in (self._confirm_all, self._stream.close):
            try:
                end()
            except Exception as error:  # noqa: BLE001 - told to the loop by `check`
                self.error = self.error or error

    def _confirm_all(self) -> None:
        self.written += confirm(self._stream, 0)

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


def _warm_up() -> None:
    """Import what takes long, in the recorder's thread and before there is a first frame."""
    for name in ("ome_writers", "tensorstore", "yaozarrs"):
        importlib.import_module(name)


def confirm(stream: Any, in_flight: int) -> int:
    """Wait until no more than `in_flight` frames are unconfirmed; return how many were confirmed now.

    ome-writers itself looks at its writes only when it closes: until then a full disk would go unnoticed.

    Raises
    ------
    Exception
        What kept one of them from being written.
    """
    futures = stream._backend._futures  # noqa: SLF001 - there is no public way to wait for them
    confirmed = 0
    while len(futures) > in_flight:
        futures.pop(0).result()
        confirmed += 1
    return confirmed


def open_stream(path: Path, frame: Frame) -> Any:
    """Open an ome-writers stream for frames like this one; whether they are simulated is on the disk from the start."""
    from ome_writers import AcquisitionSettings, Dimension, OmeZarrFormat, create_stream

    height, width = frame.pixels.shape
    stream = create_stream(
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
    stream.set_global_metadata("parfocal", {"simulated": frame.simulated, "journal": "../journal.jsonl"})
    return stream
