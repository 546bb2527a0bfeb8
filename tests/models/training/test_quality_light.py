from __future__ import annotations

import numpy as np

from parfocal.models.training.degradations import illumination
from parfocal.models.training.fields import Field
from parfocal.models.training.quality_light import flattened


def uneven_fields(count: int) -> list[Field]:
    """Random blocks under a light that leaves a third in the corners."""
    rng = np.random.default_rng(0)
    light = illumination((160, 160), 0.45)
    return [
        Field((np.kron(rng.random((20, 20)), np.ones((8, 8))) * light).astype(np.float32), str(index), "lit")
        for index in range(count)
    ]


def test_uneven_light_is_taken_out_of_many_fields() -> None:
    flat = np.mean([field.image for field in flattened(uneven_fields(60))], axis=0)
    raw = np.mean([field.image for field in uneven_fields(60)], axis=0)
    for image, low, high in ((raw, 0.0, 0.45), (flat, 0.8, 1.25)):
        corners = np.mean([image[r : r + 20, c : c + 20].mean() for r in (0, 140) for c in (0, 140)])
        assert low < corners / image[60:100, 60:100].mean() < high


def test_few_fields_are_left_as_they_are() -> None:
    few = uneven_fields(5)
    for before, after in zip(few, flattened(few), strict=True):
        np.testing.assert_array_equal(before.image, after.image)
