"""Episodes on the simulated microscope: frames per focus, an hour of drift, and fields on which nothing may move."""

from __future__ import annotations

import argparse
import asyncio
import logging
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

START_WITHIN_UM = 30.0
PHOTONS = (2000, 200, 20)
SPECIMENS = (
    ("nuclei", 1.0),
    ("filaments", 1.0),
    ("mitochondria", 1.5),
    ("puncta", 2.0),
    ("beads", 2.0),
    ("tissue", 1.0),
)
NOT_FOUND_FRAMES = 60
POLICIES = ("focus.belief", "focus.belief+sign", "focus.oughtafocus", "focus.jaf", "focus.sweep")
BACKGROUND_PHOTONS, READ_NOISE_ELECTRONS = 5.0, 1.6
SPHERICAL_WAVES = 0.12
"""What the calibrated microscope is known to have: an air objective focused some ten um into a watery sample."""


@dataclass(frozen=True)
class Episode:
    """One session to be run: what is different from the packaged configuration, and where its focus lies."""

    policy: str
    photons: float
    seed: int
    overrides: tuple[str, ...]
    focus_um: float
    redrawn: int


@dataclass(frozen=True)
class Outcome:
    """What came of an episode."""

    episode: Episode
    focused: bool
    frames: int
    error_um: float
    travel_um: float
    dose: float


def focus(options: argparse.Namespace) -> dict[str, Any]:
    """Frames per focus and share within half the depth of field, for every policy and light level."""
    from parfocal.simulator.optics import Optics

    dof_um = Optics().depth_of_field_um
    chosen = [name for name in POLICIES if not options.policies or name in options.policies.split(",")]
    rows: list[list[Any]] = []
    for policy in chosen:
        for photons in PHOTONS:
            episodes = [search_episode(policy, photons, options.seed + n) for n in range(options.episodes)]
            rows.append(_focus_row(policy, photons, list(run_all(episodes, options.jobs)), dof_um))
    columns = [
        "policy", "photons", "episodes", "frames median", "frames p95", "within DoF/2", "within DoF", "median error um",
        "p95 error um", "travel median um", "starts redrawn",
    ]  # fmt: skip
    notes = [
        f"start within ±{START_WITHIN_UM:g} um of the focus, NA 0.75, 20x, DoF {dof_um:.2f} um; peak photons in focus",
        "every episode counts, one that found nothing as a failure of 60 frames",
        "frames are those told to the policy until it knows the focus and goes there; on top come the first of a "
        "session, which only shows a living camera, and for belief the one that confirms it there",
        "starts redrawn: fields so dim or sparse that nothing but noise shows so far off focus",
        "belief+sign is told the objective's spherical aberration, which the simulated optics then has",
    ]
    return {"title": "Frames per focus", "columns": columns, "rows": rows, "notes": notes}


def search_episode(policy: str, photons: float, seed: int) -> Episode:
    """A field of a random kind, started a random way off focus; drawn again while its start shows nothing but noise."""
    rng = np.random.default_rng(seed)
    redrawn = -1
    while redrawn < 100:
        redrawn += 1
        kind, density = SPECIMENS[int(rng.integers(len(SPECIMENS)))]
        focus_um = float(rng.uniform(-START_WITHIN_UM, START_WITHIN_UM))
        if visible(kind, density, photons, focus_um, seed):
            break
    overrides = [
        f"microscope.seed={seed}", f"microscope.simulation.specimen={kind}",
        f"microscope.simulation.density={density}", f"microscope.simulation.photons={photons:g}",
        f"microscope.simulation.background_photons={BACKGROUND_PHOTONS}",
        f"microscope.simulation.focus_um={focus_um}", "microscope.simulation.drift={}", "microscope.interval_ms=0",
        f"policy.name={policy.removesuffix('+sign')}", "session.until_focused=true", "session.focused_frames=1",
        "session.max_frames=60", "session.max_seconds=null", *_policy_overrides(policy),
    ]  # fmt: skip
    return Episode(policy, photons, seed, tuple(overrides), focus_um, redrawn)


