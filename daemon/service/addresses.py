"""Addresses: binding them without stealing, finding running daemons, and saying what is wrong with either."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.daemon.lock import runtime_folder
from parfocal.daemon.service.errors import AddressTakenError, NoAnswerError, ServiceError

if TYPE_CHECKING:
    import zmq

SUFFIX = ".service.json"
DEFAULT = "tcp://127.0.0.1:5570"


def next_address(address: str) -> str:
    """Return where events are published by default: the next port, or the next file."""
    scheme, _, rest = address.partition("://")
    if scheme == "ipc":
        return f"{address}.events"
    host, _, port = rest.rpartition(":")
    return f"tcp://{host}:{'*' if port == '*' else int(port) + 1}"


def from_here(address: str) -> str:
    """Return where a program on this computer connects to: what listens everywhere listens on loopback too."""
    for everywhere, loopback in (("tcp://0.0.0.0:", "tcp://127.0.0.1:"), ("tcp://[::]:", "tcp://[::1]:")):
        if address.startswith(everywhere):
            return loopback + address.removeprefix(everywhere)
    return address


def bind(sock: zmq.Socket[bytes], address: str) -> str:
    """Bind a socket; return the address it got.

    Raises
    ------
    AddressTakenError
        Another program has it.
    ServiceError
        It cannot be bound at all.
    """
    import zmq

    if "[" in address:
        sock.setsockopt(zmq.IPV6, 1)
    path = address.removeprefix("ipc://") if address.startswith("ipc://") else None
    if path is not None and _listens(path):  # ZeroMQ would take the file away from whoever listens there
        raise AddressTakenError(_taken(address))
    try:
        sock.bind(address)
        if path is not None:
            os.chmod(path, 0o600)
    except zmq.ZMQError as error:
        if error.errno == zmq.EADDRINUSE or error.errno == errno.EADDRINUSE:
            raise AddressTakenError(_taken(address)) from None
        raise ServiceError(f"{address}: nothing can listen there ({error.strerror})") from None
    except OSError as error:
        raise ServiceError(f"{address}: nothing can listen there ({error.strerror})") from None
    return bytes(sock.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()


def _taken(address: str) -> str:
    return (
        f"{address}: another program listens there already (another run of parfocal?); stop it, or give another "
        "address, for example --set service.bind=tcp://127.0.0.1:5580"
    )


def _listens(path: str) -> bool:
    if not hasattr(socket, "AF_UNIX") or not os.path.exists(path):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Found:
    """A daemon that runs on this computer: where it listens, and what it said of itself."""

    address: str
    publish: str
    pid: int
    facts: Mapping[str, Any]

    def text(self) -> str:
        """Put it into one line."""
        said = ", ".join(f"{name} {value}" for name, value in self.facts.items() if value)
        return f"{self.address} (process {self.pid}{', ' + said if said else ''})"


@contextmanager
def announced(address: str, publish: str, server: str = "", **facts: str) -> Iterator[None]:
    """Leave a note where other programs of this user find it, for as long as the block lasts.

    A note that cannot be left is no reason not to run: the address can be given by hand.
    """
    folder = runtime_folder()
    path = folder / f"{os.getpid()}-{uuid.uuid4().hex[:8]}{SUFFIX}"
    note = {"address": address, "publish": publish, "pid": os.getpid(), "server": server, "facts": facts}
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(note, file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def running_daemons() -> list[Found]:
    """Return the daemons that announced themselves and are alive, the latest last."""
    found = []
    paths = sorted(runtime_folder().glob(f"*{SUFFIX}"), key=_changed_s)
    for path in paths:
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            one = Found(str(note["address"]), str(note["publish"]), int(note["pid"]), dict(note["facts"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if _alive(one.pid):
            found.append(one)
        else:
            with contextlib.suppress(OSError):
                path.unlink()  # it was killed, and could not tidy up
    return found


def the_daemon() -> Found:
    """Return the one daemon that runs here; raises `NoAnswerError` if there is none, or more than one."""
    found = running_daemons()
    if not found:
        raise NoAnswerError(
            "no daemon runs on this computer (as this user): `parfocal run` starts one; for one on another computer, "
            "give its address, for example --address tcp://scope-pc:5570"
        )
    if len(found) > 1:
        lines = "\n".join(f"  {one.text()}" for one in found)
        raise NoAnswerError(f"{len(found)} daemons run on this computer; say which with --address:\n{lines}")
    return found[0]


def published_at(address: str) -> str | None:
    """Return where a daemon of this computer publishes, if it said so; else `None`: the next port."""
    return next((one.publish for one in running_daemons() if one.address == address), None)


def _changed_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        return True  # signal 0 would end it there; whoever is gone does not answer
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True
