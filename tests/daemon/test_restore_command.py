"""`parfocal restore`: what is written, what is refused and why, what is never touched, and what a second run does."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner, Result

from parfocal.daemon import restoreoutput, restoreplane, restorework
from parfocal.daemon.cli import app
from parfocal.daemon.lock import InstanceLock
from parfocal.models.restore.classic import FilterRestorer
from parfocal.simulator.optics import Imager, Optics, psf
from parfocal.simulator.specimens import make_specimen

Invoke = Callable[..., Result]
OPTICS = Optics()
NM = ("--na", "0.75", "--emission-nm", "520", "--pixel-um", "0.325", "--immersion-index", "1")
FAR_UM = 4.0
TOLD = ("--method", "wiener", *NM, "--defocus-um", str(FAR_UM))


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    monkeypatch.setattr(restoreoutput, "RESERVE_BYTES", 0)  # the disk that runs this may be nearly full
    return lambda *args: CliRunner().invoke(app, ["restore", *args], catch_exceptions=False)


def cells(
    defocus_um: float = FAR_UM, seed: int = 0, shape: tuple[int, int] = (128, 128), kind: str = "nuclei"
) -> NDArray[np.uint16]:
    specimen = make_specimen(kind, shape, pixel_um=0.325, seed=seed)
    light = 2000.0 * Imager(OPTICS, shape).image(specimen, defocus_um)
    return np.random.default_rng(seed).poisson(100.0 + light).astype(np.uint16)


def save(path: Path, image: NDArray[Any] | None = None, **facts: Any) -> Path:
    image = cells() if image is None else image
    tifffile.imwrite(path, image, photometric=facts.pop("photometric", "minisblack"), **facts)
    return path


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def tree(folder: Path) -> dict[str, tuple[str, int]]:
    """Hash and time of the last change of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {
        path.relative_to(folder).as_posix(): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in files
    }


def record_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


def error_of(image: NDArray[Any], truth: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((image.astype(float) - truth.astype(float)) ** 2)))


def test_a_folder_is_mirrored_with_the_raw_beside_the_restored(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "raw/day 1").mkdir()
    save(tmp_path / "raw/day 1/a.tif")
    Image.fromarray(cells(seed=1)).save(tmp_path / "raw/b.png")
    result = invoke("raw", "--out", "out", *TOLD)
    assert result.exit_code == 0, result.output
    first = "day 1/a.tif.restored-wiener"
    second = "b.png.restored-wiener"
    written = [f"{stem}{ending}" for stem in (first, second) for ending in (".json", ".ome.tif")]
    assert sorted(tree(tmp_path / "out")) == sorted([*written, "index.html"])
    with tifffile.TiffFile(tmp_path / "out" / f"{first}.ome.tif") as file:
        assert (file.series[0].axes, file.series[0].shape) == ("CYX", (3, 128, 128))
        raw, restored, refused = file.series[0].asarray()
        names = [line.split('"')[1] for line in (file.ome_metadata or "").split("Name=")[2:]]
    assert names == ["raw", "restored (computed)", "refused"]
    assert np.array_equal(raw, cells())
    specimen = make_specimen("nuclei", (128, 128), pixel_um=0.325, seed=0)
    focused = 100.0 + 2000.0 * Imager(OPTICS, (128, 128)).image(specimen, 0.0)
    assert error_of(restored, focused) < 0.85 * error_of(raw, focused)
    assert np.array_equal(restored[refused > 0], raw[refused > 0])


def test_the_record_is_enough_to_do_it_again(invoke: Invoke, tmp_path: Path) -> None:
    source = save(tmp_path / "raw/a.tif")
    invoke("raw/a.tif", "--out", "out", *TOLD, "--defocus-sd-um", "0.3")
    record = record_of(tmp_path / "out/a.tif.restored-wiener.json")
    assert record["computed"] is True
    assert record["source"] == {
        "path": "a.tif",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "bytes": source.stat().st_size,
    }
    assert (record["method"], record["model"], record["defocus_model"]) == ("wiener", None, None)
    (image,) = record["images"]
    (plane,) = image["planes"]
    assert (plane["verdict"], plane["defocus_um"], plane["defocus_sd_um"]) == ("restored", FAR_UM, 0.3)
    made = plane["psf"]
    again = psf(Optics.from_options(made["optics"]), made["defocus_um"], made["size_px"])
    assert np.array_equal(again, psf(OPTICS, FAR_UM, made["size_px"]))
    with tifffile.TiffFile(tmp_path / "out" / image["file"]) as file:
        xml = file.ome_metadata or ""
    assert "parfocal:computed" in xml
    assert record["source"]["sha256"] in xml
    assert 'PhysicalSizeX="0.325"' in xml and 'EmissionWavelength="520.0"' in xml and 'LensNA="0.75"' in xml


