"""The learned restorer: filters, network, tiles, and what the gate is told about the result."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.base import ModelCard, ModelError
from parfocal.models.cards import load_card, load_weights, packaged_card_path, weights_path
from parfocal.models.restore import refuse_options
from parfocal.models.restore.base import Blur, Restoration, check_frame
from parfocal.models.restore.gate import Claim, Gate
from parfocal.models.restore.kinds import packaged_judge
from parfocal.models.restore.strangeness import Strangeness
from parfocal.models.restore.unet_net import STRIDE, Prepared, RestoreNet, prepare

TILE_PX, OVERLAP_PX = 1024, 96
AROUND_PX, DOUBT = 8, 0.15
"""Squares over which the network's sureness is taken, and how much its stated variance counts against it."""
OPTIONS = frozenset({"card", "device", "precision"})
PRECISIONS = ("auto", "float32", "bfloat16")


class UnetRestorer:
    """Residual U-Net on top of Wiener's filters, with its own error map.

    Parameters
    ----------
    options : mapping
        ``card`` (path of another card), ``device`` (``auto``, ``cpu``, ``cuda``...), ``precision`` (``auto``: bfloat16
        where the machine has its arithmetic).

    Raises
    ------
    RestoreError
        Unknown option.
    ModelError
        Weights that are missing or not those of the card, a device or precision that is not there.
    """

    name = "unet"

    def __init__(self, options: Mapping[str, Any]) -> None:
        refuse_options(self.name, options, OPTIONS)
        path = Path(options["card"]) if options.get("card") else packaged_card_path("restore")
        self.card: ModelCard = load_card(path)
        held = load_weights(self.card, weights_path(self.card, path))
        self._device = _device(str(options.get("device", "auto")))
        self._dtype = _dtype(str(options.get("precision", "auto")), self._device)
        self._strangeness, network = _network(self.card, held)
        self._network = network.eval().to(device=self._device, dtype=self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._sd_scale = float(self.card.measured["calibration"]["sd_scale"])
        self._gate = Gate(judge=packaged_judge())

    def describe(self) -> Mapping[str, Any]:
        """Which device and precision run the network."""
        return {"device": str(self._device), "precision": str(self._dtype).removeprefix("torch.")}

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        """See `Restorer`."""
        pixels = check_frame(frame)
        with torch.inference_mode():
            seen = self._gate.admit(self.name, frame, pixels, blur)
            if isinstance(seen, Restoration):
                return seen
            ready = prepare(pixels, blur, seen)
            restored, sd = self.run(ready)
        image = (restored * ready.scale + ready.zero).numpy()
        claim = Claim((sd * (ready.scale * self._sd_scale)).numpy(), self._strangeness)
        return self._gate.after(self.name, pixels, ready.seen, image, claim, blur)

    def run(self, ready: Prepared) -> tuple[Tensor, Tensor]:
        """Restored image and sd (height, width) in units of the scale, on the host."""
        height, width = ready.channels.shape[1:]
        image, sd = torch.empty(height, width), torch.empty(height, width)
        for rows in _tiles(height):
            for columns in _tiles(width):
                part = ready.channels[None, :, rows.read, columns.read]
                restored, log_sd = self._one(part, ready.conditions[None])
                image[rows.write, columns.write] = restored[rows.keep, columns.keep]
                sd[rows.write, columns.write] = torch.exp(log_sd[rows.keep, columns.keep])
        return tempered(image, ready.channels[2], sd), sd

    def _one(self, channels: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on one tile of any size."""
        height, width = channels.shape[2:]
        lacking = (-height % STRIDE, -width % STRIDE)
        padded = torch.nn.functional.pad(channels, (0, lacking[1], 0, lacking[0]), mode="reflect")
        shown = padded.to(device=self._device, dtype=self._dtype).contiguous(memory_format=torch.channels_last)
        correction, log_sd = self._network.correct(shown, conditions.to(self._device, self._dtype))
        image = channels[0, 1] + correction[0, 0, :height, :width].float().cpu()
        return image, log_sd[0, 0, :height, :width].float().cpu()


def tempered(image: Tensor, filtered: Tensor, sd: Tensor) -> Tensor:
    """The network's image (height, width) where it is sure, Wiener's result where it is not.

    What the network adds to Wiener's stronger filter is taken by the share that its power has in its power and that of
    the error it states, over some pixels around: less than its own error it may as well have made up.
    """
    added = image - filtered
    power, doubt = (_around(one.square()) for one in (added, sd))
    return filtered + added * (power / (power + DOUBT * doubt + 1e-12))


def _around(image: Tensor) -> Tensor:
    """Means over squares of `AROUND_PX`, interpolated between their centres."""
    means = torch.nn.functional.avg_pool2d(image[None, None], AROUND_PX, ceil_mode=True, count_include_pad=False)
    return torch.nn.functional.interpolate(means, size=image.shape, mode="bilinear")[0, 0]


class _Tile:
    """One stretch of an axis: what is read, what of it is kept, where that goes."""

    def __init__(self, start: int, stop: int, length: int) -> None:
        low, high = max(0, start - OVERLAP_PX), min(length, stop + OVERLAP_PX)
        self.read, self.write = slice(low, high), slice(start, stop)
        self.keep = slice(start - low, stop - low)


def _tiles(length: int) -> list[_Tile]:
    """Stretches of at most `TILE_PX`, evenly; each reads `OVERLAP_PX` more on both sides."""
    if length <= TILE_PX + 2 * OVERLAP_PX:
        return [_Tile(0, length, length)]
    edges = np.linspace(0, length, -(-length // TILE_PX) + 1).round().astype(int)
    return [_Tile(int(a), int(b), length) for a, b in itertools.pairwise(edges)]


def _network(card: ModelCard, held: dict[str, Tensor]) -> tuple[Strangeness, RestoreNet]:
    """Take a weight file's content apart; raises `ModelError` if it is not this network's."""
    network = RestoreNet()
    try:
        strangeness = Strangeness.of_state({name: held.pop(name) for name in Strangeness.KEYS})
        network.load_state_dict(held)
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"weights of {card.name!r} do not fit this parfocal's network ({first}): train it again"
        ) from error
    return strangeness, network


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {name!r} cannot be used: {error}") from error
    return device


def _dtype(precision: str, device: torch.device) -> torch.dtype:
    if precision not in PRECISIONS:
        raise ModelError(f"precision must be one of {', '.join(PRECISIONS)} (got {precision!r})")
    if precision == "auto":
        from parfocal.models.quality_runtime import has_bfloat16

        precision = "bfloat16" if device.type == "cuda" or has_bfloat16() else "float32"
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def make(options: Mapping[str, Any]) -> UnetRestorer:
    """Make the restorer from plain JSON options (see `UnetRestorer`)."""
    return UnetRestorer(options)
