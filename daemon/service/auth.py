"""Who may come in: the allow-list of public keys, and the ZAP handler that asks it for every connection.

CURVE alone encrypts and lets every stranger in who knows the server's public key; it is ZAP that keeps them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.daemon.config_lines import ConfigError
from parfocal.daemon.service.errors import KeyFileError
from parfocal.daemon.service.keys import daemon_key, public_path, read_key

if TYPE_CHECKING:
    from parfocal.daemon.config import Config

ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_DOMAIN = b"parfocal"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who was let in."""

    name: str
    role: str


ANYBODY = User("somebody on this computer", "operate")
"""Whoever comes over loopback or a file where no keys are asked for."""


@dataclass(frozen=True)
class AllowList:
    """The daemon's own key pair and who else may come in, by public key."""

    public: bytes
    secret: bytes
    users: Mapping[str, User]

    def by_key(self, key: str) -> User | None:
        """Return whose public key this is."""
        return self.users.get(key)


def allow_list(config: Config) -> AllowList | None:
    """Read the keys that a configuration names; `None` where it asks for none.

    Raises
    ------
    ConfigError
        A key is missing or of no use, or was made for less than the configuration allows; with file and line.
    """
    section = config.service
    if section is None or not section.keys:
        return None
    folder, problems = Path(section.keys), []
    users: dict[str, User] = {}
    try:
        server = daemon_key(folder)
    except KeyFileError as error:
        raise ConfigError(f"{config.where('service', 'keys')}: {error}") from error
    for name, role in section.allow.items():
        here = config.where("service", "allow", name)
        try:
            key = read_key(public_path(folder, name), secret=False)
        except KeyFileError as error:
            problems.append(f"{here}: {error}")
            continue
        if key.role != role and key.role != "operate":
            problems.append(f"{here}: the key was made to {key.role}, not to {role}; make a new one for that")
        elif key.public in users:
            problems.append(f"{here}: the key is that of {users[key.public].name}; each has a key of their own")
        else:
            users[key.public] = User(name, role)
    if problems:
        raise ConfigError(problems)
    return AllowList(server.public.encode(), server.secret.encode(), users)


class Gate:
    """Answers ZAP requests.

    Parameters
    ----------
    allowed : AllowList
    refused : callable
        Told of everybody who was not let in: code, address and what is known of them.
    """

    def __init__(self, allowed: AllowList, refused: Callable[[str, str, str], None]) -> None:
        self._allowed, self._refused = allowed, refused

    def answer(self, request: Sequence[bytes]) -> list[bytes]:
        """Return the reply to a request (ZeroMQ RFC 27), both without the envelope."""
        from zmq.utils import z85

        if len(request) < 6:
            return [b"1.0", b"", b"400", b"not a ZAP request", b"", b""]
        version, number, _domain, address, _identity, mechanism = request[:6]
        where = address.decode("utf-8", "replace")[:64]
        if version != b"1.0" or mechanism != b"CURVE" or len(request) != 7 or len(request[6]) != 32:
            self._refused("no_key", where, mechanism.decode("utf-8", "replace")[:20])
            return [b"1.0", number, b"400", b"a key is needed", b"", b""]
        key = z85.encode(request[6]).decode("ascii")
        user = self._allowed.by_key(key)
        if user is None:
            self._refused("unknown_key", where, key)
            return [b"1.0", number, b"400", b"this key is not on the list", b"", b""]
        return [b"1.0", number, b"200", b"OK", key.encode(), b""]

    def user(self, frame: Any) -> User | None:
        """Return who sent a frame, by what ZAP said when they came in."""
        try:
            return self._allowed.by_key(str(frame.get("User-Id")))
        except Exception:  # noqa: BLE001 - whoever has no such name was not let in by us
            return None
