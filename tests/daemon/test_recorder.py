"""The recorder: what it accepted is on disk, what it did not is counted, and why it stopped is said."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog
import yaozarrs

from parfocal.daemon import recorder as recorder_module
from parfocal.daemon.recorder import Recorder, RecorderError
from parfocal.drivers.base import Frame


def frame(index: int, shape: tuple[int, int] = (32, 48), dtype: Any = np.uint16) -> Frame:
    return Frame(
        np.full(shape, index, dtype),
        index,
        {"z_um": float(index)},
        0.1 * index,
        0.1 * index + 0.01,
        0.325,
        simulated=True,
    )


def read(path: Path) -> Any:
    return yaozarrs.open_group(str(path))


def test_frames_come_back_with_their_metadata_and_the_simulated_mark(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "frames.ome.zarr")
    assert [recorder.offer(frame(index)) for index in (3, 5, 8)] == [0, 1, 2]
    recorder.close()
    recorder.close()
    group = read(tmp_path / "frames.ome.zarr")
    pixels = np.asarray(group["0"].to_tensorstore().read().result())
    assert pixels.shape == (3, 32, 48)
    assert [int(plane[0, 0]) for plane in pixels] == [3, 5, 8]
    metadata = group.attrs["ome_writers"]["frame_metadata"]
    assert [entry["index"] for entry in metadata] == [3, 5, 8]
    assert all(entry["simulated"] is True for entry in metadata)
    assert metadata[1]["position_z"] == 5.0


def test_a_slow_disk_drops_and_counts_but_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    class Slow:
        _backend = SimpleNamespace(_futures=[])

        def append(self, pixels: Any, frame_metadata: Any) -> None:
            gate.wait(10)

        def close(self) -> None:
            pass

    monkeypatch.setattr(recorder_module, "open_stream", lambda path, first: Slow())
    size = frame(0).pixels.nbytes
    recorder = Recorder(tmp_path / "f", queue_bytes=2 * size)
    places = [recorder.offer(frame(index)) for index in range(4)]
    assert places == [0, 1, None, None]
    assert recorder.dropped == 2
    gate.set()
    recorder.close()
    assert recorder.accepted == 2


def test_a_failing_writer_is_told_once_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, first: Frame) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recorder_module, "open_stream", fail)
    with structlog.testing.capture_logs():
        recorder = Recorder(tmp_path / "f")
        recorder.offer(frame(0))
        with pytest.raises(RecorderError, match="No space left") as caught:
            recorder.close()
    assert caught.value.exit_code == 4
    assert recorder.offer(frame(1)) is None
    with pytest.raises(RecorderError):
        recorder.check()


def test_frames_of_another_shape_are_counted_not_mixed_in(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "frames.ome.zarr")
    recorder.offer(frame(0))
    assert recorder.offer(frame(1, (16, 16))) is None
    assert recorder.offer(frame(2, dtype=np.uint8)) is None
    recorder.close()
    assert (recorder.accepted, recorder.dropped) == (1, 2)


class Failing:
    """A stream whose writes fail only after they were accepted, as those of a full disk do."""

    def __init__(self) -> None:
        self._backend = SimpleNamespace(_futures=[])
        self.appended = 0

    def append(self, pixels: Any, frame_metadata: Any) -> None:
        self.appended += 1
        number = self.appended

        def result() -> None:
            if number > 2:
                raise OSError(28, "No space left on device")

        self._backend._futures.append(SimpleNamespace(result=result))

    def close(self) -> None:
        pass


def test_a_write_that_fails_later_is_noticed_while_the_session_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Failing()
    monkeypatch.setattr(recorder_module, "open_stream", lambda path, first: stream)
    with structlog.testing.capture_logs():
        recorder = Recorder(tmp_path / "f")
        for index in range(20):
            recorder.offer(frame(index))
        deadline = time.monotonic() + 20
        while recorder.error is None and time.monotonic() < deadline:
            time.sleep(0.005)
        with pytest.raises(RecorderError, match=r"No space left.*the 2 before are there"):
            recorder.check()
        assert stream.appended == 2 + recorder_module.IN_FLIGHT + 1  # not one more than can be in flight
        with pytest.raises(RecorderError):
            recorder.close()


def test_what_the_journal_needs_is_left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage, free = namedtuple("usage", "total used free"), [10**9]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**10, 0, free[0]))
    monkeypatch.setattr(recorder_module, "LOOK_EVERY_BYTES", 10 * frame(0).pixels.nbytes)
    with structlog.testing.capture_logs():
        recorder = Recorder(tmp_path / "frames.ome.zarr")
        for index in range(10):
            recorder.offer(frame(index))
        while recorder._queue.qsize():
            time.sleep(0.002)
        free[0] = recorder_module.RESERVE_BYTES
        for index in range(10, 40):
            recorder.offer(frame(index))
        with pytest.raises(RecorderError, match="67 MB are left on the disk, which the journal needs"):
            recorder.close()
    shape = read(tmp_path / "frames.ome.zarr")["0"].to_tensorstore().shape
    assert 10 <= shape[0] <= 20


def test_simulated_is_on_the_disk_from_the_first_frame_on(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "frames.ome.zarr")
    recorder.offer(frame(0))
    deadline = time.monotonic() + 20
    while not (tmp_path / "frames.ome.zarr" / "0" / "c" / "0").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    attributes = json.loads((tmp_path / "frames.ome.zarr" / "zarr.json").read_text())["attributes"]
    assert attributes["parfocal"]["simulated"] is True  # and not only when it is closed, which a kill prevents
    recorder.close()
