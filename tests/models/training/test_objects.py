from __future__ import annotations

import numpy as np
import pytest

from parfocal.models.training.fields import Field
from parfocal.models.training.objects import ObjectBank
from parfocal.simulator.specimens import SPECIMENS


@pytest.fixture(scope="module")
def bank() -> ObjectBank:
    return ObjectBank([], procedural=7, seed=1)


def ramp_field(source: str, shape: tuple[int, int] = (300, 400)) -> Field:
    return Field(np.tile(np.linspace(0, 1, shape[1], dtype=np.float32), (shape[0], 1)), f"{source}/1", source)


def test_the_bank_holds_every_kind_but_empty(bank: ObjectBank) -> None:
    assert {kind for kind, _ in bank.drawn} == set(SPECIMENS) - {"empty"}


@pytest.mark.parametrize("size", [128, 320, 640])
def test_objects_are_squares_of_about_0_to_1(bank: ObjectBank, size: int) -> None:
    rng = np.random.default_rng(2)
    for _ in range(6):
        kind, image = bank.sample(size, rng)
        assert kind in SPECIMENS
        assert image.shape == (size, size)
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
        assert np.isfinite(image).all()
        assert image.min() >= 0.0
        assert image.max() <= 1.0


def test_draws_follow_from_the_seed_alone(bank: ObjectBank) -> None:
    again = ObjectBank([], procedural=7, seed=1)
    for first, second in zip(bank.drawn, again.drawn, strict=True):
        np.testing.assert_array_equal(first[1], second[1])
    one, two = (bank.sample(128, np.random.default_rng(9))[1] for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, bank.sample(128, np.random.default_rng(10))[1])


def test_real_fields_are_half_of_all() -> None:
    bank = ObjectBank([ramp_field("real")], procedural=2, seed=1)
    rng = np.random.default_rng(3)
    share = np.mean([bank.sample(64, rng)[0] == "real" for _ in range(300)])
    assert share == pytest.approx(0.5, abs=0.1)


def test_without_procedural_ones_all_are_real_and_small_fields_are_mirrored() -> None:
    bank = ObjectBank([ramp_field("real", (130, 130))], procedural=0, seed=1)
    rng = np.random.default_rng(4)
    for _ in range(10):
        kind, image = bank.sample(256, rng)
        assert kind == "real"
        assert image.shape == (256, 256)
        assert 0.0 <= image.min()
        assert image.max() <= 1.0 + 1e-5
        assert image.std() > 0.05


def test_many_files_do_not_drown_few() -> None:
    fields = [ramp_field("few")] + [ramp_field("many") for _ in range(100)]
    bank = ObjectBank(fields, procedural=0, seed=1)
    rng = np.random.default_rng(5)
    share = np.mean([bank.sample(64, rng)[0] == "few" for _ in range(400)])
    assert share == pytest.approx(1 / 11, abs=0.05)  # root of 1 against root of 100
