"""A client's side of the wire: which address, with which key, what was sent, and why there is no answer."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import zmq
from zmq.utils.monitor import parse_monitor_message

from parfocal.daemon.service.addresses import next_address, published_at, the_daemon
from parfocal.daemon.service.errors import KeyFileError, NoAnswerError, ServiceError
from parfocal.daemon.service.eventmodels import MAX_EVENT_BYTES, Event
from parfocal.daemon.service.keys import KeyFile, read_key
from parfocal.daemon.service.messages import (
    Done,
    Message,
    Refused,
    Request,
    StatusReply,
    encode,
    read_reply,
)

_Sock = TypeVar("_Sock", bound=zmq.Socket[Any])
KEPT_EVENTS = 10_000
WATCHED = (
    zmq.EVENT_CONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)


class Link:
    """Makes a client's sockets and messages.

    Parameters
    ----------
    address, publish : str, optional
        The one daemon of this computer, and where it said that it publishes.
    key : Path or str, optional
        A secret key file.
    via : str
        What the client calls itself, for those who read who ordered what.
    """

    def __init__(
        self, address: str | None = None, *, key: Path | str | None = None, publish: str | None = None, via: str = ""
    ) -> None:
        self._via = via
        self.key: KeyFile | None = None
        if key is not None:
            self.key = read_key(Path(key), secret=True)
            if not self.key.server:
                raise KeyFileError(
                    f"{key}: does not say which daemon it is for; `parfocal keys new` makes one that does"
                )
        if address is None:
            found = the_daemon()
            address, publish = found.address, publish or found.publish
        self.address = address
        self.publish = publish or published_at(address) or _neighbour(address)
        self._client, self._numbers = uuid.uuid4().hex, itertools.count(1)
        self._seen: set[int] = set()

    def commands(self, context: zmq.Context[_Sock]) -> _Sock:
        """Connect for commands."""
        sock = self._socket(context, zmq.DEALER)
        sock.setsockopt(zmq.IMMEDIATE, 0)
        self._connect(sock, self.address)
        return sock

    def events(self, context: zmq.Context[_Sock], kinds: Sequence[str]) -> _Sock:
        """Subscribe; to health and the end in any case, so that silence means something."""
        sock = self._socket(context, zmq.SUB)
        sock.setsockopt(zmq.RCVHWM, KEPT_EVENTS)
        sock.setsockopt(zmq.MAXMSGSIZE, MAX_EVENT_BYTES)
        for topic in {*kinds, "health", "end"} if kinds else {""}:
            sock.setsockopt(zmq.SUBSCRIBE, topic.encode())
        self._connect(sock, self.publish)
        return sock

    def monitored(self, sock: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Return a socket on which libzmq says how the connection fares."""
        return sock.get_monitor_socket(WATCHED)

    def request(self, command: Message) -> tuple[bytes, int]:
        """Put a command into its envelope; return it with its number."""
        seq = next(self._numbers)
        # The envelope is made of parts that were checked already.
        content = {
            "version": 1, "client": self._client, "seq": seq, "sent_s": time.time(), "via": self._via,
            "command": command.model_dump(),
        }  # fmt: skip
        return encode(Request.model_validate(content)), seq

    def answer(self, data: bytes, seq: int) -> Done | Refused | StatusReply | None:
        """Read an answer; `None` if it belongs to an earlier question, on which somebody gave up."""
        reply = read_reply(data)
        return reply if reply.seq in (seq, 0) else None

    def noticed(self, parts: Sequence[bytes]) -> None:
        """Take in what libzmq says of the connection; raises `NoAnswerError` where waiting on is of no use."""
        event = int(parse_monitor_message(list(parts))["event"])
        self._seen.add(event)
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            raise NoAnswerError(
                f"{self.address}: this daemon does not let {self._who()} in: not on its list (service.allow)"
            )

    def no_answer(self, timeout_s: float) -> NoAnswerError:
        """Return the error of a question that was not answered, with what is known of why."""
        text = f"{self.address}: nobody answered within {timeout_s:g} s"
        if zmq.EVENT_HANDSHAKE_SUCCEEDED in self._seen:
            return NoAnswerError(f"{text}, although somebody listens: is the daemon busy, or ending?")
        if zmq.EVENT_CONNECTED in self._seen:
            why = (
                "who listens there wants a key (--key FILE), or is no parfocal"
                if self.key is None
                else f"the key {self.key.name} is for another daemon, or who listens there asks for none"
            )
            return NoAnswerError(f"{text}: {why}")
        return NoAnswerError(f"{text}: is a daemon running there? `parfocal run` starts one")

    def silent(self, silence_s: float) -> NoAnswerError:
        """Return the error of events that stopped coming."""
        return NoAnswerError(
            f"{self.publish}: nothing was published for {silence_s:g} s: the daemon is gone or unreachable"
        )

    def _who(self) -> str:
        return f"the key {self.key.name!r}" if self.key is not None else "anybody without a key"

    def _socket(self, context: zmq.Context[_Sock], kind: int) -> _Sock:
        sock = context.socket(kind)
        for option, value in (
            (zmq.LINGER, 0), (zmq.SNDHWM, 100), (zmq.HEARTBEAT_IVL, 2000), (zmq.HEARTBEAT_TIMEOUT, 10_000),
            (zmq.RECONNECT_IVL_MAX, 1000),
        ):  # fmt: skip
            sock.setsockopt(option, value)
        if self.key is not None:
            sock.curve_publickey = self.key.public.encode()
            sock.curve_secretkey = self.key.secret.encode()
            sock.curve_serverkey = self.key.server.encode()
        return sock

    def _connect(self, sock: zmq.Socket[Any], address: str) -> None:
        if "[" in address:
            sock.setsockopt(zmq.IPV6, 1)
        try:
            sock.connect(address)
        except zmq.ZMQError as error:
            raise ServiceError(
                f"{address}: is no address to connect to ({error.strerror}); one reads tcp://HOST:PORT or ipc://PATH"
            ) from None


class Missed:
    """Counts the events that got lost, by the gaps in their numbers."""

    def __init__(self) -> None:
        self.count = 0
        self._last: dict[str, int] = {}

    def note(self, event: Event) -> None:
        """Take in an event."""
        last = self._last.get(event.kind)
        if last is not None and event.n > last + 1:
            self.count += event.n - last - 1
        self._last[event.kind] = event.n


def _neighbour(address: str) -> str:
    try:
        return next_address(address)
    except ValueError:
        raise ServiceError(f"{address}: is no address; one reads tcp://HOST:PORT or ipc://PATH") from None
