"""The belief itself: where the focus is, how fast it drifts, and, for each of these, by how much the field misleads."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from parfocal.policies.base import PolicyError
from parfocal.policies.focus.bias import BiasPrior

if TYPE_CHECKING:
    from parfocal.policies.focus.likelihood import Look

Vector = NDArray[np.float64]
Moments = NDArray[np.float32]
_STUDENT = 4.0
_TINY = 1e-25
_NOTICED_S = 0.5
"""Time is let pass in steps of at least this: nothing drifts noticeably in less."""
_AGED_MIN = 0.2
"""What ages slowly is aged in steps of at least this."""


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
        self._last: tuple[float, Vector] | None = None

    def transition(self, minutes: float) -> Vector:
        """Matrix that takes a column of rate probabilities `minutes` further."""
        if self._last is None or self._last[0] != minutes:
            symmetric = (self._vectors * np.exp(self._values * minutes)) @ self._vectors.T
            self._last = minutes, np.maximum(symmetric, 0.0) * self._root[:, None] / self._root[None, :]
        return self._last[1]


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


@dataclass(frozen=True)
class _Judged:
    """What each cell makes of a frame: shapes (rates, cells), with the coefficients or their pairs in front."""

    defocus_um: Vector
    mean: Vector
    second: Vector
    spread: Vector
    variance: Vector
    miss: Vector
    trusted: Vector


class FocusGrid:
    """Histogram over focus z (columns) and drift rate (rows); in every cell a Gaussian over the field's bias.

    Every row slides with its own rate: whole cells by moving the row, the rest kept as the row's offset, so that a
    steady drift is followed exactly and without the smearing that interpolation would add every frame.

    `moments` has the shape (1 + K + K (K + 1) / 2, rates, cells): the probability of a cell, and it times the first
    and second moments of the bias's K coefficients there. All that time does is linear in them.
    `looked_um` is where the last look was taken from.
    """

    def __init__(
        self, lower_um: float, upper_um: float, step_um: float, drift: Drift, bias: BiasPrior, rates: int = 21
    ) -> None:
        self.step = step_um
        self.drift = drift
        self.bias = bias
        self.chain = RateChain(drift, rates)
        self.origin = lower_um
        self.count = max(8, math.ceil((upper_um - lower_um) / step_um) + 1)
        self.offsets: Vector = np.zeros(rates)
        self.moments: Moments = np.zeros((1 + len(bias.moments), rates, self.count), dtype=np.float32)
        self.pending_s = self.aged_min = 0.0
        self.looked_um = math.nan
        self._last: tuple[Moments, float, Look, _Judged] | None = None
        self.flatten(1.0)

    @property
    def mass(self) -> Moments:
        """Probability of each cell, shape (rates, cells)."""
        mass: Moments = self.moments[0]
        return mass

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
        """Mix the belief with one that is flat in z, which gets `share` of the whole; the field stays the same."""
        known = self.moments.sum(axis=(1, 2), dtype=np.float64)
        bias = known[1:] / known[0] if known[0] > 0.0 else self.bias.moments
        flat = np.concatenate([[1.0], bias])[:, None, None] * (self.chain.prior / self.count)[:, None]
        flat = flat.astype(np.float32)
        if share >= 1.0:
            self.moments = np.repeat(flat, self.count, axis=2)
        else:
            self.moments *= 1.0 - share
            self.moments += np.float32(share) * flat

    def exclude(self, lower_um: float, upper_um: float) -> bool:
        """Forget what lies outside an interval; False (and no change) if nothing would be left."""
        z = self.z_um
        keep = (z >= lower_um) & (z <= upper_um)
        total = float((self.mass * keep).sum())
        if total <= 0.0:
            return False
        self.moments *= (keep / total).astype(np.float32)
        return True

    def predict(self, dt_s: float) -> None:
        """Let `dt_s` seconds pass."""
        self.pending_s += dt_s
        if self.pending_s < _NOTICED_S:
            return
        minutes, self.pending_s = self.pending_s / 60.0, 0.0
        steps = min(60, max(1, math.ceil(minutes)))
        for _ in range(steps):
            self._pass(minutes / steps)

    def _pass(self, minutes: float) -> None:
        rows = len(self.chain.rates)
        moments = np.matmul(self.chain.transition(minutes).astype(np.float32), self.moments)
        self.offsets = self.offsets + self.chain.rates * minutes
        cells = np.rint(self.offsets / self.step).astype(int)
        self.offsets = self.offsets - cells * self.step
        for row in range(rows):
            if cells[row]:
                moments[:, row] = _shift(moments[:, row], int(cells[row]))
        variance = self.drift.walk_um**2 * minutes / self.step**2
        if variance < 0.5:
            kept, moments = moments, moments * (1.0 - variance)
            kept *= 0.5 * variance
            moments[..., 1:] += kept[..., :-1]
            moments[..., :-1] += kept[..., 1:]
        else:
            # Beyond the whole grid a wider kernel makes no difference, only work.
            sigma = min(math.sqrt(variance), float(self.count))
            moments = gaussian_filter1d(moments, sigma, axis=2, mode="nearest")
        total = float(moments[0].sum())
        if total <= 0.0:
            self.flatten(1.0)
            return
        moments /= total
        self.moments = moments
        self.aged_min += minutes
        if self.aged_min >= _AGED_MIN:
            self._forget_bias(self.aged_min)
            self.flatten(-math.expm1(-self.drift.jump_per_min * self.aged_min))
            self.aged_min = 0.0

    def _forget_bias(self, minutes: float) -> None:
        """What is known of the bias ages towards the prior: cells move, bleach, and are replaced."""
        kept = math.exp(-minutes / self.bias.memory_min)
        self.moments[1:] *= kept
        prior = ((1.0 - kept) * self.bias.moments).astype(np.float32)
        self.moments[1:] += prior[:, None, None] * self.moments[0]

    def update(self, z_um: float, said: Look, news: float = 1.0) -> None:
        """Learn from a frame taken at `z_um`.

        Parameters
        ----------
        z_um : float
        said : Look
            Gives for defocus its standardised error, and its side.
        news : float
            Share of it that was not known from frames just before; the rest does not count.
        """
        n = self.bias.count
        first, second = self.bias.pairs
        judged = self._judged(z_um, said)
        whole = judged.trusted + said.floor * said.wild
        gain = judged.spread * (news * judged.trusted / (whole * judged.variance))
        # Joseph's form is not needed: what is taken off never exceeds what is there.
        moved = judged.mean + gain * judged.miss
        squares = judged.second
        squares += moved[first] * moved[second]
        squares -= judged.mean[first] * judged.mean[second] + gain[first] * judged.spread[second]
        likelihood = whole * said.side(judged.defocus_um)
        new = (self.moments[0] * (likelihood if news == 1.0 else likelihood**news)).astype(np.float32)
        total = float(new.sum())
        if not total > 0.0:
            # Nothing that was thought possible explains this frame.
            self.flatten(1.0)
            return
        new /= total
        self.moments[0] = new
        np.multiply(moved, new, out=self.moments[1 : 1 + n])
        np.multiply(squares, new, out=self.moments[1 + n :])

    def fits(self, z_um: float, said: Look) -> float:
        """How probable it is that a frame taken at `z_um` is not an outlier to this belief."""
        evidence = float((self.moments[0] * self._judged(z_um, said).trusted).sum())
        return evidence / (evidence + said.floor * said.wild)

    def _judged(self, z_um: float, said: Look) -> _Judged:
        """What each cell makes of a frame."""
        if self._last is not None and self._last[0] is self.moments and self._last[1] == z_um and self._last[2] is said:
            return self._last[3]
        self._look_from(z_um)
        defocus = z_um - (self.origin + self.step * np.arange(self.count) + self.offsets[:, None])
        n = self.bias.count
        scale = 1.0 / np.maximum(self.moments[0], _TINY)
        mean = self.moments[1 : 1 + n] * scale
        second = self.moments[1 + n :] * scale
        at = self.bias.basis(np.abs(defocus)).astype(np.float32)
        # cov @ at = E[w (w . at)] - mean (mean . at)
        expected = np.einsum("krz,krz->rz", mean, at)
        spread = np.einsum("klrz,lrz->krz", second[self.bias.full], at)
        spread -= mean * expected
        variance = np.maximum(np.einsum("krz,krz->rz", spread, at), 0.0) + said.scatter(defocus).astype(np.float32)
        miss = said.error(defocus).astype(np.float32) - expected
        # Student's t: (1 + miss^2 / (4 variance))^(-5/2) / sd, spelled out because a power costs ten times as much.
        tail = 1.0 + miss * miss / (_STUDENT * variance)
        fits = 1.0 / (tail * tail * np.sqrt(tail * variance))
        judged = _Judged(defocus, mean, second, spread, variance, miss, (1.0 - said.floor) * fits)
        self._last = self.moments, z_um, said, judged
        return judged

    def _look_from(self, z_um: float) -> None:
        """Look from another place: the rough part of the field's error is another one there (see `BiasPrior`)."""
        kept = self.bias.kept(z_um - self.looked_um) if math.isfinite(self.looked_um) else 0.0
        self.looked_um = z_um
        if kept == 1.0:
            return
        n, moments = self.bias.count, self.moments.copy()
        rough = 1 + n + self.bias.full[-1]
        moments[n] *= kept
        moments[rough] *= kept
        moments[rough[-1]] *= kept
        moments[rough[-1]] += np.float32((1.0 - kept * kept) * self.bias.moments[-1]) * moments[0]
        self.moments = moments

    def weigh(self, factor: Vector) -> None:
        """Multiply by a likelihood over `z_um` that says nothing of the bias."""
        weighed = self.mass * factor
        self.moments *= (factor / weighed.sum()).astype(np.float32)

    def marginal(self) -> Vector:
        """Probability of the focus at each of `z_um`, whatever the drift."""
        fraction = self.offsets / self.step
        up, down = np.maximum(fraction, 0.0), np.maximum(-fraction, 0.0)
        weights = np.stack([1.0 - up - down, up, down]) @ self.mass.astype(np.float64)
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
        moments = np.zeros((*self.moments.shape[:2], count), dtype=np.float32)
        lower, upper = max(first, 0), min(first + count, self.count)
        if lower < upper:
            moments[..., lower - first : upper - first] = self.moments[..., lower:upper]
        total = float(moments[0].sum())
        self.origin, self.count = self.origin + first * self.step, count
        if total <= 0.0:
            self.flatten(1.0)
        else:
            self.moments = (moments / total).astype(np.float32)

    def resampled(self, lower_um: float, upper_um: float, step_um: float, rates: int) -> FocusGrid:
        """Return the same belief on another grid; what lies outside of it is forgotten."""
        other = FocusGrid(lower_um, upper_um, step_um, self.drift, self.bias, rates)
        other.pending_s, other.aged_min, other.looked_um = self.pending_s, self.aged_min, self.looked_um
        # Within a row the density is linear between cells; between rows the share of the prior is. Where nothing is
        # known stays empty, and is most of a wide grid.
        reach = np.array([self.offsets.min() - self.step, self.offsets.max() + self.step * self.count])
        first, last = np.clip((self.origin + reach - other.origin) / other.step + [0.0, 1.0], 0, other.count).astype(
            int
        )
        z = other.z_um[first:last]
        moments = np.empty((len(self.moments), len(self.chain.rates), len(z)))
        for row, offset in enumerate(self.offsets):
            place = (z - self.origin - offset) / self.step
            whole = np.floor(place).astype(int)
            part = place - whole
            next_ = whole + 1
            low = (whole >= 0) & (whole < self.count)
            moments[:, row] = (1.0 - part) * np.where(low, self.moments[:, row, np.clip(whole, 0, self.count - 1)], 0.0)
            high = (next_ >= 0) & (next_ < self.count)
            moments[:, row] += part * np.where(high, self.moments[:, row, np.clip(next_, 0, self.count - 1)], 0.0)
        weights = np.array(
            [np.interp(other.chain.rates, self.chain.rates, unit) for unit in np.eye(len(self.chain.rates))]
        ).T
        moments = np.matmul(weights * other.chain.prior[:, None] / self.chain.prior[None, :], moments)
        total = float(moments[0].sum())
        if total > 0.0:
            other.moments = np.zeros((*moments.shape[:2], other.count), dtype=np.float32)
            other.moments[..., first:last] = moments / total
        return other

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        # Stored with a checksum, not squeezed: whoever changes a limit waits for this, and noise hardly gets smaller.
        packed = base64.b64encode(zlib.compress(self.moments.astype("<f4").tobytes(), 0)).decode("ascii")
        return {
            "origin": self.origin,
            "step": self.step,
            "offsets": self.offsets.tolist(),
            "pending_s": self.pending_s,
            "aged_min": self.aged_min,
            "looked_um": None if math.isnan(self.looked_um) else self.looked_um,
            "shape": list(self.moments.shape),
            "moments": packed,
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], drift: Drift, bias: BiasPrior) -> FocusGrid:
        """Go on from `checkpoint`; raises `PolicyError` if it is not one of a grid like this."""
        try:
            shape = tuple(int(n) for n in state["shape"])
            moments = np.frombuffer(zlib.decompress(base64.b64decode(state["moments"])), "<f4").reshape(shape).copy()
            offsets = np.asarray(state["offsets"], dtype=np.float64)
            origin, step = float(state["origin"]), float(state["step"])
            pending_s, aged_min = float(state["pending_s"]), float(state["aged_min"])
            looked_um = math.nan if state["looked_um"] is None else float(state["looked_um"])
        except (KeyError, TypeError, ValueError, zlib.error) as error:
            raise PolicyError(f"the checkpoint's belief cannot be read: {error}") from error
        fits = len(shape) == 3 and shape[0] == 1 + len(bias.moments) and offsets.shape == (shape[1],)
        if not (fits and step > 0.0 and shape[1] >= 2):
            raise PolicyError(f"the checkpoint's belief has the shape {shape}, which these options do not make")
        grid = cls(origin, origin + step, step, drift, bias, shape[1])
        grid.moments, grid.offsets, grid.origin, grid.count = moments, offsets, origin, shape[2]
        grid.pending_s, grid.aged_min, grid.looked_um = pending_s, aged_min, looked_um
        return grid


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
    """Move along the last axis by whole cells; what leaves is lost, what enters is empty."""
    out = np.zeros_like(row)
    if abs(cells) >= row.shape[-1]:
        return out
    if cells > 0:
        out[..., cells:] = row[..., :-cells]
    elif cells < 0:
        out[..., :cells] = row[..., -cells:]
    else:
        out[...] = row
    return out
