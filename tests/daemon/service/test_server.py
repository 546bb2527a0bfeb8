"""The service under fire: garbage, floods, replays, those who never read; the loop goes on and nobody is believed."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import structlog
import zmq
from daemon_doubles import Bench, Follow

from parfocal.daemon.client import Client, RefusedError
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.requests import Answer
from parfocal.daemon.service import server as module
from parfocal.daemon.service.errors import AddressTakenError
from parfocal.daemon.service.messages import MAX_COMMAND_BYTES, Pause, Request, Safe, Status, encode, read_reply
from parfocal.daemon.service.server import MOST_PENDING, Service
from parfocal.daemon.service.sockets import MAX_FRAME_BYTES
from parfocal.daemon.summary import Step
from parfocal.drivers.base import Frame

LiveMaker = Callable[..., Any]


class Raw:
    """A peer that sends bytes as it likes."""

    def __init__(self, address: str, kind: int = zmq.DEALER) -> None:
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.sock = self.context.socket(kind)
        self.sock.setsockopt(zmq.LINGER, 0)
        self.sock.connect(address)

    def say(self, *parts: bytes) -> Any:
        self.sock.send_multipart(parts)
        assert self.sock.poll(5000), "no answer"
        return read_reply(self.sock.recv_multipart()[-1])

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def raw() -> Iterator[Callable[..., Raw]]:
    made: list[Raw] = []

    def make(address: str, kind: int = zmq.DEALER) -> Raw:
        made.append(Raw(address, kind))
        return made[-1]

    yield make
    for one in made:
        one.close()


def request(seq: int = 1, age_s: float = 0.0, **changes: Any) -> bytes:
    content = Request(client="c" * 32, seq=seq, sent_s=time.time() - age_s, command=Pause()).model_dump()
    return msgpack.packb(content | changes)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (lambda: b"", "malformed"),
        (lambda: b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (lambda: request()[:-3], "malformed"),
        (lambda: os.urandom(100), "malformed"),
        (lambda: request(version=2), "version"),
        (lambda: request(command={"kind": "set_policy", "policy": "os.system", "options": {"a.b/c": 1}}), "malformed"),
        (lambda: b"\x00" * (MAX_COMMAND_BYTES + 1), "oversized"),
        (lambda: request(age_s=60.0), "stale"),
        (lambda: request(age_s=-60.0), "stale"),
    ],
)
def test_what_is_wrong_is_answered_and_nothing_happens(live: LiveMaker, raw: Any, message: Any, code: str) -> None:
    running = live()
    running.until("running")
    reply = raw(running.service.address).say(message())
    assert (reply.kind, reply.code) == ("refused", code)
    assert running.loop.state.state.value == "running"
    running.finish()
    assert running.records("command_received") == []


def test_making_safe_works_from_a_computer_whose_clock_is_an_hour_off(
    live: LiveMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(ServingClock(), exposure_ms=2)
    running = live(microscope=bench)
    running.until("running")
    real = time.time
    monkeypatch.setattr("parfocal.daemon.service.link.time", type("Clock", (), {"time": lambda: real() - 3600.0}))
    with Client(running.service.address) as client:
        with pytest.raises(RefusedError, match="clocks disagree"):
            client.pause()
        assert client.safe("smoke").text == "the microscope is safe"
    assert bench.safe
    assert running.finish().outcome == "safe"
    assert [one["command"] for one in running.records("command_received")] == ["safe"]


def test_safe_while_the_session_is_still_being_made_is_kept_for_it(raw: Any) -> None:
    service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    orders: list[Any] = []
    try:
        peer = raw(service.address)
        safe = Request(client="e" * 32, seq=1, sent_s=time.time(), command=Safe(reason="smoke"))
        assert peer.say(encode(safe)).kind == "done"
        assert peer.say(request()).code == "not_running"
        service.attach(orders.append)
    finally:
        service.close()
    assert [(order.command, order.arguments) for order in orders] == [("safe", {"reason": "smoke"})]


def test_a_crowd_of_waiting_orders_does_not_keep_safe_out(raw: Any) -> None:
    service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    orders: list[Any] = []
    service.attach(orders.append)
    try:
        peer = raw(service.address)
        for number in range(1, MOST_PENDING + 1):
            peer.sock.send(request(number))
        assert peer.say(request(MOST_PENDING + 1)).code == "busy"
        peer.sock.send(encode(Request(client="e" * 32, seq=1, sent_s=time.time(), command=Safe())))
        deadline = time.monotonic() + 10
        while not orders or orders[-1].command != "safe":
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        service.close()


def test_a_recorded_command_is_refused_whoever_sends_it_again(live: LiveMaker, raw: Any) -> None:
    running = live()
    running.until("running")
    recorded = request()
    assert raw(running.service.address).say(recorded).kind == "done"
    running.until("paused")
    for peer in (raw(running.service.address), raw(running.service.address)):
        assert peer.say(recorded).code == "repeated"
    running.finish()
    assert len(running.records("command_received")) == 1


def test_a_req_socket_and_several_parts(live: LiveMaker, raw: Any) -> None:
    running = live()
    status = Request(client="d" * 32, seq=1, sent_s=time.time(), command=Status())
    assert raw(running.service.address, zmq.REQ).say(encode(status)).kind == "status"
    peer = raw(running.service.address)
    peer.sock.send_multipart([b"a"] * 50)  # too many parts for an answer to find its way
    assert peer.say(encode(status.model_copy(update={"seq": 2}))).kind == "status"


def test_a_message_too_large_for_the_socket_costs_its_sender_the_connection(live: LiveMaker, raw: Any) -> None:
    running = live()
    running.until("running")
    rude = raw(running.service.address)
    rude.sock.send(b"\0" * (MAX_FRAME_BYTES + 1))
    assert not rude.sock.poll(300)
    with Client(running.service.address) as client:
        assert client.status().state == "running"


def fuzz(peer: Raw, rng: random.Random, valid: bytes) -> bytes:
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(200))
    if kind == 1:
        return valid[: rng.randrange(len(valid))]
    if kind == 2:
        damaged = bytearray(valid)
        for _ in range(rng.randrange(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        return bytes(damaged)
    if kind == 3:
        return bytes(
            msgpack.packb({"version": 1, "seq": rng.randrange(9), "command": [rng.random()] * rng.randrange(40)})
        )
    return valid  # word for word, again and again


def test_a_flood_of_garbage_on_both_sockets_is_counted_and_changes_nothing(live: LiveMaker, raw: Any) -> None:
    messages = int(os.environ.get("PARFOCAL_FUZZ", "1500"))
    running = live(section=ServiceSection(bind="tcp://127.0.0.1:*"))
    running.until("running")
    rng = random.Random(5)  # noqa: S311 - noise, and the same every time
    valid = request(age_s=3600.0)  # never fresh, whatever is done to the rest of it
    peers = [raw(running.service.address) for _ in range(4)]
    for number in range(messages):
        peer = peers[number % 4]
        peer.sock.send(fuzz(peer, rng, valid))
        while peer.sock.poll(0):
            assert read_reply(peer.sock.recv()).kind == "refused"
    noise = raw(running.service.publish, zmq.XSUB)
    for _ in range(300):
        noise.sock.send(rng.randbytes(rng.randrange(1, 50)))
        noise.sock.send(b"\x01no-such-topic")
    with Client(running.service.address, timeout_s=30.0) as client:
        deadline = time.monotonic() + 60
        while sum((refused := client.status().health.refused).values()) < messages:  # type: ignore[union-attr]
            assert time.monotonic() < deadline, refused
            time.sleep(0.2)
        assert set(refused) >= {"malformed", "stale"}
        seen = next(iter(client.events("step")))
        assert seen.kind == "step"
    assert running.finish().outcome == "stopped"
    assert running.records("command_received") == []


def test_whoever_floods_waits_and_the_loop_does_not(live: LiveMaker, raw: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refusals are answered at a pace; one among many good requests costs nobody a breath."""
    rests: list[float] = []
    monkeypatch.setattr(module, "time", _Resting(rests))
    running = live()
    running.until("running")
    flood, count = raw(running.service.address), 300
    began = time.monotonic()
    for _ in range(count):
        flood.sock.send(b"noise")
    for _ in range(count):
        assert flood.sock.poll(20_000)
        assert read_reply(flood.sock.recv()).kind == "refused"
    assert time.monotonic() - began >= 0.8 * count / module.REFUSED_PER_S
    assert max(rests, default=0.0) <= 0.05
    time.sleep(0.1)
    rests.clear()
    with Client(running.service.address) as client:
        for _ in range(20):
            client.status()
        flood.say(b"noise")
    assert rests == []
    running.finish()


