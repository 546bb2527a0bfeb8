"""The service's sockets: bound, secured, bounded; everything that is libzmq's own about them is here."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any

import zmq

from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.service.addresses import bind, next_address
from parfocal.daemon.service.auth import ZAP_ADDRESS, ZAP_DOMAIN, AllowList
from parfocal.daemon.service.errors import AddressTakenError

MAX_FRAME_BYTES = 256 * 1024
"""What is larger is dropped by ZeroMQ with the connection it came on; what is smaller we refuse ourselves, in words."""

WAITING_COMMANDS, WAITING_EVENTS = 100, 1000
"""Messages kept for one peer that does not read; then commands wait with their sender, and events are dropped."""

ANY_PORT = "tcp://127.0.0.1:*"
TOPICS = frozenset({b"", b"hello", b"step", b"state", b"order", b"health", b"preview", b"restored", b"end"})
FAREWELL_MS = 200
HANDSHAKE_FAILURES = {
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "no handshake",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "does not speak ZeroMQ as it should",
}


@dataclass
class Sockets:
    """What the service's thread polls."""

    context: zmq.Context[zmq.Socket[bytes]]
    commands: zmq.Socket[bytes]
    events: zmq.Socket[bytes]
    wake_in: socket.socket
    wake_out: socket.socket
    gate: zmq.Socket[bytes] | None = None
    monitors: list[zmq.Socket[bytes]] = field(default_factory=list)
    address: str = ""
    publish: str = ""
    wanted: dict[bytes, int] = field(default_factory=dict)

    def wake(self) -> None:
        """Make the thread look; from any other."""
        try:
            self.wake_out.send(b"\0")
        except OSError:  # full: it is being woken already; closed: nobody is there
            return

    def woken(self) -> None:
        """Take the alarm in."""
        try:
            self.wake_in.recv(4096)
        except OSError:
            return

    def wants(self, topic: bytes) -> bool:
        """Whether anybody subscribed to a kind of event."""
        return bool(self.wanted.get(topic) or self.wanted.get(b""))

    def subscriptions(self, most: int) -> int:
        """Take in who subscribes to what; return how many messages were nothing of the kind."""
        strange = 0
        for _ in range(most):
            try:
                parts = self.events.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            message = parts[0] if len(parts) == 1 else b""
            topic = message[1:]
            if message[:1] not in (b"\0", b"\1") or topic not in TOPICS:
                strange += 1
                continue
            subscribes = message[:1] == b"\1"
            self.events.setsockopt(zmq.SUBSCRIBE if subscribes else zmq.UNSUBSCRIBE, topic)
            self.wanted[topic] = max(self.wanted.get(topic, 0) + (1 if subscribes else -1), 0)
        return strange

    def failed_handshakes(self) -> list[tuple[str, str]]:
        """Return who came and did not get as far as a message: where, and why."""
        failed = []
        for monitor in self.monitors:
            while monitor.poll(0):
                parts = monitor.recv_multipart(zmq.NOBLOCK)
                (event,) = struct.unpack("=H", parts[0][:2])
                if event in HANDSHAKE_FAILURES:
                    failed.append((parts[1].decode("utf-8", "replace"), HANDSHAKE_FAILURES[event]))
        return failed

    def close(self) -> None:
        """Give what is on its way a moment, and close everything."""
        for sock, monitored in ((self.commands, True), (self.events, True), (self.gate, False)):
            if sock is None:
                continue
            if monitored and self.monitors:
                sock.disable_monitor()
            sock.close(linger=FAREWELL_MS)
        for monitor in self.monitors:
            monitor.close(linger=0)
        self.context.term()
        self.wake_in.close()
        self.wake_out.close()


def open_sockets(section: ServiceSection, allowed: AllowList | None, *, asked: bool) -> Sockets:
    """Make and bind the sockets.

    Parameters
    ----------
    section : ServiceSection
    allowed : AllowList, optional
        With one, both sockets are CURVE servers, and only who is on it comes in.
    asked : bool
        Whether somebody named the address; if not, and it is taken, any free port on loopback will do.

    Raises
    ------
    AddressTakenError, ServiceError
        Nothing is left open.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    wake_in, wake_out = socket.socketpair()
    wake_in.setblocking(False)
    wake_out.setblocking(False)
    found = Sockets(context, context.socket(zmq.ROUTER), context.socket(zmq.XPUB), wake_in, wake_out)
    try:
        if allowed is not None:
            found.gate = context.socket(zmq.ROUTER)  # before anything is bound that will ask it
            found.gate.bind(ZAP_ADDRESS)
        for sock, waiting in ((found.commands, WAITING_COMMANDS), (found.events, WAITING_EVENTS)):
            _bounded(sock, waiting)
            _secured(sock, allowed)
            events = 0
            for event in HANDSHAKE_FAILURES:
                events |= int(event)
            found.monitors.append(sock.get_monitor_socket(events))
        found.events.setsockopt(zmq.XPUB_MANUAL, 1)  # topics that do not exist are not remembered for strangers
        _bind_both(found, section, asked)
    except BaseException:
        found.close()
        raise
    return found


def _bind_both(found: Sockets, section: ServiceSection, asked: bool) -> None:
    try:
        found.address = bind(found.commands, section.bind)
        found.publish = bind(found.events, section.publish or next_address(found.address))
        return
    except AddressTakenError:
        chosen = section.publish is None and section.bind.endswith(":*")  # its neighbour is taken, not what was asked
        if asked and not chosen:
            raise
    if found.address:
        found.commands.unbind(found.address)
    found.address = bind(found.commands, ANY_PORT)
    found.publish = bind(found.events, ANY_PORT)


def _bounded(sock: zmq.Socket[bytes], waiting: int) -> None:
    options: dict[int, Any] = {
        zmq.LINGER: 0,
        zmq.SNDHWM: waiting,
        zmq.RCVHWM: WAITING_COMMANDS,
        zmq.MAXMSGSIZE: MAX_FRAME_BYTES,
        zmq.HANDSHAKE_IVL: 5000,
        # Who was stopped, or lost its network, is let go after a while, with all that was kept for it.
        zmq.HEARTBEAT_IVL: 2000,
        zmq.HEARTBEAT_TIMEOUT: 10_000,
    }
    for option, value in options.items():
        sock.setsockopt(option, value)


def _secured(sock: zmq.Socket[bytes], allowed: AllowList | None) -> None:
    if allowed is None:
        return
    sock.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
    if hasattr(zmq, "ZAP_ENFORCE_DOMAIN"):
        sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # without a gate to ask, nobody comes in
    sock.curve_server = True
    sock.curve_publickey = allowed.public
    sock.curve_secretkey = allowed.secret
