"""A session's folder: the configuration as it was, who made it with what, the journal, the frames, the summary."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import parfocal
from parfocal import ParfocalError
from parfocal.daemon.config import Config
from parfocal.daemon.journal import Journal

SCHEMA = "parfocal.session/1"
SPARE_BYTES = 64 * 1024 * 1024
LEAST_BYTES = 16 * 1024 * 1024
"""Below this a running session ends, while there is room to say so."""
PACKAGES = ("numpy", "scipy", "torch", "pydantic", "pymmcore-plus", "ome-writers")


class SessionError(ParfocalError):
    """The session's folder cannot be made, exists already, or the disk has no room for it."""

    exit_code = 4


class SessionFolderError(SessionError):
    """The folder that somebody named for a session holds something already."""

    exit_code = 2


@dataclass(frozen=True)
class Session:
    """The folder of one run.

    Parameters
    ----------
    folder : Path
        Holds config.yaml, session.json, journal.jsonl, frames.ome.zarr, summary.json.
    journal : Journal
        Open for appending.
    config : Config
        What the run was made from.
    started : datetime
        UTC.
    """

    folder: Path
    journal: Journal
    config: Config
    started: datetime

    @classmethod
    def create(cls, config: Config, folder: Path | None = None, *, about: Mapping[str, Any] | None = None) -> Session:
        """Make a session's folder; `folder` names it exactly, else it is ``<session.folder>/<UTC stamp>-<name>``.

        Raises
        ------
        SessionError
            The folder cannot be made, holds something already, or the disk is full.
        """
        started = datetime.now(UTC)
        try:
            path = _make_folder(config, folder, started)
            check_room(path, 0)
            text = yaml.safe_dump(config.to_json(), sort_keys=False, allow_unicode=True)
            (path / "config.yaml").write_text(f"# from {config.source}\n{text}", encoding="utf-8")
            facts = {"schema": SCHEMA, "session": path.name, "started_utc": started.isoformat(), **versions()}
            facts |= {"config_sha256": hashlib.sha256(text.encode()).hexdigest(), **(about or {})}
            write_json(path / "session.json", facts)
            return cls(path, Journal(path / "journal.jsonl"), config, started)
        except OSError as error:
            where = error.filename or folder or config.session.folder
            raise SessionError(f"{where}: the session's folder cannot be made ({error.strerror})") from error

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add to session.json what is only known once the microscope is open."""
        path = self.folder / "session.json"
        try:
            write_json(path, json.loads(path.read_text(encoding="utf-8")) | dict(facts))
        except OSError as error:
            raise SessionError(f"{path}: cannot be written ({error.strerror})") from error

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the summary and close the journal."""
        try:
            write_json(self.folder / "summary.json", summary)
        except OSError as error:
            raise SessionError(f"{self.folder}: the summary cannot be written ({error.strerror})") from error
        finally:
            self.journal.close()


def check_room(folder: Path, needed_bytes: int) -> None:
    """Refuse to start what the disk has no room for; raises `SessionError`."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise SessionError(
            f"{folder}: {free / 1e6:.0f} MB free, but the session needs {(needed_bytes + SPARE_BYTES) / 1e6:.0f} MB: "
            "make room, record less (session.record) or name another session.folder"
        )


def check_still_room(folder: Path) -> None:
    """End a session in good order before its disk is full; raises `SessionError`."""
    free = shutil.disk_usage(folder).free
    if free < LEAST_BYTES:
        raise SessionError(
            f"{folder}: only {free / 1e6:.0f} MB are left on the disk: the session ends while that can still be "
            "written down; make room and start another"
        )


def versions() -> dict[str, Any]:
    """Return what this runs on: versions of parfocal, Python and the packages that matter, and the platform."""
    found: dict[str, str] = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return {
        "parfocal": parfocal.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": found,
    }


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that it is either whole or absent."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, default=_plain) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either whole or as it was before."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _make_folder(config: Config, folder: Path | None, started: datetime) -> Path:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise SessionFolderError(f"{folder}: is not empty; a session is never written over another")
        return folder
    parent = Path(config.session.folder)
    parent.mkdir(parents=True, exist_ok=True)
    stamp = f"{started:%Y%m%dT%H%M%SZ}-{config.session.name}"
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise SessionError(f"{parent}: no free name for a session like {stamp}")
