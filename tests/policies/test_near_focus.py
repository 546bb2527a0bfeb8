"""Near the focus the belief is as sure as an image lets it be: flatness is no news, and its sd is that of its error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from types import ModuleType

import numpy as np
import pytest

from parfocal.models.base import Assessment
from parfocal.policies import make_policy
from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.drift import Drift
from parfocal.policies.focus.grid import FocusGrid
from parfocal.policies.focus.likelihood import Look

DOF = 1.36
STILL = Drift(1e-9, 0.0, 0.0, 0.0)
OPTIONS = {"dof_um": DOF, "lower_um": -100.0, "upper_um": 100.0, "max_step_um": 100.0}


def look(value: float, spread: float, noise: float) -> Look:
    return Look(np.array([-60.0, 0.0, 60.0]), np.ones(3), value, spread, DOF, noise=noise)


def changes(prior: BiasPrior, distance_um: float) -> float:
    """Sd of the difference of a field's error there and at the focus, in units of the spread."""
    at = np.diff(prior.basis(np.array([0.0, distance_um])), axis=1)[:, 0]
    covariance = prior.moments[prior.count :][prior.full]
    return float(np.sqrt(at @ covariance @ at))


def test_a_fields_error_hardly_changes_within_what_no_image_tells_apart() -> None:
    prior = BiasPrior(DOF)
    assert changes(prior, 0.1 * DOF) < 0.05
    assert changes(prior, 0.2 * DOF) < 0.15
    assert changes(prior, 0.2 * DOF) == pytest.approx(4.0 * changes(prior, 0.1 * DOF), rel=0.1)
    assert changes(prior, 1.5 * DOF) > 0.8  # off the focus it is anybody's guess


def test_frames_of_one_place_do_not_speak_for_the_focus_however_many() -> None:
    grid = FocusGrid(-3 * DOF, 3 * DOF, 0.125 * DOF, STILL, BiasPrior(DOF), 2)
    grid.weigh(np.exp(-0.5 * (grid.z_um / (0.3 * DOF)) ** 2) + 1e-9)
    grid.update(0.0, look(0.3 * DOF, 0.15 * DOF, 0.05))
    once = grid.estimate(DOF).sd_um
    for _ in range(150):
        grid.update(0.0, look(0.3 * DOF, 0.15 * DOF, 0.05))
    assert grid.estimate(DOF).sd_um > 0.97 * once


def test_the_rough_part_is_shared_by_frames_of_a_place_and_another_elsewhere() -> None:
    prior = BiasPrior(DOF)
    assert prior.kept(0.0) == 1.0
    assert prior.kept(0.5 * DOF) < 0.1

    def unknown(grid: FocusGrid) -> float:
        """Variance of the rough part where it looks from, in units of that of a place never seen."""
        n, mass = prior.count, grid.moments[0]
        variance = grid.moments[1 + n + prior.full[-1, -1]] / mass - (grid.moments[n] / mass) ** 2
        return float(variance.mean()) / prior.rough**2

    here, there = 2.0 * DOF, 3.5 * DOF
    grid = FocusGrid(-0.05, 0.05, 0.01, STILL, prior, 2)
    grid.update(here, look(here, 0.2 * DOF, 0.05))
    once = unknown(grid)
    assert once < 0.97
    for _ in range(20):
        grid.update(here, look(here, 0.2 * DOF, 0.05))
    assert unknown(grid) == pytest.approx(once, abs=0.03)
    grid.fits(there, look(there, 0.2 * DOF, 0.05))
    assert unknown(grid) == pytest.approx(1.0, abs=1e-3)


def test_where_it_looked_from_last_survives_a_checkpoint() -> None:
    prior = BiasPrior(DOF)
    grid = FocusGrid(-DOF, DOF, 0.125 * DOF, STILL, prior, 2)
    for place in (2.0, 2.1):
        grid.update(place, look(2.0, 0.3, 0.05))
    other = FocusGrid.restored(grid.checkpoint(), STILL, prior)
    for one in (grid, other):
        one.update(2.2, look(2.1, 0.3, 0.05))
    np.testing.assert_array_equal(grid.moments, other.moments)


@dataclass
class FlatField:
    """A model whose number stays as it is up to `flat` depths of field, and is off by a smooth error of the field's."""

    seed: int
    spread: float = 0.2
    noise: float = 0.02
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.flat = self.rng.uniform(0.35, 0.75)
        self.level, self.gain = self.rng.normal(0.0, 0.1), self.rng.normal(1.0, 0.05)

    def assess(self, defocus_um: float) -> Assessment:
        u = abs(defocus_um) / DOF
        power = 6.0
        said = (self.flat**power + u**power) ** (1 / power) - 0.4 * self.flat / (1 + (u / self.flat) ** 4)
        spread = math.hypot(self.spread, 0.06 * u)
        said = self.gain * said + self.level + self.noise * spread * self.rng.standard_normal()
        return Assessment("defocus", max(said, 0.05) * DOF, spread * DOF)


def errors_in_sd(arena: ModuleType, seed: int, frames: int = 50) -> np.ndarray:
    """Error of what the belief says in units of the sd it says, of every frame that it calls focused."""
    rate = (1.0, -0.5, 1.5)[seed % 3]
    world = arena.Arena(
        make_policy("focus.belief", OPTIONS), lambda t: rate * t / 60.0, FlatField(seed), z_um=3.0 + seed % 5
    )
    missed = []
    for _ in range(frames):
        before = world.defocus_um
        detail = world.step().detail
        if detail.get("focused") == 1.0:
            missed.append((detail["defocus_um"] - before) / detail["defocus_sd_um"])
    return np.asarray(missed)


def test_what_it_says_near_focus_is_as_far_off_as_it_says(arena: ModuleType) -> None:
    episodes = [errors_in_sd(arena, seed) for seed in range(18)]
    assert all(len(one) > 25 for one in episodes)
    missed = np.concatenate(episodes)
    assert np.sqrt(np.mean(missed**2)) < 1.3
    assert np.mean(np.abs(missed) <= 1.645) > 0.88
