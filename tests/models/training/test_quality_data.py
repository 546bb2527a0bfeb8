from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray

from parfocal.models.artefacts import Classifier
from parfocal.models.base import ModelError
from parfocal.models.training import quality_data
from parfocal.models.training.degradations import MAX_LEVEL, MixedNoise
from parfocal.models.training.fields import Field
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.quality_data import (
    NO_LEVEL,
    CrispBank,
    QualitySource,
    QualitySynthesiser,
    chunks,
    label,
    objects,
    quality_chunk,
    raw_chunk,
    real_objects,
    spatially_varying,
)
from tests.models.training.test_fields import write


def blocks(seed: int, levels: int = 4000) -> NDArray[np.uint16]:
    """A field with steep edges all over."""
    values = np.random.default_rng(seed).integers(0, levels, (20, 20)) * (4000 // (levels - 1))
    return np.kron(values, np.ones((8, 8))).astype(np.uint16)


SOURCE = QualitySource(fields=None, split="train", procedural=10, size_px=96, seed=11)


def test_a_chunk_is_the_same_whoever_makes_it_and_whenever() -> None:
    alone = quality_chunk(SOURCE, 2, 3)
    here = list(chunks(SOURCE, count=3, images=3, workers=0))
    elsewhere = list(chunks(SOURCE, count=3, images=3, workers=1, start=1))
    assert (len(here), len(elsewhere)) == (3, 2)
    for one, two in ((alone, here[2]), (here[1], elsewhere[0]), (here[2], elsewhere[1])):
        assert one.keys() == two.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_chunks_differ_by_number_and_by_seed() -> None:
    first = raw_chunk(SOURCE, 0, 2)
    for second in (raw_chunk(SOURCE, 1, 2), raw_chunk(replace(SOURCE, seed=12), 0, 2)):
        assert not np.array_equal(first[0].counts, second[0].counts)


def test_a_chunk_holds_every_class_alike_and_labels_in_their_ranges() -> None:
    chunk = quality_chunk(SOURCE, 0, 36)
    assert chunk["counts"].shape == (36, 96, 96)
    assert chunk["counts"].dtype == np.uint16
    np.testing.assert_array_equal(np.bincount(chunk["artefact"], minlength=6), 6)
    reference = chunk["artefact"] == 0
    assert (chunk["level"][reference] == NO_LEVEL).all()
    assert ((chunk["level"] > NO_LEVEL) & (chunk["level"] <= MAX_LEVEL))[~reference].all()
    assert np.isfinite(chunk["frc"]).all()
    assert (chunk["frc"] >= 1.0 - 1e-3).all()  # never finer than two pixels
    assert ((chunk["mm"] >= 0) & (chunk["mm"] <= 1)).all()
    assert ((chunk["blur_px"] > 0) == (chunk["artefact"] == 1)).all()
    assert chunk["physical"].any()
    assert not chunk["physical"][chunk["artefact"] == 2].any()
    assert not chunk["noise_free"][(chunk["artefact"] >= 2) & (chunk["artefact"] <= 4)].any()


def test_of_the_first_table_alone_means_just_that() -> None:
    chunk = quality_chunk(replace(SOURCE, table1_only=True), 0, 30)
    assert not chunk["physical"].any()
    assert not chunk["noise_free"].any()
    levels = chunk["level"][chunk["artefact"] > 0]
    assert ((levels >= 0) & (levels <= 1)).all()


def test_noise_free_images_get_the_labels_of_their_noisy_twins() -> None:
    synthesiser = QualitySynthesiser(CrispBank([], procedural=10, seed=3), size_px=128, seed=3)
    classifier = Classifier().eval()
    found = [synthesiser.draw("blur", 0.5) for _ in range(24)]
    free = [one for one in found if one.noise_free]
    assert free
    frc, censored, mm = label(free, classifier, np.random.default_rng(4))
    assert not censored.any()  # a noise-free blur correlates with itself at every frequency
    rng = np.random.default_rng(4)
    twins = torch.from_numpy(np.stack([MixedNoise().on(one.expected, rng) for one in free]))
    with torch.inference_mode():
        told = quality_data.single_image_frc(twins, mode="robust")
        np.testing.assert_allclose(frc, torch.log2(told.resolution_px), atol=1e-5)
        np.testing.assert_allclose(mm, classifier.scores(twins), atol=1e-5)


def test_a_label_is_censored_only_where_the_twin_is_too() -> None:
    synthesiser = QualitySynthesiser(CrispBank([], procedural=10, seed=3), size_px=128, seed=5)
    drawn = [replace(synthesiser.draw("blur", 0.9), noise_free=False) for _ in range(6)]
    # Images without noise that do not say so: their own correlation is censored, their twins' is not.
    quiet = [replace(one, counts=(one.expected * 5000).astype(np.uint16)) for one in drawn]
    with torch.inference_mode():
        counts = torch.from_numpy(np.stack([one.counts for one in quiet]).astype(np.float32))
        assert bool(quality_data.single_image_frc(counts).censored.any())
        own = quality_data.single_image_frc(counts).censored.numpy()
    frc, censored, _ = label(quiet, Classifier().eval(), np.random.default_rng(0))
    assert own.sum() > censored.sum()
    assert np.isfinite(frc).all()
    assert (frc <= 5.0).all()


def test_more_blur_and_more_noise_have_a_coarser_label() -> None:
    synthesiser = QualitySynthesiser(CrispBank([], procedural=10, seed=3), size_px=128, seed=6, table1_only=True)
    for artefact, more in (("blur", 0.5), ("shot", 0.2)):
        low, high = (
            np.median(
                label([synthesiser.draw(artefact, level) for _ in range(16)], Classifier().eval(), synthesiser.rng)[0]
            )
            for level in (0.0, 1.0)
        )
        assert high > low + more


def test_every_image_holds_something_in_three_quarters() -> None:
    for image in objects(SOURCE, 6):
        assert image.shape == (96, 96)
        quarters = [image[r : r + 48, c : c + 48] for r in (0, 48) for c in (0, 48)]
        assert sum(bool((q > 0.2 * np.percentile(image, 99.9)).any()) for q in quarters) >= 3


def test_a_bank_of_nothing_is_refused() -> None:
    black = Field(np.zeros((200, 200), dtype=np.float32), "a", "b")
    with pytest.raises(ValueError, match="next to nothing"):
        CrispBank([black], procedural=0, seed=1).sample(64, np.random.default_rng(1))


def test_the_sharpest_crop_of_a_soft_source_does() -> None:
    """Somebody's own fields may all be soft: they are used nevertheless, and not only the procedural ones beside."""
    y, x = np.mgrid[:200, :200]
    soft = Field((0.5 + 0.4 * np.sin(x / 12.0) * np.sin(y / 12.0)).astype(np.float32), "a", "soft")
    bank = CrispBank([soft], procedural=5, seed=1)
    rng = np.random.default_rng(1)
    kinds = [bank.sample(64, rng)[0] for _ in range(40)]
    assert 8 < kinds.count("soft") < 32


def test_real_fields_are_shrunk_and_mirrored_to_fill() -> None:
    y, x = np.mgrid[:140, :180]
    field = Field((0.5 + 0.4 * np.sin(x / 6.0) * np.cos(y / 9.0)).astype(np.float32), "a", "b")
    bank = CrispBank([field], procedural=0, seed=1)
    assert isinstance(bank, ObjectBank)
    for seed in range(5):
        source, image = bank.sample(96, np.random.default_rng(seed))
        assert source == "b"
        assert image.shape == (96, 96)
        assert image.std() > 0.1


def test_the_split_says_which_fields_are_used(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    rng = np.random.default_rng(0)
    for index in range(20):
        blocks = np.kron(rng.integers(0, 4000, (20, 20)), np.ones((7, 7)))
        tifffile.imwrite(tmp_path / "cells" / f"{index}.tif", blocks.astype(np.uint16))
    source = replace(SOURCE, fields=tmp_path, procedural=0)
    one, two = (objects(replace(source, split=split), 1)[0] for split in ("train", "test"))
    assert not np.array_equal(one, two)


def test_an_image_says_whether_it_is_of_a_real_field(tmp_path: Path) -> None:
    # A folder that is called like a kind of specimen: its name does not tell.
    write(tmp_path / "nuclei", "train", [blocks(seed) for seed in range(3)])
    both = replace(SOURCE, fields=tmp_path, size_px=64)
    only = replace(both, procedural=0)
    assert quality_chunk(only, 0, 6)["real"].all()
    assert not quality_chunk(SOURCE, 0, 6)["real"].any()
    mixed = quality_chunk(both, 0, 60)["real"]
    assert 10 < mixed.sum() < 50
    assert [one.real for one in raw_chunk(both, 0, 60)] == mixed.tolist()


def test_the_objects_of_a_table_say_so_too(tmp_path: Path) -> None:
    # Real ones are black and white, procedural ones have greys.
    write(tmp_path / "mine", "train", [blocks(seed, levels=2) for seed in range(3)])
    source = replace(SOURCE, fields=tmp_path, size_px=64)
    real = real_objects(source, 30)
    assert 5 < sum(real) < 25
    bank = quality_data._synthesiser(source).bank
    rng = np.random.default_rng((source.seed, 3))
    again = [(bank.sample(64, rng)[0], bank.real) for _ in range(30)]
    assert [kind == "mine" for kind, _ in again] == [flag for _, flag in again] == real
    varying = real_objects(source, 12, varying=True)
    for number, flag in enumerate(varying):
        kind, _ = bank.sample(64, np.random.default_rng((source.seed, number, 2)))
        assert (kind == "mine") == flag


def test_images_that_get_worse_downwards_come_with_the_truth_of_each_row() -> None:
    for kind in ("blur", "noise"):
        counts, truth = spatially_varying(SOURCE, kind, 0)
        again, _ = spatially_varying(SOURCE, kind, 0)
        np.testing.assert_array_equal(counts, again)
        assert counts.dtype == np.uint16
        assert truth.shape == (96,)
        assert (np.diff(truth) > 0).all()


def test_a_missing_classifier_is_an_error_and_not_a_score(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        quality_chunk(replace(SOURCE, card=tmp_path / "none.json"), 0, 2)


def test_a_ladder_is_one_artefact_on_one_specimen_in_the_order_of_its_levels() -> None:
    made = quality_chunk(replace(SOURCE, ladders=0.7), 3, 15)
    assert made["ladder"].tolist() == [0] * 5 + [1] * 5 + [-1] * 5
    for number in (0, 1):
        of = made["ladder"] == number
        assert len(set(made["artefact"][of].tolist())) == 1
        assert (np.diff(made["level"][of]) > 0.1).all()
        assert len(set(made["noise_free"][of].tolist())) == 1
    assert (quality_chunk(SOURCE, 3, 5)["ladder"] == -1).all()
