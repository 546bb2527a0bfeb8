"""Quality against named peers in the same run: FRC beside miplib, the student beside the paper's network."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.daemon.bench_frc import frc as measure_frc
from parfocal.daemon.bench_speed import timed
from parfocal.simulator.specimens import make_specimen

SIDE_PX = 512
NO_PEER = "miplib is not installed here (docs/decisions/0015-frc.md says how): no agreement, no ratio"


def frc(options: argparse.Namespace) -> dict[str, Any]:
    """Single-image FRC: agreement with miplib, and time on one thread in the same run."""
    found = measure_frc(options.seed, fields=Path(options.fields) if options.fields else None)
    rows = [[row["what"], name, row[name]] for row in found["agreement"] for name in row if name != "what"]
    for row in [*found["times"], *found["gpu"]]:
        what = next(iter(row))
        rows += [[row[what], name, value] for name, value in row.items() if name != what]
    notes = [] if found["agreement"] else [NO_PEER]
    return {"title": "Fourier ring correlation", "columns": ["what", "measure", "value"], "rows": rows, "notes": notes}


def quality(options: argparse.Namespace) -> dict[str, Any]:
    """The model `quality` and its networks on a 512² frame, one thread, beside the paper's in eager float32."""
    import torch

    torch.set_num_threads(1)
    frame = _frame(options.seed)
    eager = timed(_paper(frame, eager=True), 3)
    rows: list[list[Any]] = [["the paper's network, eager float32", eager.median, eager.processor, 1.0, 1.0]]
    for name, call in (
        ("the paper's network, folded, chunks of 64, as the model runs it", _paper(frame, eager=False)),
        ("model quality, student: scaling, checks, network, map", _student(frame)),
    ):
        took = timed(call, 10)
        rows.append([name, took.median, took.processor, eager.median / took.median, eager.processor / took.processor])
    columns = ["what", "ms median", "ms processor, least", "times faster", "times faster, processor"]
    return {"title": "Quality networks, 512² frame, one thread", "columns": columns, "rows": rows, "notes": _notes()}


def _notes() -> Sequence[str]:
    return ["the paper's network with random weights: its time does not depend on them"]


def _frame(seed: int) -> Any:
    specimen = make_specimen("filaments", (SIDE_PX, SIDE_PX), pixel_um=0.1, seed=seed)
    return np.random.default_rng(seed).poisson(specimen * 500 + 20).astype(np.uint16)


def _paper(frame: Any, *, eager: bool) -> Any:
    import torch

    from parfocal.models.quality_net import FoldedPaperNet, PaperQualityNet, patches_of
    from parfocal.models.quality_scaling import scale
    from parfocal.models.runtime import Runner

    images = scale(torch.from_numpy(frame[None]))
    network = PaperQualityNet().eval().requires_grad_(requires_grad=False)
    patches = patches_of(images)
    if eager:
        return lambda: network.frames(images)
    runner = Runner(FoldedPaperNet(network), device="cpu", backend="torch", precision="auto", chunk=64)
    return lambda: runner.run(patches)


def _student(frame: Any) -> Any:
    from parfocal.models.quality import QualityModel

    model = QualityModel({"threads": 1, "device": "cpu"})
    return lambda: model.assess(frame[None], 0.1)
