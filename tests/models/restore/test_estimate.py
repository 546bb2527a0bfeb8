from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from parfocal.models.base import Assessment
from parfocal.models.restore.estimate import KEPT, BlurEstimator, NotEstimatedError, blur_of
from parfocal.simulator.optics import Optics
from tests.models.restore.test_deconvolution import OPTICS, frame_and_truth


def test_the_blur_is_about_the_true_one() -> None:
    frame, _, blur = frame_and_truth("nuclei", 3.0, 2000.0)
    told = BlurEstimator({"threads": 1}).blur(frame, OPTICS)
    assert abs(told.defocus_um) == pytest.approx(abs(blur.defocus_um), rel=0.35)
    assert told.optics == OPTICS and told.sd_um > 0


def test_an_empty_field_is_not_guessed() -> None:
    blank = np.random.default_rng(0).poisson(100.0, (192, 192)).astype(np.uint16)
    with pytest.raises(NotEstimatedError, match="cannot be told: no structure"):
        BlurEstimator({"threads": 1}).blur(blank, OPTICS)


def test_unknown_optics_are_not_guessed() -> None:
    with pytest.raises(NotEstimatedError, match="--na"):
        BlurEstimator().blur(np.zeros((64, 64)), None)


def test_a_blur_in_pixels_is_no_blur_in_micrometres() -> None:
    with pytest.raises(NotEstimatedError, match="pixels only"):
        blur_of(Assessment("defocus", 8.0, 1.0, detail={"in_um": 0.0}), Optics())


def test_no_more_models_are_held_than_are_of_use() -> None:
    frame, _, _ = frame_and_truth("nuclei", 3.0, 2000.0)
    estimator = BlurEstimator({"threads": 1})
    for number in range(KEPT + 2):
        estimator.blur(frame, replace(OPTICS, emission_um=0.5 + 0.01 * number))
    assert len(estimator._models) == KEPT
