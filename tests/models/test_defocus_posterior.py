from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from parfocal.models.defocus_net import BLUR_BINS, BLUR_MAX_PX
from parfocal.models.defocus_posterior import (
    ROOT_MAX,
    UNIFORM_MAX_PX,
    UNIFORM_SHARE,
    Posterior,
    edges_px,
    trained_prior,
)

LOGITS = st.builds(
    lambda seed, spread: np.random.default_rng(seed).normal(0.0, spread, BLUR_BINS),
    st.integers(0, 2**31),
    st.floats(0.0, 30.0),
)


def posterior(
    blur: NDArray[np.float64] | None = None, sign: NDArray[np.float64] | None = None, **options: float
) -> Posterior:
    zero = np.zeros(BLUR_BINS)
    values = {"temperature": 1.0, "floor": 0.0, "orientation": 0.0} | options
    return Posterior.of_logits(zero if blur is None else blur, zero if sign is None else sign, **values)


def at_bin(index: int) -> NDArray[np.float64]:
    logits = np.full(BLUR_BINS, -30.0)
    logits[index] = 30.0
    return logits


@settings(deadline=None)
@given(LOGITS, LOGITS, st.floats(0.5, 3.0), st.floats(0.0, 0.2), st.sampled_from([-1.0, 0.0, 1.0]), st.integers(1, 8))
def test_what_is_said_is_always_a_distribution(
    blur: NDArray[np.float64],
    sign: NDArray[np.float64],
    temperature: float,
    floor: float,
    orientation: float,
    binning: int,
) -> None:
    told = posterior(blur, sign, temperature=temperature, floor=floor, orientation=orientation)
    assert told.blur.sum() == pytest.approx(1.0)
    assert (told.blur >= 0).all()
    levels = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
    quantiles = told.quantiles_px(levels)
    assert quantiles == sorted(quantiles)
    assert quantiles[0] >= 0.0
    assert quantiles[-1] <= BLUR_MAX_PX
    assert 0.0 <= told.mean_px() <= BLUR_MAX_PX
    assert told.sd_px() > 0.0
    assert abs(told.signed_mean_px()) <= told.mean_px() + 1e-9
    assert 0.0 <= told.probability_positive() <= 1.0
    assert -1e-9 <= told.certainty(binning) <= 1.0 + 1e-9
    assert 0 <= told.level(binning) <= 10
    over = told.distribution(3.0)
    assert over.probability.sum() == pytest.approx(1.0)
    assert (over.probability >= 0).all()
    assert (np.diff(over.defocus_um) > 0).all()
    assert over.signed == (orientation != 0.0)
    if orientation == 0.0:
        np.testing.assert_allclose(over.probability, over.probability[::-1])
        np.testing.assert_allclose(over.defocus_um, -over.defocus_um[::-1])
        assert told.signed_mean_px() == pytest.approx(0.0, abs=1e-9)


def test_the_prior_is_that_of_the_training_draws() -> None:
    prior = trained_prior()
    assert prior.shape == (BLUR_BINS,)
    assert prior.sum() == pytest.approx(1.0)
    assert (prior > 0).all()
    rng = np.random.default_rng(1)
    drawn = np.where(
        rng.random(200_000) < UNIFORM_SHARE,
        rng.uniform(0, UNIFORM_MAX_PX, 200_000),
        BLUR_MAX_PX * rng.uniform(0, ROOT_MAX, 200_000) ** 2,
    )
    share = np.histogram(drawn, edges_px())[0] / drawn.size
    reached = share > 1e-3
    np.testing.assert_allclose(prior[reached][:-1], share[reached][:-1], rtol=0.15)


def test_a_network_that_only_says_the_prior_gives_a_likelihood_flat_in_um() -> None:
    over = posterior(np.log(trained_prior())).distribution(2.0)
    edges_um = edges_px() / 2.0
    density = over.probability / np.concatenate([np.diff(edges_um)[::-1], np.diff(edges_um)])
    np.testing.assert_allclose(density, density[0], rtol=1e-9)
    assert density[0] == pytest.approx(1.0 / (2 * edges_um[-1]))


