from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from parfocal.models.training.degradations import ARTEFACTS, PEAK
from parfocal.models.training.quality_data import QualitySource, raw_chunk, row_labels
from parfocal.models.training.quality_graded import GRADABLE, RUNGS, alike_throughout, along, graded

SIDE = 128


def specimen(seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter((rng.random((SIDE, SIDE)) > 0.99).astype(np.float32), 1.0)
    return (image * np.float32(PEAK / image.max()) + np.float32(1.0)).astype(np.float32)


def roughness(rows: np.ndarray) -> float:
    return float(np.std(np.diff(rows, axis=0)))


@pytest.mark.parametrize("artefact", GRADABLE)
def test_rows_get_worse_downwards_and_rungs_one_by_one(artefact: str) -> None:
    clean = specimen()
    found = graded(clean, artefact, np.random.default_rng(2))
    halves = roughness(found.units[: SIDE // 2]), roughness(found.units[SIDE // 2 :])
    ladder = [roughness(rung) for rung in found.rungs]
    assert len(found.rungs) == len(RUNGS)
    if artefact == "blur":  # less and less contrast of what is larger than the noise
        contrast = [float(ndimage.gaussian_filter(rung, 1.5).std()) for rung in found.rungs]
        assert halves[0] > halves[1]
        assert contrast == sorted(contrast, reverse=True)
    else:
        assert halves[0] < halves[1]
        assert ladder == sorted(ladder)


def test_a_rung_is_like_the_row_that_it_stands_for() -> None:
    clean = np.full((512, 512), 2.0, dtype=np.float32)
    found = graded(clean, "readout", np.random.default_rng(3))
    for place, rung in zip(RUNGS, found.rungs, strict=True):
        row = round(place * 511)
        near = found.units[max(0, row - 15) : row + 16]
        assert float(near.std()) == pytest.approx(float(rung.std()), rel=0.04)


@pytest.mark.parametrize("artefact", GRADABLE)
def test_what_is_expected_of_a_graded_image_has_no_noise(artefact: str) -> None:
    """Its twin is exposed from it, and no light is negative."""
    found = graded(specimen(), artefact, np.random.default_rng(5))
    assert float(found.expected.min()) >= 0.0
    assert roughness(found.expected) < roughness(found.units)
    (one,) = (one for one in raw_chunk(QualitySource(None, "train", 12, size_px=64, seed=3, graded=1.0), 0, 6)
              if ARTEFACTS[one.artefact] == artefact)  # fmt: skip
    assert float(one.expected.min()) >= 0.0


def test_what_is_of_a_whole_image_cannot_be_graded() -> None:
    with pytest.raises(ValueError, match="vignetting"):
        graded(specimen(), "vignetting", np.random.default_rng(1))


def test_a_source_grades_the_share_it_is_told_to() -> None:
    none = raw_chunk(QualitySource(None, "train", 12, size_px=64, seed=3), 0, 18)
    all_of_them = raw_chunk(QualitySource(None, "train", 12, size_px=64, seed=3, graded=1.0), 0, 18)
    assert not any(one.rungs for one in none)
    assert sum(bool(one.rungs) for one in all_of_them) == 12  # of six classes four can be
    assert all(one.counts.dtype == np.uint16 for one in all_of_them)


def test_rows_of_an_ordinary_image_have_its_own_label() -> None:
    found = alike_throughout(np.asarray([1.0, 2.0]), np.asarray([True, False]), np.asarray([0.1, 0.2]), 4)
    assert found["frc_rows"].tolist() == [[1.0] * 4, [2.0] * 4]
    assert found["frc_rows_censored"].tolist() == [[True] * 4, [False] * 4]
    assert found["mm_rows"].shape == (2, 4)


def test_labels_between_rungs_are_in_between_and_in_order() -> None:
    at = np.linspace(0.0, 1.0, 33)
    honest, noisy = np.asarray([1.0, 2, 3, 4, 5, 6]), np.asarray([1.0, 2, 4, 3, 5, 6])
    assert np.interp(RUNGS, at, along(at, honest, rising=True)) == pytest.approx(honest, abs=0.1)
    assert (np.diff(along(at, noisy, rising=True)) >= 0).all()
    assert along(np.asarray(RUNGS), noisy, rising=True) == pytest.approx([1, 2, 3.5, 3.5, 5, 6])
    assert along(np.asarray(RUNGS), -noisy, rising=False) == pytest.approx([-1, -2, -3.5, -3.5, -5, -6])


def test_rows_of_a_graded_image_have_the_labels_of_their_rungs() -> None:
    from parfocal.models.artefacts import load_classifier

    drawn = [one for one in raw_chunk(QualitySource(None, "train", 12, seed=4, graded=1.0), 0, 12) if one.artefact == 1]
    whole = (np.zeros(2, dtype=np.float32), np.zeros(2, dtype=bool), np.zeros(2, dtype=np.float32))
    found = row_labels(drawn, whole, 8, load_classifier(None))
    assert len(drawn) == 2
    for rows in found["frc_rows"]:
        assert rows[-1] > rows[0] > 0.9  # coarser with more blur, and never finer than two pixels
        assert len(set(rows.tolist())) == 8
