"""Between a daemon and the pages: a real service on loopback, which comes, goes, comes back and hangs."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import numpy as np
import pytest

from parfocal.daemon.client import AsyncClient
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.guard import Verdict
from parfocal.daemon.requests import Answer, Order
from parfocal.daemon.service.server import Service
from parfocal.daemon.states import State
from parfocal.daemon.summary import Step
from parfocal.daemon.web import bridge as module
from parfocal.daemon.web.bridge import Bridge, Daemon
from parfocal.daemon.web.state import Picture
from parfocal.daemon.web.tabs import Tabs
from parfocal.drivers.base import Frame
from parfocal.policies.base import Hold

FACTS = {"folder": "/s/one", "session": "one", "simulated": True}


def a_step(index: int) -> Step:
    frame = Frame(np.full((32, 32), index, np.uint16), index, {"z_um": 1.0}, 0.1 * index, 0.1 * index + 0.01, 0.3)
    verdict = Verdict(True, "nothing to send", {})
    return Step(frame, {}, Hold("fine"), verdict, False, "running", index, index, 0, 0, 0, 0, 1.0, 0.0, 5.0, 1.0)


class Scope:
    """A daemon without a loop: it takes orders down, and answers those it is told to."""

    def __init__(self, bind: str = "tcp://127.0.0.1:*", publish: str | None = None) -> None:
        self.service = Service(ServiceSection(bind=bind, publish=publish))
        self.orders: list[Order] = []
        self.silent: set[str] = set()
        self.service.attach(self.take)
        self.service.facts(FACTS)
        self.service.state(State.IDLE, State.RUNNING, "started", 0.0)

    def take(self, order: Order) -> None:
        self.orders.append(order)
        if order.command in self.silent:
            return
        order.answer(Answer(order.command != "snap", f"{order.command} it is"))
        if order.command == "safe":
            self.service.state(State.RUNNING, State.SAFE, "made safe", 1.0)

    def names(self) -> list[str]:
        return [order.command for order in self.orders]


@pytest.fixture
def scope(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scope]:
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    made = Scope()
    yield made
    made.service.close()


Play = Callable[[Bridge, Picture], Awaitable[Any]]


def played(daemon: Daemon, play: Play) -> Any:
    """Let a bridge watch while `play` goes on."""

    async def run() -> Any:
        picture = Picture()
        bridge = Bridge(daemon, picture, Tabs(picture.snapshot))
        watching = asyncio.create_task(bridge.watch())
        try:
            async with asyncio.timeout(40):
                return await play(bridge, picture)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching

    return asyncio.run(run())


async def until(holds: Callable[[], Any], again: Callable[[], Any] = lambda: None) -> None:
    while not holds():
        again()
        await asyncio.sleep(0.02)


def at(scope: Scope) -> Daemon:
    return Daemon(scope.service.address, scope.service.publish)


def test_steps_states_and_images_arrive(scope: Scope) -> None:
    async def play(bridge: Bridge, picture: Picture) -> None:
        numbers = iter(range(10_000))
        await until(
            lambda: picture.preview and picture.snapshot()["step"] and picture.snapshot()["health"],
            lambda: scope.service.listen(a_step(next(numbers))),
        )
        found = picture.snapshot()
        assert found["link"]["up"] and found["hello"]["facts"] == FACTS
        assert found["state"]["name"] == "running"
        assert found["entries"][-1]["kind"] == "hold"
        json.dumps(found, allow_nan=False)

    played(at(scope), play)


def test_orders_go_through_and_every_page_reads_what_became_of_them(scope: Scope) -> None:
    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: picture.snapshot()["link"]["up"])
        assert await bridge.order("pause", "lunch", "the web page") == ("done", "pause it is")
        assert await bridge.order("resume", "", "the web page") == ("done", "resume it is")
        assert await bridge.order("stop", "enough", "the web page") == ("done", "stop it is")
        assert (await bridge.order("snap", "", "the web page"))[0] == "refused"

        def listed() -> list[tuple[str, str]]:
            entries = picture.snapshot()["entries"]
            return [(one["kind"], one["what"]) for one in entries if one["kind"].startswith("order")]

        await until(lambda: len(listed()) >= 4)
        by = "asked for by somebody on this computer, web page"
        assert listed() == [
            ("order", f"pause {by}"),
            ("order", f"resume {by}"),
            ("order", f"stop {by}"),
            ("order-refused", f"snap {by}"),
        ]

    played(at(scope), play)
    assert scope.names() == ["pause", "resume", "stop", "snap"]
    assert scope.orders[0].arguments["reason"] == "lunch"


def test_what_another_program_orders_is_told_on_the_page(scope: Scope) -> None:
    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: picture.snapshot()["health"])  # events come
        async with AsyncClient(scope.service.address, publish=scope.service.publish, via="terminal") as other:
            await other.pause("lunch")
        await until(lambda: any(one["kind"] == "order" for one in picture.snapshot()["entries"]))
        (entry,) = [one for one in picture.snapshot()["entries"] if one["kind"] == "order"]
        assert entry["what"] == "pause asked for by somebody on this computer, terminal"
        assert entry["reason"] == "lunch: pause it is"

    played(at(scope), play)


def test_safe_waits_for_nobody(scope: Scope) -> None:
    """An order that is never answered is under way, and no event comes; still it goes through at once."""
    scope.silent = {"snap"}

    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: picture.snapshot()["link"]["up"])
        hanging = asyncio.create_task(bridge.order("snap", "", "the web page"))
        await until(lambda: "snap" in scope.names())
        assert await bridge.order("safe", "smoke", "the web page") == ("done", "the microscope is safe")
        assert not hanging.done()
        hanging.cancel()

    played(at(scope), play)
    assert scope.names() == ["snap", "safe"]


def test_safe_that_nobody_confirms_is_said_to_be_unconfirmed(scope: Scope, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_S", 0.3)
    scope.silent = {"safe"}

    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: picture.snapshot()["link"]["up"])
        outcome, text = await bridge.order("safe", "", "the web page")
        assert outcome == "no_answer" and text
        assert picture.snapshot()["entries"][-1]["kind"] == "order-refused"

    played(at(scope), play)


def test_a_daemon_that_goes_is_missed_and_one_that_comes_is_found(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 1.5)
    monkeypatch.setattr(module, "ANSWER_S", 0.5)

    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: picture.snapshot()["health"])
        await asyncio.to_thread(scope.service.close)
        await until(lambda: not picture.snapshot()["link"]["up"])
        assert (await bridge.order("pause", "", "the web page"))[0] == "no_answer"
        again = Scope(scope.service.address, scope.service.publish)
        try:
            await until(lambda: picture.snapshot()["link"]["up"])
            assert (await bridge.order("pause", "", "the web page"))[0] == "done"
        finally:
            await asyncio.to_thread(again.service.close)

    played(at(scope), play)


def test_no_daemon_is_no_error(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("parfocal.daemon.service.addresses.runtime_folder", lambda: tmp_path)

    async def play(bridge: Bridge, picture: Picture) -> None:
        await until(lambda: "no daemon runs" in picture.snapshot()["link"]["text"])
        assert (await bridge.order("safe", "", "the web page"))[0] == "no_answer"

    played(Daemon(), play)
