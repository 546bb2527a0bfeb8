from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.models.restore.levels import Levels, bent, block_means, quantiles


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(1, 33), st.integers(0, 5))
def test_block_means_are_those_of_each_square(height: int, width: int, side: int, seed: int) -> None:
    image = np.random.default_rng(seed).normal(0.0, 3.0, (height, width)).astype(np.float32)
    means = block_means(image, side)
    assert means.dtype == np.float32
    for row in range(0, height, side):
        for column in range(0, width, side):
            expected = image[row : row + side, column : column + side].mean(dtype=np.float64)
            assert means[row // side, column // side] == pytest.approx(expected, abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.floats(0.0, 100.0), min_size=1, max_size=4))
def test_quantiles_are_numpys_percentiles(height: int, width: int, percents: list[float]) -> None:
    image = np.random.default_rng(1).random((2 * height, 3 * width), dtype=np.float32)[::2, ::3]
    assert np.allclose(quantiles(image, percents), np.percentile(image, percents), atol=1e-6)


def test_no_plane_is_bent() -> None:
    plane = torch.arange(40.0)[:, None] + 3.0 * torch.arange(50.0)
    assert not bent(plane, 0).any() and not bent(plane, 1).any()
    assert torch.all(bent(plane[:1].square(), 1) == 18.0)


@pytest.mark.parametrize("shape", [(128, 128), (67, 145)])
def test_noise_is_told_from_one_frame(shape: tuple[int, int]) -> None:
    light = 300.0 + 200.0 * np.sin(np.arange(shape[1]) / 20.0) * np.ones((shape[0], 1))
    noisy = (light + np.random.default_rng(2).normal(0.0, 7.0, shape)).astype(np.float32)
    assert Levels.of(noisy).noise_sd == pytest.approx(7.0, rel=0.1)
