"""The terms of a session: when it ends by itself, and how long it waits for anybody."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long the loop waits, in seconds of wall time; for a frame: beyond its exposure."""

    open_s: float = 60.0
    frame_s: float = 5.0
    command_s: float = 5.0
    safe_s: float = 5.0
    score_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Ending:
    """When a session ends by itself."""

    max_frames: int | None = None
    max_seconds: float | None = None
    until_focused: bool = False
    focused_frames: int = 1
