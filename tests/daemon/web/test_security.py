"""Who may see the page: only this computer, only by its own names, only with a token, and never from another site."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon.web.errors import PageError
from parfocal.daemon.web.security import HEADERS, Doorkeeper, Tokens, read_tokens, refusal, split_bind, write_tokens

posix = pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")


def headers(**named: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode()) for name, value in named.items()]


@pytest.mark.parametrize(
    "said",
    [
        headers(host="127.0.0.1:8570"),
        headers(host="localhost:8570"),
        headers(host="[::1]:8570"),
        headers(host="localhost"),
        headers(host="127.0.0.1:9999"),  # the near end of a tunnel
        headers(host="127.0.0.1:8570", origin="http://127.0.0.1:8570", sec_fetch_site="same-origin"),
        headers(host="LOCALHOST:8570", origin="http://localhost:8570"),
        headers(host="127.0.0.1:8570", sec_fetch_site="none"),  # typed by a person
    ],
)
def test_our_own_page_is_let_in(said: list[tuple[bytes, bytes]]) -> None:
    assert refusal(said) == ""


@pytest.mark.parametrize(
    "said",
    [
        [],
        headers(host="evil.example"),
        headers(host="evil.example:8570"),  # a name that was made to point here
        headers(host="127.0.0.1.evil.example:8570"),
        headers(host="127.0.0.1:8570@evil.example"),
        headers(host="192.168.0.7:8570"),
        headers(host="0.0.0.0:8570"),
        headers(host=""),
        headers(host="127.0.0.1:"),
        headers(host="127.0.0.1:80x"),
        [*headers(host="127.0.0.1:8570"), *headers(host="evil.example")],
        headers(host="127.0.0.1:8570", origin="http://evil.example"),
        headers(host="127.0.0.1:8570", origin="http://127.0.0.1:9999"),  # another program of this computer
        headers(host="127.0.0.1:8570", origin="http://localhost:8570"),
        headers(host="127.0.0.1:8570", origin="https://127.0.0.1:8570"),
        headers(host="127.0.0.1:8570", origin="null"),
        headers(host="127.0.0.1:8570", sec_fetch_site="cross-site"),
        headers(host="127.0.0.1:8570", sec_fetch_site="same-site"),
    ],
)
def test_everybody_else_is_refused_with_a_reason(said: list[tuple[bytes, bytes]]) -> None:
    assert refusal(said)


def test_tokens_know_their_roles() -> None:
    tokens = Tokens.new()
    assert tokens.role(tokens.operate) == "operate"
    assert tokens.role(tokens.observe) == "observe"
    for other in ("", "x", tokens.operate[:-1], tokens.operate + "x", tokens.operate.swapcase(), "\ud800"):
        assert tokens.role(other) is None
    assert len({tokens.operate, tokens.observe, Tokens.new().operate}) == 3
    assert len(tokens.operate) >= 43  # 256 bits


@posix
def test_links_lie_in_a_file_of_their_owner_alone(tmp_path: Path) -> None:
    path, tokens = tmp_path / "sub" / "page.json", Tokens.new()
    write_tokens(path, tokens, "http://127.0.0.1:8570")
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert read_tokens(path) == (tokens, "http://127.0.0.1:8570")
    write_tokens(path, Tokens.new(), "http://127.0.0.1:8570")
    assert read_tokens(path)[0] != tokens
    assert os.listdir(path.parent) == ["page.json"]
    path.chmod(0o640)
    with pytest.raises(PageError, match="others can read"):
        read_tokens(path)


@pytest.mark.parametrize("text", ["", "[]", "null", "{}", '{"tokens": 3}', '{"tokens": {"operate": "a"}}'])
def test_what_is_no_file_of_links_is_said_to_be_none(tmp_path: Path, text: str) -> None:
    path = tmp_path / "page.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(PageError, match=re.escape(str(path))):
        read_tokens(path)
    with pytest.raises(PageError, match="parfocal web"):
        read_tokens(tmp_path / "none.json")


@pytest.mark.parametrize("bind", ["127.0.0.1:8570", "localhost:1", "[::1]:8570", "127.8.9.1:0"])
def test_it_is_served_on_this_computer(bind: str) -> None:
    host, port = split_bind(bind)
    assert bind.endswith(f":{port}") and "[" not in host


@pytest.mark.parametrize("bind", ["0.0.0.0:8570", "192.168.0.7:8570", "scope-pc:8570", "[::]:8570"])
def test_other_computers_are_sent_through_a_tunnel(bind: str) -> None:
    with pytest.raises(PageError, match="ssh -L 8570"):
        split_bind(bind)


@pytest.mark.parametrize("bind", ["", "127.0.0.1", "127.0.0.1:", ":8570", "127.0.0.1:x", "127.0.0.1:70000"])
def test_what_is_no_address_is_said_to_be_none(bind: str) -> None:
    with pytest.raises(PageError, match=re.escape("reads 127.0.0.1:PORT")):
        split_bind(bind)


def passed(kind: str, said: list[tuple[bytes, bytes]]) -> tuple[list[str], list[dict[str, Any]]]:
    """Send one request through the doorkeeper; return what came in behind it, and what went out."""
    behind: list[str] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        behind.append(scope["type"])
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(Doorkeeper(app)({"type": kind, "headers": said}, receive, send))
    return behind, sent


def test_the_doorkeeper_lets_strangers_see_nothing() -> None:
    behind, sent = passed("http", headers(host="evil.example"))
    assert behind == [] and sent[0]["status"] == 403
    behind, sent = passed("websocket", headers(host="127.0.0.1:8570", origin="http://evil.example"))
    assert behind == [] and sent[0]["type"] == "websocket.close"


@pytest.mark.parametrize("host", ["127.0.0.1:8570", "evil.example"])
def test_every_answer_forbids_what_the_page_does_not_need(host: str) -> None:
    _, sent = passed("http", headers(host=host))
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    assert {name.lower(): value for name, value in HEADERS.items()}.items() <= found.items()
    policy = found["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy and "*" not in policy
    assert not any(name.startswith("access-control") for name in found)
