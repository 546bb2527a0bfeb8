"""Who may see the page and who may press its buttons: tokens, Host and Origin, and what a browser is told to forbid.

There is no cookie: cookies do not know ports, and would be sent to whatever else listens on this computer. The token
comes in the fragment of the link, which no browser sends or logs, and goes out in a header or a message, so that no
other site can make use of it.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from parfocal.daemon.web.errors import PageError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

Role = Literal["observe", "operate"]
FORMAT = "parfocal.page/1"
NAMES = frozenset({"127.0.0.1", "localhost", "[::1]"})
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True)
class Tokens:
    """The two secrets: with one a person may look, with the other also press the buttons."""

    operate: str
    observe: str

    @classmethod
    def new(cls) -> Tokens:
        """Draw both."""
        return cls(secrets.token_urlsafe(32), secrets.token_urlsafe(32))

    def role(self, token: str) -> Role | None:
        """Return what a token allows; `None`: it is none of these."""
        given = token.encode("utf-8", "replace")
        found: Role | None = None
        for role in ("observe", "operate"):  # both are compared, so that the time taken says nothing
            if hmac.compare_digest(given, getattr(self, role).encode()):
                found = role
        return found

    def link(self, address: str, role: Role) -> str:
        """Return what a person opens in a browser."""
        return f"{address}/#token={getattr(self, role)}"


def write_tokens(path: Path, tokens: Tokens, address: str) -> None:
    """Write the links into a file that only its owner can read; an older file of that name is replaced.

    Raises
    ------
    PageError
        The file cannot be written.
    """
    content = {"format": FORMAT, "pid": os.getpid(), "address": address, "tokens": vars(tokens)}
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
        draft.replace(path)
    except OSError as error:
        raise PageError(f"{path}: the page's link cannot be written down ({error.strerror or error})") from error


def read_tokens(path: Path) -> tuple[Tokens, str]:
    """Read what `write_tokens` wrote: the tokens, and the page's address.

    Raises
    ------
    PageError
        There is none, it is none, or others than its owner can read it.
    """
    try:
        mode = path.stat().st_mode
        content = json.loads(path.read_text(encoding="utf-8"))
        tokens = Tokens(str(content["tokens"]["operate"]), str(content["tokens"]["observe"]))
        address, known = str(content["address"]), content["format"] == FORMAT
    except FileNotFoundError:
        raise PageError(f"{path}: no page is served at this port; `parfocal web` serves one") from None
    except (OSError, ValueError) as error:
        raise PageError(f"{path}: the page's links cannot be read ({error})") from None
    except (KeyError, TypeError):
        known = False
    if not known:
        raise PageError(f"{path}: is no file of a page's links")
    if sys.platform != "win32" and mode & 0o077:
        raise PageError(f"{path}: others can read these secrets; start the page again")
    return tokens, address


def split_bind(bind: str) -> tuple[str, int]:
    """Return host and port of an address to listen at.

    Raises
    ------
    PageError
        It is no address, or one that other computers can reach.
    """
    host, _, port = bind.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise PageError(f"{bind!r}: an address to serve the page at reads 127.0.0.1:PORT")
    if not is_loopback(host.strip("[]")):
        raise PageError(
            f"{bind}: the page is served on this computer only (127.0.0.1): it speaks plain HTTP, and whoever listens "
            f"on the way could read the link and drive the microscope. From another computer: ssh -L {port}:127.0.0.1:"
            f"{port} USER@THIS-COMPUTER, and open the same link there"
        )
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """Whether only this computer can reach a host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return why a request is refused by where it says it goes and comes from; empty: it is not.

    Any port is right: a tunnel may have another one at its near end. What a name that points here must not be is any
    other name: that is how a page of the internet would reach us (DNS rebinding).
    """
    hosts = [value.decode("latin-1").lower() for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return "a request names one host"
    host = hosts[0]
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    if not colon:
        name = host
    if name not in NAMES or (colon and not port.isdigit()):
        return "this page is served as 127.0.0.1 or localhost, and by no other name"
    for key, value in headers:
        text = value.decode("latin-1").lower()
        if key == b"origin" and text != f"http://{host}":
            return "this request comes from another site"
        if key == b"sec-fetch-site" and text not in ("same-origin", "none"):
            return "this request comes from another site"
    return ""


class Doorkeeper:
    """Refuses what comes from elsewhere, before anything else looks at it, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        reason = refusal(scope["headers"])
        if reason and scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        elif reason:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await _with_headers(send)({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"refused: {reason}\n".encode()})
        else:
            await self._app(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *ours]}
        await send(message)

    return sent
