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

from parfocal import UsageError, did_you_mean

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
SCORES = {"focus.oughtafocus": "edges", "focus.jaf": "jaf", "focus.sweep": "midband"}
BACKGROUND_PHOTONS, READ_NOISE_ELECTRONS = 5.0, 1.6
DRIFTS = {
    "steady": {"rate_um_per_min": 1.0},
    "with a walk": {"rate_um_per_min": 1.0, "random_walk_um_per_sqrt_min": 0.1},
    "warming up": {
        "rate_um_per_min": 0.5,
        "random_walk_um_per_sqrt_min": 0.1,
        "thermal_um": 15.0,
        "thermal_tau_min": 20,
    },
}
DRIFT_INTERVALS_S = (2, 10)
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
    asked = [name.strip() for name in options.policies.split(",") if name.strip()]
    for name in asked:
        if name not in POLICIES:
            raise UsageError(f"bench focus: there is no policy {name!r}{did_you_mean(name, POLICIES)}")
    chosen = [name for name in POLICIES if not asked or name in asked]
    starts = {(photons, n): start(photons, options.seed + n) for photons in PHOTONS for n in range(options.episodes)}
    episodes = [search_episode(policy, photons, begun) for policy in chosen for (photons, _), begun in starts.items()]
    # One pool for all of them: a process that has loaded the network once goes on with the next row.
    outcomes = list(run_all(episodes, options.jobs))
    rows: list[list[Any]] = []
    for policy in chosen:
        for photons in PHOTONS:
            own = [o for o in outcomes if (o.episode.policy, o.episode.photons) == (policy, photons)]
            rows.append(_focus_row(policy, photons, own, dof_um))
    columns = [
        "policy", "photons", "episodes", "frames median", "frames p90", "within DoF/2", "within DoF", "median error um",
        "p95 error um", "travel median um", "dose median", "starts redrawn",
    ]  # fmt: skip
    notes = [
        f"start within ±{START_WITHIN_UM:g} um of the focus, NA 0.75, 20x, DoF {dof_um:.2f} um; peak photons in focus",
        "every episode counts, one that found nothing as a failure of 60 frames",
        "frames are those told to the policy until it knows the focus and goes there; on top come the first of a "
        "session, which only shows a living camera, and for belief the one that confirms it there",
        "starts redrawn: fields so dim or sparse that nothing but noise shows so far off focus",
        "belief+sign is told the objective's spherical aberration, which the simulated optics then has",
        "the baselines look as far as belief does and, as published, never abstain: jaf with coarse steps of 2 um",
        "dose: light spent until the end of the episode, in ms at full power",
    ]
    return {"title": "Frames per focus", "columns": columns, "rows": rows, "notes": notes}


@dataclass(frozen=True)
class Start:
    """A field and how far off its focus an episode begins; drawn so many times again as it showed but noise there."""

    kind: str
    density: float
    focus_um: float
    seed: int
    redrawn: int


def start(photons: float, seed: int) -> Start:
    """A field of a random kind, started a random way off focus; drawn again while its start shows nothing but noise."""
    rng = np.random.default_rng(seed)
    redrawn = -1
    while redrawn < 100:
        redrawn += 1
        kind, density = SPECIMENS[int(rng.integers(len(SPECIMENS)))]
        focus_um = float(rng.uniform(-START_WITHIN_UM, START_WITHIN_UM))
        if visible(kind, density, photons, focus_um, seed):
            break
    return Start(kind, density, focus_um, seed, redrawn)


