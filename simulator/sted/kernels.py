"""What a raster scan does around each molecule, as tables: signal and bleaching by the beam's place, order included.

Everything here rests on one fact. In expectation, what a molecule has left when the beam stands at some distance from
it depends on the passes made before, which in a raster scan are known beforehand, and not on any other molecule. So
the whole scan is a sum over molecules of one table, but for molecules near the edges of the field, which get tables of
their own. Only the dark state is approximated: each pass finds what a long series of equal passes would leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.simulator.sted.dyes import Dye
from parfocal.simulator.sted.focus import RealArray
from parfocal.simulator.sted.photophysics import Rates, rates
from parfocal.simulator.sted.settings import StedOptics, StedSettings

FloatArray = NDArray[np.float32]
REACH_UM = 0.5  # beyond this distance from the axis the beams are taken to do nothing


def reach_px(pixel_um: float) -> int:
    """How many pixels the beams reach to each side, and so how much sample a scan touches beyond its field."""
    return max(2, round(REACH_UM / pixel_um))


@dataclass(frozen=True, eq=False)
class ScanPlan:
    """Tables for one scan. A *class* is a column of the sample, or all those that are further than `reach` inside.

    Offsets are molecule minus beam, from ``-reach`` to ``reach``: positive ones lie ahead of the beam.

    Parameters
    ----------
    reach : int
        In pixels.
    classes : ndarray of intp, shape (columns + 2 * reach,)
        Class of each column of the sample.
    signal : ndarray of float32, shape (classes, 2 * reach + 1, 2 * reach + 1)
        Counts of all passes over a line, by class, offset along x, offset along y, for a molecule that was there when
        the line's first pass began.
    left : ndarray of float32, shape (classes, 2 * reach + 1)
        Share of the molecules that the earlier lines have left, by class and offset along y.
    left_top : ndarray of float32, shape (classes, 2 * reach + 1, min(rows, 2 * reach))
        The same for the first lines, before which there were not so many.
    survive : ndarray of float64, shape (rows + 2 * reach, columns + 2 * reach)
        Share of the molecules that the scan leaves.
    """

    reach: int
    classes: NDArray[np.intp]
    signal: FloatArray
    left: FloatArray
    left_top: FloatArray
    survive: RealArray


@lru_cache(maxsize=12)
def scan_plan(
    optics: StedOptics,
    dye: Dye,
    settings: StedSettings,
    pixel_um: float,
    shape: tuple[int, int],
    defocus_um: float = 0.0,
) -> ScanPlan:
    """Work the tables of a scan out; kept for the next scans of the same kind."""
    rows, columns = shape
    reach = reach_px(pixel_um)
    local = rates(optics, dye, settings.excitation_power, settings.depletion_power, defocus_um * 1e-6)
    places, classes = _classes(columns, reach)
    steps = settings.line_steps
    offsets = np.arange(-reach, reach + 1)
    ahead = places[:, None] - offsets[None, :]  # the beam's column, by class and offset
    scanned = (ahead >= 0) & (ahead < columns)
    table = local.on_grid(pixel_um * 1e-6, reach)
    signal, exponent = visit_tables(table, settings.dwell_us, optics.line_us(settings, columns), scanned)
    per_pass = exponent.sum(axis=2)
    before = exponent[:, :, ::-1].cumsum(axis=2)[:, :, ::-1] - exponent  # the beam comes from the left: dx falls
    made = signal * _mean_left(exponent) * np.exp(-before) * _passes_left(per_pass, steps)[:, :, None]
    earlier = steps * (per_pass[:, ::-1].cumsum(axis=1)[:, ::-1] - per_pass)  # lines above come first: dy falls
    return ScanPlan(
        reach,
        classes,
        np.ascontiguousarray(made.transpose(0, 2, 1), dtype=np.float32),
        np.exp(-earlier).astype(np.float32),
        _left_top(earlier, reach, min(rows, 2 * reach)),
        _survivors(steps * per_pass, rows, reach)[:, classes],
    )


def visit_tables(
    local: Rates, dwell_us: float, line_us: float, scanned: NDArray[np.bool_]
) -> tuple[RealArray, RealArray]:
    """Counts and bleaching exponent of one visit of a pixel.

    The dark state builds up while the beam passes over the molecule and decays until the next pass; it is taken to
    come back the same at each pass, which fixes what it starts from.

    Parameters
    ----------
    local : Rates
        On a grid, by offset (dy, dx) of the molecule.
    dwell_us, line_us : float
        Of the visit, and from one pass over the line to the next.
    scanned : ndarray of bool, shape (classes, width)
        Which offsets along x there are at all: the beam does not leave the field.

    Returns
    -------
    signal, exponent : ndarray of float64, shape (classes, width, width)
        By class and offset (dy, dx); 0 where there is no visit.
    """
    here = scanned[:, None, :]
    if not np.any(local.darken):
        return np.where(here, local.signal * dwell_us, 0.0), np.where(here, local.bleach * dwell_us, 0.0)
    factor, level, mean_factor, mean_level = dark_steps(local, dwell_us)
    order = range(scanned.shape[1] - 1, -1, -1)  # the beam comes from the left, so dx falls
    gain, offset = np.ones((scanned.shape[0], factor.shape[0])), np.zeros((scanned.shape[0], factor.shape[0]))
    for at in order:
        visited = scanned[:, at, None]
        offset = np.where(visited, factor[:, at] * offset + level[:, at], offset)
        gain = np.where(visited, factor[:, at] * gain, gain)
    away_us = np.maximum(line_us - scanned.sum(axis=1) * dwell_us, 0.0)
    kept = np.exp(-local.recover * away_us)[:, None]
    now = kept * offset / (1 - kept * gain)
    dark = np.zeros((*scanned.shape[:1], *factor.shape))
    for at in order:
        dark[:, :, at] = mean_factor[:, at] * now + mean_level[:, at]
        now = np.where(scanned[:, at, None], factor[:, at] * now + level[:, at], now)
    lit = np.where(here, (1 - dark) * dwell_us, 0.0)
    return local.signal * lit, local.bleach * lit + local.dark_bleach * np.where(here, dark * dwell_us, 0.0)


def dark_steps(local: Rates, dwell_us: float) -> tuple[RealArray, RealArray, RealArray, RealArray]:
    """How a visit changes the share of dark molecules d: to ``a d + b``, and to ``c d + e`` in the mean over the visit.

    For d = 0 the mean is the equilibrium share times ``(kt + exp(-kt) - 1) / kt``, with k the sum of both rates.
    """
    both = local.darken + local.recover
    equilibrium = local.darken / both
    decayed = np.exp(-both * dwell_us)
    mean = -np.expm1(-both * dwell_us) / (both * dwell_us)
    return decayed, equilibrium * (1 - decayed), mean, equilibrium * (1 - mean)


def _mean_left(exponent: RealArray) -> RealArray:
    """Share left in the mean over a time in which `exponent` bleaches: (1 - exp(-e)) / e."""
    small = exponent < 1e-9
    safe = np.where(small, 1.0, exponent)
    return np.where(small, 1.0, -np.expm1(-safe) / safe)


def _passes_left(per_pass: RealArray, steps: int) -> RealArray:
    """Sum over the passes of what those before have left: the geometric series."""
    small = per_pass < 1e-9
    safe = np.where(small, 1.0, per_pass)
    return np.where(small, float(steps), np.expm1(-steps * safe) / np.expm1(-safe))


def _classes(columns: int, reach: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return one column of each class, counted from the field's first, and the class of each column of the sample."""
    every = np.arange(-reach, columns + reach)
    inside = (every >= reach) & (every < columns - reach)
    if not inside.any():
        return every, np.arange(every.size)
    places = np.concatenate([every[~inside], every[inside][:1]])
    classes = np.full(every.size, places.size - 1)
    classes[~inside] = np.arange(places.size - 1)
    return places, classes


def _left_top(earlier: RealArray, reach: int, lines: int) -> FloatArray:
    """Share left by the earlier lines, for the first `lines`, by class, offset along y, and line."""
    row = np.arange(lines)[None, :] + np.arange(-reach, reach + 1)[:, None]  # of the molecule, by dy and line
    # For a molecule in row y only offsets up to y were ever scanned; the sum over the others is taken off.
    never: NDArray[Any] = np.where(row < reach, earlier[:, np.minimum(row + reach, 2 * reach)], 0.0)
    return np.asarray(np.exp(-np.maximum(earlier[:, :, None] - never, 0.0)), dtype=np.float32)


def _survivors(per_line: RealArray, rows: int, reach: int) -> RealArray:
    """Share left by all lines, by row of the sample and class."""
    total = np.concatenate([np.zeros((per_line.shape[0], 1)), per_line.cumsum(axis=1)], axis=1)
    row = np.arange(-reach, rows + reach)
    upper = np.minimum(reach, row) + reach + 1
    lower = np.maximum(-reach, row - rows + 1) + reach
    return np.asarray(np.exp(-(total[:, upper] - total[:, lower])).T)
