"""Between a daemon and the open pages: events in, orders out, and over and over again to whoever answers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from parfocal.daemon.client import SAFE_WITHIN_S, AsyncClient, NoAnswerError, RefusedError, ServiceError
from parfocal.daemon.service.desk import UNTOLD
from parfocal.daemon.service.messages import Done
from parfocal.daemon.web.state import Picture
from parfocal.daemon.web.tabs import Tabs

log = structlog.get_logger()
KINDS = ("hello", "step", "state", "order", "health", "preview", "restored", "end")
SILENCE_S, RETRY_S, ANSWER_S, SNAP_S = 4.0, 1.0, 5.0, 40.0
FROM_HERE = "asked for on the web page"


@dataclass(frozen=True)
class Daemon:
    """Which daemon; with no address, the one of this computer, whichever it is at the time."""

    address: str | None = None
    publish: str | None = None
    key: Path | None = None

    def client(self, timeout_s: float) -> AsyncClient:
        """Make a client; raises `ServiceError` where there is nobody to talk to."""
        return AsyncClient(self.address, key=self.key, publish=self.publish, timeout_s=timeout_s, via="web page")


class Bridge:
    """Watches a daemon for the pages, and passes on what they ask for.

    `safe` goes over a connection of its own: it waits neither for the events, which may have stopped, nor for an order
    that takes long.

    Parameters
    ----------
    daemon : Daemon
    picture : Picture
    tabs : Tabs
    """

    def __init__(self, daemon: Daemon, picture: Picture, tabs: Tabs) -> None:
        self._daemon, self._picture, self._tabs = daemon, picture, tabs
        self._orders: AsyncClient | None = None
        self._orders_to = self._last = daemon
        self.ended = asyncio.Event()

    # -- watching -----------------------------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Follow the daemon until cancelled."""
        try:
            while True:
                try:
                    await self._follow()
                except ServiceError as error:
                    self._tabs.put(self._picture.lost(str(error)))
                await asyncio.sleep(RETRY_S)
        finally:
            await self._drop()

    async def _follow(self) -> None:
        async with self._daemon.client(ANSWER_S) as client:
            status = await client.status()
            if status.end is None:
                self._last = Daemon(client.address, self._daemon.publish, self._daemon.key)
                self.ended.clear()
            self._tabs.put(self._picture.status(status))
            if status.end is not None:
                self.ended.set()
                return  # it says farewell: nothing will follow
            log.info("page.connected", address=client.address)
            async for event in client.events(*KINDS, silence_s=SILENCE_S):
                before, restored = self._picture.preview, self._picture.restored
                self._tabs.put(self._picture.take(event))
                if self._picture.preview is not None and self._picture.preview is not before:
                    self._tabs.put_preview(self._picture.preview)
                if self._picture.restored is not None and self._picture.restored is not restored:
                    self._tabs.put_preview(self._picture.restored, "restored")
        self._tabs.put(self._picture.lost("the session has ended"))
        self.ended.set()

    # -- orders -------------------------------------------------------------------------------------------------------

    async def order(self, command: str, reason: str, who: str) -> tuple[str, str]:
        """Pass a command on.

        Returns
        -------
        (str, str)
            ``done``, ``refused`` or ``no_answer``, and what a person should read.
        """
        try:
            done = await self._ask(command, reason)
            outcome, text, told = "done", done.text, True
        except RefusedError as error:
            outcome, text, told = "refused", str(error), error.code not in UNTOLD
        except ServiceError as error:
            outcome, text, told = "no_answer", str(error), False
        log.info("page.order", command=command, who=who, outcome=outcome, text=text)
        if not (told and self._picture.is_up):  # else the daemon tells everybody, these pages too
            self._tabs.put(self._picture.order(who, command, text, accepted=outcome == "done"))
        return outcome, text

    async def _ask(self, command: str, reason: str) -> Done:
        reason = reason.strip() or FROM_HERE
        if command == "safe":
            return await self._make_safe(reason)
        if self._orders is None or self._orders_to != self._last:
            await self._drop()
            self._orders, self._orders_to = self._last.client(ANSWER_S), self._last
        client = self._orders
        client.timeout_s = SNAP_S if command == "snap" else ANSWER_S
        asked: dict[str, Callable[[], Awaitable[Done]]] = {
            "pause": lambda: client.pause(reason),
            "resume": client.resume,
            "snap": client.snap,
            "stop": lambda: client.stop(reason),
        }
        return await asked[command]()

    async def _make_safe(self, reason: str) -> Done:
        """Ask over a fresh connection; where the daemon is gone before it could confirm, its last event may have."""
        client = self._last.client(ANSWER_S)
        ended = asyncio.create_task(self.ended.wait())
        asked = asyncio.create_task(client.safe(reason))
        try:
            await asyncio.wait({asked, ended}, timeout=SAFE_WITHIN_S + ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not asked.done():
                await asyncio.wait({asked}, timeout=ANSWER_S)
            if not asked.done():
                raise NoAnswerError(UNCONFIRMED)
            try:
                return asked.result()
            except NoAnswerError:
                if self._picture.is_over:
                    return Done(seq=0, text="the microscope is safe: the session has ended", state="ended")
                raise
        finally:
            ended.cancel()
            asked.cancel()
            await asyncio.gather(asked, ended, return_exceptions=True)
            await client.close()

    async def _drop(self) -> None:
        if self._orders is not None:
            await self._orders.close()
            self._orders = None


UNCONFIRMED = (
    "nobody confirmed that the microscope is safe: look at the microscope, and switch the light off by hand if need be"
)
