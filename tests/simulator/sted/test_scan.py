from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.simulator.sted.canvas import StedCanvas
from parfocal.simulator.sted.dyes import DYES, Dye
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import expected, plan_for, scan
from parfocal.simulator.sted.settings import LIMITS, StedOptics, StedSettings
from parfocal.simulator.sted.truth import fidelity, target, truth


def mean_fidelity(dye: Dye, settings: StedSettings) -> float:
    values = []
    for seed in (21, 22):
        sample = StedSample.make("clusters", (72, 72), seed=seed, dye=dye)
        values.append(fidelity(scan(sample, settings, np.random.default_rng(seed)), sample))
    return float(np.mean(values))


def test_same_seed_same_image_and_the_sample_keeps_what_is_left() -> None:
    images = []
    for _ in range(2):
        sample = StedSample.make("synapses", (48, 40), seed=7)
        images.append(scan(sample, StedSettings(4.0, 100.0, 20.0), np.random.default_rng(5)))
        assert images[-1].shape == (48, 40)
        assert images[-1].dtype == np.uint16
        assert 0 < sample.bleached < 1
        assert np.all(sample.molecules <= sample.fresh)
    np.testing.assert_array_equal(*images)


def test_confocal_images_cost_little_and_depletion_sharpens() -> None:
    sample = StedSample.make("clusters", (72, 72), seed=2)
    blurred = fidelity(scan(sample, StedSettings(1.0, 0.0, 20.0), np.random.default_rng(0)), sample)
    assert 0 < sample.bleached < 0.02
    assert fidelity(scan(sample, StedSettings(4.0, 150.0, 20.0), np.random.default_rng(0)), sample) > blurred + 0.15


@pytest.mark.parametrize("name", ["robust", "fragile"])
def test_too_little_light_and_too_much_both_spoil_the_image_at_hand(name: str) -> None:
    starved, good, overdosed = (
        mean_fidelity(DYES[name], StedSettings(power, 150.0, dwell, steps))
        for power, dwell, steps in ((0.2, 5.0, 1), (2.0, 20.0, 1), (20.0, 40.0, 3))
    )
    assert good > starved + 0.1
    assert good > overdosed + 0.1


def test_too_much_depletion_spoils_it_too() -> None:
    moderate, most = (mean_fidelity(DYES["fragile"], StedSettings(1.0, power, 20.0)) for power in (150.0, 350.0))
    assert moderate > most


def test_a_fragile_dye_suffers_more_and_earlier() -> None:
    settings = StedSettings(10.0, 150.0, 20.0)
    assert mean_fidelity(DYES["robust"], settings) > mean_fidelity(DYES["fragile"], settings) + 0.1


def test_overdosed_the_first_lines_are_the_brightest() -> None:
    uniform = StedSample(np.full((130, 130), 20, np.int32), pixel_um=0.02, dye=DYES["fragile"])
    image = scan(uniform, StedSettings(8.0, 200.0, 20.0), np.random.default_rng(0)).astype(float)
    lines = image.mean(axis=1)
    assert lines[:3].mean() > 2 * lines[10:].mean()
    assert lines[25:50].mean() == pytest.approx(lines[50:75].mean(), rel=0.1)
    gentle = scan(uniform.copy(), StedSettings(0.1, 200.0, 20.0), np.random.default_rng(0))
    assert gentle[:3].mean() < 1.3 * gentle[10:].mean() + 1


def test_many_fast_passes_spare_a_dye_with_a_dark_state_and_no_other() -> None:
    def lost(dye: Dye, settings: StedSettings) -> float:
        sample = StedSample(np.ones((114, 178), np.int32), pixel_um=0.02, dye=dye)
        return float(-np.log(sample.field(plan_for(sample, settings).survive).mean()))

    slow, fast = StedSettings(2.0, 100.0, 20.0), StedSettings(2.0, 100.0, 1.0, 20)
    assert lost(DYES["robust"], fast) < 0.7 * lost(DYES["robust"], slow)
    assert lost(Dye(), fast) == pytest.approx(lost(Dye(), slow), rel=1e-6)
    sample = StedSample.make("clusters", (48, 96), seed=0)
    assert expected(sample, fast).sum() > 1.1 * expected(sample, slow).sum()


