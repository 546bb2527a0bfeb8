"""The model `sted_measures`: signal, background, resolution and structure of frames of photon counts."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.models import make_model
from parfocal.models.base import Assessment, ModelError
from parfocal.models.sted_measures import otsu

PIXEL_UM = 0.02


def points(
    fwhm_nm: float, photons: float, *, background: float = 0.2, seed: int = 0, size: int = 128
) -> NDArray[np.uint16]:
    """Random points seen with a Gaussian of this width, the brightest with so many photons."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((size, size))
    truth[tuple(rng.integers(0, size, (2, 150)))] = 1.0
    seen = gaussian_filter(truth, fwhm_nm / 2.3548 / 20.0, mode="wrap")
    return rng.poisson(photons * seen / seen.max() + background).astype(np.uint16)


def assess(image: NDArray[np.generic], **options: object) -> Assessment:
    return make_model("sted_measures", options).assess(image, PIXEL_UM)[0]


def test_says_how_bright_the_foreground_is() -> None:
    image = np.zeros((64, 64))
    image[16:32, 16:48] = 20.0
    seen = np.random.default_rng(0).poisson(image + 2.0).astype(np.uint16)
    found = assess(seen)
    assert found.value == pytest.approx(20.0, abs=1.0)
    assert found.detail["foreground_share"] == pytest.approx(0.125, abs=0.02)
    assert found.detail["background_mean"] == pytest.approx(2.0, abs=0.3)
    assert found.detail["mean_counts"] == pytest.approx(seen.mean())
    assert found.detail["max_counts"] == seen.max()
    assert found.detail["light_counts"] == pytest.approx(20.0 * 0.125, abs=0.35)
    assert 0 < found.sd < 0.5


def test_light_is_linear_in_what_is_left_however_unevenly() -> None:
    """Half of the frame is bleached by 80 %: the foreground moves, the light says how much is gone."""
    rng = np.random.default_rng(1)
    truth = gaussian_filter((rng.random((128, 128)) < 0.002).astype(float), 3) * 2000
    left = truth.copy()
    left[64:] *= 0.2
    before, after = (assess(rng.poisson(image + 0.2).astype(np.uint16)).detail for image in (truth, left))
    gone = 1 - after["light_counts"] / before["light_counts"]
    assert gone == pytest.approx(1 - left.sum() / truth.sum(), abs=0.03)


def test_a_finer_image_has_a_finer_resolution() -> None:
    found = [assess(points(fwhm, 60.0)) for fwhm in (60.0, 120.0, 220.0)]
    nm = [one.detail["resolution_nm"] for one in found]
    assert nm[0] < nm[1] < nm[2]
    assert nm[0] == pytest.approx(60.0, rel=0.5)
    assert all(one.detail["resolution_censored"] == 0.0 and one.detail["resolution_sd_nm"] > 0 for one in found)
    dim = assess(points(60.0, 3.0)).detail["resolution_nm"]
    assert dim > 1.2 * nm[0]  # fewer photons resolve less


def test_pixels_are_the_unit_where_their_size_is_not_known() -> None:
    image = points(100.0, 60.0)
    known = make_model("sted_measures").assess(image, PIXEL_UM)[0].detail["resolution_nm"]
    unknown = make_model("sted_measures").assess(image, 0.0)[0].detail["resolution_nm"]
    assert known == pytest.approx(20.0 * unknown)


@pytest.mark.parametrize("level", [0.05, 0.16, 5.0, 200.0])
def test_noise_alone_is_no_structure_at_any_level(level: float) -> None:
    for seed in range(5):
        noise = np.random.default_rng(seed).poisson(level, (128, 128)).astype(np.uint16)
        found = assess(noise)
        assert found.abstained
        assert found.detail["structured"] == 0.0
        assert "no structure" in found.reason


def test_dim_structure_is_structure() -> None:
    found = assess(points(100.0, 2.0, background=0.1))
    assert not found.abstained
    assert found.detail["structured"] == 1.0


def test_what_cannot_be_judged_is_said_with_its_numbers() -> None:
    empty = assess(np.zeros((64, 64), dtype=np.uint16))
    assert empty.abstained
    assert "all pixels are the same" in empty.reason
    assert empty.detail["resolution_censored"] == -1.0
    assert np.isnan(empty.detail["resolution_nm"])
    bright = np.minimum(points(100.0, 4000.0), 300).astype(np.uint16)
    clipped = assess(bright, saturation_counts=300)
    assert clipped.abstained
    assert clipped.reason.startswith("saturated")
    assert clipped.detail["saturated_share"] > 0.01
    assert "foreground_mean" in clipped.detail


def test_gain_and_offset_are_taken_off() -> None:
    image = points(100.0, 40.0)
    plain, scaled = assess(image), assess(image * 4 + 100, gain=4.0, offset=100.0)
    assert scaled.value == pytest.approx(plain.value)
    assert scaled.detail["resolution_nm"] == pytest.approx(plain.detail["resolution_nm"])


def test_an_assessment_does_not_depend_on_its_batch() -> None:
    model = make_model("sted_measures")
    images = np.stack([points(80.0, 30.0, seed=seed) for seed in range(3)])
    together = model.assess(images, PIXEL_UM)
    assert [model.assess(image, PIXEL_UM)[0].detail for image in images] == [one.detail for one in together]


def test_otsu_separates_two_levels() -> None:
    values = np.concatenate([np.full(900, 1.0), np.full(100, 9.0)]) + np.random.default_rng(0).normal(0, 0.3, 1000)
    assert 1.5 < otsu(values) < 8.0
    assert otsu(np.ones(10)) == 1.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gian": 1}, "did you mean 'gain'"),
        ({"gain": 0}, "'gain' must be a positive number"),
        ({"offset": "much"}, "'offset' must be a finite number"),
        ({"decorrelation": 1}, "true or false"),
        ({"min_dispersion": -1}, "min_dispersion"),
    ],
)
def test_options_are_checked(options: dict[str, object], said: str) -> None:
    with pytest.raises(ModelError, match=said):
        make_model("sted_measures", options)
