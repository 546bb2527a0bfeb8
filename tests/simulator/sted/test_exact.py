"""The fast scan against the pixel-by-pixel reference: the error of the approximation, measured."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parfocal.simulator.sted.dyes import DYES, Dye
from parfocal.simulator.sted.exact import expected_exact, scan_exact
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import expected, plan_for, scan
from parfocal.simulator.sted.settings import StedOptics, StedSettings

LONG_DARK = dataclasses.replace(DYES["fragile"], name="long_dark", dark_lifetime_us=300.0)


def field(dye: Dye, shape: tuple[int, int] = (20, 24), pixel_um: float = 0.025) -> StedSample:
    return StedSample.make("clusters", shape, pixel_um=pixel_um, seed=5, density=2.0, dye=dye)


@pytest.mark.parametrize(
    "settings",
    [
        StedSettings(2.0, 150.0, 20.0),
        StedSettings(20.0, 300.0, 60.0),
        StedSettings(10.0, 150.0, 2.0, 3),
        StedSettings(5.0, 0.0, 20.0),
    ],
)
@pytest.mark.parametrize(
    ("dye", "tolerance"),
    [(Dye(), 1e-5), (DYES["robust"], 6e-3), (DYES["fragile"], 1.2e-2), (LONG_DARK, 6e-2)],
    ids=lambda given: given.name if isinstance(given, Dye) else "",
)
def test_image_and_loss_agree_with_the_exact_scan(dye: Dye, settings: StedSettings, tolerance: float) -> None:
    """Without a dark state there is no difference. With one there is: what a pass finds of the last."""
    sample = field(dye)
    image, left = expected_exact(sample, settings)
    fast = expected(sample, settings)
    assert np.sqrt(np.mean((fast - image) ** 2) / np.mean(image**2)) < tolerance
    np.testing.assert_allclose(sample.molecules * plan_for(sample, settings).survive, left, atol=tolerance * left.max())
    assert left.sum() < sample.fresh.sum() or not (dye.bleach_yield or settings.depletion_power)


def test_agrees_where_the_field_is_larger_than_the_reach_of_the_beams() -> None:
    """So that there are columns that all see the same, which share a table."""
    sample, settings = field(DYES["fragile"], (12, 32), 0.05), StedSettings(6.0, 250.0, 20.0)
    assert sample.shape[1] > 2 * sample.margin_px + 1
    image, _ = expected_exact(sample, settings)
    assert np.sqrt(np.mean((expected(sample, settings) - image) ** 2) / np.mean(image**2)) < 8e-3


def test_agrees_out_of_focus_and_with_another_instrument() -> None:
    sample, settings = field(DYES["robust"]), StedSettings(4.0, 120.0, 15.0)
    sample.optics = StedOptics(na=1.2, immersion_index=1.33, residual_zero=0.03, gate_delay_ns=0.1, flyback_us=20.0)
    image, _ = expected_exact(sample, settings, defocus_um=-0.3)
    assert np.sqrt(np.mean((expected(sample, settings, defocus_um=-0.3) - image) ** 2) / np.mean(image**2)) < 1e-2


def test_counts_of_many_scans_have_the_mean_and_the_spread_of_exact_ones() -> None:
    """The molecules that happen to bleach early or late are left out of the fast image: that must not show."""
    settings = StedSettings(5.0, 150.0, 20.0)
    fresh = StedSample.make("clusters", (8, 8), pixel_um=0.05, seed=1, density=4.0, dye=DYES["fragile"])
    images: dict[str, list[np.ndarray]] = {"fast": [], "exact": []}
    left: dict[str, list[float]] = {"fast": [], "exact": []}
    for seed in range(120):
        for name, look in (("fast", scan), ("exact", scan_exact)):
            sample, rng = fresh.copy(), np.random.default_rng([seed, len(name)])
            images[name].append(look(sample, settings, rng).astype(float))
            left[name].append(sample.molecules.sum())
    fast, exact = np.array(images["fast"]), np.array(images["exact"])
    assert fast.mean() == pytest.approx(exact.mean(), rel=0.02)
    assert fast.var(axis=0).mean() == pytest.approx(exact.var(axis=0).mean(), rel=0.12)
    assert np.mean(left["fast"]) == pytest.approx(np.mean(left["exact"]), rel=0.01)
    assert np.std(left["fast"]) == pytest.approx(np.std(left["exact"]), rel=0.25)
