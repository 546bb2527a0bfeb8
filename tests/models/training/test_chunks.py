from __future__ import annotations

import numpy as np
import pytest

from parfocal.models.training.chunks import Source, chunks, make_chunk

SOURCE = Source(fields=None, split="train", procedural=2, size_px=128, seed=11)


def test_a_chunk_is_the_same_whoever_makes_it_and_whenever() -> None:
    alone = make_chunk(SOURCE, 2, 3)
    here = list(chunks(SOURCE, count=3, examples=3, workers=0))
    elsewhere = list(chunks(SOURCE, count=3, examples=3, workers=1, start=1))
    assert len(here) == 3
    assert len(elsewhere) == 2
    for one, two in ((alone, here[2]), (here[1], elsewhere[0]), (here[2], elsewhere[1])):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_chunks_differ_by_number_and_by_seed() -> None:
    first = make_chunk(SOURCE, 0, 3)
    assert first["counts"].shape == (3, 128, 128)
    assert first["counts"].dtype == np.uint16
    assert first["counts"].max() > 0
    other = Source(fields=None, split="train", procedural=2, size_px=128, seed=12)
    for second in (make_chunk(SOURCE, 1, 3), make_chunk(other, 0, 3)):
        assert not np.array_equal(first["blur_px"], second["blur_px"])


@pytest.mark.parametrize("examples", [1, 4, 5])
def test_a_chunk_holds_as_many_examples_as_asked(examples: int) -> None:
    assert len(make_chunk(SOURCE, 0, examples)["counts"]) == examples
