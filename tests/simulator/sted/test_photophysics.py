from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parfocal.simulator.sted import photophysics
from parfocal.simulator.sted.dyes import DYES, Dye
from parfocal.simulator.sted.settings import StedOptics, StedSettings

OPTICS, DYE = StedOptics(), Dye()


def crest(power_mw: float) -> float:
    """Instantaneous irradiance of the donut's crest."""
    return float(photophysics.depletion_irradiance(OPTICS, power_mw, 0.0).max()) / (400e-12 * 40e6)


@pytest.mark.parametrize(
    ("power_mw", "fwhm_nm"),
    [(0, 219), (10, 181), (30, 140), (50, 117), (100, 88), (150, 74), (200, 65), (300, 53), (350, 50)],
)
def test_resolution_follows_the_square_root_law(power_mw: float, fwhm_nm: float) -> None:
    made = photophysics.fwhm_nm(OPTICS, DYE, StedSettings(1.0, power_mw, 10.0))
    assert made == pytest.approx(fwhm_nm, rel=0.02)
    assert made == pytest.approx(220 / np.sqrt(1 + power_mw / 19.6), abs=4.0)


def test_a_microwatt_excites_every_fiftieth_molecule_and_much_more_saturates() -> None:
    at_1, at_20 = (
        photophysics.excitation_probability(DYE, OPTICS, photophysics.excitation_irradiance(OPTICS, power, 0.0)).max()
        for power in (1.0, 20.0)
    )
    assert at_1 == pytest.approx(0.018, rel=0.05)
    assert at_20 == pytest.approx(1 - (1 - at_1) ** 20, rel=1e-6)


def test_saturation_of_the_crest() -> None:
    gamma = [
        float(photophysics.depletion_strength(DYE, OPTICS, np.array([crest(power)]))[0]) for power in (50, 150, 300)
    ]
    assert gamma == pytest.approx([26, 77, 154], rel=0.08)


def test_gate_without_depletion_counts_the_decay_inside_it() -> None:
    share = photophysics.gated_share(DYE, OPTICS, np.zeros(1))[0]
    assert share == pytest.approx(np.exp(-0.75 / 3.5) - np.exp(-8.75 / 3.5), rel=1e-3)


def test_gate_may_begin_within_the_pulse_and_meets_the_other_formula_at_its_end() -> None:
    gamma = np.linspace(0.0, 100.0, 30)
    before, after = (
        photophysics.gated_share(DYE, StedOptics(gate_delay_ns=delay), gamma) for delay in (0.4 - 1e-9, 0.4)
    )
    np.testing.assert_allclose(before, after, rtol=1e-6)
    ungated = photophysics.gated_share(DYE, StedOptics(gate_delay_ns=0.0), gamma)
    assert np.all(ungated > before)


def test_a_gate_within_the_pulse_agrees_with_integrating_the_decay() -> None:
    """Emission at rate exp(-k t (1 + gamma)) during the pulse and exp(-k (t + gamma pulse)) after it."""
    t = np.linspace(0.0, 8.1, 400_001)
    k, gamma, pulse = 1 / 3.5, 20.0, 0.4
    emission = k * np.exp(-k * (t + gamma * np.minimum(t, pulse)))
    inside = emission[t >= 0.1]
    integral = np.sum((inside[1:] + inside[:-1]) / 2) * (t[1] - t[0]) / (1 - np.exp(-k * 25.0))
    made = photophysics.gated_share(DYE, StedOptics(gate_delay_ns=0.1), np.array([gamma]))[0]
    assert made == pytest.approx(integral, rel=1e-3)


@pytest.mark.parametrize(("power_mw", "left"), [(150, 0.96), (300, 0.92)])
def test_an_imperfect_zero_costs_signal_in_the_centre(power_mw: float, left: float) -> None:
    perfect = StedOptics(residual_zero=0.0)
    with_zero, without = (
        photophysics.rates(optics, DYE, 1.0, power_mw).signal[0]
        for optics in (StedOptics(residual_zero=0.005), perfect)
    )
    assert with_zero / without == pytest.approx(left, abs=0.015)
    donut = photophysics.depletion_irradiance(OPTICS, 100.0, 0.0)
    assert donut.max() == pytest.approx(photophysics.depletion_irradiance(perfect, 100.0, 0.0).max())
    assert donut[0] / donut.max() == pytest.approx(0.005, rel=0.01)


def test_brightness_is_the_product_of_its_parts() -> None:
    """Counts of one molecule on the axis in a microsecond, worked out by hand."""
    made = photophysics.rates(OPTICS, DYE, 1.0, 0.0).signal[0]
    excited, gate, pinhole = 0.0183, 0.7253, 0.65
    assert made == pytest.approx(40 * excited * 0.65 * gate * pinhole * 0.1 * 0.5 * 0.82, rel=0.1)


def test_signal_and_bleaching_scale_alike_with_a_little_excitation() -> None:
    one, two = (photophysics.rates(OPTICS, DYES["robust"], power, 100.0) for power in (0.1, 0.2))
    np.testing.assert_allclose(two.signal, 2 * one.signal, rtol=2e-3)
    np.testing.assert_allclose(two.bleach, 2 * one.bleach, rtol=2e-3)


def test_anti_stokes_light_grows_linearly_and_has_the_shape_of_the_donut() -> None:
    dye = dataclasses.replace(DYE, anti_stokes_m2=1e-27)
    one, two = (photophysics.rates(OPTICS, dye, 0.0, power).signal for power in (50.0, 100.0))
    np.testing.assert_allclose(two, 2 * one)
    assert one.argmax() * 4 > 100  # nm from the axis
    assert not photophysics.rates(OPTICS, DYE, 0.0, 100.0).signal.any()


def test_without_depletion_only_the_bleach_yield_bleaches() -> None:
    assert not photophysics.rates(OPTICS, DYE, 5.0, 0.0).bleach.any()
    robust = photophysics.rates(OPTICS, DYES["robust"], 5.0, 0.0)
    excitations = robust.bleach[0] / DYES["robust"].bleach_yield
    assert excitations == pytest.approx(40 * (1 - np.exp(-5 * 0.01847)), rel=0.02)
    assert not robust.dark_bleach.any()


def test_linear_bleaching_adds_to_the_power_law() -> None:
    dye = dataclasses.replace(DYE, k0=1e-6, k1=0.0)
    one, two = (photophysics.rates(OPTICS, dye, 1.0, power).bleach for power in (1e-3, 2e-3))
    np.testing.assert_allclose(two, 2 * one, rtol=2e-3)


def test_a_dye_that_nothing_depletes_keeps_its_confocal_resolution() -> None:
    dye = dataclasses.replace(DYE, stimulated_m2=0.0)
    widths = [photophysics.fwhm_nm(OPTICS, dye, StedSettings(1.0, power, 10.0)) for power in (0.0, 300.0)]
    assert widths[0] == widths[1]
    assert photophysics.fwhm_nm(OPTICS, DYES["hard_to_deplete"], StedSettings(1.0, 100.0, 10.0)) > 130


def test_resolution_is_known_in_the_dark_and_worse_out_of_focus() -> None:
    dark, lit = (photophysics.fwhm_nm(OPTICS, DYE, StedSettings(power, 100.0, 10.0)) for power in (0.0, 1.0))
    assert dark == pytest.approx(lit, rel=0.01)
    assert photophysics.fwhm_nm(OPTICS, DYE, StedSettings(1.0, 100.0, 10.0), 0.4) > 1.2 * lit
