"""The client: every verb, both ways of waiting, and an answer in words when nobody answers."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from daemon_doubles import Bench, Follow
from typer.testing import CliRunner

from parfocal.daemon import client as module
from parfocal.daemon.cli import app
from parfocal.daemon.client import AsyncClient, Client, NoAnswerError, RefusedError, ServiceError
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.service.errors import KeyFileError
from parfocal.daemon.service.keys import new_key
from parfocal.daemon.watching import Screen, event_line
from parfocal.drivers.base import HardwareError
from parfocal.policies.base import Hold

LiveMaker = Callable[..., Any]


@pytest.fixture(autouse=True)
def _runtime(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    for name in ("PARFOCAL_ADDRESS", "PARFOCAL_KEY"):
        monkeypatch.delenv(name, raising=False)


def connected(running: Any, **more: Any) -> Client:
    return Client(running.service.address, publish=running.service.publish, **more)


def test_a_whole_conversation(live: LiveMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=2)
    running = live(microscope=bench)
    running.until("running")
    with connected(running) as scope:
        first = next(scope.events("step"))
        assert first.kind == "step"
        status = scope.status()
        assert (status.state, status.role) == ("running", "operate")
        assert status.hello is not None
        assert status.hello.facts["simulated"] is True
        assert status.hello.facts["limits"]["z_um"]["upper"] == 100
        assert status.step is not None
        assert status.step.index >= first.index
        assert scope.pause("changing the sample").text == "paused after the frame at hand"
        running.until("paused")
        one = scope.snap()
        assert one.detail["assessments"]["defocus"]["value"] == pytest.approx(-10.0)
        assert scope.resume().text == "going on"
        running.until("running")
        assert scope.set_limit("z_um", "upper", 50).detail == {"value": 50.0}
        with pytest.raises(RefusedError, match="wider than the 100") as refused:
            scope.set_limit("z_um", "upper", 500.0)
        assert refused.value.code == "refused"
        deadline = time.monotonic() + 10
        while scope.status().hello.facts["limits"]["z_um"]["upper"] != 50:  # type: ignore[union-attr]
            assert time.monotonic() < deadline
        with pytest.raises(RefusedError, match="cannot be changed"):
            scope.set_option("range_um", 5.0)
        with pytest.raises(RefusedError, match="cannot be changed"):
            scope.set_policy("focus.sweep", range_um=10.0)
        assert scope.safe("done").text == "the microscope is safe"
        assert bench.safe
    assert running.finish().outcome == "safe"
    commands = [record["command"] for record in running.records("command_received")]
    assert commands == ["pause", "snap", "resume", "set_limit", "set_limit", "set_option", "set_policy", "safe"]


def test_everybody_is_told_who_ordered_what_and_what_became_of_it(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    with connected(running) as watcher, connected(running, via="terminal") as ann:
        events = watcher.events("order")
        deadline = time.monotonic() + 20
        while not running.service._sockets.wants(b"order"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        ann.pause("lunch")
        with pytest.raises(RefusedError):
            ann.set_limit("z_um", "upper", 1e6)
        first, second = next(events), next(events)
        assert first.kind == second.kind == "order"
        assert (first.sender, first.command, first.accepted) == ("somebody on this computer, terminal", "pause", True)
        assert (first.arguments, first.text) == ({"reason": "lunch"}, "paused after the frame at hand")
        assert (second.command, second.accepted, second.code) == ("set_limit", False, "refused")
        assert "wider than" in second.text
        assert event_line(first).startswith("order: pause lunch (somebody on this computer, terminal): paused")
        assert "REFUSED" in event_line(second)
        rows = dict(watcher.status().rows())
        assert rows["last order"].startswith("set_limit z_um upper 1000000.0 (")
        ann.resume()
    running.finish()
    assert [one["via"] for one in running.records("command_received")] == ["terminal"] * 3


def test_stop_ends_in_good_order_and_the_events_say_so(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    with connected(running) as scope:
        events = scope.events("state", "end")
        next(scope.events("step"))
        scope.stop("home")
        seen = list(events)
    assert [event.kind for event in seen][-1] == "end"
    assert seen[-1].outcome == "stopped"  # type: ignore[union-attr]
    assert [event.new for event in seen if event.kind == "state"][-3:] == ["stopping", "safe", "ended"]
    assert [event_line(event) for event in seen][-1] == "ended: stopped"


def test_two_clients_at_once_see_the_same(live: LiveMaker) -> None:
    running = live(policy=Follow(within_um=1e9))
    running.until("running")
    seen: dict[str, list[int]] = {}

    def watch(name: str) -> None:
        with connected(running) as scope:
            for event in scope.events("step", "end"):
                if event.kind == "step":
                    seen.setdefault(name, []).append(event.n)

    watchers = [threading.Thread(target=watch, args=(name,)) for name in ("a", "b")]
    for watcher in watchers:
        watcher.start()
    deadline = time.monotonic() + 20
    while len(seen) < 2 or min(len(numbers) for numbers in seen.values()) < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with connected(running) as first, connected(running) as second:
        first.pause("mine")
        assert second.pause("no, mine").text.startswith("paused already: mine")
        second.resume()
        running.until("running")
    running.loop.request_stop("seen enough")
    for watcher in watchers:
        watcher.join(20)
    later = max(numbers[0] for numbers in seen.values())
    assert [n for n in seen["a"] if n >= later] == [n for n in seen["b"] if n >= later]


def test_previews_come_small_and_now_and_then(live: LiveMaker) -> None:
    running = live(microscope=Bench(ServingClock(), exposure_ms=2, shape=(300, 400)))
    with connected(running) as scope:
        events = scope.events("preview")
        preview = next(events)
        assert preview.kind == "preview"
        assert (preview.width, preview.height, preview.factor) == (200, 150, 2)
        assert len(preview.pixels) == 200 * 150
        assert preview.patch_map is None


def test_safe_that_is_not_confirmed_is_said(live: LiveMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def fault(where: str, count: int) -> None:
        if where == "snap" and count > 5:
            release.wait(20)

    monkeypatch.setattr(module, "SAFE_WITHIN_S", 0.3)
    running = live(microscope=Bench(ServingClock(), exposure_ms=1, fault=fault), deadlines=module_deadlines())
    running.until("running")
    time.sleep(0.2)
    with connected(running) as scope, pytest.raises(NoAnswerError, match="look at the microscope"):
        scope.safe()
    release.set()


def module_deadlines() -> Any:
    from parfocal.daemon.terms import Deadlines

    return Deadlines(frame_s=30.0, safe_s=2.0)


def test_the_asynchronous_client_has_the_same_verbs(live: LiveMaker) -> None:
    running = live()
    running.until("running")

    async def talk() -> list[str]:
        async with AsyncClient(running.service.address, publish=running.service.publish) as scope:
            texts = []
            async for event in scope.events("step"):
                texts.append(event.kind)
                break
            assert (await scope.status()).state == "running"
            texts.append((await scope.pause("tea")).text)
            both = await asyncio.gather(scope.status(), scope.resume())  # at once: one after the other
            texts.append(both[1].text)
            with pytest.raises(RefusedError, match="wider"):
                await scope.set_limit("z_um", "lower", -1000.0)
            texts.append((await scope.safe("home")).text)
            return texts

    texts = asyncio.run(talk())
    assert texts == ["step", "paused after the frame at hand", "going on", "the microscope is safe"]
    assert running.finish().outcome == "safe"


def test_nobody_there_is_said_in_words() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as deaf:
        address = f"tcp://127.0.0.1:{deaf.bind_to_random_port('tcp://127.0.0.1')}"
        with Client(address, timeout_s=0.3) as scope:
            with pytest.raises(NoAnswerError, match="although somebody listens"):
                scope.status()
            assert "no answer" in scope._repr_html_()
    with Client(address, timeout_s=0.3) as scope:
        with pytest.raises(NoAnswerError, match="is a daemon running there"):
            scope.pause()
        with pytest.raises(NoAnswerError, match="nothing was published"):
            next(scope.events(silence_s=0.2))
    with pytest.raises(NoAnswerError, match="no daemon runs on this computer"):
        Client()

    async def alone() -> None:
        async with AsyncClient(address, timeout_s=0.3) as scope:
            with pytest.raises(NoAnswerError):
                await scope.status()
            with pytest.raises(NoAnswerError):
                async for _ in scope.events(silence_s=0.2):
                    pass

    asyncio.run(alone())


@pytest.mark.parametrize("address", ["nonsense", "tcp://", "tcp://host", "tcp://host:port", "udp://1.2.3.4:5"])
def test_what_is_no_address_is_said(address: str) -> None:
    with pytest.raises(ServiceError, match="address"):
        Client(address)


def test_a_key_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="no such key"):
        Client("tcp://127.0.0.1:9", key=tmp_path / "none.json")
    new_key(tmp_path, "ann", "operate")
    with pytest.raises(KeyFileError, match="holds no secret"):
        Client("tcp://127.0.0.1:9", key=tmp_path / "ann.public.json")
    with pytest.raises(KeyFileError, match="does not say which daemon it is for"):
        Client("tcp://127.0.0.1:9", key=tmp_path / "daemon.secret.json")


def test_a_command_that_cannot_be_right_is_not_even_sent() -> None:
    with Client("tcp://127.0.0.1:9", timeout_s=0.2) as scope:
        for wrong in (
            lambda: scope.set_limit("z_um", "uper", 1.0),
            lambda: scope.set_limit("z_um", "upper", float("nan")),
            lambda: scope.set_policy("no such name!"),
        ):
            with pytest.raises(RefusedError) as caught:
                wrong()
            assert caught.value.code == "malformed"


def test_an_answer_to_an_earlier_question_is_not_taken_for_this_one(live: LiveMaker) -> None:
    running = live()
    running.until("running")
    with connected(running) as scope:
        scope.timeout_s = 0.0
        with pytest.raises(NoAnswerError):
            scope.pause("too impatient for the answer")
        running.until("paused")
        scope.timeout_s = 5.0
        assert scope.status().state == "paused"
        assert scope.resume().text == "going on"


def test_a_notebook_shows_a_table_and_nothing_can_be_smuggled_into_it(live: LiveMaker) -> None:
    running = live(policy=Follow(script=[Hold("<script>alert(1)</script>")] * 99_999))
    running.until("running")
    with connected(running) as scope:
        next(scope.events("step"))
        deadline = time.monotonic() + 10
        while "alert(1)" not in (shown := scope._repr_html_()):
            assert time.monotonic() < deadline
        assert "<script>" not in shown
        assert "SIMULATED" in shown
        json.dumps(scope.status().to_json(), allow_nan=False)
        assert scope.status()._repr_html_().startswith("<table>")
        shown = str(scope.status()).splitlines()
        assert shown[0].split() == ["state", scope.status().state]
        assert max(map(len, shown)) < 200, "lines for a person, not the fields of everything"
        assert repr(scope.status()).startswith("state ")


SCRIPT = """
import asyncio, sys, pathlib
sys.path.insert(0, sys.argv[1])
from doubles import Bench, Follow, Reader
from parfocal.daemon.config import load_config
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.session import Session
from parfocal.daemon.service.addresses import announced
from parfocal.daemon.service.server import Service
config = load_config(None, ["session.record=none", "microscope.interval_ms=0"])
service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
bench = Bench(ServingClock(), exposure_ms=2)
session = Session.create(config, pathlib.Path(sys.argv[2]))
decider = Decider(Reader(), lambda _: (Follow(within_um=1e9), {}))
loop = Loop(bench, decider, session, listeners=[service.listen], onlooker=service)
service.attach(loop.orders.submit)
with announced(service.address, service.publish):
    asyncio.run(loop.run())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_a_daemon_that_dies_is_noticed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(tmp_path / "s")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                scope = Client(timeout_s=1.0)
                break
            except NoAnswerError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with scope:
            assert scope.status().state in ("idle", "running")
            events = scope.events("step", silence_s=1.5)
            next(events)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            with pytest.raises(NoAnswerError, match="the daemon is gone or unreachable"):
                list(events)
            with pytest.raises(NoAnswerError):
                scope.status()
        with pytest.raises(NoAnswerError, match="no daemon runs"):
            Client()
    finally:
        process.kill()
        process.wait()