def test_a_flood_on_both_sockets_delays_nobody_else_by_more_than_a_few_breaths(
    raw: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rests: list[float] = []
    service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    service.attach(lambda order: order.answer(Answer(True, "as you say")))
    waited: list[int] = []
    try:
        flood, noise, operator = raw(service.address), raw(service.publish, zmq.XSUB), raw(service.address)
        safe = Request(client="e" * 32, seq=1, sent_s=time.time(), command=Safe())
        assert operator.say(encode(safe)).kind == "done"
        monkeypatch.setattr(module, "time", _Resting(rests))
        for number in range(10):
            for _ in range(200):  # far more than is listened to until the next `safe`
                flood.sock.send(b"noise", zmq.NOBLOCK)
                noise.sock.send(b"noise", zmq.NOBLOCK)
            seen = len(rests)
            while len(rests) < seen + 2:
                time.sleep(0.0001)
            seen = len(rests)
            assert operator.say(encode(safe.model_copy(update={"seq": 2 + number}))).kind == "done"
            waited.append(len(rests) - seen)
            while flood.sock.poll(0):
                flood.sock.recv()
    finally:
        service.close()
    assert max(rests) <= 2.0 * module.BREATH_S
    assert sorted(waited)[len(waited) // 2] <= 3, waited


class _Resting:
    """The time module, and who slept for how long."""

    def __init__(self, rests: list[float]) -> None:
        self._rests = rests
        self.time, self.monotonic = time.time, time.monotonic

    def sleep(self, seconds: float) -> None:
        self._rests.append(seconds)
        time.sleep(seconds)


def test_a_subscriber_that_never_reads_costs_the_others_nothing(live: LiveMaker, raw: Any) -> None:
    running = live("session.max_frames=400")
    sleepers = [raw(running.service.publish, zmq.SUB) for _ in range(5)]
    for sleeper in sleepers:
        sleeper.sock.setsockopt(zmq.RCVHWM, 1)
        sleeper.sock.setsockopt(zmq.SUBSCRIBE, b"")
    with Client(running.service.address, publish=running.service.publish) as client:
        events = client.events("step", "end")
        seen = list(events)
        assert events.missed == 0
    numbers = [event.n for event in seen if event.kind == "step"]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    assert seen[-1].kind == "end"
    assert running.finish().frames == 400


def make_steps(count: int) -> list[Any]:
    frame = Frame(np.zeros((4, 4)), 0, {"z_um": 0.0}, 0.0, 0.1, 0.3)
    numbers = (0, 0, 0, 0, 0, 0, 0.0, 0.0, 0.0, 0.0)
    return [Step(frame, None, None, None, False, "running", *numbers) for _ in range(count)]


def test_when_the_queue_is_full_the_oldest_go_and_the_gap_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STEPS", 10)
    held, asleep = Service(ServiceSection(bind="tcp://127.0.0.1:*")), threading.Event()
    try:
        with Client(held.address, publish=held.publish) as client:
            events = client.events("step")
            for step in until_seen(held, events):
                held.listen(step)
            monkeypatch.setattr(held._health, "note", lambda noted: asleep.wait(20))  # the thread is held up here
            for step in make_steps(1 + 25):
                held.listen(step)
                time.sleep(0.02 if held._step_number < 4 else 0.0)
            last = held._step_number
            asleep.set()
            numbers = []
            while not numbers or numbers[-1] < last:
                numbers.append(next(events).n)
            assert held.lost_events > 0
            assert numbers == sorted(numbers)
            assert numbers[-10:] == list(range(last - 9, last + 1))  # the latest are all there
            assert events.missed >= held.lost_events - 1
    finally:
        asleep.set()
        held.close()


def until_seen(service: Service, events: Any) -> Iterator[Step]:
    """Yield steps until the subscriber has seen one: then it is connected."""
    deadline = time.monotonic() + 10
    while not events._socket.poll(20):
        assert time.monotonic() < deadline
        yield from make_steps(1)
    next(events)


def test_a_mistake_in_the_service_does_not_end_it(live: LiveMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    running = live()
    running.until("running")
    broken = [True]
    real = running.service._desk.judge

    def judge(data: bytes, user: Any) -> Any:
        if broken and broken.pop():
            raise ZeroDivisionError("a mistake nobody thought of")
        return real(data, user)

    monkeypatch.setattr(running.service._desk, "judge", judge)
    with Client(running.service.address, timeout_s=0.5) as client:
        with pytest.raises(Exception, match="nobody answered"):
            client.status()
        assert client.status().state == "running"


def test_a_service_that_gave_up_does_not_take_the_loop_along(live: LiveMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_FAILURES", 2)
    bench = Bench(ServingClock(), exposure_ms=1)
    running = live("session.max_frames=150", microscope=bench)

    def fail(*_: Any) -> None:
        raise MemoryError("no room for an event")

    monkeypatch.setattr(running.service, "_pass_on", fail)
    running._thread.join(20)
    assert running.summary.outcome == "done"
    assert running.summary.frames == 150
    assert bench.safe


def test_a_taken_port_is_one_error_and_nothing_is_left_open() -> None:
    first = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    try:
        with pytest.raises(AddressTakenError, match="another program listens there already"):
            Service(ServiceSection(bind=first.address))
        elsewhere = Service(ServiceSection(bind=first.address), asked=False)
        try:
            assert elsewhere.address not in (first.address, first.publish)
            with Client(elsewhere.address) as client:
                assert client.status().state == "idle"
        finally:
            elsewhere.close()
    finally:
        first.close()


def test_before_there_is_a_session_only_questions_are_answered() -> None:
    service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    try:
        with Client(service.address) as client, structlog.testing.capture_logs() as logs:
            assert client.status().state == "idle"
            with pytest.raises(RefusedError, match="no session is running yet"):
                client.pause()
        assert [(log["event"], log["code"]) for log in logs] == [("service.refused", "not_running")]
    finally:
        service.close()


def test_floods_are_logged_as_numbers() -> None:
    now = [0.0]
    with structlog.testing.capture_logs() as logs:
        refusals = module.Refusals(lambda: now[0])
        for _ in range(1000):
            refusals.note("malformed", "a stranger", "not a message")
        refusals.note("stale", "ann", "sent 60 s ago")
        now[0] = 1.0
        refusals.tick()
        refusals.tick()
    assert len(logs) == 7
    assert logs[-1]["event"] == "service.refused_more"
    assert (logs[-1]["code"], logs[-1]["count"]) == ("malformed", 995)
    assert refusals.total == {"malformed": 1000, "stale": 1}


@pytest.mark.skipif(not zmq.has("ipc"), reason="no ipc here")
def test_it_works_over_files_too(live: LiveMaker, tmp_path: Path) -> None:
    running = live(section=ServiceSection(bind=f"ipc://{tmp_path}/s"), policy=Follow(within_um=1e9))
    running.until("running")
    with Client(f"ipc://{tmp_path}/s") as client:
        assert client.status().state == "running"
        assert next(iter(client.events("step"))).kind == "step"


def test_listening_costs_the_loop_next_to_nothing_when_the_thread_is_away() -> None:
    """No lock, no wait: with its thread gone, steps go into the queue, and out of it again."""
    service = Service(ServiceSection(bind="tcp://127.0.0.1:*"))
    service.close()
    for step in make_steps(module.MOST_STEPS + 7):
        service.listen(step)
    assert len(service._steps) == module.MOST_STEPS
    assert service.lost_events == 7
    asyncio.run(asyncio.sleep(0))
