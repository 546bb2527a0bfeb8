"""`parfocal run` as the operating system sees it: its output, its exit code, and its record after a signal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon.journal import read_journal

PARFOCAL = [sys.executable, "-m", "parfocal.daemon.cli"]
QUICK = [
    "--set=scoring.models=[sharpness]",
    "--set=scoring.process=false",
    "--set=policy.name=focus.hold",
    "--set=microscope.interval_ms=20",
    "--set=microscope.simulation.size_px=64",
]
PATIENCE_S = 60.0

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")


def environment(tmp_path: Path) -> dict[str, str]:
    # Locks of these runs stay among themselves, and two cores are enough for all of them.
    return {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "OMP_NUM_THREADS": "1", "TERM": "xterm-256color"}


def finished(tmp_path: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PARFOCAL, *args],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=2 * PATIENCE_S,
    )


@contextmanager
def started(tmp_path: Path, *args: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Start a run, wait until it has looked at a few frames, and leave no process behind."""
    process = subprocess.Popen(
        [*PARFOCAL, "run", "--session", "s", *QUICK, *args],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    journal = tmp_path / "s" / "journal.jsonl"
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not journal.exists() or len(journal.read_bytes().splitlines()) < 20:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, journal
    finally:
        process.kill()
        process.communicate()


def records(journal: Path) -> list[dict[str, Any]]:
    return read_journal(journal).records


def states(journal: Path) -> list[str]:
    return [record["new"] for record in records(journal) if record["kind"] == "state"]


def test_run_as_json_ends_with_one_object_on_stdout(tmp_path: Path) -> None:
    done = finished(tmp_path, "run", "--frames", "20", "--json", *QUICK)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["frames"], summary["outcome"], summary["simulated"]) == (20, "done", True)
    assert records(next((tmp_path / "sessions").iterdir()) / "journal.jsonl")[-1]["kind"] == "end"
    assert all(json.loads(line)["level"] for line in done.stderr.splitlines())


def test_the_packaged_run_needs_nothing_said(tmp_path: Path) -> None:
    done = finished(tmp_path, "run", "--frames", "20", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["driver"] == "simulated"
    assert summary["scored"] > 5
    assert "SIMULATED" in finished(tmp_path, "run", "--frames", "3").stdout


def test_missing_weights_are_one_message_and_a_whole_record(tmp_path: Path) -> None:
    (tmp_path / "empty.json").write_text("{}")
    broken = '--set=scoring={models: [defocus], options: {defocus: {card: "empty.json"}}}'
    done = finished(tmp_path, "run", "--frames", "5", "--session", "s", broken)
    assert done.returncode == 3, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "empty.json" in done.stderr
    assert "outcome          failed" in done.stdout
    assert states(tmp_path / "s" / "journal.jsonl")[-2:] == ["safe", "ended"]


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_in_order(tmp_path: Path, number: signal.Signals) -> None:
    with started(tmp_path, "--json") as (process, journal):
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, err
    summary = json.loads(out)
    assert summary["outcome"] == "stopped"
    assert states(journal)[-3:] == ["stopping", "safe", "ended"]
    assert records(journal)[-1]["kind"] == "end"


@posix
def test_two_signals_make_safe_at_once(tmp_path: Path) -> None:
    with started(tmp_path, "--json") as (process, journal):
        # Two different ones (a second of the same kind that comes before the first is handled is lost), both pending
        # when the process goes on: else a quick stop may be over before the second arrives.
        for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
            process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 5, err
    assert json.loads(out)["outcome"] == "safe"
    assert "second signal" in err
    assert states(journal)[-2:] == ["safe", "ended"]


@posix
def test_a_killed_run_leaves_a_readable_journal_and_a_free_instrument(tmp_path: Path) -> None:
    with started(tmp_path) as (process, journal):
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == -signal.SIGKILL
    left = records(journal)
    assert [record["n"] for record in left] == list(range(len(left)))
    assert any(record["kind"] == "action" for record in left)
    (tmp_path / "s").rename(tmp_path / "first")
    assert finished(tmp_path, "run", "--frames", "2", "--session", "s", *QUICK).returncode == 0


def test_a_second_run_of_the_same_instrument_is_refused(tmp_path: Path) -> None:
    with started(tmp_path) as (process, _):
        done = finished(tmp_path, "run", "--frames", "2", "--session", "s", *QUICK)
        assert done.returncode == 75, done.stderr
        assert f"process {process.pid}" in done.stderr
        assert str(tmp_path / "s") in done.stderr
        assert "Traceback" not in done.stderr
        assert process.poll() is None


@posix
def test_on_a_terminal_the_run_is_live_and_leaves_its_summary(tmp_path: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    args = [*PARFOCAL, "run", "--seconds", "2", *QUICK]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    process = subprocess.Popen(args, cwd=tmp_path, env=environment(tmp_path), **streams)
    os.close(theirs)
    seen = b""
    try:
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:
                break
            if not part:
                break
            seen += part
        assert process.wait(timeout=PATIENCE_S) == 0, seen.decode()
    finally:
        process.kill()
        os.close(ours)
    live, _, after = seen.decode().partition("\x1b[?1049l")
    assert "\x1b[?1049h" in live
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", live)
    for word in ("SIMULATED", "z +0.000 um", "focus.hold never moves", "of 0:02", "Ctrl-C"):
        assert word in plain, word
    assert "SIMULATED session: done" in after
    assert "journal" in after
