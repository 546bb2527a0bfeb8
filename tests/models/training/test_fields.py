from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import structlog
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import UsageError
from parfocal.models.training.fieldfiles import BEYOND, FLAT, RESTORED, SMALL, UNREADABLE
from parfocal.models.training.fields import (
    OTHER_FOLDER,
    SKIPPED,
    SOFT,
    check_fields,
    edge_sharpness,
    fields_used,
    group_of,
    load_fields,
    split_of,
    survey,
)
from tests.models.training.test_fieldfiles import restored_file

SPLITS = ("train", "validation", "test")
NAMES = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGH0123456789_-. ", min_size=1, max_size=30)


def field(seed: int, shape: tuple[int, ...] = (160, 160), blur: float = 1.0) -> NDArray[np.uint16]:
    noise = np.random.default_rng(seed).random(shape)
    smooth = ndimage.gaussian_filter(noise, (0,) * (len(shape) - 2) + (blur, blur)) if len(shape) == 2 else noise
    return np.asarray((smooth - smooth.min()) / np.ptp(smooth) * 4000 + 100, dtype=np.uint16)


@given(NAMES)
def test_a_group_is_in_one_split_and_always_the_same(name: str) -> None:
    assert split_of(name) in SPLITS
    assert split_of(name) == split_of(name)


def test_splits_have_their_shares() -> None:
    told = [split_of(f"source/field_{index}") for index in range(4000)]
    assert [told.count(split) / 4000 for split in SPLITS] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


@given(st.integers(0, 999), st.integers(0, 9), st.integers(0, 9))
def test_channels_of_one_w2s_field_of_view_go_together(view: int, first: int, second: int) -> None:
    one, two = (Path(f"w2s_avg400/target_avg400_{view:03d}_{channel}.tif") for channel in (first, second))
    assert group_of(one) == group_of(two)
    assert split_of(group_of(one)) == split_of(group_of(two))
    other = Path(f"w2s_avg400/target_avg400_{(view + 1) % 1000:03d}_{first}.tif")
    assert group_of(other) != group_of(one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("cp/Channel1-01-A-01.tif", "cp/Channel2-01-A-01.tif"),
        ("cp/01_POS002_D.TIF", "cp/01_POS002_F.TIF"),
        ("cp/AS_09125_050116030001_D03f00d0.tif", "cp/AS_09125_050116030001_D03f00d1.tif"),
        ("b/cell7_actin.tif", "b/cell7_Nuclei.tif"),
    ],
)
def test_channels_of_one_field_go_together(one: str, two: str) -> None:
    assert group_of(Path(one)) == group_of(Path(two))


