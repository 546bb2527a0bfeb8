"""The recorder: what it accepted is on disk, what it did not is counted, and why it stopped is said."""

from __future__ import annotations

import threading
from pathlib import Path
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
