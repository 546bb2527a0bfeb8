"""Frames per second of the widefield simulator, and where the time goes: `python benchmarks/simulator_speed.py`.

`--size 512`, `--frames 60`, `--defocus 0 5 15` (um) and `--threads 2` choose other conditions.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from parfocal.simulator.camera import Camera, CameraParameters
from parfocal.simulator.drift import DriftParameters
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.widefield import WidefieldParameters, WidefieldSimulator


def milliseconds(work: Callable[[int], object], repeats: int) -> float:
    """Median time of one call, after one to warm up."""
    work(0)
    times = []
    for number in range(1, repeats + 1):
        start = time.perf_counter()
        work(number)
        times.append(time.perf_counter() - start)
    return float(np.median(times)) * 1000.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Speed of the widefield simulator")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--defocus", type=float, nargs="+", default=[0.0, 2.0, 5.0, 15.0, 30.0])
    arguments = parser.parse_args()
    shape = (arguments.size, arguments.size)
    print(f"{shape[1]}x{shape[0]} px, {arguments.threads} camera threads, median of {arguments.frames} frames")
    print(f"{'defocus um':>10} {'frames/s':>9} {'frame ms':>9} {'imager ms':>10} {'psf+otf ms':>11} {'camera ms':>10}")
    for defocus_um in arguments.defocus:
        parameters = WidefieldParameters(
            shape=shape,
            focus_um=-defocus_um,
            background_photons=10.0,
            drift=DriftParameters(rate_um_per_min=1.0),
        )
        simulator = WidefieldSimulator(parameters, threads=arguments.threads)
        imager, camera = Imager(Optics(), shape), Camera(CameraParameters(), shape, threads=arguments.threads)
        photons = simulator.photons(0.0, 10.0, 1.0)
        whole = milliseconds(lambda n, s=simulator: s.expose(0.1 * n, 10.0), arguments.frames)  # type: ignore[misc]
        blur = milliseconds(
            lambda n, i=imager, s=simulator, d=defocus_um: i.image(s.specimen, d + 1e-3 * n),  # type: ignore[misc]
            arguments.frames,
        )
        transfer = milliseconds(
            lambda n, i=imager, d=defocus_um: i.transfer(d + 1e-3 * n),  # type: ignore[misc]
            arguments.frames,
        )
        noise = milliseconds(lambda _, c=camera, p=photons: c.expose(p, 10.0), arguments.frames)  # type: ignore[misc]
        print(f"{defocus_um:10.1f} {1000 / whole:9.1f} {whole:9.2f} {blur:10.2f} {transfer:11.2f} {noise:10.2f}")


if __name__ == "__main__":
    main()
