"""Speed against named peers in the same run: networks on one frame, the simulator, the loop's own latency."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.daemon.summary import Step, percentile

SYNCS = 100
SWEEP_UM, SWEEP_STEP_UM = 30.0, 0.1


@dataclass(frozen=True)
class Timed:
    """Milliseconds of a call: median and least of the clock, least of all threads' processor time."""

    median: float
    least: float
    processor: float


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """The defocus model on a 512² and a 2048² frame beside the paper's network in eager float32; the simulator."""
    import torch

    threads = os.cpu_count() or 1
    rows: list[list[Any]] = []
    for side in (512, 2048):
        frame = _frame(side, options.seed)
        torch.set_num_threads(threads)
        yang = timed(_yang(frame), 3 if side > 1000 else 10)
        compact, how = _compact(frame)
        ratios = [theirs / ours for ours, theirs in zip(_values(compact), _values(yang), strict=True)]
        rows.append([f"defocus, {side}² frame ({how})", *_values(compact), *_values(yang), *ratios])
    simulator = _simulator(options.seed)
    rows.append(["simulated microscope, 512² frame, in focus to ±30 um", *_values(simulator), *[None] * 6])
    columns = ["what", "ms median", "least", "processor"]
    columns += ["paper's network, eager float32, ms median", "least", "processor", "times faster", "least", "processor"]
    notes = [
        f"{threads} threads; the defocus rows are the whole model: normalising, network, posterior, patch map",
        "processor: of all threads together; on a machine that does other work, it and the least say more than medians",
    ]
    return {"title": "Speed", "columns": columns, "rows": rows, "notes": notes}


def _values(took: Timed) -> list[float]:
    return [took.median, took.least, took.processor]


def _frame(side: int, seed: int) -> Any:
    from parfocal.simulator.optics import Imager, Optics
    from parfocal.simulator.specimens import make_specimen

    specimen = make_specimen("nuclei", (side, side), pixel_um=0.325, seed=seed)
    image = Imager(Optics(), (side, side)).image(specimen, 3.0)
    return np.random.default_rng(seed).poisson(image * 1000 + 20).astype(np.uint16)


def timed(call: Callable[[], Any], repeats: int) -> Timed:
    """Time a call, after one for warming up."""
    call()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        walls.append(1000.0 * (time.perf_counter() - wall))
        processors.append(1000.0 * (time.process_time() - processor))
    return Timed(statistics.median(walls), min(walls), min(processors))


def _compact(frame: Any) -> tuple[Timed, str]:
    from parfocal.models.defocus import DefocusModel

    model = DefocusModel({"na": 0.75, "emission_um": 0.52})
    took = timed(lambda: model.assess(frame[None], 0.325), 20)
    how = model.describe()
    return took, f"{how['backend']} {how['precision']} on {how['device']}"


def _yang(frame: Any) -> Callable[[], Any]:
    import torch

    from parfocal.models.runtime import tiles
    from parfocal.models.yang2018 import INPUT_SCALE, PATCH_PX, YangNet, aggregate

    network = YangNet().eval()

    def run() -> Any:
        with torch.inference_mode():
            patches = tiles(torch.from_numpy(frame.astype(np.float32) * INPUT_SCALE), PATCH_PX, PATCH_PX)
            return aggregate(torch.softmax(network(patches.reshape(-1, 1, PATCH_PX, PATCH_PX)), dim=1))

    return run


def _simulator(seed: int) -> Timed:
    from parfocal.drivers import make_microscope
    from parfocal.simulator.clock import VirtualClock

    simulation = {"specimen": "nuclei", "size_px": 512, "photons": 1000, "background_photons": 10}
    objective = {"na": 0.75, "immersion_index": 1.0, "magnification": 20}
    options = {"objective": objective, "emission_nm": 520, "pixel_um": 0.325, "seed": seed, "simulation": simulation}
    microscope = make_microscope("simulated", options, clock=VirtualClock())
    microscope.open()
    rng = np.random.default_rng(seed)

    def elsewhere() -> None:
        microscope.set("z_um", float(rng.uniform(-30, 30)))
        microscope.snap()

    took = timed(elsewhere, 60)
    microscope.close()
    return took


