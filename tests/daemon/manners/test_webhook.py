"""Messages to a webhook: a real server that is slow, fails, redirects, never ends; and an address kept secret."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.check import checked, refuse_unusable
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.config_models import REDACTED, is_web_address
from parfocal.daemon.manners import webhook as module
from parfocal.daemon.manners.webhook import Webhook, WebhookError, webhook_url

SECRET = "T0/B0/verysecret"  # noqa: S105 - nobody's
Reply = Callable[[BaseHTTPRequestHandler], None]


class Hook:
    """A server; `replies` are used one by one, then everything is taken."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.asked: list[str] = []
        self.replies: list[Reply] = []
        self.release = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hook.asked.append(f"GET {self.path}")
                ok(self)

            def do_POST(self) -> None:
                hook.asked.append(f"POST {self.path}")
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.headers["Content-Type"] == "application/json"
                reply = hook.replies.pop(0) if hook.replies else ok
                if reply is ok:
                    hook.got.append(json.loads(body))
                reply(self)

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # a client that hung up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/services/{SECRET}"
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


def ok(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b"ok")


def code(number: int, **headers: str) -> Reply:
    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(number)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return reply


def hangs_up(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)
        Endless.written += 65536


class Endless:
    """How much of an answer without end was taken."""

    written = 0


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Hook()
    yield made
    made.close()


def sent(hook: Hook, *messages: Any, pauses_s: tuple[float, ...] = (0.0, 0.0), **more: Any) -> list[dict[str, Any]]:
    """Send messages and return what was logged meanwhile."""
    made = Webhook(hook.url, pauses_s=pauses_s, **more)
    with structlog.testing.capture_logs() as logs:
        for message in messages:
            made.send(message)
        made.close(60.0)
    assert SECRET not in repr(logs)
    return list(logs)


def test_messages_arrive_in_order_as_json(hook: Hook) -> None:
    messages = [{"text": f"número {n}", "kind": "x"} for n in range(5)]
    assert sent(hook, *messages) == []
    assert hook.got == messages


@pytest.mark.parametrize("reply", [code(500), code(503), code(429), code(408), hangs_up])
def test_what_may_pass_is_tried_again(hook: Hook, reply: Reply) -> None:
    made = Webhook(hook.url, pauses_s=(0.0, 0.0))
    hook.replies = [reply, reply]
    with structlog.testing.capture_logs() as logs:
        made.send({"text": "a"})
        until(lambda: made.sent == 1)
        made.close()
    assert hook.got == [{"text": "a"}]
    assert [one["event"] for one in logs] == ["alerts.again"] * 2
    assert SECRET not in repr(logs)


def until(holds: Callable[[], bool]) -> None:
    done = threading.Event()
    for _ in range(6000):
        if holds():
            return
        done.wait(0.01)
    raise AssertionError("it never came to that")


@pytest.mark.parametrize("number", [400, 401, 403, 404, 410])
def test_what_will_not_pass_is_given_up_at_once_and_the_next_message_goes_out(hook: Hook, number: int) -> None:
    hook.replies = [code(number)]
    logs = sent(hook, {"text": "a", "kind": "hold"}, {"text": "b"})
    assert hook.got == [{"text": "b"}]
    assert [(one["event"], one["why"], one["what"]) for one in logs] == [("alerts.not_sent", f"HTTP {number}", "hold")]


def test_given_up_after_so_many_attempts(hook: Hook) -> None:
    made = Webhook(hook.url, pauses_s=(0.0, 0.0))
    hook.replies = [code(500)] * 3
    with structlog.testing.capture_logs():
        made.send({"text": "a"})
        until(lambda: made.lost == 1)
        made.close()
    assert hook.got == []
    assert len(hook.asked) == 3


