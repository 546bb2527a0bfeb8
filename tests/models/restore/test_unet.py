"""The learned restorer: what becomes of an answer that the network itself doubts."""

from __future__ import annotations

import torch

from parfocal.models.restore.unet import AROUND_PX, DOUBT, tempered


def test_where_the_network_is_sure_it_is_believed_and_elsewhere_the_filter_is() -> None:
    filtered = torch.zeros(64, 96)
    image = torch.ones(64, 96)
    sd = torch.full((64, 96), 1e-3)
    sd[:, 48:] = 100.0
    made = tempered(image, filtered, sd)
    assert made[:, :40].min() > 0.999
    assert made[:, 56:].max() < 1e-2
    assert torch.equal(tempered(filtered, filtered, sd), filtered)


def test_the_share_falls_with_the_doubt_and_every_size_is_taken() -> None:
    image, filtered = torch.randn(67, 129, generator=torch.Generator().manual_seed(0)), torch.zeros(67, 129)
    shares = [
        float(tempered(image, filtered, torch.full((67, 129), sd)).norm() / image.norm()) for sd in (0.1, 1.0, 9.0)
    ]
    assert 1.0 > shares[0] > 0.99 > shares[1] > 0.7 > 0.2 > shares[2]


def test_the_share_is_interpolated_as_torch_does_it() -> None:
    image, filtered, sd = torch.rand(3, 61, 90, generator=torch.Generator().manual_seed(1))
    means = [
        torch.nn.functional.avg_pool2d(one.square()[None, None], AROUND_PX, ceil_mode=True, count_include_pad=False)
        for one in (image - filtered, sd)
    ]
    power, doubt = (torch.nn.functional.interpolate(one, size=(61, 90), mode="bilinear")[0, 0] for one in means)
    expected = filtered + (image - filtered) * (power / (power + DOUBT * doubt))
    assert torch.allclose(tempered(image, filtered, sd), expected, atol=1e-5)
