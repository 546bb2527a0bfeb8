from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.simulator.bleaching import Bleaching, BleachingParameters


def test_nothing_bleaches_by_default() -> None:
    bleaching = Bleaching(BleachingParameters())
    assert [bleaching.expose(1e6, 1.0) for _ in range(3)] == [1.0, 1.0, 1.0]
    assert bleaching.dose_ms == 3e6


def test_brightness_follows_the_dose_not_the_time() -> None:
    one, other = (Bleaching(BleachingParameters(dose_ms=1000.0)) for _ in range(2))
    for _ in range(10):
        one.expose(100.0, 0.5)
    other.expose(5000.0, 0.1)
    assert one.brightness == pytest.approx(other.brightness) == pytest.approx(math.exp(-0.5))
    one.expose(100.0, 0.0)
    assert one.brightness == pytest.approx(math.exp(-0.5))


def test_two_populations() -> None:
    bleaching = Bleaching(BleachingParameters(dose_ms=1000.0, fast_fraction=0.3, fast_dose_ms=10.0))
    bleaching.expose(100.0, 1.0)
    assert bleaching.brightness == pytest.approx(0.3 * math.exp(-10) + 0.7 * math.exp(-0.1))


@given(st.floats(0.1, 1e5), st.integers(2, 50))
def test_a_long_exposure_sees_the_mean_of_many_short_ones(exposure_ms: float, parts: int) -> None:
    parameters = BleachingParameters(dose_ms=700.0, fast_fraction=0.2, fast_dose_ms=90.0)
    whole, split = Bleaching(parameters), Bleaching(parameters)
    mean = sum(split.expose(exposure_ms / parts, 1.0) for _ in range(parts)) / parts
    assert whole.expose(exposure_ms, 1.0) == pytest.approx(mean, rel=1e-9)
    assert 0.0 <= mean <= 1.0


@pytest.mark.parametrize(("exposure_ms", "power"), [(-1.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (float("inf"), 1.0)])
def test_no_dose_is_refused(exposure_ms: float, power: float) -> None:
    with pytest.raises(UsageError, match="dose"):
        Bleaching(BleachingParameters()).expose(exposure_ms, power)


@pytest.mark.parametrize("changes", [{"dose_ms": 0.0}, {"fast_fraction": 1.5}, {"fast_fraction": 0.5}])
def test_impossible_parameters_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="bleaching"):
        BleachingParameters(**changes)
