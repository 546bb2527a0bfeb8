"""Where to look next."""

from __future__ import annotations

import numpy as np

from parfocal.policies.focus.looks import best_look, candidates, information, most_information, sample_belief, travel
from parfocal.policies.focus.response import Response

DOF = 1.36
NETWORK = Response.surrogate(DOF, 0.18, 0.08, 100.0)


def test_samples_are_quantiles() -> None:
    z = np.linspace(-10, 10, 2001)
    foci = sample_belief(z, np.exp(-0.5 * ((z - 2) / 1.5) ** 2), 512)
    assert abs(foci.mean() - 2) < 0.02
    assert abs(foci.std() - 1.5) < 0.05


def test_beside_the_focus_more_is_learned_than_at_it() -> None:
    foci = np.random.default_rng(0).normal(0.0, 0.5, 400)
    at, beside = information(np.array([0.0, 3.0]), foci, NETWORK)
    assert beside > 2 * at


def test_information_agrees_with_the_closed_form() -> None:
    """Far on one side the number is linear in the focus: half the log of one plus the signal-to-noise ratio."""
    foci = np.random.default_rng(0).normal(0.0, 1.0, 20000)
    gain = information(np.array([30.0]), foci, NETWORK)[0]
    noise = np.hypot(0.18 * DOF, 0.08 * 30.0)
    assert abs(gain - 0.5 * np.log1p(1 / noise**2)) < 0.03


def test_no_look_tells_more_than_the_bound_that_costs_little() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        sides = rng.choice([-1.0, 1.0], 48) * rng.choice([0.0, rng.uniform(0.0, 6.0)])
        foci = np.sort(sides + rng.normal(0.0, rng.choice([0.01, 0.1, 0.3, 2.0]), 48))
        places = rng.uniform(-8.0, 8.0, 10)
        bound = most_information(places, foci, NETWORK)
        assert (information(places, foci, NETWORK) <= bound).all()
        assert (bound < 3.0).all()


def test_a_symmetric_belief_is_told_apart_by_a_move_to_either_side_not_by_none() -> None:
    foci = np.repeat([-10.0, 10.0], 64) + np.random.default_rng(0).normal(0, 0.8, 128)
    stay, aside = information(np.array([0.0, 4.0]), foci, NETWORK)
    assert aside > stay + 0.4


def test_expensive_travel_prefers_the_short_move() -> None:
    foci = np.repeat([-15.0, 15.0], 64) + np.random.default_rng(0).normal(0, 1.0, 128)
    places = candidates(foci, 0.0, DOF, -100.0, 100.0)
    news = np.ones(len(places))
    free = best_look(places, news, foci, 0.0, NETWORK, 0.0)
    dear = best_look(places, news, foci, 0.0, NETWORK, 0.2)
    assert abs(free.z_um) > 8.0 > abs(dear.z_um) > 1.0
    assert dear.gain_nats > 0.4


def test_a_wrong_side_pays_twice() -> None:
    foci = np.array([-10.0, 10.0])
    assert travel(np.array([0.0, 10.0]), foci, 0.0).tolist() == [10.0, 20.0]


def test_candidates_stay_within_the_limits() -> None:
    foci = np.linspace(-30, 30, 128)
    places = candidates(foci, 0.0, DOF, -5.0, 12.0)
    assert places.min() >= -5.0
    assert places.max() <= 12.0
    assert len(candidates(foci, 0.0, DOF, 500.0, 600.0)) == 0


def test_what_is_told_at_one_place_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(2)
    foci, places = np.sort(rng.normal(0.0, 4.0, 128)), rng.uniform(-30.0, 30.0, 20)
    together = information(places, foci, NETWORK)
    np.testing.assert_allclose(together, [information(np.array([z]), foci, NETWORK)[0] for z in places], atol=1e-9)


def test_the_scale_of_even_noise_is_the_integral_of_one_over_the_spread() -> None:
    """For a response that is different on its two sides, and not monotone in its spread."""
    d = np.linspace(-10.0, 12.0, 12)
    mean, sd = np.abs(d) ** 1.3 + 0.1 * d + 1.0, 0.2 + 0.05 * np.abs(d - 3.0)
    response = Response(d, mean, sd)
    at = np.random.default_rng(0).uniform(-12.0, 14.0, 500)
    expected = np.interp(at, d, mean)
    order = np.argsort(mean, kind="stable")
    levels = np.linspace(mean.min(), mean.max(), 4001)
    spread = np.interp(levels, mean[order], sd[order])
    scale = np.concatenate([[0.0], np.cumsum(np.diff(levels) * 2 / (spread[1:] + spread[:-1]))])
    np.testing.assert_allclose(response.evenly_noisy(at), np.interp(expected, levels, scale), rtol=2e-2, atol=0.02)