def test_defocus_is_estimated_where_nobody_tells_it(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif", cells(shape=(256, 256)))
    save(tmp_path / "raw/empty.tif", cells(kind="empty"))
    result = invoke("raw", "--out", "out", "--method", "richardson_lucy", *NM, "--json")
    first, empty = rows_of(result)
    assert first["verdict"] == "restored"
    assert abs(abs(first["defocus_um"]) - FAR_UM) < 3 * first["defocus_sd_um"]
    assert (empty["verdict"], empty["defocus_um"]) == ("refused", None)
    assert "cannot be told" in empty["reason"]
    record = record_of(tmp_path / "out/a.tif.restored-richardson_lucy.json")
    assert len(record["defocus_model"]["weights_sha256"]) == 64


HOLED = cells().astype(np.float32)
HOLED[5, 5] = np.nan
SATURATED = np.where(cells() > 300, 65535, cells()).astype(np.uint16)
REFUSED = {
    "nan": (HOLED, "NaN"),
    "tiny": (cells()[:40], "too small"),
    "black": (np.zeros((128, 128), np.uint16), "one value"),
    "saturated": (SATURATED, "saturated"),
    "complex": (np.ones((96, 96), np.complex64), "complex64"),
}


def test_an_aberration_is_told_by_the_person_or_by_the_configuration(invoke: Invoke, tmp_path: Path) -> None:
    aberrated = Optics(zernike_waves={(4, 0): 0.12})
    specimen = make_specimen("nuclei", (128, 128), pixel_um=0.325, seed=0)
    image, focused = (2000.0 * Imager(aberrated, (128, 128)).image(specimen, z) for z in (FAR_UM, 0.0))
    save(tmp_path / "raw/a.tif", np.random.default_rng(0).poisson(100.0 + image).astype(np.uint16))
    (tmp_path / "scope.yaml").write_text(
        "microscope: {driver: simulated}\nscoring: {options: {defocus: {spherical_waves: 0.12, threads: 1}}}\n"
    )
    errors = {}
    for out, more in {"none": (), "told": ("--spherical-waves", "0.12"), "file": ("--config", "scope.yaml"),
                      "wrong": ("--config", "scope.yaml", "--spherical-waves", "-0.12")}.items():  # fmt: skip
        invoke("raw", "--out", out, *TOLD, *more)
        (plane,) = record_of(tmp_path / out / "a.tif.restored-wiener.json")["images"][0]["planes"]
        said = 0.12 if out != "wrong" else -0.12
        assert plane["psf"]["optics"]["zernike_waves"] == ({} if out == "none" else {"4,0": said})
        errors[out] = error_of(tifffile.imread(tmp_path / out / "a.tif.restored-wiener.ome.tif")[1], 100.0 + focused)
    assert errors["told"] == errors["file"] < 0.97 * errors["none"]
    assert errors["told"] < 0.97 * errors["wrong"]


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_restored_is_refused_and_written_as_it_is(invoke: Invoke, tmp_path: Path, kind: str) -> None:
    image, words = REFUSED[kind]
    save(tmp_path / "raw/bad.tif", image)
    save(tmp_path / "raw/good.tif")
    result = invoke("raw", "--out", "out", *TOLD, "--json")
    assert result.exit_code == 0
    bad, good = rows_of(result)
    assert (bad["verdict"], good["verdict"]) == ("refused", "restored")
    assert words in bad["reason"]
    assert words in result.stderr
    if kind != "complex":
        raw, restored, refused = tifffile.imread(tmp_path / "out/bad.tif.restored-wiener.ome.tif")
        assert np.array_equal(raw, image, equal_nan=True)
        assert np.array_equal(restored, image, equal_nan=True)
        assert refused.all()


def test_jpegs_are_found_and_refused(invoke: Invoke, tmp_path: Path) -> None:
    eight = (cells() // 16).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "raw/a.JPG", format="JPEG")
    Image.fromarray(eight).save(tmp_path / "raw/b.tif", format="TIFF", compression="jpeg")
    result = invoke("raw", "--out", "out", *TOLD, "--json")
    assert result.exit_code == 0
    plain, inside = rows_of(result)
    assert (plain["path"], plain["verdict"]) == (os.path.join("raw", "a.JPG"), "refused")
    assert (inside["verdict"], inside["output"]) == ("refused", None)
    assert all("restore the file that the microscope wrote" in row["reason"] for row in (plain, inside))
    assert list(tree(tmp_path / "out")) == ["index.html"]


def truncated(path: Path) -> None:
    save(path)
    path.write_bytes(path.read_bytes()[:9000])


def garbage(path: Path) -> None:
    path.write_bytes(b"II*\x00garbage")


def colour(path: Path) -> None:
    save(path, np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8), photometric="rgb")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone.tif"))


def forbidden(path: Path) -> None:
    save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


@pytest.mark.parametrize("spoil", [truncated, garbage, colour, dangling, forbidden])
def test_a_bad_file_among_good_ones_is_one_row(invoke: Invoke, tmp_path: Path, spoil: Callable[[Path], None]) -> None:
    save(tmp_path / "raw/a.tif")
    spoil(tmp_path / "raw/b.tif")
    save(tmp_path / "raw/c.tif")
    result = invoke("raw", "--out", "out", *TOLD, "--json")
    assert result.exit_code == 0
    rows = rows_of(result)
    assert [row["verdict"] for row in rows] == ["restored", "failed", "restored"]
    assert rows[1]["error"] == "ImageFileError"
    assert rows[1]["reason"]
    assert not list((tmp_path / "out").glob("b.tif*"))
    assert invoke("raw/b.tif", "--out", "alone", *TOLD).exit_code == 2


def test_what_is_too_large_is_refused_before_it_is_read(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "raw/a.tif")
    monkeypatch.setattr(restoreplane, "MAX_PIXELS", 128 * 127)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda *args, **more: pytest.fail("it was read"))
    (row,) = rows_of(invoke("raw", "--out", "out", *TOLD, "--json"))
    assert (row["verdict"], row["output"]) == ("refused", None)
    assert "too large" in row["reason"]


