"""A run's side of the page: it starts the page's process, says what becomes of it, and starts it again if it dies."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import structlog

from parfocal.daemon.web.errors import PageError
from parfocal.daemon.web.security import Tokens, write_tokens
from parfocal.daemon.web.serving import doorstep, links_path, listening

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.daemon.service.server import Service

log = structlog.get_logger()
MOST_STARTS, PAUSE_S, FAREWELL_S = 5, 1.0, 6.0


class PageProcess:
    """The page's process.

    Its interpreter lock, its memory and its crashes are its own: nothing of it reaches the loop.

    Parameters
    ----------
    bind : str
        ``127.0.0.1:PORT``.
    address, publish : str
        Of the daemon's service.
    key : str, optional
        Secret key file, where the service asks for one.
    show : bool
        Open the page in a browser.

    Raises
    ------
    PageError, PageAddressTakenError
        Nothing can be served at this address.
    """

    def __init__(self, bind: str, address: str, publish: str, *, key: str | None = None, show: bool = False) -> None:
        self._sock = ExitStack()
        # Opened here: what is wrong with the address is said to a person who waits, and whoever opens the page before
        # its process is there, or while it starts again, waits a moment instead of being turned away.
        sock = self._sock.enter_context(listening(bind))
        host, port = sock.getsockname()[:2]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.tokens, self._links, self._show = Tokens.new(), links_path(port), show
        write_tokens(self._links, self.tokens, self.address)
        self._command = [
            sys.executable, "-m", "parfocal.daemon.web", "--bind", f"{host}:{port}", "--links", str(self._links),
            "--address", address, "--publish", publish, *(["--key", key] if key else []),
        ]  # fmt: skip
        self._fds = () if sys.platform == "win32" else (sock.fileno(),)
        if self._fds:
            self._command += ["--fd", str(sock.fileno())]
        else:
            self._sock.close()  # there a process cannot inherit it so simply: it opens its own
        self._process: subprocess.Popen[str] | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="page", daemon=True)
        self._thread.start()

    @property
    def link(self) -> str:
        """What a person opens to operate."""
        return self.tokens.link(self.address, "operate")

    def close(self) -> None:
        """Let the browsers hear how it ended, and end the process. Idempotent."""
        self._closing.set()
        self._end_input()
        self._thread.join(FAREWELL_S)
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()
        self._sock.close()
        for path in (self._links, doorstep(self._links)):
            with contextlib.suppress(OSError):
                path.unlink()

    def _end_input(self) -> None:
        process = self._process
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()

    def _keep(self) -> None:
        """Start the process, pass on what it says, start it again if it ends by itself; in a thread of its own."""
        for attempt in range(MOST_STARTS):
            if self._closing.is_set():
                return
            command = [*self._command, *(["--show"] if self._show and not attempt else [])]
            try:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                    command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                    errors="replace", start_new_session=True, pass_fds=self._fds,
                    env=os.environ | {"PYTHONUNBUFFERED": "1"},
                )  # fmt: skip
            except OSError as error:
                log.warning("page.not_started", error=str(error))
                return
            self._process = process
            with process:
                if self._closing.is_set():
                    self._end_input()
                self._listen(process)
                code = process.wait()
            if self._closing.is_set():
                return
            log.warning("page.ended", code=code, starts_again=attempt + 1 < MOST_STARTS)
            self._closing.wait(PAUSE_S)
        self._sock.close()  # whoever still tries is turned away

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Pass the process' log records on."""
        assert process.stderr is not None  # noqa: S101 - for the type checker
        for line in process.stderr:
            try:
                record: dict[str, Any] = json.loads(line)
                level, event = str(record.pop("level", "warning")), str(record.pop("event", line))
                record.pop("timestamp", None)
            except (ValueError, AttributeError):
                level, event, record = "warning", "page.says", {"text": line.rstrip()}
            passed_on = log.warning if level in ("warning", "error", "critical") else log.info
            passed_on(event, **{str(name): value for name, value in record.items()})


@contextmanager
def page_of(config: Config, service: Service | None) -> Iterator[PageProcess | None]:
    """Serve the page that a configuration asks for, for as long as the block lasts; `None`: it asks for none.

    Raises
    ------
    PageError
        There is no service that the page could follow, or it needs a key.
    PageAddressTakenError
        Another program listens at its address.
    """
    section = config.web
    if section is None:
        yield None
        return
    if service is None:
        raise PageError(f"{config.where('web')}: the page needs the service; leave service.enabled at true")
    if config.service is not None and config.service.keys and section.key is None:
        raise PageError(
            f"{config.where('web')}: the service lets nobody in without a key; give web.key, the secret key file of "
            "the page (`parfocal keys new page --role operate`)"
        )
    try:
        page = PageProcess(section.bind, service.address, service.publish, key=section.key, show=section.open)
    except PageError as error:
        raise type(error)(f"{config.where('web', 'bind')}: {error}") from None
    try:
        yield page
    finally:
        page.close()
