from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from parfocal.models.training.degradations import (
    ARTEFACTS,
    MAX_LEVEL,
    NOISES,
    PEAK,
    TABLE1,
    TABLE2_LEVELS,
    MixedNoise,
    degrade,
    gaussian_blur,
    illumination,
    parameter,
    scaled,
    shot_noise,
    vary,
)

Image = NDArray[np.float32]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def clean() -> Image:
    """Discs of all sizes on a faint background."""
    y, x = np.mgrid[:128, :128]
    image = np.full((128, 128), 0.05)
    for cy, cx, r in rng(1).uniform((0, 0, 2), (128, 128, 9), (20, 3)):
        image[np.hypot(y - cy, x - cx) < r] += 0.4
    return image.astype(np.float32)


# Parameters


def test_the_five_levels_are_those_of_the_papers_second_table() -> None:
    assert [parameter("blur", level) for level in TABLE2_LEVELS] == pytest.approx([1.0, 2.75, 4.5, 6.25, 8.0])
    assert [parameter("vignetting", level) for level in TABLE2_LEVELS] == pytest.approx([0.6, 0.5, 0.4, 0.3, 0.2])


@pytest.mark.parametrize(
    ("artefact", "least", "worst"), [("dark", 0.3, 0.5), ("readout", 0.7, 1.5), ("shot", 1.0, 5.0)]
)
def test_the_noises_span_the_papers_first_table(artefact: str, least: float, worst: float) -> None:
    assert (parameter(artefact, 0.0), parameter(artefact, 1.0)) == pytest.approx((least, worst))
    assert parameter(artefact, -1.0) == pytest.approx(0.005)


@pytest.mark.parametrize("artefact", TABLE1)
def test_a_higher_level_is_worse_without_a_jump(artefact: str) -> None:
    levels = np.linspace(-0.999, MAX_LEVEL, 400)
    values = np.asarray([parameter(artefact, float(level)) for level in levels])
    worse = 1.0 / values**2 if artefact == "vignetting" else values
    assert (np.diff(worse) > 0).all()
    assert np.diff(np.log(values[levels > -0.9])).max() < 0.1


def test_without_a_vignette_or_a_blur_nothing_is_left_of_them(clean: Image) -> None:
    np.testing.assert_array_equal(illumination(clean.shape, parameter("vignetting", -1.0)), 1.0)
    assert parameter("blur", -1.0) == 0.0
    np.testing.assert_array_equal(gaussian_blur(clean, 0.0), clean)


@pytest.mark.parametrize(("artefact", "level"), [("blur", -1.1), ("blur", MAX_LEVEL + 0.1), ("blur", float("nan"))])
def test_a_level_out_of_range_is_refused(artefact: str, level: float) -> None:
    with pytest.raises(ValueError, match="level must lie"):
        parameter(artefact, level)


@pytest.mark.parametrize("artefact", ["reference", "coma"])
def test_what_has_no_parameter_is_refused(artefact: str) -> None:
    with pytest.raises(ValueError, match="no free parameter"):
        parameter(artefact, 0.5)


# Clean images


@pytest.mark.parametrize("factor", [1e-3, 1.0, 4e4])
def test_any_scale_of_a_clean_image_is_the_same_image(clean: Image, factor: float) -> None:
    told = scaled(clean * np.float32(factor))
    np.testing.assert_allclose(told, scaled(clean), rtol=1e-5)
    assert np.percentile(told, 99.9) == pytest.approx(PEAK, rel=1e-5)


def test_of_few_bright_pixels_the_brightest_counts() -> None:
    image = np.zeros((128, 128), dtype=np.float32)
    image[5, 5] = 0.3
    assert scaled(image).max() == pytest.approx(PEAK)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_what_is_no_clean_image_is_refused(clean: Image, value: float) -> None:
    spoilt = clean * 0 if value == 0.0 else clean.copy()
    spoilt[0, 0] = value
    with pytest.raises(ValueError, match="clean image"):
        scaled(spoilt)


# Noise


def test_shot_noise_has_the_mean_of_the_light_and_alpha_times_its_variance() -> None:
    for alpha in (0.005, 1.0, 5.0):
        for light in (0.5, 5.0):
            drawn = shot_noise(np.full((400, 400), light, dtype=np.float32), alpha, rng())
            spread = np.sqrt(alpha * light / drawn.size)
            assert drawn.mean() == pytest.approx(light, abs=5 * spread)
            assert drawn.var() == pytest.approx(alpha * light, rel=0.05)


def test_mixed_noise_adds_its_three_parts() -> None:
    drawn = MixedNoise(dark=0.4, readout=1.0, shot=2.0).on(np.full((400, 400), 3.0, dtype=np.float32), rng())
    assert drawn.mean() == pytest.approx(3.4, abs=0.05)
    assert drawn.var() == pytest.approx(0.4 + 1.0 + 6.0, rel=0.03)
    quiet = MixedNoise(dark=0.4, readout=0.0, shot=0.0).on(np.zeros((200, 200), dtype=np.float32), rng())
    assert set(np.unique(quiet)) >= {0.0, 1.0, 2.0}
    assert np.mean(quiet == 0.0) == pytest.approx(np.exp(-0.4), abs=0.02)