# -- the command line --------------------------------------------------------------------------------------------------


def invoke(*args: str) -> Any:
    return CliRunner().invoke(app, list(args))


def test_the_verbs_of_the_command_line(live: LiveMaker) -> None:
    running = live(policy=Follow(within_um=1e9))
    running.until("running")
    there = ["--address", running.service.address]
    result = invoke("status", *there)
    assert result.exit_code == 0, result.output
    assert "state          running" in result.stdout
    assert "SIMULATED" in result.stdout
    said = json.loads(invoke("status", *there, "--json").stdout)
    assert said["state"] == "running"
    assert said["hello"]["facts"]["driver"] == "simulated"
    assert invoke("pause", "for tea", *there).stdout == "paused after the frame at hand\n"
    running.until("paused")
    assert "defocus: -10" in invoke("snap", *there).stdout
    assert json.loads(invoke("snap", "--json", *there).stdout)["assessments"]["defocus"]["abstained"] is False
    assert invoke("resume", *there).stdout == "going on\n"
    result = invoke("set", "limits.z_um.upper=50", "limits.z_um.max_step=5", *there)
    assert result.stdout == "limits.z_um.upper: 50\nlimits.z_um.max_step: 5\n"
    result = invoke("set", "limits.z_um.upper=5000", *there)
    assert (result.exit_code, "wider than the 100" in result.stderr) == (1, True)
    assert "cannot be changed" in invoke("set", "policy.name=focus.hold", *there).stderr
    assert "cannot be changed" in invoke("set", "policy.range_um=5", *there).stderr
    assert invoke("stop", "home", *there).stdout == "stops after the frame at hand\n"
    assert running.finish().outcome == "stopped"
    reasons = [record["reason"] for record in running.records("state")]
    assert "for tea (somebody on this computer, terminal)" in reasons
    assert "home (somebody on this computer, terminal)" in reasons


