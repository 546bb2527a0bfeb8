from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.training import camera_noise
from parfocal.models.training.camera_noise import detectability, empty, expose

FLAT = np.ones((256, 256), dtype=np.float32)


def adjacent_variance(image: NDArray[np.float32]) -> float:
    """Noise of a pixel from its neighbour, blind to shading."""
    return float(np.var(image[:, 1:] - image[:, :-1]) / 2)


@pytest.fixture
def electrons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out gain, offset and defects: expose then returns electrons."""
    monkeypatch.setattr(camera_noise, "_digitise", lambda electrons, rng: electrons)


@pytest.mark.usefixtures("electrons")
@pytest.mark.parametrize("photons", [10.0, 200.0, 5000.0])
def test_electrons_have_the_mean_of_the_light_and_the_variance_of_shot_and_read_noise(photons: float) -> None:
    for seed in range(12):
        told = expose(FLAT * 0.5, 0.5, np.random.default_rng(seed), photons=photons).counts
        mean = float(told.mean())
        # Background adds at most 27 % and 5 electrons; a vignette takes at most half times the squared distances.
        assert 0.4 * photons < mean < 1.27 * photons + 5.5
        assert 0.96 * (mean + 0.3**2) < adjacent_variance(told) < 1.04 * (mean + 2.5**2)


@pytest.mark.usefixtures("electrons")
def test_the_peak_in_focus_sets_the_light() -> None:
    bright = expose(FLAT, 1.0, np.random.default_rng(3), photons=1000.0).counts.mean()
    dim = expose(FLAT, 4.0, np.random.default_rng(3), photons=1000.0).counts.mean()
    background = expose(FLAT * 0, 1.0, np.random.default_rng(3), photons=1000.0).counts.mean()
    assert (dim - background) == pytest.approx((bright - background) / 4, rel=0.05)


@pytest.mark.usefixtures("electrons")
def test_light_levels_are_drawn_over_three_decades() -> None:
    rng = np.random.default_rng(8)
    peaks = [float(expose(FLAT[:32, :32], 1.0, rng).counts.mean()) for _ in range(400)]
    assert min(peaks) < 25
    assert max(peaks) > 5000
    assert np.median(peaks) == pytest.approx(350, rel=0.4)  # 316 and the background


def test_counts_are_what_a_sixteen_bit_file_holds() -> None:
    for seed in range(60):
        counts = expose(FLAT[:64, :64] * 0.7, 1.0, np.random.default_rng(seed)).counts
        assert counts.dtype == np.float32
        np.testing.assert_array_equal(counts, np.round(counts))
        assert counts.min() >= 0
        assert counts.max() <= 65535


def test_a_seed_says_it_all() -> None:
    one, two = (expose(FLAT, 1.0, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(one.counts, two.counts)
    assert one.detectability == two.detectability


def test_detectability_grows_with_the_light_and_not_with_nothing() -> None:
    y, x = np.mgrid[:128, :128]
    blob = np.exp(-((y - 64) ** 2 + (x - 64) ** 2) / 200.0).astype(np.float32)
    told = [expose(blob, 1.0, np.random.default_rng(1), photons=photons).detectability for photons in (1, 10, 100, 1e4)]
    assert told == sorted(told)
    assert told[0] < 0.1 * told[-1]
    assert detectability(FLAT * 50, 1.0) == pytest.approx(0.0, abs=1e-6)


def test_detectability_of_patterns_worked_by_hand() -> None:
    # A chequerboard of amplitude a shows pixel by pixel: N a^2 / variance over sqrt(2 N).
    y, x = np.mgrid[:64, :64]
    board = (0.5 * ((x + y) % 2 * 2 - 1)).astype(np.float32)
    assert detectability(board, 2.0) == pytest.approx(4096 * 0.25 / 2.0 / np.sqrt(2 * 4096), rel=1e-5)
    # One of 16 px squares shows best in cells of 16: the same energy, sqrt(2 N / 256).
    squares = (0.5 * ((x // 16 + y // 16) % 2 * 2 - 1)).astype(np.float32)
    assert detectability(squares, 2.0) == pytest.approx(4096 * 0.25 / 2.0 / np.sqrt(2 * 4096 / 256), rel=1e-5)


def test_an_empty_field_holds_no_signal() -> None:
    for seed in range(20):
        told = empty((128, 128), np.random.default_rng(seed))
        assert told.detectability == 0.0
        assert told.counts.shape == (128, 128)
        assert told.counts.max() <= 65535
