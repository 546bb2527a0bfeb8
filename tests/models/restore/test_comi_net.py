from __future__ import annotations

import pytest
import torch
from torch import nn

from parfocal.models.restore.comi_net import (
    UPSAMPLINGS,
    ComiGenerator,
    PatchDiscriminator,
    Upsampling,
    from_network,
    gmac,
    parameters_of,
    to_network,
)


def test_with_the_codes_channels_and_upsampling_it_is_as_large_as_the_published_one() -> None:
    published = ComiGenerator(channels=3, upsampling="nearest")
    assert parameters_of(published) / 1e6 == pytest.approx(11.39, abs=0.005)
    assert gmac(published, 512) == pytest.approx(227.0, rel=0.005)


def test_ours_has_one_channel_and_the_papers_transposed_convolutions() -> None:
    network = ComiGenerator()
    assert parameters_of(network) == 11_376_129
    assert sum(isinstance(module, nn.ConvTranspose2d) for module in network.modules()) == 2
    # A transposed convolution multiplies at the places of its input: a quarter of what a convolution after it would.
    assert gmac(network, 512) == pytest.approx(194.9, abs=0.1)
    assert gmac(network, 256) == pytest.approx(194.9 / 4, abs=0.1)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("residual", [True, False])
def test_an_image_keeps_its_shape(upsampling: Upsampling, residual: bool) -> None:
    network = ComiGenerator(4, 2, upsampling=upsampling, residual=residual)
    image = torch.zeros(2, 1, 36, 64)
    assert network(image).shape == image.shape


def test_the_global_residual_begins_as_the_identity_and_reaches_beyond_the_range() -> None:
    image = 3.0 * torch.randn(1, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(ComiGenerator(4, 1)(image), image, atol=0.05)
    alone = ComiGenerator(4, 1, residual=False)(image)
    assert alone.abs().max() <= 1.0
    assert not torch.allclose(alone, image, atol=0.5)


def test_a_hot_pixel_is_shown_as_the_brightest_there_is() -> None:
    network = ComiGenerator(4, 1).eval()
    nn.init.normal_(network.body[-1].weight, std=0.1)  # type: ignore[arg-type]
    image = torch.zeros(1, 1, 32, 32)
    image[0, 0, 16, 16] = 1.0
    hot = image.clone()
    hot[0, 0, 16, 16] = 500.0
    difference = (network(hot) - network(image)).detach()
    assert float(difference[0, 0, 16, 16]) == pytest.approx(499.0)
    difference[0, 0, 16, 16] = 0.0
    assert difference.abs().max() == 0.0


def test_the_units_of_the_networks_are_those_of_a_frame_and_back() -> None:
    assert to_network(torch.tensor([-1.0, 1.0, 3.0])).tolist() == [-1.0, 0.0, 1.0]
    image = torch.linspace(-5.0, 9.0, 50)
    assert torch.allclose(from_network(to_network(image)), image, atol=1e-6)


def test_the_discriminator_judges_patches_of_70_px() -> None:
    field = 1
    for module in reversed([m for m in PatchDiscriminator(4).modules() if isinstance(m, nn.Conv2d)]):
        field = (field - 1) * module.stride[0] + module.kernel_size[0]
    assert field == 70
    assert PatchDiscriminator(4)(torch.zeros(1, 1, 256, 256)).shape == (1, 1, 30, 30)
    assert PatchDiscriminator(4)(torch.zeros(1, 1, 32, 32)).shape == (1, 1, 2, 2)


def test_an_unknown_upsampling_is_refused() -> None:
    with pytest.raises(ValueError, match="transposed or nearest"):
        ComiGenerator(4, 1, upsampling="bilinear")  # type: ignore[arg-type]
