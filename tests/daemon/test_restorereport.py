"""The page and the last lines say at one glance what was refused and why, and say that the rest was computed."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import fromstring

import numpy as np
import pytest

from parfocal.daemon import restorepictures, restorereport
from parfocal.daemon.restoreome import ImageFacts, ome_xml
from parfocal.daemon.restoreoutput import Layers
from parfocal.daemon.restorepictures import SIDE_PX, draw, most_structured
from parfocal.daemon.restoreplaces import GENERATOR, INDEX, RestorePlaces
from parfocal.daemon.restorereport import RestoreReport, kinds_of, reasons, summary
from parfocal.daemon.restorerows import RestoreJob, RestoreRow, row_text

JOB = RestoreJob("wiener")


def row(name: str, verdict: str, reason: str = "", share: float | None = 0.0, **more: Any) -> RestoreRow:
    said = {"verdict": verdict, "reason": reason, "axes": {"z": 2}, "refused_share": share, **more}
    return RestoreRow(Path("raw") / name, 0, said, "wiener", Path("out/x.ome.tif"))


def layers(shape: tuple[int, int] = (96, 128), refused: bool = False) -> Layers:
    raw = np.random.default_rng(0).poisson(200, shape).astype(np.uint16)
    return Layers(raw, raw + np.float32(50), np.full(shape, refused))


def page_of(report: RestoreReport, tmp_path: Path, **more: Any) -> str:
    (tmp_path / "raw").mkdir()
    places = RestorePlaces([Path("raw")], [line.path for line in report.lines], tmp_path / "out", "wiener")
    return report.render(places, JOB, **more)


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RestoreReport:
    monkeypatch.chdir(tmp_path)
    made = RestoreReport()
    rows = [
        row("fine.tif", "restored", defocus_um=-3.0, defocus_sd_um=0.25),
        row("partly.tif", "restored", "3 of 16 squares refused", 3 / 16),
        row("sharp.tif", "in_focus", "in focus to within 1.5 px"),
        row("<b>.tif", "refused", "too far: 9 & 12 px", 1.0),
        row("cut.tif", "failed", "cannot be <decoded>", None, error="ImageFileError"),
    ]
    for one in rows:
        made.add(one)
        made.gallery.see(one, (lambda: None) if one.verdict == "failed" else layers)
    return made


def test_the_page_says_what_became_of_each(report: RestoreReport, tmp_path: Path) -> None:
    page = page_of(report, tmp_path)
    assert re.findall(r"<li><b>(\d+)</b>([a-z ]+)<small>", page) == [
        ("2", "restored"), ("1", "in focus"), ("1", "refused"), ("1", "failed")
    ]  # fmt: skip
    strip = re.findall(r'<li class="(\w+)" title', page)
    assert strip == ["restored", "partly", "in_focus", "refused", "failed"]
    assert "&lt;b&gt;.tif z2" in page and "too far: 9 &amp; 12 px" in page and "cannot be &lt;decoded&gt;" in page
    assert "<b>.tif" not in page
    assert "defocus 3.00 ± 0.25 um" in page
    assert page.count('class="made">restored, computed') == 2
    assert page.count("not restored</div>") == 1 and page.count("in focus</div>") == 1
    assert GENERATOR in page


def test_the_page_needs_nothing_else_and_says_that_it_was_computed(report: RestoreReport, tmp_path: Path) -> None:
    page = page_of(report, tmp_path, stopped="the disk is full", notes=["something assumed"])
    assert "COMPUTED" in page and "refuses to score" in page
    assert "<script" not in page
    assert all(link.startswith("data:image/jpeg;base64,") for link in re.findall(r'src="([^"]*)"', page))
    assert "the disk is full" in page and "something assumed" in page


def test_it_is_written_into_the_folder(report: RestoreReport, tmp_path: Path) -> None:
    for folder in ("raw", "out"):
        (tmp_path / folder).mkdir()
    places = RestorePlaces([Path("raw")], [line.path for line in report.lines], tmp_path / "out", "wiener")
    assert report.write(places, JOB, []) == tmp_path / "out" / INDEX
    RestorePlaces([Path("raw")], [line.path for line in report.lines], tmp_path / "out", "wiener")  # ours: no objection


def test_the_terminal_names_each_or_counts_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    report = RestoreReport()
    for number in range(30):
        report.add(row(f"{number}.tif", "refused", f"too far: {number / 10} px"))
    report.add(row("a.tif", "refused", "empty"))
    assert reasons(report) == ["      30  too far: 0.0 px", "       1  empty"]
    monkeypatch.setattr(restorereport, "LISTED", 40)
    assert reasons(report)[7] == f" refused  {Path('raw/7.tif')} z2: too far: 0.7 px"
    assert not report.all_failed


def test_of_many_refused_the_page_counts_kinds_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = RestoreReport()
    for number in range(30):
        report.add(row(f"{number}.tif", "refused", f"too far: {number / 10} px"))
    page = page_of(report, tmp_path)
    assert '<td class="n">30</td><td>too far: 0.0 px</td>' in page and "30 one by one" in page
    assert "too far: 2.9 px" in page


@pytest.mark.skipif(sys.platform == "win32", reason="names there are text")
def test_a_name_that_is_no_text_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = RestoreReport()
    odd = os.fsdecode(b"a\xff\x01.tif")
    one = RestoreRow(Path("raw") / odd, 0, {"verdict": "refused", "reason": "no"}, "wiener", tmp_path / "out" / odd)
    report.add(one)
    report.gallery.see(one, layers)
    page = page_of(report, tmp_path).encode("utf-8").decode()
    assert "a\\udcff" in page and 'href="a%FF%01.tif"' in page
    xml = ome_xml(ImageFacts(odd, (1, 1, 1), (64, 64), np.dtype(np.float32)), 3, [((0, 0, 0), 0)], "m", "{}")
    assert "a\\udcff?.tif, restored" in fromstring(xml)[0].get("Name", "")  # noqa: S314 - ours


def test_kinds_differ_in_words_not_in_numbers() -> None:
    assert kinds_of(["a 1.5 +- 2", "b", "a -3 +- 4"]) == [("a 1.5 +- 2", 2), ("b", 1)]


def test_counts_are_shown_for_every_verdict(report: RestoreReport) -> None:
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as said:
        console.print(summary(report))
    words = said.get().split()
    assert words[:3] == ["restored", "2", "1"]
    assert words[-2:] == ["failed", "1"]


def test_a_line_says_what_a_person_wants(report: RestoreReport) -> None:
    text = row_text(row("a.tif", "refused", "too far", defocus_um=-30.0, defocus_sd_um=2.0))
    assert text == f"{Path('raw/a.tif')}  z2  REFUSED; defocus 30.00 +- 2.00 um; too far"


def test_pictures_of_a_kind_are_limited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(restorepictures, "MOST", 3)
    report = RestoreReport()
    looked: list[int] = []

    def look() -> Layers:
        looked.append(1)
        return layers()

    for number in range(10):
        one = row(f"{number}.tif", "restored")
        report.add(one)
        report.gallery.see(one, look)
    assert len(looked) == 3  # nor is anything read for the others
    assert "3 of 10 planes" in page_of(report, tmp_path)


def test_the_part_shown_has_structure_and_is_not_refused() -> None:
    image = np.zeros((600, 600), dtype=np.float32)
    rng = np.random.default_rng(0)
    image[400:560, 400:560] = rng.random((160, 160))
    image[40:200, 40:200] = 3 * rng.random((160, 160))
    refused = np.zeros(image.shape, dtype=bool)
    top, left, height, width = most_structured(image, refused)
    assert (height, width) == (SIDE_PX, SIDE_PX)
    assert abs(top - 32) < 24 and abs(left - 32) < 24
    refused[:224, :224] = True
    top, left, *_ = most_structured(image, refused)
    assert top > 350 and left > 350


@pytest.mark.parametrize("shape", [(64, 64), (40, 900), (2048, 100), (1, 1)])
@pytest.mark.parametrize("value", [0.0, np.nan, 7.0])
def test_any_plane_can_be_drawn(shape: tuple[int, int], value: float) -> None:
    flat = np.full(shape, value, dtype=np.float32)
    pictures = draw(Layers(flat, flat, np.ones(shape, dtype=bool)), restored=True)
    assert pictures.raw.startswith("data:image/jpeg") and pictures.restored.startswith("data:image/jpeg")
