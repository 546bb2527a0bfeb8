from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from parfocal.drivers.recorded_stack import COMPUTED
from parfocal.models.training.fieldfiles import (
    AXES,
    FLAT,
    NOT_FINITE,
    RESTORED,
    SMALL,
    UNREADABLE,
    ComputedError,
    FieldFileError,
    image_paths,
    read_array,
    read_planes,
)

RAMP = np.tile(np.linspace(100, 4000, 160), (150, 1)).astype(np.uint16)


def restored_file(path: Path, image: NDArray[Any]) -> None:
    """A TIFF with the mark of `parfocal restore` in its OME-XML."""
    tifffile.imwrite(path, image, ome=True, metadata={"Name": COMPUTED})


def left_out(path: Path, image: NDArray[Any]) -> dict[str, int]:
    tifffile.imwrite(path, image, photometric="minisblack")
    return dict(read_planes(path).left_out)


def test_images_are_found_by_name_and_hidden_ones_are_not(tmp_path: Path) -> None:
    for name in ("b.TIF", "a.png", ".c.tif", ".hidden/d.tif", "e.txt", "f.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in image_paths(tmp_path)] == ["a.png", "b.TIF"]


@pytest.mark.parametrize("eight", [True, False])
def test_a_grey_png_is_read_as_the_tiff_is(tmp_path: Path, *, eight: bool) -> None:
    image = (RAMP // 16).astype(np.uint8) if eight else RAMP
    Image.fromarray(image).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", image)
    (png,), (tiff,) = (read_planes(tmp_path / name).planes for name in ("a.png", "a.tif"))
    assert np.array_equal(png, tiff)
    assert np.array_equal(read_array(tmp_path / "a.png"), image)


def test_a_png_of_three_equal_channels_is_grey_and_a_coloured_one_is_not_read(tmp_path: Path) -> None:
    grey = (RAMP // 16).astype(np.uint8)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "grey.png")
    assert np.array_equal(read_array(tmp_path / "grey.png"), grey)
    coloured = {
        "a colour image": Image.fromarray(np.stack([grey, grey, 255 - grey], axis=-1)),
        "palette": Image.fromarray(grey).convert("P"),
        "1 bit": Image.fromarray(grey).convert("1"),
        "partly transparent": Image.fromarray(grey).convert("LA"),
    }
    for says, image in coloured.items():
        image.save(tmp_path / "b.png")
        with pytest.raises(FieldFileError, match=says):
            read_array(tmp_path / "b.png")
        assert read_planes(tmp_path / "b.png").left_out == {UNREADABLE: 1}


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_a_file_that_is_none_is_told_and_not_raised(tmp_path: Path, name: str) -> None:
    for held in (b"", b"II*\x00\x08\x00\x00\x00garbage", b"\x89PNG\r\n\x1a\n" + bytes(20)):
        (tmp_path / name).write_bytes(held)
        found = read_planes(tmp_path / name)
        assert (found.planes, found.left_out) == ((), {UNREADABLE: 1})
        assert str(tmp_path / name) in found.problem


def test_restored_pixels_are_refused(tmp_path: Path) -> None:
    restored_file(tmp_path / "a.ome.tif", RAMP)
    with pytest.raises(ComputedError, match="computed by `parfocal restore`"):
        read_array(tmp_path / "a.ome.tif")
    assert read_planes(tmp_path / "a.ome.tif").left_out == {RESTORED: 1}


def test_what_restore_really_writes_is_refused(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from parfocal.daemon.cli import app
    from parfocal.simulator.optics import Imager, Optics
    from parfocal.simulator.specimens import make_specimen

    optics = Optics()
    specimen = make_specimen("nuclei", (160, 160), pixel_um=optics.pixel_um, seed=1)
    image = Imager(optics, (160, 160)).image(specimen, 4.0)
    tifffile.imwrite(tmp_path / "raw.tif", np.random.default_rng(1).poisson(image * 2000 + 50).astype(np.uint16))
    asked = ["restore", str(tmp_path / "raw.tif"), "--out", str(tmp_path / "out"), "--method", "wiener", "--na",
             f"{optics.na}", "--pixel-um", f"{optics.pixel_um}", "--emission-nm",
             f"{1000 * optics.emission_um}", "--immersion-index", "1", "--defocus-um", "4"]  # fmt: skip
    told = CliRunner().invoke(app, asked)
    written = [path for path in image_paths(tmp_path / "out") if path.suffix == ".tif"]
    assert written, told.output
    assert [read_planes(path).left_out for path in written] == [{RESTORED: 1}] * len(written)


def test_flat_is_told_by_counts_or_by_the_share_of_the_brightest(tmp_path: Path) -> None:
    path, unit = tmp_path / "a.tif", ((RAMP - RAMP.min()) / np.ptp(RAMP)).astype(np.float32)
    assert left_out(path, unit) == left_out(path, unit * 1e-6) == left_out(path, unit * 1e6) == {}
    assert left_out(path, 500 + unit) == left_out(path, np.zeros_like(unit)) == {FLAT: 1}
    assert left_out(path, (500 + 7 * unit).astype(np.uint16)) == {FLAT: 1}
    assert left_out(path, (500 + 20 * unit).astype(np.uint16)) == {}


def test_every_other_reason_is_told(tmp_path: Path) -> None:
    path, floats = tmp_path / "a.tif", RAMP.astype(np.float32)
    floats[3, 3] = np.nan
    assert left_out(path, floats) == {NOT_FINITE: 1}
    assert left_out(path, RAMP[:100]) == {SMALL: 1}
    assert left_out(path, np.stack([np.stack([RAMP] * 2)] * 2)) == {AXES: 1}
    assert left_out(path, RAMP.astype(np.complex64)) == {UNREADABLE: 1}
