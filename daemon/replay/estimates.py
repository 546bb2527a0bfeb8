"""What a session's record tells of the sample's drift, the camera and the light, for a simulator made from it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.daemon.replay.reader import SessionReader

LEAST_FOCI = 5
"""So many sightings of the focus before a drift can be told from their scatter."""
MOST_PAIRS, MOST_LOOKED_AT = 12, 12
BINS = 24
STILL_UM = 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DriftEstimate:
    """How the focus moved: a line, and about it a random walk.

    `noise_um` is the scatter of single sightings, which is the belief's and not the sample's.
    """

    focus_um: float
    rate_um_per_min: float
    walk_um_per_sqrt_min: float
    noise_um: float
    sightings: int


@dataclass(frozen=True)
class CameraEstimate:
    """Gain, offset and read noise from the photon transfer curve: the variance between two frames of the same scene."""

    gain: float
    offset: float
    read_noise: float
    pairs: int


@dataclass(frozen=True)
class LightEstimate:
    """Electrons of the brightest pixels above the background, and of the background, in a frame in focus."""

    peak_electrons: float
    background_electrons: float
    frames: int


@dataclass
class Assumptions:
    """What could not be told from the record, and what was taken instead: nothing is assumed in silence."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Note one, once."""
        if line not in self.lines:
            self.lines.append(line)


def foci(reader: SessionReader) -> tuple[Array, Array, Array]:
    """Return when and where the policy saw the focus, in focus itself, and how sure it was: s since the start, um."""
    times: dict[int, float] = {}
    first: float | None = None
    at, z, sd = [], [], []
    for record in reader.journal.of("frame", "action"):
        if record["kind"] == "frame":
            times[record["index"]] = 0.5 * (record["start_s"] + record["end_s"])
            first = record["start_s"] if first is None else first
            continue
        detail = record.get("detail", {})
        if detail.get("focused") != 1.0 or not _number(detail.get("focus_z_um")):
            continue
        if first is not None and record.get("index") in times:
            at.append(times[record["index"]] - first)
            z.append(float(detail["focus_z_um"]))
            sd.append(float(detail["defocus_sd_um"]) if _number(detail.get("defocus_sd_um")) else 0.0)
    return np.array(at), np.array(z), np.array(sd)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def drift_of(times_s: Array, focus_um: Array, sd_um: Array) -> DriftEstimate | None:
    """Fit a line and a walk; `None` with fewer than `LEAST_FOCI` sightings.

    About the line, the mean square of the differences at a distance in time is twice the variance of a sighting plus
    the walk's, which grows with that distance (the structure function). Sightings are beliefs, whose errors last from
    one to the next: their variance is therefore taken as stated, and the walk from the longest distance.
    """
    if len(times_s) < LEAST_FOCI or times_s[-1] <= times_s[0]:
        return None
    minutes = times_s / 60.0
    rate, start = np.polyfit(minutes, focus_um, 1)
    rest = focus_um - (start + rate * minutes)
    lag = max(1, len(rest) // 4)
    apart_min = float(np.mean(minutes[lag:] - minutes[:-lag]))
    square = float(np.mean((rest[lag:] - rest[:-lag]) ** 2))
    noise = float(np.median(sd_um))
    walk = math.sqrt(max(square - 2.0 * noise**2, 0.0) / apart_min)
    return DriftEstimate(float(start), float(rate), walk, noise, len(times_s))


def _pairs(reader: SessionReader) -> Iterator[tuple[Array, Array]]:
    """Frames that follow one another, taken at one place."""
    records = [r for r in reader.journal.of("frame") if r["index"] in reader.stored]
    close = [
        (a, b)
        for a, b in pairwise(records)
        if b["index"] == a["index"] + 1
        and a["settings"] == b["settings"]
        and reader.frames.holds(reader.stored[a["index"]])
        and reader.frames.holds(reader.stored[b["index"]])
    ]
    for a, b in close[:: max(1, len(close) // MOST_PAIRS)][:MOST_PAIRS]:
        first, second = (reader.frames.read(reader.stored[r["index"]]) for r in (a, b))
        if first is not None and second is not None:
            yield first.astype(np.float64), second.astype(np.float64)


def camera_of(reader: SessionReader) -> CameraEstimate | None:
    """Estimate the camera from pairs of frames of the same scene; `None` if there are none, or they show no curve."""
    means: list[float] = []
    variances: list[float] = []
    pairs = 0
    for first, second in _pairs(reader):
        mean, difference = 0.5 * (first + second).ravel(), (first - second).ravel()
        order = np.argsort(mean)
        for part in np.array_split(order, BINS):
            means.append(float(mean[part].mean()))
            # A quarter of the distance between quartiles is robust against hot pixels and cells that moved.
            low, high = np.percentile(difference[part], [25, 75])
            variances.append(0.5 * ((high - low) / 1.349) ** 2)
        pairs += 1
    if not pairs:
        return None
    x, y = np.array(means), np.array(variances)
    gain, floor = np.polyfit(x, y, 1, w=1.0 / np.maximum(y, 1e-9))
    if not gain > 0 or x.max() - x.min() < 5.0:
        return None
    # One line gives two numbers of three: the darkest level stands for the offset, a little below the darkest bin.
    offset = max(0.0, min(float(x.min()), -float(floor) / float(gain) + 2.0 * float(gain)))
    read = math.sqrt(max(float(floor) + float(gain) * offset, 0.0)) / float(gain)
    return CameraEstimate(float(gain), offset, min(read, 20.0), pairs)


def light_of(reader: SessionReader, gain: float, offset: float) -> LightEstimate | None:
    """Measure the light in the recorded frames nearest to focus."""
    peaks, backgrounds = [], []
    for index in _nearest_to_focus(reader):
        pixels = reader.frames.read(reader.stored[index])
        if pixels is not None:
            low, high = np.percentile(pixels, [5.0, 99.95])
            peaks.append((high - low) / gain)
            backgrounds.append(max(low - offset, 0.0) / gain)
    if not peaks:
        return None
    return LightEstimate(float(np.median(peaks)), float(np.median(backgrounds)), len(peaks))


def _nearest_to_focus(reader: SessionReader) -> list[int]:
    """Indices of recorded frames, those that the policy believed nearest to focus first."""
    found = []
    for record in reader.journal.of("action"):
        index, defocus = record.get("index"), record.get("detail", {}).get("defocus_um")
        if index in reader.stored and reader.frames.holds(reader.stored[index]):
            found.append((abs(defocus) if _number(defocus) else math.inf, index))
    return [index for _, index in sorted(found)[:MOST_LOOKED_AT]]
