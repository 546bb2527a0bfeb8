"""Metrics and alerts of a seat: the page from attaching to detaching, a call when nothing good comes of it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from parfocal.daemon.manners.errors import MetricsError


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Where alerts go: an address, and what was posted there."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", got
    server.shutdown()
    thread.join()
    server.server_close()


def numbers(seat: Any) -> dict[str, float]:
    host, _, port = seat._manners.address.removeprefix("http://").partition("/")[0].partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    connection.request("GET", "/metrics")
    page = connection.getresponse().read().decode()
    connection.close()
    found = {}
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            found[sample.name + "".join(f" {value}" for value in sample.labels.values())] = sample.value
    return found


def free() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def test_the_page_says_what_the_seat_does_and_stays_between_acquisitions(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    seat = rig.attach({"metrics": {"bind": free()}})
    assert numbers(seat)["parfocal_state idle"] == 1
    rig.run(timelapse(6))
    found = numbers(seat)
    status = seat.status()
    assert found["parfocal_frames_total"] == status.frames
    assert found["parfocal_frames_scored_total"] == status.scored
    assert found["parfocal_actions_total"] == status.corrected + status.looks > 0
    assert found["parfocal_loop_latency_seconds_count"] > 0
    assert found["parfocal_focus_z_um"] == pytest.approx(0.8, abs=0.4)
    assert found["parfocal_state ended"] == 1
    rig.run(timelapse(2))
    assert numbers(seat)["parfocal_frames_total"] == seat.status().frames < status.frames
    seat.detach()
    with pytest.raises(ConnectionRefusedError):
        numbers(seat)


def test_a_refused_correction_is_counted_once_as_what_it_is(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 3.0
    seat = rig.attach({"metrics": {"bind": free()}, "limits": {"z_um": {"lower": -1, "upper": 1}}})
    rig.run(timelapse(8))
    refused = numbers(seat)["parfocal_refusals_total limit"]
    assert 0 < refused <= seat.status().refused


def test_people_are_called_when_it_holds_and_when_it_fails(rig: Any, timelapse: Any, calls: Any) -> None:
    address, got = calls
    rig.oracle.silent_from = 1
    rig.attach({"alerts": {"webhook": address, "hold_longer_than_s": 0.001}})

    def events() -> Iterator[Any]:
        for event in timelapse(20):
            yield event
            if event.index["t"] > 2 and not got:
                time.sleep(0.3)  # the watcher looks twice a second

    rig.run(events())
    until(lambda: got)
    assert got[0]["kind"] == "hold"
    assert "no structure" in got[0]["text"]
    rig.oracle.silent_from, rig.oracle.raises = None, RuntimeError("the network is gone")
    rig.run(timelapse(3))
    until(lambda: any(one["kind"] == "failed" for one in got))
    assert "the network is gone" in next(one for one in got if one["kind"] == "failed")["text"]


def test_a_page_that_cannot_be_served_is_said_before_anything_is_touched(rig: Any) -> None:
    before = rig.core.mda.engine
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        with pytest.raises(MetricsError, match=r"metrics\.bind"):
            rig.attach({"metrics": {"bind": f"127.0.0.1:{sock.getsockname()[1]}"}})
    assert rig.core.mda.engine is before
    assert rig.oracle.closed == 1
