"""The paper's quality network: quality and weight of every 32 px patch, and the frame's as their weighted mean."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

PATCH_PX = 32
PARAMETERS = 5_237_986
"""Trainable parameters that Corbetta and Bocklitz (2025) state; a test counts them."""
CHANNELS = (32, 64, 128, 256, 512)
WEIGHT_FLOOR = 1e-6
"""The least weight of a patch. If no weight of a frame is above it, the weighted mean is silently a plain one."""


@dataclass(frozen=True)
class QualityOutput:
    """What a network says of n frames in the units of its labels (z-scored; see the card for the constants).

    `score` (n,), `patch_quality` and `patch_weight` (n, rows, columns), where `score` is the weighted mean of
    `patch_quality`; `artefact_logits` (n, 6) of a network that has them.
    """

    score: Tensor
    patch_quality: Tensor
    patch_weight: Tensor
    artefact_logits: Tensor | None = None

    @property
    def alive(self) -> Tensor:
        """Share of the patches whose weight is above the floor, (n,): 0 where the weight head is dead."""
        return (self.patch_weight > 2 * WEIGHT_FLOOR).float().mean(dim=(1, 2))

    def counting(self, share: Tensor) -> QualityOutput:
        """The same patches, of which each counts in the score only by its share (rows, columns), see `covering`."""
        counted = (self.patch_weight * share.to(self.patch_weight.device)).flatten(1)
        return replace(self, score=weighted_mean(self.patch_quality.flatten(1), counted))


def weighted_mean(quality: Tensor, weight: Tensor) -> Tensor:
    """Equation 1 of the paper over the last axis: (n, patches) to (n,)."""
    return (weight * quality).sum(dim=-1) / weight.sum(dim=-1)


class PaperQualityNet(nn.Module):
    """The network of muDeepIQA (Corbetta and Bocklitz 2025, section 4.1), after WaDIQaM (Bosse et al. 2018).

    Five blocks of two 3x3 convolutions and a pooling turn a patch into 512 features; two heads of two linear layers,
    with nothing but a dropout between them, turn these into its quality and its weight. A frame is cut into patches
    that do not overlap; what does not fill a patch at the far edges is left out.
    """

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        inputs = 1
        for outputs in CHANNELS:
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
                nn.Conv2d(outputs, outputs, 3, padding=1), nn.ReLU(inplace=True),
                nn.MaxPool2d(2),
            ]  # fmt: skip
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.quality = nn.Sequential(nn.Linear(512, 512), nn.Dropout(0.5), nn.Linear(512, 1))
        self.weight = nn.Sequential(nn.Linear(512, 512), nn.Dropout(0.5), nn.Linear(512, 1))
        self._initialise()

    def _initialise(self) -> None:
        """Start with activations of one size in every layer, and with every patch of about equal weight.

        The paper does not say how it starts. Torch's default shrinks ten layers of activations to nothing, and then
        the ReLU of the weight head, fed by little but its bias, is dead in every other run.
        """
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)
        last = self.weight[-1]
        if isinstance(last, nn.Linear):
            nn.init.ones_(last.bias)

    def settle(self, patches: Tensor) -> None:
        """Scale and shift every convolution so that its channels have mean 0 and sd 1 over `patches` (n, 1, 32, 32).

        A start fit to the data (Salimans and Kingma 2016), for a network that has no normalisation: channels that would
        be dead, or far louder than others, are not. Once, before training.
        """
        x = patches
        with torch.no_grad():
            for module in self.features:
                if isinstance(module, nn.Conv2d) and module.bias is not None:
                    found = module(x)
                    sd = found.std(dim=(0, 2, 3)).clamp_min(1e-4)
                    module.bias.copy_((module.bias - found.mean(dim=(0, 2, 3))) / sd)
                    module.weight.div_(sd[:, None, None, None])
                x = module(x)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Quality and weight (n,) of patches (n, 1, 32, 32)."""
        features = self.features(patches).flatten(1)
        quality, weight = self.quality(features)[:, 0], self.weight(features)[:, 0]
        return quality, torch.relu(weight) + WEIGHT_FLOOR

    def frames(self, images: Tensor) -> QualityOutput:
        """Judge whole frames (n, 1, h, w)."""
        quality, weight = self(patches_of(images))
        return gathered(quality, weight, images)


class FoldedPaperNet(nn.Module):
    """The same function without dropout, for use: each head's two linear layers, being linear, are one.

    Parameters
    ----------
    network : PaperQualityNet
        Its convolutions are shared, its heads multiplied out.
    """

    def __init__(self, network: PaperQualityNet) -> None:
        super().__init__()
        self.features = network.features
        self.heads = nn.Linear(512, 2)
        with torch.no_grad():
            for row, head in enumerate((network.quality, network.weight)):
                first, last = head[0], head[2]
                if not (isinstance(first, nn.Linear) and isinstance(last, nn.Linear)):
                    raise TypeError("a head must be two linear layers about a dropout")
                # In double precision, so that folding adds nothing to the rounding of the weights themselves.
                outer = last.weight.double()
                self.heads.weight[row] = (outer @ first.weight.double())[0].float()
                self.heads.bias[row] = (outer @ first.bias.double() + last.bias.double())[0].float()

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Quality and weight (n,) of patches (n, 1, 32, 32)."""
        both = self.heads(self.features(patches).flatten(1)).float()
        return both[:, 0], torch.relu(both[:, 1]) + WEIGHT_FLOOR


def covering(images: Tensor) -> tuple[Tensor, Tensor]:
    """Frames (n, 1, h, w) as whole patches that leave out nothing, and how much of each patch is new, (rows, columns).

    Where a side is no multiple of `PATCH_PX` a last row or column of patches is put against the far edge. It overlaps
    the one before: in the frame returned these pixels come twice, so that a patch is never made of anything but
    neighbouring real pixels, and only its share of pixels that no other patch has counts in a score. Frames that are
    whole patches come back as they are, and all their patches count as 1.
    """
    places, shares = [], []
    for side in images.shape[2:]:
        whole, rest = divmod(side, PATCH_PX)
        at = torch.arange(whole * PATCH_PX)
        share = torch.ones(whole + (rest > 0))
        if rest:
            at = torch.cat([at, torch.arange(side - PATCH_PX, side)])
            share[-1] = rest / PATCH_PX
        places.append(at.to(images.device))
        shares.append(share.to(images.device))
    if len(places[0]) != images.shape[2]:
        images = images.index_select(2, places[0])
    if len(places[1]) != images.shape[3]:
        images = images.index_select(3, places[1])
    return images, shares[0][:, None] * shares[1][None, :]


def patches_of(images: Tensor) -> Tensor:
    """Cut frames (n, 1, h, w) into whole patches (n * rows * columns, 1, 32, 32), row by row."""
    cut = images[:, 0].unfold(1, PATCH_PX, PATCH_PX).unfold(2, PATCH_PX, PATCH_PX)
    return cut.reshape(-1, 1, PATCH_PX, PATCH_PX)


def gathered(quality: Tensor, weight: Tensor, images: Tensor) -> QualityOutput:
    """Patches of `patches_of` back in their frames."""
    shape = (len(images), images.shape[2] // PATCH_PX, images.shape[3] // PATCH_PX)
    quality, weight = quality.float().reshape(shape), weight.float().reshape(shape)
    return QualityOutput(weighted_mean(quality.flatten(1), weight.flatten(1)), quality, weight)
