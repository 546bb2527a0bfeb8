"""The page's server: the page itself, one stream of changes for each that is open, and one door for commands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from typing import Annotated, Any

import structlog
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from parfocal.daemon.web.bridge import Bridge
from parfocal.daemon.web.security import Doorkeeper, Role, Tokens
from parfocal.daemon.web.state import Picture
from parfocal.daemon.web.tabs import Tab, Tabs

log = structlog.get_logger()
MAX_BODY_BYTES = MAX_MESSAGE_BYTES = 4096
FIRST_WORD_S = 5.0
MOST_STRANGERS = 16
BETWEEN_S = 0.05
"""A page is told at most so often; what happened meanwhile comes in one message."""

QUIET_S = 2.0
"""After that long without news it is told that there are none, so that it can tell silence from a lost connection."""

NO_TOKEN, TOO_MANY, BAD_WORD = 4401, 4429, 4400
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
STATUS = {"done": 200, "refused": 409, "no_answer": 504}


class Command(BaseModel):
    """What a page may ask for."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    command: Annotated[str, Field(pattern=r"^(pause|resume|snap|stop|safe)$")]
    reason: Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""


class Page:
    """The routes, and what they share.

    Parameters
    ----------
    tokens : Tokens
        Who may look, and who may operate.
    picture : Picture
    tabs : Tabs
    bridge : Bridge
    """

    def __init__(self, tokens: Tokens, picture: Picture, tabs: Tabs, bridge: Bridge) -> None:
        self._tokens, self._picture, self._tabs, self._bridge = tokens, picture, tabs, bridge
        self._strangers = 0
        self._assets = assets()

    def app(self) -> Starlette:
        """Return the application."""
        routes = [
            Route("/", self.asset, methods=["GET"]),
            Route("/assets/{name}", self.asset, methods=["GET"]),
            Route("/command", self.command, methods=["POST"]),
            WebSocketRoute("/stream", self.stream),
        ]
        return Starlette(routes=routes, middleware=[Middleware(Doorkeeper)], lifespan=self._lifespan)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._bridge.watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def asset(self, request: Request) -> Response:
        """Answer with a file of the page; there is nothing in them that anybody may not see."""
        name = request.path_params.get("name", "index.html")
        found = self._assets.get(name)
        if found is None:
            return Response("there is no such file\n", status_code=404, media_type="text/plain")
        return Response(found, media_type=TYPES[name.rpartition(".")[2]])

    async def command(self, request: Request) -> Response:
        """Pass a command on, if whoever sends it may."""
        role = self._tokens.role(bearer(request))
        if role is None:
            return problem(401, "this link is of an earlier start of the page, or none: open the one that was printed")
        if role != "operate":
            return problem(403, "this link may only look; the other one that was printed may operate")
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return problem(415, "a command is JSON")
        try:
            body = await limited(request)
            command = Command.model_validate(json.loads(body))
        except OverflowError:
            return problem(413, f"a command has at most {MAX_BODY_BYTES} bytes")
        except (ValueError, ValidationError, RecursionError):
            return problem(400, "this is no command")
        outcome, text = await self._bridge.order(command.command, command.reason, "the web page")
        return JSONResponse({"outcome": outcome, "text": text}, status_code=STATUS[outcome])

    async def stream(self, socket: WebSocket) -> None:
        """Tell one page what changes; its first word is its token."""
        if self._strangers >= MOST_STRANGERS:
            await socket.close(1013)
            return
        await socket.accept()
        self._strangers += 1
        try:
            role = await self._first_word(socket)
        finally:
            self._strangers -= 1
        if role is None:
            return
        tab = self._tabs.join(role, self._picture.preview, self._picture.restored)
        if tab is None:
            await socket.close(TOO_MANY, "too many pages are open")
            return
        self._told_people()
        try:
            await self._serve(socket, tab, role)
        finally:
            self._tabs.leave(tab)
            self._told_people()

    async def _first_word(self, socket: WebSocket) -> Role | None:
        try:
            async with asyncio.timeout(FIRST_WORD_S):
                text = await socket.receive_text()
        except (TimeoutError, KeyError):
            await quietly(lambda: socket.close(BAD_WORD, "the first message is the token"))
            return None
        except WebSocketDisconnect:
            return None
        role = self._tokens.role(text)
        if role is None:
            await quietly(lambda: socket.close(NO_TOKEN, "this link is not, or no longer, valid"))
        return role

    async def _serve(self, socket: WebSocket, tab: Tab, role: Role) -> None:
        """Send until either side goes; a page has nothing more to say here."""
        sending = asyncio.create_task(self._send(socket, tab, role))
        hearing = asyncio.create_task(self._hear(socket))
        try:
            await asyncio.wait({sending, hearing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, hearing):
                task.cancel()
            for result in await asyncio.gather(sending, hearing, return_exceptions=True):
                gone = (asyncio.CancelledError, WebSocketDisconnect, RuntimeError, OSError)
                if isinstance(result, BaseException) and not isinstance(result, gone):
                    log.error("page.stream_failed", error=str(result), kind=type(result).__name__)

    async def _send(self, socket: WebSocket, tab: Tab, role: Role) -> None:
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    messages = await tab.take(self._picture.now, role)
            except TimeoutError:
                messages = [json.dumps({"now": self._picture.now()})]
            for message in messages:
                if isinstance(message, str):
                    await socket.send_text(message)
                else:
                    await socket.send_bytes(message)
            await asyncio.sleep(BETWEEN_S)

    async def _hear(self, socket: WebSocket) -> None:
        message = await socket.receive()
        if message["type"] != "websocket.disconnect":
            await quietly(lambda: socket.close(BAD_WORD, "nothing is expected here"))

    def _told_people(self) -> None:
        self._tabs.put(self._picture.people(*self._tabs.counts()))


def assets() -> dict[str, bytes]:
    """Read the files of the page, by name."""
    folder = files("parfocal.daemon.web") / "assets"
    return {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in TYPES}


def bearer(request: Request) -> str:
    """Return the token of a request; empty where it has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def limited(request: Request) -> bytes:
    """Read the body; raises `OverflowError` as soon as it is too large, `ValueError` where it breaks off."""
    said = request.headers.get("content-length", "0")
    if not said.isdigit() or int(said) > MAX_BODY_BYTES:
        raise OverflowError
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise OverflowError
    except ClientDisconnect:
        raise ValueError("broken off") from None
    return body


def problem(status: int, text: str) -> Response:
    """Return a refusal as JSON."""
    return JSONResponse({"outcome": "refused", "text": text}, status_code=status)


async def quietly(close: Callable[[], Any]) -> None:
    """Close a connection that may be gone already."""
    with suppress(RuntimeError, WebSocketDisconnect, OSError):
        await close()