# Images


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_a_seed_says_it_all_and_negative_values_are_removed(clean: Image, artefact: str) -> None:
    one, two, other = (degrade(clean, artefact, rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert one.dtype == np.float32
    assert one.shape == clean.shape
    assert one.min() >= 0.0


@pytest.mark.parametrize("artefact", TABLE1)
def test_levels_are_drawn_over_the_whole_of_the_first_table(clean: Image, artefact: str) -> None:
    far = [float(np.abs(degrade(clean, artefact, rng(seed)) - scaled(clean)).mean()) for seed in range(60)]
    least, worst = (float(np.abs(degrade(clean, artefact, rng(9), level=x) - scaled(clean)).mean()) for x in (0.0, 1.0))
    assert least * 0.9 < min(far) < least + 0.25 * (worst - least)
    assert worst * 1.1 > max(far) > worst - 0.25 * (worst - least)


@pytest.mark.parametrize("artefact", TABLE1)
def test_the_worst_level_is_farther_from_clean_than_the_least_and_that_than_the_reference(
    clean: Image, artefact: str
) -> None:
    def far(image: Image) -> float:
        return float(np.sqrt(np.mean((image - scaled(clean)) ** 2)))

    found = [far(degrade(clean, artefact, rng(5), level=level)) for level in TABLE2_LEVELS]
    assert found == sorted(found)
    assert far(degrade(clean, "reference", rng(5))) < 0.5 * found[0]


@pytest.mark.parametrize("artefact", NOISES)
def test_content_survives_the_worst_noise(clean: Image, artefact: str) -> None:
    image = degrade(clean, artefact, rng(6), level=1.0)
    smooth, truth = (ndimage.gaussian_filter(each, 2.0) for each in (image, scaled(clean)))
    assert np.corrcoef(smooth.ravel(), truth.ravel())[0, 1] > 0.8
    assert np.corrcoef(image.ravel(), scaled(clean).ravel())[0, 1] < 0.95


def test_noise_free_images_hold_no_noise(clean: Image) -> None:
    for artefact in ("reference", "blur", "vignetting"):
        one, two = (degrade(clean, artefact, rng(seed), level=0.5, noise_free=True) for seed in (1, 2))
        np.testing.assert_array_equal(one, two)
    with pytest.raises(ValueError, match="free of noise"):
        degrade(clean, "shot", rng(), noise_free=True)


def test_the_references_noise_can_be_that_of_the_second_table(clean: Image) -> None:
    quiet, loud = (
        degrade(clean, "reference", rng(2), reference_noise=noise) - scaled(clean) for noise in (0.005, 0.05)
    )
    assert loud.std() / quiet.std() == pytest.approx(np.sqrt(10.0), rel=0.15)


def test_an_unknown_artefact_is_refused(clean: Image) -> None:
    with pytest.raises(ValueError, match="unknown artefact"):
        degrade(clean, "coma", rng())


# Blur and light


@pytest.mark.parametrize("sigma", [1.0, 3.3, 8.0])
def test_the_blur_is_the_convolution_with_a_gaussian(clean: Image, sigma: float) -> None:
    expected = ndimage.gaussian_filter(clean.astype(np.float64), sigma, mode="reflect", truncate=8.0)
    np.testing.assert_allclose(gaussian_blur(clean, sigma), expected, atol=2e-3)
    assert gaussian_blur(clean, sigma).sum() == pytest.approx(clean.sum(), rel=1e-4)


@pytest.mark.parametrize("shape", [(64, 64), (64, 96), (97, 65)])
def test_light_falls_off_as_a_gaussian_from_the_middle(shape: tuple[int, int]) -> None:
    mask = illumination(shape, 0.3)
    assert mask.max() == pytest.approx(1.0)
    assert mask.shape == shape
    middle = tuple((n - 1) // 2 for n in shape)
    away = round(0.3 * max(shape))
    drop = mask[middle[0], min(shape[1] - 1, middle[1] + away)] / mask[middle]
    reached = min(shape[1] - 1, middle[1] + away) - middle[1]
    assert drop == pytest.approx(np.exp(-0.5 * (reached / (0.3 * max(shape))) ** 2), rel=0.05)


def test_light_may_have_its_middle_elsewhere() -> None:
    mask = illumination((64, 64), 0.3, (0.25, -0.25))
    row, column = np.unravel_index(np.argmax(mask), mask.shape)
    assert (row, column) == (pytest.approx(47.5, abs=1), pytest.approx(15.5, abs=1))


# Images that get worse downwards


def test_blur_grows_downwards_by_the_third_table(clean: Image) -> None:
    tall = np.tile(clean, (4, 1))
    image, sigma = vary(tall, "blur", rng())
    np.testing.assert_allclose(sigma, 0.02 * np.arange(512), rtol=1e-5)
    for row in (100, 260, 500):
        exact = gaussian_blur(scaled(tall), float(sigma[row]))[row]
        # Noise has variance 0.01 + 0.005 s; interpolating between two blurs errs by less.
        assert np.sqrt(np.mean((image[row] - exact) ** 2)) < 0.25


def test_noise_grows_downwards_by_the_third_table() -> None:
    flat = np.full((512, 400), 2.0, dtype=np.float32)
    image, truth = vary(flat, "noise", rng())
    assert (np.diff(truth) > 0).all()
    np.testing.assert_array_equal(image[0], scaled(flat)[0])
    for row in (10, 40, 100):  # further down what is removed below zero begins to count
        wanted = (0.001 + 0.007 + 0.007 * PEAK) * row
        assert image[row - 8 : row + 8].var() == pytest.approx(wanted, rel=0.1)
        assert truth[row] == pytest.approx(np.sqrt(wanted), rel=1e-3)


def test_an_unknown_kind_of_growth_is_refused(clean: Image) -> None:
    with pytest.raises(ValueError, match="kind must be"):
        vary(clean, "haze", rng())  # type: ignore[arg-type]
