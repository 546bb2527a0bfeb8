"""The belief itself: a histogram over where the focus is and how fast it drifts, with its prediction and its update."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from parfocal.policies.base import PolicyError

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Drift:
    """How the focus moves by itself.

    Parameters
    ----------
    rate_um_per_min : float
        Typical linear drift (scale of a two-sided exponential prior); 2.5 times it is the largest that is followed.
    rate_walk_um_per_min : float
        How much the rate itself changes in one minute (sd).
    walk_um : float
        Random walk of the focus in one minute (sd).
    jump_per_min : float
        Chance that something moves the focus anywhere within the range in one minute.
    """

    rate_um_per_min: float
    rate_walk_um_per_min: float
    walk_um: float
    jump_per_min: float


class RateChain:
    """Drift rates as a reversible Markov chain on an even grid, whose stationary distribution is the prior."""

    def __init__(self, drift: Drift, count: int = 21) -> None:
        self.rates: Vector = np.linspace(-2.5, 2.5, count) * drift.rate_um_per_min
        prior = np.exp(-np.abs(self.rates) / max(drift.rate_um_per_min, 1e-12))
        self.prior: Vector = prior / prior.sum()
        spacing = max(float(self.rates[1] - self.rates[0]), 1e-12)
        hop = drift.rate_walk_um_per_min**2 / (2.0 * spacing**2)
        self._root: Vector = np.sqrt(self.prior)
        generator = np.zeros((count, count))
        for i in range(count - 1):
            generator[i, i + 1] = generator[i + 1, i] = hop
        # Leaving rates make every row of the (unsymmetrised) generator sum to zero.
        np.fill_diagonal(generator, -(generator @ self._root) / self._root)
        self._values, self._vectors = np.linalg.eigh(generator)

    def transition(self, minutes: float) -> Vector:
        """Matrix that takes a column of rate probabilities `minutes` further."""
        symmetric = (self._vectors * np.exp(self._values * minutes)) @ self._vectors.T
        matrix: Vector = np.maximum(symmetric, 0.0) * self._root[:, None] / self._root[None, :]
        return matrix


@dataclass(frozen=True)
class Estimate:
    """The belief's main mode.

    `mean_um`, `sd_um` are of the focus z inside a window about the mode; `inside` is the largest probability that a
    window one depth of field wide can hold and `best_um` its centre; `rate_um_per_min` the mode's drift rate.
    """

    mean_um: float
    sd_um: float
    inside: float
    best_um: float
    rate_um_per_min: float


class FocusGrid:
    """Histogram over focus z (columns) and drift rate (rows).

    Every row slides with its own rate: whole cells by moving the row, the rest kept as the row's offset, so that a
    steady drift is followed exactly and without the smearing that interpolation would add every frame.
    """

    def __init__(self, lower_um: float, upper_um: float, step_um: float, drift: Drift) -> None:
        self.step = step_um
        self.drift = drift
        self.chain = RateChain(drift)
        self.origin = lower_um
        self.count = max(8, math.ceil((upper_um - lower_um) / step_um) + 1)
        self.offsets: Vector = np.zeros(len(self.chain.rates))
        self.mass: Vector = np.empty((len(self.chain.rates), self.count))
        self.flatten(1.0)

    @property
    def z_um(self) -> Vector:
        """Centres of the cells of `marginal`."""
        centres: Vector = self.origin + self.step * np.arange(self.count, dtype=np.float64)
        return centres

    @property
    def middle_um(self) -> float:
        """Middle of the grid."""
        return self.origin + 0.5 * self.step * (self.count - 1)

    def flatten(self, share: float) -> None:
        """Mix the belief with a flat one, which gets `share` of the whole."""
        flat = np.repeat(self.chain.prior[:, None] / self.count, self.count, axis=1)
        self.mass = flat if share >= 1.0 else (1.0 - share) * self.mass + share * flat

    def exclude(self, lower_um: float, upper_um: float) -> bool:
        """Forget what lies outside an interval; False (and no change) if nothing would be left."""
        z = self.z_um
        keep = (z >= lower_um) & (z <= upper_um)
        total = float((self.mass * keep).sum())
        if total <= 0.0:
            return False
        self.mass = self.mass * keep / total
        return True

    def predict(self, dt_s: float) -> None:
        """Let `dt_s` seconds pass."""
        minutes = dt_s / 60.0
        steps = min(60, max(1, math.ceil(minutes)))
        for _ in range(steps):
            self._pass(minutes / steps)

    def _pass(self, minutes: float) -> None:
        mass = self.chain.transition(minutes) @ self.mass
        self.offsets = self.offsets + self.chain.rates * minutes
        cells = np.rint(self.offsets / self.step).astype(int)
        self.offsets = self.offsets - cells * self.step
        for row in np.flatnonzero(cells):
            mass[row] = _shift(mass[row], int(cells[row]))
        variance = self.drift.walk_um**2 * minutes / self.step**2
        if variance < 0.5:
            side = 0.5 * variance
            spread = (1.0 - variance) * mass
            spread[:, 1:] += side * mass[:, :-1]
            spread[:, :-1] += side * mass[:, 1:]
        else:
            # Beyond the whole grid a wider kernel makes no difference, only work.
            sigma = min(math.sqrt(variance), float(self.count))
            spread = gaussian_filter1d(mass, sigma, axis=1, mode="nearest")
        total = float(spread.sum())
        if total <= 0.0:
            self.flatten(1.0)
            return
        self.mass = spread / total
        self.flatten(-math.expm1(-self.drift.jump_per_min * minutes))

    def update(self, likelihood: Callable[[Vector], Vector], z_um: float) -> None:
        """Multiply by the likelihood (a positive function of defocus) of a frame taken at `z_um`."""
        nodes: Vector = z_um - self.origin - self.step * np.arange(-1, self.count + 1, dtype=np.float64)
        values = likelihood(nodes[::-1])[::-1]
        fraction = np.abs(self.offsets)[:, None] / self.step
        beside = np.where(self.offsets[:, None] >= 0.0, values[None, 2:], values[None, :-2])
        mass = self.mass * ((1.0 - fraction) * values[None, 1:-1] + fraction * beside)
        self.mass = mass / mass.sum()

    def marginal(self) -> Vector:
        """Probability of the focus at each of `z_um`, whatever the drift."""
        fraction = self.offsets / self.step
        up, down = np.maximum(fraction, 0.0), np.maximum(-fraction, 0.0)
        weights = np.stack([1.0 - up - down, up, down]) @ self.mass
        out: Vector = weights[0]
        out[1:] += weights[1, :-1]
        out[:-1] += weights[2, 1:]
        return out

    def estimate(self, dof_um: float, marginal: Vector | None = None) -> Estimate:
        """Describe the main mode: the window one depth of field wide that holds most."""
        density = self.marginal() if marginal is None else marginal
        half = max(1, round(0.5 * dof_um / self.step))
        inside = windowed(density, half)
        best = _middle_of_maximum(inside)
        lower, upper = max(0, best - 3 * half), min(self.count, best + 3 * half + 1)
        local = self.mass[:, lower:upper]
        rows = local.sum(axis=1)
        total = float(rows.sum())
        z = self.origin + self.step * np.arange(lower, upper)
        mean = float((local.sum(axis=0) @ z + rows @ self.offsets) / total)
        variance = float(density[lower:upper] @ (z - mean) ** 2 / max(float(density[lower:upper].sum()), 1e-300))
        rate = float(rows @ self.chain.rates / total)
        best_um = self.origin + self.step * best
        return Estimate(mean, math.sqrt(variance), min(1.0, float(inside[best])), best_um, rate)

    def ahead(self, centre_um: float, half_width_um: float, wait_s: float) -> tuple[Vector, Vector]:
        """Positions and probabilities of the focus after `wait_s`, drift included, in a window about `centre_um`.

        The probabilities are of the belief now inside the window, made to sum to 1.
        """
        middle, half = round((centre_um - self.origin) / self.step), math.ceil(half_width_um / self.step)
        lower, upper = max(0, middle - half), min(self.count, middle + half + 1)
        local = self.mass[:, lower:upper]
        moved = (self.offsets + self.chain.rates * wait_s / 60.0) / self.step
        whole = np.floor(moved)
        first = int(whole.min())
        width = upper - lower + int(whole.max()) - first + 1
        start = (whole - first).astype(np.int64)[:, None] + np.arange(upper - lower)
        part = (moved - whole)[:, None]
        out = np.bincount(start.ravel(), (local * (1.0 - part)).ravel(), width)
        out += np.bincount(start.ravel() + 1, (local * part).ravel(), width)
        z: Vector = self.origin + self.step * (lower + first + np.arange(width, dtype=np.float64))
        return z, out / max(float(out.sum()), 1e-300)

    def resize(self, lower_um: float, upper_um: float) -> None:
        """Cover another interval, by whole cells; what lies outside is forgotten, what is new is empty."""
        first = math.floor((lower_um - self.origin) / self.step)
        count = max(8, math.ceil((upper_um - lower_um) / self.step) + 1)
        mass = np.zeros((len(self.mass), count))
        lower, upper = max(first, 0), min(first + count, self.count)
        if lower < upper:
            mass[:, lower - first : upper - first] = self.mass[:, lower:upper]
        total = float(mass.sum())
        self.origin, self.count, self.mass = self.origin + first * self.step, count, mass
        if total <= 0.0:
            self.flatten(1.0)
        else:
            self.mass /= total

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        packed = base64.b64encode(zlib.compress(self.mass.astype("<f8").tobytes(), 1)).decode("ascii")
        return {"origin": self.origin, "offsets": self.offsets.tolist(), "shape": list(self.mass.shape), "mass": packed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `checkpoint`; raises `PolicyError` if it is not one of a grid like this."""
        try:
            shape = tuple(int(n) for n in state["shape"])
            mass = np.frombuffer(zlib.decompress(base64.b64decode(state["mass"])), "<f8").reshape(shape).copy()
            offsets = np.asarray(state["offsets"], dtype=np.float64)
            origin = float(state["origin"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise PolicyError(f"the checkpoint's belief cannot be read: {error}") from error
        if len(shape) != 2 or shape[0] != len(self.chain.rates) or offsets.shape != (shape[0],):
            raise PolicyError(f"the checkpoint's belief has the shape {shape}, which these options do not make")
        self.mass, self.offsets, self.origin, self.count = mass, offsets, origin, shape[1]


def windowed(density: Vector, half: int) -> Vector:
    """Sum of `density` over the 2 half + 1 cells about each cell (fewer at the ends; the outer two count half)."""
    total = np.concatenate([[0.0], np.cumsum(density)])
    index = np.arange(len(density))
    inner = total[np.minimum(index + half, len(density))] - total[np.maximum(index - half + 1, 0)]
    outer = total[np.minimum(index + half + 1, len(density))] - total[np.maximum(index - half, 0)]
    result: Vector = 0.5 * (inner + outer)
    return result


def _middle_of_maximum(values: Vector) -> int:
    """Index of the maximum; of a plateau (a belief narrower than the window) its middle."""
    first = int(np.argmax(values))
    below = np.flatnonzero(values[first:] < values[first] * (1.0 - 1e-4))
    return first + (int(below[0]) - 1 if len(below) else 0) // 2


def _shift(row: Vector, cells: int) -> Vector:
    """Move a row up by whole cells; what leaves is lost, what enters is empty."""
    out = np.zeros_like(row)
    if abs(cells) >= len(row):
        return out
    if cells > 0:
        out[cells:] = row[:-cells]
    elif cells < 0:
        out[:cells] = row[-cells:]
    else:
        out[:] = row
    return out
