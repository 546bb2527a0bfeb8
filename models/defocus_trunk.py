"""The defocus network's trunk for the runner: the same function on a CPU in fewer and cheaper passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from parfocal.models.defocus_net import CELL_PX, OCTAVES, CompactDefocusNet

BY_ROWS_FROM_PX = 16
"""Cells of a stage of at least so many pixels a side are summed row by row; smaller ones a pooling does as fast."""


class CellTrunk(nn.Module):
    """The part of the network that costs, for the runner; Fourier transforms, which not every backend has, stay out.

    On a CPU the octaves and moments, which general pooling takes as long for as for half the convolutions, are summed
    along rows first, where memory is contiguous. Equal to `CompactDefocusNet.look` but for the order of additions.
    """

    def __init__(self, network: CompactDefocusNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        """See `CompactDefocusNet.look`."""
        if images.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
            return self.network.look(images, power)
        x = images
        found = [octave_energies_by_rows(images), torch.log(power)]
        for index, stage in enumerate(self.network.stages):
            x = stage(x)
            mean, square = moments_by_rows(x, CELL_PX >> (index + 1))
            found += [mean, square.add_(1e-4).log_()]
        embedding = self.network.cell(torch.cat(found, dim=1))
        return embedding, self.network.weight(embedding)


def octave_energies_by_rows(images: Tensor) -> Tensor:
    """See `parfocal.models.defocus_net.octave_energies`; whole cells (n, 1, h, w) only."""
    level, found = images[:, 0], []
    for octave in range(OCTAVES):
        above, below = level[:, 0::2], level[:, 1::2]
        parts = (above[:, :, 0::2], above[:, :, 1::2], below[:, :, 0::2], below[:, :, 1::2])
        coarse = ((parts[0] + parts[1]) + (parts[2] + parts[3])).mul_(0.25)
        bands = [part - coarse for part in parts]
        square = bands[0].square()
        for band in bands[1:]:
            square.addcmul_(band, band)
        modulus = bands[0].abs_()
        for band in bands[1:]:
            modulus.add_(band.abs_())
        side = CELL_PX >> (octave + 1)
        energy = _cell_sums(square[:, None], side).div_(4 * side**2).add_(1e-6)
        found += [energy.log(), _cell_sums(modulus[:, None], side).div_(4 * side**2) / energy.sqrt()]
        level = coarse
    return torch.cat(found, dim=1)


def moments_by_rows(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and mean square of each channel (n, c, h, w) over cells, (n, c, h // side, w // side); for channels_last."""
    if side < BY_ROWS_FROM_PX:
        pooled = nn.functional.avg_pool2d
        return pooled(x, side), pooled(x.square(), side)
    return _cell_sums(x, side).div_(side**2), _cell_sums(x.square(), side).div_(side**2)


def _cell_sums(x: Tensor, side: int) -> Tensor:
    """Sum over cells of (n, c, h, w); first down the columns, many at a time, then along what is left of the rows."""
    n, c, h, w = x.shape
    lines = x.permute(0, 2, 3, 1).reshape(n, h // side, side, w * c).sum(dim=2)
    return lines.view(n, h // side, w // side, side, c).sum(dim=3).permute(0, 3, 1, 2)
