"""Where in the plan an event belongs: its position, the z at which the plan has the focus there, and its visit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Planes = Literal["all", "middle"] | Sequence[int]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event belongs.

    Parameters
    ----------
    position : int
        Number of the position (and of the tile of a grid), in the order in which they were first seen.
    visit : int
        Number of the stay at that position: its planes and channels belong together.
    reference_um : float
        The z at which the plan has the focus, before any correction; NaN if nobody knows.
    planned_um : float
        The z that the plan has for this very event.
    scored : bool
        Whether its frame is one of those that are looked at.
    chromatic_um : float
        How far above the reference the focus lies in this event's channel.
    """

    position: int
    visit: int
    reference_um: float
    planned_um: float
    scored: bool
    chromatic_um: float


class Plan:
    """Reads the events of one sequence, in the order in which they are carried out.

    The reference of a position is its own z. Where the plan gives absolute planes it is the middle of these; where it
    gives no z at all, that of the stage at the start. Events without a sequence (from a generator) have the z of the
    first one at each position.

    Parameters
    ----------
    start_um : float
        Where the stage stood when the sequence began.
    channels : mapping or None
        The channels that are looked at, each with its chromatic offset; None: the first channel seen, without any.
    planes : "all", "middle" or sequence of int
        The planes of a z-plan that are looked at.
    """

    def __init__(self, start_um: float, channels: Mapping[str, float] | None, planes: Planes) -> None:
        self._start_um = start_um
        self._channels, self._planes = channels, planes
        self._first_channel: str | None = None
        self._positions: dict[tuple[int, int], int] = {}
        self._references: dict[int, float] = {}
        self._key: tuple[Any, ...] | None = None
        self._visit = 0

    def place(self, event: Any) -> Place:
        """Say where an event belongs."""
        index = {str(getattr(axis, "value", axis)): int(at) for axis, at in event.index.items()}
        position = self._positions.setdefault((index.get("p", 0), index.get("g", 0)), len(self._positions))
        key = (position, *sorted((axis, at) for axis, at in index.items() if axis not in ("z", "c", "cam")))
        if key != self._key:
            self._key, self._visit = key, self._visit + 1
        if position not in self._references:
            self._references[position] = self._reference(event, index)
        reference = self._references[position]
        planned = reference if event.z_pos is None else float(event.z_pos)
        name = event.channel.config if event.channel is not None else ""
        scored = self._channel_counts(name) and self._plane_counts(event, index)
        chromatic = 0.0 if self._channels is None else self._channels.get(name, 0.0)
        return Place(position, self._visit, reference, planned, scored, chromatic)

    def span_um(self, event: Any) -> float:
        """How far the scored planes of the event's own stack lie apart."""
        planes = _planes(event, _index(event, "p"))
        if planes is None or self._planes == "middle":
            return 0.0
        chosen = planes if self._planes == "all" else [planes[n] for n in self._planes if 0 <= n < len(planes)]
        return max(chosen) - min(chosen) if chosen else 0.0

    def _reference(self, event: Any, index: Mapping[str, int]) -> float:
        p = index.get("p", 0)
        plan = _z_plan(event, p)
        if plan is not None and not plan.is_relative:
            planes = [float(z) for z in plan]
            return 0.5 * (min(planes) + max(planes))
        positions = [] if event.sequence is None else event.sequence.stage_positions
        if p < len(positions) and positions[p].z is not None:
            return float(positions[p].z)
        if event.sequence is not None and plan is not None and event.z_pos is not None:
            return 0.0  # useq has relative planes about 0 where a position has no z
        return self._start_um if event.z_pos is None else float(event.z_pos)

    def _channel_counts(self, name: str) -> bool:
        if self._channels is not None:
            return name in self._channels
        if self._first_channel is None:
            self._first_channel = name
        return name == self._first_channel

    def _plane_counts(self, event: Any, index: Mapping[str, int]) -> bool:
        planes = _planes(event, index.get("p", 0))
        if planes is None or "z" not in index or self._planes == "all":
            return True
        if self._planes == "middle":
            return index["z"] == len(planes) // 2
        return index["z"] in self._planes


def _index(event: Any, axis: str) -> int:
    return int(event.index.get(axis, 0))


def _z_plan(event: Any, position: int) -> Any:
    """Return the z-plan that holds at a position: its own, or that of all."""
    sequence = event.sequence
    if sequence is None:
        return None
    positions = sequence.stage_positions
    own = positions[position].sequence if position < len(positions) else None
    return own.z_plan if own is not None and own.z_plan is not None else sequence.z_plan


def _planes(event: Any, position: int) -> list[float] | None:
    plan = _z_plan(event, position)
    planes = None if plan is None else [float(z) for z in plan]
    return planes if planes and all(map(math.isfinite, planes)) else None
