"""Fourier ring correlation against miplib in the same run: agreement on many images, and speed."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS = ("nuclei", "filaments", "puncta", "mitochondria")
BLURS_PX = (0.7, 1.0, 1.5, 2.5, 4.0)
PHOTONS = (20.0, 60.0, 200.0, 600.0, 2000.0, 8000.0)
TOLERANCE = 1e-6
SIDE_PX = 512
BATCH = 16

Peer = Callable[[NDArray[Any]], float]
Row = dict[str, Any]


def miplib_peer() -> Peer | None:
    """Resolution in px by miplib with its defaults, NaN where it raises; None if miplib cannot be imported.

    miplib 1.0.6 imports a name that SciPy has moved since (`scipy.signal.tukey`), which its ring correlation does not
    use; it is put back for the import.
    """
    if importlib.util.find_spec("miplib") is None:
        return None
    import scipy.signal
    import scipy.signal.windows

    if not hasattr(scipy.signal, "tukey"):
        scipy.signal.tukey = scipy.signal.windows.tukey
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            correlation = importlib.import_module("miplib.analysis.resolution.fourier_ring_correlation")
            image_of = importlib.import_module("miplib.data.containers.image").Image
            add_options = importlib.import_module("miplib.ui.cli.frc_options").get_frc_options_group
        except ImportError:
            return None
    parser = argparse.ArgumentParser()
    add_options(parser)
    options = parser.parse_args([])
    options.verbose = False

    def resolution_px(image: NDArray[Any]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                told = correlation.calculate_single_image_frc(image_of(image, [1.0, 1.0]), options)
                return float(told.resolution["resolution"])
            except (IndexError, ValueError):
                return float("nan")

    return resolution_px


def specimens(count: int, seed: int, side_px: int = SIDE_PX) -> Iterator[NDArray[np.uint16]]:
    """Procedural specimens through a Gaussian blur onto a camera: kinds, blurs and lights in turn, `count` of them."""
    from scipy.ndimage import gaussian_filter

    from parfocal.simulator.specimens import make_specimen

    rng = np.random.default_rng(seed)
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        specimen = make_specimen(kind, (side_px, side_px), pixel_um=0.1, seed=seed + number // len(KINDS))
        blurred = gaussian_filter(specimen, BLURS_PX[number % len(BLURS_PX)], mode="wrap")
        photons = PHOTONS[number % len(PHOTONS)] * blurred / max(float(blurred.max()), 1e-9)
        noise = rng.normal(0.0, 1.6, photons.shape)
        yield np.clip(np.rint(rng.poisson(photons + 3.0) * 2.0 + 100.0 + noise), 0, 65535).astype(np.uint16)


def field_images(folder: Path, limit: int) -> Iterator[NDArray[Any]]:
    """Single-channel images of a folder of TIFF files, evenly spread over it."""
    import tifffile

    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".tif", ".tiff"})
    for path in files[:: max(1, len(files) // max(limit, 1))][:limit]:
        pixels = tifffile.imread(path)
        if pixels.ndim == 2 and min(pixels.shape) >= 32 and pixels.dtype.kind in "uif":
            yield pixels


def agreement(images: Iterator[NDArray[Any]], peer: Peer, what: str) -> Row:
    """How often both give a number or both none, and the largest relative difference of the numbers."""
    from parfocal.models.metrics.frc import FrcStatus, single_image_frc

    ours, robust, theirs, codes = [], [], [], []
    for image in images:
        theirs.append(peer(image))
        ours.append(float(single_image_frc(image, mode="reference").resolution_px[0]))
        told = single_image_frc(image)
        robust.append(float(told.resolution_px[0]))
        codes.append(int(told.status[0]))
    a, b, c = np.array(theirs), np.array(ours), np.array(robust)
    both = np.isfinite(a) & np.isfinite(b)
    difference = np.abs(b[both] / a[both] - 1)
    shared = both & np.isfinite(c)
    near = np.abs(c[shared] / a[shared] - 1) < 0.1
    return {
        "what": what,
        "images": len(a),
        "miplib gives a number": int(np.isfinite(a).sum()),
        "reference gives a number": int(np.isfinite(b).sum()),
        "only one does": int((np.isfinite(a) != np.isfinite(b)).sum()),
        "largest relative difference": float(difference.max()) if len(difference) else float("nan"),
        "equal to 1e-6": int((difference <= TOLERANCE).sum()),
        "robust gives a number": int(np.isfinite(c).sum()),
        "robust within 10 % of miplib": float(near.mean()) if len(near) else float("nan"),
        "robust, why not": {FrcStatus(code).name.lower(): codes.count(code) for code in sorted(set(codes)) if code},
    }


def times(seed: int, peer: Peer | None, repeats: int = 15, side_px: int = SIDE_PX) -> list[Row]:
    """Milliseconds of processor time per image of 512² (or another side) on one thread, the peer and ours in turn.

    Processor time of this process and not the clock's: with one thread they are the same on an idle machine, and on a
    busy one the others' share does not count. For the peer to have one thread too, set ``OMP_NUM_THREADS=1``.
    """
    import torch

    from parfocal.models.metrics.decorrelation import decorrelation
    from parfocal.models.metrics.frc import single_image_frc

    batch = np.stack(list(specimens(BATCH, seed, side_px)))
    # One light and blur at which every way has a number, so that no search ends early.
    one = batch[4]
    ways: dict[str, tuple[Callable[[], Any], int]] = {
        "reference mode": (lambda: single_image_frc(one, mode="reference"), 1),
        "robust mode": (lambda: single_image_frc(one), 1),
        f"reference mode, batch of {BATCH}": (lambda: single_image_frc(batch, mode="reference"), BATCH),
        f"robust mode, batch of {BATCH}": (lambda: single_image_frc(batch), BATCH),
        "decorrelation": (lambda: decorrelation(one), 1),
    }
    if peer is not None:
        ways = {"miplib": (lambda: peer(one), 1), **ways}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        took = _interleaved(ways, repeats)
    finally:
        torch.set_num_threads(threads)
    base = took.get("miplib")
    return [
        {
            "what": name,
            "ms median": statistics.median(each),
            "ms least": min(each),
            "times faster, median": statistics.median(base) / statistics.median(each) if base else None,
            "times faster, least": min(base) / min(each) if base else None,
        }
        for name, each in took.items()
    ]


def _interleaved(ways: dict[str, tuple[Callable[[], Any], int]], repeats: int) -> dict[str, list[float]]:
    took: dict[str, list[float]] = {name: [] for name in ways}
    for call, _ in ways.values():
        call()
    for _ in range(repeats):
        for name, (call, number) in ways.items():
            begin = time.process_time()
            call()
            took[name].append(1000.0 * (time.process_time() - begin) / number)
    return took


def gpu_rate(seed: int, batch_size: int = 256, repeats: int = 5) -> list[Row]:
    """Images of 512² a second on a CUDA device, both modes, the frames already there; no rows without one."""
    import torch

    from parfocal.models.metrics.frc import Mode, single_image_frc

    if not torch.cuda.is_available():
        return []
    some = np.stack(list(specimens(BATCH, seed))).astype(np.int32)
    frames = torch.from_numpy(some).cuda().repeat(batch_size // BATCH, 1, 1)
    modes: tuple[Mode, ...] = ("robust", "reference")
    rows = []
    for mode in modes:
        single_image_frc(frames, mode=mode)
        rates = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            single_image_frc(frames, mode=mode)
            torch.cuda.synchronize()
            rates.append(len(frames) / (time.perf_counter() - begin))
        rows.append(
            {"what": f"{mode} mode on {torch.cuda.get_device_name()}", "images a second": statistics.median(rates)}
        )
    return rows


def frc(seed: int = 1, count: int = 120, fields: Path | None = None, field_count: int = 60) -> dict[str, list[Row]]:
    """All of it: ``agreement`` (empty without miplib), ``times``, ``gpu`` (empty without CUDA)."""
    peer = miplib_peer()
    rows: list[Row] = []
    if peer is not None:
        rows.append(agreement(specimens(count, seed), peer, "procedural specimens, 512²"))
        if fields is not None:
            rows.append(agreement(field_images(fields, field_count), peer, "real fields"))
    return {"agreement": rows, "times": times(seed, peer), "gpu": gpu_rate(seed)}
