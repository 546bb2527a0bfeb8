"""The recorded driver: what it plays, what it refuses, and how it says so."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.drivers.base import CameraError, DeviceNotFoundError, HardwareError, Microscope, ParameterError
from parfocal.drivers.recorded import RecordedMicroscope, make_recorded
from parfocal.simulator.clock import VirtualClock

Z = [-4.0, -2.0, 0.0, 2.0, 4.0]


def plane(level: int, dtype: Any = np.uint16, shape: tuple[int, int] = (12, 16)) -> np.ndarray:
    return np.full(shape, level, dtype=dtype)


def write_folder(folder: Path, rows: list[dict[str, Any]] | None = None, **kwargs: Any) -> Path:
    """Five planes, 100 counts brighter each, and their csv."""
    folder.mkdir(exist_ok=True)
    for i in range(5):
        tifffile.imwrite(folder / f"plane{i * 5}.tif", plane(100 * i, **kwargs))
    if rows is None:
        rows = [
            {"file": f"plane{i * 5}.tif", "z_um": Z[i], "pixel_um": 0.325, "defocus_um": Z[i] - 1.0} for i in range(5)
        ]
    if rows:
        with (folder / "planes.csv").open("w", newline="") as out:
            writer = csv.DictWriter(out, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    return folder


def opened(path: Path, **options: Any) -> RecordedMicroscope:
    microscope = make_recorded({"path": str(path), **options}, VirtualClock())
    microscope.open()
    return microscope


def test_folder_with_csv_is_a_microscope_whose_stage_picks_the_plane(tmp_path: Path) -> None:
    microscope = opened(write_folder(tmp_path / "stack"))
    assert isinstance(microscope, Microscope)
    assert not microscope.simulated
    assert microscope.parameters["z_um"].lower == -4.0
    assert microscope.parameters["z_um"].upper == 4.0
    assert microscope.read() == {"z_um": 0.0, "exposure_ms": 10.0}
    assert microscope.set("z_um", 1.4) == 2.0, "reads back the z of the plane that is shown"
    frame = microscope.snap()
    assert np.all(frame.pixels == 300)
    assert frame.settings["z_um"] == 2.0
    assert frame.pixel_um == 0.325
    assert frame.truth == {"defocus_um": 1.0, "focus_z_um": 1.0}
    assert frame.metadata["recorded"] is True
    assert frame.metadata["file"] == "plane15.tif"
    assert not frame.simulated
    assert frame.saturation_counts == 65535.0
    with pytest.raises(ValueError, match="read-only"):
        frame.pixels[0, 0] = 1
    microscope.close()
    microscope.close()


def test_linear_interpolation_stands_between_planes(tmp_path: Path) -> None:
    microscope = opened(write_folder(tmp_path / "stack"), interpolate="linear")
    assert microscope.set("z_um", 1.0) == 1.0
    frame = microscope.snap()
    assert np.all(frame.pixels == 250)
    assert frame.pixels.dtype == np.uint16
    assert frame.truth["focus_z_um"] == pytest.approx(1.0)
    assert microscope.set("z_um", 4.0) == 4.0
    assert np.all(microscope.snap().pixels == 400)


def test_frames_repeat_and_carry_the_clock(tmp_path: Path) -> None:
    microscope = opened(write_folder(tmp_path / "stack"), exposure_ms=20)
    live = microscope.frames()
    first, second = next(live), next(live)
    assert (first.index, second.index) == (0, 1)
    assert second.start_s == first.end_s
    assert first.end_s - first.start_s == pytest.approx(0.02)
    with pytest.raises(CameraError, match="close its iterator"):
        microscope.snap()
    microscope.set("z_um", 4.0)
    assert np.all(next(live).pixels == 400)
    live.close()  # type: ignore[attr-defined]
    assert microscope.snap().index == 3


@pytest.mark.parametrize("value", [4.01, -5.0, float("nan"), float("inf")])
def test_a_z_without_a_plane_is_refused(tmp_path: Path, value: float) -> None:
    microscope = opened(write_folder(tmp_path / "stack"))
    with pytest.raises(ParameterError):
        microscope.set("z_um", value)
    assert microscope.read()["z_um"] == 0.0


def test_the_exposure_of_a_recording_cannot_change(tmp_path: Path) -> None:
    microscope = opened(write_folder(tmp_path / "stack"))
    assert microscope.set("exposure_ms", 10.0) == 10.0
    with pytest.raises(ParameterError):
        microscope.set("exposure_ms", 20.0)
    with pytest.raises(ParameterError, match="unknown"):
        microscope.set("gain", 1.0)


def test_files_sort_by_number_and_z_can_be_given(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "stack", rows=[])
    microscope = opened(folder, z_start_um=10.0, z_step_um=-2.0, pixel_um=0.5)
    # plane0, plane5, plane10, plane15, plane20 at 10, 8, 6, 4, 2 um
    microscope.set("z_um", 8.0)
    assert microscope.snap().metadata["file"] == "plane5.tif"
    assert microscope.snap().truth == {}


def test_png_planes_of_16_bits(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for i in range(3):
        image.fromarray(plane(1000 * i)).save(tmp_path / f"{i}.png")
    microscope = opened(tmp_path, z_start_um=0, z_step_um=1, pixel_um=0.1)
    microscope.set("z_um", 2)
    frame = microscope.snap()
    assert frame.pixels.dtype == np.uint16
    assert np.all(frame.pixels == 2000)


def test_multipage_tiff(tmp_path: Path) -> None:
    path = tmp_path / "stack.tif"
    tifffile.imwrite(path, np.stack([plane(i, np.uint8) for i in range(4)]), photometric="minisblack")
    microscope = opened(path, z_start_um=-1, z_step_um=1, pixel_um=0.2)
    microscope.set("z_um", 2)
    frame = microscope.snap()
    assert np.all(frame.pixels == 3)
    assert frame.saturation_counts == 255.0


@pytest.mark.parametrize("by", ["step", "position"])
def test_ome_tiff_says_z_and_pixel_itself(tmp_path: Path, by: str) -> None:
    path = tmp_path / "stack.ome.tif"
    metadata: dict[str, Any] = {"axes": "ZYX", "PhysicalSizeX": 0.11, "PhysicalSizeXUnit": "µm"}
    if by == "step":
        metadata |= {"PhysicalSizeZ": 0.5, "PhysicalSizeZUnit": "µm"}
        wanted = [0.0, 0.5, 1.0, 1.5]
    else:
        wanted = [3.0, 2.0, 1.0, -7.0]
        metadata["Plane"] = {"PositionZ": wanted, "PositionZUnit": ["µm"] * 4}
    tifffile.imwrite(path, np.stack([plane(i) for i in range(4)]), metadata=metadata, photometric="minisblack")
    microscope = opened(path)
    for i, z in enumerate(wanted):
        microscope.set("z_um", z)
        frame = microscope.snap()
        assert np.all(frame.pixels == i)
        assert frame.pixel_um == 0.11


def write_zarr(path: Path, axis: str) -> Path:
    from ome_writers import AcquisitionSettings, Dimension, create_stream

    yx = [
        Dimension(name=name, count=size, chunk_size=size, type="space", scale=0.1, unit="micrometer")
        for name, size in (("y", 12), ("x", 16))
    ]
    if axis == "z":
        first = Dimension(name="z", count=3, chunk_size=1, type="space", scale=2.0, unit="micrometer", translation=-4.0)
    else:
        first = Dimension(name="t", count=3, chunk_size=1, type="time")
    stream = create_stream(
        AcquisitionSettings(root_path=str(path), format="tensorstore", dtype="uint16", dimensions=[first, *yx])
    )
    for i in range(3):
        stream.append(plane(i), frame_metadata={"position_z": i * 1.5} if axis == "t" else {})
    stream.close()
    return path


def test_ome_zarr_with_a_z_axis(tmp_path: Path) -> None:
    microscope = opened(write_zarr(tmp_path / "a.ome.zarr", "z"))
    assert microscope.set("z_um", -2.0) == -2.0
    frame = microscope.snap()
    assert np.all(frame.pixels == 1)
    assert frame.pixel_um == pytest.approx(0.1)


def test_ome_zarr_of_a_session_takes_z_from_each_frame(tmp_path: Path) -> None:
    microscope = opened(write_zarr(tmp_path / "a.ome.zarr", "t"))
    assert microscope.parameters["z_um"].upper == 3.0
    microscope.set("z_um", 3.0)
    assert np.all(microscope.snap().pixels == 2)


def test_one_channel_of_several_must_be_chosen(tmp_path: Path) -> None:
    path = tmp_path / "two.ome.tif"
    data = np.zeros((3, 2, 12, 16), np.uint16)
    data[:, 1] = 7
    tifffile.imwrite(path, data, metadata={"axes": "ZCYX", "PhysicalSizeX": 0.1, "PhysicalSizeZ": 1.0})
    with pytest.raises(DeviceNotFoundError, match="2 channels"):
        opened(path)
    assert np.all(opened(path, channel=1).snap().pixels == 7)
    with pytest.raises(DeviceNotFoundError, match="channel 2"):
        opened(path, channel=2)


def _rows(count: int = 5, **changes: Any) -> list[dict[str, Any]]:
    return [{"file": f"plane{i * 5}.tif", "z_um": Z[i], **changes} for i in range(count)]


def _break_truncate(folder: Path) -> None:
    (folder / "plane5.tif").write_bytes(b"II*\x00 not a tiff")


def _break_shape(folder: Path) -> None:
    tifffile.imwrite(folder / "plane5.tif", plane(1, shape=(12, 18)))


def _break_dtype(folder: Path) -> None:
    tifffile.imwrite(folder / "plane5.tif", plane(1, np.uint8))


def _break_colour(folder: Path) -> None:
    tifffile.imwrite(folder / "plane5.tif", np.zeros((12, 16, 3), np.uint16), photometric="rgb")


def _break_remove(folder: Path) -> None:
    (folder / "plane5.tif").unlink()


@pytest.mark.parametrize(
    ("breaking", "error", "message"),
    [
        (_break_truncate, CameraError, "plane5.tif"),
        (_break_shape, CameraError, "plane5.tif"),
        (_break_dtype, CameraError, "plane5.tif"),
        (_break_colour, CameraError, "plane5.tif"),
        (_break_remove, DeviceNotFoundError, "plane5.tif"),
    ],
)
def test_a_bad_plane_is_one_clear_error(tmp_path: Path, breaking: Any, error: type[Exception], message: str) -> None:
    folder = write_folder(tmp_path / "stack")
    breaking(folder)
    with pytest.raises(error, match=message):
        opened(folder)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (_rows(4), "no row for plane20.tif"),
        ([*_rows(5), {"file": "plane99.tif", "z_um": 9.0}], "plane99.tif"),
        ([*_rows(5), {"file": "plane0.tif", "z_um": 9.0}], "twice"),
        (_rows(5, z_um="deep"), "must be a number"),
        (_rows(5, z_um=""), "must be a number"),
        (_rows(5, z_um=1.0), "all different"),
        (_rows(5, z_um="nan"), "finite"),
        ([], "nothing says at which z"),
        ([{"name": "a", "depth": 1}], "nothing says at which z"),
    ],
)
def test_a_bad_csv_is_one_clear_error(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    folder = write_folder(tmp_path / "stack", rows=rows)
    with pytest.raises(DeviceNotFoundError, match=message):
        opened(folder, pixel_um=0.3)


def test_float64_and_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceNotFoundError, match="no recording at"):
        opened(tmp_path / "absent")
    with pytest.raises(DeviceNotFoundError, match="no images"):
        opened(tmp_path)
    (tmp_path / "notes.txt").write_text("no")
    with pytest.raises(DeviceNotFoundError, match="not a recording"):
        opened(tmp_path / "notes.txt")
    tifffile.imwrite(tmp_path / "a.tif", plane(1, np.float64))
    with pytest.raises(CameraError, match="float64"):
        opened(tmp_path, z_start_um=0, z_step_um=1, pixel_um=1)
    empty = tmp_path / "empty.ome.zarr"
    empty.mkdir()
    with pytest.raises(CameraError, match=r"empty\.ome\.zarr"):
        opened(empty)


def test_options_are_checked(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "stack")
    for options, message in (
        ({"path": "x", "speed": 1}, "speed: unknown key"),
        ({}, "microscope.path"),
        ({"path": "x", "pixel_um": "big"}, "pixel_um"),
        ({"path": "x", "pixel_um": -1}, "greater than 0"),
        ({"path": "x", "interpolat": "linear"}, "did you mean 'interpolate'"),
        ({"path": "x", "interpolate": "cubic"}, "cubic"),
    ):
        with pytest.raises(ParameterError, match=message):
            make_recorded(options)
    with pytest.raises(DeviceNotFoundError, match="come together"):
        opened(folder, z_start_um=1.0)
    with pytest.raises(ParameterError, match="how large a pixel"):
        opened(write_folder(tmp_path / "bare", rows=[]), z_start_um=1, z_step_um=1)
    make_recorded({"path": str(folder), "driver": "recorded", "seed": 1, "objective": {}, "channel": None})


def test_not_open_is_an_error(tmp_path: Path) -> None:
    microscope = make_recorded({"path": str(tmp_path)})
    microscope.make_safe()
    for call in (microscope.snap, microscope.read, microscope.frames, lambda: microscope.set("z_um", 0)):
        with pytest.raises(HardwareError, match="not open"):
            call()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(z=st.floats(-4.0, 4.0))
def test_read_back_is_what_the_frame_shows(tmp_path: Path, z: float) -> None:
    folder = tmp_path / "stack"
    if not folder.exists():
        write_folder(folder)
    for interpolate, allowed in (("nearest", 1.0), ("linear", 0.0)):
        microscope = opened(folder, interpolate=interpolate)
        got = microscope.set("z_um", z)
        assert abs(got - z) <= allowed
        frame = microscope.snap()
        assert frame.settings["z_um"] == got
        assert abs(float(frame.pixels[0, 0]) - (200 + 50 * got)) <= 0.5


def test_restored_pixels_are_not_played_as_a_microscopes(tmp_path: Path) -> None:
    import tifffile

    from parfocal.drivers.recorded_stack import load_stack

    pixels = np.zeros((3, 64, 64), dtype=np.uint16)
    path = tmp_path / "stack.ome.tif"
    annotated = {"axes": "ZYX", "Description": "parfocal:computed"}
    tifffile.imwrite(path, pixels, metadata=annotated)
    with pytest.raises(DeviceNotFoundError, match="computed by `parfocal restore`"):
        load_stack(path, z_start_um=0.0, z_step_um=1.0)
    folder = tmp_path / "folder"
    folder.mkdir()
    tifffile.imwrite(folder / "0.ome.tif", pixels[0], metadata={**annotated, "axes": "YX"})
    with pytest.raises(DeviceNotFoundError, match="computed"):
        load_stack(folder, z_start_um=0.0, z_step_um=1.0)
