from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.models.quality_scaling import LIMIT, paper_scale, scale


def field(seed: int, noise: float = 8.0, side: int = 96) -> NDArray[np.float32]:
    """Bright discs on a dim background, with noise, in counts of about 100 to 1100."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 100.0)
    for cy, cx in rng.uniform(0, side, (8, 2)):
        image[np.hypot(y - cy, x - cx) < 7] = 1000.0
    return (image + noise * rng.standard_normal(image.shape)).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.5, 2.0), offset=st.floats(0.0, 500.0))
def test_gain_and_offset_leave_no_trace(seed: int, gain: float, offset: float) -> None:
    counts = field(seed)
    moved = scale(counts * np.float32(gain) + np.float32(offset))
    torch.testing.assert_close(moved, scale(counts), rtol=0.0, atol=2e-4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), gain=st.floats(0.5, 2.0), offset=st.integers(0, 500))
def test_in_whole_counts_they_leave_their_rounding(seed: int, gain: float, offset: int) -> None:
    counts = np.round(field(seed))
    moved = np.round(counts * gain + offset).astype(np.uint16)
    difference = (scale(moved) - scale(counts.astype(np.uint16))).abs().max()
    assert difference < 3.0 / (1000.0 * gain) + 1e-4


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), hot=st.integers(1, 5), height=st.floats(2_000, 65_000))
def test_hot_pixels_move_no_other_pixel(seed: int, hot: int, height: float) -> None:
    counts = field(seed)
    spoilt = counts.copy()
    where = np.random.default_rng(seed).choice(counts.size // 7, hot, replace=False) * 7
    spoilt.flat[where] = height
    difference = (scale(spoilt) - scale(counts)).abs().numpy()[0, 0]
    difference.flat[where] = 0.0
    # An order statistic moves by a rank or so, which is less than the noise.
    assert difference.max() < 0.02
    assert float(scale(spoilt).max()) <= LIMIT


def test_the_papers_scaling_follows_a_hot_pixel() -> None:
    counts = field(1)
    spoilt = counts.copy()
    spoilt[3, 3] = 60_000
    assert float((paper_scale(spoilt) - paper_scale(counts)).abs().mean()) > 0.05


def test_background_is_near_zero_and_structures_near_one() -> None:
    counts = field(2, noise=2.0)
    scaled = scale(counts)[0, 0].numpy()
    assert np.median(scaled[counts < 200]) == pytest.approx(0.0, abs=0.01)
    assert np.median(scaled[counts > 800]) == pytest.approx(1.0, abs=0.15)


def test_noise_stays_as_large_as_it_is_beside_the_signal() -> None:
    found = []
    for noise in (5.0, 20.0, 80.0):
        counts = field(3, noise=noise, side=256)
        found.append(float(scale(counts)[0, 0][torch.from_numpy(field(3, noise=0.0, side=256) < 200)].std()))
    assert found[1] / found[0] == pytest.approx(4.0, rel=0.2)
    assert found[2] / found[1] == pytest.approx(4.0, rel=0.35)


def test_a_structure_in_one_block_of_fifty_sets_the_scale() -> None:
    counts = np.random.default_rng(0).normal(100.0, 1.0, (256, 256)).astype(np.float32)
    counts[40:80, 40:80] += 1000.0  # 25 of 1024 blocks
    assert float(scale(counts).max()) == pytest.approx(1.0, abs=0.05)


def test_with_less_than_that_the_frame_is_scaled_to_its_noise_and_the_structure_is_held() -> None:
    counts = np.random.default_rng(0).normal(100.0, 1.0, (256, 256)).astype(np.float32)
    counts[40:56, 40:48] += 1000.0
    scaled = scale(counts)[0, 0]
    assert float(scaled[44, 44]) == LIMIT
    assert 0.1 < float(scaled[100:, 100:].std()) < 0.5


def test_frames_are_scaled_each_by_itself() -> None:
    one, two = field(4), field(5) * 3 + 200
    together = scale(np.stack([one, two]))
    assert together.shape == (2, 1, 96, 96)
    torch.testing.assert_close(together[0], scale(one)[0])
    torch.testing.assert_close(together[1], scale(two)[0])


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_a_constant_frame_is_zero(value: int) -> None:
    frame = np.full((64, 64), value, dtype=np.uint16)
    assert float(scale(frame).abs().max()) == 0.0
    assert float(paper_scale(frame).abs().max()) == 0.0


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64, ">u2"])
def test_any_real_type_scales_alike(kind: str) -> None:
    counts = np.clip(np.round(field(6) / 6), 0, 255)
    torch.testing.assert_close(scale(counts.astype(kind)), scale(counts.astype(np.float32)))
    held = torch.from_numpy(counts.astype(np.float32))
    torch.testing.assert_close(scale(held), scale(counts))


def test_the_callers_frame_is_left_alone() -> None:
    counts = torch.from_numpy(field(7))
    before = counts.clone()
    scale(counts)
    torch.testing.assert_close(counts, before)


def test_what_is_no_batch_of_frames_is_refused() -> None:
    for shape in ((4, 64), (2, 3, 64, 64), (64,)):
        with pytest.raises(ValueError, match="expected frames"):
            scale(np.zeros(shape, dtype=np.float32))
