from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.simulator.drift import DriftParameters, FocusDrift

WALK = DriftParameters(random_walk_um_per_sqrt_min=0.5)


def test_no_drift_by_default() -> None:
    drift = FocusDrift(DriftParameters(), seed=1)
    assert all(drift.offset_um(t) == 0.0 for t in (0.0, 1.0, 1e6))


def test_linear_and_thermal_parts_are_their_formulas() -> None:
    drift = FocusDrift(DriftParameters(rate_um_per_min=-0.5, thermal_um=4.0, thermal_tau_min=10.0))
    assert drift.offset_um(0.0) == 0.0
    assert drift.offset_um(600.0) == pytest.approx(-5.0 + 4.0 * (1 - math.exp(-1)))
    assert drift.offset_um(36_000.0) == pytest.approx(-300.0 + 4.0)


@pytest.mark.parametrize("minutes", [1.0, 16.0])
def test_random_walk_spreads_with_the_root_of_time(minutes: float) -> None:
    ends = np.array([FocusDrift(WALK, seed).offset_um(60.0 * minutes) for seed in range(600)])
    assert ends.std() == pytest.approx(0.5 * math.sqrt(minutes), rel=0.1)
    assert abs(ends.mean()) < 4 * ends.std() / math.sqrt(600)


def test_random_walk_has_independent_increments() -> None:
    drift = FocusDrift(WALK, seed=3)
    places = np.array([drift.offset_um(10.0 * n) for n in range(3000)])
    steps = np.diff(places)
    assert steps.std() == pytest.approx(0.5 * math.sqrt(10 / 60), rel=0.05)
    assert abs(np.corrcoef(steps[1:], steps[:-1])[0, 1]) < 0.06


@given(st.lists(st.floats(0, 20_000), min_size=1, max_size=30), st.integers(0, 1000))
@settings(max_examples=50, deadline=None)
def test_the_walk_does_not_depend_on_when_it_is_looked_at(times: list[float], seed: int) -> None:
    once = FocusDrift(WALK, seed)
    often = FocusDrift(WALK, seed)
    for t_s in np.linspace(0, 20_000, 37):
        often.offset_um(float(t_s))
    for t_s in times:
        assert once.offset_um(t_s) == often.offset_um(t_s)


def test_seeds_differ() -> None:
    assert FocusDrift(WALK, 1).offset_um(60.0) != FocusDrift(WALK, 2).offset_um(60.0)


@pytest.mark.parametrize("t_s", [-1e-9, float("nan"), float("inf")])
def test_times_that_make_no_sense_are_refused(t_s: float) -> None:
    with pytest.raises(UsageError, match="time"):
        FocusDrift(WALK).offset_um(t_s)


@pytest.mark.parametrize(
    "changes",
    [{"rate_um_per_min": float("nan")}, {"random_walk_um_per_sqrt_min": -1.0}, {"thermal_tau_min": 0.0}],
)
def test_impossible_drifts_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        DriftParameters(**changes)
