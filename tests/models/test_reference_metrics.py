"""PSNR, SSIM and Pearson correlation against scikit-image and scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import pearsonr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from parfocal.models.base import ImageError
from parfocal.models.metrics.reference import pcc, psnr, ssim


def pair(shape: tuple[int, ...], seed: int, kind: str = "u2") -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    clean = rng.gamma(2.0, 50.0, shape)
    return clean.astype(kind), np.clip(clean * 0.9 + rng.normal(0, 10, shape) + 5, 0, None).astype(kind)


@settings(max_examples=25, deadline=None)
@given(st.integers(32, 60), st.integers(32, 60), st.integers(0, 99), st.floats(1, 1e5), st.sampled_from(["u2", "f4"]))
def test_they_equal_the_libraries(height: int, width: int, seed: int, span: float, kind: str) -> None:
    a, b = pair((height, width), seed, kind)
    wide = a.astype(np.float64), b.astype(np.float64)
    assert float(psnr(a, b, span)[0]) == pytest.approx(peak_signal_noise_ratio(*wide, data_range=span), rel=1e-9)
    expected = structural_similarity(
        *wide, data_range=span, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert float(ssim(a, b, span)[0]) == pytest.approx(expected, rel=1e-7, abs=1e-9)
    assert float(pcc(a, b)[0]) == pytest.approx(pearsonr(wide[0].ravel(), wide[1].ravel())[0], rel=1e-9)


def test_batches_have_a_range_each() -> None:
    a, b = pair((3, 40, 50), 1, "f8")
    spans = torch.tensor([100.0, 200.0, 65535.0])
    for measure in (psnr, ssim):
        together = measure(a, b, spans)
        alone = [float(measure(x, y, float(s))[0]) for x, y, s in zip(a, b, spans, strict=True)]
        assert together.tolist() == pytest.approx(alone)
        assert together.dtype == torch.float64


def test_equal_images() -> None:
    a, _ = pair((40, 40), 0)
    assert float(psnr(a, a, 65535)[0]) == np.inf
    assert float(ssim(a, a, 65535)[0]) == pytest.approx(1)
    assert float(pcc(a, a)[0]) == pytest.approx(1)
    assert float(pcc(a, 1000.0 - a)[0]) == pytest.approx(-1)
    assert np.isnan(float(pcc(a, np.full((40, 40), 3))[0]))


def test_what_makes_no_pair_is_refused() -> None:
    a, b = pair((40, 40), 0)
    with pytest.raises(ImageError, match="same shape"):
        pcc(a, b[:, :39])
    with pytest.raises(ImageError, match="positive"):
        psnr(a, b, 0.0)
    with pytest.raises(ImageError):
        ssim(a, np.full((40, 40), np.nan), 1.0)


def test_ssim_can_be_a_loss_after_it_was_a_measure() -> None:
    a, b = (torch.from_numpy(image) for image in pair((40, 40), 0, "f8"))
    with torch.inference_mode():
        ssim(a, b, 255.0)
    b.requires_grad_()
    ssim(a, b, 255.0).sum().backward()
    assert b.grad is not None
    assert float(b.grad.abs().max()) > 0
