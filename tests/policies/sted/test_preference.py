"""Preferences: weights that are bounded and monotonic, the network that learns from pairs, cycles that are named."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.policies.sted.preference import Learned, Weights, make_preference
from parfocal.policies.sted.prefnet import PreferenceError, PrefNet, agreement, find_cycle, train_prefnet

INPUTS = ("resolution_nm", "bleach", "signal_ratio")


def values(resolution: float = 80.0, bleach: float = 0.2, signal: float = 0.4, time: float = 10.0) -> dict[str, Any]:
    told = {"resolution_nm": resolution, "bleach": bleach, "signal_ratio": signal, "pixel_us": time}
    return {name: np.array([value]) for name, value in told.items()}


def one(preference: Any, **changed: float) -> float:
    return float(preference.utility(values(**changed))[0])


@given(
    resolution=st.floats(1, 1000), bleach=st.floats(-0.5, 1), signal=st.floats(-1, 100), time=st.floats(0.01, 1e4),
    form=st.sampled_from(["product", "sum"]),
)  # fmt: skip
def test_utility_lies_between_0_and_1(resolution: float, bleach: float, signal: float, time: float, form: str) -> None:
    assert 0.0 <= one(Weights(form=form), resolution=resolution, bleach=bleach, signal=signal, time=time) <= 1.0  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["product", "sum"])
def test_better_in_one_respect_is_better(form: Any) -> None:
    preference = Weights(form=form)
    assert one(preference, resolution=60) > one(preference) > one(preference, resolution=120)
    assert one(preference, bleach=0.05) > one(preference) > one(preference, bleach=0.5)
    assert one(preference, signal=0.6) > one(preference) > one(preference, signal=0.1)
    assert one(preference, time=4) > one(preference) > one(preference, time=40)


def test_a_frame_without_light_is_worth_nothing_unless_objectives_are_summed() -> None:
    nothing = {"resolution": 300.0, "bleach": 0.0, "signal": 0.0, "time": 1.0}
    assert one(Weights(), **nothing) < 1e-5
    assert one(Weights(form="sum"), **nothing) == pytest.approx(0.38)


def test_what_has_no_weight_does_not_enter() -> None:
    preference = make_preference({"resolution": 1, "bleach": 0, "signal": 0, "time": 0})
    assert preference.needs == ("resolution_nm",)
    assert one(preference, resolution=130.0) == pytest.approx((220 - 130) / 180)
    assert Weights().needs == ("resolution_nm", "bleach", "signal_ratio", "pixel_us")


def pairs_of(rng: np.random.Generator, count: int) -> list[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Somebody who looks at resolution first, and at bleaching."""
    pairs = []
    for _ in range(count):
        a, b = (tuple(rng.uniform((50, 0.0, 0.1), (200, 0.8, 1.0)).tolist()) for _ in range(2))
        worth = [(200 - o[0]) / 150 + 0.5 * (1 - o[1]) for o in (a, b)]
        pairs.append((a, b) if worth[0] > worth[1] else (b, a))
    return pairs


def test_prefnet_learns_an_order_from_pairs_and_keeps_it_for_new_ones() -> None:
    rng = np.random.default_rng(3)
    net = train_prefnet(pairs_of(rng, 300), INPUTS, seed=1)
    assert sum(part.size for part in (*net.weights, *net.biases)) == 161
    assert agreement(net, pairs_of(rng, 300)) > 0.93
    assert train_prefnet(pairs_of(np.random.default_rng(3), 300), INPUTS, seed=1).to_json() == net.to_json()


def test_a_few_picks_are_learned_and_survive_json() -> None:
    pairs = pairs_of(np.random.default_rng(0), 8)
    net = train_prefnet(pairs, INPUTS)
    assert agreement(net, pairs) == 1.0
    again = make_preference({"prefnet": json.loads(json.dumps(net.to_json()))})
    assert isinstance(again, Learned)
    assert again.needs == INPUTS
    worth = [float(again.utility({n: np.array([v]) for n, v in zip(INPUTS, o, strict=True)})[0]) for o in pairs[0]]
    assert 1 > worth[0] > worth[1] > 0


def test_the_gradient_is_that_of_the_loss() -> None:
    from parfocal.policies.sted import prefnet

    rng = np.random.default_rng(0)
    shapes = [(10, 3), (10,), (10, 10), (10,), (1, 10), (1,)]
    parameters = [rng.standard_normal(shape) for shape in shapes]
    winners, losers = rng.standard_normal((5, 3)), rng.standard_normal((5, 3))
    slopes = prefnet._gradient(parameters, winners, losers)
    for index, place in ((0, (2, 1)), (1, (3,)), (2, (4, 4)), (3, (0,)), (4, (0, 7)), (5, (0,))):
        moved = []
        for step in (1e-6, -1e-6):
            changed = [part.copy() for part in parameters]
            changed[index][place] += step
            moved.append(prefnet._loss(changed, winners, losers))
        assert slopes[index][place] == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=1e-6)


def test_a_cycle_is_found_and_named() -> None:
    a, b, c, d = (1.0,), (2.0,), (3.0,), (4.0,)
    assert find_cycle([(a, b), (b, c), (a, c), (d, a)]) == []
    found = find_cycle([(d, a), (a, b), (b, c), (c, a)])
    assert set(found) == {a, b, c}
    assert find_cycle([(a, b), (b, a)]) != []


@given(st.permutations(range(7)), st.integers(0, 2**31))
def test_an_order_never_has_a_cycle_and_closing_it_always_does(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    pairs = [((float(order[i]),), (float(order[j]),)) for i in range(7) for j in range(i + 1, 7) if rng.random() < 0.7]
    pairs += [((float(order[i]),), (float(order[i + 1]),)) for i in range(6)]
    assert find_cycle(pairs) == []
    cycle = find_cycle([*pairs, ((float(order[6]),), (float(order[0]),))])
    told = {*pairs, ((float(order[6]),), (float(order[0]),))}
    assert len(cycle) >= 2
    assert all((cycle[i], cycle[(i + 1) % len(cycle)]) in told for i in range(len(cycle)))


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([], "no pairs"),
        ([((1.0, 2.0), (1.0, 3.0))], "3 objectives"),
        ([((1.0, 2.0, 3.0), (1.0, 2.0, 3.0))], "over itself"),
        ([((1.0, 2.0, float("nan")), (1.0, 2.0, 3.0))], "finite"),
    ],
)
def test_pairs_nothing_can_be_learned_from_are_refused(pairs: Any, said: str) -> None:
    with pytest.raises(PreferenceError, match=said):
        train_prefnet(pairs, INPUTS)


def test_a_network_of_another_shape_is_refused() -> None:
    good = train_prefnet(pairs_of(np.random.default_rng(0), 8), INPUTS).to_json()
    for key, value in (("weights", good["weights"][:2]), ("sd", [1, 0, 1]), ("width", 0), ("mean", [1, 2])):
        with pytest.raises(PreferenceError, match="not a preference network"):
            PrefNet.from_json(good | {key: value})
    with pytest.raises(ValueError, match="without weights"):
        make_preference({"prefnet": good, "bleach": 1})
