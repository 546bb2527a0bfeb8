"""The uneven light that many fields of one source share, taken out of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.training.fields import Field

FloatImage = NDArray[np.float32]
MIN_FOR_LIGHT = 30


def flattened(fields: Sequence[Field]) -> list[Field]:
    """Take the uneven light out of fields of which there are many of one source and shape.

    The mean of many fields of view, each divided by its own mean, is the light they were taken in. Its logarithm is
    fitted by a paraboloid, which divides the fields. Some published fields have a third of the light in the corners: as
    a reference such a field would teach that a vignette is none.
    """
    alike: dict[tuple[str, tuple[int, ...]], list[Field]] = {}
    for field in fields:
        alike.setdefault((field.source, field.image.shape), []).append(field)
    light = {key: _light([field.image for field in held]) for key, held in alike.items() if len(held) >= MIN_FOR_LIGHT}
    return [
        replace(field, image=field.image / light[key]) if (key := (field.source, field.image.shape)) in light else field
        for field in fields
    ]


def _light(images: Sequence[FloatImage]) -> FloatImage:
    """Illumination shared by images of one shape, greatest value 1."""
    mean = np.mean([image / max(float(image.mean()), 1e-6) for image in images], axis=0)
    height, width = mean.shape
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    terms = [np.broadcast_to(term, mean.shape) for term in (np.ones_like(y), y, x, y * y, x * x, x * y)]
    step = (slice(None, None, 8), slice(None, None, 8))
    basis = np.stack([term[step].ravel() for term in terms], axis=1)
    smooth = ndimage.gaussian_filter(mean, min(height, width) / 16)
    fit = np.linalg.lstsq(basis, np.log(np.maximum(smooth[step].ravel(), 0.05)), rcond=None)[0]
    light = np.exp(sum(float(weight) * term for weight, term in zip(fit, terms, strict=True)))
    return np.asarray(light / light.max(), dtype=np.float32)
