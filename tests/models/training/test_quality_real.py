from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from parfocal.models.training.quality_real import FAR, NEAR, WITH_APART, read_images, real_sets, why_none
from tests.models.training.test_fieldfiles import restored_file
from tests.models.training.test_fields import field, write


def images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        tifffile.imwrite(folder / name, field(number))


@pytest.fixture
def fields(tmp_path: Path) -> Path:
    folder = tmp_path / "fields"
    folder.mkdir()
    for source in ("cells", "dsb2018"):
        write(folder / source, "test", [field(n) for n in range(5)])
        write(folder / source, "train", [field(n) for n in range(5)])
    images(folder / "live_low_snr", ["er_1.tif", "er_2.tif", "mito_1.tif", "mine.tif", "ermine.tif"])
    return folder


def test_every_set_says_what_it_is_made_of(fields: Path, tmp_path: Path) -> None:
    images(tmp_path / "stacks" / NEAR, ["a.tif", "b.tif"])
    images(tmp_path / "stacks" / FAR, ["c.tif"])
    sets = real_sets(fields, tmp_path / "stacks")
    plain, more = {NEAR: 2, "cells": 3}, {NEAR: 2, "cells": 3, "dsb2018": 3}
    assert {name: (dict(one.sources), len(one.clean), len(one.bad)) for name, one in sets.items()} == {
        "live, low SNR": (plain, 5, 3),
        f"live, low SNR; {WITH_APART}": (more, 8, 3),
        "live, low SNR, deconvolved": (plain, 5, 2),
        f"live, low SNR, deconvolved; {WITH_APART}": (more, 8, 2),
        "far out of focus": ({NEAR: 2}, 2, 1),
    }


def test_where_there_is_no_such_source_there_are_no_rows_with_it(fields: Path) -> None:
    for path in (fields / "dsb2018").iterdir():
        path.unlink()
    assert list(real_sets(fields, None)) == ["live, low SNR", "live, low SNR, deconvolved"]


def test_without_such_folders_it_is_said_which_are_looked_for(tmp_path: Path) -> None:
    assert real_sets(None, None) == {}
    write(tmp_path / "cells", "test", [field(1)])
    assert real_sets(tmp_path, tmp_path) == {}
    assert "--fields (none there)" in why_none(tmp_path, None)
    assert "--fields (not given)" in why_none(None, tmp_path)


def test_bad_images_may_be_png_and_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    Image.fromarray(field(1)).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "b.tif", field(2))
    (tmp_path / "c.tif").write_bytes(b"no image")
    restored_file(tmp_path / "d.ome.tif", field(3))
    tifffile.imwrite(tmp_path / "e.tif", field(4, (3, 160, 160)), photometric="minisblack")
    found = read_images(tmp_path)
    assert [np.array_equal(one, field(n)) for one, n in zip(found, (1, 2), strict=True)] == [True, True]
    assert read_images(tmp_path / "none") == []
