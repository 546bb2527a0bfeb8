"""The journal: strict, numbered, whole up to the moment the power goes; and exact enough to decide again from."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parfocal.daemon import journal as journal_module
from parfocal.daemon.journal import SCHEMA, Journal, JournalError, encode, read_journal
from parfocal.daemon.records import (
    Grids,
    action_fields,
    as_told,
    assessment_fields,
    frame_fields,
    pack_array,
    read_action,
    read_assessment,
    read_observation,
    unpack_array,
)
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment, Distribution
from parfocal.policies.base import Change, Finish, Hold


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "journal.jsonl")
    made.append("session", driver="bench")
    return made


def test_records_are_numbered_and_read_back_in_order(journal: Journal) -> None:
    journal.append("frame", index=0, z=np.float64(1.5))
    journal.append("end", outcome="done")
    journal.close()
    reading = read_journal(journal.path)
    assert [record["n"] for record in reading.records] == [0, 1, 2]
    assert reading.header["schema"] == SCHEMA
    assert next(reading.of("frame"))["z"] == 1.5
    assert reading.torn == ""


def test_every_record_is_on_disk_at_once_and_sync_is_called(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.append("frame", index=0)
    assert len(read_journal(journal.path).records) == 2  # not closed, not synced: written through all the same
    synced: list[int] = []
    monkeypatch.setattr(journal_module, "_fsync", synced.append)
    journal.sync()
    assert len(synced) == 1


def test_strict_json_without_nan(journal: Journal) -> None:
    line = encode(
        {"a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": np.float32(np.nan), "e": np.array([1.0, np.nan])}
    )
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert read == {"a": "NaN", "b": ["Infinity", {"c": "-Infinity"}], "d": "NaN", "e": [1.0, "NaN"]}
    assert math.isnan(float(read["a"]))
    with pytest.raises(TypeError, match="cannot be written"):
        journal.append("frame", index=object())


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_reported_and_the_rest_is_read(journal: Journal, cut: int) -> None:
    journal.append("frame", index=0)
    journal.append("frame", index=1)
    journal.close()
    journal.path.write_bytes(journal.path.read_bytes()[:-cut])
    reading = read_journal(journal.path)
    assert len(reading.records) == 2
    assert reading.torn.startswith('{"n":2')


def test_damage_elsewhere_is_refused(journal: Journal, tmp_path: Path) -> None:
    journal.append("frame", index=0)
    journal.append("frame", index=1)
    journal.close()
    lines = journal.path.read_bytes().splitlines(keepends=True)
    for damaged, message in (
        (lines[:1] + lines[2:], "expected record 1"),
        ([lines[0], b"garbage\n", lines[2]], "not a record"),
        ([lines[0], b"[1]\n", lines[2]], "expected record 1"),
        ([lines[0].replace(b"journal/1", b"journal/9")], "written by a newer parfocal"),
        ([lines[0].replace(b"journal/1", b"diary/1")], "expected schema"),
        ([], "no whole record"),
    ):
        journal.path.write_bytes(b"".join(damaged))
        with pytest.raises(JournalError, match=message):
            read_journal(journal.path)
    with pytest.raises(JournalError, match="cannot be read"):
        read_journal(tmp_path / "none.jsonl")


def test_a_journal_is_never_written_over(journal: Journal) -> None:
    with pytest.raises(JournalError, match="File exists"):
        Journal(journal.path)


def test_a_full_disk_is_an_error_with_the_right_exit_code(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    room = [10]

    def write(fd: int, data: bytes) -> int:
        part = min(room[0], len(data))
        room[0] -= part
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data[:part])

    real = os.write
    monkeypatch.setattr(os, "write", write)
    with pytest.raises(JournalError, match="No space left") as caught:
        journal.append("frame", index=0)
    monkeypatch.undo()
    assert caught.value.exit_code == 4
    reading = read_journal(journal.path)
    assert len(reading.records) == 1
    assert reading.torn == ""  # the part that still went onto the disk was cut off...
    assert journal.append("end") == 1
    kinds = [record["kind"] for record in read_journal(journal.path).records]
    assert kinds == ["session", "end"]  # ...so that whatever comes after it starts a line


def test_a_short_write_is_completed(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
    journal.append("frame", index=0, text="whole")
    monkeypatch.undo()
    assert read_journal(journal.path).records[1]["text"] == "whole"


def test_nothing_is_written_after_close(journal: Journal) -> None:
    journal.close()
    journal.close()
    for act in (journal.sync, lambda: journal.append("frame", index=0)):
        with pytest.raises(JournalError, match="closed"):
            act()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_sigkill_at_any_moment_leaves_a_readable_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    code = (
        "import sys, pathlib\n"
        "from parfocal.daemon.journal import Journal\n"
        "j = Journal(pathlib.Path(sys.argv[1])); j.append('session')\n"
        "print('on', flush=True)\n"
        "while True: j.append('frame', text='x' * 3000)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    while path.stat().st_size < 200_000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(read_journal(path).records) > 10


def roundtrip(assessment: Assessment) -> Assessment:
    grids = Grids()
    name = None
    if assessment.distribution is not None:
        name, _ = grids.name(assessment.distribution.defocus_um)
        grids.learn(json.loads(encode({"grid": name, "values": pack_array(assessment.distribution.defocus_um)})))
    return read_assessment(json.loads(encode(assessment_fields(assessment, name))), grids)


@given(
    value=st.floats(),
    sd=st.floats(),
    detail=st.dictionaries(st.text(max_size=8), st.floats(), max_size=4),
    probability=arrays(st.sampled_from([np.float32, np.float64]), 33, elements=st.floats(0, 1, width=32)),
    signed=st.booleans(),
)
def test_assessments_come_back_bit_for_bit(
    value: float, sd: float, detail: dict[str, float], probability: Any, signed: bool
) -> None:
    grid = np.linspace(-10, 10, 33).astype(probability.dtype)
    told = as_told(
        Assessment("defocus", value, sd, detail=detail, distribution=Distribution(grid, probability, signed))
    )
    again = roundtrip(told)
    assert np.array([again.value, again.sd]).tobytes() == np.array([told.value, told.sd]).tobytes() or math.isnan(
        value + sd
    )
    assert repr(again.value) == repr(told.value)
    assert repr(again.sd) == repr(told.sd)
    assert repr(again.detail) == repr(told.detail)
    assert again.distribution is not None
    assert again.distribution.probability.dtype == probability.dtype
    assert again.distribution.probability.tobytes() == probability.tobytes()
    assert again.distribution.defocus_um.tobytes() == grid.tobytes()
    assert again.distribution.signed is signed


def test_abstentions_and_numpy_numbers_come_back_as_python_floats() -> None:
    again = roundtrip(Assessment.abstain("defocus", "an empty field", {"certainty": np.float32(0.1)}))  # type: ignore[dict-item]
    assert again.abstained
    assert again.reason == "an empty field"
    assert math.isnan(again.value)
    told = as_told(Assessment("m", np.float32(0.1), np.float64(1), detail={"a": np.float32(0.1)}))  # type: ignore[arg-type, dict-item]
    assert type(told.value) is float
    assert type(told.detail["a"]) is float
    assert told.value == float(np.float32(0.1))


def test_a_grid_is_named_once() -> None:
    grids = Grids()
    grid = np.linspace(0, 1, 5)
    name, new = grids.name(grid)
    assert new
    assert grids.name(grid.copy()) == (name, False)
    assert grids.name(grid.astype(np.float32))[0] != name


def test_big_endian_arrays_come_back_with_their_values() -> None:
    array = np.arange(6, dtype=">f4").reshape(2, 3)
    assert np.array_equal(unpack_array(json.loads(encode(pack_array(array)))), array)


@pytest.mark.parametrize(
    "action",
    [
        Change({"z_um": 0.1 + 0.2}, "why", {"focused": 0.0}),
        Hold("doubt", {"defocus_um": math.nan}),
        Finish({}, "done"),
    ],
)
def test_actions_come_back(action: Change | Hold | Finish) -> None:
    assert repr(read_action(json.loads(encode(action_fields(action))))) == repr(action)


def test_observations_come_back() -> None:
    frame = Frame(np.zeros((4, 4)), 3, {"z_um": 1.1, "lost": math.nan}, 0.1, 0.3, 0.325, simulated=True)
    record = json.loads(encode(frame_fields(frame, 12.5)))
    observation = read_observation(record, {})
    assert (observation.index, observation.time_s, observation.dose) == (3, 0.5 * (0.1 + 0.3), 12.5)
    assert observation.settings["z_um"] == 1.1
    assert math.isnan(observation.settings["lost"])
    assert record["simulated"] is True
