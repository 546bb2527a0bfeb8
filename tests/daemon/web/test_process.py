"""The page's process: it serves, it is started again when it dies, and it goes when whoever started it goes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from parfocal.daemon.config import load_config
from parfocal.daemon.config_lines import ConfigError
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.service.server import Service
from parfocal.daemon.web import process as module
from parfocal.daemon.web.errors import PageAddressTakenError, PageError
from parfocal.daemon.web.process import PageProcess, page_of
from parfocal.daemon.web.security import read_tokens
from parfocal.daemon.web.serving import Serving, links_path, serve

PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(module, "PAUSE_S", 0.05)


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def status(port: int, path: str = "/", token: str = "") -> int:
    """Ask; 0 where nobody answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        body = json.dumps({"command": "safe", "more": "is none"}) if path == "/command" else None
        connection.request("POST" if body else "GET", path, body, headers)
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def page(port: int, service: Service) -> PageProcess:
    return PageProcess(f"127.0.0.1:{port}", service.address, service.publish)


def test_it_is_served_with_a_token_of_its_own_and_gone_afterwards(service: Service) -> None:
    port = free_port()
    made = page(port, service)
    try:
        until(lambda: status(port) == 200)
        assert status(port, "/command", made.tokens.operate) == 400
        assert status(port, "/command", made.tokens.observe) == 403
        assert status(port, "/command", "other") == 401
        assert read_tokens(links_path(port)) == (made.tokens, f"http://127.0.0.1:{port}")
        assert made.link == f"http://127.0.0.1:{port}/#token={made.tokens.operate}"
    finally:
        made.close()
    assert status(port) == 0
    assert not links_path(port).exists()
    made.close()


def test_it_is_started_again_with_the_same_links(service: Service) -> None:
    port = free_port()
    made = page(port, service)
    try:
        until(lambda: status(port) == 200)
        first = made._process
        assert first is not None
        first.kill()
        first.wait(PATIENCE_S)
        until(lambda: made._process is not first and status(port) == 200)
        assert status(port, "/command", made.tokens.operate) == 400
    finally:
        made.close()


def test_it_is_given_up_after_a_few_times(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", sys.executable)
    made = page(free_port(), service)
    made.close()
    made._closing.clear()
    made._command = [sys.executable, "-c", "raise SystemExit(3)"]
    made._keep()
    assert made._process is not None and made._process.returncode == 3


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_it_goes_when_whoever_started_it_is_killed(tmp_path: Path, service: Service) -> None:
    port = free_port()
    script = (
        "import sys, time; from parfocal.daemon.web.process import PageProcess; "
        f"PageProcess('127.0.0.1:{port}', {service.address!r}, {service.publish!r}); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})
    try:
        until(lambda: status(port) == 200)
        parent.send_signal(signal.SIGKILL)
        parent.wait(PATIENCE_S)
        until(lambda: status(port) == 0)
    finally:
        parent.kill()
        parent.wait(PATIENCE_S)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_serves_prints_its_links_and_takes_them_back(tmp_path: Path, service: Service, end: int) -> None:
    port, environment = free_port(), {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    parfocal = [sys.executable, "-m", "parfocal.daemon.cli", "web", "--port", str(port)]
    serving = subprocess.Popen(
        [*parfocal, "--address", service.address], env=environment, stdout=subprocess.PIPE, text=True
    )
    with serving:
        try:
            assert serving.stdout is not None
            said = [serving.stdout.readline().split() for _ in range(2)]
            tokens, address = read_tokens(links_path(port))
            assert said == [["operate", tokens.link(address, "operate")], ["look", tokens.link(address, "observe")]]
            assert status(port) == 200
            if end == signal.SIGINT:
                again = subprocess.run(
                    [*parfocal, "--link"], env=environment, capture_output=True, text=True, check=True
                )
                assert [line.split() for line in again.stdout.splitlines()] == said
            serving.send_signal(end)
            assert serving.wait(PATIENCE_S) == 0
        finally:
            serving.kill()
    assert not links_path(port).exists()


def test_a_port_that_is_taken_is_said_before_anything_is_started(service: Service) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(PageAddressTakenError, match="--port"):
            page(port, service)
        with pytest.raises(PageAddressTakenError, match=str(port)):
            serve(Serving(f"127.0.0.1:{port}"), lambda *_: None)
        config = load_config(None, [f"web.bind=127.0.0.1:{port}"])
        with pytest.raises(PageAddressTakenError, match=r"web\.bind") as caught, page_of(config, service):
            pass
        assert caught.value.exit_code == 75


def test_a_configuration_without_the_section_has_no_page() -> None:
    with page_of(load_config(None), None) as nothing:
        assert nothing is None


def test_a_page_without_a_service_makes_no_sense() -> None:
    with pytest.raises(PageError, match=r"service\.enabled"), page_of(load_config(None, ["web={}"]), None):
        pass


def test_a_page_needs_a_key_where_the_service_does(tmp_path: Path, service: Service) -> None:
    config = load_config(None, ["web={}", f"service.keys={tmp_path}", "service.allow={page: operate}"])
    with pytest.raises(PageError, match=r"web\.key"), page_of(config, service):
        pass


@pytest.mark.parametrize("bind", ["0.0.0.0:8570", "192.168.1.4:8570", "127.0.0.1", "127.0.0.1:0", "8570"])
def test_other_addresses_are_refused_by_the_configuration(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"web\.bind"):
        load_config(None, [f"web.bind={bind!r}"])
