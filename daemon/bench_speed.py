"""Speed against named peers in the same run: networks on one frame, the simulator, the loop's own latency."""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from parfocal.daemon.bench_focus import run_virtual


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """The defocus model on a 512² and a 2048² frame beside the paper's network in eager float32; the simulator."""
    import torch

    threads = os.cpu_count() or 1
    torch.set_num_threads(threads)
    rows: list[list[Any]] = []
    for side in (512, 2048):
        frame = _frame(side, options.seed)
        compact, how = _compact_ms(frame)
        yang = _median_ms(_yang(frame), 3 if side > 1000 else 10)
        rows.append([f"defocus, {side}² frame ({how})", compact, yang, yang / compact])
    rows.append(["simulated microscope, 512² frame, in focus to ±30 um", _simulator_ms(options.seed), None, None])
    columns = ["what", "ms median", "paper's network, eager float32, ms", "times faster"]
    notes = [f"{threads} threads; the defocus rows are the whole model: normalising, network, posterior, patch map"]
    return {"title": "Speed", "columns": columns, "rows": rows, "notes": notes}


def _frame(side: int, seed: int) -> Any:
    from parfocal.simulator.optics import Imager, Optics
    from parfocal.simulator.specimens import make_specimen

    specimen = make_specimen("nuclei", (side, side), pixel_um=0.325, seed=seed)
    image = Imager(Optics(), (side, side)).image(specimen, 3.0)
    return np.random.default_rng(seed).poisson(image * 1000 + 20).astype(np.uint16)


def _median_ms(call: Callable[[], Any], repeats: int) -> float:
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000.0 * statistics.median(times)


def _compact_ms(frame: Any) -> tuple[float, str]:
    from parfocal.models.defocus import DefocusModel

    model = DefocusModel({"na": 0.75, "emission_um": 0.52})
    took = _median_ms(lambda: model.assess(frame[None], 0.325), 10)
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


def _simulator_ms(seed: int) -> float:
    from parfocal.drivers import make_microscope
    from parfocal.simulator.clock import VirtualClock

    simulation = {"specimen": "nuclei", "size_px": 512, "photons": 1000, "background_photons": 10}
    objective = {"na": 0.75, "immersion_index": 1.0, "magnification": 20}
    options = {"objective": objective, "emission_nm": 520, "pixel_um": 0.325, "seed": seed, "simulation": simulation}
    microscope = make_microscope("simulated", options, clock=VirtualClock())
    microscope.open()
    rng = np.random.default_rng(seed)
    times = []
    for _ in range(60):
        microscope.set("z_um", float(rng.uniform(-30, 30)))
        begin = time.perf_counter()
        microscope.snap()
        times.append(time.perf_counter() - begin)
    microscope.close()
    return 1000.0 * statistics.median(times)


def loop_latency(options: argparse.Namespace) -> dict[str, Any]:
    """From a frame in memory to its decision carried out: the loop's own share, without the network."""
    rows = []
    for policy in ("focus.belief", "focus.hold"):
        summary, _ = run_virtual(
            [
                f"microscope.seed={options.seed}",
                f"policy.name={policy}",
                "microscope.interval_ms=0",
                "microscope.simulation.drift={rate_um_per_min: 60}",
                "session.max_frames=600",
                "session.max_seconds=null",
            ]
        )
        rows.append([policy, summary.frames, summary.actions, summary.latency_p50_ms, summary.latency_p99_ms])
    columns = ["policy", "frames 512²", "commands", "p50 ms", "p99 ms"]
    notes = ["journal written and, before every command, fsynced; the sample drifts fast so that many frames command"]
    return {"title": "The loop's own latency", "columns": columns, "rows": rows, "notes": notes}