def test_the_dark_state_saturates_the_signal_before_the_excitation_does() -> None:
    def gain(dye: Dye) -> float:
        sample = StedSample.make("clusters", (48, 48), seed=0, dye=dye)
        weak, strong = (expected(sample, StedSettings(power, 100.0, 10.0)).sum() for power in (0.1, 5.0))
        return float(strong / weak)

    robust = DYES["robust"]
    assert 42 < gain(Dye(k1=0.0)) < 50
    assert gain(dataclasses.replace(robust, k1=0.0, bleach_yield=0.0, dark_bleach=0.0)) < 0.85 * gain(Dye(k1=0.0))


def test_anti_stokes_light_fills_the_image_with_haze() -> None:
    clean = StedSample.make("clusters", (64, 64), seed=1, dye=Dye())
    hazy = StedSample(clean.fresh, pixel_um=0.02, dye=dataclasses.replace(Dye(), anti_stokes_m2=5e-27))
    settings = StedSettings(1.0, 300.0, 20.0)
    assert expected(hazy, settings).sum() > 1.3 * expected(clean, settings).sum()
    assert expected(hazy, StedSettings(0.0, 300.0, 20.0)).sum() > 0
    assert expected(clean, StedSettings(0.0, 300.0, 20.0)).sum() == 0


def test_out_of_focus_it_dims_and_blurs() -> None:
    sample = StedSample.make("clusters", (64, 64), seed=1)
    settings = StedSettings(1.0, 120.0, 20.0)
    inside, near, far = (expected(sample, settings, defocus_um=z) for z in (0.0, 0.4, 3.0))
    assert near.max() < 0.6 * inside.max()
    assert far.max() < 0.05 * inside.max()
    np.testing.assert_array_equal(near, expected(sample, settings, defocus_um=-0.4))


def test_a_dye_that_bleaches_at_once_leaves_an_image_and_no_warning() -> None:
    hopeless = dataclasses.replace(DYES["fragile"], k1=1e-11, bleach_yield=0.1)
    sample = StedSample.make("filaments", (40, 40), seed=0, dye=hopeless)
    image = scan(sample, StedSettings(20.0, 350.0, 100.0, 25), np.random.default_rng(0))
    assert sample.bleached == 1.0
    assert np.isfinite(image).all()


@given(
    excitation=st.floats(*LIMITS["excitation_power"]),
    depletion=st.floats(*LIMITS["depletion_power"]),
    dwell=st.floats(*LIMITS["dwell_us"]),
    steps=st.integers(1, 25),
)
@hypothesis_settings(max_examples=25, deadline=None)
def test_any_settings_give_finite_light_and_only_take_molecules(
    excitation: float, depletion: float, dwell: float, steps: int
) -> None:
    sample = StedSample.make("synapses", (16, 16), pixel_um=0.05, seed=3)
    settings = StedSettings(excitation, depletion, dwell, steps)
    known = truth(sample, settings)
    assert np.isfinite(known.expected).all()
    assert known.expected.min() >= 0
    assert np.all(known.expected <= known.unbleached * 1.0001 + 1e-6)
    assert 0 <= known.bleaches <= 1
    scan(sample, settings, np.random.default_rng(0))
    assert np.all(sample.molecules <= sample.fresh)
    assert sample.molecules.min() >= 0


def test_truth_foretells_a_scan_and_takes_nothing() -> None:
    sample, settings = StedSample.make("filaments", (64, 64), seed=6), StedSettings(3.0, 100.0, 20.0)
    known = truth(sample, settings)
    assert sample.bleached == 0
    assert known.fwhm_nm == pytest.approx(88.5, abs=2)
    optics = dataclasses.replace(sample.optics, dead_time_ns=0.0, background_cps=0.0)
    image = scan(StedSample(sample.fresh, pixel_um=0.02, optics=optics), settings, np.random.default_rng(0))
    assert image.sum() == pytest.approx(known.expected.sum(), rel=0.02)
    scan(sample, settings, np.random.default_rng(0))
    assert known.bleaches == pytest.approx(sample.bleached, abs=0.02)
    again = truth(sample, settings)
    np.testing.assert_allclose(again.unbleached, known.unbleached)
    assert again.expected.sum() < known.expected.sum()


def test_fidelity_is_one_of_the_target_itself_and_knows_no_scale() -> None:
    sample = StedSample.make("clusters", (64, 64), seed=6)
    assert fidelity(7 * target(sample) + 3, sample) == pytest.approx(1.0)
    assert fidelity(target(sample, fwhm_nm=200.0), sample) < 0.8
    assert np.isnan(fidelity(np.zeros((64, 64)), sample))
    with pytest.raises(UsageError, match="shape"):
        fidelity(np.zeros((8, 8)), sample)
    with pytest.raises(UsageError, match="fwhm_nm"):
        target(sample, fwhm_nm=0.0)


