"""Scorers: what comes back is what the model said; the process may die, hang or fail, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models import ModelSpec, child, slot
from parfocal.models.base import Assessment, ImageError, ModelError, ScorerError
from parfocal.models.scoring import InlineScorer, ProcessScorer, Scorer, ScorerLostError
from parfocal.models.slot import FrameSlot

RAISE, DIE, HANG, REFUSE, NONSENSE, KEEP, EXIT, WRITE, PRINT = range(61001, 61010)
OBEDIENT = ModelSpec("obedient", {"answer": 42})
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory lives on Linux
posix = pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")


def frame(order: int = 7, shape: tuple[int, int] = (48, 64)) -> NDArray[np.uint16]:
    pixels = np.random.default_rng(0).integers(0, 60000, shape).astype(np.uint16)
    pixels[0, 0] = order
    return pixels


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


@pytest.fixture(autouse=True)
def nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test that leaves a process or shared memory of its own."""
    names: list[str] = []
    create = FrameSlot.create

    def recorded(pixel_bytes: int) -> FrameSlot:
        made = create(pixel_bytes)
        names.append(made.name)
        return made

    monkeypatch.setattr(FrameSlot, "create", staticmethod(recorded))
    before = {process.pid for process in multiprocessing.active_children()}
    yield
    assert wait_until(lambda: {process.pid for process in multiprocessing.active_children()} <= before, 5)
    assert not any(memory_exists(name) for name in names)


def memory_exists(name: str) -> bool:
    return (SHARED_MEMORY / name.lstrip("/")).exists()


@pytest.fixture(scope="module")
def steady(plugin: Path) -> Iterator[ProcessScorer]:
    """One process for all tests that do it no harm."""
    made = ProcessScorer([OBEDIENT], max_pixels=128 * 128, threads=1)
    made.start()
    yield made
    made.close()


@pytest.fixture
def scorer(plugin: Path) -> Iterator[ProcessScorer]:
    made = ProcessScorer([OBEDIENT], max_pixels=64 * 64, threads=1)
    made.start()
    yield made
    made.close()


@pytest.fixture(params=[InlineScorer, ProcessScorer])
def any_scorer(request: pytest.FixtureRequest, plugin: Path) -> Iterator[Scorer]:
    made: Scorer = request.param([OBEDIENT, ModelSpec("quick")])
    made.start()
    yield made
    made.close()


def test_both_scorers_say_what_the_models_say(any_scorer: Scorer) -> None:
    assert isinstance(any_scorer, Scorer)
    pixels = frame()
    said = any_scorer.score(pixels, 0.25, 5.0)
    assert set(said) == {"obedient", "quick"}
    assert said["quick"] == Assessment("quick", 1.0, 0.1)
    obedient = said["obedient"]
    assert obedient.value == float(pixels.mean(dtype=np.float64))
    assert obedient.detail == {"pixel_um": 0.25, "wide": 64.0, "high": 48.0, "order": 7.0}
    assert obedient.distribution is not None
    assert obedient.distribution.probability.sum() == pytest.approx(1)
    assert obedient.patch_map is not None
    assert obedient.patch_map.value.dtype == np.float32
    assert np.isnan(obedient.patch_map.certainty).all()
    assert any_scorer.healthy
    assert any_scorer.describe()["obedient"]["card"]["name"] == "obedient"


@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "f4", "f8"])
def test_every_pixel_type_crosses_exactly(steady: ProcessScorer, dtype: str) -> None:
    pixels = (frame() % 200).astype(dtype)
    strided = np.repeat(pixels, 2, axis=1)[:, ::2]
    strided.setflags(write=False)
    wanted = float(pixels.astype(pixels.dtype.newbyteorder("=")).mean(dtype=np.float64))
    assert steady.score(strided, 0.25)["obedient"].value == wanted


def test_a_larger_frame_makes_the_slot_grow(scorer: ProcessScorer) -> None:
    pid = scorer.pid
    for shape in ((48, 64), (700, 900), (64, 48), (701, 900)):
        pixels = frame(shape=shape)
        assert scorer.score(pixels, 0.25)["obedient"].value == float(pixels.mean(dtype=np.float64))
    assert scorer.pid == pid


def test_growing_does_not_mind_a_model_that_keeps_its_frame(scorer: ProcessScorer) -> None:
    scorer.score(frame(KEEP), 0.25)
    assert scorer.score(frame(shape=(700, 900)), 0.25)["obedient"].detail["wide"] == 900


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((3, 48, 64), np.uint16), "one frame"),
        (np.zeros((48, 64), complex), "integer or floating"),
        (np.zeros((48, 64), bool), "integer or floating"),
        (np.full((48, 64), np.nan), "NaN"),
        (np.zeros((8, 64), np.uint16), "too small"),
        (np.zeros((48, 64), np.int64), "expected a 2-D frame of"),
        (frame(REFUSE), "an image I cannot take"),
    ],
)
def test_bad_images_are_refused_and_the_scorer_goes_on(
    steady: ProcessScorer, pixels: NDArray[Any], message: str
) -> None:
    pid = steady.pid
    with pytest.raises(ImageError, match=message):
        steady.score(pixels, 0.25)
    assert steady.score(frame(), 0.25)["obedient"].detail["order"] == 7
    assert steady.pid == pid


