"""Rows as a table in a file, CSV or Parquet: written whole, or not at all; and the rows of `parfocal score`."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Self

from parfocal import UsageError
from parfocal.daemon.scorerows import ScoreRow

FIRST = ("path", "plane")
SUFFIXES = (".csv", ".parquet")
GROUP_ROWS = 16384
"""Rows of a Parquet row group: what is in memory at a time."""
Schema = dict[str, str]
"""Columns in their order, and what each holds: text, number, flag or index (a whole number)."""


class Table:
    """Collects rows, and writes them into their file at the end.

    Which columns there are is known only after the last row, so rows wait in a temporary file. As a context manager:
    the table is written if the block ends well, and nothing is left behind if it does not.

    Columns: `FIRST`, one for each axis (``axis_z``), those of `fixed`, one for each further number.

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

    fixed: ClassVar[tuple[str, ...]] = ()
    text: ClassVar[Collection[str]] = frozenset()
    flags: ClassVar[Collection[str]] = frozenset()

    def __init__(self, path: Path, *, force: bool = False) -> None:
        self.path, self._force = path, force
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"{path}: a table is written as {' or '.join(SUFFIXES)}, by the ending of its name")
        if path.is_dir():
            raise UsageError(f"{path}: a folder, not a file to write a table to")
        if path.exists() and not force:
            raise UsageError(_THERE.format(path=path))
        self._write: Callable[[Path, Schema, Iterable[dict[str, Any]]], None] = _write_csv
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

    def add_cells(self, cells: Mapping[str, Any], axes: Mapping[str, int], detail: Mapping[str, float]) -> None:
        """Take a row: `FIRST` and fixed columns by name, where in the file by axis, and further numbers by name."""
        places = {f"axis_{name}": index for name, index in axes.items()}
        taken = {*FIRST, *self.fixed}
        details = {_detail_column(name, taken): float(value) for name, value in detail.items()}
        self._axes.update(dict.fromkeys(places))
        self._details.update(dict.fromkeys(details))
        plain = {name: encodable(cell) if isinstance(cell, str) else cell for name, cell in cells.items()}
        try:
            self._spool.write(json.dumps(plain | places | details) + "\n")
        except OSError as error:
            raise UsageError(f"{tempfile.gettempdir()}: rows cannot be kept: {error.strerror or error}") from error
        self.rows += 1

    @property
    def columns(self) -> list[str]:
        """Names of the columns, as far as rows have come."""
        return [*FIRST, *sorted(self._axes), *self.fixed, *self._details]

    def commit(self) -> None:
        """Write the table: first beside its place, then, complete, into it.

        Raises
        ------
        UsageError
            It cannot be written, or a file has appeared there in the meantime.
        """
        try:
            self._spool.seek(0)
            self._write(self._temporary, self._schema(), map(json.loads, self._spool))
            _publish(self._temporary, self.path, force=self._force)
        except FileExistsError as error:
            raise UsageError(_THERE.format(path=self.path)) from error
        except OSError as error:
            raise UsageError(f"{self.path}: the table cannot be written: {error.strerror or error}") from error

    def _schema(self) -> Schema:
        columns = self.columns
        kinds = dict.fromkeys(columns, "number") | {name: "text" for name in columns if name in self.text}
        kinds |= {name: "flag" for name in columns if name in self.flags}
        return kinds | dict.fromkeys(("plane", *self._axes), "index") | {"path": "text"}

    def discard(self) -> None:
        """Leave nothing behind but what was committed. Idempotent."""
        self._spool.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)


class ScoreTable(Table):
    """Rows of `parfocal score`."""

    fixed = ("model", "value", "sd", "unit", "abstained", "reason", "artefact_name", "error")
    text = frozenset({"model", "unit", "reason", "artefact_name", "error"})
    flags = frozenset({"abstained"})

    def add(self, row: ScoreRow) -> None:
        """Take a row."""
        said = row.assessment
        cells = {
            "path": str(row.path), "plane": row.plane, "model": row.model, "value": float(said.value),
            "sd": float(said.sd), "unit": row.unit, "abstained": said.abstained, "reason": said.reason,
            "artefact_name": row.artefact_name, "error": row.error,
        }  # fmt: skip
        self.add_cells(cells, row.axes, said.detail)


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


def _write_csv(target: Path, schema: Schema, rows: Iterable[dict[str, Any]]) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(schema), restval="")
        writer.writeheader()
        for row in rows:
            writer.writerow({name: _csv_cell(value) for name, value in row.items()})


def _csv_cell(value: Any) -> Any:
    if value is None or value != value:  # NaN is a number that was not measured
        return ""
    return str(value).lower() if isinstance(value, bool) else value


def _write_parquet(target: Path, kinds: Schema, rows: Iterable[dict[str, Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"number": pa.float64(), "text": pa.string(), "flag": pa.bool_(), "index": pa.int64()}
    schema = pa.schema([(name, types[kind]) for name, kind in kinds.items()])
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


def _detail_column(name: str, taken: Collection[str]) -> str:
    """Return the name itself, unless a column of another meaning has it."""
    return f"detail_{name}" if name in taken or name.startswith("axis_") else name


def encodable(text: str) -> str:
    """Write what is not text in a file's name (old archives have it) as escapes: UTF-8 has no place for it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
