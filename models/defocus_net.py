"""The compact defocus network: spectral moments of a small convolutional trunk, pooled over informative cells."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from parfocal.models.cell_moments import CellMoments

CELL_PX = 64
"""Side of the cells over which moments are taken: the resolution of the patch map."""
BLUR_BINS = 56
BLUR_MAX_PX = 256.0
"""Blur diameters of 0 to 256 px in 56 bins, their width growing as the root: 0.08 px at focus, 9 px at the end."""
OCTAVES = 6
WINDOW_PX = 128
GEOMETRIC_BANDS, LINEAR_BANDS = 26, 64
SPECTRUM_BANDS = GEOMETRIC_BANDS + LINEAR_BANDS
"""Power spectra are taken over windows of two by two cells, in rings of frequency: some whose width grows with it, for
the slope, and one for every whole number of cycles a window, for the zeros that defocus leaves."""
CONDITIONS = 4
"""What may be known of the optics: log2 of the cut-off, whether it is known, spherical aberration, whether that is."""


@dataclass(frozen=True)
class NetOutput:
    """Logits for whole frames: blur (n, BLUR_BINS), sign given blur (n, BLUR_BINS), signal present (n,)."""

    blur: Tensor
    sign: Tensor
    signal: Tensor


def blur_edges() -> Tensor:
    """Edges of the blur bins in pixels, shape (BLUR_BINS + 1,)."""
    return BLUR_MAX_PX * (torch.arange(BLUR_BINS + 1, dtype=torch.float64) / BLUR_BINS) ** 2


class _Conv(nn.Sequential):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False, padding_mode="zeros"),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class _Residual(nn.Module):
    """One convolution beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = _Conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.body(x)
        return out


@dataclass(frozen=True)
class Cells:
    """What the network found in every cell of a batch of frames.

    `embedding` (n, width, rows, columns), `log_weight` (n, 1, rows, columns) and `power` (n, SPECTRUM_BANDS, rows,
    columns), the power spectrum of the window that holds the cell.
    """

    embedding: Tensor
    log_weight: Tensor
    power: Tensor


