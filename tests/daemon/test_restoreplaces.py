"""Computed images mirror the sources and never lie among them."""

from __future__ import annotations

from pathlib import Path

import pytest

from parfocal import UsageError
from parfocal.daemon.restoreplaces import GENERATOR, RestorePlaces, publish


def touch(*paths: Path) -> list[Path]:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"raw")
    return list(paths)


def test_two_sources_never_share_a_place(tmp_path: Path) -> None:
    files = touch(*(tmp_path / name for name in ("day1/a.tif", "day1/a.png", "day2/a.tif", "day2/x/a.tif")))
    places = RestorePlaces([tmp_path / "day1", tmp_path / "day2"], files, tmp_path / "out", "unet")
    targets = [places.target(path, ".ome.tif") for path in files]
    assert [path.relative_to(tmp_path / "out").as_posix() for path in targets] == [
        "day1/a.tif.restored-unet.ome.tif", "day1/a.png.restored-unet.ome.tif",
        "day2/a.tif.restored-unet.ome.tif", "day2/x/a.tif.restored-unet.ome.tif",
    ]  # fmt: skip


def test_below_one_folder_and_for_one_file_nothing_is_repeated(tmp_path: Path) -> None:
    (path,) = touch(tmp_path / "day1/x/a.tif")
    assert RestorePlaces([tmp_path / "day1"], [path], tmp_path / "o", "m").relative(path).as_posix() == "x/a.tif"
    assert RestorePlaces([path], [path], tmp_path / "o", "m").relative(path).as_posix() == "a.tif"


@pytest.mark.parametrize("out", ["raw", "raw/../raw", "raw/x", "link"])
def test_a_folder_of_sources_is_no_place(tmp_path: Path, out: str) -> None:
    files = touch(tmp_path / "raw/a.tif", tmp_path / "raw/x/x/b.tif", tmp_path / "raw/x/c.tif")
    (tmp_path / "link").symlink_to(tmp_path / "raw", target_is_directory=True)
    with pytest.raises(UsageError, match="raw images lie here"):
        RestorePlaces([tmp_path / "raw"], files, tmp_path / out, "m")


def test_neither_is_a_place_whose_mirror_falls_among_them(tmp_path: Path) -> None:
    files = touch(tmp_path / "raw/day/day/a.tif", tmp_path / "raw/day/b.tif")
    with pytest.raises(UsageError, match="raw images lie here"):
        RestorePlaces([tmp_path / "raw/day"], files, tmp_path / "raw", "m")


def test_neither_is_a_folder_that_is_searched_and_would_be_left_out(tmp_path: Path) -> None:
    (source, hidden) = touch(tmp_path / "raw/day2/a.tif", tmp_path / "raw/day1/x/b.png")
    with pytest.raises(UsageError, match="raw images lie here"):
        RestorePlaces([tmp_path / "raw"], [source], tmp_path / "raw/day1", "m")
    hidden.rename(hidden.with_name("b.png.restored-unet.ome.tif"))
    RestorePlaces([tmp_path / "raw"], [source], tmp_path / "raw/day1", "m")  # what an earlier run made


def test_the_inside_of_an_image_is_no_place(tmp_path: Path) -> None:
    touch(tmp_path / "raw/a.ome.zarr/zarr.json")
    image = tmp_path / "raw/a.ome.zarr"
    for out in (image, image / "restored"):
        with pytest.raises(UsageError, match="inside an image"):
            RestorePlaces([tmp_path / "raw"], [image], out, "m")


def test_somebody_elses_page_is_not_replaced(tmp_path: Path) -> None:
    (source,) = touch(tmp_path / "raw/a.tif")
    (page,) = touch(tmp_path / "out/index.html")
    with pytest.raises(UsageError, match="somebody else"):
        RestorePlaces([source], [source], tmp_path / "out", "m")
    page.write_text(f"<meta {GENERATOR} 0.1.0>")
    RestorePlaces([source], [source], tmp_path / "out", "m")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    source, out = touch(tmp_path / "raw/a.tif", tmp_path / "out")
    with pytest.raises(UsageError, match="--out is a file"):
        RestorePlaces([source], [source], out, "m")


def test_a_folder_that_was_there_is_replaced_as_a_whole(tmp_path: Path) -> None:
    touch(tmp_path / "new/fresh", tmp_path / "deep/old/stale")
    publish(tmp_path / "new", tmp_path / "deep/old")
    assert [path.name for path in (tmp_path / "deep/old").iterdir()] == ["fresh"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep"]
