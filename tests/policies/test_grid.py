"""The belief's histogram: prediction, update, description."""

from __future__ import annotations

import json

import numpy as np
import pytest

from parfocal.policies.base import PolicyError
from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.density import spread_out, windowed
from parfocal.policies.focus.drift import Drift, RateChain
from parfocal.policies.focus.grid import FocusGrid
from parfocal.policies.focus.likelihood import Look

STILL = Drift(1.0, 0.0, 0.0, 0.0)
BIAS = BiasPrior(1.36)
GRID = np.linspace(-40.0, 40.0, 801)


def make(lower: float, upper: float, step: float, drift: Drift, rates: int = 21) -> FocusGrid:
    return FocusGrid(lower, upper, step, drift, BIAS, rates)


def at(grid: FocusGrid, z: float, sd: float = 0.3) -> None:
    grid.weigh(np.exp(-0.5 * ((z - grid.z_um) / sd) ** 2) + 1e-30)


def test_an_update_is_bayes() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL)
    at(grid, 3.0, 1.0)
    at(grid, 4.0, 1.0)
    estimate = grid.estimate(1.0)
    assert estimate.mean_um == pytest.approx(3.5, abs=0.01)
    assert grid.marginal().sum() == pytest.approx(1.0)
    spread = np.sqrt(grid.marginal() @ (grid.z_um - 3.5) ** 2)
    assert spread == pytest.approx(2**-0.5, abs=0.01)


def test_the_sign_of_defocus_is_stage_minus_focus() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL)
    density = np.exp(-0.5 * (GRID - 5.0) ** 2) + 1e-12
    grid.update(2.0, Look(GRID, density, 5.0, 1.0, 1.36, signed=True))
    assert grid.estimate(1.0).mean_um == pytest.approx(-3.0, abs=0.1)


@pytest.mark.parametrize("interval_s", [0.1, 1.0, 10.0])
def test_a_steady_drift_is_learned_and_then_predicted_without_lag(interval_s: float) -> None:
    grid = make(-20.0, 20.0, 0.1, Drift(1.0, 0.02, 0.02, 0.0))
    for k in range(round(300 / interval_s)):
        if k % max(1, round(5 / interval_s)) == 0:
            at(grid, k * interval_s / 60.0)
        grid.predict(interval_s)
    assert grid.estimate(1.0).rate_um_per_min == pytest.approx(1.0, abs=0.1)
    for _ in range(round(60 / interval_s)):
        grid.predict(interval_s)
    assert grid.estimate(1.0).mean_um == pytest.approx(6.0, abs=0.12)


@pytest.mark.parametrize("interval_s", [0.05, 1.0, 30.0])
def test_the_random_walk_spreads_as_the_root_of_time_whatever_the_interval(interval_s: float) -> None:
    grid = make(-20.0, 20.0, 0.1, Drift(1e-6, 0.0, 0.5, 0.0))
    at(grid, 0.0, 0.1)
    for _ in range(round(120 / interval_s)):
        grid.predict(interval_s)
    spread = np.sqrt(grid.marginal() @ grid.z_um**2)
    assert spread == pytest.approx(0.5 * 2**0.5, rel=0.05)


def test_rates_keep_their_prior_and_forget_towards_it() -> None:
    chain = RateChain(Drift(1.0, 0.3, 0.1, 0.0))
    np.testing.assert_allclose(chain.transition(5.0) @ chain.prior, chain.prior, atol=1e-9)
    np.testing.assert_allclose(chain.transition(0.0), np.eye(len(chain.rates)), atol=1e-9)
    surely = np.zeros(len(chain.rates))
    surely[-1] = 1.0
    np.testing.assert_allclose(chain.transition(1e5) @ surely, chain.prior, atol=1e-6)


def test_a_pause_of_days_leaves_a_proper_belief() -> None:
    grid = make(-20.0, 20.0, 0.1, Drift(1.0, 0.1, 0.1, 1e-3))
    at(grid, 0.0)
    grid.predict(3e5)
    marginal = grid.marginal()
    assert marginal.sum() == pytest.approx(1.0)
    assert marginal.max() < 0.05


def test_looking_ahead_agrees_with_letting_time_pass() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL)
    at(grid, 1.0)
    z, (share,) = grid.ahead(1.0, 5.0, 40.0)
    grid.predict(40.0)
    np.testing.assert_allclose(np.interp(grid.z_um, z, share, 0, 0), grid.marginal(), atol=2e-3)


def test_resizing_keeps_the_belief() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL)
    at(grid, 3.0)
    before = grid.estimate(1.0)
    grid.resize(-5.0, 8.0)
    grid.resize(-40.0, 40.0)
    after = grid.estimate(1.0)
    assert after.mean_um == pytest.approx(before.mean_um, abs=1e-9)
    assert after.inside == pytest.approx(before.inside, abs=1e-9)
    grid.resize(100.0, 120.0)
    assert grid.marginal().sum() == pytest.approx(1.0)


