"""Charts as inline SVG: lines, intervals, marks with words; coloured by the page's style sheet, light and dark."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np

from parfocal.daemon.report.axes import Axis, Points, thinned

LEFT, RIGHT, TOP, BOTTOM = 58, 14, 24, 34


@dataclass(frozen=True)
class Band:
    """What lies between two lines, shape (n, 3): x, lower, upper."""

    points: Points
    style: str


@dataclass(frozen=True)
class Line:
    """A line, or with `steps` one that stays where it is until the next point."""

    points: Points
    style: str
    steps: bool = False


@dataclass(frozen=True)
class Marks:
    """Single points with what is said of each when pointed at; `shape` is dot, cross or triangle."""

    points: Points
    style: str
    titles: Sequence[str] = ()
    shape: str = "dot"


@dataclass(frozen=True)
class Level:
    """A value that matters: a limit, a budget."""

    value: float
    style: str
    label: str = ""


@dataclass(frozen=True)
class Chart:
    """What is drawn, in this order, and what the legend says.

    Parameters
    ----------
    label : str
        Said to those who cannot see it.
    x, y : Axis
    parts : sequence
        Bands, lines, marks, levels.
    legend : sequence of (style, words)
    unit : str
        Of y, written at the top of the axis.
    """

    label: str
    x: Axis
    y: Axis
    parts: Sequence[Band | Line | Marks | Level]
    legend: Sequence[tuple[str, str]] = field(default_factory=tuple)
    unit: str = ""

    def svg(self, width: int = 920, height: int = 260) -> str:
        """Draw it, `width` by `height` units."""
        frame = _Frame(self.x, self.y, width, height)
        body = [frame.grid(self.unit)]
        for part in self.parts:
            body.append(frame.draw(part))
        name = f"clip{zlib.crc32(f'{self.label} {width}'.encode())}"
        return (
            f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(self.label)}" '
            f'xmlns="http://www.w3.org/2000/svg"><clipPath id="{name}"><rect x="{LEFT}" y="{TOP - 4}" '
            f'width="{width - LEFT - RIGHT}" height="{height - TOP - BOTTOM + 8}"/></clipPath>'
            f'{body[0]}<g clip-path="url(#{name})">{"".join(body[1:])}</g></svg>'
        )


class _Frame:
    def __init__(self, x: Axis, y: Axis, width: int, height: int) -> None:
        self._x, self._y, self._width, self._height = x, y, width, height

    def across(self, value: float) -> float:
        return LEFT + self._x.share(value) * (self._width - LEFT - RIGHT)

    def up(self, value: float) -> float:
        return self._height - BOTTOM - self._y.share(value) * (self._height - TOP - BOTTOM)

    def grid(self, unit: str) -> str:
        bottom, right = self._height - BOTTOM, self._width - RIGHT
        out = []
        every = max(1, round(len(self._y.at) * 26 / max(bottom - TOP, 1) + 0.49))
        for value, label in list(zip(self._y.at, self._y.labels, strict=True))[::every]:
            y = self.up(value)
            out.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
            out.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{escape(label)}</text>')
        room = (right - LEFT) / 66
        every = max(1, int(np.ceil(len(self._x.at) / max(room, 1))))
        for value, label in list(zip(self._x.at, self._x.labels, strict=True))[::every]:
            x = self.across(value)
            out.append(f'<path class="grid" d="M{x:.1f} {bottom}v5"/>')
            anchor = "start" if x < LEFT + 12 else ("end" if x > right - 22 else "middle")
            out.append(
                f'<text class="tick" x="{x:.1f}" y="{bottom + 19}" text-anchor="{anchor}">{escape(label)}</text>'
            )
        out.append(f'<path class="axis" d="M{LEFT} {TOP}V{bottom}H{right}"/>')
        out.append(f'<text class="tick unit" x="2" y="12">{escape(unit)}</text>')
        return "".join(out)

    def draw(self, part: Band | Line | Marks | Level) -> str:
        match part:
            case Band():
                return self._band(part)
            case Line():
                return self._line(part)
            case Marks():
                return self._marks(part)
            case Level():
                return self._level(part)

    def _band(self, band: Band) -> str:
        out = []
        points = band.points
        if len(points) > 500:  # one in so many: the middle of an interval that changes slowly
            points = points[:: int(np.ceil(len(points) / 500))]
        for run in _runs(points):
            low = " ".join(f"{self.across(x):.1f},{self.up(lower):.1f}" for x, lower, _ in run)
            high = " ".join(f"{self.across(x):.1f},{self.up(upper):.1f}" for x, _, upper in run[::-1])
            out.append(f'<polygon class="{band.style}" points="{low} {high}"/>')
        return "".join(out)

    def _line(self, line: Line) -> str:
        out = []
        for run in _runs(line.points if line.steps else thinned(line.points)):
            path = f"M{self.across(run[0][0]):.1f} {self.up(run[0][1]):.1f}"
            for x, y in run[1:]:
                across, up = self.across(x), self.up(y)
                path += f"H{across:.1f}V{up:.1f}" if line.steps else f"L{across:.1f} {up:.1f}"
            out.append(f'<path class="{line.style}" d="{path}"/>')
        return "".join(out)

    def _marks(self, marks: Marks) -> str:
        out = []
        for number, (x, y) in enumerate(marks.points):
            if not np.isfinite(y):
                continue
            # What lies beyond the axis is marked at its edge, never left out.
            across, up = self.across(x), min(max(self.up(y), TOP - 1), self._height - BOTTOM + 1)
            said = f"<title>{escape(marks.titles[number])}</title>" if number < len(marks.titles) else ""
            out.append(f'<g class="{marks.style}">{said}{_shape(marks.shape, across, up)}</g>')
        return "".join(out)

    def _level(self, level: Level) -> str:
        y, right = self.up(level.value), self._width - RIGHT
        text = f'<text class="tick" x="{right - 4}" y="{y - 5:.1f}" text-anchor="end">{escape(level.label)}</text>'
        return f'<path class="{level.style}" d="M{LEFT} {y:.1f}H{right}"/>{text if level.label else ""}'


def _shape(shape: str, x: float, y: float) -> str:
    if shape == "cross":
        return f'<path d="M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/>'
    if shape == "triangle":
        return f'<path d="M{x:.1f} {y - 5:.1f}l4.5 8h-9z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2"/>'


def _runs(points: Points) -> list[Points]:
    """Split where a value is missing."""
    whole = np.isfinite(points).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], whole.astype(int), [0]])))
    return [points[begin:end] for begin, end in zip(edges[::2], edges[1::2], strict=True)]
