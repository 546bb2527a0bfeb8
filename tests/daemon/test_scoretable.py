"""Tables hold every row with its numbers, whole or not at all, and never in place of something else."""

from __future__ import annotations

import csv
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from parfocal import UsageError
from parfocal.daemon import scoretable
from parfocal.daemon.scorerows import ScoreRow
from parfocal.daemon.scoretable import ScoreTable
from parfocal.models.base import Assessment

NAN = float("nan")
FINE = ScoreRow(
    Path("a.tif"), 3, "defocus", Assessment("defocus", 1.25, 0.1, detail={"in_um": 1.0, "level": 2.0}), {"z": 3, "c": 0}
)
SILENT = ScoreRow(
    Path("a.tif"), 4, "sharpness", Assessment.abstain("sharpness", 'empty, "really"\nso', {"x": NAN, "value": 7.0})
)
FAILED = ScoreRow(Path("b.tif"), None, "defocus", Assessment.abstain("defocus", "not a TIFF"), error="ImageFileError")
NAMES = (
    "path plane axis_c axis_z model value sd unit abstained reason artefact_name error "  # in order
    "in_um level x detail_value"
)
COLUMNS = NAMES.split()


def write(path: Path, *rows: ScoreRow, force: bool = False) -> None:
    with ScoreTable(path, force=force) as table:
        for row in rows:
            table.add(row)


def test_csv_has_a_line_a_row_and_nothing_where_nothing_is_known(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", FINE, SILENT, FAILED)
    with (tmp_path / "t.csv").open(newline="", encoding="utf-8") as file:
        header, *lines = csv.reader(file)
    assert header == COLUMNS
    assert lines == [
        ["a.tif", "3", "0", "3", "defocus", "1.25", "0.1", "um", "false", "", "", "", "1.0", "2.0", "", ""],
        ["a.tif", "4", "", "", "sharpness", "", "", "", "true", 'empty, "really"\nso', "", "", "", "", "", "7.0"],
        ["b.tif", "", "", "", "defocus", "", "", "", "true", "not a TIFF", "", "ImageFileError", "", "", "", ""],
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_parquet_has_the_same_with_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(scoretable, "GROUP_ROWS", 2)
    write(tmp_path / "t.parquet", FINE, SILENT, FAILED)
    table = pq.read_table(tmp_path / "t.parquet")
    assert table.column_names == COLUMNS
    kinds = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert (kinds["path"], kinds["plane"], kinds["axis_z"], kinds["value"]) == ("string", "int64", "int64", "double")
    assert (kinds["abstained"], kinds["level"]) == ("bool", "double")
    fine, silent, failed = table.to_pylist()
    assert (fine["value"], fine["plane"], fine["axis_z"], fine["x"]) == (1.25, 3, 3, None)
    assert (silent["value"], silent["reason"], silent["x"]) == (None, 'empty, "really"\nso', None)
    assert (failed["plane"], failed["error"]) == (None, "ImageFileError")


CHANCES = {"artefact": 1.0, "artefact_reference": 0.08, "artefact_blur": 0.92}


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (Assessment("quality", 0.3, 0.1, detail=CHANCES), "blur"),
        (Assessment("quality", 0.9, 0.1, detail={**CHANCES, "artefact_reference": 0.95}), "reference"),
        (Assessment("quality", 0.9, 0.1, detail={"frc_px": 3.0}), ""),
        (Assessment.abstain("mm_style", "saturated", CHANCES), ""),
    ],
)
def test_the_artefact_has_its_name_in_every_kind_of_row(tmp_path: Path, said: Assessment, name: str) -> None:
    one = ScoreRow(Path("a.tif"), 0, said.model, said)
    assert one.to_json()["artefact_name"] == name
    write(tmp_path / "t.csv", one)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert next(csv.DictReader(file))["artefact_name"] == name
    pq = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "t.parquet", one)
    table = pq.read_table(tmp_path / "t.parquet")
    assert str(table.schema.field("artefact_name").type) == "string"
    assert table.to_pylist()[0]["artefact_name"] == name


def test_infinity_is_not_lost_and_full_precision_is_kept(tmp_path: Path) -> None:
    said = Assessment("m", 0.1 + 0.2, math.inf)
    write(tmp_path / "t.csv", ScoreRow(Path("a"), 0, "m", said))
    assert "0.30000000000000004,inf" in (tmp_path / "t.csv").read_text()


def test_a_name_that_is_no_text_does_not_lose_the_table(tmp_path: Path) -> None:
    odd = ScoreRow(Path(os.fsdecode(b"caf\xe9.tif")), 0, "m", Assessment("m", 1.0, 0.1))
    kinds = [".csv"]
    if "pyarrow" in sys.modules or scoretable_has_pyarrow():
        kinds.append(".parquet")
    for kind in kinds:
        write(tmp_path / f"t{kind}", odd)
        assert (tmp_path / f"t{kind}").stat().st_size > 0


def scoretable_has_pyarrow() -> bool:
    import importlib.util

    return importlib.util.find_spec("pyarrow") is not None


def test_a_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text().split() == [
        "path,plane,model,value,sd,unit,abstained,reason,artefact_name,error"
    ]


def test_a_file_that_is_there_is_kept_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("thesis")
    with pytest.raises(UsageError, match="--force"):
        ScoreTable(tmp_path / "t.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]
    assert (tmp_path / "t.csv").read_text() == "thesis"
    write(tmp_path / "t.csv", FINE, force=True)
    assert "1.25" in (tmp_path / "t.csv").read_text()


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    table = ScoreTable(tmp_path / "t.csv")
    table.add(FINE)
    (tmp_path / "t.csv").write_text("thesis")
    with pytest.raises(UsageError, match="--force"):
        table.commit()
    table.discard()
    assert (tmp_path / "t.csv").read_text() == "thesis"
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def no_links(source: object, target: object) -> None:
    raise OSError("no hard links here")


def test_without_hard_links_it_is_written_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", no_links)
    write(tmp_path / "t.csv", FINE)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_an_interruption_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ScoreTable(tmp_path / "t.csv") as table:
        table.add(FINE)
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    table = ScoreTable(tmp_path / "t.csv")
    monkeypatch.setattr(table, "_write", full)
    with pytest.raises(UsageError, match=r"t\.csv: .*No space left"), table:
        table.add(FINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "words"), [("t.xlsx", r"\.csv or \.parquet"), ("no/t.csv", "cannot be written")])
def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path, name: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ScoreTable(tmp_path / name)
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(UsageError, match="a folder"):
        ScoreTable(tmp_path / "d.csv", force=True)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"parfocal\[parquet\]"):
        ScoreTable(tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of Windows are of another kind")
def test_the_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", FINE)
    (tmp_path / "other").write_text("x")
    assert (tmp_path / "t.csv").stat().st_mode == (tmp_path / "other").stat().st_mode