@pytest.mark.parametrize("pixel_um", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_size_that_is_none(steady: ProcessScorer, pixel_um: float) -> None:
    with pytest.raises(ImageError, match="pixel size"):
        steady.score(frame(), pixel_um, 5.0)


@pytest.mark.parametrize(
    ("order", "message"),
    [(RAISE, "ValueError: told to raise"), (NONSENSE, "must return a list of one"), (WRITE, "read-only")],
)
def test_a_model_that_fails_is_an_error_and_not_the_end(steady: ProcessScorer, order: int, message: str) -> None:
    with pytest.raises(ScorerError, match=message):
        steady.score(frame(order), 0.25)
    assert steady.healthy
    assert steady.score(frame(), 0.25)["obedient"].detail["order"] == 7


def test_inline_reports_failures_the_same_way(plugin: Path) -> None:
    scorer = InlineScorer([OBEDIENT])
    with pytest.raises(ScorerError, match="call start"):
        scorer.score(frame(), 0.25)
    scorer.start()
    with pytest.raises(ScorerError, match="ValueError: told to raise"):
        scorer.score(frame(RAISE), 0.25)
    with pytest.raises(ImageError, match="cannot take"):
        scorer.score(frame(REFUSE), 0.25)
    scorer.restart()
    assert scorer.restarts == 1
    scorer.close()
    assert not scorer.healthy


def test_frames_are_read_only_to_inline_models_too_if_they_were(plugin: Path) -> None:
    scorer = InlineScorer([OBEDIENT])
    scorer.start()
    frozen = frame(WRITE)
    frozen.setflags(write=False)
    with pytest.raises(ScorerError, match="read-only"):
        scorer.score(frozen, 0.25)


@posix
@pytest.mark.parametrize(("order", "message"), [(DIE, "signal SIGKILL"), (EXIT, "exit status")])
def test_a_death_in_the_middle_of_a_frame(scorer: ProcessScorer, order: int, message: str) -> None:
    pid = scorer.pid
    assert pid is not None
    with pytest.raises(ScorerLostError, match=message):
        scorer.score(frame(order), 0.25, 20.0)
    assert gone(pid)
    assert not scorer.healthy
    with pytest.raises(ScorerLostError, match=r"no scorer process: .*call restart"):
        scorer.score(frame(), 0.25)
    scorer.restart()
    assert scorer.restarts == 1
    assert scorer.healthy
    assert scorer.score(frame(), 0.25)["obedient"].detail["order"] == 7


@posix
def test_a_death_between_frames_shows_in_healthy(scorer: ProcessScorer) -> None:
    assert scorer.pid is not None
    os.kill(scorer.pid, signal.SIGKILL)
    assert wait_until(lambda: not scorer.healthy)
    with pytest.raises(ScorerLostError, match="SIGKILL"):
        scorer.score(frame(), 0.25)


def test_a_model_that_hangs_is_killed(scorer: ProcessScorer) -> None:
    pid = scorer.pid
    assert pid is not None
    with pytest.raises(ScorerLostError, match=r"did not answer within 0.3 s and was killed"):
        scorer.score(frame(HANG), 0.25, 0.3)
    assert gone(pid)
    scorer.restart()
    assert scorer.score(frame(), 0.25)["obedient"].detail["order"] == 7


@posix
def test_a_stopped_process_is_noticed_while_idle_and_killed_when_asked(
    scorer: ProcessScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "SILENT_S", 1.0)
    pid = scorer.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert wait_until(lambda: not scorer.healthy)
    with pytest.raises(ScorerLostError, match="was killed"):
        scorer.score(frame(), 0.25, 0.3)
    assert gone(pid)


@posix
def test_an_idle_process_stays_healthy(scorer: ProcessScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "SILENT_S", 1.0)
    for _ in range(15):
        time.sleep(0.1)
        assert scorer.healthy


def test_an_answer_that_stops_halfway_is_cut_off(scorer: ProcessScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = scorer._child
    assert handle is not None
    # The beginning of an answer has come, its end never does: the wait for it has no time-out of its own.
    monkeypatch.setattr(handle._parts.connection, "poll", lambda timeout: True)
    with pytest.raises(ScorerLostError, match=r"SIGKILL|exit status"):
        scorer.score(frame(HANG), 0.25, 0.2)


@posix
def test_interrupts_are_not_for_the_scorer(steady: ProcessScorer) -> None:
    assert steady.pid is not None
    os.kill(steady.pid, signal.SIGINT)
    time.sleep(0.1)
    assert steady.score(frame(), 0.25)["obedient"].detail["order"] == 7


def test_close_tears_a_score_out_of_its_wait(scorer: ProcessScorer) -> None:
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            scorer.score(frame(HANG), 0.25, 60.0)
        except ScorerError as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.3)
    scorer.close()
    thread.join(10)
    assert not thread.is_alive()
    assert isinstance(caught[0], ScorerLostError)


def test_close_and_start_are_idempotent(scorer: ProcessScorer) -> None:
    pid = scorer.pid
    scorer.start()
    assert scorer.pid == pid
    scorer.close()
    scorer.close()
    assert scorer.pid is None
    assert scorer.describe() == {}
    with pytest.raises(ScorerError, match="call start"):
        scorer.score(frame(), 0.25)
    scorer.start()
    assert scorer.score(frame(), 0.25)["obedient"].detail["order"] == 7


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("broken", ModelError, "these weights are of no use"),
        ("unimportable", ModelError, "cannot be imported"),
        ("nobody", ModelError, "unknown model 'nobody'"),
        ("dying", ScorerLostError, "exit status 7"),
    ],
)
def test_a_start_that_fails_says_why(plugin: Path, name: str, kind: type[ModelError], message: str) -> None:
    scorer = ProcessScorer([ModelSpec(name)])
    with pytest.raises(kind, match=message):
        scorer.start()
    assert not scorer.healthy


