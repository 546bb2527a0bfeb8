from __future__ import annotations

import math

import numpy as np
import pytest

from parfocal import UsageError
from parfocal.simulator.sted.dyes import DYES, Dye, make_dye, random_dye
from parfocal.simulator.sted.settings import LIMITS, StedOptics, StedSettings, from_mapping


@pytest.mark.parametrize("name", LIMITS)
def test_settings_beyond_what_the_instrument_can_do_are_refused(name: str) -> None:
    good = {"excitation_power": 2.0, "depletion_power": 100.0, "dwell_us": 10.0, "line_steps": 2}
    lower, upper = LIMITS[name]
    for value in (lower, upper):
        StedSettings(**{**good, name: value})  # type: ignore[arg-type]
    for value in (lower - 1, upper + 1, math.nan, math.inf):
        with pytest.raises(UsageError, match=name):
            StedSettings(**{**good, name: value})  # type: ignore[arg-type]


def test_half_a_pass_over_a_line_is_refused() -> None:
    with pytest.raises(UsageError, match=r"line_steps must be a whole number \(got 2\.5\)"):
        StedSettings(1.0, 0.0, 10.0, 2.5)  # type: ignore[arg-type]


def test_dose_time_and_confocal_follow_from_the_settings() -> None:
    settings = StedSettings(3.0, 120.0, 5.0, 4)
    assert settings.dose == 60.0
    assert settings.pixel_us == 20.0
    assert settings.confocal() == StedSettings(3.0, 0.0, 5.0, 4)
    assert StedOptics(flyback_us=200.0).scan_s(settings, (64, 128)) == pytest.approx(64 * 4 * (128 * 5 + 200) * 1e-6)


def test_instrument_of_the_reference() -> None:
    optics = StedOptics()
    assert optics.period_ns == 25.0
    assert optics.gate_duty == pytest.approx(0.32)
    assert 10 * optics.background_per_us == pytest.approx(0.16)
    assert optics.max_rate_mhz == pytest.approx(20.0)
    assert StedOptics(dead_time_ns=0.0).max_rate_mhz == math.inf


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"na": 1.6}, "na 1.6 must be below immersion_index 1.5"),
        ({"residual_zero": -0.1}, "residual_zero must be a number in"),
        ({"dead_time_ns": math.nan}, "dead_time_ns"),
        ({"pulse_ps": "long"}, "pulse_ps"),
        ({"gate_delay_ns": 20.0}, "must end within"),
        ({"gate_dealy_ns": 1.0}, r"unknown key 'gate_dealy_ns'; did you mean 'gate_delay_ns'\?"),
    ],
)
def test_optics_that_cannot_be_are_refused(given: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_mapping("optics", StedOptics, given, StedOptics())


def test_dyes_by_name_and_by_what_differs() -> None:
    assert make_dye("fragile") is DYES["fragile"]
    assert make_dye({"base": "dim", "dark_yield": 0.0}).quantum_yield == DYES["dim"].quantum_yield
    assert make_dye({"k1": 1e-15}).k1 == 1e-15
    assert set(DYES) == {"robust", "fragile", "dim", "hard_to_deplete"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("robsut", r"no dye 'robsut'; did you mean 'robust'\?"),
        ({"base": "dimm"}, r"did you mean 'dim'\?"),
        ({"dark_lifetime": 3.0}, r"unknown key 'dark_lifetime'; did you mean 'dark_lifetime_us'\?"),
        ({"quantum_yield": 1.5}, "quantum_yield must be a number in 0..1"),
        ({"b": True}, "b must be a number"),
    ],
)
def test_a_dye_that_cannot_be_is_refused(given: str | dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_dye(given)


def test_a_plain_dye_keeps_one_kind_of_bleaching() -> None:
    plain = DYES["fragile"].plain()
    assert (plain.k0, plain.bleach_yield, plain.dark_yield, plain.anti_stokes_m2) == (0.0, 0.0, 0.0, 0.0)
    assert (plain.k1, plain.b) == (DYES["fragile"].k1, DYES["fragile"].b)
    assert Dye().plain() == Dye()


def test_random_dyes_come_from_their_generator_and_differ_widely() -> None:
    assert random_dye(np.random.default_rng(3)) == random_dye(np.random.default_rng(3))
    drawn = [random_dye(np.random.default_rng(n)) for n in range(200)]
    brightness = [dye.quantum_yield * dye.absorption_m2 for dye in drawn]
    assert max(brightness) > 6 * min(brightness)
    assert max(dye.stimulated_m2 for dye in drawn) > 4 * min(dye.stimulated_m2 for dye in drawn)
    at_crest = [dye.k1 * 1.3e13**dye.b for dye in drawn]
    assert 20 < max(at_crest) / min(at_crest) < 40
    assert 60 < sum(dye.anti_stokes_m2 > 0 for dye in drawn) < 140