class CompactDefocusNet(nn.Module):
    """Defocus of frames of any size from 128 px.

    Defocus multiplies a frame's power spectrum by the square of the optical transfer function, so the network looks
    at spectra: measured ones, in rings of frequency over windows of 128 px, and learned ones, the first and the
    logarithm of the second moment of the channels of a convolutional trunk that halves the resolution six times, over
    cells of 64 px. A learned weight pools the cells (an empty cell has no say), and a head, told what is known of the
    optics, gives probabilities of blur diameter, of its sign, and of there being any signal.
    """

    def __init__(self, width: int = 160) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_Conv(1, 16, kernel=5, stride=2)),
                nn.Sequential(_Conv(16, 24, stride=2)),
                nn.Sequential(_Conv(24, 48, stride=2), _Residual(48)),
                nn.Sequential(_Conv(48, 64, stride=2), _Residual(64)),
                nn.Sequential(_Conv(64, 96, stride=2), _Residual(96)),
                nn.Sequential(_Conv(96, 128, stride=2), _Residual(128)),
            ]
        )
        self.spectrum = RingSpectrum()
        moments = 2 * (16 + 24 + 48 + 64 + 96 + 128) + 2 * OCTAVES + SPECTRUM_BANDS
        self.cell = nn.Sequential(
            nn.BatchNorm2d(moments), nn.Conv2d(moments, width, 1), nn.ReLU(inplace=True), nn.Conv2d(width, width, 1)
        )
        self.weight = nn.Conv2d(width, 1, 1)
        self.scale = nn.BatchNorm1d(SPECTRUM_BANDS)
        self.head = nn.Sequential(
            nn.Linear(width + SPECTRUM_BANDS + CONDITIONS, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 256),
            nn.ReLU(inplace=True),
            nn.Linear(256, 2 * BLUR_BINS + 1),
        )

    def cells(self, images: Tensor) -> Cells:
        """Look at every whole cell of `images` (n, 1, h, w)."""
        rows, columns = images.shape[2] // CELL_PX, images.shape[3] // CELL_PX
        images = images[:, :, : rows * CELL_PX, : columns * CELL_PX]
        power = self.spectrum(images.float())
        return Cells(*self.look(images, power), power)

    def look(self, images: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        """Embedding and log weight of every cell; `power` as `RingSpectrum` gives it for the same images."""
        x = images
        moments = [octave_energies(images.float()), torch.log(power)]
        for index, stage in enumerate(self.stages):
            x = stage(x)
            side = CELL_PX >> (index + 1)
            mean, square = _moments(x, side)
            moments += [mean, torch.log(square + 1e-4)]
        embedding = self.cell(torch.cat(moments, dim=1))
        return embedding, self.weight(embedding)

    def judge(self, cells: Cells, conditions: Tensor) -> NetOutput:
        """Pool the cells by their weights and give logits; conditions (n, CONDITIONS)."""
        share = torch.softmax(cells.log_weight.float().flatten(2), dim=2)
        embedding = (cells.embedding.float().flatten(2) * share).sum(dim=2)
        # Powers add before the logarithm: the noise of a mean over many windows is small (Welch 1967).
        spectrum = torch.log((cells.power.flatten(2) * share).sum(dim=2))
        out = self.head(torch.cat([embedding, self.scale(spectrum), conditions], dim=1))
        return NetOutput(out[:, :BLUR_BINS], out[:, BLUR_BINS:-1], out[:, -1])

    def forward(self, images: Tensor, conditions: Tensor) -> NetOutput:
        """Judge frames (n, 1, h, w), already normalised, with conditions (n, CONDITIONS)."""
        return self.judge(self.cells(images), conditions)


class RingSpectrum(nn.Module):
    """Power in rings of frequency over windows of `WINDOW_PX` that overlap by half, given to the cells they cover."""

    rings: Tensor
    taper: Tensor

    def __init__(self) -> None:
        super().__init__()
        hann = np.hanning(WINDOW_PX).astype(np.float32)
        scale = 1.0 / float(np.sum(np.square(np.outer(hann, hann))))
        self.register_buffer("rings", torch.from_numpy(_rings() * scale), persistent=False)
        self.register_buffer("taper", torch.from_numpy(np.outer(hann, hann)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """From (n, 1, h, w) to (n, SPECTRUM_BANDS, h // 64, w // 64), in the frame's variance; at least 1e-5.

        Both sides must hold a window. A cell gets the mean of the windows that cover it (Welch 1967).
        """
        rows, columns = images.shape[2] // CELL_PX, images.shape[3] // CELL_PX
        whole = images[:, 0, : rows * CELL_PX, : columns * CELL_PX]
        windows = whole.unfold(1, WINDOW_PX, CELL_PX).unfold(2, WINDOW_PX, CELL_PX)
        spectrum = torch.fft.rfft2(windows * self.taper)
        power = spectrum.real.square() + spectrum.imag.square()
        bands = (power.flatten(3) @ self.rings + 1e-5).permute(0, 3, 1, 2)
        return functional.avg_pool2d(bands, 2, stride=1, padding=1, count_include_pad=False)


def _rings() -> NDArray[np.float32]:
    """Mean over the frequencies of every ring, as a matrix (frequencies of an rfft2, SPECTRUM_BANDS)."""
    fy = np.abs(np.fft.fftfreq(WINDOW_PX))[:, None]
    fx = np.fft.rfftfreq(WINDOW_PX)[None, :]
    radius = np.hypot(fy, fx).ravel()
    geometric = np.geomspace(1.5 / WINDOW_PX, 0.5, GEOMETRIC_BANDS - 2)
    edges = np.concatenate([[0.5 / WINDOW_PX], geometric, [0.6, 0.71]])
    linear = np.minimum(np.round(radius * WINDOW_PX).astype(int), LINEAR_BANDS + 1) - 1
    matrix = np.zeros((radius.size, SPECTRUM_BANDS), dtype=np.float32)
    for band, first, count in (
        (np.digitize(radius, edges) - 1, 0, GEOMETRIC_BANDS),
        (linear, GEOMETRIC_BANDS, LINEAR_BANDS),
    ):
        inside = (band >= 0) & (band < count)
        matrix[np.flatnonzero(inside), first + band[inside]] = 1.0
    return np.asarray(matrix / np.maximum(matrix.sum(axis=0), 1.0), dtype=np.float32)


def _moments(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and mean square over cells; by operations that any runtime can convert where no gradient is wanted."""
    if torch.is_grad_enabled() and x.requires_grad:
        moments: tuple[Tensor, Tensor] = CellMoments.apply(x, side)  # type: ignore[no-untyped-call]
        return moments
    values = x.float()
    return functional.avg_pool2d(values, side), functional.avg_pool2d(values.square(), side)


def octave_energies(images: Tensor) -> Tensor:
    """Logarithm of the energy in each octave of scale, and the peakedness there, over cells of 64 px.

    From (n, 1, h, w) to (n, 2 * OCTAVES, h // 64, w // 64). The variance within blocks of 2^(k+1) px beyond that within
    blocks of 2^k px is the energy between the two scales; mean modulus over root mean square tells edges from noise.
    """
    found = []
    level = images
    for octave in range(OCTAVES):
        coarse = functional.avg_pool2d(level, 2)
        fine = level[:, :, : 2 * coarse.shape[2], : 2 * coarse.shape[3]]
        band = fine - functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        side = CELL_PX >> octave
        energy = functional.avg_pool2d(band.square(), side) + 1e-6
        modulus = functional.avg_pool2d(band.abs(), side)
        found += [torch.log(energy), modulus / energy.sqrt()]
        level = coarse
    return torch.cat(found, dim=1)


def normalise(images: Tensor) -> Tensor:
    """Zero mean and unit standard deviation a frame: gain and offset of the camera leave no trace.

    `images` of shape (n, h, w), any real type; returns float32 of shape (n, 1, h, w). A frame of one value stays zero.
    """
    values = images.float()
    mean = values.mean(dim=(1, 2), keepdim=True)
    centred = values - mean
    sd = centred.square().mean(dim=(1, 2), keepdim=True).sqrt()
    return (centred / sd.clamp_min(1e-6)).unsqueeze(1)
