"""Whatever is wrong with a session's folder is one clear message, and what can be read is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaozarrs

from parfocal.daemon.replay.decisions import reproduce
from parfocal.daemon.replay.reader import SessionReader, SessionReadError

SessionMaker = Callable[..., Path]


def test_a_whole_session_has_nothing_to_be_noted(record_session: SessionMaker) -> None:
    folder = record_session("session.record=all", frames=6)
    reader = SessionReader(folder)
    assert len(reader.frames) == 6
    assert reader.notes == []
    assert reader.simulated
    assert reader.summary["outcome"] == "done"
    assert SessionReader(folder / "journal.jsonl").name == reader.name
    first = reader.frames.read(reader.stored[3])
    assert first is not None
    group = yaozarrs.open_group(str(folder / "frames.ome.zarr"))
    assert np.array_equal(first, np.asarray(group["0"].to_tensorstore().read().result())[3])
    assert group.attrs["parfocal"]["simulated"] is True


def test_what_is_no_session(tmp_path: Path, record_session: SessionMaker) -> None:
    with pytest.raises(SessionReadError, match="no such folder"):
        SessionReader(tmp_path / "nowhere")
    folder = record_session(frames=3, name="inside")
    with pytest.raises(SessionReadError, match=r"holds 1 session, the latest is .*inside") as caught:
        SessionReader(folder.parent)
    assert caught.value.exit_code == 2


def test_a_newer_version_is_said_to_be_one(record_session: SessionMaker) -> None:
    folder = record_session(frames=3)
    journal = folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"parfocal.journal/1", b"parfocal.journal/2"))
    with pytest.raises(SessionReadError, match="written by a newer parfocal"):
        SessionReader(folder)
    journal.write_bytes(journal.read_bytes().replace(b"parfocal.journal/2", b"parfocal.journal/1"))
    facts = folder / "session.json"
    facts.write_text(facts.read_text().replace("parfocal.session/1", "parfocal.session/7"))
    with pytest.raises(SessionReadError, match=r"expected schema parfocal.session/1 \(got parfocal.session/7\)"):
        SessionReader(folder)


def test_a_torn_or_damaged_journal_is_read_as_far_as_it_goes(record_session: SessionMaker) -> None:
    folder = record_session()
    journal = folder / "journal.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2])
    reader = SessionReader(folder)
    assert any("torn" in note for note in reader.notes)
    found = reproduce(reader)
    assert not found.differing
    assert 5 < found.decisions < 39
    lines = whole.splitlines(keepends=True)
    lines[30] = b"\x00" * 40 + b"\n"
    journal.write_bytes(b"".join(lines))
    reader = SessionReader(folder)
    assert any(":31:" in note and "30 records before are used" in note for note in reader.notes)
    assert not reproduce(reader).differing


def test_missing_files_are_noted_and_the_rest_is_used(record_session: SessionMaker) -> None:
    folder = record_session("session.record=all", frames=6)
    (folder / "frames.ome.zarr" / "0" / "c" / "2" / "0" / "0").unlink()
    reader = SessionReader(folder)
    assert reader.frames.read(2) is None
    assert reader.frames.read(3) is not None
    assert reader.frames.read(99) is None
    assert any("1 of 6 recorded frames are not on the disk (2)" in note for note in reader.notes)
    (folder / "frames.ome.zarr" / "0" / "c" / "3" / "0" / "0").write_bytes(b"short")
    assert SessionReader(folder).frames.read(3) is None
    shutil.rmtree(folder / "frames.ome.zarr")
    for name in ("session.json", "config.yaml", "summary.json"):
        (folder / name).unlink()
    reader = SessionReader(folder)
    assert reader.frames.read(0) is None
    assert any("no such folder" in note for note in reader.notes)
    assert any("session.json cannot be read" in note for note in reader.notes)
    assert reader.summary["outcome"] == "done"  # the journal's end holds it too
    assert reproduce(reader).decisions == 5


def test_json_that_is_no_json(record_session: SessionMaker) -> None:
    folder = record_session(frames=3)
    (folder / "session.json").write_text("{")
    (folder / "summary.json").write_text(json.dumps([1]))
    reader = SessionReader(folder)
    assert any("session.json" in note for note in reader.notes)
    assert reader.summary["outcome"] == "done"
