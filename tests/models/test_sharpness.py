"""The sharpness model: metrics in detail, an honest abstention, an sd of the right size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.ndimage as ndi
from numpy.typing import NDArray

from parfocal.models import make_model
from parfocal.models.base import ImageError, Model, ModelError
from parfocal.models.metrics import METRICS
from parfocal.models.sharpness import DEFAULT_METRICS

RNG = np.random.default_rng(7)


def sample(side: int = 256, light: float = 1000.0, blur_px: float = 1.5, seed: int = 0) -> NDArray[np.uint16]:
    """Beads of equal light on a background of 100; `light` is about the count of a lone one."""
    rng = np.random.default_rng(seed)
    field = ndi.gaussian_filter((rng.random((side, side)) < 0.01).astype(float), blur_px)
    return rng.poisson(100 + light * field * 2 * np.pi * blur_px**2).astype(np.uint16)


def vignette(side: int) -> NDArray[np.float64]:
    y, x = np.indices((side, side)) / (side / 2) - 1
    return np.asarray(np.exp(-(x**2 + y**2) / 2 / 0.9**2))


def test_it_is_a_model_with_the_scores_of_the_baselines() -> None:
    model = make_model("sharpness", {})
    assert isinstance(model, Model)
    (assessment,) = model.assess(sample(), 0.3)
    assert assessment.model == "sharpness"
    assert not assessment.abstained
    assert set(DEFAULT_METRICS) <= set(assessment.detail)
    assert {"edges", "jaf", "midband"} <= set(assessment.detail)
    assert assessment.value == assessment.detail["midband"]
    assert 0 < assessment.sd < assessment.value


def test_options_choose_the_value_and_the_metrics() -> None:
    (assessment,) = make_model("sharpness", {"metric": "edges", "metrics": ["dcts"]}).assess(sample(), 0.3)
    assert assessment.value == assessment.detail["edges"] == float(METRICS["edges"](sample())[0])
    assert "jaf" not in assessment.detail
    (everything,) = make_model("sharpness", {"metrics": "all"}).assess(sample(), 0.3)
    assert set(METRICS) <= set(everything.detail)
    assert np.isfinite(list(everything.detail.values())).all()


def test_a_batch_is_assessed_frame_by_frame() -> None:
    model = make_model("sharpness", {})
    batch = np.stack([sample(96, seed=1), sample(96, seed=2)])
    together = model.assess(batch, 0.3)
    for assessment, image in zip(together, batch, strict=True):
        (alone,) = model.assess(image, 0.3)
        assert assessment.value == pytest.approx(alone.value, rel=1e-6)
        assert assessment.sd == pytest.approx(alone.sd, rel=1e-5)


@pytest.mark.parametrize(
    ("kind", "frame"),
    [
        ("shot noise", RNG.poisson(100, (512, 512)).astype(np.uint16)),
        ("read noise", (100 + RNG.normal(0, 1.6, (300, 200))).astype(np.uint16)),
        ("float", RNG.normal(10, 2, (128, 128)).astype(np.float32)),
        ("few photons", RNG.poisson(0.1, (256, 256)).astype(np.uint16)),
        ("vignetted", RNG.poisson(2000 * vignette(512)).astype(np.uint16)),
        ("hot pixels", (RNG.poisson(200, (512, 512)) + 3000 * (RNG.random((512, 512)) < 1e-4)).astype(np.uint16)),
        ("flat", np.full((64, 64), 117, np.uint8)),
        ("dark", np.zeros((64, 64), np.uint16)),
        ("small", RNG.poisson(100, (32, 40)).astype(np.uint16)),
    ],
)
def test_empty_frames_are_abstained_from(kind: str, frame: NDArray[Any]) -> None:
    (assessment,) = make_model("sharpness", {}).assess(frame, 0.3)
    assert assessment.abstained, assessment.detail
    assert "empty" in assessment.reason
    assert np.isnan(assessment.value)
    assert np.isnan(assessment.sd)
    assert assessment.detail["midband"] >= 0


@pytest.mark.parametrize("side", [32, 64, 160])
def test_empty_fields_are_abstained_from_nearly_always(side: int) -> None:
    model = make_model("sharpness", {})
    batch = np.random.default_rng(11).poisson(50, (200, side, side)).astype(np.uint16)
    assert sum(assessment.abstained for assessment in model.assess(batch, 0.3)) >= 198


@pytest.mark.parametrize("light", [30.0, 300.0, 10000.0])
@pytest.mark.parametrize("blur_px", [1.5, 6.0])
def test_samples_are_not_taken_for_empty(light: float, blur_px: float) -> None:
    model = make_model("sharpness", {})
    assert not any(model.assess(sample(256, light, blur_px, seed), 0.3)[0].abstained for seed in range(10))


def test_saturated_frames_are_abstained_from() -> None:
    frame = np.minimum(sample(light=50.0), 254).astype(np.uint8)
    frame[:10] = 255
    (assessment,) = make_model("sharpness", {}).assess(frame, 0.3)
    assert assessment.abstained
    assert "saturated: 3.9%" in assessment.reason
    assert assessment.detail["saturated_share"] == pytest.approx(10 / 256)


def test_a_12_bit_camera_saturates_where_it_says() -> None:
    frame = np.minimum(sample(light=20000.0), 4095)
    assert not make_model("sharpness", {}).assess(frame, 0.3)[0].abstained
    limited = make_model("sharpness", {"saturation_counts": 4095}).assess(frame, 0.3)[0]
    assert limited.abstained
    assert "saturated" in limited.reason


def test_an_undefined_metric_is_an_abstention() -> None:
    frame = sample().astype(np.float64)
    zero_mean = np.concatenate([frame, -frame])
    (assessment,) = make_model("sharpness", {"metric": "normalized_variance"}).assess(zero_mean, 0.3)
    assert assessment.abstained
    assert assessment.reason == "normalized_variance is undefined for this frame"


@pytest.mark.parametrize("metric", ["midband", "tenengrad", "edges", "variance"])
def test_sd_is_the_scatter_between_fields(metric: str) -> None:
    model = make_model("sharpness", {"metric": metric, "metrics": []})
    found = [model.assess(sample(256, seed=seed), 0.3)[0] for seed in range(60)]
    scatter = np.std([a.value for a in found]) / np.mean([a.value for a in found])
    claimed = np.mean([a.sd / a.value for a in found])
    assert 0.5 < claimed / scatter < 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrik": "edges"}, "unknown option 'metrik'; did you mean 'metric'"),
        ({"metric": "edgse"}, "did you mean 'edges'"),
        ({"metrics": ["brener"]}, "did you mean 'brenner'"),
        ({"metrics": "brenner"}, "must be a list"),
        ({"saturation_counts": -1}, "positive number"),
        ({"min_contrast": float("nan")}, "positive number"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make_model("sharpness", options)


def test_bad_images_are_refused() -> None:
    with pytest.raises(ImageError):
        make_model("sharpness", {}).assess(np.zeros((4, 4, 4, 4)), 0.3)
