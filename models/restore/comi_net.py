"""Generator and discriminator of COMI (Zhang et al. 2022): a style-transfer network and a PatchGAN.

The paper's words are followed where there are any; where there are none, its published code, or what is usual. What was
chosen is listed in docs/decisions/0028-cyclegan-peer.md.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

WIDTH, BLOCKS = 64, 9
STRIDE = 4
"""Sides of what the generator takes are multiples of this."""
LEVEL, SPAN = 1.0, 2.0
"""In units of a frame's scale (`unet_net.prepare`): what is 0 for the networks, and how far from it their 1 is."""
Upsampling = Literal["transposed", "nearest"]
UPSAMPLINGS: tuple[Upsampling, ...] = ("transposed", "nearest")


def to_network(image: Tensor) -> Tensor:
    """From units of a frame's scale above its zero to the networks': -1 to 3 becomes -1 to 1."""
    return (image - LEVEL) / SPAN


def from_network(image: Tensor) -> Tensor:
    """Undo `to_network`."""
    return image * SPAN + LEVEL


def _norm(channels: int) -> nn.Module:
    """Instance normalisation with a gain and an offset for every channel: of one image at a time, as it is used."""
    return nn.InstanceNorm2d(channels, affine=True)


class ResidualBlock(nn.Module):
    """Two normalised convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), _norm(channels), nn.ReLU(inplace=True),
            nn.Conv2d(channels, channels, 3, padding=1), _norm(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.body(x)
        return out


def _up(inputs: int, outputs: int, upsampling: Upsampling) -> list[nn.Module]:
    if upsampling == "transposed":
        raise_: list[nn.Module] = [nn.ConvTranspose2d(inputs, outputs, 3, stride=2, padding=1, output_padding=1)]
    else:
        raise_ = [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(inputs, outputs, 3, padding=1)]
    return [*raise_, _norm(outputs), nn.ReLU(inplace=True)]


class ComiGenerator(nn.Module):
    """Two strided convolutions, nine residual blocks, two blocks that upsample (section 3.1; Johnson et al. 2016).

    Parameters
    ----------
    width : int
        Filters of the first layer; 64 gives 11.38 M parameters.
    blocks : int
        Residual blocks.
    channels : int
        Of the image, 1. The published code has 3, of grey images too.
    upsampling : {"transposed", "nearest"}
        The paper's transposed convolutions, or its code's nearest neighbours and a convolution.
    residual : bool
        The output is the input plus a hyperbolic tangent, as in the code; else the hyperbolic tangent alone, which can
        be nothing beyond -1 and 1. The paper does not say.
    """

    def __init__(
        self,
        width: int = WIDTH,
        blocks: int = BLOCKS,
        *,
        channels: int = 1,
        upsampling: Upsampling = "transposed",
        residual: bool = True,
    ) -> None:
        super().__init__()
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling must be {' or '.join(UPSAMPLINGS)} (got {upsampling!r})")
        self.residual = residual
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 7, padding=3), _norm(width), nn.ReLU(inplace=True)]
        for inputs in (width, 2 * width):
            layers += [
                nn.Conv2d(inputs, 2 * inputs, 3, stride=2, padding=1), _norm(2 * inputs), nn.ReLU(inplace=True)
            ]  # fmt: skip
        layers += [ResidualBlock(4 * width) for _ in range(blocks)]
        layers += [*_up(4 * width, 2 * width, upsampling), *_up(2 * width, width, upsampling)]
        last = nn.Conv2d(width, channels, 7, padding=3)
        self.body = nn.Sequential(*layers, last)
        self.apply(_start)
        if residual:  # begins as the identity, which a short training is better off with
            nn.init.normal_(last.weight, std=1e-3)

    def forward(self, image: Tensor) -> Tensor:
        """From images (n, channels, h, w) in the networks' units, sides multiples of `STRIDE`, to as many such.

        What lies beyond -1 and 1 is shown to the layers as that, so that one hot pixel does not set the statistics of
        its image; the sum has the input as it is.
        """
        made = torch.tanh(self.body(image.clamp(-1.0, 1.0)).float())
        return image + made if self.residual else made


class PatchDiscriminator(nn.Module):
    """Judges patches of 70 px: the Markovian discriminator of Isola et al. (2017), convolutions only.

    Parameters
    ----------
    width : int
        Filters of the first layer.
    channels : int
        Of the image.
    """

    def __init__(self, width: int = WIDTH, *, channels: int = 1) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2, inplace=True)]
        for inputs, outputs, stride in ((1, 2, 2), (2, 4, 2), (4, 8, 1)):
            layers += [
                nn.Conv2d(inputs * width, outputs * width, 4, stride=stride, padding=1), _norm(outputs * width),
                nn.LeakyReLU(0.2, inplace=True),
            ]  # fmt: skip
        layers.append(nn.Conv2d(8 * width, 1, 4, padding=1))
        self.body = nn.Sequential(*layers)
        self.apply(_start)

    def forward(self, image: Tensor) -> Tensor:
        """Scores (n, 1, rows, columns) of the patches of images (n, channels, h, w), sides at least 32 px."""
        scores: Tensor = self.body(image.clamp(-1.0, 1.0)).float()
        return scores


def _start(module: nn.Module) -> None:
    """Normal weights of sd 0.02, as is usual for these networks (Zhu et al. 2017); the paper does not say."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def parameters_of(network: nn.Module) -> int:
    """Number of trained parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def gmac(network: ComiGenerator, side_px: int = 512) -> float:
    """Multiplications of the convolutions for one square image, in units of 1e9, counted as they run."""
    total = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            places = inputs[0] if isinstance(module, nn.ConvTranspose2d) else output
            total += module.weight.numel() * places.shape[2] * places.shape[3]

    hooks = [module.register_forward_hook(count) for module in network.modules()]
    first = next(network.parameters())
    channels = next(module for module in network.modules() if isinstance(module, nn.Conv2d)).in_channels
    # Work grows with the area alone, so a small image is enough to count it by.
    small = min(side_px, 8 * STRIDE)
    try:
        with torch.no_grad():
            network(torch.zeros(1, channels, small, small, device=first.device, dtype=first.dtype))
    finally:
        for hook in hooks:
            hook.remove()
    return total * (side_px / small) ** 2 / 1e9
