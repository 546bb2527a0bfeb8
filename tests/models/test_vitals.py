"""Vital signs: each finds what was put in, and leaves alone what it should not see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from parfocal.models.base import ImageError
from parfocal.models.metrics.vitals import Vitals, vignetting, vitals
from parfocal.models.saturation import saturated_share
from parfocal.simulator.specimens import make_specimen

FIELDS = tuple(Vitals.__dataclass_fields__)


def specimen(kind: str = "nuclei", seed: int = 0, side: int = 256) -> NDArray[Any]:
    return make_specimen(kind, (side, side), pixel_um=0.2, seed=seed).astype(np.float64)


def gaussian_mask(side: int, sigma: float) -> NDArray[Any]:
    """Illumination that falls off as a Gaussian of `sigma` sides of the frame, 1 in the middle."""
    at = (np.arange(side) + 0.5) / side - 0.5
    return np.asarray(np.exp(-(at[:, None] ** 2 + at[None, :] ** 2) / (2 * sigma**2)))


@pytest.mark.parametrize(("kind", "tolerance"), [("nuclei", 0.08), ("puncta", 0.05), ("filaments", 0.2)])
@pytest.mark.parametrize("sigma", [0.6, 0.4, 0.25])
def test_vignetting_is_the_light_missing_in_the_corners(kind: str, tolerance: float, sigma: float) -> None:
    # Filaments fill a field of this size unevenly, which nobody can tell from light.
    rng = np.random.default_rng(1)
    mask = gaussian_mask(256, sigma)
    missing = 1 - np.exp(-0.25 / sigma**2)
    counts = rng.poisson((1000 * specimen(kind, seed=1) + 30) * mask + 100)
    assert float(vignetting(counts, offset_counts=100)[0]) == pytest.approx(missing, abs=tolerance)


def test_content_and_a_slope_of_light_are_not_vignetting() -> None:
    rng = np.random.default_rng(1)
    slope = np.exp(np.linspace(-0.5, 0.5, 256))[None, :]
    for seed in range(3):
        light = 1000 * specimen(seed=seed) + 30
        assert abs(float(vignetting(rng.poisson(light))[0])) < 0.1
        assert abs(float(vignetting(rng.poisson(light * slope))[0])) < 0.15
    assert float(vignetting(rng.poisson(200 / gaussian_mask(256, 0.6)))[0]) < -0.5


def test_snr_is_signal_over_noise() -> None:
    rng = np.random.default_rng(0)
    frame = np.full((256, 256), 100.0)
    frame[64:128, 64:128] = 300.0
    told = vitals(frame + rng.normal(0, 8, frame.shape))
    assert float(told.noise_counts[0]) == pytest.approx(8, rel=0.03)
    assert float(told.signal_counts[0]) == pytest.approx(200, rel=0.05)
    assert float(told.background_counts[0]) == pytest.approx(100, rel=0.05)
    assert float(told.snr[0]) == pytest.approx(25, rel=0.07)
    assert float(told.contrast[0]) == pytest.approx(0.5, abs=0.03)


def test_noise_alone_has_an_snr_of_one_and_a_flat_spectrum() -> None:
    told = vitals(np.random.default_rng(0).normal(1000, 10, (4, 256, 256)))
    assert (told.snr - 1).abs().max() < 0.1
    # Outside the circle of half of Nyquist: 1 - pi / 16.
    assert (told.high_frequency_share - (1 - np.pi / 16)).abs().max() < 0.01


def test_blur_takes_fine_power_away() -> None:
    batch = np.stack([gaussian_filter(specimen("filaments"), sigma) for sigma in (0.5, 1.0, 2.0, 4.0)])
    shares = vitals(batch).high_frequency_share
    assert (shares.diff() < 0).all()
    assert float(shares[-1]) < 1e-4


def test_saturation_is_that_of_the_models() -> None:
    rng = np.random.default_rng(0)
    for counts, kind in ((250, "u1"), (4095, "u2"), (65535, "u2")):
        frame = np.minimum(rng.poisson(counts * 0.8 * (0.2 + specimen())) * 2, counts).astype(kind)
        assert float(vitals(frame).saturated_share[0]) == pytest.approx(saturated_share(frame))
        expected = saturated_share(frame, 300)
        assert float(vitals(frame, saturation_counts=300).saturated_share[0]) == pytest.approx(expected)


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_gain_leaves_the_ratios_alone(scale: float) -> None:
    frame = np.random.default_rng(0).poisson(200 * specimen() + 20).astype(np.float64)
    one, other = vitals(frame), vitals(frame * scale)
    for name in ("snr", "contrast", "vignetting", "high_frequency_share"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-6), name
    for name in ("background_counts", "signal_counts", "noise_counts"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name), rel=1e-6), name


def test_an_offset_that_is_known_leaves_no_trace() -> None:
    frame = np.random.default_rng(0).poisson(200 * specimen() + 20).astype(np.uint16)
    one, other = vitals(frame), vitals(frame + np.uint16(500), offset_counts=500)
    for name in FIELDS:
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5, abs=1e-9), name


def test_a_batch_is_measured_image_by_image_and_in_any_form() -> None:
    rng = np.random.default_rng(0)
    batch = np.stack([rng.poisson(300 * specimen(seed=s)[:100, :77] + 20) for s in range(3)]).astype(np.uint16)
    together, tensors = vitals(batch), vitals(torch.from_numpy(batch))
    for name in FIELDS:
        assert torch.equal(getattr(together, name), getattr(tensors, name)), name
        alone = torch.cat([getattr(vitals(image), name) for image in batch])
        assert getattr(together, name).tolist() == pytest.approx(alone.tolist(), rel=1e-12), name
        assert getattr(together, name).dtype == torch.float64


def test_a_constant_image_has_no_snr() -> None:
    told = vitals(np.full((64, 64), 100.0))
    assert np.isnan(float(told.snr[0]))
    assert np.isnan(float(told.high_frequency_share[0]))
    assert float(told.contrast[0]) == 0
    assert float(told.vignetting[0]) == pytest.approx(0, abs=1e-9)
    assert np.isnan(float(vitals(np.zeros((64, 64))).contrast[0]))


def test_bad_images_are_refused() -> None:
    with pytest.raises(ImageError):
        vitals(np.full((64, 64), np.inf))
    with pytest.raises(ImageError):
        vignetting(np.zeros((64, 16)))
