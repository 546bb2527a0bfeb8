"""One frame in shared memory: the slot through which pixels reach the scorer process without being pickled."""

from __future__ import annotations

import os
import struct
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import ImageError, ScorerError

DTYPES = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")
"""Pixel types that may cross, native byte order."""

HEADER_BYTES = 256
_MAGIC = 0x5041524646524D31  # "PARFFRM1"
# magic, sequence, height, width, index of the dtype, bytes of pixels; pixel size in um.
_HEADER = struct.Struct("<QQQQQQd")
_BEAT = struct.Struct("<Q")
_BEAT_OFFSET = 128
_LINUX_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux


class FrameSlot:
    """Shared memory that holds one frame: a small fixed header, then the pixels.

    The parent creates it and writes; the child attaches and reads. They take turns: the parent writes only while the
    child waits, so nothing is locked. The last field of the header is the child's heartbeat.
    """

    def __init__(self, memory: SharedMemory, *, owner: bool) -> None:
        self._memory = memory
        self._owner = owner
        self._closed = False

    @staticmethod
    def create(pixel_bytes: int) -> FrameSlot:
        """Make a slot for frames of up to `pixel_bytes`; raises `ScorerError` if the memory is not there."""
        size = HEADER_BYTES + max(int(pixel_bytes), 1)
        _check_room(size)
        try:
            memory = SharedMemory(create=True, size=size)
        except OSError as error:
            raise ScorerError(f"cannot make {size / 1e6:.1f} MB of shared memory for frames: {error}") from error
        return FrameSlot(memory, owner=True)

    @staticmethod
    def attach(name: str) -> FrameSlot:
        """Open a slot that another process made; raises `ScorerError` if it is gone."""
        try:
            return FrameSlot(SharedMemory(name=name), owner=False)
        except OSError as error:
            raise ScorerError(f"shared memory {name} cannot be opened: {error}") from error

    @property
    def _buffer(self) -> memoryview:
        buffer = self._memory.buf
        if buffer is None:
            raise ValueError("the slot is closed")
        return buffer

    @property
    def name(self) -> str:
        """What `attach` needs."""
        return self._memory.name

    @property
    def capacity(self) -> int:
        """Bytes of pixels that fit."""
        return self._memory.size - HEADER_BYTES

    def write(self, pixels: NDArray[Any], pixel_um: float, sequence: int) -> None:
        """Put a frame (height, width) in; one copy, byte order and strides made native on the way.

        Raises
        ------
        ImageError
            Of a type that may not cross, or larger than the slot.
        """
        kind = pixels.dtype.str[1:]
        if pixels.ndim != 2 or kind not in DTYPES:
            raise ImageError(f"expected a 2-D frame of {', '.join(DTYPES)}, got {pixels.dtype} of shape {pixels.shape}")
        if pixels.nbytes > self.capacity:
            raise ImageError(f"frame of {pixels.nbytes} bytes does not fit a slot of {self.capacity}")
        height, width = pixels.shape
        header = (_MAGIC, sequence, height, width, DTYPES.index(kind), pixels.nbytes, pixel_um)
        _HEADER.pack_into(self._buffer, 0, *header)
        np.copyto(self._view(height, width, kind), pixels, casting="equiv")

    def read(self) -> tuple[NDArray[Any], float, int]:
        """Frame as a read-only view on the shared memory, its pixel size and its sequence number.

        The view is valid until the next `write` of the other side; raises `ScorerError` for a damaged header.
        """
        magic, sequence, height, width, kind, size, pixel_um = _HEADER.unpack_from(self._buffer, 0)
        if magic != _MAGIC or kind >= len(DTYPES) or size > self.capacity:
            raise ScorerError("the header of the shared frame is damaged")
        if height * width * np.dtype(DTYPES[kind]).itemsize != size:
            raise ScorerError("shape, type and length of the shared frame do not agree")
        view = self._view(height, width, DTYPES[kind])
        view.setflags(write=False)
        return view, pixel_um, sequence

    def _view(self, height: int, width: int, kind: str) -> NDArray[Any]:
        return np.ndarray((height, width), dtype=np.dtype(kind), buffer=self._buffer, offset=HEADER_BYTES)

    def beat(self) -> None:
        """Count the heartbeat up by one (the child, from its main loop: a free-running beat would prove nothing)."""
        _BEAT.pack_into(self._buffer, _BEAT_OFFSET, self.beats() + 1)

    def beats(self) -> int:
        """Heartbeats so far; -1 once closed (a watching thread may look at that very moment)."""
        try:
            return int(_BEAT.unpack_from(self._buffer, _BEAT_OFFSET)[0])
        except ValueError:
            return -1

    def close(self) -> None:
        """Let go of the memory, and remove it if this side made it. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._owner:
            try:
                self._memory.unlink()
            except FileNotFoundError:
                pass  # somebody cleaned the machine's shared memory: then it is gone, which is what is wanted
        try:
            self._memory.close()
        except BufferError:
            # A model kept a view of the last frame: the mapping has to stay as long as the process, and is kept here
            # so that its finalizer does not complain. It is already unlinked, so nothing is left behind.
            _STILL_VIEWED.append(self._memory)


_STILL_VIEWED: list[SharedMemory] = []


def _check_room(size: int) -> None:
    """Refuse memory the machine does not have: on Linux it would be granted, and kill the writer with SIGBUS."""
    if not _LINUX_MEMORY.is_dir() or not hasattr(os, "statvfs"):
        return
    stat = os.statvfs(_LINUX_MEMORY)
    free = stat.f_bavail * stat.f_frsize
    if size > free:
        raise ScorerError(
            f"{size / 1e6:.1f} MB of shared memory are needed for frames, {free / 1e6:.1f} MB are free in "
            f"{_LINUX_MEMORY}; in a container, give it more (--shm-size), or score in the same process"
        )
