"""`parfocal score`: bad images are rows that say why, folders of them end well, and rows go where they are wanted."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from parfocal.daemon import scoreprogress
from parfocal.daemon.cli import app
from parfocal.daemon.commands.score import row_text
from parfocal.daemon.scoreprogress import ScoreProgress, Tally
from parfocal.daemon.scorerows import ScoreRow
from parfocal.models.base import Assessment
from parfocal.models.cards import packaged_card_path
from parfocal.models.training.degradations import degrade
from parfocal.simulator.specimens import make_specimen

Invoke = Callable[..., Result]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["score", *args], catch_exceptions=False)


def cells(shape: tuple[int, int] = (96, 96), seed: int = 0) -> NDArray[np.uint16]:
    specimen = make_specimen("nuclei", shape, pixel_um=0.3, seed=seed)
    counts = np.random.default_rng(seed).poisson(100 + 900 * specimen)
    return np.asarray(counts, dtype=np.uint16)


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


SATURATED = np.where(cells() > 400, 65535, cells()).astype(np.uint16)
HOLED = cells().astype(np.float32)
HOLED[5, 5] = np.nan
COLOURS = np.random.default_rng(0).integers(0, 255, (48, 48, 3), dtype=np.uint8)

SILENT = {
    "all-zero": (np.zeros((64, 64), np.uint16), "value|empty"),
    "constant": (np.full((64, 64), 1234, np.uint16), "value|empty"),
    "saturated": (SATURATED, "saturated"),
}
REFUSED = {
    "nan": (HOLED, "NaN", "ImageError"),
    "infinite": (np.where(np.isnan(HOLED), np.inf, HOLED), "infinite", "ImageError"),
    "tiny": (cells()[:31], "32x32", "ImageError"),
    "rgb": (COLOURS, "colour", "ImageFileError"),
    "complex": (np.ones((48, 48), np.complex64), "complex64", "ImageError"),
    "bilevel": (cells() > 300, "bool", "ImageError"),
}
TAKEN = {
    "non-square": cells((64, 130)),
    "8-bit": (cells() // 8).astype(np.uint8),
    "signed": cells().astype(np.int16),
    "32-bit": cells().astype(np.uint32),
    "float": cells().astype(np.float32),
    "double": cells().astype(np.float64),
    "half": cells().astype(np.float16),
    "negative": cells().astype(np.float32) - 5000,
}
MODELS = ("--model", "defocus", "--model", "sharpness")


def save(path: Path, image: NDArray[Any]) -> None:
    tifffile.imwrite(path, image, photometric="rgb" if image.ndim == 3 else "minisblack")


@pytest.mark.parametrize("kind", SILENT)
def test_what_shows_nothing_is_abstained_on(invoke: Invoke, tmp_path: Path, kind: str) -> None:
    image, words = SILENT[kind]
    save(tmp_path / "a.tif", image)
    result = invoke("a.tif", "--json", *MODELS)
    assert result.exit_code == 0
    for row in rows_of(result):
        assert row["abstained"], row
        assert row["value"] is None
        assert any(word in row["reason"] for word in words.split("|")), row
        assert "error" not in row


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_to_judge_is_a_row_that_says_why(invoke: Invoke, tmp_path: Path, kind: str) -> None:
    image, words, error = REFUSED[kind]
    save(tmp_path / "a.tif", image)
    result = invoke("a.tif", "--json", *MODELS)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("2 of 2 rows could not be assessed")
    for row in rows_of(result):
        assert (row["error"], row["value"], row["abstained"]) == (error, None, True)
        assert words in row["reason"]


@pytest.mark.parametrize("kind", TAKEN)
def test_every_shape_and_type_of_numbers_is_taken(invoke: Invoke, tmp_path: Path, kind: str) -> None:
    save(tmp_path / "a.tif", TAKEN[kind])
    for row in rows_of(invoke("a.tif", "--json", *MODELS)):
        assert not row["abstained"], row
        assert np.isfinite(row["value"])


def test_nothing_is_rescaled_on_the_way(invoke: Invoke, tmp_path: Path) -> None:
    """Counts and not shares of a range: half the light is a quarter of a sum of squares, in whatever type it comes."""
    whole = 2 * (cells() // 16).astype(np.uint8)
    save(tmp_path / "a.tif", whole)
    save(tmp_path / "b.tif", whole // 2)
    save(tmp_path / "c.tif", whole.astype(np.float64))
    Image.fromarray(whole).save(tmp_path / "d.png")
    Image.fromarray(whole.astype(np.uint16)).save(tmp_path / "e.png")
    result = invoke(".", "--json", "--model", "sharpness")
    brenner = [row["detail"]["brenner"] for row in rows_of(result)]
    assert brenner[1] == pytest.approx(brenner[0] / 4)
    assert brenner[2:] == pytest.approx([brenner[0]] * 3)


def corrupt(path: Path) -> None:
    path.write_bytes(b"II*\x00garbage")


def truncated(path: Path) -> None:
    tifffile.imwrite(path, cells())
    path.write_bytes(path.read_bytes()[:2000])


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("gone.tif"))


def forbidden(path: Path) -> None:
    tifffile.imwrite(path, cells())
    path.chmod(0)


@pytest.mark.skipif(sys.platform == "win32", reason="links and permissions of Windows are of another kind")
@pytest.mark.parametrize("spoil", [corrupt, truncated, dangling, forbidden])
def test_a_bad_file_among_good_ones_is_one_row(
    invoke: Invoke, tmp_path: Path, spoil: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.tif", cells())
    spoil(tmp_path / "b.tif")
    save(tmp_path / "c.tif", cells())
    if spoil is forbidden and os.access(tmp_path / "b.tif", os.R_OK):
        pytest.skip("this user may read everything")
    result = invoke(".", "--json", "--model", "sharpness")
    assert result.exit_code == 0
    rows = rows_of(result)
    assert [row["path"] for row in rows] == ["a.tif", "b.tif", "c.tif"]
    assert [row.get("error", "") for row in rows] == ["", "ImageFileError", ""]
    assert "1 of 3" in result.stderr


def test_a_decoder_that_fails_in_a_way_of_its_own_is_one_row(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.tif", cells())
    save(tmp_path / "b.tif", cells())

    def fail(self: object) -> None:
        raise AssertionError("a library's own")

    monkeypatch.setattr(tifffile.TiffFile, "series", property(fail))
    result = invoke(".", "--json", "--model", "sharpness")
    assert result.exit_code == 2
    assert [row["error"] for row in rows_of(result)] == ["ImageFileError"] * 2


def test_with_a_table_rows_go_there_and_stdout_stays_empty(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "a.tif", cells())
    corrupt(tmp_path / "b.tif")
    result = invoke(".", "--model", "sharpness", "--out", "t.csv", "--out", "t.parquet")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert "2 rows of 2 files are in t.csv" in result.stderr
    with (tmp_path / "t.csv").open(newline="") as file:
        first, second = csv.DictReader(file)
    assert (first["path"], second["path"]) == ("a.tif", "b.tif")
    assert float(first["brenner"]) > 0
    assert second["error"] == "ImageFileError"
    pq = pytest.importorskip("pyarrow.parquet")
    assert pq.read_table(tmp_path / "t.parquet").num_rows == 2


def test_with_json_rows_go_to_both(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "a.tif", cells())
    result = invoke("a.tif", "--model", "sharpness", "--out", "t.csv", "--json")
    assert len(rows_of(result)) == 1
    assert (tmp_path / "t.csv").is_file()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--out", "t.txt"], ".csv or .parquet"),
        (["--out", "there.csv"], "--force"),
        (["--out", "no/t.csv"], "cannot be written"),
        (["--force"], "--out"),
        (["--maps", "there.csv"], "cannot be written"),
        (["--model", "sharpnes"], "did you mean"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(
    invoke: Invoke, tmp_path: Path, args: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.tif", cells())
    (tmp_path / "there.csv").write_text("thesis")
    result = invoke("a.tif", *args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert words in result.stderr
    assert (tmp_path / "there.csv").read_text() == "thesis"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "there.csv"]


def test_maps_lie_beside_their_arrays_and_are_not_scored_the_next_time(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    save(tmp_path / "in" / "a.tif", cells((192, 192)))
    for _ in range(2):
        result = invoke("in", "--json", "--maps", "in/maps")
        assert len(rows_of(result)) == 1
    names = sorted(path.suffix for path in (tmp_path / "in" / "maps").iterdir())
    assert names == [".npz", ".png"]
    (arrays,) = (tmp_path / "in" / "maps").glob("*.npz")
    with np.load(arrays, allow_pickle=False) as held:
        assert held["value"].shape == held["certainty"].shape
        assert held["value"].ndim == 2


def test_a_scheduler_that_does_not_answer_ends_with_2_and_its_address(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="needs the extra cluster")
    monkeypatch.setattr("parfocal.daemon.scorecluster.CONNECT_S", 0.2)
    save(tmp_path / "a.tif", cells())
    result = invoke("a.tif", "--model", "sharpness", "--scheduler", "tcp://127.0.0.1:9", "--out", "t.csv")
    assert result.exit_code == 2
    assert "tcp://127.0.0.1:9" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]


def test_a_line_says_why_an_image_is_bad(invoke: Invoke, tmp_path: Path) -> None:
    specimen = make_specimen("nuclei", (192, 192), pixel_um=0.3, seed=1)
    blurred = degrade(specimen, "blur", np.random.default_rng(1), level=0.6)
    save(tmp_path / "a.tif", np.round(blurred * 2000 + 100).astype(np.uint16))
    lines = invoke("a.tif", "--model", "quality", "--model", "mm_style", "--model", "sharpness").stdout.splitlines()
    quality, style, sharpness = (line.split("  ") for line in lines)
    for parts in (quality, style):
        name, chance = parts[-1].split()
        assert name == "blur"
        assert 0.5 < float(chance) <= 1.0
    assert len(sharpness) == len(quality) - 1


@pytest.mark.parametrize(("reference", "text"), [(0.08, "m  0.30 +- 0.10  dark 0.70"), (0.9, "m  0.30 +- 0.10")])
def test_what_is_wrong_is_said_only_where_something_is(reference: float, text: str) -> None:
    chances = {"artefact": 2.0, "artefact_reference": reference, "artefact_dark": 0.7, "artefact_blur": 0.2}
    one = ScoreRow(Path("a.tif"), 0, "m", Assessment("m", 0.3, 0.1, detail=chances))
    assert row_text(one) == f"a.tif  0  {text}"


def test_files_of_other_kinds_are_counted_on_stderr(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "in/deeper").mkdir(parents=True)
    for name in ("a.tif", "deeper/b.tif"):
        save(tmp_path / "in" / name, cells())
    for name in ("1.jpg", "2.JPG", "deeper/3.jpg", "notes.txt", "README", ".hidden"):
        (tmp_path / "in" / name).write_text("x")
    result = invoke("in", "--model", "sharpness", "--json")
    assert len(rows_of(result)) == 2
    assert result.stderr.splitlines() == ["5 files of other kinds skipped (.jpg 3, without an ending 1, .txt 1)"]
    assert "skipped" not in invoke("in/a.tif", "--model", "sharpness").stderr
    (tmp_path / "in/deeper/b.tif").unlink()
    assert "there are .jpg 1" in invoke("in/deeper", "--model", "sharpness").stderr


def test_a_model_is_told_options_on_the_command_line(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "a.tif", cells())
    (tmp_path / "scope.yaml").write_text(
        "microscope: {driver: simulated}\n"
        "scoring: {models: [quality], options: {quality: {target: frc, patch_map: false}}}\n"
    )
    asked = ("a.tif", "--json", "--model", "quality", "--config", "scope.yaml")
    (student,) = rows_of(invoke(*asked))
    assert {"mm", "frc_px"} <= set(student["detail"])
    assert student["value"] == pytest.approx(2.0 / student["detail"]["frc_px"])
    paper = ("--option", "quality.network=paper", "--option", "quality.target=mm")
    (said,) = rows_of(invoke(*asked, *paper))
    assert set(said["detail"]) & {"mm", "frc_px"} == {"mm"}
    for ending in (".json", ".safetensors"):
        (tmp_path / f"own{ending}").write_bytes(packaged_card_path("quality_mm").with_suffix(ending).read_bytes())
    (tmp_path / "own.json").rename(tmp_path / "quality_mm.json")
    (tmp_path / "own.safetensors").rename(tmp_path / "quality_mm.safetensors")
    assert rows_of(invoke(*asked, *paper, "--option", "quality.card=quality_mm.json")) == [said]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("quality.netwrok=paper", "did you mean 'network'"),
        ("qualty.network=paper", "did you mean 'quality'"),
        ("mm_style.card=x.json", "add --model mm_style"),
        ("quality.network", "MODEL.KEY=VALUE"),
        ("network=paper", "MODEL.KEY=VALUE"),
        ("quality.network=[paper]", "one number or text"),
        ("quality.network=a: b: c", "needs quotes"),
        ("quality.card=gone.json", "gone.json"),
        ("quality.target=1e3", "1000"),
    ],
)
def test_a_wrong_option_is_one_error_before_the_work(invoke: Invoke, tmp_path: Path, option: str, words: str) -> None:
    save(tmp_path / "a.tif", cells())
    result = invoke("a.tif", "--model", "quality", "--option", option)
    assert result.exit_code in (2, 3)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert words in result.stderr


def row(path: str, plane: int | None, planes: int | None = None, *, error: str = "", model: str = "m") -> ScoreRow:
    said = Assessment.abstain(model, "no") if error else Assessment(model, 1.0, 0.1)
    return ScoreRow(Path(path), plane, model, said, error=error, planes=planes)


def test_the_tally_counts_planes_once_whatever_the_models() -> None:
    tally = Tally()
    shares = []
    for one in (
        row("a", 0, 2), row("a", 0, 2, model="n"), row("a", 1, 2), row("a", 1, 2, model="n"),
        row("b", None, error="X"), row("b", None, error="X", model="n"), row("c", 0), row("c", 1),
    ):  # fmt: skip
        tally.add(one)
        shares.append(tally.files)
    assert (tally.rows, tally.planes, tally.failed) == (8, 4, 2)
    assert shares == [0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    screen = io.StringIO()
    monkeypatch.setattr(
        scoreprogress, "Console", lambda stderr: Console(file=screen, force_terminal=True, width=100, stderr=False)
    )
    return screen


def test_on_a_terminal_a_bar_says_planes_rate_failures_and_time(
    terminal: io.StringIO, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = ScoreProgress(3)
    for one in progress.follow([row("a", 0), row("b", None, error="X"), row("c", 0)]):
        progress.say(one.path.name)
    assert "2 planes" in terminal.getvalue()
    assert "1 failed" in terminal.getvalue()
    assert "/s" in terminal.getvalue()
    assert "left" in terminal.getvalue()
    assert capsys.readouterr().out == "a\nb\nc\n"


def test_no_bar_with_json_and_none_without_a_terminal(
    terminal: io.StringIO, invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a.tif", cells())
    invoke("a.tif", "--model", "sharpness", "--json")
    assert terminal.getvalue() == ""
    invoke("a.tif", "--model", "sharpness", "--out", "t.csv")
    assert "planes" in terminal.getvalue()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "planes" not in invoke("a.tif", "--model", "sharpness").output
