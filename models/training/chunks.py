"""Examples made by worker processes, in an order that depends on the seed alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.models.training.fields import Split, load_fields
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.synthesis import Example, Synthesiser, stack
from parfocal.models.training.workers import worker_pool

EXPOSURES_PER_SCENE = 2


@dataclass(frozen=True)
class Source:
    """What examples are made of: real fields of one split (or None), procedural specimens, a seed."""

    fields: Path | None
    split: Split
    procedural: int
    size_px: int
    seed: int


@lru_cache(maxsize=2)
def object_bank(source: Source) -> ObjectBank:
    """The bank of a source, made once in a process."""
    fields = load_fields(source.fields, source.split) if source.fields else []
    return ObjectBank(fields, procedural=source.procedural, seed=source.seed)


@lru_cache(maxsize=2)
def _synthesiser(source: Source) -> Synthesiser:
    return Synthesiser(object_bank(source), size_px=source.size_px, seed=source.seed)


def make_chunk(source: Source, number: int, examples: int) -> dict[str, NDArray[Any]]:
    """Chunk `number` of a source: the same whoever makes it and whenever. Counts come as uint16."""
    synthesiser = _synthesiser(source)
    synthesiser.rng = np.random.default_rng((source.seed, number))
    drawn: list[Example] = []
    while len(drawn) < examples:
        drawn.extend(synthesiser.exposures(EXPOSURES_PER_SCENE))
    chunk = stack(drawn[:examples])
    chunk["counts"] = chunk["counts"].astype(np.uint16)
    return chunk


ChunkMaker = Callable[[Source, int, int], dict[str, NDArray[Any]]]


def chunks(
    source: Source, *, count: int, examples: int, workers: int, start: int = 0, make: ChunkMaker = make_chunk
) -> Iterator[dict[str, NDArray[Any]]]:
    """Chunks `start` to `count`, in order, made ahead by `workers` processes (0: in this one) with `make`."""
    if workers == 0:
        for number in range(start, count):
            yield make(source, number, examples)
        return
    with worker_pool(workers) as pool:
        ahead: deque[Future[dict[str, NDArray[Any]]]] = deque()
        for number in range(start, count):
            ahead.append(pool.submit(make, source, number, examples))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
