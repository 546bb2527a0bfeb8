"""What a model says of a frame: assessment, distribution over defocus, patch map, card; and the errors of models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError

FloatArray = NDArray[np.floating[Any]]


class ModelError(ParfocalError):
    """A model cannot be loaded or cannot assess what it was given."""

    exit_code = 3


class WeightsMissingError(ModelError):
    """The weight file named by a card is not there."""


class WeightsHashError(ModelError):
    """The weight file is not the one its card describes."""


class ImageError(ModelError):
    """An image of a shape, type or content no model can take (not 2-D, complex, NaN, too small)."""


class ScorerError(ModelError):
    """The scorer process died, stalled or could not be started."""


@dataclass(frozen=True)
class Distribution:
    """Likelihood of one image as a function of where it was taken, on a grid of defocus.

    Parameters
    ----------
    defocus_um : ndarray, shape (n,)
        Ascending grid of stage z minus focus z.
    probability : ndarray, shape (n,)
        Probability mass of each grid cell under a flat prior in um; sums to 1.
    signed : bool
        False if the image carries no sign: the masses are then symmetric about 0.
    """

    defocus_um: FloatArray
    probability: FloatArray
    signed: bool = False

    def mean_um(self) -> float:
        """Expected defocus (of its magnitude where there is no sign)."""
        grid = self.defocus_um if self.signed else np.abs(self.defocus_um)
        return float(np.sum(grid * self.probability))

    def sd_um(self) -> float:
        """Standard deviation about `mean_um`."""
        grid = self.defocus_um if self.signed else np.abs(self.defocus_um)
        mean = np.sum(grid * self.probability)
        return float(np.sqrt(np.sum((grid - mean) ** 2 * self.probability)))


@dataclass(frozen=True)
class PatchMap:
    """A model's local answers: `value` and `certainty` (0..1) of shape (rows, columns), NaN where it abstained.

    `patch_px` is the side of a patch and `stride_px` the distance between patches, in pixels of the frame. The last row
    and column may stand nearer to those before them, against the far edges of a frame that is no multiple of it.
    """

    value: FloatArray
    certainty: FloatArray
    patch_px: int
    stride_px: int
    unit: str = ""


@dataclass(frozen=True)
class Assessment:
    """What one model says of one frame.

    Parameters
    ----------
    model : str
        Name of the model.
    value, sd : float
        The number and its standard deviation; both NaN if abstained.
    abstained : bool
        True if the model refuses to say; `reason` then says why.
    detail : mapping
        Further numbers (``level``, ``certainty``, ``blur_px``...).
    distribution : Distribution, optional
        Over defocus: what the belief filter multiplies.
    patch_map : PatchMap, optional
        Where in the frame.
    """

    model: str
    value: float
    sd: float
    abstained: bool = False
    reason: str = ""
    detail: Mapping[str, float] = field(default_factory=dict)
    distribution: Distribution | None = None
    patch_map: PatchMap | None = None

    @staticmethod
    def abstain(model: str, reason: str, detail: Mapping[str, float] | None = None) -> Assessment:
        """Say nothing, and why."""
        return Assessment(model, float("nan"), float("nan"), abstained=True, reason=reason, detail=dict(detail or {}))


@dataclass(frozen=True)
class ModelCard:
    """What is known of a trained model: what it is, what it was trained on, what was measured."""

    name: str
    version: str
    architecture: str
    weights_file: str
    weights_sha256: str
    input: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@runtime_checkable
class Model(Protocol):
    """Says what images are worth."""

    card: ModelCard

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        """Assess a batch of raw frames, shape (n, height, width), in camera counts; one assessment a frame."""
        ...


def check_images(images: NDArray[Any]) -> NDArray[Any]:
    """Refuse what is not a batch of images; return it as (n, height, width).

    Raises
    ------
    ImageError
        Not 2-D or 3-D, not real numbers, NaN or infinite values, or smaller than 32 px.
    """
    array = np.asarray(images)
    if array.ndim == 2:
        array = array[None]
    if array.ndim != 3:
        raise ImageError(f"expected one image (height, width) or a batch (n, height, width), got shape {array.shape}")
    if array.dtype.kind not in "uif":
        raise ImageError(f"expected integer or floating pixels, got {array.dtype}")
    if min(array.shape[1:]) < 32:
        raise ImageError(f"image of {array.shape[2]}x{array.shape[1]} px is too small: at least 32x32 are needed")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ImageError("image holds NaN or infinite pixels")
    return array
