"""Word to the service manager: over a real socket, in the right order, and no word for a loop that hangs."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Follow

from parfocal.daemon.config import load_config
from parfocal.daemon.loop import Loop
from parfocal.daemon.manners.notify import (
    Notifier,
    ServiceManager,
    manager_address,
    manager_of,
    watchdog_period_s,
)
from parfocal.daemon.manners.opening import Manners
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.states import State

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no UNIX sockets here")
LoopMaker = Callable[..., Loop]


class Ear:
    """The service manager's end."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[list[str]]:
        """Return what came since the last call, a list of lines a message."""
        found: list[list[str]] = []
        while True:
            try:
                found.append(self.socket.recv(65536).decode().split("\n"))
            except BlockingIOError:
                return found


@pytest.fixture
def ear() -> Iterator[tuple[Ear, str]]:
    with tempfile.TemporaryDirectory(prefix="n") as folder:  # the path of a UNIX socket has room for 108 bytes
        address = str(Path(folder) / "notify")
        ear = Ear(address)
        yield ear, address
        ear.socket.close()


class Signs:
    """Vital signs as a test wants them."""

    def __init__(self) -> None:
        self.turns, self.alive, self.asked = 0, True, 0

    def answer(self, function: Callable[[], None]) -> bool:
        self.asked += 1
        if self.alive:
            function()
        return True


class Now:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.s = 100.0

    def __call__(self) -> float:
        return self.s


def manager(address: str, signs: Any, now: Now, **more: Any) -> ServiceManager:
    made = ServiceManager(Notifier(address), monotonic=now, **more)
    made._vitals = signs  # without `attach`, which would start the thread: the test looks itself
    made.state(State.IDLE, State.RUNNING, "started", 0.0)
    return made


def test_ready_only_once_it_runs_and_stopping_before_it_is_over(ear: tuple[Ear, str]) -> None:
    made = ServiceManager(Notifier(ear[1]))
    assert ear[0].heard() == []
    for old, new, why in (
        (State.IDLE, State.RUNNING, "started"),
        (State.RUNNING, State.PAUSED, "lunch\nbreak"),
        (State.PAUSED, State.RUNNING, "resumed"),
        (State.RUNNING, State.STOPPING, "SIGTERM received"),
    ):
        made.state(old, new, why, 0.0)
    assert ear[0].heard() == [
        ["READY=1", "STATUS=running: started"],
        ["STATUS=paused: lunch break"],
        ["STATUS=running: resumed"],
        ["STOPPING=1", "STATUS=stopping: SIGTERM received"],
    ]
    made.failed(ValueError("oh"))
    assert ear[0].heard() == [["STOPPING=1", "STATUS=failed: oh"]]
    made.close()
    made.close()


@pytest.mark.skipif(not Path("/proc").exists(), reason="the abstract namespace is Linux's")
def test_a_leading_at_is_the_abstract_namespace() -> None:
    name = f"parfocal-test-{os.getpid()}"
    ear = Ear("\0" + name)
    notifier = Notifier("@" + name)
    assert notifier.send("READY=1")
    assert ear.heard() == [["READY=1"]]
    notifier.close()
    ear.socket.close()


def test_nobody_there_is_said_once_and_harms_nobody(tmp_path: Path) -> None:
    notifier = Notifier(str(tmp_path / "nobody"))
    with structlog.testing.capture_logs() as logs:
        assert not notifier.send("READY=1")
        assert not notifier.send("WATCHDOG=1")
    assert [one["event"] for one in logs] == ["notify.failed"]
    notifier.close()


def test_a_manager_that_does_not_read_does_not_hold_up_the_loop(ear: tuple[Ear, str]) -> None:
    notifier = Notifier(ear[1])
    with structlog.testing.capture_logs():
        sent = 0
        while notifier.send("STATUS=" + "x" * 10_000):  # ends only because a full queue is no reason to wait
            sent += 1
    assert sent > 0
    assert len(ear[0].heard()) == sent, "and nothing that was said to be sent is lost"
    notifier.close()


def test_the_watchdog_is_fed_by_progress(ear: tuple[Ear, str]) -> None:
    signs, now = Signs(), Now()
    made = manager(ear[1], signs, now)
    assert not made.look()  # nothing is known yet
    ear[0].heard()
    for _ in range(3):
        signs.turns += 1
        now.s += 1
        assert made.look()
    assert ear[0].heard() == [["WATCHDOG=1"]] * 3
    now.s += 1
    assert not made.look()  # answers, but gets nowhere
    assert ear[0].heard() == []
    made.close()


