"""What the record stands: 100 frames/s to disk, ten thousand decisions replayed, and SIGKILL at random instants."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.compose import policy_maker
from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.logs import logs_to
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.session import Session
from parfocal.daemon.summary import Summary
from parfocal.daemon.terms import Deadlines, Ending
from parfocal.drivers.base import Frame, Parameter, check_value
from parfocal.models.base import Assessment, Distribution
from parfocal.simulator.clock import Clock, VirtualClock

Row = list[Any]
FRAMES_PER_S, SECONDS, SIDE_PX = 100.0, 60.0, 512
NIGHT_S = 4.0
"""A frame every so often makes ten thousand decisions a night of eleven hours."""
KILLED_AFTER_S = 3.0
FIXED = ("limits={z_um: {lower: -200, upper: 200}}", "start={}", "microscope.interval_ms=0")
GRID_UM = np.linspace(-40.0, 40.0, 161)


class Carousel:
    """A camera that shows noise made beforehand, at its own pace, so that what is measured is the record alone.

    Every frame carries its number in its first pixels. The focus drifts; the scorer of this bench is told.

    Parameters
    ----------
    clock : Clock
    interval_s : float
        A frame every so often.
    side_px : int
        Of the square frame.
    """

    name = "carousel"
    simulated = True

    def __init__(self, clock: Clock, interval_s: float, side_px: int) -> None:
        self.clock = clock
        self._interval_s, self._index, self._z_um = interval_s, -1, 0.0
        rng = np.random.default_rng(0)
        self._pictures = rng.poisson(200, (16, side_px, side_px)).astype(np.uint16)
        self._due_s: float | None = None
        self.parameters: Mapping[str, Parameter] = {"z_um": Parameter("z_um", "um", -200.0, 200.0)}

    @property
    def defocus_um(self) -> float:
        """Where the stage is, above a focus that drifts by half a um a minute."""
        return self._z_um - 5.0 - 0.5 * self.clock.now() / 60.0 % 50.0

    def open(self) -> None:
        """Nothing to connect."""

    def read(self) -> dict[str, float]:
        """Where the stage is."""
        return {"z_um": self._z_um}

    def set(self, name: str, value: float) -> float:
        """Move at once."""
        self._z_um = check_value(self.parameters, name, value)
        return self._z_um

    def frames(self) -> Iterator[Frame]:
        """One frame after the other, each when it is due."""
        while True:
            yield self.snap()

    def snap(self) -> Frame:
        """Wait until the next frame is due, and show it."""
        now_s = self.clock.now()
        self._due_s = now_s if self._due_s is None else self._due_s + self._interval_s
        if self._due_s > now_s:
            self.clock.sleep(self._due_s - now_s)
        self._index += 1
        pixels = self._pictures[self._index % len(self._pictures)].copy()
        pixels[0, :2] = self._index >> 16, self._index & 0xFFFF
        start_s = self.clock.now()
        return Frame(pixels, self._index, self.read(), start_s, start_s + 0.5 * self._interval_s, 0.325, simulated=True)

    def make_safe(self) -> None:
        """Nothing to switch off."""

    def close(self) -> None:
        """Nothing to release."""


class Teller:
    """A scorer that is told the defocus, and says it with a little scatter."""

    def __init__(self, microscope: Carousel) -> None:
        self._microscope = microscope
        self._rng = np.random.default_rng(1)

    def start(self) -> None:
        """Nothing to load."""

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float) -> dict[str, Assessment]:
        """Say what is so, give or take."""
        value = self._microscope.defocus_um + float(self._rng.normal(0.0, 0.2))
        weights = np.exp(-0.5 * ((GRID_UM - value) / 0.4) ** 2) + 1e-12
        distribution = Distribution(GRID_UM, weights / weights.sum(), signed=True)
        return {"defocus": Assessment("defocus", value, 0.4, distribution=distribution)}

    def restart(self) -> None:
        """Nothing to load again."""

    def close(self) -> None:
        """Nothing to release."""

    def describe(self) -> dict[str, Any]:
        """No card."""
        return {}


def make_loop(
    folder: Path, microscope: Carousel, frames: int, *settings: str, listen: Callable[[Any], None] | None = None
) -> Loop:
    """Make a loop round the carousel, journal and recorder as in any run."""
    config = load_config(None, [*FIXED, *settings])
    choice = PolicyChoice(config, policy_maker)
    return Loop(
        microscope,
        Decider(Teller(microscope), choice),
        Session.create(config, folder, about={"simulated": True}),
        ending=Ending(frames, None),
        deadlines=Deadlines(frame_s=30.0, command_s=10.0),
        listeners=[listen] if listen is not None else [],
        choice=choice,
    )


def _ran(loop: Loop) -> Summary:
    with logs_to(level=logging.ERROR):
        return asyncio.run(loop.run())


def record_all(seconds: float = SECONDS, fps: float = FRAMES_PER_S, side_px: int = SIDE_PX) -> dict[str, Any]:
    """Record every frame of a camera at full speed; count what is on the disk, and measure the loop meanwhile.

    Returns
    -------
    dict
        ``frames`` exposed, ``on_disk``, ``lost``, ``wrong`` (frames that are not the one the journal names), ``p50_ms``
        and ``p99_ms`` of the loop, ``mb_per_s``, ``outcome``.
    """
    from parfocal.daemon.replay.reader import SessionReader

    with tempfile.TemporaryDirectory() as scratch:
        folder, frames = Path(scratch) / "session", round(seconds * fps)
        microscope = Carousel(ServingClock(), 1.0 / fps, side_px)
        began = time.perf_counter()
        summary = _ran(make_loop(folder, microscope, frames, "session.record=all", "policy={name: focus.hold}"))
        took_s = time.perf_counter() - began
        reader = SessionReader(folder)
        there = [index for index, place in reader.stored.items() if reader.frames.holds(place)]
        wrong = 0
        for index in there[:: max(1, len(there) // 200)]:
            pixels = reader.frames.read(reader.stored[index])
            wrong += pixels is None or (int(pixels[0, 0]) << 16) + int(pixels[0, 1]) != index
        return {
            "outcome": summary.outcome, "frames": summary.frames, "on_disk": len(there),
            "lost": summary.frames - len(there), "wrong": wrong, "p50_ms": summary.latency_p50_ms,
            "p99_ms": summary.latency_p99_ms, "mb_per_s": 2e-6 * side_px**2 * summary.frames / took_s,
            "not_looked_at": summary.dropped,
        }  # fmt: skip


def replay_speed(decisions: int = 10_000, interval_s: float = NIGHT_S, policy: str = "focus.belief") -> dict[str, Any]:
    """Record a long session on the virtual clock, and replay it from its assessments.

    Returns
    -------
    dict
        ``decisions``, ``identical``, ``read_s``, ``replay_s``, ``session_s``, ``times_real`` (session over reading and
        replaying), ``ms_a_decision``.
    """
    from parfocal.daemon.replay.decisions import reproduce
    from parfocal.daemon.replay.reader import SessionReader

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "session"
        microscope = Carousel(VirtualClock(), interval_s, 32)
        settings = ("session.record=none", f"policy={{name: {policy}}}")
        _ran(make_loop(folder, microscope, decisions + 1, *settings))
        began = time.perf_counter()
        reader = SessionReader(folder)
        read_s = time.perf_counter() - began
        found = reproduce(reader)
        took_s = time.perf_counter() - began
        return {
            "decisions": found.decisions, "identical": found.identical, "read_s": read_s, "replay_s": took_s - read_s,
            "session_s": found.session_s, "times_real": found.session_s / took_s,
            "ms_a_decision": 1000.0 * took_s / max(found.decisions, 1), "policy": policy,
        }  # fmt: skip


def killed(count: int = 200, seed: int = 0, *, longest_s: float = KILLED_AFTER_S) -> dict[str, Any]:
    """Kill recording runs at random instants, and look at what they leave.

    Returns
    -------
    dict
        ``killed``; ``readable`` sessions; ``decisions`` that the runs said were completed; ``missing`` of these in the
        journals; ``differing`` when replayed; ``zarr`` images there were, ``zarr_readable`` of them by an ordinary
        reader; ``frames`` on disk.
    """
    sums: dict[str, int] = dict.fromkeys(
        ("killed", "readable", "decisions", "missing", "differing", "zarr", "zarr_readable", "frames"), 0
    )
    with tempfile.TemporaryDirectory() as scratch:
        # In a program of its own: what has read an OME-Zarr image has threads, and must not be forked any more.
        command = [sys.executable, "-m", "parfocal.daemon.bench_record", scratch, str(count), str(seed), str(longest_s)]
        done = subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - ourselves
        for number, completed in enumerate(json.loads(done.stdout)):
            for name, value in _left_behind(Path(scratch) / f"{number}", completed).items():
                sums[name] += value
    return sums


def _kill_all(scratch: Path, count: int, seed: int, longest_s: float) -> list[list[int]]:
    """Kill one run after the other; return the decisions that each had completed."""
    rng = np.random.default_rng(seed)
    return [_kill_one(scratch / f"{number}", float(rng.uniform(0.0, longest_s))) for number in range(count)]


def _kill_one(folder: Path, after_s: float) -> list[int]:
    """Run a session in a forked process, kill it `after_s` after it began; return the decisions it had completed."""
    import ome_writers  # noqa: F401 - before the fork, so that it costs each child nothing

    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            _record_until_killed(folder, writing)
        finally:
            os._exit(0)
    os.close(writing)
    told = os.read(reading, 4)  # it has made its folder
    time.sleep(after_s)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while part := os.read(reading, 65536):
        told += part
    os.close(reading)
    return [int.from_bytes(told[at : at + 4], "little") for at in range(4, len(told) - 3, 4)]


def _record_until_killed(folder: Path, writing: int) -> None:
    """Record all frames; say which decision was completed, as soon as it is, in four bytes."""

    def listen(step: Any) -> None:
        if step.verdict is not None:
            os.write(writing, int(step.frame.index).to_bytes(4, "little"))

    microscope = Carousel(ServingClock(), 0.01, 64)
    settings = ("session.record=all", "policy={name: focus.belief}")
    loop = make_loop(folder, microscope, 100_000, *settings, listen=listen)
    os.write(writing, bytes(4))
    _ran(loop)


def _left_behind(folder: Path, completed: list[int]) -> dict[str, int]:
    """Look at one session as whoever finds it in the morning would."""
    import yaozarrs

    from parfocal import ParfocalError
    from parfocal.daemon.replay.decisions import reproduce
    from parfocal.daemon.replay.reader import SessionReader

    found = {"killed": 1, "decisions": len(completed)}
    try:
        reader = SessionReader(folder)
        decided = {r["index"] for r in reader.journal.of("verdict")}
        found["differing"] = len(reproduce(reader).differing) if decided else 0
    except ParfocalError:
        # Killed before its first record: there was nothing to be kept, and nothing may have been completed.
        return found | {"readable": int(not completed), "missing": len(completed)}
    found |= {"readable": 1, "missing": len(set(completed) - decided)}
    if (folder / "frames.ome.zarr" / "0" / "zarr.json").exists():
        found["zarr"] = 1
        image: Any = yaozarrs.open_group(str(folder / "frames.ome.zarr"))
        shape = image["0"].to_tensorstore().shape
        held = sum(reader.frames.holds(place) for place in range(len(reader.frames)))
        found |= {"zarr_readable": int(shape[0] >= held > 0 or shape[0] == 0), "frames": held}
    return found


def rows(*, seconds: float = SECONDS, decisions: int = 10_000, kills: int = 200, seed: int = 0) -> list[Row]:
    """Return the rows of the service's table that concern the record: what, measured, to be reached."""
    recorded, replayed, left = record_all(seconds), replay_speed(decisions), killed(kills, seed)
    return [
        [
            f"record all, {SIDE_PX}\u00b2 at {FRAMES_PER_S:g} frames/s, {seconds:g} s",
            f"{recorded['lost']} of {recorded['frames']} frames lost; loop p99 {recorded['p99_ms']:.2f} ms "
            f"({recorded['mb_per_s']:.0f} MB/s)",
            "no frame lost; loop p99 \u2264 5 ms",
        ],
        [
            f"replay of {replayed['decisions']} decisions of {replayed['policy']}, a frame every {NIGHT_S:g} s",
            f"{'identical' if replayed['identical'] else 'NOT IDENTICAL'}, {replayed['times_real']:.0f} times faster "
            f"than real time ({replayed['ms_a_decision']:.2f} ms a decision)",
            "identical, \u2265 1000 times faster",
        ],
        [
            f"SIGKILL at {kills} random instants of a recording run",
            f"{left['readable']} readable; {left['missing']} of {left['decisions']} completed decisions missing; "
            f"{left['zarr_readable']} of {left['zarr']} OME-Zarr images open",
            "all readable, every completed decision there",
        ],
    ]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_kill_all(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))))
