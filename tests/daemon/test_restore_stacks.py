"""Stacks are restored plane by plane and keep their axes, in OME-TIFF and OME-Zarr; what is missing stays missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaozarrs
from numpy.typing import NDArray
from ome_writers import AcquisitionSettings, Dimension, OmeZarrFormat, create_stream
from typer.testing import CliRunner, Result

from parfocal.daemon import restoreoutput, restoreplane
from parfocal.daemon.cli import app
from parfocal.daemon.imagefiles import iter_planes
from parfocal.daemon.restoregrid import grid_of, survey
from parfocal.daemon.restoreome import ImageFacts
from parfocal.daemon.restoreoutput import Layers, TiffOutput, exact_dtype, read_layers
from parfocal.models.restore.base import Restoration, Verdict, cells_of
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

Invoke = Callable[..., Result]
SHAPE = (96, 128)
OPTIONS = ("--method", "wiener", "--na", "0.75", "--emission-nm", "520", "--immersion-index", "1", "--defocus-um", "4")


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restoreoutput, "RESERVE_BYTES", 0)
    return lambda *args: CliRunner().invoke(app, ["restore", *args, *OPTIONS, "--json"], catch_exceptions=False)


def stack(*size: int) -> NDArray[np.uint16]:
    """Planes of which no two are alike: nuclei 4 um out of focus, which the gate lets pass."""
    imager = Imager(Optics(na=0.75, immersion_index=1.0, emission_um=0.52, pixel_um=0.325), SHAPE)
    rng = np.random.default_rng(0)
    planes = [
        imager.image(make_specimen("nuclei", SHAPE, pixel_um=0.325, seed=seed), 4.0)
        for seed in range(int(np.prod(size)))
    ]
    light = np.stack(planes).reshape(*size, *SHAPE)
    return np.asarray(100 + rng.poisson(20 + 1000 * light), dtype=np.uint16)


def write_zarr(path: Path, pixels: NDArray[Any], axes: str) -> None:
    scales: dict[str, Any] = {"z": {"scale": 1.5, "unit": "micrometer"}}
    scales |= {axis: {"scale": 0.325, "unit": "micrometer"} for axis in "yx"}
    kinds = {"t": "time", "c": "channel"}
    dimensions = [
        Dimension(name=axis, count=count, chunk_size=count if axis in "yx" else 1, type=kinds.get(axis, "space"), **scales.get(axis, {}))  # type: ignore[arg-type]  # noqa: E501
        for axis, count in zip(axes, pixels.shape, strict=True)
    ]  # fmt: skip
    settings = AcquisitionSettings(
        root_path=str(path), dtype="uint16", dimensions=dimensions, format=OmeZarrFormat(backend="tensorstore")
    )
    with create_stream(settings) as stream:
        for plane in pixels.reshape(-1, *pixels.shape[-2:]):
            stream.append(plane)


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_ome_tiff_keeps_time_channels_and_z_step(invoke: Invoke, tmp_path: Path) -> None:
    pixels = stack(2, 2, 3)
    metadata = {"axes": "TCZYX", "PhysicalSizeX": 0.325, "PhysicalSizeZ": 1.5}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels, photometric="minisblack", metadata=metadata)
    rows = rows_of(invoke("a.ome.tif", "--out", "out"))
    assert [row["axes"] for row in rows[:4]] == [
        {"t": 0, "c": 0, "z": 0}, {"t": 0, "c": 0, "z": 1}, {"t": 0, "c": 0, "z": 2}, {"t": 0, "c": 1, "z": 0}
    ]  # fmt: skip
    target = tmp_path / "out/a.ome.tif.restored-wiener.ome.tif"
    with tifffile.TiffFile(target) as file:
        series = file.series[0]
        assert series.axes == "TZCYX"
        written = series.asarray()
        xml = file.ome_metadata or ""
    assert 'PhysicalSizeX="0.325"' in xml and 'PhysicalSizeZ="1.5"' in xml
    assert written.shape == (2, 3, 6, *SHAPE)
    for c in range(2):
        assert np.array_equal(written[:, :, 3 * c], pixels[:, c])
    again = read_layers(target, (2, 2, 3), (1, 1, 2), 3)
    assert again is not None and np.array_equal(again.raw, pixels[1, 1, 2])


def test_an_ome_zarr_becomes_one_with_its_axes_and_steps(invoke: Invoke, tmp_path: Path) -> None:
    pixels = stack(2, 2, 3)
    write_zarr(tmp_path / "a.ome.zarr", pixels, "tczyx")
    before = {path: path.read_bytes() for path in (tmp_path / "a.ome.zarr").rglob("*") if path.is_file()}
    rows = rows_of(invoke("a.ome.zarr", "--out", "out"))
    assert [row["plane"] for row in rows] == list(range(12))
    assert all(row["verdict"] == "restored" for row in rows), rows
    target = tmp_path / "out/a.ome.zarr.restored-wiener.ome.zarr"
    yaozarrs.validate_zarr_store(target)
    group: Any = yaozarrs.open_group(target)
    (multiscale,) = group.attrs["ome"]["multiscales"]
    assert [axis["name"] for axis in multiscale["axes"]] == list("tczyx")
    assert multiscale["datasets"][0]["coordinateTransformations"][0]["scale"] == [1.0, 1.0, 1.5, 0.325, 0.325]
    written = group["0"].to_tensorstore().read().result()
    assert written.shape == (2, 8, 3, *SHAPE)
    for c in range(2):
        assert np.array_equal(written[:, 4 * c], pixels[:, c])
        assert not np.array_equal(written[:, 4 * c + 1], pixels[:, c])
        assert np.isnan(written[:, 4 * c + 3]).all()
    labels = [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]]
    assert labels[:4] == ["raw c0", "restored (computed) c0", "refused c0", "sd (computed) c0"]
    assert group.attrs["parfocal"]["record"]["source"]["path"] == "a.ome.zarr"
    assert {path: path.read_bytes() for path in before} == before
    again = read_layers(target, (2, 2, 3), (1, 1, 2), 4)
    assert again is not None and np.array_equal(again.raw, pixels[1, 1, 2])
    assert all(row["skipped"] for row in rows_of(invoke("a.ome.zarr", "--out", "out")))
    scored = CliRunner().invoke(app, ["score", str(target), "--model", "sharpness", "--json"])
    assert "computed by `parfocal restore`" in json.loads(scored.stdout)["reason"]


def test_a_plane_that_cannot_be_read_is_nan_and_refused_in_its_place(invoke: Invoke, tmp_path: Path) -> None:
    pixels = stack(4)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in pixels:
            writer.write(plane, photometric="minisblack", contiguous=False, compression="zlib", metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        at = [file.pages[number].dataoffsets[0] for number in (0, 2)]
    damaged = bytearray((tmp_path / "a.tif").read_bytes())
    for offset in at:
        damaged[offset : offset + 200] = b"\xff" * 200
    (tmp_path / "a.tif").write_bytes(damaged)
    rows = rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325"))
    assert [row["verdict"] for row in rows] == ["failed", "restored", "failed", "restored"]
    record = json.loads((tmp_path / "out/a.tif.restored-wiener.json").read_text())
    (image,) = record["images"]
    written = tifffile.imread(tmp_path / "out" / image["file"])
    written = written.reshape(4, 3, *SHAPE)
    for number, plane in enumerate(image["planes"]):
        raw, restored, refused = written[plane["t"] + plane["z"]]
        if number in (0, 2):
            assert np.isnan(raw).all() and np.isnan(restored).all() and refused.all()
        else:
            assert np.array_equal(raw, pixels[number])
    # What failed is tried again.
    assert not any(row["skipped"] for row in rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325")))


def test_images_of_several_shapes_are_files_of_their_own(invoke: Invoke, tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(stack(2), photometric="minisblack", metadata=None)
        writer.write(stack()[:, :96], photometric="minisblack", metadata=None)
    rows = rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325"))
    assert len(rows) == 3
    record = json.loads((tmp_path / "out/a.tif.restored-wiener.json").read_text())
    shapes = {image["file"]: tifffile.imread(tmp_path / "out" / image["file"]).shape[-2:] for image in record["images"]}
    assert shapes == {
        "a.tif.restored-wiener-image0.ome.tif": SHAPE, "a.tif.restored-wiener-image1.ome.tif": (96, 96)
    }  # fmt: skip
    assert all(row["skipped"] for row in rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325")))


def test_no_more_than_a_few_planes_are_held(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planes are read one ahead, and written before the one after the next is read."""
    tifffile.imwrite(tmp_path / "a.tif", stack(12), photometric="minisblack", metadata={"axes": "TYX"})
    read, written, ahead = [0], [0], []
    asarray, add = tifffile.TiffPage.asarray, TiffOutput.add

    def counted(self: Any, *args: Any, **more: Any) -> Any:
        read[0] += 1
        ahead.append(read[0] - written[0])
        return asarray(self, *args, **more)

    def noted(self: Any, *args: Any) -> None:
        add(self, *args)
        written[0] += 1

    monkeypatch.setattr(tifffile.TiffPage, "asarray", counted)
    monkeypatch.setattr(TiffOutput, "add", noted)
    assert len(rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325"))) == 12
    assert written[0] == 12
    assert max(ahead) <= 4


def test_an_sd_is_written_where_the_method_claims_one_and_nan_elsewhere(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the last squares refused, and the second plane wholly: its sd comes after all others."""
    pixels = stack(3)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", metadata={"axes": "ZYX"})
    seen: list[int] = []

    class Certain:
        name = "wiener"

        def restore(self, frame: NDArray[Any], blur: Any) -> Restoration:
            refused = np.zeros(cells_of(SHAPE), dtype=bool)
            refused[-1] = True
            seen.append(1)
            pixels = frame.astype(np.float32)
            if len(seen) == 2:
                return Restoration("wiener", Verdict.REFUSED, "no", pixels, None, np.ones_like(refused), blur)
            return Restoration("wiener", Verdict.RESTORED, "", pixels + 7, np.full(SHAPE, 3, np.float32), refused, blur)

    monkeypatch.setattr(restoreplane, "make_restorer", lambda *args: Certain())
    rows_of(invoke("a.tif", "--out", "out", "--pixel-um", "0.325"))
    with tifffile.TiffFile(tmp_path / "out/a.tif.restored-wiener.ome.tif") as file:
        assert file.series[0].axes == "ZCYX"
        raw, restored, refused, sd = np.moveaxis(file.series[0].asarray(), 1, 0)
    assert np.array_equal(raw, pixels)
    assert np.array_equal(restored[0, :64], pixels[0, :64] + 7)
    assert np.array_equal(restored[0, 64:], pixels[0, 64:])
    assert (sd[0, :64] == 3).all() and np.isnan(sd[0, 64:]).all() and np.isnan(sd[1]).all()
    assert refused[1].all() and np.array_equal(restored[1], pixels[1])


@pytest.mark.parametrize(
    ("kind", "wanted"), [("u1", "f4"), ("i2", "f4"), ("f2", "f4"), ("f4", "f4"), ("u4", "f8"), ("f8", "f8")]
)
def test_raw_counts_are_written_exactly(kind: str, wanted: str) -> None:
    assert exact_dtype(np.dtype(kind)) == np.dtype(wanted)


def test_planes_that_fill_no_grid_are_numbered(tmp_path: Path) -> None:
    size, places, axes = grid_of([{"c": c, "z": z} for c in (1, 4) for z in range(3)])
    assert (size, axes) == ((1, 2, 3), "cz")
    assert places[:4] == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)]
    assert grid_of([{"s": 0}, {"s": 1}])[0] == (1, 2, 1)
    for odd in ([{"q": 0}, {"q": 1}], [{"z": 0}, {"z": 0}], [{"c": 0, "s": 0}, {"c": 0, "s": 1}], [{"z": 0}, {}]):
        assert grid_of(odd) == ((2, 1, 1), [(0, 0, 0), (1, 0, 0)], "")
    holed = [{"t": 0, "z": 0}, {"t": 0, "z": 1}, {"t": 1, "z": 0}]
    assert grid_of(holed) == ((3, 1, 1), [(0, 0, 0), (1, 0, 0), (2, 0, 0)], "")


def test_a_survey_reads_no_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"axes": "CZYX", "Channel": {"EmissionWavelength": [450, 600]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", stack(2, 3), photometric="minisblack", metadata=metadata)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *args, **more: pytest.fail("it was read"))
    (found,) = survey(tmp_path / "a.ome.tif")
    assert (found.size, found.axes, found.shape) == ((1, 2, 3), "cz", SHAPE)
    assert [one.emission_um for one in found.optics] == pytest.approx([0.45, 0.6])
    (plane, *_) = iter_planes(tmp_path / "a.ome.tif")
    assert plane.shape == SHAPE


def test_a_large_file_gets_wide_addresses(tmp_path: Path) -> None:
    facts = ImageFacts("a.tif", (1, 1, 1), SHAPE, np.dtype(np.float32), pixel_um=0.325)
    for big, number in ((False, 42), (True, 43)):
        output = TiffOutput(tmp_path / f"{number}.tif", facts, big=big)
        output.add((0, 0, 0), Layers.missing(SHAPE))
        output.finish("m", "{}")
        assert (tmp_path / f"{number}.tif").read_bytes()[2] == number
    digest = hashlib.sha256((tmp_path / "43.tif").read_bytes()).hexdigest()
    with pytest.raises(FileExistsError):
        TiffOutput(tmp_path / "43.tif", facts)
    assert hashlib.sha256((tmp_path / "43.tif").read_bytes()).hexdigest() == digest
