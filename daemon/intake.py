"""What makes a frame unfit to decide on: exposed too early, of the wrong shape, not finite, or from a frozen camera."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.drivers.base import CameraError, Frame

STRIDE = 16
MOST_MISSHAPEN = 20
"""So many frames in a row of a form that cannot be used, and this is no hiccup any more."""


class Intake:
    """Examines frames in the order they come.

    Parameters
    ----------
    frozen_after : int
        So many frames in a row, bit for bit the same as the one before, make a frozen camera: no camera with noise
        repeats itself even once. Before a first pair of different frames nothing shows that the camera is alive, so
        the first frame is only looked at. 0: do not check (recordings, noise-free cameras).
    """

    def __init__(self, frozen_after: int = 1) -> None:
        self._frozen_after = frozen_after
        self._form: tuple[tuple[int, ...], np.dtype[Any]] | None = None
        self._last: NDArray[np.generic] | None = None
        self._last_print = 0
        self._same = 0
        self._misshapen = 0

    def doubt(self, frame: Frame) -> str:
        """Return why nothing must be decided on this frame; empty if it is fit.

        Raises
        ------
        CameraError
            The last of `MOST_MISSHAPEN` frames in a row of another shape or type: no later one will be of use, and
            the sample should not go on being lit for nothing.
        """
        pixels = frame.pixels
        wrong = self._wrong_form(pixels)
        self._misshapen = self._misshapen + 1 if wrong else 0
        if self._misshapen >= MOST_MISSHAPEN:
            raise CameraError(
                f"{self._misshapen} frames in a row cannot be used; the last one because {wrong}: "
                "look at the camera's region, binning and pixel type, and start again"
            )
        if wrong:
            return wrong
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            return "the frame holds pixels that are not finite"
        return self._frozen(pixels) if self._frozen_after else ""

    def _wrong_form(self, pixels: NDArray[Any]) -> str:
        if not isinstance(pixels, np.ndarray) or pixels.ndim != 2 or pixels.size == 0:
            return f"the frame is no image: shape {np.shape(pixels)}"
        form = (pixels.shape, pixels.dtype)
        if self._form is None:
            if pixels.dtype.kind not in "uif":
                return f"the frame's pixels are {pixels.dtype}, not numbers"
            self._form = form
        if form != self._form:
            was = self._form
            return f"the frame is {pixels.shape} {pixels.dtype}, but this camera gave {was[0]} {was[1]} before"
        return ""

    def _frozen(self, pixels: NDArray[np.generic]) -> str:
        # Comparing a thin sample first makes the usual case, a frame that differs, cost microseconds.
        fingerprint = zlib.crc32(pixels[::STRIDE, ::STRIDE].tobytes())
        first = self._last is None
        same = self._last is not None and fingerprint == self._last_print and np.array_equal(pixels, self._last)
        self._last, self._last_print = pixels, fingerprint
        self._same = self._same + 1 if same else 0
        if first:
            return "the first frame: a second one must show that the camera is alive"
        if self._same >= self._frozen_after:
            times = f"{self._same + 1} frames in a row"
            return f"the camera is frozen: {times} are bit for bit the same (microscope.frozen_after: 0 allows it)"
        return ""
