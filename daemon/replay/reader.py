"""Reading a session's folder, whole or killed: journal, facts, configuration, summary, frames, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

import parfocal
from parfocal import ParfocalError
from parfocal.daemon.journal import JournalError, JournalReading, read_journal
from parfocal.daemon.replay.framestore import FrameStore
from parfocal.daemon.session import SCHEMA

MOST_NAMED = 8


class SessionReadError(ParfocalError):
    """A folder that is no session, or a session that this version cannot read."""

    exit_code = 2


class SessionReader:
    """One session's folder. What is not there or damaged is said in `notes`; what is there is used.

    Parameters
    ----------
    folder : Path
        The session's folder, or the ``journal.jsonl`` in it.

    Attributes
    ----------
    journal : JournalReading
        All whole records.
    facts : dict
        ``session.json``; empty if it is not there.
    config : dict
        ``config.yaml`` as plain data: not validated, so that what an older or newer version wrote can be shown.
    summary : dict
        Of the run; what the journal still tells where it was killed.
    notes : list of str
        What is wrong with the folder, each a sentence.

    Raises
    ------
    SessionReadError
        No session, or one of a newer version; the message says which.
    """

    def __init__(self, folder: Path) -> None:
        folder = folder.parent if folder.name == "journal.jsonl" else folder
        self.folder, self.notes = folder, list[str]()
        self.journal = self._journal()
        self.facts = self._facts()
        self.config = self._config()
        self.ended = next(self.journal.of("end"), None)
        self.summary = self._summary()
        if self.journal.torn:
            self.notes.append("the journal's last line is torn (the process or the power went): it is left out")
        if self.journal.damage:
            self.notes.append(self.journal.damage)
        if self.ended is None:
            self.notes.append("the session was killed or is still running: its journal has no end")

    def _journal(self) -> JournalReading:
        path = self.folder / "journal.jsonl"
        if not self.folder.is_dir():
            raise SessionReadError(f"{self.folder}: there is no such folder")
        if not path.is_file():
            raise SessionReadError(f"{self.folder}: is no session: it holds no journal.jsonl{_inside(self.folder)}")
        try:
            return read_journal(path, lenient=True)
        except JournalError as error:
            raise SessionReadError(str(error)) from error

    def _facts(self) -> dict[str, Any]:
        path = self.folder / "session.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self.notes.append(f"session.json cannot be read ({_why(error)}): versions and models are not known")
            return {}
        schema = str(facts.get("schema")) if isinstance(facts, dict) else "?"
        if schema != SCHEMA:
            raise SessionReadError(
                f"{path}: expected schema {SCHEMA} (got {schema}); it was written by parfocal "
                f"{facts.get('parfocal', '?') if isinstance(facts, dict) else '?'}, this is {parfocal.__version__}"
            )
        return dict(facts)

    def _config(self) -> dict[str, Any]:
        path = self.folder / "config.yaml"
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            self.notes.append(f"config.yaml cannot be read ({_why(error)})")
            return {}
        return config if isinstance(config, dict) else {}

    def _summary(self) -> dict[str, Any]:
        path = self.folder / "summary.json"
        try:
            summary = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(summary, dict):
                return summary
        except (OSError, ValueError):
            pass  # a killed session has none; the journal's end holds the same
        return dict(self.ended["summary"]) if self.ended is not None else {}

    @property
    def name(self) -> str:
        """Name of the session."""
        return str(self.journal.header.get("session") or self.folder.name)

    @property
    def simulated(self) -> bool:
        """Whether no photon was involved."""
        return bool(self.journal.header.get("simulated") or self.facts.get("simulated"))

    @property
    def optics(self) -> Mapping[str, float]:
        """What was known of the optics; empty if nothing was."""
        optics = self.facts.get("optics")
        return optics if isinstance(optics, dict) else {}

    @property
    def dof_um(self) -> float | None:
        """Depth of field: the policy's, or that of the optics."""
        for record in self.journal.of("policy"):
            dof = record.get("options", {}).get("dof_um")
            if dof is not None:
                return float(dof)
        if "na" not in self.optics:
            return None
        from parfocal.simulator.optics import Optics

        return Optics.from_options(dict(self.optics)).depth_of_field_um

    @cached_property
    def stored(self) -> dict[int, int]:
        """Place in the recorded frames by frame index."""
        found = {r["index"]: r["stored"] for r in self.journal.of("frame") if r.get("stored") is not None}
        return found | {r["index"]: r["stored"] for r in self.journal.of("stored") if r.get("stored") is not None}

    @cached_property
    def frames(self) -> FrameStore:
        """The recorded frames, opened when first asked for; empty if there are none."""
        store = FrameStore(self.folder / "frames.ome.zarr")
        if store.problem and self.stored:
            self.notes.append(store.problem)
        missing = [index for index, place in sorted(self.stored.items()) if not store.holds(place)]
        if missing and not store.problem:
            named = ", ".join(map(str, missing[:MOST_NAMED])) + (", ..." if len(missing) > MOST_NAMED else "")
            self.notes.append(f"{len(missing)} of {len(self.stored)} recorded frames are not on the disk ({named})")
        return store


def _inside(folder: Path) -> str:
    """Name the sessions in a folder of sessions, which is what people give by mistake."""
    inside = sorted(path.parent.name for path in folder.glob("*/journal.jsonl"))
    if not inside:
        return ""
    return f"; it holds {len(inside)} session{'s' * (len(inside) > 1)}, the latest is {folder / inside[-1]}"


def _why(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error).splitlines()[0]
