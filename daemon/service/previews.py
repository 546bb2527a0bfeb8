"""Previews: a frame made small and grey, and the patch map that goes over it, for a screen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.base import Assessment, PatchMap

TAILS_PERCENT = (0.5, 99.8)
"""Darker is black, brighter is white: a dead or a hot pixel does not set the contrast."""

PREFERRED = ("quality", "defocus")


def preview(
    pixels: NDArray[Any], assessments: Mapping[str, Assessment] | None, longest_px: int
) -> dict[str, Any] | None:
    """Return a frame as a small uint8 image, or `None` if it is no image.

    Parameters
    ----------
    pixels : ndarray, shape (height, width)
        As the camera gave them.
    assessments : mapping, optional
        Every one that has a patch map gives it.
    longest_px : int
        Neither side is longer than that afterwards.

    Returns
    -------
    dict
        ``width``, ``height``, ``factor`` (pixels of the frame for one of these), ``pixels`` (bytes, row by row),
        ``low`` and ``high`` (the counts of black and white), ``patch_maps`` (of quality and defocus first).
    """
    if pixels.ndim != 2 or 0 in pixels.shape or pixels.dtype.kind not in "buif":
        return None
    factor = max(1, math.ceil(max(pixels.shape) / longest_px))
    small = _binned(pixels, factor)
    some = small[:: 1 + small.shape[0] // 128, :: 1 + small.shape[1] // 128]
    finite = some[np.isfinite(some)]
    low, high = (float(value) for value in np.percentile(finite, TAILS_PERCENT)) if finite.size else (0.0, 0.0)
    span = high - low if high > low else 1.0
    grey = np.nan_to_num(np.clip((small - low) * (255.0 / span), 0.0, 255.0)).astype(np.uint8)
    return {
        "width": grey.shape[1],
        "height": grey.shape[0],
        "factor": factor,
        "low": low,
        "high": high,
        "pixels": grey.tobytes(),
        "patch_maps": _patch_maps(assessments or {}),
    }


def _binned(pixels: NDArray[Any], factor: int) -> NDArray[np.float32]:
    """Mean over blocks, of a few pixels spread over each; an edge that does not fill a block is left out.

    All pixels of a large camera would take ten times as long and look the same.
    """
    height, width = (max(side // factor, 1) for side in pixels.shape)
    offsets = range(0, factor, max(1, factor // 2))
    total, count = np.zeros((height, width), np.float32), 0
    for row in offsets:
        for column in offsets:
            part = pixels[row : height * factor : factor, column : width * factor : factor]
            if part.shape == total.shape:
                total += part
                count += 1
    return (total / count).astype(np.float32)


def _patch_maps(assessments: Mapping[str, Assessment]) -> list[dict[str, Any]]:
    with_map = {name: one.patch_map for name, one in assessments.items() if one.patch_map is not None}
    order = [name for name in PREFERRED if name in with_map] + sorted(set(with_map) - set(PREFERRED))
    return [_map_of(name, with_map[name]) for name in order if _is_whole(with_map[name])]


def _is_whole(found: PatchMap) -> bool:
    return found.value.ndim == 2 and found.value.shape == found.certainty.shape


def _map_of(name: str, found: PatchMap) -> dict[str, Any]:
    return {
        "model": name,
        "rows": int(found.value.shape[0]),
        "columns": int(found.value.shape[1]),
        "patch_px": int(found.patch_px),
        "stride_px": int(found.stride_px),
        "unit": found.unit,
        "value": np.ascontiguousarray(found.value, dtype="<f4").tobytes(),
        "certainty": np.ascontiguousarray(found.certainty, dtype="<f4").tobytes(),
    }
