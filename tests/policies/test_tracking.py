"""Keeping a focus: ahead of its drift as far as that costs nothing, and not where it is not known."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.density import Vector, windowed
from parfocal.policies.focus.drift import Drift
from parfocal.policies.focus.grid import Estimate, FocusGrid
from parfocal.policies.focus.response import Response
from parfocal.policies.focus.tracking import Correction, Tracking, correction, expected_z, led_z

DOF = 1.36
TRACKING = Tracking(DOF, 0.1, 0.35, 0.2, 0.2)
EXPECTED = Response.surrogate(DOF, 0.18, 0.08, 100.0)
WAIT_S = 10.0


def known(sd_dof: float, rate_um_per_min: float) -> tuple[FocusGrid, Estimate]:
    """A belief about z = 0 that knows its drift."""
    grid = FocusGrid(-3 * DOF, 3 * DOF, 0.125 * DOF, Drift(1.0, 0.1, 0.1, 1e-3), BiasPrior(DOF))
    row = int(np.argmin(np.abs(grid.chain.rates - rate_um_per_min)))
    grid.moments[:, np.arange(len(grid.chain.rates)) != row] = 0.0
    grid.weigh(np.exp(-0.5 * (grid.z_um / (sd_dof * DOF)) ** 2) + 1e-30)
    return grid, grid.estimate(DOF)


def corrected(grid: FocusGrid, estimate: Estimate, now_um: float) -> Correction | None:
    def no_news(places: Vector) -> Vector:
        return np.zeros_like(places)

    return correction(grid, estimate, now_um, WAIT_S, False, TRACKING, no_news, EXPECTED)


def in_field(grid: FocusGrid, z_um: float) -> float:
    """Probability of being in the field at the next frame."""
    z, (share,) = grid.ahead(0.0, 3 * DOF, WAIT_S)
    return float(np.interp(z_um, z, windowed(share, 4)))


def test_a_focus_well_known_is_led_by_a_good_part_of_what_is_allowed() -> None:
    grid, estimate = known(0.05, 1.0)
    move = corrected(grid, estimate, -0.6 * DOF)
    assert move is not None
    ahead = move.z_um - expected_z(estimate, WAIT_S)
    assert 0.25 * DOF < ahead <= led_z(estimate, WAIT_S, TRACKING) - expected_z(estimate, WAIT_S) + 1e-9


@pytest.mark.parametrize("sd_dof", [0.13, 0.17, 0.25])
def test_the_less_a_focus_is_known_the_less_it_is_led(sd_dof: float) -> None:
    grid, estimate = known(sd_dof, 1.0)
    move = corrected(grid, estimate, -0.6 * DOF)
    assert move is not None
    ahead = move.z_um - expected_z(estimate, WAIT_S)
    assert ahead < 0.22 * DOF
    assert in_field(grid, move.z_um) > in_field(grid, expected_z(estimate, WAIT_S)) - 0.02


def test_where_nothing_is_gained_it_stays() -> None:
    grid, estimate = known(0.1, 0.0)
    assert corrected(grid, estimate, 0.1 * DOF) is None
