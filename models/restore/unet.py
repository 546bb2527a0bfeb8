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
from parfocal.models.cards import fill, load_card, load_weights, packaged_card_path, weights_path
from parfocal.models.precision import CHOICES as PRECISIONS
from parfocal.models.precision import settled
from parfocal.models.restore import refuse_options
from parfocal.models.restore.base import Blur, Restoration, check_frame
from parfocal.models.restore.gate import Claim, Gate
from parfocal.models.restore.kinds import packaged_judge
from parfocal.models.restore.levels import block_means
from parfocal.models.restore.strangeness import Strangeness
from parfocal.models.restore.unet_net import STRIDE, Prepared, RestoreNet, prepare

TILE_PX, OVERLAP_PX = 1024, 96
AROUND_PX, DOUBT = 8, 0.15
"""Squares over which the network's sureness is taken, and how much its stated variance counts against it."""
LARGEST_BLOCK = 31 << 20
"""Bytes, just below what glibc learns from (32 MiB)."""
OPTIONS = frozenset({"card", "device", "precision"})


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
        weights = weights_path(self.card, path)
        held = load_weights(self.card, weights)
        self._device = _device(str(options.get("device", "auto")))
        self._dtype = _dtype(str(options.get("precision", "auto")), self._device)
        self._strangeness, network = _network(held, weights)
        self._network = network.eval().to(device=self._device, dtype=self._dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._sd_scale = float(self.card.measured["calibration"]["sd_scale"])
        self._gate = Gate(judge=packaged_judge())
        _keep_freed_memory()

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
            image = restored.mul_(ready.scale).add_(ready.zero).numpy()
            claim = Claim(sd.mul_(ready.scale * self._sd_scale).numpy(), self._strangeness)
        return self._gate.after(self.name, pixels, ready.seen, image, claim, blur)

    def run(self, ready: Prepared) -> tuple[Tensor, Tensor]:
        """Restored image and sd (height, width) in units of the scale, on the host."""
        height, width = ready.channels.shape[1:]
        image, sd = torch.empty(2, height, width)
        for rows in _tiles(height):
            for columns in _tiles(width):
                part = ready.channels[None, :, rows.read, columns.read]
                restored, log_sd = self._one(part, ready.conditions[None])
                image[rows.write, columns.write] = restored[rows.keep, columns.keep]
                torch.exp(log_sd[rows.keep, columns.keep], out=sd[rows.write, columns.write])
        return tempered(image, ready.channels[2], sd), sd

    def _one(self, channels: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Run the network on one tile of any size."""
        height, width = channels.shape[2:]
        lacking = (-height % STRIDE, -width % STRIDE)
        shown = channels.to(device=self._device, dtype=self._dtype)
        if any(lacking):
            shown = torch.nn.functional.pad(shown, (0, lacking[1], 0, lacking[0]), mode="reflect")
        correction, log_sd = self._network.correct(shown, conditions.to(self._device, self._dtype))
        image = channels[0, 1] + correction[0, 0, :height, :width].float().cpu()
        return image, log_sd[0, 0, :height, :width].float().cpu()


def tempered(image: Tensor, filtered: Tensor, sd: Tensor) -> Tensor:
    """The network's image (height, width) where it is sure, Wiener's result where it is not.

    What the network adds to Wiener's stronger filter is taken by the share that its power has in its power and that of
    the error it states, over some pixels around: less than its own error it may as well have made up.
    """
    added = image - filtered
    power, doubt = (torch.from_numpy(block_means(one.square().numpy(), AROUND_PX)) for one in (added, sd))
    share, whole = _between(torch.stack([power, power + DOUBT * doubt + 1e-12]), image.shape)
    made: Tensor = share.div_(whole).mul_(added).add_(filtered)
    return made


def _between(means: Tensor, size: tuple[int, ...]) -> Tensor:
    """Means of squares (n, rows, columns) as `interpolate` spreads them; whole rows are mixed, which is faster."""
    count = means.shape[1]
    rows = torch.nn.functional.interpolate(means[None], size=(count, size[1]), mode="bilinear")[0]
    at = ((torch.arange(size[0]) + 0.5) * (count / size[0]) - 0.5).clamp_(min=0.0)
    low = at.long()
    high = (low + 1).clamp_(max=count - 1)
    return rows.index_select(1, low).lerp_(rows.index_select(1, high), (at - low)[:, None])


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


def _network(held: dict[str, Tensor], path: Path) -> tuple[Strangeness, RestoreNet]:
    """Take a weight file's content apart; raises `ModelError` if it is not this network's."""
    network = RestoreNet()
    strange = {name: held.pop(name) for name in Strangeness.KEYS if name in held}
    fill(network, held, path)
    try:
        return Strangeness.of_state(strange), network
    except (KeyError, RuntimeError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(
            f"weights in {path} do not say what this parfocal's network has seen ({first}): train it again"
        ) from error


def _keep_freed_memory() -> None:
    """Let the next frame have the last one's memory.

    glibc returns free memory to the system beyond twice the largest block that was ever freed, and every frame would
    have its pages mapped and cleared again, a tenth of its time. One large block, never written to, settles that.
    """
    torch.empty(LARGEST_BLOCK, dtype=torch.uint8)


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
    return torch.bfloat16 if settled(precision, device.type) == "bfloat16" else torch.float32


def make(options: Mapping[str, Any]) -> UnetRestorer:
    """Make the restorer from plain JSON options (see `UnetRestorer`)."""
    return UnetRestorer(options)
