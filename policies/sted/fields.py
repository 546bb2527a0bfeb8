"""Fresh fields: places around the start, in a square spiral, that lie within bounds and were not looked at yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

REACH = 25
"""Rings of the spiral where no bounds are given; a session never needs as many fields."""


def spiral() -> Iterator[tuple[int, int]]:
    """Yield whole steps (right, down) from the middle outwards, each place once, neighbours after one another."""
    column = row = 0
    yield column, row
    for ring in range(1, REACH + 1):
        column += 1
        yield column, row
        for step_x, step_y, count in ((0, 1, 2 * ring - 1), (-1, 0, 2 * ring), (0, -1, 2 * ring), (1, 0, 2 * ring)):
            for _ in range(count):
                column, row = column + step_x, row + step_y
                yield column, row


def field_at(
    number: int, origin: Mapping[str, float], pitch_um: float, bounds: Mapping[str, tuple[float, float]]
) -> dict[str, float] | None:
    """Return where a field lies; `None` where there are not as many.

    Parameters
    ----------
    number : int
        0 is the start itself.
    origin : mapping
        ``x_um`` and ``y_um``, or one of them, or none: then there is only the one field.
    pitch_um : float
        Distance between fields; 0: always the same.
    bounds : mapping
        Of ``x_um`` and ``y_um``.
    """
    if not origin or pitch_um == 0:
        return {}
    seen = 0
    for column, row in spiral():
        steps = {"x_um": column, "y_um": row}
        if any(steps[axis] for axis in steps if axis not in origin):
            continue
        place = {axis: origin[axis] + steps[axis] * pitch_um for axis in origin}
        if all(bounds[axis][0] <= value <= bounds[axis][1] for axis, value in place.items() if axis in bounds):
            if seen == number:
                return place
            seen += 1
    return None
