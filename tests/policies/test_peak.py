"""The fit of one peak: right about place, width and noise where there is a peak, and silent where there is none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from parfocal.policies.focus.peak import PeakFit, one_shape

DOF = 1.0


def fitted(curve: Callable[[float], float], places: list[float], noise: float = 0.01, sd: float = 0.02) -> PeakFit:
    fit, rng = PeakFit(-20.0, 20.0, DOF), np.random.default_rng(1)
    for z in places:
        fit.add(z, curve(z) + noise * rng.standard_normal(), sd)
    return fit


def gauss(z: float) -> float:
    return 0.1 + 0.8 * math.exp2(-(((z - 3.2) / 2.5) ** 2))


def test_every_shape_has_height_one_and_half_of_it_at_its_mean_half_width() -> None:
    for number in range(7):
        values = one_shape(number, np.array([0.0, 40.0]))
        assert values[0] == 1.0
        assert values[1] < 0.01
        half = np.flatnonzero(one_shape(number, np.linspace(-5, 5, 100_001)) >= 0.5)
        assert (half[-1] - half[0]) / 10_000 == pytest.approx(2.0, rel=0.07)  # geometric mean of the sides is 1


def test_a_peak_is_found_with_its_height_floor_and_width() -> None:
    peak = fitted(gauss, [-9.0, -5.0, -1.0, 1.0, 3.0, 5.0, 7.0, 11.0]).peak()
    assert abs(peak.z_um - 3.2) < 3.0 * peak.sd_um + 0.1
    assert peak.sd_um < 0.5
    assert peak.inside > 0.8
    assert peak.height == pytest.approx(0.8, abs=0.1)
    assert peak.floor == pytest.approx(0.1, abs=0.06)
    assert 1.7 < peak.half_width_um < 3.6
    assert peak.evidence_nats > 10.0
    assert 0.0 <= peak.loss < 0.05


def test_skewed_sides_do_not_pull_the_place() -> None:
    def skewed(z: float) -> float:
        return 0.1 + 0.8 / (1.0 + ((z - 2.0) / (1.5 if z < 2.0 else 3.0)) ** 2)

    peak = fitted(skewed, [-8.0, -4.0, -2.0, 0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0], noise=0.003).peak()
    assert abs(peak.z_um - 2.0) < 0.5


def test_noise_alone_is_no_peak() -> None:
    fit = fitted(lambda z: 0.3, [float(z) for z in range(-18, 19, 3)], noise=0.02, sd=0.02)
    assert fit.peak().evidence_nats < 2.0
    assert fit.peak().inside < 0.6


def test_an_sd_nobody_gave_and_scores_all_alike_are_borne() -> None:
    for sd in (math.nan, 0.0, 5.0):
        fit = fitted(lambda z: 0.0, [0.0, 1.0], noise=0.0, sd=sd)
        peak = fit.peak()
        assert all(math.isfinite(value) for value in vars(peak).values())
        assert np.isfinite(fit.news_nats(np.linspace(-20, 20, 9))).all()


def test_a_dip_is_no_peak() -> None:
    fit = fitted(lambda z: 1.0 - gauss(z), [float(z) for z in range(-18, 19, 2)])
    assert abs(fit.peak().z_um - 3.2) > 3.0


def test_what_is_learned_of_the_place_is_less_than_what_is_learned_at_all() -> None:
    fit = fitted(gauss, [-9.0, -5.0, 0.0, 3.0, 11.0], sd=0.1)
    places = np.linspace(-20.0, 20.0, 41)
    of_place, of_all = fit.news_nats(places), fit.news_nats(places, of_place=False)
    assert (of_place <= of_all + 1e-9).all()
    assert of_place[0] < 0.5 * of_all[0]  # far away there is the floor to learn, which is not asked for


def test_what_is_learned_is_where_the_places_differ() -> None:
    fit = fitted(gauss, [-9.0, -5.0, 0.0, 3.0, 11.0])
    news = fit.news_nats(np.array([-15.0, 1.0, 5.5]))
    assert (news >= 0.0).all()
    assert news[2] > 5.0 * news[0]  # the flank not yet seen, against the floor that is known


def test_a_known_place_and_known_widths_save_looks() -> None:
    places = [2.0, 4.5]
    known = PeakFit(
        -20.0, 20.0, DOF, near_um=3.0, widths=fitted(gauss, [-9.0, -1.0, 1.0, 3.0, 5.0, 9.0]).width_weights()
    )
    fresh = PeakFit(-20.0, 20.0, DOF)
    for z in places:
        known.add(z, gauss(z), 0.02)
        fresh.add(z, gauss(z), 0.02)
    assert known.peak().sd_um < 0.5 * fresh.peak().sd_um


def test_nothing_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="no scores"):
        PeakFit(-1.0, 1.0, DOF).peak()
