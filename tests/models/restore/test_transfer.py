from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.models.restore.base import Blur
from parfocal.models.restore.transfer import PAD_MAX_PX, Canvas, _radial, transfers
from parfocal.simulator.optics import Imager, Optics, RadialTransfer

AIR = Optics()


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 300), st.integers(64, 300), st.floats(0.0, 500.0))
def test_cropping_takes_padding_off_whatever_the_shape(height: int, width: int, blur_px: float) -> None:
    canvas = Canvas.of((height, width), blur_px)
    frame = torch.from_numpy(np.random.default_rng(0).random((height, width), dtype=np.float32))
    padded = canvas.pad(frame)
    assert tuple(padded.shape) == canvas.padded
    assert torch.equal(canvas.crop(padded), frame)
    assert float(padded.min()) >= float(frame.min()) - 1e-6 and float(padded.max()) <= float(frame.max()) + 1e-6


def test_padding_joins_both_ends_without_a_step() -> None:
    ramp = torch.linspace(0.0, 1.0, 200)[:, None] * torch.ones(1, 180)
    padded = Canvas.of((200, 180), 40.0).pad(ramp)
    around = torch.cat([padded, padded[:1]])
    assert float(torch.diff(around, dim=0).abs().max()) < 0.06


def test_margins_grow_with_the_blur_and_end() -> None:
    sides = [Canvas.of((600, 600), blur).padded[0] for blur in (0.0, 60.0, 10_000.0)]
    assert sides[0] < sides[1] < sides[2] <= 600 + 2 * PAD_MAX_PX + 32


@pytest.mark.parametrize("defocus_um", [0.0, 2.0, -6.0])
@pytest.mark.parametrize("waves", [{}, {(4, 0): 0.1}, {(2, 2): 0.1}])
def test_known_defocus_gives_the_imagers_transfer_function(
    defocus_um: float, waves: dict[tuple[int, int], float]
) -> None:
    optics = Optics(pixel_um=0.15, zernike_waves=waves)  # nothing is folded back at this pixel
    canvas = Canvas.of((256, 256), 40.0)
    seen = transfers(canvas, Blur(optics, defocus_um, 0.0))
    expected = Imager(optics, canvas.padded).transfer(defocus_um)
    assert np.abs(seen.mean.numpy() - expected).max() < 0.03  # the window of its PSF is finite
    assert (
        np.abs(seen.focused.numpy() - Imager(optics, canvas.padded).transfer(0.0)).max() < 0.03
    )  # the window of its PSF is finite


def test_doubt_in_the_defocus_keeps_the_filter_from_dividing_by_nothing() -> None:
    canvas = Canvas.of((256, 256), 40.0)
    sure, unsure = (transfers(canvas, Blur(AIR, 6.0, sd)) for sd in (0.0, 0.6))
    assert torch.all(unsure.square >= unsure.mean.abs() ** 2 - 1e-4)
    zero = sure.square < 1e-6
    assert float(unsure.square[zero].mean()) > 3.0 * float(sure.square[zero].mean())
    assert torch.allclose(sure.square, sure.mean.abs() ** 2, atol=1e-3)


def test_torch_and_numpy_give_one_transfer_function() -> None:
    ours, theirs = _radial(), RadialTransfer(frequency_samples=513)
    phases = np.stack([ours.phase(Optics(na=0.9), z) for z in (0.0, 1.0, 7.0)])
    lit = np.linspace(1.0, 0.5, phases.shape[1]) * np.ones_like(phases)
    assert np.allclose(ours(phases), theirs(phases), atol=1e-5)
    assert np.allclose(ours(phases, lit), theirs(phases, lit), atol=1e-5)
