"""The restorer's process: frames of every shape get there, its faults stay there, and nothing is left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from parfocal.daemon.restorechild import (
    NICENESS,
    FrameRefusedError,
    Method,
    RestoreChild,
    RestorerLostError,
    RestorerUnusableError,
)
from parfocal.models.base import ImageError, ScorerError
from parfocal.models.slot import FrameSlot

MAKER = """
import os, time
import numpy as np
from parfocal.models.base import WeightsMissingError
from parfocal.models.restore.base import RestoreError, Verdict, Restoration, check_frame


class Restorer:
    name = "trial"

    def __init__(self, options):
        self.fault = options.get("fault", "")

    def restore(self, frame, blur):
        if self.fault == "raise":
            raise RuntimeError("a mistake")
        if self.fault == "refuse":
            raise RestoreError("not this one")
        if self.fault == "die":
            os._exit(3)
        if self.fault == "hang":
            time.sleep(1000)
        pixels = check_frame(frame)
        frame[:] = 0  # what it does to its copy is nobody else's business
        refused = np.zeros((2, 3), bool)
        refused[0, 2] = True
        reason = f"{frame.dtype} {frame.shape} {pixels.sum():.0f} {blur.defocus_um} {blur.optics.na} nice {os.nice(0)}"
        return Restoration("trial", Verdict.RESTORED, reason, 2 * pixels, None, refused, blur)


def make(method, options):
    if options.get("fault") == "start":
        raise WeightsMissingError("no weights here")
    if options.get("fault") == "start_bug":
        raise RuntimeError("cannot begin")
    if options.get("fault") == "start_hang":
        time.sleep(1000)
    return Restorer(options)
"""
TOLD = {"optics": {"na": 0.75}, "defocus_um": 4.0, "sd_um": 0.5, "longest_px": 64}
ChildMaker = Callable[..., RestoreChild]


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ChildMaker]:
    """Start a process whose restorer is quickly imported and has the fault asked for."""
    (tmp_path / "parfocal_trial_restorer.py").write_text(MAKER)
    monkeypatch.syspath_prepend(tmp_path)
    made: list[RestoreChild] = []

    def start(fault: str = "") -> RestoreChild:
        made.append(RestoreChild(Method("trial", {"fault": fault}, "parfocal_trial_restorer:make")))
        return made[-1]

    yield start
    for one in made:
        one.close()


def gone(pid: int | None) -> bool:
    try:
        os.kill(pid or 0, 0)
    except ProcessLookupError:
        return True
    return False


def test_frames_of_any_shape_and_type_come_back_small(child: ChildMaker) -> None:
    one = child()
    one.wait_until_ready(60.0)
    for shape, kind in (((64, 96), np.uint16), ((300, 200), np.float32), ((64, 64), np.uint8), ((200, 300), ">u2")):
        frame = np.ones(shape, kind)
        made = one.restore(frame, 0.3, TOLD, 30.0)
        assert made["verdict"] == "restored"
        assert made["reason"].startswith(f"{frame.dtype.newbyteorder('=')} {shape} {frame.size} 4.0 0.75")
        image, refused = made["image"], made["refused"]
        assert max(image["width"], image["height"]) <= 64
        assert len(image["pixels"]) == image["width"] * image["height"]
        assert (refused["rows"], refused["columns"], refused["cell_px"]) == (2, 3, 32)
        assert refused["cells"] == bytes([0, 0, 1, 0, 0, 0])
        assert frame.min() == 1, "the camera's own pixels were written to"
    if sys.platform != "win32":
        assert int(made["reason"].rpartition(" ")[2]) >= NICENESS
    assert one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD | {"longest_px": 0}, 30.0)["image"] is None


def test_what_is_no_frame_is_refused_and_the_process_lives_on(child: ChildMaker) -> None:
    one = child()
    one.wait_until_ready(60.0)
    with pytest.raises(ImageError, match="2-D"):
        one.restore(np.ones((64, 64, 3), np.uint8), 0.3, TOLD, 30.0)
    with pytest.raises(FrameRefusedError, match="too small"):
        one.restore(np.ones((8, 8), np.uint8), 0.3, TOLD, 30.0)
    with pytest.raises(FrameRefusedError, match="NaN"):
        one.restore(np.full((64, 64), np.nan, np.float32), 0.3, TOLD, 30.0)
    assert one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD, 30.0)["verdict"] == "restored"


def test_a_refusal_of_the_method_is_one_of_the_frame(child: ChildMaker) -> None:
    one = child("refuse")
    one.wait_until_ready(60.0)
    with pytest.raises(FrameRefusedError, match=r"^not this one$"):
        one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD, 30.0)


@pytest.mark.parametrize(("fault", "why"), [("raise", "RuntimeError: a mistake"), ("die", "died")])
def test_a_mistake_or_a_death_while_restoring_is_said(child: ChildMaker, fault: str, why: str) -> None:
    one = child(fault)
    one.wait_until_ready(60.0)
    with pytest.raises(RestorerLostError, match=why):
        one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD, 30.0)


def test_one_that_stalls_is_killed(child: ChildMaker) -> None:
    one = child("hang")
    one.wait_until_ready(60.0)
    pid = one.pid
    with pytest.raises(RestorerLostError, match=r"did not answer within 0\.2 s and was killed"):
        one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD, 0.2)
    one.close()
    assert gone(pid)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stopped", [signal.SIGSTOP, signal.SIGKILL])
def test_one_that_is_stopped_or_killed_from_outside(child: ChildMaker, stopped: signal.Signals) -> None:
    one = child()
    one.wait_until_ready(60.0)
    assert one.pid is not None
    os.kill(one.pid, stopped)
    with pytest.raises(RestorerLostError, match="killed"):
        one.restore(np.ones((64, 64), np.uint8), 0.3, TOLD, 0.5)


@pytest.mark.parametrize(
    ("fault", "kind", "why"),
    [
        ("start", RestorerUnusableError, "^no weights here$"),
        ("start_bug", RestorerLostError, "RuntimeError: cannot begin"),
        ("start_hang", RestorerLostError, "did not start within"),
    ],
)
def test_one_that_cannot_begin_says_why(child: ChildMaker, fault: str, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        child(fault).wait_until_ready(0.5 if fault == "start_hang" else 60.0)


def test_closing_leaves_no_process_and_no_memory(child: ChildMaker) -> None:
    one = child()
    pid, slot = one.pid, one._slot.name
    one.close()
    one.close()
    until = time.monotonic() + 10.0
    while not gone(pid):
        assert time.monotonic() < until
        time.sleep(0.01)
    with pytest.raises(ScorerError):
        FrameSlot.attach(slot)
    one.kill()  # whoever comes late does no harm
