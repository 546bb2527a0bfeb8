"""The journal: append-only JSON lines, numbered, written through at every record and fsynced before a command."""

from __future__ import annotations

import json
import math
import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

import parfocal
from parfocal import ParfocalError

SCHEMA = "parfocal.journal/1"
Kind = Literal[
    "session",
    "policy",
    "grid",
    "frame",
    "observation",
    "assessment",
    "action",
    "verdict",
    "command",
    "readback",
    "command_received",
    "suggestion",
    "state",
    "stored",
    "error",
    "end",
]


class JournalError(ParfocalError):
    """The journal cannot be written (disk full, folder gone) or read; nothing is commanded without one."""

    exit_code = 4


class Journal:
    """One session's append-only record.

    Every `append` is one `write` system call, so that a killed process leaves whole lines; `sync` makes what was
    written survive a power cut. The first record is the header: kind ``session``, with the schema's version.

    Parameters
    ----------
    path : Path
        Must not exist yet: a journal is never written over or continued.

    Attributes
    ----------
    syncs_ms : deque of float
        How long the disk took each time, the latest last.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.syncs_ms: deque[float] = deque(maxlen=100_000)
        self._number = 0
        self._size = 0
        self._fd: int | None = None
        try:
            self._fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o644
            )
        except OSError as error:
            raise JournalError(f"{path}: the journal cannot be created ({error.strerror})") from error

    @property
    def records(self) -> int:
        """How many records were written."""
        return self._number

    def append(self, kind: Kind, **fields: Any) -> int:
        """Write one record; return its number.

        Raises
        ------
        JournalError
            It could not be written whole: the disk is full or gone. The caller must not act on what is not recorded.
        """
        record: dict[str, Any] = {"n": self._number, "kind": kind}
        if kind == "session":
            record["schema"] = SCHEMA
        record.update(fields)
        self._write(encode(record))
        self._number += 1
        return self._number - 1

    def sync(self) -> None:
        """Wait until the disk has it; raises `JournalError`."""
        if self._fd is None:
            raise JournalError(f"{self.path}: the journal is closed")
        began = time.perf_counter()
        try:
            _fsync(self._fd)
        except OSError as error:
            raise JournalError(f"{self.path}: the journal cannot be synced ({error.strerror})") from error
        self.syncs_ms.append(1000.0 * (time.perf_counter() - began))

    def close(self) -> None:
        """Sync and close. Idempotent."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            _fsync(fd)
        except OSError as error:
            raise JournalError(f"{self.path}: the journal cannot be synced ({error.strerror})") from error
        finally:
            os.close(fd)

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            raise JournalError(f"{self.path}: the journal is closed")
        try:
            written = os.write(self._fd, data)
            while written < len(data):  # a disk that is nearly full takes a part, then says ENOSPC
                written += os.write(self._fd, data[written:])
        except OSError as error:
            self._drop_part()
            raise JournalError(f"{self.path}: the journal cannot be written ({error.strerror})") from error
        self._size += len(data)

    def _drop_part(self) -> None:
        """Cut off the part of a record that still went onto a full disk: what comes after it must start a line."""
        if self._fd is None:
            return
        try:
            os.ftruncate(self._fd, self._size)
        except OSError:
            # Then nothing may follow: a torn last line can be read over, one in the middle cannot.
            fd, self._fd = self._fd, None
            os.close(fd)


# fdatasync writes the new length too: all that reading back needs, without the times of the inode.
_fsync = getattr(os, "fdatasync", os.fsync)


def encode(record: Mapping[str, Any]) -> bytes:
    """Write a record as one line of strict JSON; NaN and infinities become the strings NaN, Infinity, -Infinity."""
    try:
        text = _ENCODER.encode(record)
    except ValueError:
        text = _ENCODER.encode(_strict(record))
    return text.encode("utf-8") + b"\n"


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return _strict(value.item())
    if isinstance(value, np.ndarray):
        return _strict(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written to the journal")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_plain)


def _strict(value: Any) -> Any:
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_strict(item) for item in value]
    return value


@dataclass(frozen=True)
class JournalReading:
    """A journal read back: whole records in order, the torn last line if there is one, and what else is wrong with it.

    `damage` says in words why reading stopped before the end; only a lenient reading has any.
    """

    records: list[dict[str, Any]]
    torn: str = ""
    damage: str = ""

    @property
    def header(self) -> dict[str, Any]:
        """The first record, of kind ``session``."""
        return self.records[0]

    def of(self, *kinds: Kind) -> Iterator[dict[str, Any]]:
        """Return the records of these kinds, in order."""
        return (record for record in self.records if record["kind"] in kinds)


def read_journal(path: Path, *, lenient: bool = False) -> JournalReading:
    """Read a journal; a torn last line (the power went) is reported, anything else that is wrong is refused.

    Parameters
    ----------
    path : Path
    lenient : bool
        Read up to the first record that is damaged or missing, and say so in `damage`, rather than refuse all.

    Raises
    ------
    JournalError
        Not there, empty, of another schema, or, unless `lenient`, broken before its last line or with a gap in its
        numbers.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise JournalError(f"{path}: the journal cannot be read ({error.strerror})") from error
    tail, damage = lines.pop(), ""
    records: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        try:
            records.append(_parse(path, number, line))
            if not number:
                _check_schema(path, records[0])  # first of all: what a newer version writes is no damage
        except JournalError as error:
            if not lenient or number == 0:
                raise
            damage = f"{error}; the {len(records)} records before are used, the {len(lines) - number} after are not"
            break
    if not records:
        raise JournalError(f"{path}: the journal holds no whole record")
    return JournalReading(records, tail.decode("utf-8", "replace"), damage)


def _check_schema(path: Path, header: Mapping[str, Any]) -> None:
    schema = str(header.get("schema"))
    if header.get("kind") == "session" and schema == SCHEMA:
        return
    name, _, version = schema.rpartition("/")
    known, _, ours = SCHEMA.rpartition("/")
    if name == known and version.isdigit() and int(version) > int(ours):
        raise JournalError(
            f"{path}:1: written by a newer parfocal (schema {schema}; this one, {parfocal.__version__}, reads up to "
            f"{SCHEMA}): install a newer parfocal to read this session"
        )
    raise JournalError(f"{path}:1: expected schema {SCHEMA} (got {header.get('schema')!r})")


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        raise JournalError(f"{path}:{number + 1}: not a record; the journal was damaged") from None
    if not isinstance(record, dict) or record.get("n") != number or not isinstance(record.get("kind"), str):
        got = record.get("n") if isinstance(record, dict) else record
        raise JournalError(f"{path}:{number + 1}: expected record {number} (got {got!r}); the journal was damaged")
    return record
