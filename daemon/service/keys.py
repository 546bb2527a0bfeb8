"""Key files: a CURVE pair for the daemon and for each person or program, in files nobody else can read."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from parfocal import did_you_mean
from parfocal.daemon.service.errors import KeyFileError

Role = Literal["observe", "operate"]
ROLES: tuple[str, ...] = get_args(Role)
FORMAT = "parfocal.key/1"
DAEMON = "daemon"
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
Z85 = re.compile(r"[0-9A-Za-z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What a key file holds.

    Parameters
    ----------
    name, role : str
        Whose it is, and what it may do; the daemon's own has the role ``daemon``.
    public : str
        In Z85, as ZeroMQ writes keys.
    secret : str
        Empty in the part that stays with the daemon.
    server : str
        The daemon's public key: by it, a client knows that it talks to the right daemon.
    """

    name: str
    role: str
    public: str
    secret: str = ""
    server: str = ""


def new_key(folder: Path, name: str, role: str) -> tuple[Path, KeyFile]:
    """Make a pair for `name`, and the daemon's if there is none yet.

    Returns
    -------
    (Path, KeyFile)
        The secret file, which is to be carried to where its owner works; its public half stays in `folder`.

    Raises
    ------
    KeyFileError
        A bad name or role, a name that has a key already, or a folder that cannot be written to.
    """
    import zmq

    if not NAME.fullmatch(name) or name == DAEMON:
        raise KeyFileError(f"{name!r}: a name has letters, digits, - and _, begins with a letter, and is not 'daemon'")
    if role not in ROLES:
        raise KeyFileError(f"{role!r}: a role is {' or '.join(ROLES)}{did_you_mean(role, ROLES)}")
    server = daemon_key(folder, make=True)
    public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
    key = KeyFile(name, role, public, secret, server.public)
    try:
        write_key(public_path(folder, name), KeyFile(name, role, public))
    except FileExistsError:
        raise KeyFileError(
            f"{public_path(folder, name)}: {name} has a key already; remove it first if it is to be replaced"
        ) from None
    path = folder / f"{name}.secret.json"
    try:
        write_key(path, key)
    except FileExistsError:
        public_path(folder, name).unlink()
        raise KeyFileError(f"{path}: is there already; remove it first if it is to be replaced") from None
    return path, key


def daemon_key(folder: Path, *, make: bool = False) -> KeyFile:
    """Read the daemon's own pair from a folder of keys; with `make`, make it if there is none."""
    import zmq

    path = folder / f"{DAEMON}.secret.json"
    if make and not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            public, secret = (key.decode("ascii") for key in zmq.curve_keypair())
            write_key(path, KeyFile(DAEMON, DAEMON, public, secret))
        except FileExistsError:
            pass  # somebody else made it meanwhile
        except OSError as error:
            raise KeyFileError(f"{folder}: keys cannot be written here ({error.strerror or error})") from error
    return read_key(path, secret=True)


def public_path(folder: Path, name: str) -> Path:
    """Where the daemon keeps the public half of somebody's key."""
    return folder / f"{name}.public.json"


def write_key(path: Path, key: KeyFile) -> None:
    """Write a key file that only its owner can read; raises `FileExistsError` rather than replace one."""
    content = {"format": FORMAT, **{name: value for name, value in asdict(key).items() if value}}
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")


def read_key(path: Path, *, secret: bool) -> KeyFile:
    """Read a key file.

    Parameters
    ----------
    path : Path
    secret : bool
        Whether it must hold a secret; then nobody but its owner may be able to read it.

    Raises
    ------
    KeyFileError
        Missing, readable by others, or not a key file.
    """
    try:
        if path.stat().st_size > 10_000:
            raise KeyFileError(f"{path}: is no key file: too large")
        mode = path.stat().st_mode
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise KeyFileError(f"{path}: there is no such key; `parfocal keys new` makes one") from None
    except (OSError, ValueError) as error:
        raise KeyFileError(f"{path}: the key cannot be read ({error})") from None
    key = _key_of(path, content)
    if secret and not key.secret:
        raise KeyFileError(f"{path}: holds no secret; the file to use ends in .secret.json")
    if secret and sys.platform != "win32" and mode & 0o077:
        raise KeyFileError(f"{path}: others can read this secret; `chmod 600 {path}`, or make a new one")
    return key


def _key_of(path: Path, content: Any) -> KeyFile:
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise KeyFileError(f"{path}: is no key file of parfocal ({FORMAT})")
    fields = {name: content.get(name, "") for name in ("name", "role", "public", "secret", "server")}
    if not all(isinstance(value, str) for value in fields.values()):
        raise KeyFileError(f"{path}: the key file was damaged")
    key = KeyFile(**fields)
    wrong = [text for text in (key.public, key.secret, key.server) if text and not Z85.fullmatch(text)]
    if wrong or not key.public or not NAME.fullmatch(key.name) or key.role not in (*ROLES, DAEMON):
        raise KeyFileError(f"{path}: the key file was damaged")
    return key
