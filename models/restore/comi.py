"""COMI's generator as a restorer: the historical peer, behind the same gate as the others."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from parfocal.models.base import ModelCard, ModelError, WeightsMissingError
from parfocal.models.cards import PACKAGED, load_card, load_into
from parfocal.models.precision import settled
from parfocal.models.restore import refuse_options
from parfocal.models.restore.base import Blur, Restoration, check_frame
from parfocal.models.restore.comi_net import STRIDE, ComiGenerator, from_network, to_network
from parfocal.models.restore.gate import Gate
from parfocal.models.restore.kinds import packaged_judge
from parfocal.models.restore.unet_net import prepare
from parfocal.models.runtime import Runner

NAME = "restore_comi"
OPTIONS = frozenset({"card", "device", "precision", "threads"})
SHAPE = ("width", "blocks", "upsampling", "residual")
"""What a card's `input` has to say of the generator."""
EDGE_PX = 32
"""The frame is mirrored so far beyond its edges, where the network's zeros would be seen otherwise."""
TILE_PX, OVERLAP_PX = 1024, 96


class ComiRestorer:
    """The paper's generator, which is shown the frame and nothing else.

    Parameters
    ----------
    options : mapping
        ``card`` (path; by default the packaged one, if there is one), ``device`` (``auto``, ``cpu``, ``cuda``...),
        ``precision`` (``auto``: bfloat16 where the machine has its arithmetic; ``float32``, ``bfloat16``), ``threads``.

    Raises
    ------
    RestoreError
        An option that it does not take.
    WeightsMissingError
        No card is given and none is packaged.
    ModelError
        Weights that are not those of the card, a card of something else, a device or precision that is not there.
    """

    name = "comi"

    def __init__(self, options: Mapping[str, Any]) -> None:
        refuse_options(self.name, options, OPTIONS)
        path = Path(options["card"]) if options.get("card") else _packaged()
        self.card: ModelCard = load_card(path)
        network = load_generator(self.card, path)
        device, precision = str(options.get("device") or "auto"), str(options.get("precision") or "auto")
        if precision == "auto":
            precision = settled("auto", "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
        self._runner = Runner(
            network, device=device, precision=precision, backend="torch", chunk=1, threads=options.get("threads")
        )
        self._gate = Gate(judge=packaged_judge())

    def describe(self) -> Mapping[str, Any]:
        """Device, backend, precision."""
        return self._runner.describe()

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        """See `Restorer`; the blur is for the gate and the scaling alone."""
        pixels = check_frame(frame)
        with torch.inference_mode():
            seen = self._gate.admit(self.name, frame, pixels, blur)
            if isinstance(seen, Restoration):
                return seen
            ready = prepare(pixels, blur, seen)
            restored = from_network(self.run(to_network(ready.channels[0])))
            image = (restored * ready.scale + ready.zero).numpy()
        return self._gate.after(self.name, pixels, ready.seen, image, None, blur)

    def run(self, image: Tensor) -> Tensor:
        """What the generator makes of an image (height, width) of any size from `EDGE_PX` on, in its own units."""
        height, width = image.shape
        wide = pad(image[None, None], (EDGE_PX,) * 4, mode="reflect")
        out = torch.empty(height, width)
        for rows, columns in itertools.product(_stretches(height), _stretches(width)):
            # An offset of the margin: a stretch of the frame begins `EDGE_PX` later in what was mirrored.
            top, left = (max(0, part.start + EDGE_PX - OVERLAP_PX) for part in (rows, columns))
            part = wide[:, :, top : rows.stop + EDGE_PX + OVERLAP_PX, left : columns.stop + EDGE_PX + OVERLAP_PX]
            lacking = (-part.shape[2] % STRIDE, -part.shape[3] % STRIDE)
            (made,) = self._runner.run(pad(part, (0, lacking[1], 0, lacking[0]), mode="reflect"))
            y, x = rows.start + EDGE_PX - top, columns.start + EDGE_PX - left
            out[rows, columns] = made[0, 0, y : y + rows.stop - rows.start, x : x + columns.stop - columns.start]
        return out


def _stretches(length: int) -> Iterator[slice]:
    """An axis in one piece, or in about even ones of at most `TILE_PX`: activations of 64 channels are large."""
    count = 1 if length <= TILE_PX + 2 * OVERLAP_PX else -(-length // TILE_PX)
    edges = np.linspace(0, length, count + 1).round().astype(int)
    for start, stop in itertools.pairwise(edges):
        yield slice(int(start), int(stop))


def load_generator(card: ModelCard, path: Path) -> ComiGenerator:
    """The generator of a card, in evaluation mode.

    Raises
    ------
    ModelError
        The card is of something else or does not describe its generator, or the weights are not its own.
    """
    if card.architecture != ComiGenerator.__name__:
        raise ModelError(f"{path} describes a {card.architecture!r}, not a {ComiGenerator.__name__!r}")
    missing = [name for name in SHAPE if name not in card.input]
    if missing:
        raise ModelError(f"{path} does not describe its generator: 'input' lacks {missing[0]!r}")
    try:
        width, blocks, upsampling, residual = (card.input[name] for name in SHAPE)
        network = ComiGenerator(width, blocks, upsampling=upsampling, residual=residual)
    except (RuntimeError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[-1].strip()
        raise ModelError(f"weights of {path} are not those of the generator it describes: {problem}") from error
    load_into(network, card, path)
    return network.eval()


def _packaged() -> Path:
    path = PACKAGED / f"{NAME}.json"
    if not path.is_file():
        raise WeightsMissingError(
            "the weights of COMI do not come with parfocal (23 MB of a method for comparison): make them with "
            f"`parfocal train restore --method comi --out DIR` and give the card, DIR/{NAME}.json, as option 'card'"
        )
    return path


def make(options: Mapping[str, Any]) -> ComiRestorer:
    """Make the restorer from plain JSON options (see `ComiRestorer`)."""
    return ComiRestorer(options)
