"""One run an instrument: a lock that the operating system drops when its holder dies, and that says who holds it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from parfocal import ParfocalError

_HELD_HERE: dict[Path, InstanceLock] = {}
"""Locks of this process. POSIX record locks do not exclude their own process, and are dropped when *any* handle of the
file is closed; so both is seen to here, and nobody opens a file of these again."""


class InstanceError(ParfocalError):
    """Another run holds this instrument."""

    exit_code = 75


class LockError(ParfocalError):
    """The lock file cannot be made, so nobody could know that the instrument is in use."""

    exit_code = 4


def runtime_folder() -> Path:
    """Where lock files lie: the user's runtime folder, which the system empties at boot."""
    from platformdirs import user_runtime_path

    with warnings.catch_warnings():
        # Without a login session there is no such folder, and the library falls back on one in /tmp: that will do.
        warnings.simplefilter("ignore")
        return user_runtime_path("parfocal", appauthor=False)


def instrument_key(driver: str, identity: str) -> str:
    """Name an instrument for its lock file.

    Parameters
    ----------
    driver : str
        Name of the driver.
    identity : str
        What tells this instrument from another of the same driver: the resolved path of its system configuration, the
        recording it plays, or, for a simulated one, which has no body to share, the folder of its sessions.
    """
    digest = hashlib.sha256(f"{driver}\0{identity}".encode()).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", Path(identity).stem)[:40].strip("-")
    return "-".join(part for part in (driver, stem, digest) if part)


class InstanceLock:
    """A lock on one instrument, held until `release`, the end of the ``with`` block or the end of the process.

    Parameters
    ----------
    key : str
        From `instrument_key`.
    folder : Path, optional
        Where the lock file lies; `runtime_folder` when absent.

    Notes
    -----
    The holder removes the file when it lets go. Who has locked a file therefore looks whether it is still the one of
    that name: else a third process could lock a new file while the second believes to hold the old one.
    """

    def __init__(self, key: str, folder: Path | None = None) -> None:
        self.path = (folder if folder is not None else runtime_folder()) / f"{key}.lock"
        self._file: IO[bytes] | None = None

    def acquire(self, **facts: str) -> None:
        """Take the lock, and write down who holds it.

        Parameters
        ----------
        **facts : str
            What the refused should read beside the process id and the time: ``session``, ``driver``...

        Raises
        ------
        InstanceError
            Another process, or another run in this one, holds it; the message says which.
        LockError
            The lock file cannot be opened.
        """
        if self.path in _HELD_HERE:
            raise InstanceError(self._refusal())
        file = self._open()
        while not _try_lock(file) or not self._is_current(file):
            held = self._is_current(file)
            file.close()
            if held:
                raise InstanceError(self._refusal())
            file = self._open()  # its holder removed it between our opening and locking it
        self._file = file
        _HELD_HERE[self.path] = self
        self._write({"pid": os.getpid(), "since": datetime.now(UTC).isoformat(timespec="seconds"), **facts})

    def describe(self, **facts: str) -> None:
        """Add facts that became known after the lock was taken, such as the session's folder."""
        if self._file is not None:
            self._write({**self.holder(), **facts})

    def holder(self) -> dict[str, Any]:
        """Facts that the last holder wrote; empty if there are none."""
        here = _HELD_HERE.get(self.path)
        try:
            text = here.read_held() if here is not None else self.path.read_bytes()[_OFFSET:]
            facts = json.loads(text.decode("utf-8"))
        except (OSError, ValueError):
            return {}
        return facts if isinstance(facts, dict) else {}

    def release(self) -> None:
        """Let go; idempotent."""
        if self._file is None:
            return
        if sys.platform == "win32":
            self._file.close()  # an open file cannot be removed there, and one that another opened meanwhile neither
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._file.close()
        self._file = None
        del _HELD_HERE[self.path]

    def _open(self) -> IO[bytes]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            return os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        except OSError as error:
            raise LockError(f"cannot open the lock file {self.path}: {error.strerror or error}") from error

    def _is_current(self, file: IO[bytes]) -> bool:
        """Whether the file that is open is still the one of that name."""
        try:
            return os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return False

    def _refusal(self) -> str:
        facts = self.holder()
        pid = facts.pop("pid", "unknown")
        since = facts.pop("since", "an unknown time")
        rest = "".join(f", {name} {value}" for name, value in facts.items())
        return (
            f"this instrument is in use by another run of parfocal: process {pid} since {since}{rest}. "
            f"Stop that run first (Ctrl-C in its terminal, or: kill {pid})"
        )

    def read_held(self) -> bytes:
        """Return what the held file says, through the handle that holds it."""
        assert self._file is not None  # noqa: S101 - for the type checker
        self._file.seek(_OFFSET)
        return self._file.read()

    def _write(self, facts: dict[str, Any]) -> None:
        assert self._file is not None  # noqa: S101 - for the type checker
        self._file.seek(0)
        self._file.truncate()
        self._file.write(b" " * _OFFSET + json.dumps(facts).encode())
        self._file.flush()

    def __enter__(self) -> InstanceLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_OFFSET = 1
"""The first byte is what is locked: on Windows a locked byte cannot be read by others, and the facts must be."""

if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: IO[bytes]) -> bool:
        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, _OFFSET)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(file: IO[bytes]) -> bool:
        try:
            # A record lock, not flock: a forked child that outlives a killed daemon must not hold the instrument.
            fcntl.lockf(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, _OFFSET)
        except OSError:
            return False
        return True