def test_um_follow_from_pixels_by_the_scale() -> None:
    told = posterior(at_bin(30))
    centre = 0.5 * (edges_px()[30] + edges_px()[31])
    for px_per_um in (0.5, 4.0):
        assert told.distribution(px_per_um).mean_um() == pytest.approx(centre / px_per_um)


def test_quantiles_and_moments_of_one_bin() -> None:
    told = posterior(at_bin(20))
    low, high = edges_px()[20:22]
    assert told.quantiles_px((0.25, 0.5, 0.75)) == pytest.approx([low + (high - low) * q for q in (0.25, 0.5, 0.75)])
    assert told.mean_px() == pytest.approx((low + high) / 2)
    assert told.sd_px() == pytest.approx((high - low) / math.sqrt(12))
    assert told.signed_sd_px() == pytest.approx(math.sqrt(((low + high) / 2) ** 2 + (high - low) ** 2 / 12))


def test_the_last_level_does_not_take_dim_frames_for_all_that_is_beyond_it() -> None:
    # Where the network knows nothing it says what training drew, most of it past the last level's border.
    told = posterior(np.log(trained_prior()))
    assert told.levels()[10] > 0.3
    assert told.level() < 10


def test_levels_are_of_three_pixels_of_the_unbinned_frame() -> None:
    edges = edges_px()
    for index in range(0, BLUR_BINS, 3):
        told, centre = posterior(at_bin(index)), 0.5 * (edges[index] + edges[index + 1])
        for binning in (1, 2, 4):
            within = {min(10, round(binning * edge / 3.0)) for edge in (edges[index] + 1e-6, edges[index + 1] - 1e-6)}
            expected = {min(10, round(binning * centre / 3.0))} if len(within) == 1 else within
            assert told.level(binning) in expected  # of a bin that straddles two, either
    assert posterior(at_bin(0)).level() == 0


def test_certainty_at_its_ends() -> None:
    assert posterior(at_bin(20)).certainty() == pytest.approx(1.0)
    # Equal shares of the eleven levels: knows nothing.
    limits = [0.0, *(3.0 * np.arange(10) + 1.5), BLUR_MAX_PX]
    even = np.diff(np.interp(edges_px(), limits, np.arange(12) / 11))
    assert posterior(np.log(even)).certainty() == pytest.approx(0.0, abs=0.01)


def test_of_two_blurs_the_level_is_that_of_the_likelier() -> None:
    blur = np.full(BLUR_BINS, -30.0)
    near, far = 6, 17
    blur[near], blur[far] = np.log(0.45), np.log(0.55)
    told = posterior(blur)
    centre = 0.5 * (edges_px()[far] + edges_px()[far + 1])
    assert told.level() == round(centre / 3.0)
    assert told.levels().sum() == pytest.approx(1.0)


def test_temperature_widens_and_floor_leaves_nothing_impossible() -> None:
    logits = -0.5 * ((np.arange(BLUR_BINS) - 20) / 2.0) ** 2
    assert posterior(logits, temperature=4.0).sd_px() > 1.5 * posterior(logits).sd_px()
    floored = posterior(at_bin(20), floor=0.1)
    np.testing.assert_allclose(np.delete(floored.blur, 20), 0.1 * np.delete(trained_prior(), 20), atol=1e-12)


def test_the_sign_turns_with_that_of_the_aberration() -> None:
    sign = np.full(BLUR_BINS, 2.0)
    above = posterior(at_bin(20), sign, orientation=1.0)
    below = posterior(at_bin(20), sign, orientation=-1.0)
    assert above.probability_positive() == pytest.approx(1 / (1 + math.exp(-2)))
    assert above.probability_positive() == pytest.approx(1 - below.probability_positive())
    assert above.signed_mean_px() == pytest.approx(-below.signed_mean_px())
    assert above.signed_mean_px() > 0
    over = above.distribution(1.0)
    assert over.signed
    assert over.mean_um() > 0
    np.testing.assert_allclose(over.probability, below.distribution(1.0).probability[::-1])
    assert not posterior(at_bin(20), sign).signed


def test_no_sign_is_ever_certain() -> None:
    told = posterior(at_bin(20), np.full(BLUR_BINS, 1e6), orientation=1.0)
    assert told.probability_positive() < 0.998
