"""A trace drawn with characters: braille dots where the terminal has them, plain ASCII where it has not."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import numpy as np

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Unicode braille: bit of the dot in row r (0 top) and column c of a cell of 4 x 2."""

_BRAILLE = 0x2800


def plot_rows(
    points: Sequence[tuple[float, float]],
    *,
    width: int,
    height: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    ascii_only: bool = False,
) -> list[str]:
    """Draw points, joined where they follow one another, into `height` rows of `width` characters.

    Parameters
    ----------
    points : sequence of (x, y)
        Ascending in x; a y that is not finite breaks the line.
    width, height : int
        In characters.
    x_range, y_range : (float, float)
        What the left and right, and the bottom and top edge mean. Points outside are drawn on the nearest edge in y
        and left out in x.
    ascii_only : bool
        One mark a character instead of eight dots.
    """
    rows, columns = (height, width) if ascii_only else (height * 4, width * 2)
    dots = np.zeros((rows, columns), dtype=bool)
    last: tuple[int, int] | None = None
    for x, y in _thinned(points, x_range, columns):
        if not isfinite(y) or not x_range[0] <= x <= x_range[1]:
            last = None
            continue
        column = _cell(x, x_range, columns)
        row = rows - 1 - _cell(y, y_range, rows)
        _join(dots, last if last is not None else (row, column), (row, column))
        last = (row, column)
    if ascii_only:
        return ["".join("*" if dot else " " for dot in line) for line in dots]
    return [_braille_row(dots[top : top + 4]) for top in range(0, rows, 4)]


def spread(values: Sequence[float], least: float) -> tuple[float, float]:
    """Range that holds all finite values with a little air, and is at least `least` wide."""
    finite = [value for value in values if isfinite(value)]
    if not finite:
        return -least / 2, least / 2
    low, high = min(finite), max(finite)
    middle, width = (low + high) / 2, max((high - low) * 1.1, least)
    return middle - width / 2, middle + width / 2


def _thinned(
    points: Sequence[tuple[float, float]], x_range: tuple[float, float], columns: int
) -> Sequence[tuple[float, float]]:
    """Keep of each column its lowest and highest point: what is drawn stays, the time to draw it does not grow."""
    if len(points) <= 4 * columns or x_range[1] <= x_range[0]:
        return points
    x, y = np.array(points).T
    inside = (x >= x_range[0]) & (x <= x_range[1]) & np.isfinite(y)
    x, y = x[inside], y[inside]
    if x.size == 0:
        return []
    column = ((x - x_range[0]) / (x_range[1] - x_range[0]) * (columns - 1)).round()
    starts = np.flatnonzero(np.diff(column, prepend=-1.0))
    low, high = np.minimum.reduceat(y, starts), np.maximum.reduceat(y, starts)
    return [
        (float(x[at]), float(edge))
        for at, pair in zip(starts, zip(low, high, strict=True), strict=True)
        for edge in pair
    ]


def _cell(value: float, limits: tuple[float, float], cells: int) -> int:
    low, high = limits
    share = (min(max(value, low), high) - low) / (high - low) if high > low else 0.5
    return round(share * (cells - 1))


def _join(dots: np.ndarray[tuple[int, int], np.dtype[np.bool_]], start: tuple[int, int], end: tuple[int, int]) -> None:
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    for step in range(steps + 1):
        share = step / steps
        dots[round(start[0] + share * (end[0] - start[0])), round(start[1] + share * (end[1] - start[1]))] = True


def _braille_row(dots: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> str:
    codes = np.full(dots.shape[1] // 2, _BRAILLE)
    for row, bits in enumerate(_DOTS):
        for column, bit in enumerate(bits):
            codes += bit * dots[row, column::2]
    return "".join(map(chr, codes)).replace(chr(_BRAILLE), " ")
