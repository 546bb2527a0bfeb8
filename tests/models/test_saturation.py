from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.saturation import saturated_share


def poisson(mean: float, *, seed: int = 1, shape: tuple[int, int] = (256, 256)) -> NDArray[np.uint16]:
    """A field of structure whose brightest parts lie far above its median."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    structure = 1.0 + 8.0 * np.exp(-((y - 120) ** 2 + (x - 90) ** 2) / 800.0)
    return np.asarray(rng.poisson(mean * structure), dtype=np.uint16)


@pytest.mark.parametrize("mean", [2.0, 30.0, 300.0, 3000.0])
def test_noise_alone_is_not_saturation(mean: float) -> None:
    assert saturated_share(poisson(mean)) < 1e-3


def test_a_twelve_bit_camera_in_a_sixteen_bit_file_is_found() -> None:
    frame = np.minimum(poisson(700.0), 4095)
    share = saturated_share(frame)
    assert share == pytest.approx(float(np.mean(frame == 4095)))
    assert share > 0.01


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_largest_number_of_the_type_is_the_ceiling(dtype: type[np.unsignedinteger]) -> None:
    top = np.iinfo(dtype).max
    frame = np.full((64, 64), top - 5, dtype=dtype)  # near the ceiling, so that "far above the median" does not help
    frame[:8] = top
    assert saturated_share(frame) == pytest.approx(1 / 8)


def test_a_frame_saturated_all_over_is_found() -> None:
    assert saturated_share(np.full((64, 64), 65535, dtype=np.uint16)) == 1.0


def test_a_stated_ceiling_counts_and_nothing_else_does() -> None:
    frame = np.minimum(poisson(700.0), 3000)
    assert saturated_share(frame, 3000.0) > 0.01
    assert saturated_share(frame, 4095.0) == 0.0
    assert saturated_share(np.full((64, 64), 4095, dtype=np.uint16), 4095.0) == 1.0


def test_dim_counts_of_few_steps_say_nothing() -> None:
    rng = np.random.default_rng(3)
    assert saturated_share(rng.poisson(3.0, (128, 128)).astype(np.uint16)) == 0.0


def test_floating_frames_are_taken() -> None:
    frame = np.minimum(poisson(700.0).astype(np.float32), 4095.0)
    assert saturated_share(frame) > 0.01
    assert saturated_share(poisson(700.0).astype(np.float32)) < 1e-3
