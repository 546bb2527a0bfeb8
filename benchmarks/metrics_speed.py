"""Milliseconds per frame of every classical metric: `python benchmarks/metrics_speed.py --side 1024 --threads 2`."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from parfocal.models import make_model
from parfocal.models.metrics import METRICS
from parfocal.models.metrics.planes import Planes


def milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Least time of one call, after two unmeasured ones: what the machine needs when nobody disturbs it."""
    times = []
    for _ in range(repeats + 2):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times[2:]) * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    frame = rng.poisson(1000, (options.side, options.side)).astype(np.uint16)
    print(f"{options.side}x{options.side} uint16, {options.threads} threads, torch {torch.__version__}; ms per frame")
    with torch.inference_mode():
        print(f"{'(to float32)':28s} {milliseconds(lambda: Planes(frame), options.repeats):8.2f}")
        for name, metric in METRICS.items():
            print(f"{name:28s} {milliseconds(lambda metric=metric: metric(frame), options.repeats):8.2f}")
    for label, chosen in (("model sharpness, default", {}), ("model sharpness, all", {"metrics": "all"})):
        model = make_model("sharpness", chosen)
        print(f"{label:28s} {milliseconds(lambda model=model: model.assess(frame, 0.3), options.repeats):8.2f}")


if __name__ == "__main__":
    main()