def search_episode(policy: str, photons: float, begun: Start) -> Episode:
    """One policy's search from one start."""
    overrides = [
        f"microscope.seed={begun.seed}", f"microscope.simulation.specimen={begun.kind}",
        f"microscope.simulation.density={begun.density}", f"microscope.simulation.photons={photons:g}",
        f"microscope.simulation.background_photons={BACKGROUND_PHOTONS}",
        f"microscope.simulation.focus_um={begun.focus_um}", "microscope.simulation.drift={}",
        "microscope.interval_ms=0",
        f"policy.name={policy.removesuffix('+sign')}", "session.until_focused=true", "session.focused_frames=1",
        "session.max_frames=60", "session.max_seconds=null", *_policy_overrides(policy),
    ]  # fmt: skip
    return Episode(policy, photons, begun.seed, tuple(overrides), begun.focus_um, begun.redrawn)


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
            f"scoring.options={{defocus: {{spherical_waves: {SPHERICAL_WAVES}, patch_map: false}}}}",
            "policy.range_um=34",
        ]  # fmt: skip
    if policy == "focus.belief":
        return ["policy.range_um=34", "scoring.options={defocus: {patch_map: false}}"]
    # As published they take every score for what it is, also that of a frame without contrast.
    score = SCORES[policy]
    options = f"{{sharpness: {{min_contrast: 1.0e-6, metric: {score}, metrics: [{score}]}}}}"
    models = ["scoring.models=[sharpness]", f"scoring.options={options}"]
    if policy == "focus.jaf":
        return [*models, f"policy.coarse_steps={round(reach / 4)}"]
    if policy == "focus.oughtafocus":
        return [*models, f"policy.search_range_um={reach}", "policy.tolerance_um=0.3"]
    # One look a step, and then the way back: more frames than others get.
    return [
        *models, f"policy.range_um={reach / 2}", "policy.step_um=1.0", f"session.max_frames={round(reach) + 20}",
    ]  # fmt: skip


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


def run_virtual(
    overrides: Iterable[str], listeners: Sequence[Any] = (), *, config: Path | None = None
) -> tuple[Any, list[dict[str, Any]]]:
    """Run the packaged configuration, or another, with overrides in a throw-away folder: summary and journal."""
    import torch

    from parfocal.daemon.compose import build
    from parfocal.daemon.config import load_config
    from parfocal.daemon.journal import read_journal
    from parfocal.daemon.logs import logs_to
    from parfocal.simulator.clock import VirtualClock

    torch.set_num_threads(1)
    fixed = ("scoring.process=false", "scoring.backend=torch", "session.record=none")
    with tempfile.TemporaryDirectory() as folder, logs_to(level=logging.ERROR):
        loaded = load_config(config, [*fixed, *overrides])
        path = Path(folder) / "session"
        loop = build(loaded, clock=VirtualClock(), session_folder=path, listeners=listeners)
        summary = asyncio.run(loop.run())
        records = list(read_journal(path / "journal.jsonl").records)
    return summary, records


def _focus_row(policy: str, photons: float, outcomes: list[Outcome], dof_um: float) -> list[Any]:
    error = np.abs([o.error_um for o in outcomes])
    # Who found nothing is a failure with the error it ended with, never left out.
    good = np.asarray([o.focused for o in outcomes])
    frames = [o.frames if o.focused else NOT_FOUND_FRAMES for o in outcomes]
    return [
        policy, int(photons), len(outcomes), float(np.median(frames)), float(np.percentile(frames, 90)),
        float(np.mean(good & (error <= dof_um / 2))), float(np.mean(good & (error <= dof_um))),
        float(np.median(error)), float(np.percentile(error, 95)), float(np.median([o.travel_um for o in outcomes])),
        float(np.median([o.dose for o in outcomes])), sum(o.episode.redrawn for o in outcomes),
    ]  # fmt: skip


def drift(options: argparse.Namespace) -> dict[str, Any]:
    """An hour of drift of 1 um/min on the virtual clock, after the focus was found: time in focus, travel."""
    from parfocal.simulator.optics import Optics

    dof_um = Optics().depth_of_field_um
    rows = [
        _drift_row(policy, kind, interval_s, dof_um, options.seed)
        for policy in ("focus.belief", "focus.hold")
        for kind in DRIFTS
        for interval_s in DRIFT_INTERVALS_S
    ]
    columns = [
        "policy", "drift", "frame every s", "frames", "share within DoF/2", "p95 |defocus| um", "travel um",
        "drift's path um",
    ]  # fmt: skip
    notes = [
        "counted from the frame at which the focus was found; travel is that of the tracking alone",
        "the drift's path is the length of the way the focus itself went, from frame to frame",
        *(f"{name}: {', '.join(f'{key} {value:g}' for key, value in kind.items())}" for name, kind in DRIFTS.items()),
    ]
    return {"title": "An hour of drift, 1 um/min", "columns": columns, "rows": rows, "notes": notes}


