from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.restore.base import Blur
from parfocal.models.restore.deconvolution import (
    HALVED_FROM_PX,
    MORE_FROM_PX,
    Observed,
    observe,
    quick_richardson_lucy,
    reblur_residual,
    richardson_lucy,
    wiener,
)
from parfocal.models.restore.levels import Levels
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

OPTICS = Optics()
SIDE, MARGIN = 192, 64


def frame_and_truth(
    kind: str, depths: float, photons: float, *, seed: int = 3
) -> tuple[NDArray[np.float32], NDArray[np.float32], Blur]:
    """A frame cut out of a larger field, so that light from outside comes in; noise, gain 2, offset 100."""
    rng = np.random.default_rng(seed)
    full = SIDE + 2 * MARGIN
    specimen = make_specimen(kind, (full, full), pixel_um=OPTICS.pixel_um, seed=seed)
    imager = Imager(OPTICS, (full, full))
    defocus = depths * OPTICS.depth_of_field_um
    sharp, blurred = imager.image(specimen, 0.0), imager.image(specimen, defocus)
    inner, scale = slice(MARGIN, MARGIN + SIDE), photons / np.percentile(sharp, 99.95)
    electrons = rng.poisson(blurred * scale + 5.0) + rng.normal(0.0, 1.5, blurred.shape)
    frame = np.round(2.0 * electrons + 100.0).astype(np.float32)[inner, inner]
    truth = (2.0 * (sharp * scale + 5.0) + 100.0).astype(np.float32)[inner, inner]
    return np.ascontiguousarray(frame), truth, Blur(OPTICS, defocus, 0.02 * abs(defocus))


def psnr(image: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(-10.0 * np.log10(np.mean((image - truth) ** 2) / np.ptp(truth) ** 2))


def restored(seen: Observed, above: torch.Tensor) -> NDArray[np.float32]:
    return np.asarray((above + seen.levels.background).numpy())


@pytest.mark.parametrize("kind", ["nuclei", "filaments", "puncta"])
@pytest.mark.parametrize("depths", [1.0, 3.0])
def test_both_filters_come_nearer_to_the_truth_than_the_frame(kind: str, depths: float) -> None:
    frame, truth, blur = frame_and_truth(kind, depths, 2000.0)
    seen = observe(frame, blur)
    before = psnr(frame, truth)
    assert psnr(restored(seen, richardson_lucy(seen)), truth) > before + 0.1
    assert psnr(restored(seen, wiener(seen, 3.0)), truth) > before


def test_filters_keep_the_light() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    seen = observe(frame, blur)
    total = float(seen.canvas.crop(seen.padded).mean())
    assert float(wiener(seen).mean()) == pytest.approx(total, rel=0.03)
    assert float(richardson_lucy(seen).mean()) == pytest.approx(total, rel=0.03)


def test_richardson_lucy_is_nowhere_darker_than_the_background_it_was_given() -> None:
    frame, _, blur = frame_and_truth("puncta", 2.0, 200.0)
    seen = observe(frame, blur)
    assert float(richardson_lucy(seen).min()) >= -1.01 * seen.levels.noise_sd


def test_more_noise_believed_in_smooths_more() -> None:
    frame, _, blur = frame_and_truth("filaments", 2.0, 200.0)
    seen = observe(frame, blur)
    rough = [float(torch.diff(wiener(seen, strength), dim=0).std()) for strength in (0.1, 1.0, 10.0)]
    assert rough[0] > rough[1] > rough[2]


def test_the_residual_is_noise_for_the_truth_and_not_for_another_blur() -> None:
    frame, truth, blur = frame_and_truth("filaments", 2.0, 2000.0)
    seen = observe(frame, blur)
    right = float(reblur_residual(seen, truth)[24:-24, 24:-24].square().mean().sqrt())
    wrong = observe(frame, Blur(OPTICS, 0.3 * blur.defocus_um, 0.0))
    assert right < 3.0
    assert float(reblur_residual(wrong, truth)[24:-24, 24:-24].square().mean().sqrt()) > 2.0 * right


@pytest.mark.parametrize(("gain", "offset", "light"), [(0.5, 100.0, 400.0), (2.0, 5.0, 30.0), (1.0, 500.0, 9.0)])
def test_noise_is_told_from_one_frame(gain: float, offset: float, light: float) -> None:
    frame, _, _ = frame_and_truth("nuclei", 4.0, 200.0)
    signal = (frame - 100.0) / 400.0  # smooth, but for its own noise, which is made small here
    smooth = np.asarray(Imager(Optics(na=0.1), frame.shape).image(np.maximum(signal, 0.0), 0.0))
    rng = np.random.default_rng(5)
    counts = np.round(gain * (rng.poisson(light * (1.0 + smooth)) + rng.normal(0.0, 1.0, frame.shape)) + offset)
    expected = gain * np.sqrt(np.mean(light * (1.0 + smooth)) + 1.0)
    levels = Levels.of(counts.astype(np.float32))
    assert levels.noise_sd == pytest.approx(expected, rel=0.06)
    assert offset + gain * light * 0.3 < levels.background < offset + gain * light * 1.3


def test_hot_pixels_do_not_count_as_noise() -> None:
    rng = np.random.default_rng(2)
    frame = (100.0 + rng.normal(0.0, 4.0, (256, 256))).astype(np.float32)
    clean = Levels.of(frame).noise_sd
    frame[rng.integers(0, 256, 12), rng.integers(0, 256, 12)] = 60_000.0
    assert Levels.of(frame).noise_sd == pytest.approx(clean, rel=0.35)


@pytest.mark.parametrize("kind", ["nuclei", "filaments"])
@pytest.mark.parametrize("depths", [0.8, 2.0, 4.0])
def test_a_few_quick_steps_are_worth_thirty(kind: str, depths: float) -> None:
    frame, truth, blur = frame_and_truth(kind, depths, 1000.0)
    seen = observe(frame, blur)
    blur_px = blur.diameter_px
    assert (blur_px < HALVED_FROM_PX) == (depths < 1.0) and (blur_px >= MORE_FROM_PX) == (depths > 3.0)
    quick = psnr(restored(seen, quick_richardson_lucy(seen, blur_px)), truth)
    slow = psnr(restored(seen, richardson_lucy(seen)), truth)
    assert quick > psnr(frame, truth) + 0.1
    assert quick > slow - (5.0 if depths < 1.0 else 0.8)  # four steps of a narrow blur; Wiener's filter has the rest


def test_every_other_pixel_is_enough_for_a_wide_blur(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, truth, blur = frame_and_truth("nuclei", 3.0, 1000.0)
    seen = observe(frame, blur)
    halved = restored(seen, quick_richardson_lucy(seen, blur.diameter_px))
    monkeypatch.setattr("parfocal.models.restore.deconvolution.HALVED_FROM_PX", 1e9)
    monkeypatch.setattr("parfocal.models.restore.deconvolution.QUICK_FULL", 8)
    full = restored(seen, quick_richardson_lucy(seen, blur.diameter_px))
    assert psnr(halved, truth) == pytest.approx(psnr(full, truth), abs=0.4)
    assert float(halved.mean()) == pytest.approx(float(full.mean()), rel=0.02)
