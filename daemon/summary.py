"""What a run amounts to: counts while it goes on, a `Step` a frame for whoever watches, the `Summary` at the end."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from parfocal.daemon.guard import Verdict
from parfocal.daemon.quality_gate import QualityCounts
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Action


@dataclass(frozen=True, slots=True)
class Step:
    """One frame's way through the loop, for listeners; cheap, holds no copies."""

    frame: Frame
    assessments: Mapping[str, Assessment] | None
    action: Action | None
    verdict: Verdict | None
    stale: bool
    state: str
    frames: int
    scored: int
    stale_frames: int
    dropped: int
    actions: int
    refused: int
    dose: float
    travel_um: float
    fps: float
    latency_ms: float
    notes: str = ""
    dose_unit: str = ""
    dose_budget: float | None = None


@dataclass
class Counts:
    """Running numbers of a session.

    `frames` were exposed; of these `scored` were told to the policy, `stale` were exposed before a change had settled,
    `missed` were replaced by a later one before the loop could look. `lost` were never handed over by the camera.
    """

    frames: int = 0
    scored: int = 0
    stale: int = 0
    missed: int = 0
    lost: int = 0
    doubtful: int = 0
    actions: int = 0
    refused: int = 0
    frames_to_focus: int | None = None
    quality: QualityCounts = field(default_factory=QualityCounts)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=100_000))
    _last_end_s: float | None = None
    _interval_s: float = math.nan

    @property
    def dropped(self) -> int:
        """Frames nobody looked at: replaced in the slot, or lost by the camera."""
        return self.missed + self.lost

    @property
    def fps(self) -> float:
        """Frames a second the loop handles, smoothed; NaN before the second frame."""
        return 1.0 / self._interval_s if self._interval_s > 0 else math.nan

    def note_frame(self, end_s: float) -> None:
        """Update the frame rate."""
        if self._last_end_s is not None:
            interval = end_s - self._last_end_s
            self._interval_s = interval if math.isnan(self._interval_s) else 0.9 * self._interval_s + 0.1 * interval
        self._last_end_s = end_s


@dataclass(frozen=True)
class Summary:
    """How a run ended, and what it amounts to.

    `outcome` is one of ``done`` (its length was reached), ``focused``, ``finished`` (the policy said so),
    ``bad_quality`` (the quality gate said so), ``stopped`` (somebody asked), ``safe`` (somebody asked for the safe
    state at once), ``tripped`` (the guard), ``failed``. `error` says why in the last three cases. `quality` is that of
    the last frame scored, `gate` what the quality gate counted, if there is one.
    """

    session: str
    driver: str
    simulated: bool
    outcome: str
    frames: int = 0
    scored: int = 0
    stale: int = 0
    dropped: int = 0
    actions: int = 0
    refused: int = 0
    frames_to_focus: int | None = None
    travel_um: float = 0.0
    dose: float = 0.0
    dose_unit: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    defocus_um: float = math.nan
    defocus_sd_um: float = math.nan
    quality: float = math.nan
    gate: Mapping[str, Any] | None = None
    truth_defocus_um: float = math.nan
    latency_p50_ms: float = math.nan
    latency_p99_ms: float = math.nan
    recommendation: Mapping[str, Any] | None = None
    error: str = ""
    exit_code: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``parfocal run --json`` ends with; what is not known is null.

        With a quality gate there is one key more, ``gate``; where a policy looked for settings, ``recommendation``:
        ``settings``, ``utility``, ``utility_sd``, ``images`` and ``reason``, why it stopped there.
        """
        known = {name: _known(value) for name, value in self.settings.items()}
        result: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                "session driver simulated outcome frames scored stale dropped actions refused frames_to_focus"
            ).split()
        }
        result |= {"travel_um": _known(self.travel_um), "dose": _known(self.dose)}
        result["final"] = {
            "settings": known,
            "defocus_um": _known(self.defocus_um),
            "defocus_sd_um": _known(self.defocus_sd_um),
            "quality": _known(self.quality),
        }
        result["truth"] = {"defocus_um": _known(self.truth_defocus_um)} if self.simulated else None
        result["latency_ms"] = {"p50": _known(self.latency_p50_ms), "p99": _known(self.latency_p99_ms)}
        if self.gate is not None:
            result["gate"] = dict(self.gate)
        if self.recommendation is not None:
            result["recommendation"] = dict(self.recommendation)
        return result


def _known(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def percentile(values: deque[float], percent: float) -> float:
    """Nearest-rank percentile; NaN of nothing."""
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, math.ceil(percent / 100.0 * len(ranked)) - 1)]
