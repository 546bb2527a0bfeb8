from __future__ import annotations

import numpy as np
import pytest
import torch

from parfocal.models.restore.base import Blur
from parfocal.models.restore.unet_net import (
    CHANNELS,
    CONDITIONS,
    LOG_SD,
    RestoreNet,
    _added,
    _shuffled,
    _unshuffled,
    prepare,
)
from tests.models.restore.test_deconvolution import OPTICS, frame_and_truth


def network(seed: int = 1) -> RestoreNet:
    torch.manual_seed(seed)
    net = RestoreNet()
    for parameter in net.parameters():  # as if trained: nothing is zero any more
        torch.nn.init.normal_(parameter, std=0.08)
    return net.eval()


def test_it_is_small() -> None:
    assert sum(parameter.numel() for parameter in RestoreNet().parameters()) <= 1_000_000


def test_untrained_it_answers_with_richardson_lucy() -> None:
    shown = torch.rand(2, CHANNELS, 64, 64)
    with torch.inference_mode():
        restored, log_sd = RestoreNet().eval()(shown, torch.zeros(2, CONDITIONS))
    assert torch.allclose(restored, shown[:, 1:2], atol=0.05)
    assert float(log_sd.min()) > LOG_SD[0] and float(log_sd.max()) < LOG_SD[1]


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_one_frame_alone_gives_what_it_gives_among_others(memory: torch.memory_format) -> None:
    net = network().to(memory_format=memory)  # type: ignore[call-overload]
    shown, told = torch.rand(2, CHANNELS, 64, 96), torch.randn(2, CONDITIONS)
    with torch.inference_mode():
        together, alone = net(shown, told), net(shown[1:], told[1:])
    for several, one in zip(together, alone, strict=True):
        assert torch.allclose(several[1:], one, atol=1e-4)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pixels_are_moved_as_torchs_modules_move_them(dtype: torch.dtype, memory: torch.memory_format) -> None:
    shown, planes = torch.rand(1, 3, 12, 20, dtype=dtype), torch.rand(1, 8, 6, 10, dtype=dtype)
    fine, coarse = torch.rand(1, 5, 12, 20, dtype=dtype), torch.rand(1, 5, 6, 10, dtype=dtype)
    shown, planes, fine, coarse = (one.to(memory_format=memory) for one in (shown, planes, fine, coarse))
    assert torch.equal(_unshuffled(shown), torch.nn.functional.pixel_unshuffle(shown, 2))
    assert torch.equal(_shuffled(planes), torch.nn.functional.pixel_shuffle(planes, 2))
    expected = fine + torch.nn.functional.interpolate(coarse, scale_factor=2, mode="nearest")
    assert torch.equal(_added(fine, coarse), expected)


def test_one_frame_may_still_be_learned_from() -> None:
    net, shown, told = network(), torch.rand(1, CHANNELS, 64, 64), torch.randn(1, CONDITIONS)
    learned = net(shown, told)
    learned[0].sum().backward()
    assert all(p.grad is not None for p in net.up.parameters())
    with torch.inference_mode():
        assert torch.allclose(net(shown, told)[0], learned[0], atol=1e-4)


def test_what_it_is_told_matters() -> None:
    net, shown = network(), torch.rand(1, CHANNELS, 64, 64)
    with torch.inference_mode():
        a, b = (net(shown, torch.full((1, CONDITIONS), value))[0] for value in (0.0, 1.0))
    assert not torch.allclose(a, b, atol=1e-3)


def test_gain_and_offset_do_not_change_what_is_shown() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    plain, other = prepare(frame, blur), prepare(3.0 * frame + 500.0, blur)
    # Whole counts carry the rounding's noise at one gain and not at the other.
    assert torch.allclose(plain.channels, other.channels, atol=0.02)
    assert torch.allclose(plain.conditions, other.conditions, atol=0.02)
    assert other.scale == pytest.approx(3.0 * plain.scale, rel=0.01)


def test_conditions_tell_blur_doubt_and_noise() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    dim, _, _ = frame_and_truth("nuclei", 2.0, 100.0)
    base = prepare(frame, blur).conditions
    wider = prepare(frame, Blur(OPTICS, 2.0 * blur.defocus_um, blur.sd_um)).conditions
    doubtful = prepare(frame, Blur(OPTICS, blur.defocus_um, 5.0 * blur.sd_um)).conditions
    noisier = prepare(dim, blur).conditions
    assert wider[0] > base[0] and wider[4] > base[4]
    assert doubtful[1] > base[1]
    assert noisier[2] > base[2]


def test_a_blank_frame_is_not_stretched_to_a_picture() -> None:
    frame = np.random.default_rng(0).normal(100.0, 3.0, (128, 128)).astype(np.float32)
    ready = prepare(frame, Blur(OPTICS, 4.0, 0.2))
    assert float(ready.channels[1].std()) < 1.0
    assert ready.scale >= 2.0
