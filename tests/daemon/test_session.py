"""The session's folder: made once, complete, never over another, refused where the disk has no room."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from parfocal.daemon.config import Config, load_config
from parfocal.daemon.journal import read_journal
from parfocal.daemon.session import Session, SessionError, SessionFolderError, check_room, check_still_room, write_json


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, [f"session.folder={tmp_path / 'sessions'}", "session.name=night"])


def test_the_folder_says_what_ran_and_the_configuration_runs_again(config: Config) -> None:
    session = Session.create(config, about={"driver": "simulated"})
    assert session.folder.name.endswith("Z-night")
    facts = json.loads((session.folder / "session.json").read_text())
    assert {"parfocal", "python", "platform", "packages", "started_utc", "config_sha256", "driver"} <= set(facts)
    assert load_config(session.folder / "config.yaml").to_json() == config.to_json()
    session.note({"simulated": True})
    assert json.loads((session.folder / "session.json").read_text())["simulated"] is True
    session.journal.append("session")
    session.finish({"outcome": "done"})
    assert json.loads((session.folder / "summary.json").read_text()) == {"outcome": "done"}
    assert len(read_journal(session.folder / "journal.jsonl").records) == 1


def test_two_sessions_in_one_second_have_two_folders(config: Config) -> None:
    assert len({Session.create(config).folder for _ in range(3)}) == 3


def test_a_named_folder_is_used_as_it_is_but_never_over_another(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    assert Session.create(config, folder).folder == folder
    with pytest.raises(SessionFolderError, match="not empty"):
        Session.create(config, folder)


def test_a_folder_that_cannot_be_made_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    config = load_config(None, [f"session.folder={tmp_path / 'file' / 'x'}"])
    with pytest.raises(SessionError, match="cannot be made") as caught:
        Session.create(config)
    assert caught.value.exit_code == 4


def test_a_full_disk_is_refused_before_the_start(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(SessionError, match="1 MB free") as caught:
        Session.create(config)
    assert caught.value.exit_code == 4
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 0, 10**9))
    check_room(Path("."), 10**8)
    with pytest.raises(SessionError):
        check_room(Path("."), 10**9)
    check_still_room(Path("."))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 10**6))
    with pytest.raises(SessionError, match="only 1 MB are left"):
        check_still_room(Path("."))


def test_json_is_whole_or_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_json(tmp_path / "a.json", {"a": 1})
    assert not (tmp_path / "a.json").exists()
