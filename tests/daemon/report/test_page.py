"""The report: one file that needs nothing else, holds what happened, and takes nothing from the record for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench

from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report.after import report_after
from parfocal.daemon.report.events import MoveRow, collapsed, story_of
from parfocal.daemon.report.page import ReportError, as_json, render, write_report
from parfocal.daemon.report.shadow import shadow_of
from parfocal.daemon.requests import Order
from parfocal.drivers.base import CameraError
from parfocal.simulator.clock import VirtualClock

SessionMaker = Callable[..., Path]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that elements nest, and gathers text and attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.text))


def test_a_night_in_one_file(record_session: SessionMaker) -> None:
    limits = "limits={z_um: {lower: -100, upper: 100, max_rate: 3}, dose: {budget: 100000}}"
    folder = record_session("session.record=all", limits)
    path = write_report(folder)
    assert path == folder / "report.html"
    page = Page(path.read_text(encoding="utf-8"))
    words = page.words
    assert "SIMULATED" in words
    reader = SessionReader(folder)
    for record in reader.journal.of("action"):
        if record["action"] == "change":
            assert record["reason"] in words
    refused = [r for r in reader.journal.of("verdict") if not r["accepted"]]
    assert refused
    assert all(record["reason"] in words for record in refused)
    assert f"all {len(list(reader.journal.of('assessment')))} identical, bit for bit" in words
    assert reader.facts["config_sha256"] in words
    assert reader.summary["decisions_sha256"] in words
    assert "The budget was 100000" in words
    assert "Stage and focus" in words
    assert "NA 0.75, 20x, 520 nm, pixel 0.325 um" in words
    assert "limits of z_um lower -100, upper 100, max_rate 3" in words
    images = [value for tag, key, value in page.attributes if (tag, key) == ("img", "src")]
    assert 2 <= len(images) <= 12
    assert all(value.startswith("data:image/png;base64,") for value in images)


def test_it_needs_nothing_else(record_session: SessionMaker) -> None:
    page = Page(render(SessionReader(record_session("session.record=all", frames=8))))
    tags = {tag for tag, _, _ in page.attributes}
    assert not tags & {"script", "link", "iframe", "object", "form"}
    for tag, key, value in page.attributes:
        assert not key.startswith("on"), (tag, key)
        if key in ("src", "href"):
            assert value.startswith("data:"), (tag, key, value)
        assert "http" not in value or key == "xmlns", (tag, key, value)


def test_what_the_record_says_is_text_and_never_markup(record_session: SessionMaker) -> None:
    folder = record_session(frames=12)
    evil = "</td><script>alert('x')</script>\u003cimg src=x onerror=alert(1)>&amp;"
    journal = folder / "journal.jsonl"
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    for record in lines:
        for key in ("reason", "refusal", "driver", "session", "policy", "who", "message"):
            if isinstance(record.get(key), str):
                record[key] = record[key] + evil
    journal.write_text("".join(json.dumps(record) + "\n" for record in lines))
    html = render(SessionReader(folder), verify=False)
    assert "<script" not in html
    page = Page(html)
    assert "onerror" not in {key for _, key, _ in page.attributes}
    assert evil in page.words


def test_orders_of_people_are_told(record_session: SessionMaker) -> None:
    def order(loop: Any, step: Any) -> None:
        if step.frame.index == 5:
            loop.orders.submit(Order("ada", "operate", "set_policy", {"policy": "focus.hold", "options": {}}, print))
            loop.orders.submit(
                Order("bob", "operate", "set_limit", {"parameter": "z_um", "bound": "upper", "value": 1e6}, print)
            )

    words = Page(render(SessionReader(record_session(each=order)))).words
    assert "ada: set_policy" in words
    assert re.search(r"bob: set_limit .* REFUSED", words)
    assert "policy focus.hold" in words


@pytest.mark.parametrize("cut", [0.02, 0.3, 0.9])
def test_a_killed_session_has_a_report_too(record_session: SessionMaker, cut: float) -> None:
    folder = record_session("session.record=decisions")
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: max(int(cut * len(whole)), whole.index(b"\n") + 1)])
    for name in ("summary.json", "session.json", "config.yaml"):
        (folder / name).unlink()
    words = Page(render(SessionReader(folder))).words
    assert "did not end in good order" in words
    assert "the program was killed" in words


class Turned(Bench):
    """A bench that somebody brings into focus by hand, half-way through."""

    def snap(self) -> Any:
        self.focus_um = 3.0 if self.clock.now() < 10.0 else 0.0
        return super().snap()


def test_shadow_says_what_it_would_have_done(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session(microscope=Turned(VirtualClock()), shadow=True))
    words = Page(render(reader)).words
    accepted = [r for r in reader.journal.of("verdict") if r["accepted"]]
    wanted = [r for r in reader.journal.of("action") if r["action"] == "change" and r["index"] is not None]
    assert len(accepted) >= len(wanted) > 0
    stage = {r["index"]: r["settings"]["z_um"] for r in reader.journal.of("frame")}
    steps = sorted(abs(r["settings"]["z_um"] - stage[r["index"]]) for r in wanted)
    assert f"wanted a move on {len(wanted)} of them" in words
    assert f"and {steps[-1]:.2f} um at most" in words
    assert "What is not done is asked for again" in words
    assert "move wanted, not made" in words
    assert "Every move it wanted, and why; none was made" in words
    assert "It moved" not in words
    found = shadow_of(story_of(reader), reader.dof_um)
    assert 0.0 < found.claimed < 1.0
    assert 0.0 < found.true < 1.0
    assert found.right > 0.5
    assert f"{found.claimed:.1%} of them were in focus" in words
    assert f"in truth (simulated) {found.true:.1%} were, and it was right on {found.right:.1%}" in words
    assert as_json(reader)["shadow"]["wanted"] == len(wanted)
    json.dumps(as_json(reader), allow_nan=False)


def test_a_shadow_that_wanted_nothing_and_knew_nothing(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session("policy.name=focus.hold", shadow=True))
    words = Page(render(reader)).words
    assert "wanted no move on any frame." in words
    assert "It never claimed to know where the focus was." in words
    assert as_json(reader)["shadow"]["claimed"] is None


def test_only_a_shadow_is_told_as_one(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session())
    assert as_json(reader)["shadow"] is None
    assert "wanted" not in Page(render(reader)).words


def test_the_numbers_as_json(record_session: SessionMaker) -> None:
    found = as_json(SessionReader(record_session()))
    assert found["frames"] == 40
    assert found["in_focus_is_truth"] is True
    assert 0.5 < found["in_focus_share"] <= 1.0
    assert sum(count for _, count, _ in found["dose"]["ledger"]) == 40
    assert sum(dose for _, _, dose in found["dose"]["ledger"]) == pytest.approx(found["summary"]["dose"])
    json.dumps(found, allow_nan=False)


def test_the_end_of_a_run_never_fails_for_its_report(record_session: SessionMaker, tmp_path: Path) -> None:
    folder = record_session(frames=5)
    with structlog.testing.capture_logs() as logs:
        assert report_after(tmp_path / "nowhere") is None
    assert "No such file" in logs[0]["error"]
    assert report_after(folder) == folder / "report.html"
    with pytest.raises(ReportError, match="cannot be written"):
        write_report(folder, tmp_path / "missing" / "report.html")


def test_a_very_long_session_is_left_to_whoever_asks(
    record_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record_session(frames=3)
    monkeypatch.setattr("parfocal.daemon.report.after.MOST_BYTES", 100)
    with structlog.testing.capture_logs() as logs:
        assert report_after(folder) is None
    assert "parfocal report" in logs[0]["why"]
    assert not (folder / "report.html").exists()


class Real(Bench):
    """Says that it is no simulation, and knows no truth."""

    simulated = False

    def snap(self) -> Any:
        return replace(super().snap(), simulated=False, truth={})


def test_a_real_microscope_has_neither_banner_nor_truth(record_session: SessionMaker) -> None:
    folder = record_session(microscope=Real(VirtualClock()), about={"simulated": False})
    html = render(SessionReader(folder))
    words = Page(html).words
    assert "SIMULATED" not in html
    assert "truth" not in words
    assert "by its own belief" in words
    assert "as believed" in words


def test_a_session_that_never_saw_a_frame(record_session: SessionMaker) -> None:
    def fault(where: str, count: int) -> None:
        if where == "open":
            raise CameraError("no camera at this address")

    words = Page(render(SessionReader(record_session(microscope=Bench(VirtualClock(), fault=fault))))).words
    assert "No frame was taken." in words
    assert "no camera at this address" in words


def test_a_shadow_that_cannot_tell_the_side_says_so_once() -> None:
    def row(index: int, reason: str, *, sided: bool = False, accepted: bool = True) -> MoveRow:
        at_s = 10.0 * index
        return MoveRow(index, at_s, "move", {"z_um": 5.0 + index}, reason, accepted, sided=sided, until_s=at_s)

    look = "defocus \u00b119.{} um (sign unknown): look at z=5.4{} um"
    moves = [row(n, look.format(n, n)) for n in range(5)]
    moves += [row(5, "to the focus", sided=True), row(6, "to the focus", sided=True), row(7, look.format(1, 1))]
    found = collapsed([*moves, row(8, look.format(1, 1), accepted=False)])
    assert [(one.index, one.repeats, one.until_s) for one in found] == [
        (0, 4, 40.0), (5, 0, 50.0), (6, 0, 60.0), (7, 0, 70.0), (8, 0, 80.0),
    ]  # fmt: skip
    assert [one.repeats for one in moves] == [0] * 8, "what happened stays as it was"
