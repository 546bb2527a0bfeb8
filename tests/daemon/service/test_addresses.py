"""Addresses: nobody's is taken away, a daemon is found where it runs, one that was killed is not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from parfocal.daemon.service.addresses import (
    SUFFIX,
    announced,
    bind,
    from_here,
    next_address,
    published_at,
    running_daemons,
    the_daemon,
)
from parfocal.daemon.service.errors import AddressTakenError, NoAnswerError, ServiceError


@pytest.fixture(autouse=True)
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runtime"
    monkeypatch.setattr("parfocal.daemon.service.addresses.runtime_folder", lambda: folder)
    return folder


def test_events_are_next_door() -> None:
    assert next_address("tcp://127.0.0.1:5570") == "tcp://127.0.0.1:5571"
    assert next_address("tcp://[::1]:9") == "tcp://[::1]:10"
    assert next_address("tcp://127.0.0.1:*") == "tcp://127.0.0.1:*"
    assert next_address("ipc:///run/scope") == "ipc:///run/scope.events"


def test_what_listens_everywhere_is_reached_over_loopback() -> None:
    assert from_here("tcp://0.0.0.0:5570") == "tcp://127.0.0.1:5570"
    assert from_here("tcp://[::]:5570") == "tcp://[::1]:5570"
    assert from_here("tcp://10.0.0.5:5570") == "tcp://10.0.0.5:5570"


def test_an_address_in_use_is_not_taken_away(tmp_path: Path) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as first, context.socket(zmq.ROUTER) as second:
        got = bind(first, "tcp://127.0.0.1:*")
        with pytest.raises(AddressTakenError, match="another program listens there"):
            bind(second, got)
        with pytest.raises(ServiceError, match="nothing can listen there"):
            bind(second, "tcp://192.0.2.7:5570")  # no interface of ours


@pytest.mark.skipif(not zmq.has("ipc"), reason="no ipc here")
def test_a_file_in_use_is_not_taken_away_and_a_left_one_is(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/scope"
    with zmq.Context() as context, context.socket(zmq.ROUTER) as first, context.socket(zmq.ROUTER) as second:
        assert bind(first, address) == address
        assert os.stat(tmp_path / "scope").st_mode & 0o777 == 0o600
        with pytest.raises(AddressTakenError):
            bind(second, address)
    (tmp_path / "scope").touch()  # what a killed daemon leaves behind
    with zmq.Context() as context, context.socket(zmq.ROUTER) as third, context.socket(zmq.ROUTER) as fourth:
        assert bind(third, address) == address
        with pytest.raises(ServiceError):
            bind(fourth, f"ipc://{tmp_path}/no/such/folder")


def test_the_daemon_that_runs_here_is_found() -> None:
    with pytest.raises(NoAnswerError, match="no daemon runs on this computer"):
        the_daemon()
    with announced("tcp://127.0.0.1:1", "tcp://127.0.0.1:7", driver="simulated"):
        assert (the_daemon().address, the_daemon().publish) == ("tcp://127.0.0.1:1", "tcp://127.0.0.1:7")
        assert published_at("tcp://127.0.0.1:1") == "tcp://127.0.0.1:7"
        assert published_at("tcp://127.0.0.1:9") is None
        with announced("tcp://127.0.0.1:3", "tcp://127.0.0.1:4"), pytest.raises(NoAnswerError) as caught:
            the_daemon()
        assert "2 daemons run on this computer; say which with --address" in str(caught.value)
        assert "tcp://127.0.0.1:1 (process" in str(caught.value)
        assert the_daemon().facts == {"driver": "simulated"}
    assert running_daemons() == []


@pytest.mark.skipif(sys.platform == "win32", reason="there whoever is gone just does not answer")
def test_one_that_was_killed_is_not_found_and_its_note_is_tidied_away(runtime: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    runtime.mkdir()
    note = {"address": "tcp://127.0.0.1:1", "publish": "tcp://127.0.0.1:2", "pid": gone.pid, "facts": {}}
    (runtime / f"dead{SUFFIX}").write_text(json.dumps(note))
    for number, text in enumerate(("", "[]", "{}", "\x00", '{"address": 1}')):
        (runtime / f"bad{number}{SUFFIX}").write_text(text)
    assert running_daemons() == []
    assert not (runtime / f"dead{SUFFIX}").exists()


def test_a_note_that_cannot_be_left_is_no_reason_not_to_run(runtime: Path) -> None:
    runtime.write_text("a file where the folder should be")
    with announced("tcp://127.0.0.1:1", "tcp://127.0.0.1:2"):
        assert running_daemons() == []