def visible(kind: str, density: float, photons: float, defocus_um: float, seed: int) -> bool:
    """Whether the specimen stands out of the noise at this defocus: where it does not, holding is the right answer."""
    from parfocal.models.training.camera_noise import detectability
    from parfocal.models.training.synthesis import SEEN_FROM
    from parfocal.simulator.widefield import WidefieldParameters, WidefieldSimulator

    parameters = WidefieldParameters(
        specimen=kind, density=density, photons=photons, focus_um=defocus_um, seed=seed,
        background_photons=BACKGROUND_PHOTONS,
    )  # fmt: skip
    image = WidefieldSimulator(parameters, threads=1).photons(0.0, parameters.nominal_exposure_ms, 1.0)
    return detectability(image, float(image.mean()) + READ_NOISE_ELECTRONS**2) > SEEN_FROM


def _policy_overrides(policy: str) -> list[str]:
    reach = 2 * START_WITHIN_UM + 8.0
    if policy == "focus.belief+sign":
        return [
            f"microscope.simulation.aberration={{zernike_waves: {{'4,0': {SPHERICAL_WAVES}}}}}",
            f"scoring.options={{defocus: {{spherical_waves: {SPHERICAL_WAVES}}}}}", "policy.range_um=34",
        ]  # fmt: skip
    if policy == "focus.belief":
        return ["policy.range_um=34"]
    models = ["scoring.models=[sharpness]"]
    if policy == "focus.oughtafocus":
        return [*models, f"policy.search_range_um={reach}", "policy.tolerance_um=0.3"]
    if policy == "focus.sweep":
        return [*models, f"policy.range_um={reach}", "policy.step_um=1.0"]
    return models


def run_all(episodes: Sequence[Episode], jobs: int) -> Iterable[Outcome]:
    """Run episodes, spread over processes."""
    if jobs <= 1:
        yield from map(run_episode, episodes)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        yield from pool.map(run_episode, episodes, chunksize=4)


def run_episode(episode: Episode) -> Outcome:
    """Run one through the whole loop, guard and journal included, on a virtual clock."""
    found: list[int] = []

    def listen(step: Any) -> None:
        detail = {} if step.action is None else step.action.detail
        if detail.get("found", detail.get("focused")) == 1.0:
            found.append(step.scored)
        elif step.action is not None:
            found.clear()

    summary, _ = run_virtual(episode.overrides, [listen])
    z_um = summary.settings.get("z_um", float("nan"))
    return Outcome(
        episode, summary.outcome in ("focused", "finished"), found[0] if found else summary.scored,
        z_um - episode.focus_um,
        summary.travel_um, summary.dose,
    )  # fmt: skip


def run_virtual(overrides: Iterable[str], listeners: Sequence[Any] = ()) -> tuple[Any, list[dict[str, Any]]]:
    """Run the packaged configuration with overrides in a throw-away folder; its summary and its journal."""
    import torch

    from parfocal.daemon.compose import build
    from parfocal.daemon.config import load_config
    from parfocal.daemon.journal import read_journal
    from parfocal.daemon.logs import logs_to
    from parfocal.simulator.clock import VirtualClock

    torch.set_num_threads(1)
    fixed = ("scoring.process=false", "scoring.backend=torch", "session.record=none")
    with tempfile.TemporaryDirectory() as folder, logs_to(level=logging.ERROR):
        config = load_config(None, [*fixed, *overrides])
        path = Path(folder) / "session"
        loop = build(config, clock=VirtualClock(), session_folder=path, listeners=listeners)
        summary = asyncio.run(loop.run())
        records = list(read_journal(path / "journal.jsonl").records)
    return summary, records


