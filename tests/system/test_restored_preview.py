"""A whole run with the restored preview: its process is killed, switched off and on, and the run goes its way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon.client import Client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc"),
]
PATIENCE_S = 120.0
RUN = [
    "run", "--json", "--session", "s", "--set=policy.name=focus.hold", "--set=microscope.interval_ms=100",
    "--set=microscope.simulation.size_px=128", "--set=microscope.simulation.focus_um=5", "--set=scoring.process=false",
    "--set=session.max_seconds=600", "--set=service.bind=tcp://127.0.0.1:*",
    "--set=preview={restored: wiener, every_s: 0.1}",
]  # fmt: skip


def until(holds: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + PATIENCE_S
    while not (found := holds()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def restorers(pid: int) -> list[int]:
    """Processes that a run without a scorer process has spawned: that of the preview alone."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                found.append(int(child))
    return found


def test_its_death_is_no_business_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    command = [sys.executable, "-m", "parfocal.daemon.cli", *RUN]
    with (tmp_path / "err.txt").open("w") as errors:
        process = subprocess.Popen(
            command, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=errors
        )
    try:
        until(lambda: list(runtime.rglob("*.json")) or process.poll() is not None)
        with Client(timeout_s=30.0) as scope, scope.events("restored", silence_s=60.0) as events:
            first = next(events)
            assert first.kind == "restored"
            assert (first.label, first.verdict, first.method) == ("computed", "restored", "wiener"), first.reason
            assert (first.width, first.height, first.simulated) == (128, 128, True)
            assert first.defocus_um is not None and 2.0 < abs(first.defocus_um) < 9.0
            (pid,) = restorers(process.pid)
            os.kill(pid, signal.SIGKILL)
            (other,) = until(lambda: [one for one in restorers(process.pid) if one != pid])
            seen = next(
                event for event in events if event.kind == "restored" and (event.index or 0) > (first.index or 0) + 20
            )
            assert seen.verdict == "restored"
            os.kill(other, signal.SIGSTOP)  # it stalls; switching off does not wait for it
            assert scope.set_preview("restored", "off").text == "preview.restored: off"
            assert next(event for event in events if event.kind == "restored" and event.verdict == "off").pixels == b""
            until(lambda: not restorers(process.pid))
            assert scope.status().hello.facts["preview"]["restored"] == "off"  # type: ignore[union-attr]
            scope.set_preview("restored", None)
            assert next(event for event in events if event.kind == "restored").method == "wiener"
            scope.stop("seen enough")
        out, _ = process.communicate(timeout=PATIENCE_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, (tmp_path / "err.txt").read_text()
    summary = json.loads(out)
    assert summary["outcome"] == "stopped" and summary["scored"] > 20
    assert "preview.started_again" in (tmp_path / "err.txt").read_text()