def test_a_start_that_takes_too_long(plugin: Path) -> None:
    with pytest.raises(ScorerLostError, match="did not start within 1 s"):
        ProcessScorer([ModelSpec("stuck")], start_timeout_s=1.0).start()


def test_panels_that_make_no_sense() -> None:
    for scorer in (InlineScorer, ProcessScorer):
        with pytest.raises(ModelError, match="no models"):
            scorer([])
        with pytest.raises(ModelError, match="more than once"):
            scorer([OBEDIENT, OBEDIENT])


def test_it_is_spawned_with_its_threads_and_out_of_stdout(
    steady: ProcessScorer, capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = steady.describe()["obedient"]["runtime"]
    assert runtime["threads"] == "1"
    assert runtime["pid"] == steady.pid != os.getpid()
    steady.score(frame(PRINT), 0.25)
    assert capfd.readouterr().out == ""


def test_a_forgotten_scorer_cleans_up_after_itself(plugin: Path) -> None:
    scorer = ProcessScorer([OBEDIENT])
    scorer.start()
    pid = scorer.pid
    assert pid is not None
    del scorer
    assert wait_until(lambda: gone(pid))


@posix
def test_closing_a_stopped_process_kills_it(scorer: ProcessScorer) -> None:
    pid = scorer.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    scorer.close()
    assert gone(pid)


SCRIPT = """
import os, signal, sys, threading, time
sys.path.insert(0, {plugin!r})
import numpy as np
from parfocal.models import ModelSpec
from parfocal.models.scoring import ProcessScorer
if __name__ == "__main__":
    scorer = ProcessScorer([ModelSpec("obedient")])
    scorer.start()
    print(scorer.pid, scorer._child._parts.slot.name, flush=True)
    {end}
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
HANGING = f"np.full((48, 64), {HANG}, np.uint16), 0.25, 60"


@posix
@pytest.mark.parametrize(
    ("end", "status"),
    [
        pytest.param(KILLED, -9, id="killed"),
        pytest.param(
            f"threading.Thread(target=scorer.score, args=({HANGING})).start(); time.sleep(0.5); {KILLED}", -9,
            id="killed while a model computes",
        ),
        pytest.param("raise SystemExit(0)", 0, id="left"),
        pytest.param("time.sleep(60)", -15, id="terminated"),
    ],
)  # fmt: skip
def test_the_scorer_does_not_outlive_its_parent(plugin: Path, tmp_path: Path, end: str, status: int) -> None:
    script = tmp_path / "parent.py"
    script.write_text(SCRIPT.format(plugin=str(plugin), end=end))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stderr is not None
        try:
            number, name = parent.stdout.readline().split()
            if status == -15:
                parent.terminate()
            assert parent.wait(30) == status
        finally:
            parent.kill()
        complaint = parent.stderr.read().decode()
    assert wait_until(lambda: gone(int(number)))
    assert wait_until(lambda: not memory_exists(name.decode()))
    if status == 0:
        assert complaint == ""


def test_slots_refuse_what_does_not_fit() -> None:
    shared = FrameSlot.create(1000)
    try:
        with pytest.raises(ImageError, match="does not fit"):
            shared.write(np.zeros((100, 100), np.uint16), 0.1, 1)
        with pytest.raises(ScorerError, match="damaged"):
            shared.read()
        shared.write(np.arange(12, dtype=np.uint16).reshape(3, 4), 0.1, 5)
        pixels, pixel_um, sequence = shared.read()
        assert (pixels.tolist(), pixel_um, sequence) == (np.arange(12).reshape(3, 4).tolist(), 0.1, 5)
        del pixels
    finally:
        shared.close()
        shared.close()
    assert shared.beats() == -1
    with pytest.raises(ScorerError, match="cannot be opened"):
        FrameSlot.attach(shared.name)


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="where POSIX shared memory is a folder")
def test_memory_the_machine_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ScorerError, match="--shm-size"):
        FrameSlot.create(1 << 50)
    monkeypatch.setattr(slot, "_LINUX_MEMORY", Path("/nowhere"))
    assert slot._check_room(1 << 50) is None
