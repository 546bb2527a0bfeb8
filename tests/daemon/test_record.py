"""What a frame brings is written when there is time, and always before the command that follows from it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parfocal.daemon import journal as journal_module
from parfocal.daemon.guard import Verdict
from parfocal.daemon.journal import Journal, JournalError, read_journal
from parfocal.daemon.owner import Taken
from parfocal.daemon.record import Record
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Change, Hold


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