@dataclass
class Latencies:
    """Milliseconds from frame to decision, of those that command with the wait for the disk taken off as well."""

    all_ms: deque[float] = field(default_factory=deque)
    commanding_ms: deque[float] = field(default_factory=deque)
    without_disk_ms: deque[float] = field(default_factory=deque)

    def note(self, step: Step, disk_ms: float) -> None:
        """Take in one frame's way through the loop."""
        if not step.latency_ms >= 0:  # not decided on: stale or doubtful
            return
        self.all_ms.append(step.latency_ms)
        if step.verdict is not None and step.verdict.accepted and step.verdict.settings:
            self.commanding_ms.append(step.latency_ms)
            self.without_disk_ms.append(step.latency_ms - disk_ms)


def loop_latency(options: argparse.Namespace) -> dict[str, Any]:
    """From a frame in memory to its decision carried out: the loop's own share, without the network."""
    common = (f"microscope.seed={options.seed}", "microscope.interval_ms=0", "session.max_frames=600")
    drifting = ("microscope.simulation.drift={rate_um_per_min: 60}", "session.max_seconds=null")
    sweeping = (
        "scoring.models=[sharpness]",
        f"policy.range_um={SWEEP_UM}",
        f"policy.step_um={SWEEP_STEP_UM}",
        "session.max_seconds=null",
    )
    rows = []
    for policy, overrides in (("focus.belief", drifting), ("focus.hold", drifting), ("focus.sweep", sweeping)):
        found = _latencies([*common, f"policy.name={policy}", *overrides])
        row = [policy, len(found.all_ms), len(found.commanding_ms)]
        for values in (found.all_ms, found.commanding_ms, found.without_disk_ms):
            row += _middle(values)
        rows.append([*row, min(found.all_ms)])
    floor = _sync_ms()
    rows.append(
        ["the disk's sync of one line, alone", None, SYNCS, None, None, *_middle(floor), None, None, min(floor)]
    )
    columns = ["policy", "frames 512²", "commands", "p50 ms", "p99 ms", "commanding p50", "p99"]
    columns += ["the same without the disk's sync p50", "p99", "least ms"]
    notes = [
        "journal written and, before every command, fsynced: of a frame that commands, the disk's share is a floor",
        "the sample drifts fast, so that many frames command; the sweep commands after every frame",
    ]
    return {"title": "The loop's own latency", "columns": columns, "rows": rows, "notes": notes}


def _middle(values: deque[float]) -> list[float]:
    return [percentile(values, 50), percentile(values, 99)]


def _latencies(overrides: Iterable[str]) -> Latencies:
    """Run the packaged configuration with overrides on a virtual clock, in a folder that is thrown away."""
    import torch

    from parfocal.daemon.compose import build
    from parfocal.daemon.config import load_config
    from parfocal.daemon.logs import logs_to
    from parfocal.simulator.clock import VirtualClock

    torch.set_num_threads(1)
    found = Latencies()
    fixed = ("scoring.process=false", "scoring.backend=torch", "session.record=none")
    with tempfile.TemporaryDirectory() as folder, logs_to(level=logging.ERROR):
        config = load_config(None, [*fixed, *overrides])

        def listen(step: Step) -> None:
            syncs = loop.session.journal.syncs_ms
            found.note(step, syncs[-1] if syncs else 0.0)

        loop = build(config, clock=VirtualClock(), session_folder=Path(folder) / "session", listeners=[listen])
        asyncio.run(loop.run())
    return found


def _sync_ms() -> deque[float]:
    """How long the disk takes for a journal of nothing but commands: what no loop can be faster than."""
    from parfocal.daemon.journal import Journal

    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder) / "journal.jsonl")
        for index in range(SYNCS):
            journal.append("command", index=index, settings={"z_um": 0.0})
            journal.sync()
        journal.close()
        return journal.syncs_ms
