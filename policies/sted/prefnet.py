"""PrefNet (Durand et al. 2018): a small network that learns from pairs of outcomes which of two is preferred."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.policies.sted.space import Vector

HIDDEN = 10
MARGIN = 0.1
RATE = 1e-2
BATCH = 128
EPOCHS = 100
PATIENCE = 10
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_LAYERS = 3

Outcome = tuple[float, ...]
Index = NDArray[np.signedinteger[Any]]


class PreferenceError(ValueError):
    """Pairs that no preference can be learned from."""


@dataclass(frozen=True)
class PrefNet:
    """Linear(m, 10) - ReLU - Linear(10, 10) - ReLU - Linear(10, 1) of standardised objectives.

    Parameters
    ----------
    inputs : tuple of str
        Names of the objectives, in order.
    mean, sd : ndarray, shape (m,)
        Of the training outcomes.
    weights, biases : tuple of ndarray
        Of the three layers; weights as (out, in).
    middle, width : float
        Median and half the spread of the scores of the training outcomes: what `Learned` turns into 0..1.
    """

    inputs: tuple[str, ...]
    mean: Vector
    sd: Vector
    weights: tuple[Vector, ...]
    biases: tuple[Vector, ...]
    middle: float = 0.0
    width: float = 1.0

    def score(self, outcomes: Vector) -> Vector:
        """Score outcomes of shape (..., m); only differences mean anything."""
        return _forward(self._parameters(), (np.asarray(outcomes, dtype=np.float64) - self.mean) / self.sd)[-1][..., 0]

    def _parameters(self) -> list[Vector]:
        return [part for pair in zip(self.weights, self.biases, strict=True) for part in pair]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON."""
        return {
            "inputs": list(self.inputs),
            "mean": self.mean.tolist(),
            "sd": self.sd.tolist(),
            "weights": [layer.tolist() for layer in self.weights],
            "biases": [layer.tolist() for layer in self.biases],
            "middle": self.middle,
            "width": self.width,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PrefNet:
        """Inverse of `to_json`; raises `PreferenceError` for anything else."""
        try:
            net = PrefNet(
                tuple(str(name) for name in data["inputs"]),
                np.array(data["mean"], dtype=np.float64),
                np.array(data["sd"], dtype=np.float64),
                tuple(np.array(layer, dtype=np.float64) for layer in data["weights"]),
                tuple(np.array(layer, dtype=np.float64) for layer in data["biases"]),
                float(data["middle"]),
                float(data["width"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PreferenceError(f"not a preference network: {type(error).__name__}: {error}") from error
        sizes = (len(net.inputs), HIDDEN, HIDDEN, 1)
        shapes = [layer.shape for layer in net.weights]
        parts = [net.mean, net.sd, *net.weights, *net.biases]
        if shapes != [(sizes[i + 1], sizes[i]) for i in range(_LAYERS)] or not all(np.isfinite(p).all() for p in parts):
            raise PreferenceError(f"not a preference network of {len(net.inputs)} inputs: layers of {shapes}")
        if len(net.mean) != len(net.inputs) or not (net.sd > 0).all() or not net.width > 0:
            raise PreferenceError("not a preference network: its scales must be positive, one for every input")
        return net


def find_cycle(pairs: Sequence[tuple[Outcome, Outcome]]) -> list[Outcome]:
    """Outcomes that are preferred one over the next and the last over the first; empty if there are none."""
    better: dict[Outcome, list[Outcome]] = {}
    for winner, loser in pairs:
        better.setdefault(tuple(winner), []).append(tuple(loser))
    done: set[Outcome] = set()
    for start in better:
        path, on_path, todo = [start], {start}, [iter(better.get(start, ()))]
        while todo and start not in done:
            following = next(todo[-1], None)
            if following is None:
                todo.pop()
                last = path.pop()
                on_path.discard(last)
                done.add(last)
            elif following in on_path:
                return path[path.index(following) :]
            elif following not in done:
                path.append(following)
                on_path.add(following)
                todo.append(iter(better.get(following, ())))
    return []


def train_prefnet(
    pairs: Sequence[tuple[Outcome, Outcome]], inputs: Sequence[str], *, seed: int = 0, validation: float = 0.2
) -> PrefNet:
    """Learn from pairs (preferred, other): ``mean ReLU(f(other) - f(preferred) + 0.1)``, Adam 1e-2, batches of 128.

    At most 100 epochs; with ten pairs or more a share of them is held out, and the best weights on it are kept (10
    epochs of patience).

    Raises
    ------
    PreferenceError
        No pairs, outcomes of another length than `inputs`, not finite, or a preference of something over itself.
    """
    winners, losers = _checked(pairs, len(inputs))
    both = np.concatenate([winners, losers])
    mean, sd = both.mean(0), both.std(0)
    sd = np.where(sd > 0, sd, 1.0)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(winners))
    held = int(validation * len(order)) if len(order) >= 10 else 0
    winners, losers = ((part - mean) / sd for part in (winners, losers))
    test, learn = order[:held], order[held:]
    parameters = _fit(winners, losers, learn, test if held else learn, rng)
    net = PrefNet(tuple(inputs), mean, sd, tuple(parameters[0::2]), tuple(parameters[1::2]))
    scores = np.sort(net.score(both))
    spread = 0.5 * float(scores[int(0.95 * (len(scores) - 1))] - scores[int(0.05 * (len(scores) - 1))])
    # The 5 % and 95 % outcomes are then worth about 0.12 and 0.88.
    width = max(spread / 2.0, 1e-3)
    return PrefNet(net.inputs, mean, sd, net.weights, net.biases, float(np.median(scores)), width)


def agreement(net: PrefNet, pairs: Sequence[tuple[Outcome, Outcome]]) -> float:
    """Share of the pairs that the network orders as the person did."""
    winners, losers = _checked(pairs, len(net.inputs))
    return float(np.mean(net.score(winners) > net.score(losers)))


def _checked(pairs: Sequence[tuple[Outcome, Outcome]], inputs: int) -> tuple[Vector, Vector]:
    if not pairs:
        raise PreferenceError("no pairs to learn a preference from")
    for winner, loser in pairs:
        if len(winner) != inputs or len(loser) != inputs:
            raise PreferenceError(f"a pair of outcomes must have {inputs} objectives each (got {winner} and {loser})")
        if tuple(winner) == tuple(loser):
            raise PreferenceError(f"an outcome cannot be preferred over itself ({winner})")
    winners, losers = (np.array([pair[side] for pair in pairs], dtype=np.float64) for side in (0, 1))
    if not (np.isfinite(winners).all() and np.isfinite(losers).all()):
        raise PreferenceError("outcomes must be finite numbers")
    return winners, losers


def _fit(winners: Vector, losers: Vector, learn: Index, test: Index, rng: np.random.Generator) -> list[Vector]:
    sizes = (winners.shape[1], HIDDEN, HIDDEN, 1)
    parameters: list[Vector] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        reach = 1.0 / np.sqrt(fan_in)
        parameters += [rng.uniform(-reach, reach, (fan_out, fan_in)), rng.uniform(-reach, reach, fan_out)]
    first, second = [np.zeros_like(p) for p in parameters], [np.zeros_like(p) for p in parameters]
    best, best_loss, waited, step = [p.copy() for p in parameters], np.inf, 0, 0
    for _ in range(EPOCHS):
        shuffled = rng.permutation(learn)
        for start in range(0, len(shuffled), BATCH):
            chosen = shuffled[start : start + BATCH]
            step += 1
            for index, slope in enumerate(_gradient(parameters, winners[chosen], losers[chosen])):
                first[index] = _BETA1 * first[index] + (1 - _BETA1) * slope
                second[index] = _BETA2 * second[index] + (1 - _BETA2) * slope**2
                unbiased = first[index] / (1 - _BETA1**step)
                parameters[index] -= RATE * unbiased / (np.sqrt(second[index] / (1 - _BETA2**step)) + _EPSILON)
        loss = _loss(parameters, winners[test], losers[test])
        if loss < best_loss:
            best, best_loss, waited = [p.copy() for p in parameters], loss, 0
        else:
            waited += 1
        if waited >= PATIENCE:
            break
    return best


def _forward(parameters: Sequence[Vector], x: Vector) -> list[Vector]:
    """Activations of every layer, the input first; the last is not rectified."""
    layers = [x]
    for index in range(_LAYERS):
        out = layers[-1] @ parameters[2 * index].T + parameters[2 * index + 1]
        layers.append(out if index == _LAYERS - 1 else np.maximum(out, 0.0))
    return layers


def _loss(parameters: Sequence[Vector], winners: Vector, losers: Vector) -> float:
    gap = _forward(parameters, losers)[-1] - _forward(parameters, winners)[-1] + MARGIN
    return float(np.maximum(gap, 0.0).mean())


def _gradient(parameters: Sequence[Vector], winners: Vector, losers: Vector) -> list[Vector]:
    better, worse = _forward(parameters, winners), _forward(parameters, losers)
    active = ((worse[-1] - better[-1] + MARGIN) > 0) / len(winners)
    total = [np.zeros_like(p) for p in parameters]
    for layers, sign in ((better, -1.0), (worse, 1.0)):
        error = sign * active
        for index in reversed(range(_LAYERS)):
            total[2 * index] += error.T @ layers[index]
            total[2 * index + 1] += error.sum(0)
            if index:
                error = (error @ parameters[2 * index]) * (layers[index] > 0)
    return total