@pytest.mark.parametrize(
    ("molecules", "message"),
    [
        (np.zeros((40, 200), np.int32), "at least 58x58"),
        (np.full((80, 80), -1), "zero or more"),
        (np.ones((80, 80)), "whole numbers"),
        (np.ones((80, 80, 2), np.int32), "must be an image"),
    ],
)
def test_what_is_no_sample_is_refused(molecules: np.ndarray, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        StedSample(molecules, pixel_um=0.02)


def test_pixels_too_large_or_too_small_are_refused() -> None:
    for pixel_um in (0.001, 0.5, float("nan")):
        with pytest.raises(UsageError, match="pixel_um"):
            StedSample.make("clusters", (32, 32), pixel_um=pixel_um if pixel_um == pixel_um else 0.2)


def canvas(**options: object) -> StedCanvas:
    return StedCanvas("clusters", (32, 48), **{"fields": 3, "pixel_um": 0.04, **options})  # type: ignore[arg-type]


def test_a_field_stays_as_it_was_left_and_others_stay_fresh() -> None:
    made = canvas()
    here, there = made.pitch_um, 2 * made.pitch_um
    sample = made.sample(0.0, here)
    assert sample.shape == (32, 48)
    scan(sample, StedSettings(10.0, 200.0, 30.0), np.random.default_rng(0))
    assert made.sample(0.0, here).bleached == 0
    made.put_back(sample, 0.0, here)
    np.testing.assert_array_equal(made.sample(0.0, here).molecules, sample.molecules)
    np.testing.assert_array_equal(made.sample(0.0, here).fresh, sample.fresh)
    assert made.sample(0.0, here).bleached == sample.bleached > 0.05
    for y_um, x_um in ((0.0, 0.0), (0.0, there), (here, here)):
        fresh = made.sample(y_um, x_um)
        np.testing.assert_array_equal(fresh.molecules, fresh.fresh)


def test_between_two_fields_there_are_parts_of_both() -> None:
    made = canvas()
    half = round(made.pitch_um / 2 / 0.04)
    right, left = (made.sample(0.0, x_um).fresh for x_um in (made.pitch_um, 0.0))
    shifted = made.sample(0.0, half * 0.04).fresh
    np.testing.assert_array_equal(
        shifted[:, : shifted.shape[1] // 2 - 4], left[:, half : half + left.shape[1] // 2 - 4]
    )
    assert shifted[:, -20:].sum() > 0
    sample = made.sample(0.0, half * 0.04)
    sample.molecules[...] = 0
    made.put_back(sample, 0.0, half * 0.04)
    assert 0 < made.sample(0.0, 0.0).bleached < 1
    assert 0 < made.sample(0.0, made.pitch_um).bleached < 1
    assert right.sum() > 0


def test_fields_do_not_depend_on_the_order_in_which_they_are_seen() -> None:
    one, other = canvas(seed=4), canvas(seed=4)
    one.sample(0.0, one.pitch_um)
    np.testing.assert_array_equal(one.sample(one.extent_um, 0.0).fresh, other.sample(one.extent_um, 0.0).fresh)
    assert one.seen == 2
    every = [one.sample(y * one.pitch_um, x * one.pitch_um).fresh.tobytes() for y in range(3) for x in range(3)]
    assert len(set(every)) == 9
    assert not np.array_equal(canvas(seed=5).sample(0.0, 0.0).fresh, canvas(seed=4).sample(0.0, 0.0).fresh)


def test_outside_the_sample_there_is_nothing_to_look_at() -> None:
    made = canvas()
    for y_um, x_um, name in ((-0.1, 0.0, "y_um"), (0.0, made.extent_um + 0.1, "x_um"), (float("nan"), 0.0, "y_um")):
        with pytest.raises(UsageError, match=name):
            made.sample(y_um, x_um)
    with pytest.raises(UsageError, match="at least one field"):
        canvas(fields=0)
    with pytest.raises(UsageError, match="density"):
        canvas(density=900.0).sample(0.0, 0.0)


def test_another_instrument_sees_with_its_own_optics() -> None:
    sample = StedSample.make("clusters", (40, 40), seed=1)
    coarse = StedSample(sample.fresh, pixel_um=0.02, optics=StedOptics(na=1.0))
    settings = StedSettings(1.0, 100.0, 20.0)
    assert truth(coarse, settings).fwhm_nm > 1.2 * truth(sample, settings).fwhm_nm