def _focus_row(policy: str, photons: float, outcomes: list[Outcome], dof_um: float) -> list[Any]:
    error = np.abs([o.error_um for o in outcomes])
    # Who found nothing is a failure with the error it ended with, never left out.
    good = np.asarray([o.focused for o in outcomes])
    frames = [o.frames if o.focused else NOT_FOUND_FRAMES for o in outcomes]
    return [
        policy, int(photons), len(outcomes), float(np.median(frames)), float(np.percentile(frames, 95)),
        float(np.mean(good & (error <= dof_um / 2))), float(np.mean(good & (error <= dof_um))),
        float(np.median(error)), float(np.percentile(error, 95)), float(np.median([o.travel_um for o in outcomes])),
        sum(o.episode.redrawn for o in outcomes),
    ]  # fmt: skip


def drift(options: argparse.Namespace) -> dict[str, Any]:
    """An hour of drift of 1 um/min on the virtual clock, after the focus was found: time in focus, travel."""
    from parfocal.simulator.optics import Optics

    dof_um = Optics().depth_of_field_um
    rows = []
    for policy in ("focus.belief", "focus.hold"):
        for interval_s in (2, 10, 30):
            rows.append(_drift_row(policy, interval_s, dof_um, options.seed))
    columns = ["policy", "frame every s", "frames", "share within DoF/2", "p95 |defocus| um", "travel um", "drift um"]
    notes = ["counted from the frame at which the focus was found; travel is that of the tracking alone"]
    return {"title": "An hour of drift, 1 um/min", "columns": columns, "rows": rows, "notes": notes}


def _drift_row(policy: str, interval_s: float, dof_um: float, seed: int) -> list[Any]:
    track: list[tuple[float, float, float, bool]] = []

    def listen(step: Any) -> None:
        focused = bool(step.action is not None and step.action.detail.get("focused") == 1.0)
        track.append((step.frame.start_s, step.frame.truth["defocus_um"], step.frame.settings["z_um"], focused))

    start_um = 8.0 if policy == "focus.belief" else 0.0
    overrides = [
        f"microscope.seed={seed}", f"microscope.interval_ms={1000 * interval_s}",
        f"microscope.simulation.focus_um={start_um}",
        "microscope.simulation.drift={rate_um_per_min: 1.0}", "microscope.simulation.photons=1000",
        f"policy.name={policy}", "session.max_seconds=3600",
    ]  # fmt: skip
    run_virtual(overrides, [listen])
    found = next((n for n, row in enumerate(track) if row[3]), 0 if policy == "focus.hold" else len(track))
    defocus = np.abs([row[1] for row in track[found:]])
    z = np.asarray([row[2] for row in track[found:]])
    minutes = (track[-1][0] - track[found][0]) / 60.0 if len(defocus) else 0.0
    return [
        policy, interval_s, len(defocus), float(np.mean(defocus <= dof_um / 2)), float(np.percentile(defocus, 95)),
        float(np.abs(np.diff(z)).sum()), minutes,
    ]  # fmt: skip


def doubt(options: argparse.Namespace) -> dict[str, Any]:
    """Fields on which nothing may move: blank, saturated, and a camera that gives the same frame for ever."""
    rows = []
    cases = {
        "blank field": ("microscope.simulation.specimen=empty",),
        "blank field, bright background": (
            "microscope.simulation.specimen=empty", "microscope.simulation.background_photons=3000",
        ),
        "saturated field": ("microscope.simulation.photons=2000000", "microscope.simulation.focus_um=5"),
    }  # fmt: skip
    for name, overrides in cases.items():
        summary, records = run_virtual(
            [f"microscope.seed={options.seed}", *overrides, "session.max_seconds=60", "microscope.interval_ms=200"]
        )
        commands = [record for record in records if record.get("kind") == "command" and not _is_start(record)]
        rows.append([name, summary.frames, len(commands), summary.travel_um])
    columns = ["field", "frames", "commands", "travel um"]
    return {"title": "Nothing moves on doubt", "columns": columns, "rows": rows, "notes": []}


def _is_start(record: dict[str, Any]) -> bool:
    """Whether a command only applied the settings of the start section."""
    return record.get("index") is None