def test_watch_follows_until_the_end(live: LiveMaker) -> None:
    running = live("session.max_frames=300")
    there = ["--address", running.service.address]
    result = invoke("watch", "--frames", "3", *there)
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "frame" in line]
    assert len(lines) == 3
    assert all(line.startswith("SIMULATED  frame") and "hold: in focus" in line for line in lines[1:])
    result = invoke("watch", "--json", *there)
    assert result.exit_code == 0, result.output
    kinds = [json.loads(line)["kind"] for line in result.stdout.splitlines()]
    assert kinds[-1] == "end"
    assert "step" in kinds


def test_the_live_screen_shows_what_matters(live: LiveMaker) -> None:
    from rich.console import Console

    bench = Bench(ServingClock(), exposure_ms=2, focus_um=10.0)
    running = live("session.max_frames=400", microscope=bench, policy=Follow(), shadow=True)
    running.until("running")
    screen = Screen(running.service.address)
    console = Console(width=100, record=True, file=io.StringIO())
    with connected(running) as scope:
        console.print(screen.draw())
        hello = scope.status().hello
        assert hello is not None, "told before it runs"
        screen.take(hello, 0)
        for event in scope.events("hello", "step", "state", "end"):
            screen.take(event, 0)
        console.print(screen.draw())
    shown = console.export_text()
    for text in (
        "waiting for the first frame",
        "SIMULATED",
        "SHADOW",
        "-10.00",
        "change: -10.00 um off",
        "ended: done",
    ):
        assert text in shown, shown


