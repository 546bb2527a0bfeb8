"""The true quality of a simulated STED image: 0 for what shows nothing new, 1 for all, an optimum in between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.models.training.sted_quality_truth import blurred, explained, fine_detail, true_quality
from parfocal.simulator.sted import DYES, StedSample, StedSettings, scan
from parfocal.simulator.sted.truth import target

PIXEL_UM = 0.02


def sample(kind: str = "actin_rings", dye: str = "robust", seed: int = 1) -> StedSample:
    return StedSample.make(kind, (64, 64), pixel_um=PIXEL_UM, seed=seed, dye=DYES[dye])


def scanned(how: StedSettings, kind: str = "actin_rings", dye: str = "robust", repeats: int = 2) -> float:
    found = []
    for seed in range(repeats):
        field = sample(kind, dye, seed)
        found.append(true_quality(scan(field, how, np.random.default_rng(seed)), field))
    return float(np.mean(found))


def test_the_structure_itself_is_perfect_and_nothing_is_nothing() -> None:
    field = sample()
    there = target(field)
    assert true_quality(there, field) == pytest.approx(1.0, abs=1e-6)
    assert true_quality(np.zeros_like(there), field) == 0.0
    assert true_quality(np.full_like(there, 7.0), field) == 0.0
    assert true_quality(-there, field) == 0.0


def test_neither_gain_nor_background_count() -> None:
    field = sample()
    seen = scan(field, StedSettings(2.0, 100.0, 10.0), np.random.default_rng(0)).astype(np.float64)
    assert true_quality(3.0 * seen + 11.0, field) == pytest.approx(true_quality(seen, field), abs=1e-4)


def test_what_a_perfect_confocal_image_shows_is_hardly_worth_anything() -> None:
    for kind in ("actin_rings", "clusters", "synapses", "filaments"):
        field = sample(kind)
        confocal = field.field(blurred(field.fresh, 220.0, PIXEL_UM))
        assert explained(confocal, target(field), PIXEL_UM) < 0.45


def test_a_narrower_psf_shows_more() -> None:
    field = sample("clusters")
    found = [
        explained(field.field(blurred(field.fresh, nm, PIXEL_UM)), target(field), PIXEL_UM) for nm in (60, 90, 150, 220)
    ]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.9


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (StedSettings(0.02, 100.0, 1.0), "too dim"),
        (StedSettings(2.0, 0.0, 10.0), "confocal"),
        (StedSettings(20.0, 350.0, 100.0), "over-dosed"),
        (StedSettings(20.0, 0.0, 100.0), "confocal, saturated"),
    ],
)
def test_bad_images_are_bad(how: StedSettings, why: str) -> None:
    assert scanned(how) < 0.2, why
    assert scanned(StedSettings(2.0, 150.0, 10.0)) > 0.7


@pytest.mark.parametrize("dye", ["robust", "fragile"])
def test_the_best_dose_lies_between(dye: str) -> None:
    found = [scanned(StedSettings(power, 120.0, 20.0), dye=dye) for power in (0.01, 0.5, 20.0)]
    assert found[1] > found[0] + 0.2
    assert found[1] > found[2] + 0.2


def test_the_best_depletion_lies_between() -> None:
    found = [scanned(StedSettings(3.0, power, 20.0), dye="fragile") for power in (0.0, 200.0, 350.0)]
    assert found[1] > found[0] + 0.3
    assert found[1] > found[2] + 0.03


def test_a_fragile_dye_wants_less() -> None:
    more = {
        dye: scanned(StedSettings(3.0, 200.0, 20.0), "clusters", dye)
        - scanned(StedSettings(0.7, 200.0, 20.0), "clusters", dye)
        for dye in ("robust", "fragile")
    }
    assert more["robust"] > 0.0 > more["fragile"]


def test_different_shapes_are_refused() -> None:
    with pytest.raises(UsageError, match="shape"):
        explained(np.zeros((8, 8)), np.zeros((8, 9)), PIXEL_UM)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), mean=st.floats(0.001, 50.0))
def test_it_lies_within_0_and_1_whatever_the_image(seed: int, mean: float) -> None:
    rng = np.random.default_rng(seed)
    image, wanted = rng.poisson(mean, (40, 48)), rng.poisson(3.0, (40, 48))
    assert 0.0 <= explained(image, wanted, PIXEL_UM) <= 1.0
    assert fine_detail(image, PIXEL_UM).shape == (40, 48)
