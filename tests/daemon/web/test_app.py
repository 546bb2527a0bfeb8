"""The page's server: what it answers to whom, and what it passes on; with a bridge that only remembers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from parfocal.daemon.web import app as module
from parfocal.daemon.web.app import BAD_WORD, MAX_BODY_BYTES, NO_TOKEN, TOO_MANY, Page, assets
from parfocal.daemon.web.security import Tokens
from parfocal.daemon.web.state import Picture
from parfocal.daemon.web.tabs import MOST, Tabs

TOKENS = Tokens("operate-token", "observe-token")
HOST = ("host", "127.0.0.1:8570")
OPERATE, OBSERVE = ("authorization", "Bearer operate-token"), ("authorization", "Bearer observe-token")
JSON = ("content-type", "application/json")


class Remembering:
    """A bridge that leads nowhere."""

    def __init__(self) -> None:
        self.orders: list[tuple[str, str, str]] = []
        self.outcome = ("done", "as you wish")

    async def watch(self) -> None:
        await asyncio.sleep(3600)

    async def order(self, command: str, reason: str, who: str) -> tuple[str, str]:
        self.orders.append((command, reason, who))
        return self.outcome


class Served:
    """The application, called as a server would call it."""

    def __init__(self) -> None:
        self.bridge, self.picture = Remembering(), Picture()
        self.tabs = Tabs(self.picture.snapshot)
        self.app = Page(TOKENS, self.picture, self.tabs, self.bridge).app()  # type: ignore[arg-type]

    def ask(
        self, method: str, path: str, *headers: tuple[str, str], parts: tuple[bytes, ...] = ()
    ) -> tuple[int, bytes]:
        status, body, _ = self.asked(method, path, *headers, parts=parts)
        return status, body

    def asked(self, method: str, path: str, *headers: tuple[str, str], parts: tuple[bytes, ...] = ()) -> Any:
        raw = [(name.encode(), value.encode()) for name, value in headers]
        scope = {
            "type": "http", "http_version": "1.1", "method": method, "path": path, "query_string": b"", "headers": raw,
            "raw_path": path.encode(), "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8570), "scheme": "http",
            "root_path": "",
        }  # fmt: skip
        bodies = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
        bodies.append({"type": "http.request", "body": b"", "more_body": False})
        sent: list[dict[str, Any]] = []

        async def receive() -> Any:
            return bodies.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.app(scope, receive, send))
        self.unread = len(bodies)
        body = b"".join(one.get("body", b"") for one in sent)
        return sent[0]["status"], body, {name.decode(): value.decode() for name, value in sent[0]["headers"]}

    def command(self, body: Any, *headers: tuple[str, str]) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, said = self.ask("POST", "/command", HOST, JSON, *(headers or (OPERATE,)), parts=(data,))
        return status, json.loads(said)

    def stream(self, *words: Any, host: str = "127.0.0.1:8570", origin: str | None = None, until: int = 1) -> list[Any]:
        """Open a stream, say words, wait for so many answers or its end, leave."""
        headers = [(b"host", host.encode()), *([(b"origin", origin.encode())] if origin else [])]
        scope = {
            "type": "websocket", "path": "/stream", "raw_path": b"/stream", "query_string": b"", "headers": headers,
            "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8570), "scheme": "ws", "root_path": "",
            "subprotocols": [],
        }  # fmt: skip
        sent: list[Any] = []

        async def talk() -> None:
            incoming: asyncio.Queue[Any] = asyncio.Queue()
            for message in ({"type": "websocket.connect"}, *words):
                incoming.put_nowait(message)
            over = asyncio.Event()

            async def send(message: Any) -> None:
                sent.append(message)
                answers = sum(one["type"] == "websocket.send" for one in sent)
                if answers >= until or message["type"] == "websocket.close":
                    over.set()

            async def leave() -> None:
                await over.wait()
                incoming.put_nowait({"type": "websocket.disconnect", "code": 1001})

            leaving = asyncio.create_task(leave())
            async with asyncio.timeout(20):
                await self.app(scope, incoming.get, send)
            leaving.cancel()

        asyncio.run(talk())
        return sent


@pytest.fixture
def served() -> Iterator[Served]:
    yield Served()


def word(text: str) -> dict[str, Any]:
    return {"type": "websocket.receive", "text": text}


def test_the_page_and_all_that_it_names_are_there(served: Served) -> None:
    status, body = served.ask("GET", "/", HOST)
    assert status == 200
    names = [part.split(b'"')[0].decode() for part in body.split(b'="/assets/')[1:]]
    assert len(names) >= 3
    for name in names:
        assert served.ask("GET", f"/assets/{name}", HOST)[0] == 200


def test_modules_import_only_what_is_there_and_nothing_comes_from_elsewhere() -> None:
    found = assets()
    for name, content in found.items():
        text = content.decode()
        for line in text.splitlines():
            if line.startswith("import "):
                assert line.rstrip(";").split('"')[-2].removeprefix("./") in found, (name, line)
        elsewhere = text.replace("http://www.w3.org/2000/svg", "").replace("ws://${location.host}", "")
        assert "://" not in elsewhere, name
        assert "innerHTML" not in text and "eval(" not in text, name
    page = found["index.html"].decode()
    assert " style=" not in page and "onclick" not in page and "<script>" not in page, "the policy forbids them"


@pytest.mark.parametrize(
    "path", ["/assets/none.js", "/assets/", "/assets/../app.py", "/assets/%2e%2e/app.py", "/app.py"]
)
def test_nothing_else_can_be_read(served: Served, path: str) -> None:
    assert served.ask("GET", path, HOST)[0] == 404


@pytest.mark.parametrize("name", ["pause", "resume", "snap", "stop", "safe"])
def test_whoever_may_operate_gives_commands(served: Served, name: str) -> None:
    status, said = served.command({"command": name, "reason": "lunch"})
    assert (status, said) == (200, {"outcome": "done", "text": "as you wish"})
    assert served.bridge.orders == [(name, "lunch", "the web page")]


@pytest.mark.parametrize(("outcome", "status"), [("refused", 409), ("no_answer", 504)])
def test_what_the_daemon_says_no_to_is_passed_back(served: Served, outcome: str, status: int) -> None:
    served.bridge.outcome = (outcome, "why")
    assert served.command({"command": "pause"}) == (status, {"outcome": outcome, "text": "why"})


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (OBSERVE, 403),
        (("authorization", "Bearer "), 401),
        (("authorization", "Bearer wrong"), 401),
        (("authorization", "Basic operate-token"), 401),
        (("authorization", "operate-token"), 401),
        (("cookie", "token=operate-token"), 401),
    ],
)
def test_whoever_may_not_gives_none(served: Served, header: tuple[str, str], status: int) -> None:
    assert served.command({"command": "safe"}, header)[0] == status
    assert served.bridge.orders == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b'"safe"', b"{}", b"\xff\xfe", b"[" * 2000,
        {"command": "format"}, {"command": ["safe"]}, {"command": "safe", "more": 1}, {"command": "safe", "reason": 3},
        {"command": "safe\n"}, {"command": "pause", "reason": "x" * 201}, {"command": "pause", "reason": "a\x00b"},
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(served: Served, body: Any) -> None:
    assert served.command(body)[0] == 400
    assert served.bridge.orders == []


def test_other_forms_than_json_are_refused(served: Served) -> None:
    form = ("content-type", "application/x-www-form-urlencoded")
    assert served.ask("POST", "/command", HOST, OPERATE, form, parts=(b'{"command":"safe"}',))[0] == 415
    assert served.ask("GET", "/command", HOST, OPERATE)[0] == 405


def test_a_large_body_is_refused_before_it_is_read(served: Served) -> None:
    large = ("content-length", str(MAX_BODY_BYTES + 1))
    assert served.ask("POST", "/command", HOST, JSON, OPERATE, large, parts=(b"x",) * 5)[0] == 413
    assert served.unread == 6
    assert served.ask("POST", "/command", HOST, JSON, OPERATE, parts=(b"x" * 1000,) * 50)[0] == 413
    assert served.unread > 40, "it stops reading at the limit, whatever the length is said to be"
    assert served.ask("POST", "/command", HOST, JSON, OPERATE, ("content-length", "-1"), parts=(b"",))[0] == 413


@pytest.mark.parametrize("header", [("host", "evil.example:8570"), ("origin", "http://evil.example")])
def test_other_sites_reach_nothing(served: Served, header: tuple[str, str]) -> None:
    first = () if header[0] == "host" else (HOST,)
    for method, path in (("GET", "/"), ("GET", "/assets/main.js"), ("POST", "/command")):
        status, _, found = served.asked(method, path, *first, header, JSON, OPERATE, parts=(b'{"command":"safe"}',))
        assert status == 403
        assert not any(name.startswith("access-control") for name in found)
    assert served.bridge.orders == []


@pytest.mark.parametrize(("token", "role"), [("operate-token", "operate"), ("observe-token", "observe")])
def test_a_stream_begins_with_everything_and_says_as_whom(served: Served, token: str, role: str) -> None:
    sent = served.stream(word(token))
    assert [one["type"] for one in sent[:2]] == ["websocket.accept", "websocket.send"]
    first = json.loads(sent[1]["text"])
    assert first["reset"] is True and first["role"] == role and first["rows"] == []
    assert first["people"] == {"operate": int(role == "operate"), "observe": int(role == "observe")}
    assert served.tabs.counts() == (0, 0), "it left"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ((word("wrong"),), NO_TOKEN),
        ((word(""),), NO_TOKEN),
        (({"type": "websocket.receive", "bytes": b"operate-token"},), BAD_WORD),
    ],
)
def test_a_stream_without_a_token_says_nothing(served: Served, words: Any, code: int) -> None:
    sent = served.stream(*words)
    assert [one["type"] for one in sent] == ["websocket.accept", "websocket.close"]
    assert sent[1]["code"] == code


def test_a_stream_that_says_nothing_is_closed(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_WORD_S", 0.05)
    assert served.stream()[-1]["code"] == BAD_WORD


def test_a_stream_from_another_site_is_not_even_accepted(served: Served) -> None:
    for changes in ({"origin": "http://evil.example"}, {"host": "evil.example"}, {"origin": "http://127.0.0.1:1"}):
        sent = served.stream(word("operate-token"), **changes)  # type: ignore[arg-type]
        assert [one["type"] for one in sent] == ["websocket.close"]


def test_too_many_pages_are_turned_away(served: Served) -> None:
    for _ in range(MOST):
        served.tabs.join("observe", None)
    assert served.stream(word("operate-token"))[-1]["code"] == TOO_MANY


def test_whoever_talks_on_a_stream_is_cut_off(served: Served) -> None:
    sent = served.stream(word("operate-token"), word("safe"), until=99)
    assert sent[-1]["type"] == "websocket.close"
    assert served.bridge.orders == []


def test_silence_is_said_to_be_silence(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_S", 0.02)
    sent = [json.loads(one["text"]) for one in served.stream(word("observe-token"), until=5) if "text" in one]
    assert list(sent[-1]) == ["now"]
