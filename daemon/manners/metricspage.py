"""The page of metrics: plain HTTP from threads of its own, read-only, on loopback unless somebody said otherwise."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import structlog
from prometheus_client import make_wsgi_app

from parfocal.daemon.manners.errors import MetricsAddressTakenError, MetricsError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

log = structlog.get_logger()
MOST_AT_ONCE = 8
SILENCE_S = 5.0
TEXT = (("Content-Type", "text/plain; charset=utf-8"),)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread a request, but never many: whoever holds connections open keeps others out, not the loop."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True

    def __init__(self, *args: Any, **more: Any) -> None:
        self._free = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(*args, **more)

    def server_bind(self) -> None:
        """Bind without the look-up of a name that wsgiref makes, which may take seconds without a network."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("metrics.request_failed", client=str(client_address))


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = SILENCE_S

    def log_message(self, format: str, *args: Any) -> None:
        log.debug("metrics.request", line=format % args)


def _only_metrics(
    inner: Callable[..., Iterable[bytes]], *, here_only: bool
) -> Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]:
    """Serve ``/metrics`` and nothing else; with `here_only` to none but those who ask for this computer by name.

    The latter is against web sites whose name is made to point here (DNS rebinding).
    """

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if here_only and not _means_here(str(environ.get("HTTP_HOST", ""))):
            start_response("403 Forbidden", [*TEXT])
            return [b"these metrics are served to this computer only\n"]
        if environ.get("REQUEST_METHOD") != "GET":
            start_response("405 Method Not Allowed", [*TEXT, ("Allow", "GET")])
            return [b"metrics can only be read\n"]
        if environ.get("PATH_INFO") != "/metrics":
            start_response("404 Not Found", [*TEXT])
            return [b"the metrics are at /metrics\n"]
        return inner(environ, start_response)

    return app


def _means_here(host: str) -> bool:
    name = host.partition("]")[0].strip("[") if host.startswith("[") else host.partition(":")[0]
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


class MetricsPage:
    """Serves a registry over HTTP.

    Parameters
    ----------
    registry : CollectorRegistry
    bind : str
        ``127.0.0.1:PORT``.
    here_only : bool
        Refuse requests that ask for another computer than this.

    Raises
    ------
    MetricsError, MetricsAddressTakenError
        The address cannot be had.
    """

    def __init__(self, registry: CollectorRegistry, bind: str, *, here_only: bool = True) -> None:
        host, _, port = bind.rpartition(":")
        host = host.strip("[]")
        app = _only_metrics(make_wsgi_app(registry), here_only=here_only)
        try:
            self._server = make_server(
                host, int(port), app, _Server6 if ":" in host else _Server, handler_class=_Handler
            )
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise MetricsAddressTakenError(
                    f"{bind} is taken by another program, perhaps another parfocal; give metrics.bind another port"
                ) from None
            raise MetricsError(f"metrics cannot be served at {bind} ({error.strerror or error})") from None
        host, port = self._server.server_address[:2]  # type: ignore[assignment]
        self.address = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.2,), name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving. Idempotent."""
        with contextlib.suppress(OSError):
            self._server.shutdown()
            self._server.server_close()
        self._thread.join(2.0)