def test_inside_is_the_share_of_a_window_one_depth_of_field_wide() -> None:
    density = np.full(100, 0.01)
    assert windowed(density, 5)[50] == pytest.approx(0.10)
    grid = make(-20.0, 20.0, 0.05, STILL)
    at(grid, 0.0, 0.5)
    assert grid.estimate(1.0).inside == pytest.approx(0.683, abs=0.01)


def test_a_checkpoint_is_exact_and_foreign_ones_are_refused() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL)
    at(grid, 3.0)
    grid.predict(7.0)
    state = json.loads(json.dumps(grid.checkpoint()))
    copy = FocusGrid.restored(state, STILL, BIAS)
    assert (copy.moments == grid.moments).all()
    assert copy.z_um[0] == grid.z_um[0]
    assert copy.step == grid.step
    for broken in ({}, state | {"moments": "AAAA"}, state | {"shape": [3]}, state | {"offsets": [1.0]}):
        with pytest.raises(PolicyError):
            FocusGrid.restored(broken, STILL, BIAS)


def say(grid: FocusGrid, z: float, value: float, spread: float = 0.5) -> None:
    grid.update(z, Look(GRID, np.full(len(GRID), 1 / 80), value, spread, 1.36, noise=0.05))


def test_the_same_number_on_both_sides_is_worth_more_than_the_number() -> None:
    """A network that is wrong by three times its spread, everywhere: the middle is where it says the same."""
    grid = make(-20.0, 20.0, 0.1, STILL, 3)
    for z in (5.0, 3.5, -0.5, -2.0):
        say(grid, z, abs(z - 1.5) + 1.5)
    estimate = grid.estimate(1.36)
    assert estimate.mean_um == pytest.approx(1.5, abs=0.2)
    one_sided = make(-20.0, 20.0, 0.1, STILL, 3)
    for z in (5.0, 4.5, 4.0, 3.5):
        say(one_sided, z, abs(z - 1.5) + 1.5)
    assert one_sided.estimate(1.36).sd_um > 2.0 * estimate.sd_um


def test_looking_again_at_the_same_place_tells_next_to_nothing() -> None:
    """The network's error at one place is the same at every look; near the focus that holds for any number of them."""
    for place in (0.5, 1.5):
        once, often = (make(-10.0, 10.0, 0.1, STILL, 3) for _ in range(2))
        say(once, place, 1.0)
        for _ in range(20):
            say(often, place, 1.0)
        ones, many = once.marginal(), often.marginal()
        assert np.sqrt(many @ (once.z_um - place) ** 2) > 0.6 * np.sqrt(ones @ (once.z_um - place) ** 2)


def test_what_is_no_news_changes_nothing() -> None:
    grid = make(-10.0, 10.0, 0.1, STILL, 3)
    say(grid, 4.0, 4.0)
    before = grid.moments.copy()
    grid.update(4.0, Look(GRID, np.full(len(GRID), 1 / 80), 4.0, 0.5, 1.36), 0.0)
    np.testing.assert_allclose(grid.moments, before, rtol=1e-5, atol=1e-9)


def test_what_is_known_of_a_field_survives_a_knock() -> None:
    grid = make(-20.0, 20.0, 0.1, STILL, 3)
    for z in (5.0, 3.5, -0.5, -2.0):
        say(grid, z, abs(z - 1.5) + 1.5)
    before = grid.moments[1:].sum(axis=(1, 2))
    grid.flatten(0.9)
    np.testing.assert_allclose(grid.moments[1:].sum(axis=(1, 2)), before, rtol=1e-4, atol=1e-4)
    assert np.ptp(grid.marginal()[20:100]) < 0.01


def test_another_grid_holds_the_same_belief() -> None:
    grid = make(-20.0, 20.0, 0.1, Drift(1.0, 0.02, 0.02, 0.0), 21)
    at(grid, 3.0)
    grid.predict(40.0)
    other = grid.resampled(-5.0, 9.0, 0.17, 5)
    before, after = grid.estimate(1.36), other.estimate(1.36)
    assert after.mean_um == pytest.approx(before.mean_um, abs=0.03)
    assert other.mass.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(other.moments.sum(axis=(1, 2)), grid.moments.sum(axis=(1, 2)), atol=1e-6)


def test_a_wider_grid_is_empty_where_nothing_is_known_and_another_place_knows_nothing() -> None:
    grid = make(-4.0, 4.0, 0.1, Drift(1.0, 0.02, 0.02, 0.0), 21)
    at(grid, 1.0)
    grid.predict(40.0)
    wide = grid.resampled(-30.0, 30.0, 0.13, 3)
    inside = (wide.z_um > -4.8) & (wide.z_um < 4.8)
    assert wide.marginal()[~inside].sum() == 0.0
    assert wide.marginal() @ wide.z_um == pytest.approx(grid.marginal() @ grid.z_um, abs=0.02)
    part = grid.resampled(1.5, 30.0, 0.13, 3)
    assert part.mass.sum() == pytest.approx(1.0)
    assert part.marginal() @ part.z_um > 1.5
    elsewhere = grid.resampled(100.0, 104.0, 0.1, 3).mass.sum(axis=0)
    np.testing.assert_allclose(elsewhere, elsewhere[0])


