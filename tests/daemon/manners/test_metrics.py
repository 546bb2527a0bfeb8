"""The page of metrics: fetched over HTTP, parsed by Prometheus' own parser, read-only, kept from other computers."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Follow, Reader
from prometheus_client.parser import text_string_to_metric_families

from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.loop import Loop
from parfocal.daemon.manners import metricspage
from parfocal.daemon.manners.errors import MetricsAddressTakenError, MetricsError
from parfocal.daemon.manners.metrics import Metrics
from parfocal.daemon.manners.metricspage import MetricsPage
from parfocal.daemon.manners.opening import Manners, manners_of
from parfocal.models.scoring import ScorerError
from parfocal.policies.base import Change, Hold

LoopMaker = Callable[..., Loop]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def ask(port: int, path: str = "/metrics", method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def until_answered(port: int) -> None:
    """Ask until there is an answer; a page that has its hands full hangs up at once."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            assert ask(port)[0] == 200
            return
        time.sleep(0.02)
    raise AssertionError("nobody else ever got an answer")


def samples(text: str) -> Samples:
    """Return every sample by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def served() -> Iterator[tuple[Metrics, MetricsPage, int]]:
    metrics, port = Metrics(), free_port()
    page = MetricsPage(metrics.registry, f"127.0.0.1:{port}")
    yield metrics, page, port
    page.close()


def run(make_loop: LoopMaker, metrics: Metrics, *settings: str, **more: Any) -> Any:
    manners = Manners([metrics])
    microscope = more.pop("microscope", None) or Bench()
    loop = make_loop(
        microscope, *settings, listeners=manners.listeners, onlooker=manners.and_also(None), **more
    )  # fmt: skip
    manners.attach(loop)
    summary = asyncio.run(loop.run())
    manners.end(summary)
    return summary


def test_a_run_in_numbers(served: tuple[Metrics, MetricsPage, int], make_loop: LoopMaker) -> None:
    metrics, page, port = served
    assert page.address == f"http://127.0.0.1:{port}/metrics"
    before = samples(ask(port)[1])
    assert before["parfocal_frames_total", ()] == 0
    assert before["parfocal_state", (("parfocal_state", "idle"),)] == 1
    assert not any(name.startswith(("parfocal_defocus", "parfocal_dose", "parfocal_quality")) for name, _ in before)

    script = [Change({"z_um": 500.0}, "much too far"), Hold("thinking", {"focused": 0.0})]
    summary = run(
        make_loop, metrics, "session.max_frames=12", "limits.dose={budget: 500}", "session.record=all",
        policy=Follow(script=script),
    )  # fmt: skip
    found = samples(ask(port)[1])

    def value(name: str, **labels: str) -> float:
        return found[f"parfocal_{name}", tuple(sorted(labels.items()))]

    assert (value("frames_total"), value("frames_scored_total")) == (summary.frames, summary.scored) == (12, 11)
    assert value("frames_doubtful_total") == 1
    assert value("frames_stale_total") == summary.stale == 0
    assert value("frames_dropped_total") == value("frames_missed_total") + value("frames_lost_total") == 0
    assert value("actions_total") == summary.actions == 1
    assert value("refusals_total", kind="limit") == summary.refused == 1
    assert value("refusals_total", kind="step") == 0
    assert value("decisions_total", kind="change") == 2
    assert value("decisions_total", kind="hold") == 10  # that of the doubtful frame, too
    assert value("loop_latency_seconds_count") == 11
    assert value("loop_latency_seconds_bucket", le="+Inf") == 11
    assert value("defocus_um") == pytest.approx(summary.defocus_um, abs=0.01)
    assert value("defocus_sd_um") == 0.5
    assert value("in_focus") == 1
    assert value("setting", parameter="z_um") == pytest.approx(10.0, abs=0.01)
    assert value("travel_um") == pytest.approx(summary.travel_um)
    assert value("dose_spent", dose_unit=summary.dose_unit) == summary.dose
    assert value("dose_budget", dose_unit=summary.dose_unit) == 500
    assert value("state", parfocal_state="ended") == 1
    assert value("state", parfocal_state="running") == 0
    assert value("recorder_written_total") == 12
    assert value("recorder_lost_total") == value("recorder_queue_frames") == value("scorer_restarts_total") == 0
    assert value("frame_rate_hertz") > 0
    (about,) = [dict(labels) for name, labels in found if name == "parfocal_run_info"]
    assert about["simulated"] == "true"
    assert about["outcome"] == "done"
    assert ("process_resident_memory_bytes", ()) in found or not hasattr(socket, "AF_UNIX")


def test_a_scorer_that_was_started_again_is_counted(
    served: tuple[Metrics, MetricsPage, int], make_loop: LoopMaker
) -> None:
    def dies_once(call: int) -> None:
        if call == 2:
            raise ScorerError("gone")

    run(make_loop, served[0], "session.max_frames=5", scorer=Reader(fault=dies_once))
    found = samples(ask(served[2])[1])
    assert found["parfocal_scorer_restarts_total", ()] == 1
    assert found["parfocal_decisions_total", (("kind", "hold"),)] >= 1


def test_quality_of_the_last_frame_that_was_judged(
    served: tuple[Metrics, MetricsPage, int], make_loop: LoopMaker
) -> None:
    class Judge(Reader):
        def score(self, *args: Any, **more: Any) -> dict[str, Any]:
            from parfocal.models.base import Assessment

            return super().score(*args, **more) | {"quality": Assessment("quality", 0.75, 0.1)}

    run(make_loop, served[0], "session.max_frames=3", scorer=Judge())
    assert samples(ask(served[2])[1])["parfocal_quality", ()] == 0.75


def test_two_runs_do_not_count_into_each_other(make_loop: LoopMaker) -> None:
    first, second = Metrics(), Metrics()
    run(make_loop, first, "session.max_frames=3")
    assert first.registry.get_sample_value("parfocal_frames_total") == 3
    assert second.registry.get_sample_value("parfocal_frames_total") == 0


def test_a_belief_that_does_not_know_the_side_is_no_defocus(make_loop: LoopMaker) -> None:
    metrics = Metrics()
    detail = {"defocus_um": 3.0, "defocus_sd_um": 0.1, "positive": 0.5}
    run(make_loop, metrics, "session.max_frames=1", policy=Follow(script=[Hold("above or below?", detail)]))
    assert metrics.registry.get_sample_value("parfocal_defocus_um") is None
    assert metrics.registry.get_sample_value("parfocal_frames_total") == 1


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("/metrics", "HEAD", None, 405),
        ("/metrics", "GET", "localhost:1234", 200),
        ("/metrics", "GET", "[::1]:1234", 200),
        ("/metrics", "GET", "evil.example", 403),
        ("/metrics", "GET", "127.0.0.1.evil.example", 403),
        ("/", "GET", None, 404),
        ("/metrics/../etc/passwd", "GET", None, 404),
        ("/metrics", "POST", None, 405),
        ("/metrics", "DELETE", None, 405),
    ],
)
def test_metrics_and_nothing_else(
    served: tuple[Metrics, MetricsPage, int], path: str, method: str, host: str | None, status: int
) -> None:
    answer = ask(served[2], path, method, host)
    assert answer[0] == status
    assert method == "HEAD" or answer[1].endswith("\n")


def test_those_who_hold_connections_open_do_not_keep_others_out_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metricspage._Handler, "timeout", 0.2)
    port = free_port()
    page = MetricsPage(Metrics().registry, f"127.0.0.1:{port}")
    with contextlib.ExitStack() as idle:
        idle.callback(page.close)
        for _ in range(3 * metricspage.MOST_AT_ONCE):
            idle.enter_context(socket.create_connection(("127.0.0.1", port)))
        until_answered(port)
    page.close()


@pytest.mark.parametrize("bind", ["0.0.0.0:9570", "192.168.1.2:9570", "[::]:9570", "scope.example.org:9570"])
def test_other_computers_only_if_somebody_said_so(bind: str) -> None:
    with pytest.raises(ConfigError, match="others: true"):
        load_config(None, [f"metrics.bind='{bind}'"])
    config = load_config(None, [f"metrics={{bind: '{bind}', others: true}}"])
    assert config.metrics is not None
    assert not config.metrics.local
    from parfocal.daemon.check import warnings_of

    assert any("metrics can be read from other computers" in one for one in warnings_of(config))


@pytest.mark.parametrize("bind", ["9570", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:70000", ":9570"])
def test_what_is_no_address(bind: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.bind"):
        load_config(None, [f"metrics.bind='{bind}'"])


def test_a_taken_address_is_said_with_its_key_and_an_exit_code_of_its_own() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        config = load_config(None, [f"metrics.bind=127.0.0.1:{port}"])
        with pytest.raises(MetricsAddressTakenError, match=r"metrics\.bind.*taken") as caught, manners_of(config):
            pass
    assert caught.value.exit_code == 75
    with pytest.raises(MetricsError, match="cannot be served"):
        MetricsPage(Metrics().registry, "192.0.2.1:9570")  # an address of nobody


def test_without_sections_and_manager_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    with manners_of(load_config(None)) as manners:
        assert manners.listeners == []
        assert manners.and_also(None) is None
        assert manners.address is None


def test_with_sections_it_is_served_while_inside_and_gone_afterwards() -> None:
    port = free_port()
    with manners_of(load_config(None, [f"metrics.bind=127.0.0.1:{port}"])) as manners:
        assert manners.address == f"http://127.0.0.1:{port}/metrics"
        assert ask(port)[0] == 200
        assert len(manners.listeners) == 1
    with pytest.raises(ConnectionRefusedError):
        ask(port)


def test_a_part_that_breaks_harms_neither_the_others_nor_the_run() -> None:
    class Broken(Metrics):
        def facts(self, facts: Any) -> None:
            raise ZeroDivisionError

    good = Metrics()
    with structlog.testing.capture_logs() as logs:
        Manners([Broken(), good]).facts({"driver": "x"})
    assert good._facts == {"driver": "x"}
    assert [one["part"] for one in logs] == ["Broken"]
