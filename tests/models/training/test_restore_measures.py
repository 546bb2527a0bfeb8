"""Likeness of images to a truth, before and after an affine fit, and what a stated sd is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.models.training.restore_measures import affine_fit, likeness, sd_honesty, truth_span

RNG = np.random.default_rng(3)
TRUTH = np.add.outer(np.arange(64.0), np.arange(64.0)) + 20.0 * RNG.random((64, 64))


def test_the_range_is_that_of_the_truth() -> None:
    assert truth_span(np.asarray([[3.0, 10.0], [4.0, 5.0]])) == 7.0
    assert truth_span(np.ones((4, 4))) > 0.0  # nothing is divided by zero


def test_psnr_is_that_of_its_formula_and_no_fit_is_made_of_the_image_as_it_is() -> None:
    found = likeness({"off": TRUTH + 5.0, "same": TRUTH + RNG.normal(0.0, 1e-3, TRUTH.shape)}, TRUTH)
    span = TRUTH.max() - TRUTH.min()
    assert found["off"]["psnr"] == pytest.approx(20 * np.log10(span / 5.0))
    assert found["off"]["psnr_fit"] > 200.0
    assert found["off"]["pcc"] == pytest.approx(1.0)
    assert found["same"]["ssim"] == pytest.approx(1.0, abs=1e-4)
    assert found["off"]["ssim"] < found["off"]["ssim_fit"]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.01, 100.0), st.floats(-1000.0, 1000.0))
def test_a_fit_takes_gain_and_offset_out(gain: float, offset: float) -> None:
    image = TRUTH + RNG.normal(0.0, 3.0, TRUTH.shape)
    assert np.allclose(affine_fit(image, TRUTH), affine_fit(gain * image + offset, TRUTH), atol=1e-6)


def test_a_fit_is_the_least_squares_one() -> None:
    image = TRUTH + RNG.normal(0.0, 30.0, TRUTH.shape)
    slope, level = np.polyfit(image.ravel(), TRUTH.ravel(), 1)
    assert np.allclose(affine_fit(image, TRUTH), slope * image + level)
    assert np.allclose(affine_fit(np.full_like(TRUTH, 7.0), TRUTH), TRUTH.mean())


def test_another_range_may_be_given() -> None:
    image = TRUTH + 1.0
    narrow, wide = likeness({"a": image}, TRUTH, 10.0)["a"], likeness({"a": image}, TRUTH, 100.0)["a"]
    assert wide["psnr"] - narrow["psnr"] == pytest.approx(20.0)


def test_a_right_sd_ranks_squares_better_than_pixels_and_is_right_in_size() -> None:
    sd = np.exp(np.repeat(np.repeat(RNG.normal(0.0, 1.0, (16, 16)), 8, 0), 8, 1))
    error = RNG.normal(0.0, 1.0, sd.shape) * sd
    shown = np.ones(sd.shape, dtype=bool)
    found = sd_honesty(sd, error, shown)
    assert found["sd_squares"] > 0.95 > found["sd_pixels"] > 0.4
    assert found["sd_ratio"] == pytest.approx(1.0, abs=0.1)
    assert sd_honesty(2.0 * sd, error, shown)["sd_ratio"] == pytest.approx(0.5, abs=0.05)
    assert abs(sd_honesty(RNG.permutation(sd.ravel()).reshape(sd.shape), error, shown)["sd_pixels"]) < 0.05


def test_pixels_that_are_the_frames_own_do_not_count() -> None:
    sd = np.exp(np.repeat(np.repeat(RNG.normal(0.0, 1.0, (16, 16)), 8, 0), 8, 1))
    error = RNG.normal(0.0, 1.0, sd.shape) * sd
    shown = np.zeros(sd.shape, dtype=bool)
    shown[:, :64] = True
    spoilt = np.where(shown, error, 1000.0 / sd)
    assert sd_honesty(sd, spoilt, shown)["sd_pixels"] == sd_honesty(sd, error, shown)["sd_pixels"] > 0.4
    assert sd_honesty(sd, spoilt, shown)["sd_squares"] > 0.95


def test_an_sd_that_says_nothing_has_no_rank() -> None:
    flat = np.ones((64, 64))
    assert np.isnan(sd_honesty(flat, TRUTH, flat > 0)["sd_pixels"])
    assert np.isnan(sd_honesty(TRUTH, TRUTH, flat < 0)["sd_squares"])