def test_make_safe_on_the_command_line(live: LiveMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=2)
    running = live("start={excitation_power: 5}", microscope=bench, policy=Follow(within_um=1e9))
    running.until("running")
    result = invoke("safe", "smoke", "--address", running.service.address)
    assert (result.exit_code, result.stdout) == (0, "the microscope is safe\n")
    assert bench.values["excitation_power"] == 0.0
    assert running.finish().outcome == "safe"


def test_a_driver_that_fails_is_what_the_end_says(live: LiveMaker) -> None:
    def fault(where: str, count: int) -> None:
        if where == "snap" and count == 30:
            raise HardwareError("the lamp fell off")

    running = live(microscope=Bench(ServingClock(), exposure_ms=2, fault=fault))
    with connected(running) as scope:
        end = next(scope.events("end"))
    assert event_line(end) == "ended: failed: the lamp fell off"


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["status"], 75, "no daemon runs on this computer"),
        (["status", "--address", "tcp://127.0.0.1:9", "--timeout", "0.2"], 75, "nobody answered within 0.2 s"),
        (["pause", "--address", "nowhere"], 1, "is no address"),
        (["set", "limits.z_um.upper"], 2, "expected KEY=VALUE"),
        (["set", "limits.z_um.upper=high"], 2, "a limit is a number"),
        (["set", "limit.z_um.upper=1"], 2, "did you mean 'limits'"),
        (["set", "session.max_frames=1"], 2, "can be set"),
        (["set"], 2, ""),
        (["status", "--key", "no-such.json"], 3, "there is no such key"),
        (["keys", "new", "ann", "--role", "king"], 3, "observe or operate"),
        (["keys", "new", "ann"], 2, "--role"),
    ],
)
def test_misuse_is_one_message(
    args: list[str], code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke(*args)
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_keys_new_says_what_to_do_with_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("keys", "new", "ann", "--role", "observe")
    assert result.exit_code == 0, result.output
    assert "keys/ann.secret.json: carry this to where ann works" in result.stdout
    assert "allow: {ann: observe}" in result.stdout
    assert invoke("keys", "new", "ann", "--role", "observe").exit_code == 3
