"""How the defocus network gets to see a frame: normalised, binned, cut into tiles that threads share out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from parfocal.models.defocus_net import CELL_PX, WINDOW_PX, Cells, CompactDefocusNet
from parfocal.models.runtime import Runner

TILE_PX = 256
TOGETHER = 2
"""Tiles run at a time: small convolutions are cheaper in pairs, and the activations of more leave the cache."""
LARGE_VIEW_PX = 1_000_000
Place = tuple[slice, slice]
_T = TypeVar("_T")


@dataclass(frozen=True)
class View:
    """A frame (height, width) as it is or binned; nothing is converted or binned before it is asked for."""

    frame: NDArray[Any]
    binning: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Sides in pixels of the view; a rest at the far edges is left out."""
        return self.frame.shape[0] // self.binning, self.frame.shape[1] // self.binning

    def part(self, place: Place) -> NDArray[np.float32]:
        """Pixels of a part."""
        k = self.binning
        return binned(self.frame[tuple(slice(k * cut.start, k * cut.stop) for cut in place)], k)

    def scale(self) -> tuple[np.float32, np.float32]:
        """Mean and standard deviation; of every fourth row of a large view."""
        rows, columns = self.shape
        whole = self.frame[: rows * self.binning].reshape(rows, self.binning, -1)
        every = 4 if rows * columns > LARGE_VIEW_PX else 1
        sample = binned(whole[::every].reshape(-1, whole.shape[2]), self.binning)
        return np.float32(sample.mean(dtype=np.float64)), np.float32(max(float(sample.std(dtype=np.float64)), 1e-6))


class Looker:
    """Cells of a view of a frame, a few tiles at a time, so that the activations stay in the cache.

    Which tiles go together depends on the view's shape alone, so that neither the number of threads nor the load of the
    machine changes a bit of the result.

    Parameters
    ----------
    network : CompactDefocusNet
        In evaluation mode.
    runner : Runner
        Of a `CellTrunk` of the same network.
    threads : int
        Groups of tiles looked at side by side. Each has a thread to itself: threads that work on one tile together wait
        for the slowest after every layer, and on a busy machine that is most of the time.
    """

    def __init__(self, network: CompactDefocusNet, runner: Runner, threads: int) -> None:
        self._network = network
        self._runner = runner
        self._threads = max(1, threads)
        self._pool: ThreadPoolExecutor | None = None
        self._lead: ThreadPoolExecutor | None = None

    def lead(self, function: Callable[..., _T], *args: Any) -> _T:
        """Call what uses this looker, from a thread in which torch has one thread too.

        Where the caller's torch has several, those that share out even a small product go on spinning after it, for
        longer than a tile takes and on the cores of the threads that look at tiles.
        """
        if self._lead is None:
            self._lead = _single_threaded(1, "defocus-lead")
        return self._lead.submit(function, *args).result()

    def cells(self, view: View) -> Cells:
        """All cells of a view, as a frame of one."""
        places, rows, columns = tiling(view.shape)
        found = self.tiles(view, places)
        lines = [found[i * columns : (i + 1) * columns] for i in range(rows)]
        joined = [[torch.cat(part, dim=3) for part in zip(*line, strict=True)] for line in lines]
        return Cells(*(torch.cat(part, dim=2) for part in zip(*joined, strict=True)))

    def pooled(self, view: View, places: Sequence[Place]) -> Cells:
        """The cells of some tiles of equal size, as one frame; where they lie is lost, which pooling does not mind."""
        return Cells(*(torch.cat(part, dim=3) for part in zip(*self.tiles(view, places), strict=True)))

    def tiles(self, view: View, places: Sequence[Place]) -> list[tuple[Tensor, ...]]:
        """Embedding, log weight and power (1, c, rows, columns) of each tile."""
        mean, sd = view.scale()

        def look(group: Sequence[Place]) -> list[tuple[Tensor, ...]]:
            images = np.stack([view.part(place) for place in group])[:, None]
            images -= mean
            images /= sd
            together = _at_least_one_window(torch.from_numpy(images))
            with torch.inference_mode():
                power = self._network.spectrum(together)
                embedding, weight = self._runner.run(together, power)
                parts = (embedding.float(), weight.float(), power)
                return list(zip(*(part.split(1) for part in parts), strict=True))

        groups = _together(places)
        if self._pool is None:
            self._pool = _single_threaded(self._threads, "defocus-tile")
            # The first goes alone: it may make the runner choose its backend.
            found = [self._pool.submit(look, groups[0]).result(), *self._pool.map(look, groups[1:])]
        else:
            found = list(self._pool.map(look, groups))
        return [tile for group in found for tile in group]


def _single_threaded(threads: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=torch.set_num_threads, initargs=(1,))


def binned(frame: NDArray[Any], binning: int) -> NDArray[np.float32]:
    """Mean over blocks of `binning` squared pixels, float32; a rest at the far edges is left out."""
    values = np.ascontiguousarray(frame, dtype=np.float32)
    if binning == 1:
        return values
    h, w = (side // binning for side in frame.shape)
    # Whole rows first: sums along contiguous memory, and then a fraction of it to stride through.
    lines = values[: h * binning].reshape(h, binning, -1).sum(axis=1, dtype=np.float32)
    total = lines[:, 0 : w * binning : binning] + lines[:, 1 : w * binning : binning]
    for j in range(2, binning):
        total += lines[:, j : w * binning : binning]
    total /= np.float32(binning**2)
    return np.asarray(total, dtype=np.float32)


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


def _together(places: Sequence[Place]) -> list[list[Place]]:
    """Neighbours of equal size in groups of `TOGETHER`."""
    groups: list[list[Place]] = []
    for _, same in groupby(places, lambda place: [cut.stop - cut.start for cut in place]):
        run = list(same)
        groups += [run[i : i + TOGETHER] for i in range(0, len(run), TOGETHER)]
    return groups


def _at_least_one_window(images: Tensor) -> Tensor:
    """Mirror a view smaller than a window up to one, again if need be."""
    while min(images.shape[2:]) < WINDOW_PX:
        short = [min(max(0, WINDOW_PX - side), side - 1) for side in images.shape[2:]]
        images = nn.functional.pad(images, (0, short[1], 0, short[0]), mode="reflect")
    return images
