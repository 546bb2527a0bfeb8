"""A stage that ignores its commands is found out; one that is merely coarse or late is not."""

from __future__ import annotations

import math

import pytest

from parfocal.daemon.arrival import MOST_MISSED, Arrivals
from parfocal.drivers.base import Parameter, StageError

Z = Parameter("z_um", "um", -100.0, 100.0)
LASER = Parameter("excitation_power", "mW", 0.0, 50.0, "beam")


def test_a_stuck_stage_is_an_error_that_says_where_it_should_be() -> None:
    arrivals = Arrivals()
    for _ in range(MOST_MISSED - 1):
        arrivals.note(Z, 3.0, 8.0, 3.0)
    with pytest.raises(StageError, match="go to 8 um, it says that it is at 3"):
        arrivals.note(Z, 3.0, 8.0, 3.0)


def test_a_read_back_that_is_no_number_counts_as_missed() -> None:
    arrivals = Arrivals()
    with pytest.raises(StageError):
        for _ in range(MOST_MISSED):
            arrivals.note(Z, 3.0, 8.0, math.nan)


@pytest.mark.parametrize(
    ("parameter", "before", "commanded", "readback"),
    [
        (Z, 3.0, 3.4, 3.0),  # below what a stage may resolve
        (Z, 3.0, 8.0, 6.0),  # on its way
        (Z, math.nan, 8.0, 3.0),  # nobody knows where it was
        (LASER, 0.0, 10.0, 0.0),  # not a stage
    ],
)
def test_what_is_not_stuck_goes_on(parameter: Parameter, before: float, commanded: float, readback: float) -> None:
    arrivals = Arrivals()
    for _ in range(5 * MOST_MISSED):
        arrivals.note(parameter, before, commanded, readback)
    for _ in range(MOST_MISSED - 1):
        arrivals.note(Z, 3.0, 8.0, 3.0)
    with pytest.raises(StageError):  # nor did it count for or against what came after
        arrivals.note(Z, 3.0, 8.0, 3.0)


def test_one_move_that_arrives_is_forgiveness() -> None:
    arrivals = Arrivals()
    for _ in range(5):
        for _ in range(MOST_MISSED - 1):
            arrivals.note(Z, 3.0, 8.0, 3.0)
        arrivals.note(Z, 3.0, 8.0, 8.0)
    with pytest.raises(StageError):
        for _ in range(MOST_MISSED):
            arrivals.note(Z, 3.0, 8.0, 3.0)
