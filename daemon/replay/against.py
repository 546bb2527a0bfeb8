"""The loop closed again: a policy on the simulated microscope made from a session, on the virtual clock, seeded."""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from parfocal.daemon.replay.decisions import ReplayError
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.twin import Twin, other_policy, twin_of
from parfocal.daemon.report.axes import Points


@dataclass(frozen=True)
class Course:
    """How a run went: what is counted, and where stage and focus were; times from its first frame.

    `focus` is the simulator's truth where there is one, else what the policy believed once it had found it.
    """

    name: str
    counts: Mapping[str, Any]
    stage: Points
    focus: Points

    def to_json(self) -> dict[str, Any]:
        """Return the counts."""
        return {"name": self.name, **self.counts}


@dataclass(frozen=True)
class Against:
    """A session and the runs on the simulator made from it."""

    twin: Twin
    session: Course
    runs: Sequence[Course]

    def to_json(self) -> dict[str, Any]:
        """Return everything as one object."""
        return {
            "simulated": True,
            "closed_loop": True,
            "estimates": self.twin.estimates,
            "assumed": self.twin.assumptions,
            "microscope": self.twin.config["microscope"],
            "session": self.session.to_json(),
            "runs": [run.to_json() for run in self.runs],
        }


def run_against(
    reader: SessionReader,
    policies: Sequence[tuple[str | None, Mapping[str, Any]]],
    *,
    seed: int = 0,
    max_frames: int | None = None,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Against:
    """Run policies on a simulator made from a session.

    Parameters
    ----------
    reader : SessionReader
    policies : sequence of (name, options)
        ``(None, {})`` is the recorded policy.
    seed : int
    max_frames : int, optional
        Of each run; by default as many as the session had.
    overrides : sequence of str
        ``KEY=VALUE`` of the simulated configuration.
    out : Path, optional
        Keep the sessions of these runs here; a folder each.
    say : callable
        Told what is being done.

    Raises
    ------
    ReplayError
        Nothing can be simulated; see `twin_of`.
    ConfigError
        An override, or an option of a policy, that is of no use.
    """
    twin = twin_of(reader, seed=seed, max_frames=max_frames)
    session = course_of(reader, f"the session ({_policy_name(reader)})")
    runs = []
    with TemporaryDirectory() as scratch:
        for number, (name, options) in enumerate(policies, start=1):
            config = other_policy(twin, name, options)
            say(f"simulating {config['policy']['name']}, {config['session']['max_frames']} frames")
            runs.append(_course(config, number, Path(scratch), out or Path(scratch), overrides))
    return Against(twin, session, runs)


def _course(config: Mapping[str, Any], number: int, scratch: Path, out: Path, overrides: Sequence[str]) -> Course:
    """Run one policy in a folder of its own, and summarise it."""
    name = config["policy"]["name"]
    folder, config_file = out / f"{number}-{name}", scratch / f"{number}.yaml"
    config_file.write_text(yaml.safe_dump(dict(config), sort_keys=False), encoding="utf-8")
    _run(config_file, folder, overrides)
    return course_of(SessionReader(folder), f"simulator ({name})")


def _policy_name(reader: SessionReader) -> str:
    return str(next(reader.journal.of("policy"), {}).get("policy", "no policy"))


def _run(config_file: Path, folder: Path, overrides: Sequence[str]) -> None:
    from parfocal.daemon.compose import build
    from parfocal.daemon.config import load_config
    from parfocal.daemon.logs import logs_to
    from parfocal.simulator.clock import VirtualClock

    with logs_to(level=logging.ERROR):
        loop = build(load_config(config_file, overrides), clock=VirtualClock(), session_folder=folder)
        summary = asyncio.run(loop.run())
    if summary.error and not summary.frames:
        raise ReplayError(f"the simulated run failed: {summary.error}")


def course_of(reader: SessionReader, name: str) -> Course:
    """Summarise a session, recorded or simulated."""
    frames = {record["index"]: record for record in reader.journal.of("frame") if record.get("unfit") != "missed"}
    first_s = next(iter(frames.values()))["start_s"] if frames else 0.0
    stage = [(r["start_s"] - first_s, r["settings"].get("z_um", math.nan)) for r in frames.values()]
    defocus, focus, found = _defocus(reader, frames, first_s)
    summary = reader.summary
    dof_um = reader.dof_um
    counts: dict[str, Any] = {
        "outcome": summary.get("outcome", "not ended"),
        "frames": len(frames),
        "frames_to_focus": summary.get("frames_to_focus"),
        "moves": sum(r.get("index") is not None for r in reader.journal.of("command")),
        "refused": sum(not r["accepted"] for r in reader.journal.of("verdict")),
        "travel_um": summary.get("travel_um"),
        "dose": summary.get("dose"),
        "defocus_is": "truth" if reader.simulated else "believed",
    }
    after = np.abs(defocus[found:]) if found is not None else np.array([])
    after = after[np.isfinite(after)]
    counts["in_focus_share"] = float(np.mean(after <= dof_um / 2)) if dof_um and after.size else None
    counts["p95_defocus_um"] = float(np.percentile(after, 95)) if after.size else None
    return Course(name, counts, np.array(stage, dtype=np.float64).reshape(-1, 2), focus)


def _defocus(
    reader: SessionReader, frames: Mapping[int, Mapping[str, Any]], first_s: float
) -> tuple[Points, Points, int | None]:
    """Return the defocus frame by frame, the focus against time, and from which frame on it was found."""
    believed: dict[int, float] = {}
    found_index: int | None = None
    for action in reader.journal.of("action"):
        detail, index = action.get("detail", {}), action.get("index")
        if index is None or detail.get("found", detail.get("focused")) != 1.0:
            continue
        found_index = index if found_index is None and detail.get("focused") == 1.0 else found_index
        value = detail.get("focus_z_um", math.nan)
        believed[index] = float(value) if not isinstance(value, str) else math.nan
    defocus, focus = [], []
    for index, record in frames.items():
        truth, z_um = record.get("truth", {}), record["settings"].get("z_um", math.nan)
        focus_um = truth.get("focus_z_um", math.nan) if reader.simulated else believed.get(index, math.nan)
        defocus.append(truth.get("defocus_um", z_um - focus_um) if reader.simulated else z_um - focus_um)
        focus.append((record["start_s"] - first_s, focus_um))
    place = None if found_index is None else next((n for n, i in enumerate(frames) if i >= found_index), None)
    return np.array(defocus, dtype=np.float64), np.array(focus, dtype=np.float64).reshape(-1, 2), place


def dumped(against: Against) -> str:
    """Return the result as one line of JSON."""
    return json.dumps(against.to_json(), allow_nan=False, default=float)
