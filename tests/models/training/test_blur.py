from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.defocus_net import BLUR_MAX_PX
from parfocal.models.training.blur import HELD_OUT_NA, Blurrer, Scene, random_optics, random_scene
from parfocal.models.training.evaluate_defocus import HELD_OUT_OPTICS
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

SIDE = 256


@pytest.fixture(scope="module")
def blurrer() -> Blurrer:
    return Blurrer(SIDE)


@pytest.fixture(scope="module")
def specimen() -> NDArray[np.float32]:
    return make_specimen("nuclei", (SIDE, SIDE), pixel_um=0.3, seed=3)


def scene(optics: Optics, blur_px: float = 0.0, **values: object) -> Scene:
    defocus_um = blur_px / optics.blur_px_per_um
    plain = Scene(optics, defocus_um, blur_px, optics.spherical_waves, ((0.0, 1.0),), transmitted=False)
    return replace(plain, **values)  # type: ignore[arg-type]


def test_held_out_apertures_are_never_drawn_and_are_those_of_the_tables() -> None:
    rng = np.random.default_rng(1)
    drawn = np.asarray([random_optics(rng).na for _ in range(4000)])
    for low, high in HELD_OUT_NA:
        assert not np.any((drawn >= low) & (drawn <= high))
        # Both neighbours are drawn, so the gap is one, and not the end of the range.
        assert np.any((drawn > low - 0.1) & (drawn < low))
        assert np.any((drawn > high) & (drawn < high + 0.1))
    assert all(any(low <= optics.na <= high for low, high in HELD_OUT_NA) for optics in HELD_OUT_OPTICS)


def test_scenes_hold_together() -> None:
    rng = np.random.default_rng(2)
    drawn = [random_scene(rng) for _ in range(1500)]
    blur = np.asarray([one.blur_px for one in drawn])
    assert np.mean(blur > 0) == pytest.approx(0.5, abs=0.05)
    assert 150 < np.abs(blur).max() <= BLUR_MAX_PX
    assert np.mean(np.abs(blur) < 40) > 0.5
    for one in drawn:
        assert abs(one.blur_px) == pytest.approx(one.optics.blur_diameter_px(one.defocus_um))
        assert np.sign(one.blur_px) == np.sign(one.defocus_um)
        assert one.spherical_waves == one.optics.spherical_waves
        assert sum(weight for _, weight in one.layers) == pytest.approx(1.0)
        assert sum(offset * weight for offset, weight in one.layers) == pytest.approx(0.0, abs=1e-9)
        assert not (one.transmitted and one.optics.zernike_waves)
    assert 0.02 < np.mean([one.transmitted for one in drawn]) < 0.12


@pytest.mark.parametrize("cutoff", [0.45, 0.9, 1.4])
@pytest.mark.parametrize("blur_px", [0.0, 4.0, -4.0, 25.0])
def test_the_quick_transfer_is_that_of_the_imager(blurrer: Blurrer, cutoff: float, blur_px: float) -> None:
    # Two ways to one physics, folding at the camera's Nyquist frequency included: Hankel table, and pupil transform.
    optics = Optics(na=0.6, pixel_um=cutoff * 0.52 / 1.2, depth_um=5.0, zernike_waves={(4, 0): 0.05, (2, 2): 0.0})
    one = scene(optics, blur_px)
    quick = blurrer.transfer(one, one.defocus_um)
    slow = Imager(optics, (SIDE, SIDE)).transfer(one.defocus_um)
    assert float(np.sqrt(np.mean(np.abs(quick - slow) ** 2))) < 0.012
    np.testing.assert_allclose(quick, slow, atol=0.05)
    assert quick[0, 0] == pytest.approx(1.0, abs=1e-3)


def test_astigmatic_scenes_are_imaged_by_the_full_pupil(blurrer: Blurrer) -> None:
    optics = Optics(na=0.6, pixel_um=0.2, zernike_waves={(2, 2): 0.15})
    one = scene(optics, 6.0)
    found = blurrer.transfer(one, one.defocus_um)
    np.testing.assert_array_equal(found, Imager(optics, (SIDE, SIDE)).transfer(one.defocus_um))
    assert not np.allclose(np.abs(found[20, 0]), np.abs(found[0, 20]), atol=0.02)


def test_layers_are_imaged_each_at_its_own_depth(blurrer: Blurrer) -> None:
    optics = Optics(na=0.6, pixel_um=0.2)
    layered = scene(optics, 5.0, layers=((-1.0, 0.25), (1.0 / 3.0, 0.75)))
    plain = scene(optics)
    z = layered.defocus_um
    expected = 0.25 * blurrer.transfer(plain, z - 1.0) + 0.75 * blurrer.transfer(plain, z + 1.0 / 3.0)
    np.testing.assert_allclose(blurrer.transfer(layered, z), expected, atol=2e-3)


@pytest.mark.parametrize("blur_px", [0.0, 20.0, -120.0])
def test_fluorescence_conserves_light_and_tells_the_sharp_peak(
    blurrer: Blurrer, specimen: NDArray[np.float32], blur_px: float
) -> None:
    one = scene(Optics(na=0.6, pixel_um=0.3), blur_px)
    image, peak = blurrer.fluorescence(specimen, one)
    assert image.shape == specimen.shape
    assert image.min() >= 0.0
    assert image.mean() == pytest.approx(specimen.mean(), rel=0.01)
    sharp, _ = blurrer.fluorescence(specimen, scene(one.optics))
    assert peak == pytest.approx(float(np.percentile(sharp, 99.95)), rel=0.05)
    if blur_px:
        assert image.std() < 0.95 * sharp.std()


def test_bright_field_of_nothing_is_even_and_of_something_is_not(
    blurrer: Blurrer, specimen: NDArray[np.float32]
) -> None:
    optics = Optics(na=0.5, pixel_um=0.3)
    one = scene(optics, 10.0, transmitted=True)
    nothing = np.zeros_like(specimen)
    even = blurrer.transmitted(nothing, nothing, one, np.random.default_rng(1))
    np.testing.assert_allclose(even, 1.0, atol=1e-4)
    shown = blurrer.transmitted(specimen, specimen, one, np.random.default_rng(1))
    assert shown.min() >= 0.0
    assert shown.std() > 0.02

    # A pure phase object hardly shows in focus and does out of focus.
    def contrast(blur_px: float) -> float:
        view = replace(one, defocus_um=blur_px / optics.blur_px_per_um)
        return float(blurrer.transmitted(nothing, specimen, view, np.random.default_rng(4)).std())

    assert contrast(6.0) > 1.5 * contrast(0.0)
