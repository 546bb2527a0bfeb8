"""``sted.thompson``: kernel regression with fixed bandwidth, its noise bounds, joint draws, the click."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from parfocal.policies import make_policy
from parfocal.policies.sted import kernel_ts
from parfocal.policies.sted.space import Space

BOX = {"excitation_power": (0.1, 10.0), "depletion_power": (0.0, 300.0), "dwell_us": (1.0, 60.0)}


def test_the_grid_is_the_published_one() -> None:
    grid = kernel_ts.make_grid(Space.of(BOX))
    assert len(grid) == 12 * 10 * 12
    assert [len(np.unique(grid[:, column])) for column in range(3)] == [12, 10, 12]
    assert len(kernel_ts.make_grid(Space.of(BOX | {"line_steps": (1, 3)}))) == 1440 * 3


def test_a_draw_has_the_mean_and_covariance_of_the_regression() -> None:
    rng = np.random.default_rng(0)
    points, values = rng.random((4, 2)), rng.random(4)
    grid = rng.random((3, 2))
    learner = kernel_ts.KernelTS("bleach", 0.4)
    learner.learn(points, values)
    draws = np.array([learner.draw(grid, rng)[0] for _ in range(4000)])
    ridge = learner.high**2 / 25.0
    inverse = np.linalg.inv(kernel_ts.kernel(points, points, 0.4) + ridge * np.eye(4))
    cross = kernel_ts.kernel(points, grid, 0.4)
    assert draws.mean(0) == pytest.approx(cross.T @ inverse @ values, abs=0.3)
    left = kernel_ts.kernel(grid, grid, 0.4) - cross.T @ inverse @ cross
    assert np.cov(draws.T) == pytest.approx(25.0 * left, abs=1.5)  # C^2 times the posterior kernel


def test_before_the_first_image_the_draw_is_the_prior() -> None:
    learner = kernel_ts.KernelTS("bleach", 0.3)
    draw, mean = learner.draw(np.random.default_rng(0).random((400, 3)), np.random.default_rng(1))
    assert (mean == 0).all()
    assert 2.0 < draw.std() < 8.0  # C = 5


def test_noise_bounds_hold_the_noise_and_only_narrow() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((3000, 1))
    values = np.sin(3 * points[:, 0]) + 0.05 * rng.standard_normal(3000)
    low, high = 0.005, 0.5
    seen = []
    for count in (5, 100, 1000, 3000):
        low, high = kernel_ts.noise_bounds(points[:count], values[:count], 0.3, low, high)
        seen.append((low, high))
        assert low <= 0.05 <= high
    assert seen[0][1] == 0.5  # with a few images nothing is known of the upper bound
    assert seen[-1][0] > 0.02
    assert seen[-1][1] < 0.12
    assert all(a[0] <= b[0] and a[1] >= b[1] for a, b in zip(seen, seen[1:], strict=False))  # noqa: RUF007


def test_samples_on_a_face_are_repeated_outside() -> None:
    points = np.array([[0.0, 0.5], [0.4, 1.0], [0.3, 0.3]])
    more, values = kernel_ts.with_pseudo_points(points, np.array([1.0, 2.0, 3.0]), 0.3)
    assert more.tolist() == [*points.tolist(), [-0.3, 0.5], [0.4, 1.3]]
    assert values.tolist() == [1.0, 2.0, 3.0, 1.0, 2.0]


def test_tries_the_grid_and_recommends_by_its_means(bench: ModuleType) -> None:
    policy: Any = make_policy("sted.thompson", {"max_images": 6, "seed": 3})
    _, end = bench.drive(policy, bench.Scope())
    assert end is not None
    assert len(policy.trials) == 6
    grid = {tuple(policy.space.settings(row).values()) for row in kernel_ts.make_grid(policy.space)}
    found = policy.recommendation()
    assert tuple(found["settings"].values()) in grid
    assert 0 <= found["utility"] <= 1


def test_the_same_seed_makes_the_same_choices_and_another_does_not(bench: ModuleType) -> None:
    made = []
    for seed in (1, 1, 2):
        policy: Any = make_policy("sted.thompson", {"max_images": 3, "seed": seed})
        bench.drive(policy, bench.Scope())
        made.append([trial.settings for trial in policy.trials])
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_its_suggestions_are_json(bench: ModuleType) -> None:
    policy: Any = make_policy("sted.thompson", {"max_images": 4})
    scope = bench.Scope()
    for _ in range(10):
        policy.tell(scope.frame())
        problem = policy.problem()
        if problem is not None:
            problem = json.loads(json.dumps(problem, allow_nan=False))
            policy.accept(json.loads(json.dumps(kernel_ts.solve(problem), allow_nan=False)))
        scope.apply(getattr(policy.ask(), "settings", {}))
    assert len(policy.trials) >= 2


def test_no_place_that_is_safe_is_an_answer() -> None:
    policy: Any = make_policy("sted.thompson", {})
    policy._m.phase = "choose"
    problem = policy._problem()
    problem["envelope"] |= {"bad": [1e-9]}
    assert kernel_ts.solve(problem) == {"reason": "no place of the grid is safe"}
