"""The model `frc`: a resolution in um, or a reason why there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.models.base import ImageError, Model, ModelError
from parfocal.models.frc import make
from parfocal.models.metrics.frc import FrcStatus, single_image_frc


def sample(light: float = 300.0, blur_px: float = 2.0, seed: int = 0) -> NDArray[np.uint16]:
    rng = np.random.default_rng(seed)
    field = gaussian_filter((rng.random((192, 192)) < 0.02).astype(float), blur_px, mode="wrap")
    return (100 + 2 * rng.poisson(light * field / field.max() + 3)).astype(np.uint16)


def test_value_is_in_um_or_in_px_where_the_pixel_is_unknown() -> None:
    model = make({})
    assert isinstance(model, Model)
    batch = np.stack([sample(), sample(blur_px=3.0)])
    for known, bare, px in zip(
        model.assess(batch, 0.2), model.assess(batch, 0.0), single_image_frc(batch).resolution_px.tolist(), strict=True
    ):
        assert bare.value == bare.detail["resolution_px"] == px
        assert known.value == pytest.approx(0.2 * px)
        assert known.sd == pytest.approx(0.2 * bare.sd)
        assert 0 < bare.sd < px
        assert not known.abstained
        assert known.detail["bound_px"] == 2.0


def test_reference_mode_gives_the_reference_number() -> None:
    (told,) = make({"mode": "reference"}).assess(sample(), 0.0)
    assert told.value == float(single_image_frc(sample(), mode="reference").resolution_px[0])
    assert np.isnan(told.sd)  # not known, which is not zero


def test_censored_frames_are_abstained_from_with_the_bound() -> None:
    clean = gaussian_filter(np.random.default_rng(0).random((128, 128)), 3.0) * 1000
    (told,) = make({}).assess(clean, 0.2)
    assert told.abstained
    assert "censored at 2.00 px" in told.reason
    assert told.detail["censored"] == 1.0
    assert told.detail["bound_px"] == 2.0
    assert np.isnan(told.value)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (np.random.default_rng(0).poisson(100, (128, 128)).astype(np.uint16), "empty"),
        (np.zeros((64, 64), np.uint16), "empty"),
        (np.full((64, 64), 77, np.uint8), "empty"),
        (np.minimum(sample(), 300).astype(np.uint16), "saturated"),
        (np.full((64, 64), 255, np.uint8), "saturated"),
    ],
)
def test_empty_and_saturated_frames_are_abstained_from(frame: NDArray[Any], reason: str) -> None:
    (told,) = make({}).assess(frame, 0.2)
    assert told.abstained
    assert reason in told.reason
    assert np.isnan(told.value)
    assert told.detail["status"] in {float(code) for code in FrcStatus}


def test_saturation_counts_are_heeded() -> None:
    frame = sample(light=600.0)
    assert not make({}).assess(frame, 0.2)[0].abstained
    assert "saturated" in make({"saturation_counts": 200}).assess(frame, 0.2)[0].reason


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mod": "robust"}, "unknown option 'mod'; did you mean 'mode'"),
        ({"mode": "refrence"}, "did you mean 'reference'"),
        ({"saturation_counts": -1}, "positive number"),
        ({"min_contrast": True}, "positive number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(options)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ImageError):
        make({}).assess(np.zeros((16, 16)), 0.2)
