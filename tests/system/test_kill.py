"""SIGKILL while everything is recorded: the session is readable, and every decision that was completed is in it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import yaozarrs

from parfocal.daemon.bench_record import killed
from parfocal.daemon.replay.decisions import reproduce
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.report.page import render

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs fork")
CHILD = """
import sys
from pathlib import Path
from parfocal.daemon.bench_record import _record_until_killed
_record_until_killed(Path(sys.argv[1]), 1)
"""
FRAMES = 25


def test_at_a_few_random_instants() -> None:
    found = killed(3, seed=4, longest_s=2.0)
    assert found["readable"] == found["killed"] == 3
    assert found["missing"] == 0
    assert found["differing"] == 0
    assert found["zarr_readable"] == found["zarr"]


def test_frames_that_were_on_the_disk_open_in_ordinary_readers(tmp_path: Path) -> None:
    folder = tmp_path / "session"
    child = subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 90
        while not (folder / "frames.ome.zarr" / "0" / "c" / str(FRAMES) / "0" / "0").exists():
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.02)
    finally:
        child.kill()
        told, _ = child.communicate()
    completed = {int.from_bytes(told[at : at + 4], "little") for at in range(4, len(told) - 3, 4)}
    reader = SessionReader(folder)
    assert completed <= {record["index"] for record in reader.journal.of("verdict")}
    assert reproduce(reader).differing == ()
    image = yaozarrs.open_group(str(folder / "frames.ome.zarr"))
    assert image.attrs["parfocal"]["simulated"] is True
    assert [axis["name"] for axis in image.attrs["ome"]["multiscales"][0]["axes"]] == ["t", "y", "x"]
    array = tensorstore.open(
        {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(folder / "frames.ome.zarr" / "0")}}
    ).result()
    assert array.shape[0] > FRAMES
    for index in range(FRAMES):  # the frame's own number is in its first pixels
        place = reader.stored[index]
        assert int(np.asarray(array[place].read().result())[0, 1]) == index
    assert "did not end in good order" in render(reader)