def test_unknown_optics_are_refused_with_what_to_give(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    (row,) = rows_of(invoke("raw", "--out", "out", "--method", "wiener", "--pixel-um", "0.3", "--json"))
    assert row["verdict"] == "refused"
    assert "--na, --immersion-index, --emission-nm" in row["reason"]


def test_a_defocus_in_doubt_or_beyond_recovery_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    optics = ("--method", "wiener", *NM, "--json")
    (far,) = rows_of(invoke("raw", "--out", "far", *optics, "--defocus-um", "60"))
    (unsure,) = rows_of(invoke("raw", "--out", "unsure", *optics, "--defocus-um", "4", "--defocus-sd-um", "4.5"))
    (near,) = rows_of(invoke("raw", "--out", "near", *optics, "--defocus-um", "0.1"))
    assert (far["verdict"], unsure["verdict"], near["verdict"]) == ("refused", "refused", "in_focus")
    assert "too far" in far["reason"] and "in doubt" in unsure["reason"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "weiner", *NM), "did you mean 'wiener'"),
        (("--method", "wiener", "--na", "2"), "no objective has NA 2"),
        (("--method", "wiener", *NM, "--defocus-sd-um", "1"), "there is no --defocus-um"),
        (("--method", "wiener", *NM, "--defocus-um", "nan"), "must be a number"),
        (("--method", "wiener", *NM, "--card", "x.json"), "no option 'card'"),
    ],
)
def test_what_makes_no_sense_is_said_before_the_work(
    invoke: Invoke, tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    save(tmp_path / "raw/a.tif")
    result = invoke("raw", "--out", "out", *options)
    assert result.exit_code in (2, 3)
    assert words in result.stderr
    assert tree(tmp_path / "out") == {} if (tmp_path / "out").exists() else True


def test_no_source_is_ever_written_to(invoke: Invoke, tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        save(tmp_path / "raw" / name)
    garbage(tmp_path / "raw/c.tif")
    Image.fromarray(cells()).save(tmp_path / "raw/d.png")
    before = tree(tmp_path / "raw")
    for force in ((), (), ("--force",)):
        invoke("raw", "--out", "raw/restored", *TOLD, *force)
        assert {name: facts for name, facts in tree(tmp_path / "raw").items() if "restored" not in name} == before


def test_a_link_where_something_is_to_be_written_is_not_followed(invoke: Invoke, tmp_path: Path) -> None:
    source = save(tmp_path / "raw/a.tif")
    before = source.read_bytes()
    (tmp_path / "out").mkdir()
    for ending in (".json", ".ome.tif"):
        (tmp_path / f"out/a.tif.restored-wiener{ending}").symlink_to(source)
    assert invoke("raw", "--out", "out", *TOLD).exit_code == 0
    assert source.read_bytes() == before
    assert not (tmp_path / "out/a.tif.restored-wiener.ome.tif").is_symlink()
    assert record_of(tmp_path / "out/a.tif.restored-wiener.json")["computed"]


def test_a_second_run_does_only_what_is_new_or_changed(invoke: Invoke, tmp_path: Path) -> None:
    for name in "abc":
        save(tmp_path / f"raw/{name}.tif", cells(seed=ord(name)))
    invoke("raw", "--out", "out", *TOLD)
    before = tree(tmp_path / "out")
    save(tmp_path / "raw/b.tif", cells(seed=9))
    save(tmp_path / "raw/d.tif", cells(seed=10))
    (tmp_path / "out/c.tif.restored-wiener.ome.tif").unlink()
    rows = rows_of(invoke("raw", "--out", "out", *TOLD, "--json"))
    assert [row["skipped"] for row in rows] == [True, False, False, False]
    assert all(row["verdict"] == "restored" for row in rows)
    after = tree(tmp_path / "out")
    same = [name for name in before if before[name] == after.get(name)]
    assert same == ["a.tif.restored-wiener.json", "a.tif.restored-wiener.ome.tif"]
    page = (tmp_path / "out/index.html").read_text(encoding="utf-8")
    assert page.count('alt="restored, computed"') == 4  # that of the earlier run is drawn from what it wrote


def test_another_question_is_answered_anew_and_force_answers_again(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    invoke("raw", "--out", "out", *TOLD)
    other = ("--method", "wiener", *NM, "--defocus-um", "3.5")
    (changed,) = rows_of(invoke("raw", "--out", "out", *other, "--json"))
    (again,) = rows_of(invoke("raw", "--out", "out", *other, "--json"))
    (forced,) = rows_of(invoke("raw", "--out", "out", *other, "--json", "--force"))
    assert [row["skipped"] for row in (changed, again, forced)] == [False, True, False]
    assert [row["defocus_um"] for row in (changed, again, forced)] == [3.5] * 3
    invoke("raw", "--out", "out", "--method", "identity", *NM, "--defocus-um", "4")
    assert len(list((tmp_path / "out").glob("*.ome.tif"))) == 2  # methods lie side by side


def test_an_interruption_leaves_whole_files_only_and_the_next_run_goes_on(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "raw/a.tif")
    save(tmp_path / "raw/b.tif", np.stack([cells(seed=seed) for seed in range(3)]))
    calls: list[int] = []
    restore = FilterRestorer.restore

    def interrupted(self: FilterRestorer, frame: Any, blur: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return restore(self, frame, blur)

    monkeypatch.setattr(FilterRestorer, "restore", interrupted)
    assert invoke("raw", "--out", "out", *TOLD, "--csv", "t.csv").exit_code != 0
    whole = ["a.tif.restored-wiener.json", "a.tif.restored-wiener.ome.tif"]
    assert list(tree(tmp_path / "out")) == whole
    assert not (tmp_path / "t.csv").exists()
    rows = rows_of(invoke("raw", "--out", "out", *TOLD, "--json"))
    assert [row["skipped"] for row in rows] == [True, False, False, False]


def test_what_a_killed_run_left_is_removed(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    invoke("raw", "--out", "out", *TOLD)
    import socket

    left = tmp_path / "out" / f".unfinished-{socket.gethostname()}"
    left.mkdir()
    (left / "a.tif.restored-wiener.ome.tif").write_bytes(b"half")
    assert invoke("raw", "--out", "out", *TOLD).exit_code == 0
    assert not left.exists()


def test_two_runs_do_not_write_to_one_folder(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    key = hashlib.sha256(str((tmp_path / "out").resolve()).encode()).hexdigest()[:16]
    with InstanceLock(f"restore-{key}") as lock:
        lock.acquire()
        result = invoke("raw", "--out", "out", *TOLD)
    assert result.exit_code == 75
    assert "another run" in result.stderr and str(os.getpid()) in result.stderr


def test_a_full_disk_ends_it_in_good_order(invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        save(tmp_path / f"raw/{name}.tif")
    usage = shutil.disk_usage(tmp_path)
    free = iter([1 << 30, 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    result = invoke("raw", "--out", "out", *TOLD, "--csv", "t.csv")
    assert result.exit_code == 4
    assert "Make room" in result.stderr
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == ["restored", "failed"]
    assert "did not get to the end" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError("65536 requested and 4096 written")])
def test_a_disk_that_fills_up_in_the_middle_leaves_no_half_file(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    save(tmp_path / "raw/a.tif")

    def full(*args: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    result = invoke("raw", "--out", "out", *TOLD)
    assert result.exit_code == 4
    assert "the disk is full" in result.stderr
    assert list(tree(tmp_path / "out")) == ["index.html"]


def test_a_source_that_is_still_being_written_is_not_kept(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "raw/a.tif")
    layers_of = restorework.layers_of

    def meanwhile(*args: Any) -> Any:
        os.utime(source, ns=(1, 1))
        return layers_of(*args)

    monkeypatch.setattr(restorework, "layers_of", meanwhile)
    (row,) = rows_of(invoke("raw", "--out", "out", *TOLD, "--json"))
    assert row["verdict"] == "failed"
    assert "changed while it was read" in row["reason"]
    assert list(tree(tmp_path / "out")) == ["index.html"]


def test_a_table_has_a_row_a_plane_and_only_ours_is_replaced(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif", np.stack([cells(), cells()]), metadata={"axes": "ZYX"})
    garbage(tmp_path / "raw/b.tif")
    for _ in range(2):
        result = invoke("raw", "--out", "out", *TOLD, "--table", "t.csv", "--table", "t.parquet")
        assert (result.exit_code, result.stdout) == (0, "")
        with (tmp_path / "t.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [(row["axis_z"], row["verdict"], row["error"]) for row in rows] == [
            ("0", "restored", ""), ("1", "restored", ""), ("", "failed", "ImageFileError"),
        ]  # fmt: skip
        assert float(rows[0]["blur_px"]) == pytest.approx(OPTICS.blur_diameter_px(FAR_UM))
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(tmp_path / "t.parquet").column("skipped").to_pylist() == [True, True, False]
    (tmp_path / "t.csv").write_text("path,plane,mine\n", encoding="utf-8")
    refused = invoke("raw", "--out", "out", *TOLD, "--table", "t.csv")
    assert refused.exit_code == 2
    assert "there is a file already" in refused.stderr


def test_restored_pixels_are_not_scored_and_not_restored_again(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    invoke("raw", "--out", "out", *TOLD)
    scored = CliRunner().invoke(app, ["score", "out", "--model", "sharpness", "--json"])
    assert scored.exit_code == 2
    assert "computed by `parfocal restore`" in json.loads(scored.stdout)["reason"]
    (row,) = rows_of(invoke("out", "--out", "again", *TOLD, "--json"))
    assert (row["verdict"], row["output"]) == ("failed", None)
