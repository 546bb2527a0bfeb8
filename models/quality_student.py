"""The student: a fully convolutional quality network, an order of magnitude cheaper than the paper's."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from parfocal.models.artefacts import ARTEFACTS, HIDDEN, Classifier
from parfocal.models.cell_moments import CellMoments
from parfocal.models.metrics.markers import MARKERS, quick_markers
from parfocal.models.quality_net import PATCH_PX, QualityOutput, weighted_mean

TARGETS = ("frc", "mm")
RINGS = 18
"""Rings of frequency of a patch's power spectrum, one cycle a patch wide; the last holds the corners."""
COARSE = 4
"""Pixels along a side that are averaged for the coarse spectra, whose windows are as many patches wide."""
MAX_LOG_WEIGHT = 8.0
BAND_PX = 64
"""Rows that are squared at a time: a multiple of every patch's side in a map."""
_BASIS = 6
_FILTERS = (16, 24, 40, 64, 96)
_STATISTICS = 3


class StudentQualityNet(nn.Module):
    """Quality, weight and artefact of frames of any size from 32 px, whole frames at a time.

    Noise, blur and FRC are facts about spectra: each patch of 32 px is described by its power in rings of frequency, by
    the same of a window of 128 px about it, in which alone two strong blurs differ, by first and second moments of the
    channels of a convolutional trunk that halves the resolution five times (as in the defocus network), and by its mean
    and extremes. Vignetting is a fact about the whole frame: embeddings of the patches are pooled against low
    polynomials of their place, together with the frame's mean spectrum; the context made of that, and of what the
    markers of the whole frame say (see `metrics.markers`), names the artefact and is fed back to the head that judges
    every patch. A frame's score is the weighted mean of its patches, as in the paper.
    """

    def __init__(self, width: int = 128, context: int = 64) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        inputs = 1
        for index, outputs in enumerate(_FILTERS):
            stage: list[nn.Module] = [*_conv(inputs, outputs, kernel=5 if index == 0 else 3, stride=2)]
            stages.append(nn.Sequential(*stage, *([_Residual(outputs)] if index >= 2 else [])))
            inputs = outputs
        self.stages = nn.ModuleList(stages)
        self.spectrum = PatchSpectrum()
        features = 2 * sum(_FILTERS[:-1]) + _FILTERS[-1] + RINGS + _STATISTICS + RINGS
        self.embed = nn.Sequential(nn.BatchNorm2d(features), nn.Conv2d(features, width, 1), nn.ReLU(inplace=True))
        self.summary = nn.Conv2d(width, 48, 1)
        pooled = 48 * (_BASIS + 1) + RINGS
        self.frame = nn.Sequential(
            nn.BatchNorm1d(pooled), nn.Linear(pooled, 128), nn.ReLU(inplace=True),
            nn.Linear(128, context), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.measured = MarkerBranch()
        self.artefact = nn.Linear(context + HIDDEN, len(ARTEFACTS))
        self.told = nn.Linear(context + HIDDEN, width)
        self.local = nn.Conv2d(width, width, 1)
        self.judge = nn.Conv2d(width, 2 * len(TARGETS), 1)
        self.whole = nn.Linear(context + HIDDEN, len(TARGETS))

    def forward(self, images: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """Maps (n, 4, rows, columns) and artefact logits (n, 6) of scaled frames (n, 1, h, w).

        `measured` (n, MARKERS) are the markers of the same frames, of all their pixels. The maps are quality of every
        target of `TARGETS`, then the logarithm of its weight.
        """
        return self.conclude(*self.look(images), measured)

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the patches (n, width, rows, columns), and what they pool to; no markers are needed yet."""
        rows, columns = images.shape[2] // PATCH_PX, images.shape[3] // PATCH_PX
        images = images[:, :, : rows * PATCH_PX, : columns * PATCH_PX]
        power, coarse = self.spectrum(images), self.spectrum.coarse(images)
        seen = [*self._trunk(images), torch.log(power), *_statistics(images), torch.log(coarse)]
        embedding = self.embed(torch.cat(seen, dim=1))
        return embedding, self._pooled(embedding, power)

    def conclude(self, embedding: Tensor, pooled: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """Maps and artefact logits, as of `forward`, of frames that were looked at and measured."""
        context = torch.cat([self.frame(pooled).float(), self.measured(measured).float()], dim=1)
        hidden = torch.relu(self.local(embedding) + self.told(context)[:, :, None, None])
        maps, whole = self.judge(hidden).float(), self.whole(context).float()
        quality = maps[:, : len(TARGETS)] + whole[:, :, None, None]
        return torch.cat([quality, maps[:, len(TARGETS) :]], dim=1), self.artefact(context).float()

    def outputs(self, images: Tensor) -> dict[str, QualityOutput]:
        """Judge whole scaled frames (n, 1, h, w): one output a target."""
        return outputs(*self(images, quick_markers(images[:, 0])))

    def _trunk(self, images: Tensor) -> list[Tensor]:
        """Moments of every stage over the patches; of the last, whose pixels are the patches, the values."""
        x, found = images, []
        for index, stage in enumerate(self.stages[:-1]):
            x = stage(x)
            mean, square = _moments(x, PATCH_PX >> (index + 1))
            found += [mean, torch.log(square + 1e-4)]
        return [*found, self.stages[-1](x).float()]

    def _pooled(self, embedding: Tensor, power: Tensor) -> Tensor:
        """What the frame as a whole is like: moments against place, spread, and mean spectrum (n, pooled)."""
        summary = self.summary(embedding).float()
        rows, columns = summary.shape[2:]
        flat = summary.flatten(2)
        moments = flat @ _polynomials(rows, columns, flat) / (rows * columns)
        spread = (flat - flat.mean(dim=2, keepdim=True)).square().mean(dim=2).add(1e-6).sqrt()
        return torch.cat([moments.flatten(1), spread, torch.log(power.mean(dim=(2, 3)))], dim=1)


class StudentTrunk(nn.Module):
    """The part of the student that costs, for the runner."""

    def __init__(self, network: StudentQualityNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `StudentQualityNet.look`."""
        return self.network.look(images)


def outputs(maps: Tensor, logits: Tensor) -> dict[str, QualityOutput]:
    """Scores of every target from what `StudentQualityNet.forward` gives."""
    found = {}
    for index, target in enumerate(TARGETS):
        quality = maps[:, index]
        # Exponentials never die, unlike the ReLU of the paper's weight head.
        weight = torch.exp(maps[:, len(TARGETS) + index].clamp(-MAX_LOG_WEIGHT, MAX_LOG_WEIGHT))
        score = weighted_mean(quality.flatten(1), weight.flatten(1))
        found[target] = QualityOutput(score, quality, weight, logits)
    return found


class MarkerBranch(nn.Module):
    """What the markers of a whole frame say, (n, HIDDEN): the layers below the last of an artefact classifier."""

    mean: Tensor
    sd: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(MARKERS))
        self.register_buffer("sd", torch.ones(MARKERS))
        self.layers = nn.Sequential(nn.Linear(MARKERS, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU())

    def begin_as(self, classifier: Classifier) -> None:
        """Start where a trained classifier of the same markers ended."""
        self.mean.copy_(classifier.mean)
        self.sd.copy_(classifier.sd)
        self.layers.load_state_dict(
            {f"{i}.{key}": value for i in (0, 2) for key, value in classifier.layers[i].state_dict().items()}
        )

    def forward(self, measured: Tensor) -> Tensor:
        """Hidden units of markers (n, MARKERS), which are held within what was trained on."""
        found: Tensor = self.layers(((measured - self.mean) / self.sd).clamp(-5.0, 5.0))
        return found


class PatchSpectrum(nn.Module):
    """Power of every patch in rings of frequency, by two matrix products: any runtime has those."""

    across: Tensor
    down: Tensor
    rings: Tensor
    taper: Tensor

    def __init__(self) -> None:
        super().__init__()
        n, half = PATCH_PX, PATCH_PX // 2 + 1
        turn = 2 * np.pi * np.outer(np.arange(n), np.arange(n)) / n
        across = np.concatenate([np.cos(turn[:, :half]), -np.sin(turn[:, :half])], axis=1)
        down = np.block([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]).T
        frequency = np.hypot(np.minimum(np.arange(n), n - np.arange(n))[:, None], np.arange(half)[None, :])
        band = np.minimum(np.round(frequency), RINGS).astype(int).ravel() - 1  # the mean, ring -1, is left out
        rings = np.zeros((n * half, RINGS))
        inside = np.flatnonzero(band >= 0)
        rings[inside, band[inside]] = 1.0
        hann = np.outer(*[np.hanning(n + 1)[:-1]] * 2)
        rings /= rings.sum(axis=0) * np.square(hann).sum()
        rings = rings.reshape(n, half, RINGS).swapaxes(0, 1).reshape(n * half, RINGS)
        for name, values in (("across", across), ("down", down), ("rings", rings), ("taper", hann)):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float32)), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """From (n, 1, h, w) to (n, RINGS, h // 32, w // 32), in the frame's variance; at least 1e-8."""
        n, _, height, width = images.shape
        rows, columns = height // PATCH_PX, width // PATCH_PX
        patches = images.float().reshape(n, rows, PATCH_PX, columns, PATCH_PX).permute(0, 1, 3, 2, 4)
        return self._power(patches)

    def coarse(self, images: Tensor) -> Tensor:
        """The same of windows of `COARSE` patches a side about every patch, of pixels `COARSE` times as wide.

        A strong blur leaves nothing in the rings of a patch but the first; here it is several rings wide. Beyond the
        frame its border goes on.
        """
        step, margin = PATCH_PX // COARSE, (PATCH_PX - PATCH_PX // COARSE) // 2
        binned = functional.avg_pool2d(images.float(), COARSE)
        padded = functional.pad(binned, (margin, margin, margin, margin), mode="replicate")[:, 0]
        return self._power(padded.unfold(1, PATCH_PX, step).unfold(2, PATCH_PX, step))

    def _power(self, patches: Tensor) -> Tensor:
        kind = patches.device.type
        if torch.is_autocast_enabled(kind):
            # The rounding of bfloat16 would drown what little power a clean image has at high frequencies.
            with torch.autocast(kind, enabled=False):
                return self._rings(patches)
        return self._rings(patches)

    def _rings(self, patches: Tensor) -> Tensor:
        n, rows, columns = patches.shape[:3]
        centred = (patches - patches.mean(dim=(3, 4), keepdim=True)) * self.taper
        half = PATCH_PX // 2 + 1
        # Every product is one of two matrices: thousands of small ones, patch by patch, take four times as long.
        lines = (centred.reshape(-1, PATCH_PX) @ self.across).reshape(-1, PATCH_PX, 2, half)
        spectrum = lines.permute(0, 3, 2, 1).reshape(-1, 2 * PATCH_PX) @ self.down
        power = spectrum[:, :PATCH_PX].square() + spectrum[:, PATCH_PX:].square()
        power = power.reshape(-1, half * PATCH_PX) @ self.rings
        return (power + 1e-8).reshape(n, rows, columns, RINGS).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """One convolution beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(channels, channels, kernel=3, stride=1))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape out as in."""
        out: Tensor = x + self.body(x)
        return out


