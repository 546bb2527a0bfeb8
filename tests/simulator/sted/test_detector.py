from __future__ import annotations

import numpy as np
import pytest

from parfocal.simulator.sted import detector
from parfocal.simulator.sted.settings import StedOptics, StedSettings

OPTICS = StedOptics()
TEN_US = StedSettings(1.0, 0.0, 10.0)


def counts(photons: float, settings: StedSettings = TEN_US, optics: StedOptics = OPTICS, seed: int = 0) -> np.ndarray:
    return detector.count(np.full((200, 200), photons, np.float32), optics, settings, np.random.default_rng(seed))


def test_dark_there_is_the_gated_background() -> None:
    dark = counts(0.0)
    assert dark.dtype == np.uint16
    assert dark.mean() == pytest.approx(0.16, rel=0.05)
    assert counts(0.0, StedSettings(1.0, 0.0, 10.0, 5)).mean() == pytest.approx(0.8, rel=0.03)
    assert not counts(0.0, optics=StedOptics(background_cps=0.0)).any()


@pytest.mark.parametrize("photons", [0.5, 5.0, 50.0])
def test_low_rates_are_poisson(photons: float) -> None:
    ideal = counts(photons, optics=StedOptics(dead_time_ns=0.0, background_cps=0.0)).astype(float)
    assert ideal.mean() == pytest.approx(photons, rel=0.02)
    assert ideal.var() == pytest.approx(photons, rel=0.04)


@pytest.mark.parametrize("photons", [2.0, 20.0, 100.0, 1000.0])
def test_dead_time_flattens_like_a_detector_that_is_blind_after_each_count(photons: float) -> None:
    """Against gaps drawn one by one: an exponential wait after each dead time."""
    rng = np.random.default_rng(1)
    waits = rng.exponential(10.0 / photons, (4000, 400)) + 0.05
    waits[:, 0] -= 0.05
    true = (waits.cumsum(axis=1) < 10.0).sum(axis=1)
    made = counts(photons, optics=StedOptics(background_cps=0.0)).astype(float)
    assert made.mean() == pytest.approx(true.mean(), rel=0.02)
    assert made.var() == pytest.approx(true.var(), rel=0.06, abs=0.3)


def test_no_light_drives_the_detector_beyond_its_rate() -> None:
    flat = counts(1e6)
    assert flat.max() <= 200  # 20 MHz for 10 us
    assert flat.min() > 190


def test_saturation_is_where_half_of_the_photons_are_missed() -> None:
    edge = detector.saturation_counts(OPTICS, TEN_US)
    assert edge == pytest.approx(100.0)
    assert detector.after_dead_time(np.array([200.0]), OPTICS, TEN_US)[0] == pytest.approx(edge)
    assert detector.saturation_counts(OPTICS, StedSettings(1.0, 0.0, 20.0, 3)) == pytest.approx(600.0)
    assert detector.saturation_counts(StedOptics(dead_time_ns=0.0), TEN_US) == 65535.0
    assert counts(1e6, optics=StedOptics(dead_time_ns=0.0)).max() == 65535
