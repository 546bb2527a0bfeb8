"""Features that COMI's content loss compares: of our own quality network, or of VGG-19 weights that the user gives."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from parfocal.models.base import ModelError
from parfocal.models.cards import load_card, packaged_card_path
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.quality_runtime import load_network
from parfocal.models.quality_scaling import LIMIT
from parfocal.models.restore.comi_net import from_network

QUALITY_CARD = "quality_frc"
"""Of our networks the one built like VGG; trained on single-image FRC, so it looks at sharpness and noise."""
QUALITY_LAYERS = 4
"""Layers up to the last convolution before the first pooling, after its rectifier.

Deeper ones, the counterparts of VGG's, hardly see brightness and teach several times more slowly: measured, see
docs/decisions/0028-cyclegan-peer.md.
"""
VGG19_FILTERS = ((64, 64), (128, 128), (256, 256, 256))
"""Of VGG-19's blocks up to ``conv3_3``, the layer that the published code of COMI compares."""
VGG19_KEYS = tuple(f"features.{index}.{part}" for index in (0, 2, 5, 7, 10, 12, 14) for part in ("weight", "bias"))
"""What the user's file must hold, named as torchvision names them in ``vgg19``; further keys are not read."""
_IMAGENET_MEAN, _IMAGENET_SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class QualityFeatures(nn.Module):
    """The first block of the paper's quality network with the packaged weights, frozen.

    Parameters
    ----------
    network : PaperQualityNet, optional
        Another one than the packaged; it is frozen.

    Raises
    ------
    ModelError
        The packaged weights are not there or are no such network.
    """

    def __init__(self, network: PaperQualityNet | None = None) -> None:
        super().__init__()
        if network is None:
            path = packaged_card_path(QUALITY_CARD)
            loaded = load_network(load_card(path), path)
            if not isinstance(loaded, PaperQualityNet):
                raise ModelError(f"{path} does not describe a PaperQualityNet, whose layers the content loss compares")
            network = loaded
        self.layers = network.features[:QUALITY_LAYERS]
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Features (n, 32, h, w) of images (n, 1, h, w) in the generator's units."""
        # Background at 0 and bright structures near 1, within the same limits: what the network was trained on.
        found: Tensor = self.layers(from_network(image).clamp(-LIMIT, LIMIT))
        return found


class Vgg19Features(nn.Module):
    """VGG-19 (Simonyan and Zisserman 2015) up to ``conv3_3`` after its rectifier, frozen.

    Parameters
    ----------
    state : dict of Tensor
        `VGG19_KEYS`, see `load_vgg19`.
    """

    mean: Tensor
    sd: Tensor

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for block in VGG19_FILTERS:
            layers += [nn.MaxPool2d(2)] if layers else []
            for outputs in block:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("sd", torch.tensor(_IMAGENET_SD).view(1, 3, 1, 1), persistent=False)
        self.load_state_dict(state)
        self.requires_grad_(False).eval()

    def forward(self, image: Tensor) -> Tensor:
        """Features (n, 256, h / 4, w / 4) of images (n, 1, h, w) in the generator's units, grey as three channels."""
        grey = (image.clamp(-1.0, 1.0) + 1.0) / 2.0
        found: Tensor = self.features((grey - self.mean) / self.sd)
        return found


def load_vgg19(path: Path) -> Vgg19Features:
    """VGG-19's first layers from a safetensors file with torchvision's names (``features.0.weight`` to ``.14.bias``).

    Raises
    ------
    ModelError
        The file cannot be read, lacks one of `VGG19_KEYS`, or has one of another shape.
    """
    try:
        held = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"VGG-19 weights {path} cannot be read as safetensors: {error}") from error
    missing = [key for key in VGG19_KEYS if key not in held]
    if missing:
        raise ModelError(
            f"VGG-19 weights {path} lack {missing[0]!r}: the keys are torchvision's, features.0.weight to "
            "features.14.bias; save torchvision's vgg19().state_dict() as safetensors"
        )
    try:
        return Vgg19Features({key: held[key].float() for key in VGG19_KEYS})
    except RuntimeError as error:
        problem = str(error).splitlines()[-1].strip()
        raise ModelError(f"VGG-19 weights {path} are not those of a VGG-19: {problem}") from error
