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
    return read_look(assessment, response=None, floor=floor, min_certainty=0.05, dof_um=1.36)


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
    assert far > 0.1
    assert near == 0.0
    # What only says "at least that much" does not deny more.
    ends, beyond = look.error(np.array([31.0, 60.0]))
    assert abs(beyond) < 2.0
    assert abs(ends) < 2.0


def test_the_median_is_known_within_the_first_cell() -> None:
    """A network that is all but sure of the focus still says by how much less it is sure than before."""
    medians = []
    for share in (0.99, 0.95, 0.9):
        mass = np.full(len(GRID), (1 - share) / len(GRID))
        mass[len(GRID) // 2] += share
        look = read(Assessment("defocus", 0.0, 1.0, distribution=Distribution(GRID, mass)))
        assert isinstance(look, Look)
        medians.append(look.value)
    assert medians == sorted(set(medians))
    assert medians[0] < np.abs(GRID[GRID != 0.0]).min()


def test_near_the_focus_the_upper_end_moves_where_the_median_does_not() -> None:
    """What is held possible reaches from no blur to where one would show; only that edge follows the defocus."""
    looks = []
    for edge in (0.8, 1.1):
        mass = np.where(np.abs(GRID) <= edge, 1.0, 0.0) * np.gradient(GRID)
        mass += np.where(np.abs(GRID) <= 0.4, 3.0, 0.0) * np.gradient(GRID)
        looks.append(read(Assessment("defocus", 0.5, 0.3, distribution=Distribution(GRID, mass / mass.sum()))))
    near, off = looks
    assert isinstance(near, Look)
    assert isinstance(off, Look)
    assert near.upper is not None
    apart = near.upper - near.value
    assert near.from_above(apart).value == pytest.approx(near.value)
    assert off.from_above(apart).value - near.value > 2.0 * (off.value - near.value) > 0.0


def test_a_number_alone_has_no_upper_end_to_count_from() -> None:
    look = read(Assessment("defocus", 0.5, 0.3))
    assert isinstance(look, Look)
    assert look.from_above(0.2) is look


def test_a_look_misses_by_nothing_at_its_own_number_and_by_more_further_off() -> None:
    look = read(Assessment("defocus", 6.0, 0.5))
    assert isinstance(look, Look)
    at, above, below = look.error(np.array([6.0, 4.0, 8.0]))
    assert abs(at) < 0.1
    assert above > 2.0
    assert below < -1.0
    assert look.error(np.array([-6.0]))[0] == pytest.approx(at)
    assert look.side(np.array([6.0])) == pytest.approx(look.side(np.array([-6.0])))


def test_a_sign_weighs_one_side_more() -> None:
    mass = np.exp(-0.5 * (np.abs(GRID) - 6.0) ** 2) * np.where(GRID > 0, 0.9, 0.1)
    look = read(Assessment("defocus", 6.0, 1.0, distribution=Distribution(GRID, mass / mass.sum(), signed=True)))
    assert isinstance(look, Look)
    up, down = look.side(np.array([6.0, -6.0]))
    assert 5.0 * down < up < 9.0 * down


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
    assert isinstance(read_look(said, response=response, floor=0.02, min_certainty=0.05, dof_um=1.36), Look)


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
