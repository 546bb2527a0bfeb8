"""Quality against named peers in the same run: FRC beside miplib, the student beside the paper's network."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parfocal.daemon.bench_frc import frc as measure_frc
from parfocal.daemon.bench_speed import timed
from parfocal.simulator.specimens import make_specimen

SIDE_PX = 512
PAPER_GFLOP = 34.2
"""Of the paper's network on a frame of 512² px: two for each of its 17.1 billion multiplications and additions."""
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

    from parfocal.models.backends import openvino_installed
    from parfocal.models.precision import has_bfloat16

    torch.set_num_threads(1)
    frame = _frame(options.seed)
    eager = timed(_eager(frame), 5)
    rows: list[list[Any]] = [["the paper's network, eager float32", eager.median, eager.processor, 1.0, 1.0]]
    ways: list[tuple[str, dict[str, Any]]] = [
        ("student", {}),
        ("paper, float32", {"network": "paper", "precision": "float32"}),
        ("paper, as `auto` runs it here", {"network": "paper"}),
    ]
    if openvino_installed() and has_bfloat16():
        how = {"network": "paper", "backend": "openvino", "precision": "bfloat16"}
        ways.append(("paper, backend openvino, bfloat16", how))
    for name, chosen in ways:
        took = timed(_model(frame, chosen), 10)
        ratios = (eager.median / took.median, eager.processor / took.processor)
        rows.append([f"model quality, network {name}", took.median, took.processor, *ratios])
    columns = ["what", "ms median", "ms processor, least", "times faster", "times faster, processor"]
    return {"title": "Quality networks, 512² frame, one thread", "columns": columns, "rows": rows, "notes": _notes()}


def _notes() -> Sequence[str]:
    import torch

    floor = {
        name: reached(kind) for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16))
    }  # fmt: skip
    return [
        "a model is all that it does: scaling, checks, network, map; the eager network is given its patches",
        "one of the paper's convolutions alone reaches " + " and ".join(
            f"{rate:.0f} GFLOP/s in {name}, at which its {PAPER_GFLOP:g} GFLOP take {1e3 * PAPER_GFLOP / rate:.0f} ms"
            for name, rate in floor.items()
        ),
    ]  # fmt: skip


def reached(kind: Any) -> float:
    """GFLOP/s of the fourth block's second convolution (256 to 256 channels) on 64 patches: the best of a few calls."""
    import torch

    network = torch.nn.Conv2d(256, 256, 3, padding=1).eval().requires_grad_(requires_grad=False).to(kind)
    convolution = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    patches = torch.ones(64, 256, 4, 4, dtype=kind).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        took = timed(lambda: convolution(patches), 20)
    return 64 * 4 * 4 * 256 * 256 * 9 * 2 / 1e6 / took.processor


def _frame(seed: int) -> Any:
    specimen = make_specimen("filaments", (SIDE_PX, SIDE_PX), pixel_um=0.1, seed=seed)
    return np.random.default_rng(seed).poisson(specimen * 500 + 20).astype(np.uint16)


def _eager(frame: Any) -> Any:
    import torch

    from parfocal.models.quality_net import PaperQualityNet
    from parfocal.models.quality_scaling import scale

    images = scale(torch.from_numpy(frame[None]))
    network = PaperQualityNet().eval().requires_grad_(requires_grad=False)  # its time does not depend on its weights
    return lambda: network.frames(images)


def _model(frame: Any, chosen: Mapping[str, Any]) -> Any:
    from parfocal.models.quality import QualityModel

    model = QualityModel({"threads": 1, "device": "cpu", **chosen})
    return lambda: model.assess(frame[None], 0.1)
