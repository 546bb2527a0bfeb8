"""The page's own process: it listens on loopback, follows a daemon, and ends with whoever started it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from parfocal.daemon.lock import runtime_folder
from parfocal.daemon.web.errors import PageAddressTakenError, PageError
from parfocal.daemon.web.security import Tokens, read_tokens, split_bind, write_tokens

log = structlog.get_logger()
DEFAULT_BIND = "127.0.0.1:8570"
LAST_LOOK_S = 3.0
"""How long a page whose run has ended goes on, so that every browser hears how it ended."""

MAX_HEADER_BYTES = 16 * 1024


@dataclass(frozen=True)
class Serving:
    """What to serve, and where.

    Parameters
    ----------
    bind : str
        ``127.0.0.1:PORT``; port 0 takes any.
    address, publish, key
        Of the daemon; see `parfocal.daemon.client.Client`.
    show : bool
        Open the page in a browser.
    links : Path, optional
        The file with the links; by default one in the user's runtime folder, named after the port.
    child : bool
        Started by a run: ends when its standard input does.
    fd : int, optional
        A socket that listens at `bind` already, opened by whoever started this process.
    """

    bind: str = DEFAULT_BIND
    address: str | None = None
    publish: str | None = None
    key: Path | None = None
    show: bool = False
    links: Path | None = None
    child: bool = False
    fd: int | None = None


def serve(what: Serving, ready: Callable[[str, Tokens], None]) -> None:
    """Serve the page until interrupted; `ready` is called with its address once it can be opened.

    Raises
    ------
    PageError
        The address is no good, or the links cannot be written down.
    PageAddressTakenError
        Another program listens there.
    """
    with listening(what.bind) if what.fd is None else socket.socket(fileno=what.fd) as sock:
        host, port = sock.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        path = what.links or links_path(port)
        given = what.child and path.exists()
        tokens = read_tokens(path)[0] if given else Tokens.new()
        write_tokens(path, tokens, address)
        try:
            asyncio.run(_serve(what, sock, tokens, lambda: _ready(what, path, address, tokens, ready)))
        finally:
            if not what.child:
                with contextlib.suppress(OSError):
                    path.unlink()
                    doorstep(path).unlink(missing_ok=True)


def _ready(what: Serving, path: Path, address: str, tokens: Tokens, ready: Callable[[str, Tokens], None]) -> None:
    ready(address, tokens)
    if what.show:
        # The link is in a file rather than on the command line of the browser, which every user can read.
        write_private(doorstep(path), _DOORSTEP.format(link=tokens.link(address, "operate")))
        threading.Thread(target=webbrowser.open, args=(doorstep(path).as_uri(),), daemon=True).start()


_DOORSTEP = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0; url={link}">\n'


def doorstep(path: Path) -> Path:
    """Where the file lies that a browser is sent to, and that sends it on."""
    return path.with_suffix(".html")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read; raises `PageError`."""
    try:
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise PageError(f"{path}: cannot be written ({error.strerror or error})") from error


def links_path(port: int) -> Path:
    """Where the links of a page lie."""
    return runtime_folder() / f"page-{port}.json"


@contextlib.contextmanager
def listening(bind: str) -> Iterator[socket.socket]:
    """Listen at an address of this computer; raises `PageError` and `PageAddressTakenError`."""
    host, port = split_bind(bind)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        if sys.platform == "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
            sock.listen(128)
        except OSError as error:
            raise PageAddressTakenError(
                f"{bind}: the page cannot be served there ({error.strerror or error}): another page or program listens "
                "there already. Stop it, or give another port (--port, or --set web.bind=127.0.0.1:8580)"
            ) from None
        sock.setblocking(False)
        yield sock
    finally:
        sock.close()


async def _serve(what: Serving, sock: socket.socket, tokens: Tokens, ready: Callable[[], None]) -> None:
    import uvicorn

    from parfocal.daemon.web.app import Page
    from parfocal.daemon.web.bridge import Bridge, Daemon
    from parfocal.daemon.web.state import Picture
    from parfocal.daemon.web.tabs import Tabs

    picture = Picture()
    tabs = Tabs(picture.snapshot)
    bridge = Bridge(Daemon(what.address, what.publish, what.key), picture, tabs)
    config = uvicorn.Config(
        Page(tokens, picture, tabs, bridge).app(),
        loop="asyncio", http="h11", ws="websockets-sansio", lifespan="on", log_config=None, log_level="warning",
        access_log=False,
        proxy_headers=False, server_header=False, h11_max_incomplete_event_size=MAX_HEADER_BYTES, ws_max_size=4096,
        ws_per_message_deflate=False, timeout_keep_alive=5, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    if what.child:
        _end_with_parent(server, bridge.ended)
    serving = asyncio.create_task(server.serve(sockets=[sock]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    if server.started:
        ready()
    await serving


def _end_with_parent(server: Any, ended: asyncio.Event) -> None:
    """End once standard input does: the run is over, or was killed; but let the browsers hear the last event first."""
    loop = asyncio.get_running_loop()

    async def leave() -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), LAST_LOOK_S)
            await asyncio.sleep(0.5)
        server.should_exit = True

    def wait() -> None:
        with contextlib.suppress(OSError, ValueError):
            while sys.stdin.buffer.read(1024):
                pass
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(leave())))

    tasks: list[asyncio.Task[None]] = []
    threading.Thread(target=wait, name="parent", daemon=True).start()
