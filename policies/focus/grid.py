"""The belief itself: where the focus is, how fast it drifts, and, for each of these, by how much the field misleads."""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from parfocal.policies.base import PolicyError
from parfocal.policies.focus.bias import BiasPrior
from parfocal.policies.focus.density import Vector, middle_of_maximum, spread_out, windowed
from parfocal.policies.focus.drift import Drift, rate_chain

if TYPE_CHECKING:
    from parfocal.policies.focus.likelihood import Look

Moments = NDArray[np.float32]
_STUDENT = 4.0
_TINY = np.float32(1e-25)
_NOTICED_S = 0.5
"""Time is let pass in steps of at least this: nothing drifts noticeably in less."""
_AGED_MIN = 0.2
"""What ages slowly is aged in steps of at least this."""


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
class _View:
    """What each cell expects of a frame taken at `z_um`: shapes (rates, cells), with the coefficients in front."""

    z_um: float
    defocus_um: Vector
    mean: Moments
    spread: Moments
    expected: Moments
    variance: Moments


@dataclass(frozen=True)
class _Judged:
    """What each cell makes of what a frame said."""

    view: _View
    variance: Moments
    miss: Moments
    trusted: Moments
    side: Vector


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
        self.chain = rate_chain(drift, rates)
        self.origin = lower_um
        self.count = max(8, math.ceil((upper_um - lower_um) / step_um) + 1)
        self.offsets: Vector = np.zeros(rates)
        self.pending_s = self.aged_min = 0.0
        self.looked_um = math.nan
        self._moments: Moments = np.repeat(self._flat(bias.moments), self.count, axis=2)
        self._owed: Callable[[Moments], None] | None = None
        self._view: _View | None = None
        self._last: tuple[_View, Look, _Judged] | None = None
        self._centres: tuple[float, Vector] | None = None
        self._between: tuple[Vector, Vector] | None = None
        self._marginal: Vector | None = None

    def copy(self) -> FocusGrid:
        """Return one that later changes of this do not reach."""
        other = copy(self)
        other.moments = self.moments.copy()  # pays what is owed, for both
        return other

    def handed_over(self, drift: Drift, bias: BiasPrior) -> FocusGrid:
        """Return the same belief for one who expects the focus to move otherwise; later changes do not reach it."""
        other = FocusGrid(self.origin, self.origin, self.step, drift, bias, len(self.offsets))
        other.moments, other.offsets, other.count = self.moments.copy(), self.offsets, self.count
        other.pending_s, other.aged_min, other.looked_um = self.pending_s, self.aged_min, self.looked_um
        return other

    @property
    def moments(self) -> Moments:
        """See above; what an update left for later is done now."""
        owed, self._owed = self._owed, None
        if owed is not None:
            owed(self._moments)
        return self._moments

    @moments.setter
    def moments(self, moments: Moments) -> None:
        self._moments, self._owed = moments, None

    @property
    def mass(self) -> Moments:
        """Probability of each cell, shape (rates, cells)."""
        mass: Moments = self._moments[0]
        return mass

    @property
    def z_um(self) -> Vector:
        """Centres of the cells of `marginal`."""
        if self._centres is None or self._centres[0] != self.origin or len(self._centres[1]) != self.count:
            self._centres = self.origin, self.origin + self.step * np.arange(self.count, dtype=np.float64)
        return self._centres[1]

    @property
    def middle_um(self) -> float:
        """Middle of the grid."""
        return self.origin + 0.5 * self.step * (self.count - 1)

    def _changed(self, moments: Moments | None = None) -> None:
        """Forget what was worked out from the moments, which are other ones now."""
        if moments is not None:
            self.moments = moments
        self._view = self._last = self._marginal = None

    def _flat(self, bias: Vector) -> Moments:
        """Moments of one column of a belief that is flat in z."""
        flat = np.concatenate([[1.0], bias])[:, None, None] * (self.chain.prior / self.count)[:, None]
        moments: Moments = flat.astype(np.float32)
        return moments

    def flatten(self, share: float) -> None:
        """Mix the belief with one that is flat in z, which gets `share` of the whole; the field stays the same."""
        known = self.moments.reshape(len(self.moments), -1).sum(axis=1, dtype=np.float64)
        flat = self._flat(known[1:] / known[0] if known[0] > 0.0 else self.bias.moments)
        if share >= 1.0:
            self._changed(np.repeat(flat, self.count, axis=2))
        else:
            self.moments *= 1.0 - share
            self.moments += np.float32(share) * flat
            self._changed()

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
        moments = np.matmul(self.chain.transition(minutes).astype(np.float32), self.moments)
        offsets = self.offsets + self.chain.rates * minutes
        cells = np.rint(offsets / self.step).astype(int)
        self.offsets = offsets - cells * self.step
        for row in np.flatnonzero(cells):
            _shift(moments[:, row], int(cells[row]))
        variance = self.drift.walk_um**2 * minutes / self.step**2
        if variance < 0.5:
            total = _diffuse(moments, variance)
        else:
            # Beyond the whole grid a wider kernel makes no difference, only work.
            sigma = min(math.sqrt(variance), float(self.count))
            moments = gaussian_filter1d(moments, sigma, axis=2, mode="nearest")
            total = float(moments[0].sum())
            moments /= total if total > 0.0 else 1.0
        if total <= 0.0:
            self.flatten(1.0)
            return
        self._changed(moments)
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
        judged, mass = self._judged(z_um, said), self.mass.copy()
        whole = judged.trusted + said.floor * said.wild
        likelihood = whole * judged.side
        new = (mass * (likelihood if news == 1.0 else likelihood**news)).astype(np.float32)
        total = float(new.sum())
        if not total > 0.0:
            # Nothing that was thought possible explains this frame.
            self.flatten(1.0)
            return
        new /= total
        # Where the focus is, is known now; what was learned of the field is worked out when it is asked for.
        self.mass[...] = new
        self._changed()
        gain = (news * judged.trusted) / (whole * judged.variance)
        ratio: Moments = (new / np.maximum(mass, _TINY)).astype(np.float32)
        self._owed = partial(self._learn_bias, judged, gain, new, ratio)

    def _learn_bias(self, judged: _Judged, gain: Moments, new: Moments, ratio: Moments, moments: Moments) -> None:
        """Take Kalman's step in every cell; `gain` is without its factor `spread`, and so is the covariance's loss."""
        n, (first, second) = self.bias.count, self.bias.pairs
        moved, mean, spread = gain * judged.miss, judged.view.mean, judged.view.spread
        # What the second moments change by is symmetric and of rank two: u s' + s u'.
        u = (new * moved) * mean
        u += (0.5 * new * (moved * moved - gain)) * spread
        squares, means = moments[1 + n :], moments[1 : 1 + n]
        squares *= ratio
        for one, other in ((first, second), (second, first)):
            change = u[one]
            change *= spread[other]
            squares += change
        np.multiply(spread, moved, out=means)
        means += mean
        means *= new

    def fits(self, z_um: float, said: Look) -> float:
        """How probable it is that a frame taken at `z_um` is not an outlier to this belief."""
        trusted = self._judged(z_um, said).trusted
        evidence = float(np.vdot(self.mass, trusted))
        return evidence / (evidence + said.floor * said.wild)

    def _judged(self, z_um: float, said: Look) -> _Judged:
        """What each cell makes of a frame."""
        view = self.look_from(z_um)
        if self._last is not None and self._last[0] is view and self._last[1] is said:
            return self._last[2]
        error, scatter, side = said.at(view.defocus_um)
        variance = view.variance + scatter.astype(np.float32)
        miss = error.astype(np.float32) - view.expected
        # Student's t: (1 + miss^2 / (4 variance))^(-5/2) / sd, spelled out because a power costs ten times as much.
        tail = 1.0 + miss * miss / (_STUDENT * variance)
        trusted = (1.0 - said.floor) / (tail * tail * np.sqrt(tail * variance))
        judged = _Judged(view, variance, miss, trusted, side)
        self._last = view, said, judged
        return judged

    def look_from(self, z_um: float) -> _View:
        """Look from a place; what is to be expected there can be worked out before the frame is seen."""
        if self._view is not None and self._view.z_um == z_um:
            return self._view
        self._renew_rough(z_um)
        defocus = (z_um - self.z_um) - self.offsets[:, None]
        n = self.bias.count
        scale = 1.0 / np.maximum(self.moments[0], _TINY)
        mean = self.moments[1 : 1 + n] * scale
        at = self.bias.basis(np.abs(defocus).astype(np.float32))
        # cov @ at = E[w (w . at)] - mean (mean . at)
        expected = np.einsum("krz,krz->rz", mean, at)
        spread = np.einsum("klrz,lrz->krz", self.moments[1 + n :][self.bias.full], at)
        spread *= scale
        spread -= mean * expected
        variance = np.einsum("krz,krz->rz", spread, at)
        np.maximum(variance, 0.0, out=variance)
        self._view = _View(z_um, defocus, mean, spread, expected, variance)
        return self._view

    def _renew_rough(self, z_um: float) -> None:
        """The rough part of the field's error is another one at another place (see `BiasPrior`)."""
        kept = self.bias.kept(z_um - self.looked_um) if math.isfinite(self.looked_um) else 0.0
        self.looked_um = z_um
        if kept == 1.0:
            return
        n, moments = self.bias.count, self.moments
        rough = 1 + n + self.bias.full[-1]
        moments[n] *= kept
        for row in rough[:-1]:
            moments[row] *= kept
        moments[rough[-1]] *= kept * kept
        moments[rough[-1]] += np.float32((1.0 - kept * kept) * self.bias.moments[-1]) * moments[0]

    def weigh(self, factor: Vector) -> None:
        """Multiply by a likelihood over `z_um` that says nothing of the bias."""
        weighed = self.mass * factor
        self.moments *= (factor / weighed.sum()).astype(np.float32)
        self._changed()

    def marginal(self) -> Vector:
        """Probability of the focus at each of `z_um`, whatever the drift; not to be written to."""
        if self._marginal is None:
            if self._between is None or self._between[0] is not self.offsets:
                self._between = self.offsets, _shares(self.offsets / self.step)
            out, up, down = self._between[1] @ self.mass.astype(np.float64)
            out[1:] += up[:-1]
            out[:-1] += down[1:]
            self._marginal = out
        return self._marginal

    def below(self, z_um: float) -> float:
        """How probable it is that the focus lies below a place."""
        return float(self.marginal()[: int(np.searchsorted(self.z_um, z_um))].sum())

    def estimate(self, dof_um: float, marginal: Vector | None = None) -> Estimate:
        """Describe the main mode: the window one depth of field wide that holds most."""
        density = self.marginal() if marginal is None else marginal
        half = max(1, round(0.5 * dof_um / self.step))
        inside = windowed(density, half)
        best = middle_of_maximum(inside)
        lower, upper = max(0, best - 3 * half), min(self.count, best + 3 * half + 1)
        local, z = self.mass[:, lower:upper], self.z_um[lower:upper]
        rows = local.sum(axis=1)
        total = float(rows.sum())
        mean = float((local.sum(axis=0) @ z + rows @ self.offsets) / total)
        near = density[lower:upper]
        variance = float(near @ (z - mean) ** 2 / max(float(near.sum()), 1e-300))
        rate = float(rows @ self.chain.rates / total)
        best_um = self.origin + self.step * best
        return Estimate(mean, math.sqrt(variance), min(1.0, float(inside[best])), best_um, rate)

    def ahead(self, centre_um: float, half_width_um: float, *waits_s: float) -> tuple[Vector, Vector]:
        """Positions, and probabilities of the focus there after each of `waits_s`, drift included, in a window.

        The probabilities are of the belief that is now within `half_width_um` of `centre_um`, made to sum to 1.
        """
        middle, half = round((centre_um - self.origin) / self.step), math.ceil(half_width_um / self.step)
        lower, upper = max(0, middle - half), min(self.count, middle + half + 1)
        moved = (self.offsets + np.multiply.outer(waits_s, self.chain.rates / 60.0)) / self.step
        first, out = spread_out(self.mass[:, lower:upper], moved)
        out /= np.maximum(out.sum(axis=1), 1e-300)[:, None]
        return self.origin + self.step * np.arange(lower + first, lower + first + out.shape[1]), out

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
            moments /= total
            self._changed(moments)

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
        moments = np.empty((len(self.moments), len(self.chain.rates), len(z)), dtype=np.float32)
        for row, offset in enumerate(self.offsets):
            place = (z - self.origin - offset) / self.step
            whole = np.floor(place).astype(np.intp)
            part = place - whole
            moments[:, row] = self._cells(row, whole, 1.0 - part)
            moments[:, row] += self._cells(row, whole + 1, part)
        weights = np.array(
            [np.interp(other.chain.rates, self.chain.rates, unit) for unit in np.eye(len(self.chain.rates))]
        ).T
        weights *= other.chain.prior[:, None] / self.chain.prior[None, :]
        moments = np.matmul(weights.astype(np.float32), moments)
        total = float(moments[0].sum(dtype=np.float64))
        if total > 0.0:
            moments /= total
            other.moments = np.zeros((*moments.shape[:2], other.count), dtype=np.float32)
            other.moments[..., first:last] = moments
        return other

    def _cells(self, row: int, cells: NDArray[np.intp], shares: Vector) -> Moments:
        """So much of some cells of a row; nothing of those that there are not."""
        there = (cells >= 0) & (cells < self.count)
        found: Moments = self.moments[:, row].take(cells, axis=1, mode="clip")
        found *= np.where(there, shares, 0.0).astype(np.float32)
        return found

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


