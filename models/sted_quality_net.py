"""Two networks that judge STED images of photon counts: Robitaille's (2018), and a compact one that says what is wrong.

Both look at absolute counts, through a scaling that is fixed once and kept in the card: a brighter image of the same
structure is another image. Nothing is ever normalised by the image itself.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from parfocal.models.quality_net import PATCH_PX
from parfocal.models.quality_student import RINGS, PatchSpectrum

OUTPUTS = ("quality", "too_dim", "bleached", "unresolved")
COUNTS_SCALE = 16.0
"""Counts that the compact network sees as 1: about the standard deviation of a usual frame (Robitaille: 14.9)."""
FEW = 0.02
"""Counts a pixel below which light is no light: keeps the logarithms finite."""
MIDDLE_UM = 0.02
_FILTERS = (16, 24, 40, 64)
_STATISTICS = 4
_PLACES = 3


class RobitailleNet(nn.Module):
    """Six convolutional and two fully connected layers, as far as the paper gives them.

    Given [Robitaille et al. 2018]: 6 convolutional and 2 fully connected layers; ELU after each unit; max pooling 2x2
    of stride 1 after each convolutional unit; batch normalisation on all layers but the first; a sigmoid; inputs minus
    the mean and over the standard deviation of the training set (``mean`` and ``sd``, buffers in counts here).

    Left open, and chosen here: kernels of 3 px; 8, 16, 24, 32, 48 and 64 channels; strides 2, 2, 2, 1, 1, 1 of the
    convolutions, since pooling of stride 1 shrinks nothing; 64 units in the first fully connected layer. The last layer
    has neither ELU nor batch normalisation: ELU is never below -1, and the sigmoid of that is 0.27, but the paper shows
    scores of 0.07. The paper's images all have 224 px; for others, the mean over a 4x4 grid comes before
    the fully connected layers. It is not told the size of a pixel.
    """

    names = OUTPUTS[:1]
    min_px = 48
    mean: Tensor
    sd: Tensor

    def __init__(self, mean: float = 0.0, sd: float = 14.9) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("sd", torch.tensor(float(sd)))
        units: list[nn.Module] = []
        before = 1
        for number, (channels, stride) in enumerate(zip((8, 16, 24, 32, 48, 64), (2, 2, 2, 1, 1, 1), strict=True)):
            units.append(nn.Conv2d(before, channels, 3, stride, 1, bias=number == 0))
            if number:
                units.append(nn.BatchNorm2d(channels))
            units += [nn.ELU(inplace=True), nn.MaxPool2d(2, 1)]
            before = channels
        self.convolutions = nn.Sequential(*units)
        self.connected = nn.Sequential(
            nn.Linear(16 * before, 64, bias=False), nn.BatchNorm1d(64), nn.ELU(inplace=True), nn.Linear(64, 1)
        )

    def forward(self, counts: Tensor, pixel_um: Tensor) -> Tensor:
        """Logits (n, 1) of the quality of frames (n, 1, h, w) of at least 48 px; `pixel_um` is not used."""
        found = self.convolutions((counts - self.mean) / self.sd)
        logits: Tensor = self.connected(functional.adaptive_avg_pool2d(found, 4).flatten(1))
        return logits


class StedQualityNet(nn.Module):
    """Quality of frames of any size from 32 px, and what is wrong with them: too dim, bleached, unresolved.

    The counts of a pixel vary by their own mean, whatever the dye, and by structure. So each patch of 32 px is
    described by its power in rings of frequency over its mean count, which is 1 where there is only photon noise; by
    moments of the channels of a convolutional trunk on the square root of the counts over `COUNTS_SCALE`; and by how
    much light there is. What the patches say is pooled evenly, by their light, as a spread and along the raster
    (bleaching shows there). The size of a pixel is told, in logarithm, since resolution is in nm and not in pixels.
    """

    names = OUTPUTS
    min_px = 32

    def __init__(self, width: int = 96) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        before = 1
        for number, channels in enumerate(_FILTERS):
            kernel = 5 if number == 0 else 3
            self.stages.append(
                nn.Sequential(
                    nn.Conv2d(before, channels, kernel, 2, kernel // 2, bias=False),
                    nn.BatchNorm2d(channels),
                    nn.ELU(inplace=True),
                )
            )
            before = channels
        self.spectrum = PatchSpectrum()
        features = 2 * sum(_FILTERS) + RINGS + _STATISTICS + 1
        self.embed = nn.Sequential(nn.BatchNorm2d(features), nn.Conv2d(features, width, 1), nn.ELU(inplace=True))
        pooled = width * (3 + _PLACES) + RINGS + 2
        self.judge = nn.Sequential(
            nn.BatchNorm1d(pooled), nn.Linear(pooled, 128), nn.ELU(inplace=True), nn.Linear(128, 64),
            nn.ELU(inplace=True), nn.Linear(64, len(OUTPUTS)),
        )  # fmt: skip

    def forward(self, counts: Tensor, pixel_um: Tensor) -> Tensor:
        """Logits (n, 4) of `OUTPUTS` for frames (n, 1, h, w) with pixels of `pixel_um` (n,).

        What does not fill a patch at the far edges is left out.
        """
        rows, columns = counts.shape[2] // PATCH_PX, counts.shape[3] // PATCH_PX
        counts = counts[:, :, : rows * PATCH_PX, : columns * PATCH_PX]
        size = torch.log(pixel_um / MIDDLE_UM)[:, None]
        light = functional.avg_pool2d(counts, PATCH_PX)
        power = self.spectrum(counts)
        features = [*self._trunk(counts), torch.log((power + FEW) / (light + FEW)), *_statistics(counts, light)]
        features.append(size[:, :, None, None].expand(-1, -1, rows, columns))
        embedded = self.embed(torch.cat(features, dim=1))
        whole = torch.log((power.mean(dim=(2, 3)) + FEW) / (light.mean(dim=(2, 3)) + FEW))
        bright = torch.log(light.mean(dim=(2, 3)) + FEW)
        logits: Tensor = self.judge(torch.cat([*_pooled(embedded, light), whole, bright, size], dim=1))
        return logits

    def _trunk(self, counts: Tensor) -> list[Tensor]:
        """Mean and mean square of every stage over the patches."""
        x, found = torch.sqrt(counts.clamp_min(0) / COUNTS_SCALE), []
        for number, stage in enumerate(self.stages, 1):
            x = stage(x)
            side = PATCH_PX >> number
            found += [functional.avg_pool2d(x, side), torch.log(functional.avg_pool2d(x.square(), side) + 1e-4)]
        return found


NETWORKS: Mapping[str, type[RobitailleNet] | type[StedQualityNet]] = {
    "RobitailleNet": RobitailleNet,
    "StedQualityNet": StedQualityNet,
}


def judged(network: nn.Module, counts: Tensor, pixel_um: Tensor) -> Tensor:
    """What a network says of frames (n, 1, h, w), 0..1: of the frame and of its mirror image, the mean of the logits.

    Mirrored along the fast axis, so that lines still follow each other: bleaching goes down the frame.
    """
    return torch.sigmoid(0.5 * (network(counts, pixel_um) + network(counts.flip(3), pixel_um)))


def _statistics(counts: Tensor, light: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logarithms of a patch's mean and variance, of its largest pixel and of its largest 4x4 block."""
    variance = functional.avg_pool2d(counts.square(), PATCH_PX) - light.square()
    largest = functional.max_pool2d(counts, PATCH_PX)
    block = functional.max_pool2d(functional.avg_pool2d(counts, 4), PATCH_PX // 4)
    return tuple(torch.log(one.clamp_min(0) + FEW) for one in (light, variance, largest, block))  # type: ignore[return-value]


def _pooled(embedded: Tensor, light: Tensor) -> list[Tensor]:
    """What the patches say: evenly, by their light, their spread, and along lines, columns and their square."""
    rows, columns = embedded.shape[2:]
    weight = (light + FEW) / (light + FEW).sum(dim=(2, 3), keepdim=True)
    mean = embedded.mean(dim=(2, 3))
    spread = (embedded - mean[:, :, None, None]).square().mean(dim=(2, 3)).add(1e-6).sqrt()
    y, x = _places(rows, embedded), _places(columns, embedded)
    along = [(embedded * y[:, None]).mean(dim=(2, 3)), (embedded * x[None, :]).mean(dim=(2, 3))]
    along.append((embedded * y.square()[:, None]).mean(dim=(2, 3)))
    return [mean, (embedded * weight).sum(dim=(2, 3)), spread, *along]


def _places(number: int, like: Tensor) -> Tensor:
    """Middles of so many patches, -1..1."""
    return (2 * torch.arange(number, device=like.device, dtype=like.dtype) + 1) / number - 1
