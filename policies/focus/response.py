"""A measured response: what an objective's defocus does to the number a model reports; its fit and its use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator
from scipy.optimize import isotonic_regression, least_squares

from parfocal.models.base import Assessment
from parfocal.policies.base import PolicyError
from parfocal.policies.focus.density import Vector
from parfocal.policies.options import Options


class ResponseTable(Options):
    """A response as it is stored: JSON with equally long lists over an ascending grid of defocus.

    Parameters
    ----------
    defocus_um : list of float
        Ascending, both sides of 0.
    mean, sd : list of float
        The model's number there, and the spread of one look.
    sign_mean, sign_sd : list of float, optional
        The same for a second number that tells the sides apart (a log-odds, an asymmetry), where there is one.
    source, sign_source : str
        Where the numbers are in an assessment: ``value`` (its magnitude), or a key of its ``detail``.
    z0_um : float
        Stage position of the focus during the calibration. For the record: the belief does not use it.
    """

    defocus_um: list[float] = Field(min_length=5)
    mean: list[float]
    sd: list[float]
    sign_mean: list[float] | None = None
    sign_sd: list[float] | None = None
    source: str = "value"
    sign_source: str = "sign"
    z0_um: float = 0.0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        columns = [self.defocus_um, self.mean, self.sd, self.sign_mean, self.sign_sd]
        if (self.sign_mean is None) != (self.sign_sd is None):
            raise ValueError("sign_mean and sign_sd belong together")
        if any(c is not None and len(c) != len(self.defocus_um) for c in columns):
            raise ValueError("defocus_um, mean, sd (and sign_mean, sign_sd) must have the same length")
        if not all(np.isfinite(c).all() for c in columns if c is not None):
            raise ValueError("the tables hold NaN or infinite values")
        if (np.diff(self.defocus_um) <= 0).any() or not self.defocus_um[0] < 0 < self.defocus_um[-1]:
            raise ValueError("defocus_um must ascend and have both signs")
        if min(self.sd) <= 0 or (self.sign_sd is not None and min(self.sign_sd) <= 0):
            raise ValueError("sd must be positive")
        return self


@dataclass(frozen=True)
class Response:
    """Mean and spread of a model's number as a function of defocus.

    Outside the table the number is taken to stay as it is at the table's end. Where it saturates it says only that
    the defocus is large: the likelihood is flat there, and nothing pretends otherwise.
    """

    defocus_um: Vector
    mean: Vector
    sd: Vector
    sign_mean: Vector | None = None
    sign_sd: Vector | None = None
    source: str = "value"
    sign_source: str = "sign"
    z0_um: float = 0.0
    _scale: tuple[Vector, Vector] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scale = _even_noise_scale(self.mean, self.sd)
        # From defocus to the scale at once: both tables are piecewise linear, so only their bends count.
        bends = np.unique(np.concatenate([self.defocus_um, _crossings(self.defocus_um, self.mean, scale[0])]))
        object.__setattr__(self, "_scale", (bends, np.interp(np.interp(bends, self.defocus_um, self.mean), *scale)))

    @property
    def signed(self) -> bool:
        """Whether a second number tells the sides apart."""
        return self.sign_mean is not None

    @classmethod
    @lru_cache(maxsize=8)
    def surrogate(cls, dof_um: float, near_dof: float, far: float, reach_um: float) -> Response:
        """Stand-in for a network in um: ``sqrt(d**2 + c**2)`` with sd ``sqrt((near_dof dof)**2 + (far d)**2)``.

        The rounding ``c`` of 0.35 depths of field is what makes a look at the focus itself worth little.
        """
        half = np.concatenate([[0.0], np.geomspace(0.05 * dof_um, reach_um, 160)])
        d = np.concatenate([-half[:0:-1], half])
        return cls(d, np.hypot(d, 0.35 * dof_um), np.hypot(near_dof * dof_um, far * d))

    @classmethod
    def from_json(cls, table: ResponseTable | Mapping[str, Any]) -> Response:
        """Make one from its stored form; raises pydantic's ValidationError."""
        t = table if isinstance(table, ResponseTable) else ResponseTable.model_validate(dict(table))
        d, mean, sd = (np.asarray(c, dtype=np.float64) for c in (t.defocus_um, t.mean, t.sd))
        if t.sign_mean is None or t.sign_sd is None:
            return cls(d, mean, sd, source=t.source, sign_source=t.sign_source, z0_um=t.z0_um)
        return cls(d, mean, sd, np.asarray(t.sign_mean), np.asarray(t.sign_sd), t.source, t.sign_source, t.z0_um)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form: plain JSON, rounded to what a measurement is worth."""
        table: dict[str, Any] = {"source": self.source, "z0_um": round(self.z0_um, 4) + 0.0}
        for key, column in (("defocus_um", self.defocus_um), ("mean", self.mean), ("sd", self.sd)):
            table[key] = [float(f"{v:.7g}") for v in column]
        if self.sign_mean is not None and self.sign_sd is not None:
            table["sign_source"] = self.sign_source
            table["sign_mean"] = [float(f"{v:.7g}") for v in self.sign_mean]
            table["sign_sd"] = [float(f"{v:.7g}") for v in self.sign_sd]
        return table

    @property
    def dof_um(self) -> float:
        """Depth of field as far as the number shows it: where it is within the spread of one look of its least."""
        focus = int(np.argmin(self.mean))
        over = self.mean - self.mean[focus] - self.sd[focus]
        ends = []
        for side in (slice(focus, None, -1), slice(focus, None)):
            d, o = self.defocus_um[side], over[side]
            beyond = np.flatnonzero(o > 0.0)
            if not len(beyond):
                ends.append(abs(float(d[-1] - d[0])))
                continue
            k = int(beyond[0])
            share = float(o[k - 1] / (o[k - 1] - o[k]))
            ends.append(abs(float(d[k - 1] + share * (d[k] - d[k - 1]) - d[0])))
        return sum(ends)

    def observable(self, assessment: Assessment) -> float:
        """Return the number this response is about; NaN if the assessment has none."""
        if self.source == "value":
            return abs(assessment.value)
        return float(assessment.detail.get(self.source, float("nan")))

    def observed_sign(self, assessment: Assessment) -> float | None:
        """Return the number that tells the sides apart; None if there is none."""
        if self.sign_mean is None or assessment.detail.get("signed") == 0.0:
            return None
        value = assessment.detail.get(self.sign_source)
        return float(value) if value is not None and np.isfinite(value) else None

    def likelihood(self, value: float, sign: float | None = None) -> Vector:
        """Density per um over `defocus_um` of having taken a look that gave `value` (and `sign`).

        Student's t with 4 degrees of freedom: a robust tail.
        """
        density = _student(value, self.mean, self.sd)
        if sign is not None and self.sign_mean is not None and self.sign_sd is not None:
            density = density * _student(sign, self.sign_mean, self.sign_sd)
        total = float(np.trapezoid(density, self.defocus_um))
        result: Vector = density / total if total > 1e-300 else np.full_like(density, 1.0 / np.ptp(self.defocus_um))
        return result

    def evenly_noisy(self, defocus_um: Vector) -> Vector:
        """Return the number expected at some defocus, on the scale where one look has an sd of 1."""
        scaled: Vector = np.interp(defocus_um, *self._scale)
        return scaled


def _student(value: float, mean: Vector, sd: Vector) -> Vector:
    miss = np.clip((value - mean) / sd, -1e6, 1e6)
    density: Vector = (1.0 + miss**2 / 4.0) ** -2.5 / sd
    return density


def _crossings(place: Vector, curve: Vector, levels: Vector) -> Vector:
    """Places at which a piecewise linear curve crosses some levels."""
    low, rise = curve[:-1, None], np.diff(curve)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (levels[None, :] - low) / rise
    segment, level = np.nonzero((share > 0.0) & (share < 1.0))
    crossed: Vector = place[segment] + share[segment, level] * (place[segment + 1] - place[segment])
    return crossed


def _even_noise_scale(mean: Vector, sd: Vector) -> tuple[Vector, Vector]:
    """Integrate dm / sd(m): the variance-stabilising scale; where both sides disagree on sd, their mean."""
    levels = np.linspace(float(mean.min()), float(mean.max()) + 1e-9, 257)
    order = np.argsort(mean, kind="stable")
    spread = np.interp(levels, mean[order], sd[order])
    steps = np.diff(levels) / (0.5 * (spread[1:] + spread[:-1]))
    return levels, np.concatenate([[0.0], np.cumsum(steps)])


def fit_response(
    z_um: Sequence[float] | Vector,
    values: Sequence[float] | Vector,
    sds: Sequence[float] | Vector | None = None,
    *,
    signs: Sequence[float] | Vector | None = None,
    source: str = "value",
    sign_source: str = "sign",
) -> Response:
    """Fit a response to a sweep through the focus.

    The vertex is found from a rounded V through the lower part of the curve; from it each side rises monotonically,
    with its own shape: nothing forces them to be alike. The spread comes from how well the curve fits.

    Parameters
    ----------
    z_um, values : sequence of float, shape (n,)
        Stage positions and the model's number there (small in focus); NaN where it abstained. Repeats are welcome.
    sds : sequence of float, shape (n,), optional
        Spread of one look that does not show in how `values` scatter; added to the spread that does.
    signs : sequence of float, shape (n,), optional
        A second number, for the sides.
    source, sign_source : str
        Where they are in an assessment, see `ResponseTable`.

    Raises
    ------
    PolicyError
        Too few usable points, no minimum within the sweep, or one not deeper than the noise.
    """
    z, y, own, sign = _usable(z_um, values, sds, signs)
    vertex = _vertex(z, y)
    d = z - vertex
    grid = _table_grid(d)
    curve, misses = _smooth(d, y, grid)
    mean = _two_sided(grid, curve)
    sd = _local_sd(d, misses, grid)
    if own is not None:
        sd = np.hypot(sd, np.interp(grid, d, own))
    _check_depth(mean, sd)
    if sign is None:
        return Response(grid, mean, sd, source=source, z0_um=vertex)
    smooth, sign_misses = _smooth(d, sign, grid)
    return Response(grid, mean, sd, smooth, _local_sd(d, sign_misses, grid), source, sign_source, vertex)


def _check_depth(mean: Vector, sd: Vector) -> None:
    """Refuse a curve whose minimum is not deeper than its noise."""
    depth = min(float(mean[0]), float(mean[-1])) - float(mean.min())
    if not depth > 3.0 * float(np.median(sd)):
        raise PolicyError(
            f"the sweep shows no focus: the number changes by {depth:.3g} and scatters by {np.median(sd):.3g}; "
            "more light, a sample with structure, or a longer sweep is needed"
        )


def _usable(z: Any, values: Any, sds: Any, signs: Any) -> tuple[Vector, Vector, Vector | None, Vector | None]:
    """Sort, and drop what is not finite."""
    columns = [None if c is None else np.asarray(c, dtype=np.float64) for c in (z, values, sds, signs)]
    zs, ys = columns[0], columns[1]
    if zs is None or ys is None or any(c is not None and c.shape != zs.shape for c in columns) or zs.ndim != 1:
        raise PolicyError("z_um, values, sds and signs of a sweep must be equally long")
    keep = np.isfinite(zs) & np.isfinite(ys)
    for column in columns[2:]:
        if column is not None:
            keep &= np.isfinite(column)
    if len(np.unique(zs[keep])) < 7:
        raise PolicyError(f"the sweep has {len(np.unique(zs[keep]))} usable positions; at least 7 are needed")
    order = np.argsort(zs[keep], kind="stable")
    done = [None if c is None else c[keep][order] for c in columns]
    return zs[keep][order], ys[keep][order], done[2], done[3]


def _vertex(z: Vector, y: Vector) -> float:
    """Find where the number is least: a rounded V through the lower part of the curve about its smoothed minimum."""
    levels = np.unique(z)
    means = np.array([y[z == level].mean() for level in levels])
    smooth = np.convolve(np.pad(means, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    lowest = int(np.argmin(smooth))
    if lowest in (0, len(levels) - 1):
        raise PolicyError(
            f"the best plane of the sweep is its end (z = {levels[lowest]:.2f} um); sweep further to that side"
        )
    limit = smooth[lowest] + 0.5 * (min(smooth[0], smooth[-1], float(np.quantile(smooth, 0.9))) - smooth[lowest])
    above = np.flatnonzero(smooth > limit)
    first = max(0, int(above[above < lowest].max(initial=-1)), 0)
    last = min(int(above[above > lowest].min(initial=len(levels))), len(levels) - 1)
    first, last = min(first, max(0, lowest - 2)), max(last, min(len(levels) - 1, lowest + 2))
    near = (z >= levels[first]) & (z <= levels[last])
    zn, yn = z[near], y[near]
    span = float(np.ptp(zn))
    scale = max(float(np.ptp(yn)), 1e-12)
    start = [float(levels[lowest]), scale / (0.5 * span), scale / (0.5 * span), 0.2 * span, float(yn.min())]

    def misfit(p: Vector) -> Vector:
        slope = np.where(zn < p[0], p[1], p[2])
        error: Vector = (p[4] + slope * (np.hypot(zn - p[0], p[3]) - abs(p[3])) - yn) / scale
        return error

    sizes = [span, scale / span, scale / span, span, scale]
    fit = least_squares(misfit, start, loss="soft_l1", f_scale=0.05, x_scale=sizes)
    vertex = float(fit.x[0])
    return vertex if levels[first] < vertex < levels[last] else float(levels[lowest])


def _table_grid(d: Vector) -> Vector:
    """Even over the sweep, and finer about the vertex; no two points so close that rounding makes them one."""
    fine = min(4.0 * float(np.median(np.diff(np.unique(d)))), 0.25 * float(np.ptp(d)))
    even = np.linspace(d[0], d[-1], 121)
    grid = np.concatenate([even[np.abs(even) > fine + 0.01 * fine], np.linspace(-fine, fine, 41)])
    inside: Vector = np.sort(grid[(grid >= d[0]) & (grid <= d[-1])])
    # The middle of the finer part is the vertex itself, exactly.
    inside[np.argmin(np.abs(inside))] = 0.0
    return inside


def _smooth(d: Vector, y: Vector, grid: Vector) -> tuple[Vector, Vector]:
    """Fit parabolas locally, as wide as predicts left-out points best.

    Returns the curve on `grid`, and at each point by how much another look there would miss the curve: its residual,
    freed of the point's own pull ``h`` on the curve, with the curve's own error, ``sqrt((1 + h) / (1 - h))`` times.
    """
    step = float(np.median(np.diff(np.unique(d))))
    trials = []
    for width in (1.0, 1.5, 2.0, 3.0, 4.5):
        hat = _local_parabola(d, d, width * step)
        pull = np.clip(np.diag(hat), 0.0, 0.95)
        residual = y - hat @ y
        left_out = np.abs(residual) / (1.0 - pull)
        limit = 4.0 * 1.4826 * float(np.median(left_out)) + 1e-12
        misses = residual * np.sqrt((1.0 + pull) / (1.0 - pull))
        trials.append((float(np.mean(np.minimum(left_out, limit) ** 2)), width, misses))
    _, width, misses = min(trials, key=lambda trial: trial[0])
    return _local_parabola(d, grid, width * step) @ y, misses


def _local_parabola(d: Vector, at: Vector, width: float) -> Vector:
    """Weights, shape (len(at), len(d)), that give a local parabola's value from the values at `d`.

    The window grows at the ends and in gaps until it holds enough points for a parabola.
    """
    apart = d[None, :] - at[:, None]
    reach = np.sort(np.abs(apart), axis=1)[:, min(4, len(d) - 1)]
    scale = np.maximum(width, reach / 1.5)[:, None]
    weight = np.exp(-0.5 * (apart / scale) ** 2)
    columns = np.stack([np.ones_like(apart), apart / scale, (apart / scale) ** 2], axis=-1)
    normal = np.einsum("an,ani,anj->aij", weight, columns, columns) + 1e-9 * np.eye(3)
    first: Vector = np.einsum("ai,ani,an->an", np.linalg.inv(normal)[:, 0], columns, weight)
    return first


def _two_sided(grid: Vector, mean: Vector) -> Vector:
    """Make a curve fall up to the vertex and rise after it (isotonic regression of each side)."""
    left = isotonic_regression(mean[grid <= 0.0], increasing=False).x
    right = isotonic_regression(mean[grid >= 0.0]).x
    bottom = min(float(left[-1]), float(right[0]))
    joined: Vector = np.concatenate([left[:-1], [bottom], right[1:]])
    return joined


def _local_sd(d: Vector, misses: Vector, grid: Vector) -> Vector:
    """Spread of one look about each defocus: half from the points near by, half from the whole sweep; robust."""
    whole = 1.4826 * float(np.median(np.abs(misses)))
    width = max(0.1 * float(np.ptp(d)), 1e-9)
    weights = np.exp(-0.5 * ((grid[:, None] - d[None, :]) / width) ** 2)
    clipped = np.minimum(np.abs(misses), 4.0 * whole + 1e-12)
    local = (weights @ clipped**2) / weights.sum(axis=1)
    sd: Vector = np.sqrt(0.5 * local + 0.5 * whole**2) + 1e-6
    return sd
