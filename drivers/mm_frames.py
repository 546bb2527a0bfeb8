"""What is known of a frame out of Micro-Manager: its number, its time, the settings it was taken under, its pixels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from parfocal.drivers.base import CameraError

log = structlog.get_logger()

PIXEL_TYPES = (np.uint8, np.uint16, np.float32)


@dataclass(frozen=True, slots=True)
class RawFrame:
    """What came out of the core, before it is a `Frame`.

    Parameters
    ----------
    pixels : ndarray
        Owned by the receiver.
    tags : mapping
        The core's metadata.
    number : int
        Counts from 0 within one sequence; gaps are frames the core lost.
    start_s, end_s : float
        Earliest start of the exposure, and latest known moment before the frame was in the core.
    """

    pixels: NDArray[Any]
    tags: Mapping[str, Any]
    number: int
    start_s: float
    end_s: float


class FrameClock:
    """Says when a frame was exposed, at the earliest.

    A frame waits in the core's buffer, so the moment we take it out says little. Two facts hold without trusting any
    clock but our own: a frame that was not there at the last look arrived after that look, and it arrived before we
    took it. Between frames of one backlog ``ElapsedTime-ms`` gives the spacing. So

        arrived = min(taken, max(last look at an empty buffer, previous arrival + difference of ElapsedTime))

    which never runs away with a drifting camera clock, and errs to the early side. ``TimeReceivedByCore`` is local wall
    time, which jumps with daylight saving and NTP, and is only kept as metadata. The exposure began one exposure and
    one latency earlier: a camera that reads out while it exposes the next frame delivers up to one frame interval
    late, which with the frame that was being exposed makes the two frames to skip after a move.

    Parameters
    ----------
    looked_s : float
        A moment at which no frame was there yet.
    latency_s : float or None
        End of exposure to arrival; None takes the spacing of the frames.
    started_s : float
        Just before the sequence was started, if we did that; no exposure can have begun earlier.
    """

    def __init__(self, looked_s: float, latency_s: float | None, started_s: float = -math.inf) -> None:
        self._started_s = started_s
        self._latency_s = latency_s
        self._empty_s = looked_s
        self._arrived_s = looked_s
        self._elapsed_s: float | None = 0.0
        self._number = -1

    def saw_nothing(self, time_s: float) -> None:
        """No frame was waiting at `time_s` (taken before looking)."""
        self._empty_s = max(self._empty_s, time_s)

    def stamp(self, number: int, elapsed_s: float | None, taken_s: float, exposure_s: float) -> tuple[float, float]:
        """Earliest start and the arrival of the frame taken at `taken_s`."""
        step = 0.0
        if elapsed_s is not None and self._elapsed_s is not None:
            step = max(0.0, elapsed_s - self._elapsed_s)
        arrived = min(taken_s, max(self._empty_s, self._arrived_s + step))
        spacing = max(step / max(1, number - self._number), exposure_s)
        latency = spacing if self._latency_s is None else self._latency_s
        self._arrived_s, self._elapsed_s, self._number = arrived, elapsed_s, number
        return max(self._started_s, arrived - exposure_s - latency), arrived


class SettingsHistory:
    """The settings as they were read back, and from when on they held."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, dict[str, float]]] = deque(maxlen=256)

    @property
    def latest(self) -> Mapping[str, float]:
        """The settings now; empty before the first read."""
        return self._entries[-1][1] if self._entries else {}

    def note(self, settings: Mapping[str, float], time_s: float) -> None:
        """Remember settings, if they differ from the latest."""
        if settings != self.latest:
            self._entries.append((time_s, dict(settings)))

    def at(self, time_s: float) -> Mapping[str, float]:
        """Return the settings that held at a time, or the oldest known."""
        for since_s, settings in reversed(self._entries):
            if since_s <= time_s:
                return settings
        return self._entries[0][1]


class FrameNumbers:
    """Indices that count up within one opened microscope, with a gap wherever the camera lost frames."""

    def __init__(self) -> None:
        self.lost = 0
        self._index = -1
        self._offset = 0
        self._number = -1
        self._joined = False

    def begin(self, *, joined: bool = False) -> None:
        """Expect a new sequence; `joined` is one of somebody else's, which is under way."""
        self._offset, self._number, self._joined = self._index + 1, -1, joined

    def place(self, number: int) -> int:
        """Return the index of the frame with this number in its sequence."""
        if number <= self._number:  # somebody restarted the sequence that we watch
            self._offset = self._index + 1 - number
        elif self._number < 0 and self._joined:
            self._offset -= number
        elif (lost := number - self._number - 1) > 0:
            self.lost += lost
            log.warning("micromanager.frames_lost", lost=lost, total=self.lost)
        self._number = number
        self._index = self._offset + number
        return self._index


def checked_pixels(camera: str, image: NDArray[Any], expected: tuple[int, ...]) -> NDArray[Any]:
    """Make a read-only view of a camera's image; an empty `expected` shape is any.

    Raises
    ------
    CameraError
        It is not one grey image of a type we score, or of another shape than the frames before it.
    """
    pixels = np.asarray(image).view()
    if pixels.ndim != 2 or pixels.size == 0 or pixels.dtype not in PIXEL_TYPES:
        raise CameraError(
            f"camera {camera!r} gave an image of shape {pixels.shape} and type {pixels.dtype}; a grey one of uint8, "
            "uint16 or float32 is needed: set its PixelType"
        )
    if expected and pixels.shape != expected:
        raise CameraError(
            f"camera {camera!r}: the frame changed from {expected} to {pixels.shape} in the middle of an acquisition; "
            "was a region or a binning set?"
        )
    pixels.flags.writeable = False
    return pixels


def elapsed_s(tags: Mapping[str, Any]) -> float | None:
    """Read ``ElapsedTime-ms`` of a frame in seconds, or None if the camera does not give it."""
    try:
        return float(tags["ElapsedTime-ms"]) / 1000.0
    except (KeyError, TypeError, ValueError):
        return None


def tag_number(tags: Mapping[str, Any], key: str, otherwise: float) -> float:
    """Read a tag of a frame as a number, or what to take otherwise."""
    try:
        return float(tags[key])
    except (KeyError, TypeError, ValueError):
        return otherwise
