"""A whole run with its manners: metrics while it runs, word to the manager, a call when it fails."""

from __future__ import annotations

import http.client
import json
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Follow, Reader
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.running import run_locked
from parfocal.daemon.session import Session
from parfocal.daemon.terms import Deadlines, Ending
from parfocal.drivers.base import CameraError

SECRET = "T0/B0/hush"  # noqa: S105 - nobody's


class Silent:
    """A presenter that shows nothing."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        yield

    def served(self, address: str, link: str) -> None: ...
    def built(self, folder: Path) -> None: ...
    def listen(self, step: Any) -> None: ...
    def restored(self, shown: Any) -> None: ...
    def say_stopping(self, reason: str) -> None: ...
    def finish(self, summary: Any, folder: Path) -> None: ...


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "NOTIFY_SOCKET", "WATCHDOG_USEC"):
        monkeypatch.delenv(name, raising=False)
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/services/{SECRET}", got
    server.shutdown()
    thread.join()
    server.server_close()


def run(tmp_path: Path, *settings: str, microscope: Any = None, during: Any = None, build: Any = None) -> Any:
    """Run a session on the bench as `parfocal run` does."""
    config = load_config(
        None,
        [
            f"session.folder={tmp_path / 'sessions'}", "session.record=none", "session.max_frames=5",
            "service.enabled=false", *settings,
        ],
    )  # fmt: skip

    def make(listeners: Any, onlooker: Any) -> Loop:
        return Loop(
            microscope or Bench(),
            Decider(Reader(), lambda _: (Follow(), {})),
            Session.create(config),
            ending=Ending(config.session.max_frames),
            deadlines=Deadlines(frame_s=5.0, command_s=5.0, safe_s=1.0),
            listeners=[*listeners, *([during] if during else [])],
            onlooker=onlooker,
        )

    with structlog.testing.capture_logs() as logs:
        summary = run_locked(config, None, build or make, Silent(), lambda *_: None)
    assert SECRET not in repr(logs)
    return summary


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def test_everything_at_once(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(socket, "AF_UNIX"):
        pytest.skip("no UNIX sockets here")
    port, pages, bench = free_port(), [], Bench()
    bench.values["excitation_power"] = 1.0

    def look(step: Any) -> None:
        if step.frames == 4:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/metrics")
            pages.append(connection.getresponse().read().decode())
            connection.close()

    with tempfile.TemporaryDirectory(prefix="n") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        address = os.path.join(folder, "s")
        ear.bind(address)
        ear.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        summary = run(
            tmp_path, f"metrics.bind=127.0.0.1:{port}", f"alerts.webhook={hook[0]}", "limits.dose={budget: 45}",
            during=look, microscope=bench,
        )  # fmt: skip
        heard = []
        while True:
            try:
                heard.append(ear.recv(4096).decode().split("\n")[0])
            except BlockingIOError:
                break
    assert summary.outcome == "tripped"
    found = {s.name: s.value for family in text_string_to_metric_families(pages[0]) for s in family.samples}
    assert found["parfocal_frames_total"] == 4
    assert heard == ["READY=1", "STOPPING=1", "STATUS=ended: tripped"]
    assert [(one["kind"], one["status"]) for one in hook[1]] == [("tripped", "firing")]
    assert "SIMULATED" in hook[1][0]["text"]
    assert "dose budget" in hook[1][0]["text"]
    (session,) = (tmp_path / "sessions").iterdir()
    for path in session.rglob("*"):
        assert path.is_dir() or SECRET not in path.read_text(encoding="utf-8", errors="replace"), path


def test_a_camera_that_is_lost_and_a_session_that_cannot_be_made_are_called_about(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    def lost(where: str, count: int) -> None:
        if where == "snap" and count == 3:
            raise CameraError("the cable is out")

    assert run(tmp_path, f"alerts.webhook={hook[0]}", microscope=Bench(fault=lost)).outcome == "failed"

    def cannot(*_: Any) -> Loop:
        raise CameraError("no such camera")

    with pytest.raises(CameraError):
        run(tmp_path, f"alerts.webhook={hook[0]}", build=cannot)
    assert [one["kind"] for one in hook[1]] == ["failed", "failed"]
    assert "the cable is out" in hook[1][0]["text"]
    assert "no such camera" in hook[1][1]["text"]


def test_a_good_end_calls_nobody_and_a_webhook_that_is_gone_costs_nothing(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]]
) -> None:
    assert run(tmp_path, f"alerts.webhook={hook[0]}").outcome == "done"
    assert hook[1] == []
    nobody = f"alerts={{webhook: 'http://127.0.0.1:{free_port()}/', dose_share: 0.1}}"
    summary = run(tmp_path, nobody, "limits.dose={budget: 100}")
    assert (summary.outcome, summary.exit_code, summary.frames) == ("done", 0, 5)


def test_doctor_tries_the_webhook_only_when_asked(
    tmp_path: Path, hook: tuple[str, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    from parfocal.daemon import doctor
    from parfocal.daemon.commands import diagnose

    import typer  # isort: skip

    app = typer.Typer()
    app.command()(diagnose.doctor)
    monkeypatch.setattr(doctor, "examine", lambda config: iter(()))  # the rest has tests of its own
    with_alerts = ["--set", f"alerts.webhook={hook[0]}"]
    assert CliRunner().invoke(app, with_alerts).exit_code == 0
    assert hook[1] == []
    asked = CliRunner().invoke(app, [*with_alerts, "--alert"])
    assert asked.exit_code == 0
    assert "took a test message" in asked.output
    assert [one["kind"] for one in hook[1]] == ["test"]
    gone = CliRunner().invoke(app, ["--set", f"alerts.webhook=http://127.0.0.1:{free_port()}/{SECRET}", "--alert"])
    assert gone.exit_code == 1
    assert "was not taken" in gone.output
    none = CliRunner().invoke(app, ["--alert", "--json"])
    assert none.exit_code == 3
    assert json.loads(none.output)["healthy"] is False
    assert SECRET not in asked.output + gone.output
