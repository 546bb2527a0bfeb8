"""The instance lock excludes other processes, names its holder, and dies with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

from parfocal.daemon import lock as lock_module
from parfocal.daemon.lock import InstanceError, InstanceLock, LockError, instrument_key

HOLDER = """
import sys, time
from pathlib import Path
from parfocal.daemon.lock import InstanceLock
lock = InstanceLock("scope", Path(sys.argv[1]))
lock.acquire(session="sessions/night")
if len(sys.argv) > 2:
    import os
    if os.fork() == 0:
        time.sleep(60)
print("held", flush=True)
time.sleep(60)
"""


def hold(folder: Path, *more: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), *more], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def test_second_process_is_refused_and_told_who_holds(tmp_path: Path) -> None:
    process = hold(tmp_path)
    try:
        with pytest.raises(InstanceError) as refusal:
            InstanceLock("scope", tmp_path).acquire()
    finally:
        end(process)
    assert refusal.value.exit_code == 75
    assert f"process {process.pid}" in str(refusal.value)
    assert "sessions/night" in str(refusal.value)


def test_a_killed_holder_lets_go(tmp_path: Path) -> None:
    end(hold(tmp_path))
    with InstanceLock("scope", tmp_path) as lock:
        lock.acquire()
        assert lock.holder()["pid"] == os.getpid()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_that_outlives_a_killed_holder_does_not_hold(tmp_path: Path) -> None:
    process = hold(tmp_path, "fork")
    process.kill()
    process.wait()
    try:
        with InstanceLock("scope", tmp_path) as lock:
            lock.acquire()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        process.stdout.close()


def test_second_run_in_this_process_is_refused(tmp_path: Path) -> None:
    with InstanceLock("scope", tmp_path) as first:
        first.acquire()
        with pytest.raises(InstanceError, match=str(os.getpid())):
            InstanceLock("scope", tmp_path).acquire()


def test_asking_who_holds_does_not_let_go(tmp_path: Path) -> None:
    with InstanceLock("scope", tmp_path) as first:
        first.acquire()
        assert InstanceLock("scope", tmp_path).holder()["pid"] == os.getpid()
        with pytest.raises(InstanceError):
            InstanceLock("scope", tmp_path).acquire()
        other = subprocess.run(
            [sys.executable, "-c", HOLDER, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert other.returncode == 1
        assert "InstanceError" in other.stderr


def test_released_lock_can_be_taken_again_and_names_nobody(tmp_path: Path) -> None:
    first = InstanceLock("scope", tmp_path)
    first.acquire(session="a")
    first.release()
    first.release()
    assert list(tmp_path.iterdir()) == []
    second = InstanceLock("scope", tmp_path)
    assert second.holder() == {}
    second.acquire()
    second.release()


def test_a_lock_file_removed_before_it_was_locked_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = lock_module._try_lock, []

    def removed_meanwhile(file: IO[bytes]) -> bool:
        calls.append(file)
        if len(calls) == 1:
            (tmp_path / "scope.lock").unlink()
        return honest(file)

    monkeypatch.setattr(lock_module, "_try_lock", removed_meanwhile)
    with InstanceLock("scope", tmp_path) as first:
        first.acquire()
        assert len(calls) == 2
        assert (tmp_path / "scope.lock").exists()


def test_facts_known_later_are_added(tmp_path: Path) -> None:
    with InstanceLock("scope", tmp_path) as lock:
        lock.acquire(driver="simulated")
        lock.describe(session="sessions/x")
        assert lock.holder()["session"] == "sessions/x"
        assert lock.holder()["driver"] == "simulated"
        with pytest.raises(InstanceError, match="sessions/x"):
            InstanceLock("scope", tmp_path).acquire()


def test_other_instruments_are_free(tmp_path: Path) -> None:
    with InstanceLock("scope-a", tmp_path) as a, InstanceLock("scope-b", tmp_path) as b:
        a.acquire(driver="one")
        b.acquire(driver="two")
        assert (a.holder()["driver"], b.holder()["driver"]) == ("one", "two")
        for name in ("scope-a", "scope-b"):
            with pytest.raises(InstanceError):
                InstanceLock(name, tmp_path).acquire()


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(LockError, match="lock file"):
        InstanceLock("scope", tmp_path / "file").acquire()


def test_keys_tell_instruments_apart_and_are_file_names() -> None:
    one = instrument_key("micromanager", "/lab/a/scope.cfg")
    two = instrument_key("micromanager", "/lab/b/scope.cfg")
    assert one != two
    assert one == instrument_key("micromanager", "/lab/a/scope.cfg")
    assert one.startswith("micromanager-scope-")
    assert not set(one) & set('/\\:*?"<>| ')