@pytest.mark.parametrize("number", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(hook: Hook, number: int) -> None:
    hook.replies = [code(number, Location="/elsewhere")]
    (logged,) = sent(hook, {"text": "a"})
    assert "redirects" in logged["why"]
    assert hook.asked == [f"POST /services/{SECRET}"]


def test_an_endless_answer_is_not_read_to_its_end(hook: Hook) -> None:
    hook.replies = [endless]
    made = Webhook(hook.url)
    Endless.written = 0
    made.deliver({"text": "a"})  # returns at all
    until(lambda: hook.asked == [f"POST /services/{SECRET}"])
    assert Endless.written < 50 << 20, "what the sockets hold, and no more"


def test_a_server_that_says_nothing_is_left(hook: Hook) -> None:
    hook.replies = [lambda handler: bool(hook.release.wait(60)) and None]
    with pytest.raises(WebhookError, match="timed out") as caught:
        Webhook(hook.url, timeout_s=0.05).deliver({"text": "a"})
    assert caught.value.again


def test_sending_never_waits_and_what_is_too_much_is_counted(hook: Hook) -> None:
    hook.replies = [lambda handler: bool(hook.release.wait(60)) and None]
    made = Webhook(hook.url, timeout_s=60)
    with structlog.testing.capture_logs() as logs:
        made.send({"n": -1})
        until(lambda: len(hook.asked) == 1)  # it is busy with the first now
        for n in range(module.MOST_WAITING + 5):
            made.send({"n": n})
        assert made.lost == 5
        made.close(patience_s=0.05)  # and the end of a run does not wait for it either
    assert {one["event"] for one in logs} == {"alerts.too_many", "alerts.unsent"}


def test_at_the_end_a_pause_is_cut_short(hook: Hook) -> None:
    hook.replies = [code(500)]
    made = Webhook(hook.url, pauses_s=(3600.0,))
    with structlog.testing.capture_logs():
        made.send({"text": "a"})
        until(lambda: len(hook.asked) == 1)
        made.close(60.0)
    assert hook.got == [{"text": "a"}]


def test_nobody_listens_and_the_reason_has_no_secret(hook: Hook) -> None:
    url = hook.url
    hook.close()
    with pytest.raises(WebhookError) as caught:
        Webhook(url).deliver({"text": "a"})
    assert "refused" in str(caught.value)
    assert SECRET not in str(caught.value)
    hook.__init__()  # type: ignore[misc]  # for the fixture to close


@given(st.text(max_size=60))
def test_no_error_says_the_address(text: str) -> None:
    url = f"https://example.org/{SECRET}?key={SECRET}"
    assert SECRET not in Webhook(url)._clean(f"{text} {url} {text} /{SECRET}?key={SECRET}")


# -- where the address comes from ---------------------------------------------------------------------------------


def config_with(webhook: str) -> Any:
    return load_config(None, [f"alerts.webhook='{webhook}'"])


def test_from_the_environment_a_file_or_itself(tmp_path: Path) -> None:
    url = f"https://example.org/{SECRET}"
    assert webhook_url(config_with("env:HOOK"), {"HOOK": f" {url}\n"}) == url
    (tmp_path / "hook").write_text(f"{url}\nsecond line\n")
    assert webhook_url(config_with(f"file:{tmp_path / 'hook'}")) == url
    assert webhook_url(config_with(url)) == url
    (tmp_path / "my.yaml").write_text("microscope: {driver: simulated}\nalerts: {webhook: 'file:hook'}\n")
    assert webhook_url(load_config(tmp_path / "my.yaml")) == url  # relative to the configuration


@pytest.mark.parametrize(
    ("webhook", "words"),
    [
        ("env:HOOK", "HOOK is not set"),
        ("env:WRONG", "no address that starts with"),
        ("file:/nowhere/hook", "cannot be read"),
        (REDACTED, "without the secret"),
    ],
)
def test_an_address_that_cannot_be_had_is_said_before_anything_starts(
    webhook: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK", raising=False)
    monkeypatch.setenv("WRONG", f"ftp://{SECRET}")
    with pytest.raises(ConfigError, match=words) as caught:
        refuse_unusable(config_with(webhook))
    assert SECRET not in str(caught.value)
    (problem,) = checked(None, [f"alerts.webhook={webhook}"]).problems
    assert words in problem


@pytest.mark.parametrize("webhook", [f"ftp://x/{SECRET}", SECRET, f"https:///{SECRET}", f"https://x:port/{SECRET}"])
def test_no_message_about_a_wrong_address_repeats_it(tmp_path: Path, webhook: str) -> None:
    path = tmp_path / "my.yaml"
    path.write_text(f'microscope: {{driver: simulated}}\nalerts: {{webhook: "{webhook}"}}\n')
    for load in (lambda: load_config(path), lambda: load_config(None, [f"alerts.webhook={webhook}"])):
        with pytest.raises(ConfigError, match=r"alerts\.webhook: must be env:NAME") as caught:
            load()
        assert SECRET not in str(caught.value)


def test_a_wrong_neighbour_does_not_give_it_away(tmp_path: Path) -> None:
    for override in (f"alerts={{webhook: https://x/{SECRET}, dose_share: 7}}", f"alerts.webhook=[{SECRET}]"):
        with pytest.raises(ConfigError) as caught:
            load_config(None, [override])
        assert SECRET not in str(caught.value)


def test_the_copy_in_the_session_has_references_but_no_secret() -> None:
    content = config_with(f"https://example.org/{SECRET}").to_json()
    assert SECRET not in yaml.safe_dump(content)
    assert content["alerts"]["webhook"] == REDACTED
    assert config_with("env:HOOK").to_json()["alerts"]["webhook"] == "env:HOOK"
    assert SECRET not in repr(config_with(f"https://example.org/{SECRET}"))
    assert load_config(None, [f"alerts.webhook={REDACTED}"]).alerts is not None  # a replay can read the copy


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_not(text: str) -> None:
    if is_web_address(text):
        assert text.lower().startswith(("http://", "https://"))