def test_an_update_is_kalman_s_in_every_cell() -> None:
    """Against the textbook, cell by cell in double precision."""
    rng = np.random.default_rng(1)
    grid = make(-6.0, 6.0, 0.2, STILL, 3)
    for z in (2.0, -1.0):
        say(grid, z, abs(z - 0.4) + 0.3)
    look, z, n, news = Look(GRID, np.full(len(GRID), 1 / 80), 1.4, 0.5, 1.36, noise=0.05), 1.2, BIAS.count, 0.7
    grid.look_from(z)
    before = grid.moments.astype(np.float64)
    grid.update(z, look, news)
    for row, cell in zip(rng.integers(0, 3, 40), rng.integers(0, grid.count, 40), strict=True):
        p, mean = before[0, row, cell], before[1 : 1 + n, row, cell] / before[0, row, cell]
        covariance = (before[1 + n :, row, cell] / p)[BIAS.full] - np.outer(mean, mean)
        defocus = np.array([z - grid.z_um[cell] - grid.offsets[row]])
        weights = BIAS.basis(np.abs(defocus))[:, 0]
        variance = weights @ covariance @ weights + look.scatter(defocus)[0]
        miss = look.error(defocus)[0] - weights @ mean
        trusted = (1 - look.floor) * (1 + miss**2 / (4 * variance)) ** -2.5 / np.sqrt(variance)
        gain = news * trusted / (trusted + look.floor * look.wild) * (covariance @ weights) / variance
        want = mean + gain * miss
        wanted = covariance - np.outer(gain, covariance @ weights) + np.outer(want, want)
        after = grid.moments[:, row, cell].astype(np.float64) / grid.moments[0, row, cell]
        np.testing.assert_allclose(after[1 : 1 + n], want, atol=2e-4)
        np.testing.assert_allclose(after[1 + n :][BIAS.full], wanted, atol=1e-3)


def test_a_row_widens_into_itself_only() -> None:
    grid = make(-2.0, 2.0, 0.2, Drift(1e-9, 0.0, 0.2, 0.0), 5)
    cells = np.zeros((5, grid.count))
    cells[1, -1] = cells[3, 0] = 0.5
    grid.moments *= (cells / grid.mass).astype(np.float32)
    grid.predict(6.0)
    share = 0.5 * 0.2**2 * 0.1 / 0.2**2
    kept = grid.mass / grid.mass.sum()
    assert np.flatnonzero(kept.sum(axis=1) > 1e-6).tolist() == [1, 3]
    assert kept[1, -2] / kept[1, -1] == pytest.approx(share / (1 - 2 * share), rel=1e-4)
    assert kept[3, 1] / kept[3, 0] == pytest.approx(share / (1 - 2 * share), rel=1e-4)
    assert kept.sum() == pytest.approx(1.0)


def test_what_was_worked_out_is_forgotten_with_what_it_came_from() -> None:
    def again(grid: FocusGrid) -> FocusGrid:
        return FocusGrid.restored(grid.checkpoint(), grid.drift, BIAS)

    grid = make(-8.0, 8.0, 0.2, Drift(2.0, 0.1, 0.1, 1e-2))
    changes = [
        lambda g: say(g, 2.0, 1.0), lambda g: g.predict(20.0), lambda g: at(g, 1.0), lambda g: g.flatten(0.3),
        lambda g: say(g, 2.0, 1.5), lambda g: g.weigh(1.0 / (1.0 + g.z_um**2)), lambda g: g.resize(-3.0, 6.0),
        lambda g: g.flatten(1.0), lambda g: g.predict(0.6), lambda g: say(g, -1.0, 1.0),
    ]  # fmt: skip
    for change in changes:
        fresh = again(grid)
        for one in (grid, fresh):
            one.marginal()
            one.fits(2.0, Look(GRID, np.full(len(GRID), 1 / 80), 1.0, 0.5, 1.36))
            change(one)
        assert (grid.moments == fresh.moments).all()
        np.testing.assert_array_equal(grid.marginal(), again(grid).marginal())
        np.testing.assert_array_equal(grid.look_from(2.0).variance, again(grid).look_from(2.0).variance)
        assert grid.below(0.5) == pytest.approx(grid.marginal()[grid.z_um < 0.5].sum())


def test_what_falls_between_two_cells_is_divided_between_them() -> None:
    first, (now, later) = spread_out(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[0.25, -1.0], [3.0, 0.5]]))
    assert first == -1
    assert now.tolist() == [0.0, 2.75, 0.25, 0.0, 0.0, 0.0, 0.0]
    assert later.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0, 0.0]


def test_several_times_ahead_are_each_what_they_are_alone() -> None:
    grid = make(-20.0, 20.0, 0.1, Drift(1.0, 0.02, 0.02, 0.0))
    at(grid, 1.0)
    z, both = grid.ahead(1.0, 3.0, 5.0, 90.0)
    for share, wait_s in zip(both, (5.0, 90.0), strict=True):
        there, (alone,) = grid.ahead(1.0, 3.0, wait_s)
        np.testing.assert_allclose(np.interp(there, z, share), alone, atol=1e-12)
        assert share.sum() == pytest.approx(1.0)