def _shares(fraction: Vector) -> Vector:
    """What of each row lies in its cells, in those above and in those below, shape (3, rows)."""
    shares = np.empty((3, len(fraction)))
    np.maximum(fraction, 0.0, out=shares[1])
    np.maximum(-fraction, 0.0, out=shares[2])
    shares[0] = 1.0 - shares[1] - shares[2]
    return shares


def _diffuse(moments: Moments, variance: float) -> float:
    """Widen along the last axis by less than a cell, and make the mass sum to 1; what it was is returned.

    As one long row, because hundreds of short ones take three times as long; nothing may pass from one to the next.
    """
    ends = moments[0, :, 0].sum() + moments[0, :, -1].sum()
    total = float(moments[0].sum()) - 0.5 * variance * float(ends)
    if total <= 0.0:
        return total
    moving = moments * np.float32(0.5 * variance / total)
    moments *= np.float32((1.0 - variance) / total)
    row, moved = moments.reshape(-1), moving.reshape(-1)
    last = moving[..., -1].copy()
    moving[..., -1] = 0.0
    row[1:] += moved[:-1]
    moving[..., -1] = last
    moving[..., 0] = 0.0
    row[:-1] += moved[1:]
    return total


def _shift(row: Moments, cells: int) -> None:
    """Move along the last axis by whole cells; what leaves is lost, what enters is empty."""
    if abs(cells) >= row.shape[-1]:
        row[...] = 0.0
    elif cells > 0:
        row[..., cells:] = row[..., :-cells]
        row[..., :cells] = 0.0
    elif cells < 0:
        row[..., :cells] = row[..., -cells:]
        row[..., cells:] = 0.0
