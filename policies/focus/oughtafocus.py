"""OughtaFocus, the default of Micro-Manager: Brent's method, or an even scan, on the Edges score."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field

from parfocal.policies.focus.routine import RoutineOptions, RoutinePolicy, Search, log_parabola
from parfocal.policies.options import parse_options

_GOLDEN = 0.381966011250105


class OughtaFocusOptions(RoutineOptions):
    """Micro-Manager's settings and their defaults: search range 10 um (the whole), tolerance 1 um, score Edges."""

    score: str = "edges"
    search_range_um: float = Field(default=10.0, gt=0)
    tolerance_um: float = Field(default=1.0, gt=0)
    optimizer: Literal["brent", "zstack"] = "brent"
    max_evaluations: int = Field(default=100, ge=3)


class OughtaFocusPolicy(RoutinePolicy):
    """See `brent_maximise`; the scan is `scan` with `log_parabola` in place of a fitted Gaussian."""

    name = "focus.oughtafocus"
    options: OughtaFocusOptions

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__()
        self.options = parse_options(OughtaFocusOptions, self.name, options)

    def search(self, home_um: float) -> Search:
        """Search within half the range on either side, as far as the limits allow."""
        o = self.options
        lower = self.bounded(home_um - 0.5 * o.search_range_um)
        upper = self.bounded(home_um + 0.5 * o.search_range_um)
        if o.optimizer == "zstack":
            return scan(lower, upper, o.tolerance_um)
        return brent_maximise(lower, upper, o.tolerance_um, o.max_evaluations)


def brent_maximise(
    lower: float, upper: float, tolerance: float, max_evaluations: int = 100
) -> Generator[float, float, float]:
    """Brent's method as commons-math's ``BrentOptimizer`` does it, maximising; yields places and is sent their scores.

    Relative tolerance 1e-9, absolute `tolerance`; starts in the middle; ends with the best place seen.
    R. P. Brent, Algorithms for Minimization without Derivatives (1973), chapter 5.
    """
    a, b = lower, upper
    x = w = v = 0.5 * (a + b)
    fx = fw = fv = -(yield x)
    best, best_f = x, fx
    d = e = 0.0
    for _ in range(max_evaluations - 1):
        m = 0.5 * (a + b)
        tol1 = 1e-9 * abs(x) + tolerance
        tol2 = 2.0 * tol1
        if abs(x - m) <= tol2 - 0.5 * (b - a):
            break
        d, e = _step(x, w, v, fx, fw, fv, a, b, m, d, e, tol1, tol2)
        u = x + (d if abs(d) >= tol1 else (tol1 if d >= 0.0 else -tol1))
        fu = -(yield u)
        if fu < best_f:
            best, best_f = u, fu
        if fu <= fx:
            a, b = (a, x) if u < x else (x, b)
            v, fv, w, fw, x, fx = w, fw, x, fx, u, fu
        else:
            a, b = (u, b) if u < x else (a, u)
            if fu <= fw or w == x:
                v, fv, w, fw = w, fw, u, fu
            elif fu <= fv or v in (x, w):
                v, fv = u, fu
    return best


def _step(
    x: float, w: float, v: float, fx: float, fw: float, fv: float, a: float, b: float, m: float,
    d: float, e: float, tol1: float, tol2: float,
) -> tuple[float, float]:  # fmt: skip
    """Next step and the one to compare the next but one with: a parabola's if it is acceptable, else golden section."""
    if abs(e) > tol1:
        r = (x - w) * (fx - fv)
        q = (x - v) * (fx - fw)
        p = (x - v) * q - (x - w) * r
        q = 2.0 * (q - r)
        p, q = (-p, q) if q > 0.0 else (p, -q)
        before_last = e
        if q * (a - x) < p < q * (b - x) and abs(p) < abs(0.5 * q * before_last):
            step = p / q
            u = x + step
            if u - a < tol2 or b - u < tol2:
                step = tol1 if x <= m else -tol1
            return step, d
    e = b - x if x < m else a - x
    return _GOLDEN * e, e


def scan(lower: float, upper: float, step: float) -> Generator[float, float, float]:
    """Scan evenly from the lowest z upward, both ends included; ends with the peak of `log_parabola`."""
    count = max(2, round((upper - lower) / step) + 1)
    places = [float(z) for z in np.linspace(lower, upper, count)]
    scores = []
    for z in places:
        scores.append((yield z))
    return log_parabola(places, scores)
