"""Simulated frames with their quality: the same from the same seed, of every kind of bad, balanced when drawn."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal import UsageError
from parfocal.models.training import sted_quality_data as data
from parfocal.models.training.sted_quality_data import (
    HELD_OUT,
    LABELS,
    TRAINED_ON,
    Chunk,
    StedSource,
    chunks,
    make_chunk,
    random_settings,
)
from parfocal.models.training.sted_quality_recipe import FrameBuffer
from parfocal.simulator.sted import LIMITS

SMALL = StedSource(3, size_px=48, structures=3)


@pytest.fixture(scope="module")
def chunk() -> Chunk:
    return make_chunk(SMALL, 0, 54)


def test_a_chunk_is_the_same_whoever_makes_it(chunk: Chunk) -> None:
    again = make_chunk(SMALL, 0, 54)
    for key, values in chunk.items():
        assert np.array_equal(values, again[key]), key


def test_chunks_and_seeds_differ(chunk: Chunk) -> None:
    assert not np.array_equal(make_chunk(SMALL, 1, 18)["counts"], chunk["counts"][:18])
    assert not np.array_equal(
        make_chunk(StedSource(4, size_px=48, structures=3), 0, 18)["counts"], chunk["counts"][:18]
    )


def test_a_stream_starts_where_it_is_told_to() -> None:
    (only,) = chunks(SMALL, count=3, frames=6, start=2)
    assert np.array_equal(only["counts"], make_chunk(SMALL, 2, 6)["counts"])


def test_labels_are_shares(chunk: Chunk) -> None:
    assert chunk["counts"].shape == (54, 48, 48)
    assert chunk["counts"].dtype == np.uint16
    for name in LABELS:
        assert chunk[name].shape == (54,)
        assert np.isfinite(chunk[name]).all()
        assert (chunk[name] >= 0).all()
        assert (chunk[name] <= 1).all()
    assert np.ptp(chunk["quality"]) > 0.3


def test_a_frame_with_less_light_is_worse_and_called_dim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "EFFICIENCY", ((2.0, 2.0001), (0.02, 0.020001)))
    monkeypatch.setattr(data, "SENSIBLE", 1.0)
    made = make_chunk(StedSource(5, ("actin_rings",), ("robust",), 48, 3), 0, 24)
    bright, dim = slice(0, None, 2), slice(1, None, 2)
    assert (made["quality"][dim] <= made["quality"][bright] + 0.02).all()
    assert made["too_dim"][dim].mean() > made["too_dim"][bright].mean() + 0.3
    # Collecting less light changes neither the bleaching nor the PSF.
    assert np.array_equal(made["bleached"][dim], made["bleached"][bright])
    assert np.array_equal(made["unresolved"][dim], made["unresolved"][bright])


def test_settings_lie_within_the_limits_and_far_apart() -> None:
    rng = np.random.default_rng(0)
    drawn = [random_settings(rng) for _ in range(400)]  # each checks its own limits
    assert sum(one.depletion_power == 0 for one in drawn) > 10
    doses = np.asarray([one.dose for one in drawn])
    assert doses.min() < 1.0
    assert doses.max() > 1000.0
    assert max(one.excitation_power for one in drawn) <= LIMITS["excitation_power"][1]


def test_a_kind_is_held_out() -> None:
    assert not set(HELD_OUT) & set(TRAINED_ON)


@pytest.mark.parametrize("wrong", [{"kinds": ("axons",)}, {"size_px": 16}, {"structures": 0}, {"kinds": ()}])
def test_sources_that_cannot_be_made_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        StedSource(1, **wrong)  # type: ignore[arg-type]


def tiny(quality: list[float], mark: int = 0) -> Chunk:
    n = len(quality)
    made: Chunk = {name: np.zeros(n, dtype=np.float32) for name in LABELS}
    made["counts"] = np.full((n, 32, 32), mark, dtype=np.uint16)
    return made | {
        "quality": np.asarray(quality, dtype=np.float32), "kind": np.zeros(n, dtype=np.int64),
        "pixel_um": np.full(n, 0.02, dtype=np.float32),
    }  # fmt: skip


def test_the_buffer_draws_as_many_good_frames_as_bad_ones() -> None:
    buffer = FrameBuffer(100)
    buffer.add(tiny([0.05] * 90 + [0.95] * 2))
    drawn = buffer.draw(400, np.random.default_rng(0))
    assert 0.4 < float((drawn["labels"][:, 0] > 0.5).float().mean()) < 0.6
    assert drawn["counts"].shape == (400, 1, 32, 32)


def test_the_buffer_forgets_the_oldest() -> None:
    buffer = FrameBuffer(4)
    for mark in range(3):
        buffer.add(tiny([0.1, 0.9], mark))
    assert len(buffer) == 4
    assert set(buffer.draw(50, np.random.default_rng(0))["counts"][:, 0, 0, 0].tolist()) == {1.0, 2.0}
