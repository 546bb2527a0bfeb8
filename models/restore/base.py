"""What restoring a frame gives: pixels that were computed, how sure they are, and where and why there are none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import ImageError, ModelError
from parfocal.simulator.optics import Optics

FloatImage = NDArray[np.float32]
CELL_PX = 32
"""Side of the squares in which a part of a frame is refused."""
MIN_SIDE_PX, MAX_PIXELS = 64, 64_000_000
"""No frame with a shorter side, or of more pixels: too little to see a blur by, or too much for the memory."""


class RestoreError(ModelError):
    """A frame cannot be restored: of a kind that no method takes, or the method is not there."""


class Verdict(StrEnum):
    """What became of a frame."""

    RESTORED = "restored"
    IN_FOCUS = "in_focus"
    """So little blur that nothing can be gained: the pixels are the frame's own."""
    REFUSED = "refused"
    """Beyond what the method can be trusted with: the pixels are the frame's own."""


@dataclass(frozen=True)
class Blur:
    """What is believed of a frame's blur.

    Parameters
    ----------
    optics : Optics
        With the pixel at the sample.
    defocus_um, sd_um : float
        z of the stage minus z of the focus, and its standard deviation. Without an aberration the sign is of no
        consequence.
    """

    optics: Optics
    defocus_um: float
    sd_um: float = 0.0

    @property
    def depths(self) -> float:
        """Defocus in depths of field, without its sign."""
        return abs(self.defocus_um) / self.optics.depth_of_field_um

    @property
    def diameter_px(self) -> float:
        """Diameter of the blur disc (`Optics.blur_diameter_px`)."""
        return self.optics.blur_diameter_px(self.defocus_um)


@dataclass(frozen=True)
class Restoration:
    """A frame as it would have looked in focus, or the frame itself and why.

    Parameters
    ----------
    method : str
    verdict : Verdict
    reason : str
        For a person; empty where all of the frame was restored.
    pixels : ndarray of float32, shape (height, width)
        In camera counts. The frame's own wherever it was refused.
    sd : ndarray of float32, shape (height, width), optional
        Standard deviation that the method claims, in counts.
    refused : ndarray of bool, shape (rows, columns)
        Squares of `CELL_PX`, the last ones cut off by the frame's edge, where the pixels are the frame's own.
    blur : Blur, optional
        Absent where it could not be estimated.
    detail : mapping
        What the verdict rests on, as numbers.
    """

    method: str
    verdict: Verdict
    reason: str
    pixels: FloatImage
    sd: FloatImage | None
    refused: NDArray[np.bool_]
    blur: Blur | None
    detail: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Restorer(Protocol):
    """One method of restoring; knows nothing of files or devices."""

    name: str

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        """Restore one raw frame, shape (height, width), in camera counts.

        Raises
        ------
        RestoreError, ImageError
            The array is no frame that can be restored (see `check_frame`).
        """
        ...


def cells_of(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of squares of `CELL_PX` that cover a frame."""
    return -(-shape[0] // CELL_PX), -(-shape[1] // CELL_PX)


def check_frame(frame: NDArray[Any]) -> FloatImage:
    """A frame as float32, or why there is nothing to restore.

    Raises
    ------
    ImageError
        Colour or more dimensions, pixels that are not real numbers, NaN or infinite values.
    RestoreError
        Smaller than `MIN_SIDE_PX` or larger than `MAX_PIXELS`.
    """
    array = np.asarray(frame)
    if array.ndim == 3 and array.shape[-1] in (3, 4):
        raise ImageError(f"image of shape {array.shape} is in colour: restore one channel of it at a time")
    if array.ndim != 2:
        raise ImageError(f"expected one image (height, width), got shape {array.shape}")
    if array.dtype.kind not in "uif":
        raise ImageError(f"expected integer or floating pixels, got {array.dtype}")
    if min(array.shape) < MIN_SIDE_PX:
        raise RestoreError(
            f"image of {array.shape[1]}x{array.shape[0]} px is too small to restore: at least {MIN_SIDE_PX} px a side"
        )
    if array.size > MAX_PIXELS:
        raise RestoreError(
            f"image of {array.shape[1]}x{array.shape[0]} px is too large to restore at once: cut it into pieces of at "
            f"most {MAX_PIXELS // 1_000_000} megapixels"
        )
    pixels = array.astype(np.float32)
    if array.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ImageError("image holds NaN or infinite pixels")
    return pixels


def unchanged(method: str, verdict: Verdict, reason: str, frame: FloatImage, blur: Blur | None,
              detail: Mapping[str, float] | None = None) -> Restoration:  # fmt: skip
    """The frame itself, refused or in focus."""
    refused = np.full(cells_of((frame.shape[0], frame.shape[1])), verdict is Verdict.REFUSED)
    return Restoration(method, verdict, reason, frame, None, refused, blur, dict(detail or {}))
