"""Decorrelation analysis on images of a known band limit, and against sums over masks in the plain formulation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.base import ImageError
from parfocal.models.metrics import decorrelation as module
from parfocal.models.metrics.decorrelation import decorrelation


def band_limited(side: int, cutoff: float, light: float, seed: int = 0) -> NDArray[Any]:
    """Beads through the transfer function of a circular pupil that ends at `cutoff` of Nyquist, with Poisson noise."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * 2 / cutoff
    rho = np.minimum(f, 1)
    transfer = 2 / np.pi * (np.arccos(rho) - rho * np.sqrt(1 - rho**2))
    image = np.fft.irfft2(np.fft.rfft2((rng.random((side, side)) < 0.02).astype(float)) * transfer, s=(side, side))
    return rng.poisson(light * np.clip(image, 0, None) / image.max() + 5).astype(np.float32)


@pytest.mark.parametrize("cutoff", [0.2, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("light", [3000.0, 1e5])
def test_a_known_band_limit_is_found(cutoff: float, light: float) -> None:
    told = decorrelation(band_limited(256, cutoff, light))
    # The transfer function dwindles towards its end, which is lost in the noise.
    assert 0.75 * cutoff < float(told.cutoff[0]) < 1.05 * cutoff
    assert float(told.resolution_px[0]) == pytest.approx(2 / float(told.cutoff[0]))
    assert 0.3 < float(told.amplitude[0]) <= 1


def test_finer_images_have_higher_cutoffs() -> None:
    batch = np.stack([band_limited(192, cutoff, 1e4) for cutoff in (0.2, 0.35, 0.5, 0.65)])
    assert (decorrelation(batch).cutoff.diff() > 0.05).all()


def test_curves_are_those_of_masks_and_of_a_filter_in_space() -> None:
    image = band_limited(128, 0.4, 1e3)
    profile = module._Profile.of(torch.from_numpy(image)[None], 20)
    sigma, radii = torch.tensor([[torch.inf, 2.0, 0.5]], dtype=torch.float64), (0.2, 0.5, 0.9)
    ours = profile.curves(sigma, torch.tensor([radii], dtype=torch.float64))[0]
    damped = (image - image.mean(dtype=np.float64)) * module._apodisation(128, 128, 20, torch.device("cpu")).numpy()
    fy, fx = np.fft.fftfreq(128)[:, None], np.fft.fftfreq(128)[None, :]
    r = np.hypot(fy, fx) * 2
    for row, width in zip(ours, sigma[0].tolist(), strict=True):
        blurred = 0 if np.isinf(width) else np.exp(-2 * (np.pi * width) ** 2 * (fx**2 + fy**2))
        spectrum = np.fft.fft2(damped) * (1 - blurred) * (r < 1)
        phase = spectrum / np.abs(np.where(spectrum == 0, 1, spectrum))
        for value, radius in zip(row.tolist(), radii, strict=True):
            mask = r < np.round(radius * 128) / 128
            top = np.sum(spectrum * np.conj(phase * mask)).real
            expected = top / np.sqrt(np.sum(np.abs(spectrum) ** 2) * mask.sum())
            assert value == pytest.approx(expected, rel=0.01)


def test_gain_and_offset_leave_no_trace() -> None:
    image = band_limited(128, 0.4, 1e3).astype(np.float64)
    told = decorrelation(np.stack([image, 3 * image + 500]))
    assert float(told.cutoff[0]) == float(told.cutoff[1])
    assert float(told.amplitude[0]) == pytest.approx(float(told.amplitude[1]))


def test_a_batch_is_measured_image_by_image() -> None:
    batch = np.stack([band_limited(97, cutoff, 1e4, seed)[:, :80] for seed, cutoff in enumerate((0.3, 0.6))])
    together = decorrelation(batch)
    for index, image in enumerate(batch):
        assert float(decorrelation(image).cutoff[0]) == float(together.cutoff[index])


def test_there_is_no_cutoff_in_nothing() -> None:
    constant = decorrelation(np.full((64, 64), 7.0))
    assert constant.cutoff.isnan().all()
    assert constant.resolution_px.isnan().all()
    noise = decorrelation(np.random.default_rng(0).normal(100, 3, (8, 128, 128)))
    assert (noise.cutoff.isnan() | (noise.amplitude < 0.3)).all()


def test_bad_images_are_refused() -> None:
    with pytest.raises(ImageError):
        decorrelation(np.zeros((16, 64)))
