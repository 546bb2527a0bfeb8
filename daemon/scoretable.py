"""Rows of `parfocal score` as a table in a file, CSV or Parquet: written whole, or not at all."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from parfocal import UsageError
from parfocal.daemon.scorerows import ScoreRow

TEXT = ("path", "model", "unit", "reason", "error")
FIRST = ("path", "plane")
FIXED = ("model", "value", "sd", "unit", "abstained", "reason", "error")
"""Columns: `FIRST`, one for each axis (``axis_z``), `FIXED`, one for each number in the models' detail."""
SUFFIXES = (".csv", ".parquet")
GROUP_ROWS = 16384
"""Rows of a Parquet row group: what is in memory at a time."""


class ScoreTable:
    """Collects rows, and writes them into their file at the end.

    Which columns there are is known only after the last row, so rows wait in a temporary file. As a context manager:
    the table is written if the block ends well, and nothing is left behind if it does not.

    Parameters
    ----------
    path : Path
        Of the table; its ending says which kind.
    force : bool
        Whether a file that is there may be replaced.

    Raises
    ------
    UsageError
        An ending that is not known, a file that is there, a folder that is not or that cannot be written to, or
        Parquet without the package pyarrow.
    """

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path, self._force = path, force
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: a table is written as {' or '.join(SUFFIXES)}, by the ending of its name")
        if path.is_dir():
            raise UsageError(f"{path}: a folder, not a file to write a table to")
        if path.exists() and not force:
            raise UsageError(_THERE.format(path=path))
        self._write = _write_csv
        if path.suffix.lower() == ".parquet":
            _check_pyarrow()
            self._write = _write_parquet
        self.rows = 0
        self._axes: dict[str, None] = {}
        self._details: dict[str, None] = {}
        self._temporary = _temporary_beside(path)
        self._spool: IO[str] = tempfile.TemporaryFile("w+", encoding="ascii")  # closed by `discard`

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if kind is None:
                self.commit()
        finally:
            self.discard()

    def add(self, row: ScoreRow) -> None:
        """Take a row."""
        said = row.assessment
        axes = {f"axis_{name}": index for name, index in row.axes.items()}
        details = {_detail_column(name): float(value) for name, value in said.detail.items()}
        self._axes.update(dict.fromkeys(axes))
        self._details.update(dict.fromkeys(details))
        cells = {
            "path": _encodable(str(row.path)), "plane": row.plane, "model": row.model,
            "value": float(said.value), "sd": float(said.sd), "unit": row.unit, "abstained": said.abstained,
            "reason": _encodable(said.reason), "error": row.error, **axes, **details,
        }  # fmt: skip
        try:
            self._spool.write(json.dumps(cells) + "\n")
        except OSError as error:
            raise UsageError(f"{tempfile.gettempdir()}: rows cannot be kept: {error.strerror or error}") from error
        self.rows += 1

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as far as rows have come."""
        return [*FIRST, *sorted(self._axes), *FIXED, *self._details]

    def commit(self) -> None:
        """Write the table: first beside its place, then, complete, into it.

        Raises
        ------
        UsageError
            It cannot be written, or a file has appeared there in the meantime.
        """
        try:
            self._spool.seek(0)
            self._write(self._temporary, self.columns, sorted(self._axes), map(json.loads, self._spool))
            _publish(self._temporary, self.path, force=self._force)
        except FileExistsError as error:
            raise UsageError(_THERE.format(path=self.path)) from error
        except OSError as error:
            raise UsageError(f"{self.path}: the table cannot be written: {error.strerror or error}") from error

    def discard(self) -> None:
        """Leave nothing behind but what was committed. Idempotent."""
        self._spool.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


_THERE = "{path}: there is a file already; --force replaces it"


def _check_pyarrow() -> None:
    try:
        import pyarrow.parquet  # noqa: F401 - whether it is there
    except ImportError as error:
        raise UsageError("Parquet needs the package pyarrow: pip install 'parfocal[parquet]', or write .csv") from error


def _temporary_beside(path: Path) -> Path:
    """Make an empty file in the same folder, where it can be renamed; a bad folder is said before the work, not after.

    With the permissions any new file would have here, which a temporary file has not.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        umask = os.umask(0)
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
    except OSError as error:
        raise UsageError(f"{path}: the table cannot be written: {error.strerror or error}") from error
    return Path(name)


def _publish(temporary: Path, path: Path, *, force: bool) -> None:
    """Give a complete file its name; without `force` raise FileExistsError rather than replace what is there."""
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    if force:
        temporary.replace(path)
        return
    try:
        os.link(temporary, path)  # the one way that cannot replace a file which appeared this very moment
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if path.exists():
            raise FileExistsError(path) from None
        temporary.rename(path)


def _write_csv(target: Path, columns: list[str], axes: list[str], rows: Iterable[dict[str, Any]]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _csv_cell(value) for name, value in row.items()})


def _csv_cell(value: Any) -> Any:
    if value is None or value != value:  # NaN is a number that was not measured
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _write_parquet(target: Path, columns: list[str], axes: list[str], rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(columns, pa.float64()) | dict.fromkeys(TEXT, pa.string())
    types |= dict.fromkeys(("plane", *axes), pa.int64()) | {"abstained": pa.bool_()}
    schema = pa.schema([(name, types[name]) for name in columns])
    try:
        with pq.ParquetWriter(target, schema) as writer:
            for group in _groups(rows):
                # A NaN was not measured: null, as it is empty in CSV.
                writer.write_table(pa.Table.from_pylist([_without_nan(row) for row in group], schema=schema))
    except pa.ArrowException as error:
        raise UsageError(f"{target}: the table cannot be written: {error}") from error


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value == value}


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for row in rows:
        group.append(row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _detail_column(name: str) -> str:
    """Return the name itself, unless a column of another meaning has it."""
    return f"detail_{name}" if name in FIRST + FIXED or name.startswith("axis_") else name


def _encodable(text: str) -> str:
    """Write what is not text in a file's name (old archives have it) as escapes: UTF-8 has no place for it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
