"""The frames that restoring is measured on: which objects, how far out of focus, in what light, by what camera."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal import UsageError
from parfocal.models.training.blur import HELD_OUT_NA
from parfocal.models.training.fields import split_of
from parfocal.models.training.restore_cases import (
    DEPTHS,
    MARGIN_PX,
    PHOTONS,
    cases,
    exposed,
    fitted,
    samples,
)
from parfocal.simulator.optics import Imager


def test_every_sample_meets_every_defocus_and_light_and_the_next_microscope() -> None:
    drawn = samples(None, count=4, size_px=96, seed=1)
    assert len({(one.optics.na, one.optics.pixel_um) for one in drawn}) == 4
    assert any(low <= one.optics.na <= high for low, high in HELD_OUT_NA for one in drawn)
    assert any(all(not low <= one.optics.na <= high for low, high in HELD_OUT_NA) for one in drawn)
    found = list(cases(drawn[:2], seed=1))
    assert [(case.depths, case.photons) for case in found[:12]] == [(d, p) for d in DEPTHS for p in PHOTONS]
    assert len(found) == 24
    for case in found:
        assert case.frame.dtype == np.uint16
        assert case.frame.shape == case.truth.shape == case.noise_sd.shape == case.defects.shape == (96, 96)
        assert abs(case.defocus_um) == pytest.approx(case.depths * case.optics.depth_of_field_um)
    assert {np.sign(case.defocus_um) for case in found} == {-1.0, 1.0}


def test_the_same_seed_gives_the_same_frames_and_another_others() -> None:
    drawn = samples(None, count=1, size_px=64, seed=1)
    first, again, other = (next(iter(cases(drawn, seed=seed))) for seed in (1, 1, 2))
    assert np.array_equal(first.frame, again.frame)
    assert not np.array_equal(first.frame, other.frame)


def test_a_frame_lies_about_its_expectation_by_its_noise_and_the_truth_is_in_the_same_counts() -> None:
    flat = np.full((128, 128), 0.5, dtype=np.float32)
    shot = exposed(flat, flat, 500.0, seed=(7,))
    off = (shot.frame.astype(float) - shot.truth)[~shot.defects]
    assert abs(off.mean()) < 0.05 * off.std()
    assert off.std() == pytest.approx(float(np.sqrt(np.mean(np.square(shot.noise_sd)))), rel=0.05)
    # Half as bright as the sharp image that sets the light: half of the photons' counts.
    bright = exposed(flat, np.full_like(flat, 1.0), 500.0, seed=(7,))
    assert bright.frame.mean() < 0.6 * shot.frame.mean() + 0.4 * 100.0


def test_the_truth_is_the_image_in_focus_of_the_same_microscope_aberrations_included() -> None:
    drawn = samples(None, count=8, size_px=64, seed=3)
    aberrated = next(one for one in drawn if one.optics.zernike_waves)
    assert aberrated.known_optics.zernike_waves == {}
    (sharp,) = aberrated.images((0.0,))
    imager = Imager(aberrated.optics, (64 + 2 * MARGIN_PX,) * 2, boundary="mirror")
    inner = slice(MARGIN_PX, -MARGIN_PX)
    assert np.array_equal(sharp, imager.image(aberrated.specimen, 0.0)[inner, inner])
    case = next(iter(cases([aberrated], seed=1)))
    assert np.corrcoef(case.truth.ravel(), sharp.ravel())[0, 1] == pytest.approx(1.0, abs=1e-6)


def test_fields_are_of_the_test_split_from_every_folder_in_turn(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for source in ("a", "b"):
        (tmp_path / source).mkdir()
        for number in range(30):
            tifffile.imwrite(
                tmp_path / source / f"{number:02d}.tif", rng.integers(0, 999, (150, 150)).astype(np.uint16)
            )
    drawn = samples(tmp_path, count=4, size_px=128, seed=1)
    assert [one.kind for one in drawn] == ["a", "b", "a", "b"]
    assert all(one.specimen.shape == (128 + 2 * MARGIN_PX,) * 2 for one in drawn)
    held = sum(split_of(f"{source}/{number:02d}") == "test" for source in "ab" for number in range(30))
    assert 0 < len(samples(tmp_path, count=1000, size_px=128, seed=1)) <= held


def test_every_second_field_of_a_folder_shows_twice_as_far_where_it_can(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    (tmp_path / "a").mkdir()
    held = [f"{n}.tif" for n in range(99) if split_of(f"a/{n}") == "test"][:4]
    for name in held:
        tifffile.imwrite(tmp_path / "a" / name, rng.integers(0, 999, (300, 300)).astype(np.uint16))
    first, second = samples(tmp_path, count=2, size_px=128, seed=1)
    assert second.specimen.std() == pytest.approx(0.5 * first.specimen.std(), rel=0.1)
    # Too small to be binned: as it is.
    _, second = samples(tmp_path, count=2, size_px=160, seed=1)
    assert second.specimen.std() == pytest.approx(first.specimen.std(), rel=0.1)


def test_a_folder_without_a_held_out_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    name = next(f"{n}.tif" for n in range(99) if split_of(f"a/{n}") == "train")
    tifffile.imwrite(tmp_path / "a" / name, np.random.default_rng(1).integers(0, 999, (150, 150)).astype(np.uint16))
    with pytest.raises(UsageError, match="no field of the test split"):
        samples(tmp_path, count=1, size_px=128, seed=1)


def test_small_images_are_mirrored_and_large_ones_cut() -> None:
    image = np.arange(100.0).reshape(10, 10)
    assert np.array_equal(fitted(image, 4), image[3:7, 3:7])
    wide = fitted(image, 14)
    assert np.array_equal(wide[2:12, 2:12], image)
    assert np.array_equal(wide[1, 2:12], image[0])