def _drift_row(policy: str, kind: str, interval_s: float, dof_um: float, seed: int) -> list[Any]:
    track: list[tuple[float, float, bool]] = []

    def listen(step: Any) -> None:
        focused = bool(step.action is not None and step.action.detail.get("focused") == 1.0)
        track.append((step.frame.truth["defocus_um"], step.frame.settings["z_um"], focused))

    start_um = 8.0 if policy == "focus.belief" else 0.0
    wanders = ", ".join(f"{key}: {value}" for key, value in DRIFTS[kind].items())
    overrides = [
        f"microscope.seed={seed}", f"microscope.interval_ms={1000 * interval_s}",
        f"microscope.simulation.focus_um={start_um}",
        f"microscope.simulation.drift={{{wanders}}}", "microscope.simulation.photons=1000",
        f"policy.name={policy}", "session.max_seconds=3600", "scoring.options={defocus: {patch_map: false}}",
    ]  # fmt: skip
    run_virtual(overrides, [listen])
    found = next((n for n, row in enumerate(track) if row[2]), 0 if policy == "focus.hold" else len(track))
    if found == len(track):
        return [policy, kind, interval_s, 0, 0.0, float("nan"), float("nan"), float("nan")]
    defocus = np.asarray([row[0] for row in track[found:]])
    z = np.asarray([row[1] for row in track[found:]])
    return [
        policy, kind, interval_s, len(defocus), float(np.mean(np.abs(defocus) <= dof_um / 2)),
        float(np.percentile(np.abs(defocus), 95)), float(np.abs(np.diff(z)).sum()),
        float(np.abs(np.diff(z - defocus)).sum()),
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
        rows.append(_doubt_row(name, [f"microscope.seed={options.seed}", *overrides]))
    with tempfile.TemporaryDirectory() as folder:
        rows.append(_doubt_row("camera that gives one frame for ever", [], _frozen(Path(folder), options.seed)))
    columns = ["field", "frames", "commands", "travel um"]
    return {"title": "Nothing moves on doubt", "columns": columns, "rows": rows, "notes": []}


def _doubt_row(name: str, overrides: Sequence[str], config: Path | None = None) -> list[Any]:
    overrides = [*overrides, "session.max_seconds=60", "microscope.interval_ms=200"]
    summary, records = run_virtual(overrides, config=config)
    commands = [record for record in records if record.get("kind") == "command" and not _is_start(record)]
    return [name, summary.frames, len(commands), summary.travel_um]


def _frozen(folder: Path, seed: int) -> Path:
    """Configuration of a microscope all of whose planes are one frame, noise and all, in which a defocus shows."""
    import tifffile

    from parfocal.simulator.widefield import WidefieldParameters, WidefieldSimulator

    counts, _ = WidefieldSimulator(WidefieldParameters(seed=seed)).expose(6.0, 10.0)
    (folder / "planes").mkdir()
    for plane in range(21):
        tifffile.imwrite(folder / "planes" / f"plane_{plane:02d}.tif", counts)
    config = folder / "frozen.yaml"
    config.write_text(
        "microscope: {driver: recorded, path: planes, z_start_um: -20, z_step_um: 2, frozen_after: 1, pixel_um: 0.325, "
        "emission_nm: 520, objective: {na: 0.75}}\n",
        encoding="utf-8",
    )
    return config


def _is_start(record: dict[str, Any]) -> bool:
    """Whether a command only applied the settings of the start section."""
    return record.get("index") is None