def _conv(inputs: int, outputs: int, *, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _moments(x: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Mean and mean square over patches; by operations that any runtime can convert where no gradient is wanted."""
    if torch.is_grad_enabled() and x.requires_grad:
        moments: tuple[Tensor, Tensor] = CellMoments.apply(x, side)  # type: ignore[no-untyped-call]
        return moments
    mean = functional.avg_pool2d(x.float(), side)
    if torch.compiler.is_exporting():
        return mean, functional.avg_pool2d(x.float().square(), side)
    # A band at a time: the squares of a whole map do not fit the cache, and fetching fresh memory for them costs most.
    bands = torch.split(x, BAND_PX, dim=2)
    return mean, torch.cat([functional.avg_pool2d(band.float().square(), side) for band in bands], dim=2)


def _statistics(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, largest and smallest pixel of every patch, each (n, 1, rows, columns)."""
    n, _, height, width = images.shape
    cells = images.float().reshape(n, height // PATCH_PX, PATCH_PX, width // PATCH_PX, PATCH_PX)
    found = (cells.mean(dim=(2, 4)), cells.amax(dim=(2, 4)), cells.amin(dim=(2, 4)))
    return found[0][:, None], found[1][:, None], found[2][:, None]


def _polynomials(rows: int, columns: int, like: Tensor) -> Tensor:
    """Polynomials to second degree of a patch's place in the frame, -1..1 either way: (rows * columns, 6)."""
    y = (2 * torch.arange(rows, device=like.device, dtype=like.dtype) + 1) / rows - 1
    x = (2 * torch.arange(columns, device=like.device, dtype=like.dtype) + 1) / columns - 1
    y, x = y[:, None].expand(rows, columns), x[None, :].expand(rows, columns)
    terms = [torch.ones_like(x), x, y, x * x + y * y, x * x - y * y, x * y]
    return torch.stack([term.flatten() for term in terms], dim=1)
