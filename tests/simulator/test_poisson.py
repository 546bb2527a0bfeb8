from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from parfocal.simulator import poisson


def drawn(mean: float, count: int, seed: int = 1) -> np.ndarray:
    generator = np.random.Generator(np.random.SFC64(seed))
    return poisson.draw(np.full(count, mean, dtype=np.float32), generator)


@pytest.mark.parametrize("mean", [0.004, 0.03, 0.5, 1.03, 4.99, 11.99, 12.0, 17.3, 120.0])
def test_distribution_is_poisson(mean: float) -> None:
    count = 400_000
    seen = np.bincount(drawn(mean, count).astype(int))
    expected = stats.poisson.pmf(np.arange(seen.size), float(np.float32(mean))) * count
    enough = expected > 10
    chi2 = float(np.sum((seen - expected)[enough] ** 2 / expected[enough]))
    assert stats.chi2.sf(chi2, int(enough.sum())) > 1e-4
    # The cells with few expected counts together.
    rest = count - seen[enough].sum()
    rest_expected = count - expected[enough].sum()
    assert abs(rest - rest_expected) < 6 * np.sqrt(rest_expected + 1) + 5


@pytest.mark.parametrize("mean", [0.2, 11.0, 13.0, 300.0, 50_000.0])
def test_mean_and_variance(mean: float) -> None:
    count = 500_000
    numbers = drawn(mean, count).astype(np.float64)
    assert numbers.mean() == pytest.approx(mean, abs=5 * np.sqrt(mean / count))
    assert numbers.var() == pytest.approx(mean, rel=5 * np.sqrt((2 + 1 / mean) / count))
    assert np.array_equal(numbers, np.floor(numbers))
    assert numbers.min() >= 0


def test_zero_mean_gives_zero() -> None:
    assert not drawn(0.0, 10_000).any()


def test_small_and_large_means_side_by_side() -> None:
    generator = np.random.Generator(np.random.SFC64(2))
    mean = np.tile(np.array([0.5, 40.0, 5.0, 900.0], dtype=np.float32), 100_000)
    numbers = poisson.draw(mean, generator).reshape(-1, 4).astype(np.float64)
    assert numbers.mean(axis=0) == pytest.approx([0.5, 40.0, 5.0, 900.0], rel=0.02)
    assert numbers.var(axis=0) == pytest.approx([0.5, 40.0, 5.0, 900.0], rel=0.04)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(4)).max() < 0.02
