"""Live frames out of a Micro-Manager core, each with the earliest moment at which its exposure can have begun."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.drivers.base import CameraError
from parfocal.drivers.mm_core import POLL_S, acquisition_threads, translated
from parfocal.drivers.mm_frames import FrameClock, RawFrame, elapsed_s, tag_number
from parfocal.simulator.clock import Clock


class LiveSequence:
    """A continuous acquisition that we started ourselves, so its frames are ours to take out.

    Parameters
    ----------
    core : CMMCorePlus
        With the camera selected.
    camera : str
        Label.
    clock : Clock
        Stamps the frames.
    latency_s : float or None
        See `FrameClock`.
    """

    def __init__(self, core: Any, camera: str, clock: Clock, latency_s: float | None) -> None:
        self._core = core
        self._camera = camera
        self._clock = clock
        self._latency_s = latency_s
        self._time = FrameClock(clock.now(), latency_s)
        self._taken = 0
        self.running = False
        self.overflowed = False

    def start(self) -> None:
        """Start exposing.

        Raises
        ------
        CameraError
            It does not start, or the thread of the last acquisition still lives (pitfall 5).
        """
        if acquisition_threads(self._camera):
            raise CameraError(
                f"camera {self._camera!r}: its last acquisition has not ended yet, and starting another would mix two "
                "in one buffer; wait for it, or close the microscope"
            )
        start_s = self._clock.now()
        with translated(f"starting camera {self._camera!r}", CameraError):
            # From here on `stop` is due, also when the call fails: the core may have prepared the shutter already.
            self.running = True
            self._core.startContinuousSequenceAcquisition(0)
        self._time = FrameClock(start_s, self._latency_s, started_s=start_s)
        self._taken = 0
        self.overflowed = False

    def take(self, exposure_s: float) -> RawFrame | None:
        """Take out the oldest frame waiting, or None.

        Raises
        ------
        CameraError
            The core failed to hand out a frame it has.
        """
        looked_s = self._clock.now()
        with translated(f"taking a frame of camera {self._camera!r}", CameraError):
            if self._core.getRemainingImageCount() == 0:
                self._time.saw_nothing(looked_s)
                return None
            pixels, metadata = self._core.popNextImageAndMD()
            taken_s = self._clock.now()
            # Pitfall 8: continuous mode overwrites when it overflows; ImageNumber then has a gap.
            self.overflowed = self.overflowed or bool(self._core.isBufferOverflowed())
        tags = dict(metadata.items())
        number = tag_number(tags, "ImageNumber", self._taken)
        self._taken = int(number) + 1
        start_s, end_s = self._time.stamp(int(number), elapsed_s(tags), taken_s, exposure_s)
        return RawFrame(pixels, tags, int(number), start_s, end_s)

    def alive(self) -> bool:
        """Whether the camera still says that it is acquiring."""
        with translated(f"asking camera {self._camera!r} whether it runs", CameraError):
            return bool(self._core.isSequenceRunning(self._camera)) or self._core.getRemainingImageCount() > 0

    def stop(self, timeout_s: float) -> None:
        """Stop exposing and make sure that it has. Idempotent.

        Raises
        ------
        CameraError
            It does not stop.
        """
        if not self.running:
            return
        with translated(f"stopping camera {self._camera!r}", CameraError):
            self._core.stopSequenceAcquisition(self._camera)
        self.running = False
        deadline = self._clock.now() + timeout_s
        while acquisition_threads(self._camera) or self._core.isSequenceRunning(self._camera):
            if self._clock.now() >= deadline:
                raise CameraError(
                    f"camera {self._camera!r} was told to stop and is still acquiring after {timeout_s:g} s; "
                    "switch it off and on"
                )
            self._clock.sleep(POLL_S)


class WatchedSequence:
    """A live acquisition that somebody else started in a core we are attached to.

    Trap v: a second ``popNextImage`` would steal that program's frames, and its run would report success. So we only
    look at the last image; frames that came and went between two looks are gaps in ``ImageNumber``.
    """

    poll_s = 0.002

    def __init__(self, core: Any, camera: str, clock: Clock, latency_s: float | None) -> None:
        self._core = core
        self._camera = camera
        self._clock = clock
        self._time = FrameClock(clock.now(), latency_s)
        self._last: tuple[Any, Any] | None = None
        self._first_look = True
        self._number = -1

    def take(self, exposure_s: float) -> RawFrame | None:
        """Copy the newest frame if it is one not seen before, else None."""
        looked_s = self._clock.now()
        try:
            pixels, metadata = self._core.getLastImageAndMD()
        except (IndexError, RuntimeError):  # the buffer is empty, or its owner has just drained it
            self._time.saw_nothing(looked_s)
            self._first_look = False
            return None
        tags = dict(metadata.items())
        seen = (tags.get("ImageNumber"), tags.get("ElapsedTime-ms"))
        if seen == self._last:
            self._time.saw_nothing(looked_s)
            return None
        taken_s, first, self._last = self._clock.now(), self._first_look, seen
        self._first_look = False
        if first:
            # It may have been lying there for any length of time, from before we came.
            return None
        # A number that falls back means a new sequence; FrameClock does not mind.
        number = self._number = int(tag_number(tags, "ImageNumber", self._number + 1))
        start_s, end_s = self._time.stamp(number, elapsed_s(tags), taken_s, exposure_s)
        return RawFrame(pixels, tags, number, start_s, end_s)

    def alive(self) -> bool:
        """Whether its owner still has it running."""
        with translated(f"asking camera {self._camera!r} whether it runs", CameraError):
            return bool(self._core.isSequenceRunning(self._camera))


class MdaTap:
    """Frames of a running MDA, from its ``frameReady`` signal and nothing else.

    The slot runs in the MDA's own thread and holds it up for as long as it takes (a 50 ms slot makes a 50 ms slower
    run), so it copies the image, queues it and returns; it never touches the core. The queue is bounded and the newest
    frames win. An exposure began after its ``eventStarted``: that is the earliest start; the frame of the event during
    which we came has none that we know of and is left out. Correcting z inside an MDA is
    the business of an engine (it must happen after the wait for ``min_start_time``; a correction made in the event
    generator is up to one interval stale, traps i and ii), so while one runs the driver refuses to move anything.
    The sink's own time and c/z/p structure (trap iv) are the concern of whoever started the run.
    """

    def __init__(self, core: Any, clock: Clock, capacity: int = 8) -> None:
        self._core = core
        self._clock = clock
        self._frames: deque[RawFrame] = deque(maxlen=capacity)
        self._lock = threading.Lock()
        self._event_s: float | None = None
        self._number = -1
        self.connected = False

    def connect(self) -> None:
        """Listen to the MDA runner."""
        events = self._core.mda.events
        events.eventStarted.connect(self._on_event)
        events.frameReady.connect(self.push)
        self.connected = True

    def disconnect(self) -> None:
        """Listen no more. Idempotent."""
        if not self.connected:
            return
        self.connected = False
        events = self._core.mda.events
        events.eventStarted.disconnect(self._on_event)
        events.frameReady.disconnect(self.push)

    def _on_event(self, _event: Any) -> None:
        self._event_s = self._clock.now()

    def push(self, image: NDArray[Any], event: Any, meta: Mapping[str, Any]) -> None:
        """Queue one frame; the signature of ``frameReady``, so that any engine can call it too."""
        now = self._clock.now()
        if self._event_s is None:
            return
        tags = dict(meta)
        tags["mda_index"] = dict(getattr(event, "index", {}))
        pixels = np.array(image)
        with self._lock:
            self._number += 1
            self._frames.append(RawFrame(pixels, tags, self._number, self._event_s, now))

    def take(self) -> RawFrame | None:
        """Take out the oldest frame queued, or None."""
        with self._lock:
            return self._frames.popleft() if self._frames else None

    def alive(self) -> bool:
        """Whether the run goes on or frames wait."""
        return bool(self._frames) or mda_running(self._core)


def mda_running(core: Any) -> bool:
    """Whether a multi-dimensional acquisition runs in this core."""
    return bool(core.mda.is_running())
