"""What restoring one frame costs: the multiplications that it makes, and processor time on one core."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from parfocal.models.restore.base import Blur, Restorer
from parfocal.models.training.evaluate_restore import WEIGHED
from parfocal.models.training.restore_tables import PEER
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

SIDE_PX, REPEATS = 512, 5
OPTICS, DEFOCUS_UM = Optics(), 5.0


def costs(restorers: Mapping[str, Restorer]) -> dict[str, dict[str, float]]:
    """By network: ``gmac`` of a whole restoration, its gate included, and ``ms`` of processor time on one core.

    The blur is known. No time is told of a network on a GPU, nor of the peer's, which takes seconds and is asked by
    nobody.
    """
    shown, blur = frame(), Blur(OPTICS, DEFOCUS_UM, 0.1)
    found: dict[str, dict[str, float]] = {}
    for name, restorer in restorers.items():
        if name not in WEIGHED:
            continue

        def restore(of: Restorer = restorer) -> None:
            of.restore(shown, blur)

        found[name] = {"gmac": work_gmac(restore)}
        if name != PEER and _on_cpu(restorer):
            found[name]["ms"] = _processor_ms(restore)
    return found


def work_gmac(call: Callable[[], Any]) -> float:
    """Multiplications with their additions that a call makes in torch, in thousand millions.

    Convolutions and matrix products are counted as they are, a real Fourier transform of n numbers as ``1.25 n log2 n``
    (half of the usual ``2.5 n log2 n`` operations). What is done pixel by pixel, and in numpy, is not counted.
    """

    def transform(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(2.5 * math.prod(shape) * math.log2(max(2.0, float(math.prod(shape[-2:])))))

    def back(shape: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(2.5 * math.prod(out_shape) * math.log2(max(2.0, float(math.prod(out_shape[-2:])))))

    aten = torch.ops.aten
    ffts = {aten._fft_r2c: transform, aten._fft_c2r: back}  # noqa: SLF001 - operators have no other names
    with FlopCounterMode(display=False, custom_mapping=ffts) as counter:
        call()
    return float(counter.get_total_flops()) / 2e9


def _processor_ms(call: Callable[[], Any]) -> float:
    """Least processor time of some calls, after one for warming up: of a busy machine the wall time tells little."""
    threads, took = torch.get_num_threads(), []
    torch.set_num_threads(1)
    try:
        for _ in range(REPEATS + 1):
            began = time.process_time()
            call()
            took.append(1000.0 * (time.process_time() - began))
    finally:
        torch.set_num_threads(threads)
    return min(took[1:])


def _on_cpu(restorer: Restorer) -> bool:
    describe: Callable[[], Mapping[str, Any]] = getattr(restorer, "describe", dict)
    return str(describe().get("device", "cpu")).startswith("cpu")


def frame(seed: int = 1) -> NDArray[np.uint16]:
    """A frame of `SIDE_PX` out of focus, to be timed on."""
    specimen = make_specimen("nuclei", (SIDE_PX, SIDE_PX), pixel_um=OPTICS.pixel_um, seed=seed)
    image = Imager(OPTICS, (SIDE_PX, SIDE_PX)).image(specimen, DEFOCUS_UM)
    return np.random.default_rng(seed).poisson(image * 1000 + 20).astype(np.uint16)
