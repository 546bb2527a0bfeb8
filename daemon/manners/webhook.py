"""Messages to a webhook: JSON by POST from a thread of its own, tried again, and never with the address in a log.

Whoever knows the address of a webhook can write to its channel. It stands in the configuration as ``env:NAME`` or
``file:PATH``, or as itself; then the copy in the session's folder does not have it.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from parfocal.daemon.config_lines import ConfigError
from parfocal.daemon.config_models import REDACTED, is_web_address

if TYPE_CHECKING:
    from parfocal.daemon.config import Config

log = structlog.get_logger()
MOST_WAITING = 64
MOST_ANSWER_BYTES = 4096
MOST_ADDRESS_BYTES = 4096
PAUSES_S = (1.0, 5.0, 25.0)
"""Between one attempt and the next; then a message is given up, and that is logged."""


class WebhookError(Exception):
    """A message was not taken; `again`: it may be, later."""

    def __init__(self, why: str, *, again: bool) -> None:
        super().__init__(why)
        self.again = again


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows nobody: urllib would turn the message into a GET, and tell another server what it was meant for."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Webhook:
    """Sends messages, one after the other, in the order in which they came.

    Parameters
    ----------
    url : str
        Starts with ``https://`` or ``http://``.
    timeout_s : float
        For every wait on the network.
    pauses_s : sequence of float
        Between attempts.
    """

    def __init__(self, url: str, *, timeout_s: float = 10.0, pauses_s: tuple[float, ...] = PAUSES_S) -> None:
        self._url, self._timeout_s, self._pauses_s = url, timeout_s, pauses_s
        self.host = urlsplit(url).hostname or ""
        self._opener = urllib.request.build_opener(_NoRedirect)
        self._waiting: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._closing, self._given_up = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        self.sent = self.lost = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a message some time soon; never waits, and loses it only where dozens wait already."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="alerts-webhook", daemon=True)
            self._thread.start()
        if self._waiting.qsize() >= MOST_WAITING:
            self.lost += 1
            log.warning("alerts.too_many", waiting=MOST_WAITING, lost=self.lost)
            return
        self._waiting.put(message)

    def deliver(self, message: Mapping[str, Any]) -> None:
        """Send a message now, once.

        Raises
        ------
        WebhookError
            It was not taken.
        """
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._url, json.dumps(message, allow_nan=False).encode(), {"Content-Type": "application/json"}
        )
        try:
            with self._opener.open(request, timeout=self._timeout_s) as response:
                response.read(MOST_ANSWER_BYTES)  # what it says does not matter, and it may say a lot
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error.code) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise WebhookError(self._clean(f"{type(error).__name__}: {reason}"), again=True) from None

    def close(self, patience_s: float = 10.0) -> None:
        """Send what still waits, but wait no longer than this; what is left then is lost, and logged. Idempotent."""
        if self._thread is None:
            return
        self._closing.set()
        self._waiting.put(None)
        self._thread.join(patience_s)
        if self._thread.is_alive():
            self._given_up.set()
            log.warning("alerts.unsent", host=self.host, waited_s=patience_s)
        self._thread = None

    def _run(self) -> None:
        while (message := self._waiting.get()) is not None and not self._given_up.is_set():
            if self._persist(message):
                self.sent += 1
            else:
                self.lost += 1

    def _persist(self, message: Mapping[str, Any]) -> bool:
        """Try until it is taken or there is no more sense in it; at the end of the run once more, without a pause."""
        pauses = iter(self._pauses_s)
        while True:
            last = self._closing.is_set()
            try:
                self.deliver(message)
            except WebhookError as error:
                pause_s = next(pauses, None)
                if last or pause_s is None or not error.again:
                    log.warning("alerts.not_sent", host=self.host, why=str(error), what=message.get("kind"))
                    return False
                log.info("alerts.again", host=self.host, why=str(error), in_s=pause_s)
                self._closing.wait(pause_s)
            else:
                return True

    def _clean(self, text: str) -> str:
        """Take the address out of what an error says: most of it is the secret."""
        parts = urlsplit(self._url)
        for secret in (self._url, f"{parts.path}?{parts.query}", parts.path, parts.query):
            if len(secret) > 1:
                text = text.replace(secret, "...")
        return text


def _refused(code: int) -> WebhookError:
    if 300 <= code < 400:
        return WebhookError(f"it redirects (HTTP {code}): give the address that it points to", again=False)
    return WebhookError(f"HTTP {code}", again=code >= 500 or code in (408, 429))


def webhook_url(config: Config, environ: Mapping[str, str] | None = None) -> str:
    """Return where the alerts of a configuration go.

    Raises
    ------
    ConfigError
        The variable or file that holds it is not there, or holds no address. No message ever has the address itself.
    """
    section = config.alerts
    if section is None:
        raise ConfigError(f"{config.source}: there is no section alerts")
    given, where = section.webhook, config.where("alerts", "webhook")
    if given == REDACTED:
        raise ConfigError(
            f"{where}: this is the copy of a session's configuration, without the secret address; "
            "give it again, best as env:NAME or file:PATH"
        )
    kind, _, name = given.partition(":")
    if kind == "env":
        text = (os.environ if environ is None else environ).get(name, "")
        if not text.strip():
            raise ConfigError(f"{where}: the environment variable {name} is not set, or empty")
    elif kind == "file":
        text = _first_line(Path(name), where)
    else:
        return given
    if not is_web_address(text.strip()):
        raise ConfigError(f"{where}: what {given} holds is no address that starts with https:// (or http://)")
    return text.strip()


def _first_line(path: Path, where: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(MOST_ADDRESS_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "is not text"
        raise ConfigError(f"{where}: {path}: cannot be read ({why})") from None
