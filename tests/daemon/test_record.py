"""What a frame brings is written when there is time, and always before the command that follows from it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from daemon_doubles import Bench, Follow

from parfocal.daemon import journal as journal_module
from parfocal.daemon import record as record_module
from parfocal.daemon import recorder as recorder_module
from parfocal.daemon.guard import Verdict
from parfocal.daemon.journal import Journal, JournalError, read_journal
from parfocal.daemon.owner import Taken
from parfocal.daemon.record import Record
from parfocal.daemon.records import DecisionDigest
from parfocal.daemon.session import SessionError
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Change, Hold
from parfocal.simulator.clock import VirtualClock


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.jsonl")
    made.append("session", driver="bench")
    return made


@pytest.fixture
def record(journal: Journal, tmp_path: Path) -> Record:
    config = SimpleNamespace(session=SimpleNamespace(record="none"))
    session: Any = SimpleNamespace(journal=journal, config=config, folder=tmp_path)
    return Record(session)


def note_a_decision(record: Record) -> None:
    frame = Frame(np.zeros((4, 4), dtype=np.uint16), 7, {"z_um": 1.0}, 0.0, 0.1, 0.325)
    record.frame(Taken(frame, 0.0, None, 0.0), "")
    record.assessments(7, {"defocus": Assessment("defocus", 2.0, 0.5)})
    record.action(7, Change({"z_um": -1.0}, "2 um off"))
    record.verdict(7, Verdict(True, "within the limits"))


def kinds(journal: Journal) -> list[str]:
    return [entry["kind"] for entry in read_journal(journal.path).records]


def test_what_is_noted_is_written_by_flush_in_order(journal: Journal, record: Record) -> None:
    note_a_decision(record)
    assert kinds(journal) == ["session"]
    record.flush()
    record.flush()
    assert kinds(journal) == ["session", "frame", "assessment", "action", "verdict"]


def test_all_that_led_to_a_command_is_synced_with_it(
    journal: Journal, record: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[list[str]] = []
    monkeypatch.setattr(journal_module, "_fsync", lambda fd: on_disk.append(kinds(journal)))
    note_a_decision(record)
    record.command(7, {"z_um": -1.0})
    assert on_disk == [["session", "frame", "assessment", "action", "verdict", "command"]]
    assert len(journal.syncs_ms) == 1


def test_an_error_does_not_go_before_what_it_ended(journal: Journal, record: Record) -> None:
    record._headed = True
    record.action(7, Hold("doubt"))
    record.error(RuntimeError("broken"), 1.0)
    assert kinds(journal) == ["session", "action", "error"]


def test_nothing_follows_a_gap(journal: Journal, record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    real, writes = os.write, []

    def full_once(fd: int, data: bytes) -> int:
        writes.append(data)
        if len(writes) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    note_a_decision(record)
    monkeypatch.setattr(os, "write", full_once)
    with pytest.raises(JournalError, match="No space left"):
        record.command(7, {"z_um": -1.0})
    record.flush()
    assert kinds(journal) == ["session", "frame"]


def test_the_session_ends_before_the_disk_is_full(record: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    record.check()
    monkeypatch.setattr(record_module, "LOOK_EVERY_S", 0.0)
    record.check()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(SessionError, match="while that can still be written down"):
        record.check()


def test_the_digest_is_of_what_the_policy_decided_and_the_guard_said(journal: Journal, record: Record) -> None:
    note_a_decision(record)
    record.action(8, Hold("of the loop's own accord"))
    record.flush()
    digest = DecisionDigest()
    for entry in read_journal(journal.path).records:
        if entry["kind"] == "assessment":
            digest.told(entry["index"])
        elif entry["kind"] == "action":
            digest.action(entry["index"], entry)
        elif entry["kind"] == "verdict":
            digest.verdict(entry["index"], entry)
    assert digest.decisions == record._digest.decisions == 1
    assert digest.sha256 == record._digest.sha256
    before = digest.sha256
    digest.action(7, {"action": "hold", "reason": "decided later, and not by the policy"})
    digest.verdict(7, {"accepted": True, "reason": "of that"})
    assert (digest.sha256, digest.decisions) == (before, 1)
    digest.told(9)
    digest.action(9, {"action": "hold", "reason": "by the policy"})
    once = digest.sha256
    digest.verdict(9, {"accepted": False, "reason": "no", "refusal": "limit"})
    assert len({before, once, digest.sha256}) == 3


@pytest.mark.parametrize("keep", ["all", "none"])
def test_a_disk_that_fills_up_ends_the_session_in_good_order(
    make_loop: Any, monkeypatch: pytest.MonkeyPatch, keep: str
) -> None:
    usage, bench = namedtuple("usage", "total used free"), Bench(VirtualClock(), exposure_ms=1)
    loop = make_loop(bench, f"session.record={keep}", "session.max_frames=100000", policy=Follow(within_um=1e9))

    looked: list[object] = []

    def filling(path: object) -> Any:
        looked.append(path)
        return usage(10**12, 0, 10**12 if len(looked) < 8 else 10**7)

    monkeypatch.setattr(shutil, "disk_usage", filling)
    monkeypatch.setattr(record_module, "LOOK_EVERY_S", 0.0 if keep == "none" else 1e9)
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_BYTES", 20 * 64 * 64 * 2)
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code) == ("failed", 4)
    assert "10 MB are left on the disk" in summary.error
    assert bench.safe and bench.closed
    reading = read_journal(loop.session.folder / "journal.jsonl")
    assert reading.records[-1]["kind"] == "end"
    assert summary.error in {record["message"] for record in reading.of("error")}
    frames = [record for record in reading.of("frame") if record.get("stored") is not None]
    if keep == "all":
        there = len(list((loop.session.folder / "frames.ome.zarr" / "0" / "c").iterdir()))
        assert 0 < there <= len(frames)
