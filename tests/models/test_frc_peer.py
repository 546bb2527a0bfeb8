"""Reference mode against miplib itself, where it can be imported: see docs/decisions/0015-frc.md for how."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal.daemon.bench_frc import agreement, field_images, miplib_peer, specimens, times
from parfocal.models.metrics.frc import single_image_frc


def test_miplib_gives_the_same_numbers() -> None:
    peer = miplib_peer()
    if peer is None:
        pytest.skip("miplib is not here; tests/models/test_frc.py compares with its method instead")
    row = agreement(specimens(24, seed=3, side_px=128), peer, "specimens")
    assert row["only one does"] == 0
    assert row["equal to 1e-6"] == row["miplib gives a number"] > 12


def ours(image: NDArray[Any]) -> float:
    return float(single_image_frc(image, mode="reference").resolution_px[0])


def test_a_peer_that_differs_is_seen() -> None:
    images = list(specimens(6, seed=1, side_px=96))
    same = agreement(iter(images), ours, "same")
    assert same["largest relative difference"] == 0.0
    assert same["equal to 1e-6"] == same["miplib gives a number"] > 3
    off = agreement(iter(images), lambda image: ours(image) * (1 + 1e-5), "off")
    assert off["equal to 1e-6"] == 0
    assert off["largest relative difference"] == pytest.approx(1e-5, rel=1e-3)
    silent = agreement(iter(images), lambda _: float("nan"), "silent")
    assert silent["only one does"] == silent["reference gives a number"]


def test_specimens_are_seeded_and_of_many_kinds() -> None:
    once, again = (np.stack(list(specimens(8, seed=2, side_px=64))) for _ in range(2))
    assert np.array_equal(once, again)
    assert len({image.tobytes() for image in once}) == 8


def test_fields_are_read_from_a_folder(tmp_path: Path) -> None:
    for index in range(4):
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full((40, 40), index, np.uint16))
    tifffile.imwrite(tmp_path / "9.tif", np.zeros((40, 40, 3), np.uint8), photometric="rgb")
    assert [int(image[0, 0]) for image in field_images(tmp_path, 10)] == [0, 1, 2, 3]


def test_times_compare_with_the_peer() -> None:
    rows = times(0, ours, repeats=2, side_px=96)
    assert rows[0]["what"] == "miplib"
    assert all(row["ms median"] > 0 and row["times faster, median"] > 0 for row in rows)
    assert "times faster, median" in times(0, None, repeats=1, side_px=64)[0]