def test_a_thread_that_hangs_is_not_fed_whatever_its_counters_say(ear: tuple[Ear, str]) -> None:
    signs, now = Signs(), Now()
    made = manager(ear[1], signs, now)
    signs.alive = False
    for _ in range(20):
        signs.turns += 1
        now.s += 1
        assert not made.look()
    assert signs.asked == 1  # and it is not buried under questions
    made.close()


@pytest.mark.parametrize("state", [State.PAUSED, State.RUNNING])
def test_a_loop_with_nothing_to_do_need_only_answer(ear: tuple[Ear, str], state: State) -> None:
    signs, now = Signs(), Now()
    made = manager(ear[1], signs, now, patience_s=60.0 if state is State.RUNNING else 0.0)
    signs.turns += 1
    made.look()
    if state is State.PAUSED:
        made.state(State.RUNNING, State.PAUSED, "lunch", 0.0)
    for _ in range(10):
        now.s += 5
        assert made.look()
        assert ["WATCHDOG=1"] in ear[0].heard()
    now.s += 20  # the frame is overdue now; a pause is never
    assert made.look() is (state is State.PAUSED)
    signs.alive = False
    made.look()
    assert not made.look()
    made.close()


@pytest.mark.parametrize("state", [State.IDLE, State.STOPPING, State.SAFE, State.ENDED])
def test_before_and_after_it_is_not_fed(ear: tuple[Ear, str], state: State) -> None:
    signs, now = Signs(), Now()
    made = manager(ear[1], signs, now)
    made.state(State.RUNNING, state, "", 0.0)
    for _ in range(3):
        signs.turns += 1
        assert not made.look()
    made.close()


@pytest.mark.parametrize(
    ("environ", "address", "period_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "5000000"}, "/run/x", 5.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": str(os.getpid())}, "@x", 5.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}, "@x", None),
        ({"NOTIFY_SOCKET": "vsock:2:3", "WATCHDOG_USEC": "soon"}, None, None),
        ({"NOTIFY_SOCKET": "", "WATCHDOG_USEC": "0"}, None, None),
    ],
)
def test_what_the_environment_says(environ: dict[str, str], address: str | None, period_s: float | None) -> None:
    with structlog.testing.capture_logs() as logs:
        assert manager_address(environ) == address
    assert bool(logs) is environ.get("NOTIFY_SOCKET", "").startswith("vsock")
    assert watchdog_period_s(environ) == period_s
    with structlog.testing.capture_logs():
        made = manager_of(load_config(None), environ)
    assert (made is None) is (address is None)
    if made is not None:
        made.close()


def test_without_unix_sockets_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    assert manager_of(load_config(None), {"NOTIFY_SOCKET": "/run/x"}) is None


def test_a_watchdog_that_bites_before_the_lease_ends_is_pointed_out(ear: tuple[Ear, str]) -> None:
    environ = {"NOTIFY_SOCKET": ear[1], "WATCHDOG_USEC": "4000000"}
    with structlog.testing.capture_logs() as logs:
        made = manager_of(load_config(None), environ)
    assert made is not None
    made.close()
    assert [one["event"] for one in logs] == ["notify.watchdog_short"]


def test_a_real_loop_is_fed_until_it_hangs(ear: tuple[Ear, str], make_loop: LoopMaker) -> None:
    """A listener that does not return hangs the event loop's thread: from then on the watchdog gets nothing."""
    hang, hung = threading.Event(), threading.Event()

    def listener(step: Any) -> None:
        if hang.is_set() and not hung.is_set():
            hung.set()
            released.wait(30)

    released = threading.Event()
    made = ServiceManager(Notifier(ear[1]), period_s=0.04)
    manners = Manners([made])
    loop = make_loop(
        Bench(ServingClock(), exposure_ms=2), "limits.beam_lease_s=60", listeners=[listener],
        onlooker=manners.and_also(None), policy=Follow(within_um=1e9),
    )  # fmt: skip
    manners.attach(loop)
    thread = threading.Thread(target=lambda: asyncio.run(loop.run()))
    thread.start()
    try:
        until(lambda: ["WATCHDOG=1"] in ear[0].heard())
        loop.pause("lunch")
        until(lambda: loop.state.state is State.PAUSED)
        ear[0].heard()
        until(lambda: ear[0].heard().count(["WATCHDOG=1"]) > 0)  # paused, and answering
        loop.resume()
        until(lambda: loop.state.state is State.RUNNING)
        hang.set()
        assert hung.wait(30)
        made.look()  # what the thread answered before it hung
        made.look()
        ear[0].heard()
        assert not any(made.look() for _ in range(50))
        assert ear[0].heard() == []
    finally:
        released.set()
        loop.request_stop("the test is over")
        thread.join(30)
        manners.close()
    heard = ear[0].heard()
    assert ["STOPPING=1", "STATUS=stopping: the test is over"] in heard
    assert heard[-1] == ["STATUS=ended: stopped"]


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)
