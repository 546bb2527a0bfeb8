"""From assessments to likelihoods: densities, floors, doubt, news."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from parfocal.models.base import Assessment, Distribution
from parfocal.policies.focus.likelihood import Look, Novelty, read_look
from parfocal.policies.focus.response import Response

ROOT = np.linspace(0, 5.5, 40)[1:] ** 2
GRID = np.concatenate([-ROOT[::-1], [0.0], ROOT])


def read(assessment: Assessment, floor: float = 0.02) -> Look | str:
    return read_look(assessment, response=None, floor=floor, min_certainty=0.05)


def test_masses_of_uneven_cells_become_a_density() -> None:
    flat = np.gradient(GRID) / np.gradient(GRID).sum()
    look = read(Assessment("defocus", 3.0, 1.0, distribution=Distribution(GRID, flat)))
    assert isinstance(look, Look)
    np.testing.assert_allclose(look.density, look.density[0], rtol=0.03)


def test_the_end_of_the_table_goes_on() -> None:
    mass = np.zeros(len(GRID))
    mass[-1] = 1.0
    look = read(Assessment("defocus", 30.0, 1.0, distribution=Distribution(GRID, mass)))
    assert isinstance(look, Look)
    far, near = look(np.array([0.0, 60.0]))[::-1]
    assert far > 10 * near > 0.0


def test_the_floor_bounds_what_one_look_can_exclude() -> None:
    mass = np.zeros(len(GRID))
    mass[10] = 1.0
    look = read(Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID, mass)), floor=0.1)
    assert isinstance(look, Look)
    assert look.density.min() == pytest.approx(0.1 / (GRID[-1] - GRID[0]))


def test_a_number_without_a_distribution_lies_on_both_sides() -> None:
    look = read(Assessment("defocus", -4.0, 0.5))
    assert isinstance(look, Look)
    left, middle, right = look(np.array([-4.0, 0.0, 4.0]))
    assert left == pytest.approx(right)
    assert left > 10 * middle


BAD = [
    Assessment("defocus", 12.0, 1.0, detail={"in_um": 0.0}),
    Assessment.abstain("defocus", "empty field"),
    Assessment("defocus", math.nan, 1.0),
    Assessment("defocus", 1.0, math.inf),
    Assessment("defocus", 1.0, 0.0),
    Assessment("defocus", 1.0, 1.0, detail={"certainty": 0.01}),
    Assessment("defocus", 1.0, 1.0, detail={"certainty": math.nan}),
    Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID, np.zeros(len(GRID)))),
    Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID[::-1], np.ones(len(GRID)))),
    Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID, -np.ones(len(GRID)))),
    Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID, np.full(len(GRID), math.nan))),
    Assessment("defocus", 1.0, 1.0, distribution=Distribution(GRID, np.ones(3))),
]


@pytest.mark.parametrize("assessment", BAD)
def test_what_says_nothing_is_a_reason(assessment: Assessment) -> None:
    said = read(assessment)
    assert isinstance(said, str)
    assert said


def test_pixels_of_blur_count_through_a_measured_response_only() -> None:
    response = Response.surrogate(1.0, 0.2, 0.1, 40.0)
    said = Assessment("defocus", 12.0, 1.0, detail={"in_um": 0.0})
    assert "pixels" in str(read(said))
    assert isinstance(read_look(said, response=response, floor=0.02, min_certainty=0.05), Look)


@given(
    grid=hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(allow_nan=True, allow_infinity=True)),
    mass=hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(allow_nan=True, allow_infinity=True)),
)
def test_whatever_a_distribution_holds_the_likelihood_is_positive_or_refused(
    grid: np.ndarray, mass: np.ndarray
) -> None:
    look = read(Assessment("defocus", 1.0, 1.0, distribution=Distribution(grid, mass)))
    if isinstance(look, Look):
        assert np.isfinite(look.density).all()
        assert (look.density > 0).all()


def test_news() -> None:
    news = Novelty(0.5, 15.0)
    assert news.share(1.0, 0.0) == 1.0
    news.add(1.0, 0.0)
    assert news.share(1.0, 0.0) == 0.0
    assert news.share(1.0, 15.0) == pytest.approx(1.0 - math.exp(-2.0))
    assert news.share(3.0, 0.0) > 0.99
    np.testing.assert_allclose(news.share(np.array([1.0, 9.0]), 0.0), [0.0, 1.0], atol=1e-6)


def test_standing_still_brings_news_only_with_time() -> None:
    """Many looks at one place in a short time are worth about one."""
    for interval_s in (0.01, 0.1, 1.0):
        news, total = Novelty(0.5, 15.0), 0.0
        for k in range(round(15.0 / interval_s)):
            total += float(news.share(0.0, k * interval_s))
            news.add(0.0, k * interval_s)
        assert 2.0 < total < 3.1
