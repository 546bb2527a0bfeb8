"""Classical image measures, without training: the table of all of them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal import did_you_mean
from parfocal.models.base import ModelError
from parfocal.models.metrics import autocorrelation, gradient, jaf, laplacian, oughtafocus, spectral, statistics
from parfocal.models.metrics.planes import Measure, Planes

__all__ = ["METRICS", "Measure", "Planes", "measure"]

METRICS: Mapping[str, Measure] = MappingProxyType(
    {
        "brenner": gradient.brenner,
        "tenengrad": gradient.tenengrad,
        "edges": gradient.edges,
        "edge_spread": gradient.edge_spread,
        "vollath_f4": autocorrelation.vollath_f4,
        "vollath_f5": autocorrelation.vollath_f5,
        "correlation": autocorrelation.correlation,
        "variance": statistics.variance,
        "normalized_variance": statistics.normalized_variance,
        "normalized_variance_squared": statistics.normalized_variance_squared,
        "focus_score": statistics.focus_score,
        "local_focus_score": statistics.local_focus_score,
        "entropy": statistics.entropy,
        "laplacian_energy": laplacian.laplacian_energy,
        "sum_modified_laplacian": laplacian.sum_modified_laplacian,
        "log_variance": laplacian.log_variance,
        "midband": spectral.midband,
        "band_fraction": spectral.band_fraction,
        "plls": spectral.power_log_log_slope,
        "dcts": spectral.dcts,
        "std_dev": oughtafocus.std_dev,
        "mean": oughtafocus.mean,
        "sharp_edges": oughtafocus.sharp_edges,
        "redondo": oughtafocus.redondo,
        "volath": oughtafocus.volath,
        "volath5": oughtafocus.volath5,
        "median_edges": oughtafocus.median_edges,
        "fft_bandpass": oughtafocus.fft_bandpass,
        "jaf": jaf.jaf,
    }
)


def measure(images: NDArray[Any] | Tensor | Planes, names: Iterable[str]) -> dict[str, Tensor]:
    """Several metrics of a batch of images (n, h, w), sharing what they have in common; each float64 of shape (n,).

    Raises
    ------
    ModelError
        A name that is not in `METRICS`.
    ImageError
        Not a batch of images.
    """
    chosen = list(names)
    for name in chosen:
        if name not in METRICS:
            raise ModelError(f"unknown metric {name!r}{did_you_mean(name, METRICS)}; there are {', '.join(METRICS)}")
    with torch.inference_mode():
        planes = images if isinstance(images, Planes) else Planes(images)
        return {name: METRICS[name](planes) for name in chosen}
