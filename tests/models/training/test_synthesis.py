from __future__ import annotations

import numpy as np
import pytest

from parfocal.models.training.blur import random_scene
from parfocal.models.training.camera_noise import Exposure
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.synthesis import ABSENT, PRESENT, SEEN_FROM, UNCERTAIN, UNSEEN_TO, Synthesiser, stack


@pytest.fixture(scope="module")
def bank() -> ObjectBank:
    return ObjectBank([], procedural=6, seed=1)


def test_examples_carry_what_was_drawn(bank: ObjectBank) -> None:
    maker = Synthesiser(bank, size_px=128, seed=3)
    drawn = [example for _ in range(12) for example in maker.exposures(2)]
    for one, two in zip(drawn[::2], drawn[1::2], strict=True):
        assert one.counts.shape == (128, 128)
        assert one.counts.dtype == np.float32
        assert one.signal in (PRESENT, ABSENT, UNCERTAIN)
        # Two exposures of a scene differ in light and noise, and in nothing that was true of the scene.
        assert (one.blur_px, one.log2_cutoff, one.spherical_waves) == (
            two.blur_px,
            two.log2_cutoff,
            two.spherical_waves,
        )
        assert not np.array_equal(one.counts, two.counts)
    arrays = stack(drawn)
    assert arrays["counts"].shape == (24, 128, 128)
    assert {len(values) for values in arrays.values()} == {24}
    np.testing.assert_array_equal(arrays["blur_px"], np.float32([example.blur_px for example in drawn]))


def test_a_seed_says_it_all(bank: ObjectBank) -> None:
    one, two = (stack([Synthesiser(bank, size_px=128, seed=5).example()]) for _ in range(2))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])
    other = Synthesiser(bank, size_px=128, seed=6).example()
    assert other.blur_px != one["blur_px"][0]


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_empty_fields_come_at_their_share(bank: ObjectBank, share: float) -> None:
    maker = Synthesiser(bank, size_px=128, seed=7, empty_share=share)
    signals = [maker.example().signal for _ in range(8)]
    assert all(signal == ABSENT for signal in signals) == bool(share)


@pytest.mark.parametrize(
    ("seen", "signal"),
    [(SEEN_FROM + 0.1, PRESENT), (UNSEEN_TO - 0.1, ABSENT), (0.5 * (SEEN_FROM + UNSEEN_TO), UNCERTAIN), (0.0, ABSENT)],
)
def test_signal_is_told_by_detectability(bank: ObjectBank, seen: float, signal: float) -> None:
    maker = Synthesiser(bank, size_px=128, seed=1)
    exposure = Exposure(np.zeros((128, 128), dtype=np.float32), seen)
    assert maker._labelled(exposure, random_scene(np.random.default_rng(1))).signal == signal
