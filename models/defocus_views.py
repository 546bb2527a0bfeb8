"""How the defocus network gets to see a frame: normalised, binned, cut into tiles that threads share out."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal.models.defocus_net import CELL_PX, WINDOW_PX, Cells, CompactDefocusNet
from parfocal.models.runtime import Runner

TILE_PX = 256
Place = tuple[slice, slice]


class CellTrunk(nn.Module):
    """The part of the network that costs, for the runner; Fourier transforms, which not every backend has, stay out."""

    def __init__(self, network: CompactDefocusNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor, power: Tensor) -> tuple[Tensor, Tensor]:
        """See `CompactDefocusNet.look`."""
        return self.network.look(images, power)


class Looker:
    """Cells of a view of a frame, tile by tile, so that the activations stay in the cache.

    Parameters
    ----------
    network : CompactDefocusNet
        In evaluation mode.
    runner : Runner
        Of a `CellTrunk` of the same network.
    threads : int
        Tiles looked at side by side. Each has a thread to itself: threads that work on one tile together wait for the
        slowest after every layer, and on a busy machine that is most of the time.
    """

    def __init__(self, network: CompactDefocusNet, runner: Runner, threads: int) -> None:
        self._network = network
        self._runner = runner
        self._threads = max(1, threads)
        self._pool: ThreadPoolExecutor | None = None

    def cells(self, view: NDArray[np.float32]) -> Cells:
        """All cells of a view (height, width), as a frame of one."""
        places, rows, columns = tiling((view.shape[0], view.shape[1]))
        found = self.tiles(view, places)
        lines = [found[i * columns : (i + 1) * columns] for i in range(rows)]
        joined = [[torch.cat(part, dim=3) for part in zip(*line, strict=True)] for line in lines]
        return Cells(*(torch.cat(part, dim=2) for part in zip(*joined, strict=True)))

    def pooled(self, view: NDArray[np.float32], places: Sequence[Place]) -> Cells:
        """The cells of some tiles of equal size, as one frame; where they lie is lost, which pooling does not mind."""
        return Cells(*(torch.cat(part, dim=3) for part in zip(*self.tiles(view, places), strict=True)))

    def tiles(self, view: NDArray[np.float32], places: Sequence[Place]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Embedding, log weight and power (1, c, rows, columns) of each tile."""
        mean, sd = _scale(view)

        def look(place: Place) -> tuple[Tensor, Tensor, Tensor]:
            tile = _at_least_one_window(torch.from_numpy((view[place] - mean) / sd)[None, None])
            with torch.inference_mode():
                power = self._network.spectrum(tile)
                embedding, weight = self._runner.run(tile, power)
            return embedding.float(), weight.float(), power

        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self._threads, thread_name_prefix="defocus-tile", initializer=torch.set_num_threads, initargs=(1,)
            )
            # The first goes alone: it may make the runner choose its backend.
            return [self._pool.submit(look, places[0]).result(), *self._pool.map(look, places[1:])]
        return list(self._pool.map(look, places))


def binned(frame: NDArray[Any], binning: int) -> NDArray[np.float32]:
    """Mean over blocks of `binning` squared pixels, float32; a rest at the far edges is left out."""
    if binning == 1:
        return np.ascontiguousarray(frame, dtype=np.float32)
    h, w = (side // binning * binning for side in frame.shape)
    total = np.zeros((h // binning, w // binning), dtype=np.float32)
    for i in range(binning):  # strided sums: several times faster than a mean over two axes of a view
        for j in range(binning):
            total += frame[i:h:binning, j:w:binning]
    return np.asarray(total / np.float32(binning**2), dtype=np.float32)


def tiling(shape: tuple[int, int]) -> tuple[list[Place], int, int]:
    """Tiles of whole cells that cover a view, row by row, and the number of rows and columns of them."""
    rows, columns = (_cuts(side) for side in shape)
    places = [(slice(*row), slice(*column)) for row in rows for column in columns]
    return places, len(rows), len(columns)


def _cuts(side: int) -> list[tuple[int, int]]:
    """Whole cells of a side, cut into tiles; a remainder of less than a window goes to the tile before it."""
    whole = side - side % CELL_PX if side >= WINDOW_PX else side
    starts = list(range(0, whole, TILE_PX))
    if len(starts) > 1 and whole - starts[-1] < WINDOW_PX:
        starts.pop()
    return list(zip(starts, [*starts[1:], whole], strict=True))


def _scale(view: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    """Mean and standard deviation of a view; of every fourth row of a large one."""
    sample = view[::4] if view.size > 1_000_000 else view
    return np.float32(sample.mean(dtype=np.float64)), np.float32(max(float(sample.std(dtype=np.float64)), 1e-6))


def _at_least_one_window(images: Tensor) -> Tensor:
    """Mirror a view smaller than a window up to one, again if need be."""
    while min(images.shape[2:]) < WINDOW_PX:
        short = [min(max(0, WINDOW_PX - side), side - 1) for side in images.shape[2:]]
        images = nn.functional.pad(images, (0, short[1], 0, short[0]), mode="reflect")
    return images