def test_the_same_name_in_two_folders_is_two_groups() -> None:
    assert group_of(Path("a/x.tif")) != group_of(Path("b/x.tif"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for source in ("alpha", "beta", SKIPPED[0]):
        (tmp_path / source).mkdir()
        for index in range(20):
            tifffile.imwrite(tmp_path / source / f"view{index:02d}.tif", field(index))
    return tmp_path


def test_every_field_is_loaded_in_exactly_one_split(folder: Path) -> None:
    groups = {split: [f.group for f in load_fields(folder, split, keep_sharpest=1.0)] for split in SPLITS}  # type: ignore[arg-type]
    every = sorted(group for of_split in groups.values() for group in of_split)
    assert every == sorted(f"{source}/view{index:02d}" for source in ("alpha", "beta") for index in range(20))
    assert all(groups.values())
    assert all(split_of(group) == split for split, of_split in groups.items() for group in of_split)


def test_fields_are_scaled_to_their_own_range(folder: Path) -> None:
    for loaded in load_fields(folder, "train"):
        assert loaded.image.dtype.kind == "f"
        assert loaded.image.min() == 0.0
        assert 0.9 < np.percentile(loaded.image, 99.8) <= 1.5
        assert loaded.source in ("alpha", "beta")


def test_the_softest_of_each_source_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "alpha").mkdir()
    names = [f"view{index}" for index in range(60) if split_of(f"alpha/view{index}") == "train"][:20]
    for index, name in enumerate(names):
        tifffile.imwrite(tmp_path / "alpha" / f"{name}.tif", field(index, blur=1.0 if index % 2 else 6.0))
    kept = {loaded.group for loaded in load_fields(tmp_path, "train", keep_sharpest=0.5)}
    assert kept == {f"alpha/{name}" for name in names[1::2]}


def test_sharpness_falls_with_blur_and_not_with_gain() -> None:
    sharp = field(1).astype(np.float32)
    told = [edge_sharpness(ndimage.gaussian_filter(sharp, sigma)) for sigma in (0.5, 2.0, 6.0)]
    assert told[0] > 1.3 * told[1] > 1.3 * 1.3 * told[2]
    assert edge_sharpness(3.0 * sharp + 200) == pytest.approx(edge_sharpness(sharp), rel=1e-3)


def test_planes_channels_and_files_that_are_no_fields(tmp_path: Path) -> None:
    (tmp_path / "alpha").mkdir()
    group = next(f"view{index}" for index in range(50) if split_of(f"alpha/view{index}") == "train")

    def planes(array: NDArray[np.uint16]) -> int:
        tifffile.imwrite(tmp_path / "alpha" / f"{group}.tif", array, photometric="minisblack")
        return len(load_fields(tmp_path, "train", keep_sharpest=1.0))

    assert planes(field(1)) == 1
    assert planes(field(1, (3, 160, 160))) == 3
    assert planes(field(1, (160, 160, 3))) == 3
    assert planes(field(1, (12, 160, 160))) == 8
    assert planes(field(1, (100, 160))) == 0  # smaller than a window
    assert planes(np.full((160, 160), 500, dtype=np.uint16)) == 0  # holds nothing


def test_a_folder_without_images_is_said(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(UsageError, match="no TIFF"):
        load_fields(tmp_path, "train")
    with pytest.raises(UsageError, match="no TIFF or PNG"):
        check_fields(tmp_path)


# --- what is used, what is left out, and that it is said --------------------------------------------------------------


def named(source: str, split: str, count: int) -> list[str]:
    """File names that belong to a split, in a folder of this name."""
    return [name for n in range(400) if split_of(f"{source}/{(name := f'view{n}')}") == split][:count]


def write(folder: Path, split: str, images: list[NDArray[np.generic]]) -> None:
    folder.mkdir(exist_ok=True)
    for name, image in zip(named(folder.name, split, len(images)), images, strict=True):
        tifffile.imwrite(folder / f"{name}.tif", image, photometric="minisblack")


def test_floats_from_0_to_1_are_fields_as_counts_are(tmp_path: Path) -> None:
    counts = field(3)
    write(tmp_path / "counts", "train", [counts])
    write(tmp_path / "floats", "train", [counts.astype(np.float32) / 65535])
    both = {one.source: one.image for one in load_fields(tmp_path, "train")}
    assert both.keys() == {"counts", "floats"}
    np.testing.assert_allclose(both["floats"], both["counts"], atol=1e-4)


def test_images_in_the_folder_itself_are_one_source_by_its_name(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    write(folder, "train", [field(n) for n in range(5)])
    found = load_fields(folder, "train")
    assert {one.source for one in found} == {"mine"}
    assert len(found) == 3  # the sharpest 0.6 of one source, not all of five
    assert fields_used(folder) == {"mine": 3}


def test_a_folder_named_for_itself_is_used_whatever_it_is_called(tmp_path: Path) -> None:
    write(tmp_path / SKIPPED[0], "train", [field(1)])
    assert fields_used(tmp_path / SKIPPED[0]) == {SKIPPED[0]: 1}


def test_the_count_of_what_is_used_is_what_is_loaded(folder: Path) -> None:
    for split in SPLITS:
        loaded = load_fields(folder, split)  # type: ignore[arg-type]
        for source, tally in survey(folder).items():
            assert tally.used[split] == sum(one.source == source for one in loaded)  # type: ignore[index]
    assert fields_used(str(folder)).keys() == {"alpha", "beta"}
    assert fields_used(None) == {}


def test_what_is_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    good: list[NDArray[np.generic]] = [field(n) for n in range(4)]
    bad: list[NDArray[np.generic]] = [
        field(9, (100, 160)), np.full((160, 160), 7, dtype=np.uint16), field(8, (11, 160, 160)),
    ]  # fmt: skip
    write(tmp_path / "cells", "train", good + bad)
    (tmp_path / "cells" / "broken.tif").write_bytes(b"II*\x00 no TIFF at all")
    restored_file(tmp_path / "cells" / "restored.ome.tif", field(1))
    (tmp_path / SKIPPED[0]).mkdir()
    tifffile.imwrite(tmp_path / SKIPPED[0] / "a.tif", field(2))
    with structlog.testing.capture_logs() as said:
        check_fields(tmp_path)
    (told,) = [one for one in said if one["event"] == "fields" and one["source"] == "cells"]
    used = told["train"]
    assert told["left_out"] == {SMALL: 1, FLAT: 1, BEYOND: 3, UNREADABLE: 1, RESTORED: 1, SOFT: 4 + 8 - used}
    warned = {one["why"]: one for one in said if one["event"] == "images left out"}
    assert warned.keys() == {SMALL, FLAT, UNREADABLE, RESTORED}
    assert "broken.tif" in warned[UNREADABLE]["for_example"]
    assert "restored.ome.tif" in warned[RESTORED]["for_example"]
    (skipped,) = [one for one in said if one["event"] == "fields" and one["source"] == SKIPPED[0]]
    assert skipped["left_out"] == {OTHER_FOLDER: 1}
    assert sum(one["log_level"] == "warning" and "validation" in one["event"] for one in said) == 1


def test_a_split_that_is_empty_is_warned_of_if_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path / "cells", "train", [field(1)])
    write(tmp_path / "cells", "validation", [field(2)])
    with structlog.testing.capture_logs() as said:
        check_fields(tmp_path)
    assert not [one for one in said if one["log_level"] == "warning"]
    with structlog.testing.capture_logs() as said:
        check_fields(tmp_path, ("train", "test"))
    assert [one["event"].split(":")[0] for one in said if one["log_level"] == "warning"] == [
        "no field of the test split"
    ]  # fmt: skip


def test_a_folder_of_which_nothing_trains_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "cells", "test", [field(1), field(2)])
    with pytest.raises(UsageError, match=r"no field is in the train split \(0 validation, 2 test"):
        check_fields(tmp_path)
    (tmp_path / "small").mkdir()
    write(tmp_path / "small" / "cells", "train", [field(1, (90, 90))])
    with pytest.raises(UsageError, match=r"can be trained on \(1 smaller than 128 px\)"):
        check_fields(tmp_path / "small")
    check_fields(None)
