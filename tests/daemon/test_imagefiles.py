"""Files and folders become grey planes with their optics, or one clear refusal each."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from parfocal.daemon.fileoptics import PartialOptics, length_um, optics_of_config
from parfocal.daemon.imagefiles import ImageFileError, find_images, iter_planes

STACK = np.arange(3 * 40 * 48, dtype=np.uint16).reshape(3, 40, 48)

OME_OBJECTIVE = """<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.2" NominalMagnification="63" Immersion="Water"/>
<Objective ID="Objective:1" LensNA="0.3" Immersion="Air"/></Instrument>
<Image ID="Image:0"><InstrumentRef ID="Instrument:0"/><ObjectiveSettings ID="Objective:0"/>
<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="48" SizeY="40" SizeC="1" SizeZ="3" SizeT="1"
 PhysicalSizeX="103" PhysicalSizeXUnit="nm"><Channel ID="Channel:0:0" EmissionWavelength="520" SamplesPerPixel="1"/>
<TiffData IFD="0" PlaneCount="3"/></Pixels></Image></OME>"""


def planes(path: Path) -> list[tuple[dict[str, int], PartialOptics, NDArray[Any]]]:
    return [(dict(plane.axes), plane.optics, plane.read()) for plane in iter_planes(path)]


def test_plain_tiff_gives_each_page(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    read = planes(tmp_path / "a.tif")
    assert [axes for axes, _, _ in read] == [{"z": 0}, {"z": 1}, {"z": 2}]
    assert all(np.array_equal(pixels, page) for (_, _, pixels), page in zip(read, STACK, strict=True))
    assert read[0][1] == PartialOptics()


def test_ome_tiff_says_its_optics(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", description=OME_OBJECTIVE, metadata=None)
    axes, optics, pixels = planes(tmp_path / "a.ome.tif")[1]
    assert axes == {"z": 1}
    assert optics.pixel_um == pytest.approx(0.103)
    assert optics == PartialOptics(1.2, 1.333, 0.52, optics.pixel_um, 63)
    assert np.array_equal(pixels, STACK[1])


def test_each_channel_has_its_emission(tmp_path: Path) -> None:
    metadata = {"axes": "CYX", "Channel": {"EmissionWavelength": [450, 600]}}
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK[:2], photometric="minisblack", metadata=metadata)
    assert [optics.emission_um for _, optics, _ in planes(tmp_path / "a.ome.tif")] == pytest.approx([0.45, 0.6])


def test_broken_ome_metadata_does_not_hide_the_pixels(tmp_path: Path) -> None:
    broken = OME_OBJECTIVE.replace('LensNA="1.2"', 'LensNA="high"').replace("</Image></OME>", "</Image><X/></OME>")
    tifffile.imwrite(tmp_path / "a.ome.tif", STACK, photometric="minisblack", description=broken, metadata=None)
    read = planes(tmp_path / "a.ome.tif")
    assert len(read) == 3
    assert read[0][1].na is None


def test_a_file_of_a_set_gives_only_its_own_planes(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "first.ome.tif") as writer:
        writer.write(STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    xml = tifffile.tiffcomment(tmp_path / "first.ome.tif")
    assert isinstance(xml, str)
    uuid = xml.split('UUID="urn:uuid:')[1].split('"')[0]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="{z - 2 * (z == 2)}" PlaneCount="1">'
        f'<UUID FileName="{name}">urn:uuid:{uid}</UUID></TiffData>'
        for z, name, uid in [(0, "first.ome.tif", uuid), (1, "first.ome.tif", uuid), (2, "second.ome.tif", uuid[::-1])]
    )
    both = xml.replace('<TiffData IFD="0" PlaneCount="3"/>', data).replace("µ", "&#181;")
    assert both != xml
    for name, uid, part in [("first.ome.tif", uuid, STACK[:2]), ("second.ome.tif", uuid[::-1], STACK[2:])]:
        text = both.replace(f'UUID="urn:uuid:{uuid}" ', f'UUID="urn:uuid:{uid}" ', 1)
        tifffile.imwrite(tmp_path / name, part, photometric="minisblack", description=text, metadata=None)
    assert [axes["z"] for axes, _, _ in planes(tmp_path / "first.ome.tif")] == [0, 1]
    assert [axes["z"] for axes, _, _ in planes(tmp_path / "second.ome.tif")] == [2]


def test_imagej_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", STACK, imagej=True, resolution=(5.0, 5.0), metadata={"axes": "ZYX", "unit": "micron"}
    )
    assert [optics.pixel_um for _, optics, _ in planes(tmp_path / "a.tif")] == pytest.approx([0.2] * 3)


def test_screen_resolution_is_not_a_pixel_size(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK[0], resolution=(72, 72), resolutionunit="INCH")
    assert planes(tmp_path / "a.tif")[0][1].pixel_um is None


def test_a_volume_in_one_page_is_sliced(tmp_path: Path) -> None:
    volume = np.arange(16 * 48 * 64, dtype=np.uint16).reshape(16, 48, 64)
    tifffile.imwrite(tmp_path / "v.tif", volume, volumetric=True, tile=(16, 16, 16), metadata={"axes": "ZYX"})
    read = planes(tmp_path / "v.tif")
    assert len(read) == 16
    assert np.array_equal(read[5][2], volume[5])


@pytest.mark.parametrize("ending", ["tif", "png"])
def test_colour_is_refused_and_grey_in_rgb_is_read(tmp_path: Path, ending: str) -> None:
    colour = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    save(tmp_path / f"colour.{ending}", colour)
    save(tmp_path / f"same.{ending}", np.repeat(colour[..., :1], 3, axis=2))
    with pytest.raises(ImageFileError, match="colour image"):
        planes(tmp_path / f"colour.{ending}")
    assert np.array_equal(planes(tmp_path / f"same.{ending}")[0][2], colour[..., 0])


def test_channels_stored_apart_are_planes(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="rgb", planarconfig="separate")
    read = planes(tmp_path / "a.tif")
    assert [axes for axes, _, _ in read] == [{"s": 0}, {"s": 1}, {"s": 2}]
    assert np.array_equal(read[2][2], STACK[2])


def test_palette_tiff_is_refused(tmp_path: Path) -> None:
    table = np.random.default_rng(0).integers(0, 65535, (3, 256), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", STACK[0].astype(np.uint8), photometric="palette", colormap=table)
    with pytest.raises(ImageFileError, match="palette"):
        planes(tmp_path / "a.tif")


def save(path: Path, pixels: NDArray[Any]) -> None:
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="rgb")


def test_png_of_16_bits_keeps_them(tmp_path: Path) -> None:
    Image.fromarray(STACK[0]).save(tmp_path / "a.png")
    (_, _, pixels), *rest = planes(tmp_path / "a.png")
    assert not rest
    assert pixels.dtype == np.uint16
    assert np.array_equal(pixels, STACK[0])


def test_palette_png_is_refused(tmp_path: Path) -> None:
    Image.fromarray(STACK[0].astype(np.uint8)).convert("P").save(tmp_path / "a.png")
    with pytest.raises(ImageFileError, match="palette"):
        planes(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.ome.tiff"])
@pytest.mark.parametrize("content", [b"", b"hello", b"II*\x00\x08\x00\x00\x00"])
def test_damaged_files_are_one_clear_error(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFileError, match=name):
        planes(tmp_path / name)


def test_truncated_png_is_one_clear_error(tmp_path: Path) -> None:
    Image.fromarray(STACK[0]).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageFileError, match="cannot be read"):
        planes(tmp_path / "a.png")


def write_zarr(path: Path, stack: NDArray[Any]) -> None:
    from yaozarrs import DimSpec, v05
    from yaozarrs.write.v05 import write_image

    height, width = stack.shape[1:]
    dims = [
        DimSpec(name="z", size=len(stack), scale=0.5, unit="micrometer"),
        DimSpec(name="y", size=height, scale=108.0, unit="nanometer"),
        DimSpec(name="x", size=width, scale=108.0, unit="nanometer"),
    ]
    write_image(path, v05.Image(multiscales=[v05.Multiscale.from_dims(dims)]), stack)


def test_ome_zarr_planes_and_pixel_size(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.ome.zarr", STACK)
    read = planes(tmp_path / "a.ome.zarr")
    assert [axes for axes, _, _ in read] == [{"z": 0}, {"z": 1}, {"z": 2}]
    assert read[0][1].pixel_um == pytest.approx(0.108)
    assert np.array_equal(read[2][2], STACK[2])


def test_zarr_without_ome_is_refused(tmp_path: Path) -> None:
    write_zarr(tmp_path / "a.zarr", STACK)
    (tmp_path / "a.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(ImageFileError, match="multiscales"):
        planes(tmp_path / "a.zarr")


def test_folders_are_searched_and_a_zarr_is_one_image(tmp_path: Path) -> None:
    write_zarr(tmp_path / "deep" / "b.ome.zarr", STACK)
    tifffile.imwrite(tmp_path / "deep" / "a.TIF", STACK[0])
    Image.fromarray(STACK[0]).save(tmp_path / "c.png")
    (tmp_path / ".hidden.tif").write_bytes(b"x")
    (tmp_path / "notes.txt").write_text("x")
    found = find_images([tmp_path, tmp_path / "c.png"])
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["c.png", "deep/a.TIF", "deep/b.ome.zarr"]


def test_a_folder_without_images_and_a_missing_path_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ImageFileError, match="holds no images"):
        find_images([tmp_path])
    with pytest.raises(ImageFileError, match="no such file"):
        find_images([tmp_path / "x.tif"])
    with pytest.raises(ImageFileError, match="not read"):
        iter_planes(tmp_path / "notes.txt")


def test_lengths() -> None:
    assert length_um(0.1, "mm") == pytest.approx(100)
    assert length_um(1.0, "pixel") is None
    assert length_um(None, "um") is None
    assert length_um(float("nan"), "um") is None


def test_what_the_person_says_wins() -> None:
    given = PartialOptics(na=0.8)
    file = PartialOptics(na=0.75, pixel_um=0.3)
    assert given.over(file) == PartialOptics(na=0.8, pixel_um=0.3)
    assert file.over(given).na == 0.75
    assert given.missing() == ["immersion_index", "emission_um", "pixel_um"]
    assert given.with_dry_index().immersion_index == 1.0
    assert PartialOptics(na=1.2).with_dry_index().immersion_index is None


def test_optics_of_a_configuration() -> None:
    section = {"objective": {"na": 0.75, "immersion_index": 1.0, "magnification": 20}, "emission_nm": 520}
    assert optics_of_config(section) == PartialOptics(0.75, 1.0, 0.52, None, 20)
    assert optics_of_config({"objective": None}) == PartialOptics()


@pytest.mark.parametrize(
    "optics", [{"na": 1.2, "immersion_index": 1.0}, {"pixel_um": -1.0}, {"emission_um": float("inf")}]
)
def test_impossible_optics_are_refused(optics: dict[str, float]) -> None:
    with pytest.raises(Exception, match=r"immersion index|positive"):
        PartialOptics(**optics).check("--na")


def test_a_hyperstack_of_one_page_is_mapped_and_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = {"axes": "TYX"}
    tifffile.imwrite(tmp_path / "a.tif", STACK, photometric="minisblack", metadata=metadata, truncate=True)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert len(file.pages) == 1
    asked: list[Any] = []
    whole = tifffile.TiffPageSeries.asarray

    def asarray(self: Any, **options: Any) -> Any:
        asked.append(options)
        return whole(self, **options)

    monkeypatch.setattr(tifffile.TiffPageSeries, "asarray", asarray)
    kept = [pixels for _, _, pixels in planes(tmp_path / "a.tif")]
    assert asked == [{"out": "memmap"}]
    assert len(kept) == 3
    assert all(np.array_equal(pixels, page) for pixels, page in zip(kept, STACK, strict=True))
    assert not any(isinstance(pixels, np.memmap) for pixels in kept)


@pytest.mark.parametrize("ending", ["ome.tif", "tif", "png", "ome.zarr"])
def test_how_many_planes_a_file_holds_is_known_from_the_first(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.{ending}"
    if ending == "ome.zarr":
        write_zarr(path, STACK)
    elif ending == "png":
        Image.fromarray(STACK[0]).save(path)
    else:
        tifffile.imwrite(path, STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    found = list(iter_planes(path))
    assert [plane.planes for plane in found] == [len(found)] * len(found)


def png_of_bits(path: Path, bits: int, kind: int, channels: int = 1) -> None:
    """A PNG that the library at hand cannot write: 8 rows of 32 columns."""
    rows = b"".join(
        b"\x00" + bytes((row * 7 + at) % 256 for at in range(32 * bits * channels // 8)) for row in range(32)
    )
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 32, 32, bits, kind, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize(
    ("bits", "kind", "channels", "words"),
    [
        (1, 0, 1, "black-and-white"),
        (2, 0, 1, "2-bit"),
        (4, 0, 1, "4-bit"),
        (16, 2, 3, "16 bits a channel"),
        (8, 4, 2, "partly transparent"),
        (16, 4, 2, "partly transparent"),
    ],
)
def test_a_png_whose_numbers_the_decoder_would_change_is_refused(
    tmp_path: Path, bits: int, kind: int, channels: int, words: str
) -> None:
    png_of_bits(tmp_path / "a.png", bits, kind, channels)
    with pytest.raises(ImageFileError, match=words):
        planes(tmp_path / "a.png")


@pytest.mark.parametrize(("bits", "dtype"), [(8, np.uint8), (16, np.uint16)])
def test_a_png_of_8_or_16_bits_keeps_its_type(tmp_path: Path, bits: int, dtype: type) -> None:
    png_of_bits(tmp_path / "a.png", bits, 0)
    ((_, _, pixels),) = planes(tmp_path / "a.png")
    assert pixels.dtype == dtype
    expected = [(0 * 7 + 1) % 256] if bits == 8 else [2 * 256 + 3]
    assert int(pixels[0, 1]) == expected[0]


def test_an_animation_is_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray((page % 251).astype(np.uint8)) for page in STACK]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageFileError, match="animation of 3 frames"):
        planes(tmp_path / "a.png")


def test_a_folder_that_may_not_be_listed_is_one_error_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "secret").mkdir()
    tifffile.imwrite(tmp_path / "a" / "a.tif", STACK[0])
    listing = os.scandir

    def guarded(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return listing(path)

    monkeypatch.setattr(os, "scandir", guarded)
    found = find_images([tmp_path])
    assert [path.name for path in found] == ["a.tif", "secret"]
    with pytest.raises(ImageFileError, match="Permission denied"):
        iter_planes(found[1])


def test_the_folder_of_maps_is_not_searched(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    tifffile.imwrite(tmp_path / "a.tif", STACK[0])
    Image.fromarray(STACK[0]).save(tmp_path / "maps" / "m.png")
    assert len(find_images([tmp_path])) == 2
    assert [path.name for path in find_images([tmp_path], skip=[tmp_path / "maps"])] == ["a.tif"]
