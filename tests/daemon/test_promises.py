"""The promises of safety and memory, each with somebody trying to break it: the microscope ends safe."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Follow, Reader

from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease
from parfocal.daemon.journal import read_journal
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import Owner, ServingClock
from parfocal.daemon.summary import Step, Summary
from parfocal.daemon.terms import Deadlines
from parfocal.drivers.base import CameraError, DeviceTimeoutError, HardwareError, StageError
from parfocal.models import ModelSpec
from parfocal.models.base import ModelError
from parfocal.models.scoring import ProcessScorer
from parfocal.policies.base import Change, Hold, Observation, PolicyError
from parfocal.simulator.clock import Clock, VirtualClock

LoopMaker = Callable[..., Loop]
CLOCKS: list[Callable[[], Clock]] = [VirtualClock, ServingClock]
ON = ["start={excitation_power: 5}", "session.max_frames=200"]
DRIVER = {
    ("open", 1): DeviceTimeoutError("the hub does not answer"),
    ("read", 1): HardwareError("no read-back"),
    ("snap", 1): CameraError("no frame"),
    ("snap", 5): CameraError("the camera stopped"),
    ("set", 1): StageError("the beam did not answer"),
    ("set", 2): StageError("the stage is stuck"),
    ("snap", 3): RuntimeError("a bug in the driver"),
    ("set", 3): ZeroDivisionError("another"),
}


def forever() -> Follow:
    return Follow(script=[Change({"z_um": float(i % 2)}, "to and fro") for i in range(500)])


def run(loop: Loop) -> Summary | BaseException:
    try:
        return asyncio.run(loop.run())
    except Exception as error:  # noqa: BLE001
        return error


def assert_safe(bench: Bench, loop: Loop) -> None:
    """Beam off, closed, nothing sent after it was made safe, and the journal whole."""
    assert bench.values["excitation_power"] == 0.0
    assert bench.safe
    assert bench.closed
    names = [entry[0] for entry in bench.log]
    first_safe = names.index("make_safe")
    assert "set" not in names[first_safe:]
    assert "snap" not in names[first_safe:]
    assert loop.state.state.value == "ended"
    reading = read_journal(loop.session.folder / "journal.jsonl")
    assert reading.torn == ""
    assert reading.records[-1]["kind"] == "end"
    assert (loop.session.folder / "summary.json").exists()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize(
    ("call", "error"), DRIVER.items(), ids=lambda v: "-".join(map(str, v)) if type(v) is tuple else ""
)
def test_whatever_driver_call_fails(make_loop: LoopMaker, clock: Any, call: tuple[str, int], error: Exception) -> None:
    def fault(where: str, count: int) -> None:
        if (where, count) == call:
            raise error

    bench = Bench(clock(), exposure_ms=1, fault=fault, settle_s=0.001)
    loop = make_loop(bench, *ON, policy=forever())
    result = run(loop)
    if isinstance(error, HardwareError):
        assert isinstance(result, Summary)
        assert (result.outcome, result.exit_code, result.error) == ("failed", 4, str(error))
    else:
        assert result is error  # a mistake is not swallowed, but the microscope comes first
    assert_safe(bench, loop)


class _Broken(Follow):
    def __init__(self, where: str, error: Exception) -> None:
        super().__init__(within_um=1e9)
        self._where, self._error = where, error

    def tell(self, observation: Observation) -> None:
        super().tell(observation)
        if self._where == "tell" and len(self.told) == 3:
            raise self._error

    def ask(self) -> Any:
        if self._where == "ask" and len(self.told) == 3:
            raise self._error
        return super().ask()


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("where", ["tell", "ask"])
@pytest.mark.parametrize("error", [PolicyError("told out of order"), KeyError("z_um")])
def test_a_policy_that_raises(make_loop: LoopMaker, clock: Any, where: str, error: Exception) -> None:
    bench = Bench(clock(), exposure_ms=1)
    loop = make_loop(bench, *ON, policy=_Broken(where, error))
    result = run(loop)
    assert result is error or (isinstance(result, Summary) and result.exit_code == 1 and result.error == str(error))
    assert_safe(bench, loop)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("call", [0, 3])
def test_a_scorer_that_raises_what_nobody_expects(make_loop: LoopMaker, clock: Any, call: int) -> None:
    def fault(count: int) -> None:
        if count == call:
            raise MemoryError("no room for a network")

    scorer = Reader(fault=fault)
    if call == 0:
        scorer.start = lambda: (_ for _ in ()).throw(ModelError("the weights are missing"))  # type: ignore[method-assign]
    bench = Bench(clock(), exposure_ms=1)
    loop = make_loop(bench, *ON, scorer=scorer, policy=Follow(within_um=1e9))
    result = run(loop)
    if call == 0:
        assert isinstance(result, Summary)
        assert (result.exit_code, bench.log) == (3, [])  # the hardware was never touched
    else:
        assert isinstance(result, MemoryError)
        assert_safe(bench, loop)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("after", [0, 1, 4, 9, 20])
def test_a_disk_that_fills_up_stops_every_command(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch, clock: Any, after: int
) -> None:
    """From the first record that cannot be written, nothing is commanded any more but the safe state."""
    bench = Bench(clock(), exposure_ms=1, settle_s=0.001)
    loop = make_loop(bench, *ON, policy=forever())
    journal, real, full_at = loop.session.journal, os.write, []

    def write(fd: int, data: bytes) -> int:
        if journal.records >= after and data.startswith(b'{"n"'):
            full_at.append(len(bench.sets))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    result = run(loop)
    monkeypatch.undo()
    assert isinstance(result, Summary)
    assert (result.outcome, result.exit_code) == ("failed", 4)
    assert "No space left" in result.error
    assert len(bench.sets) == full_at[0]
    assert bench.values["excitation_power"] == 0.0
    assert bench.closed
    if after:
        assert len(read_journal(journal.path).records) == after


def test_a_sync_that_fails_keeps_the_command_back(make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench()
    loop = make_loop(bench, "start={}", policy=forever())
    syncs = []

    def fail(fd: int) -> None:
        syncs.append(fd)
        if len(syncs) > 1:  # the first is the header's
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("parfocal.daemon.journal._fsync", fail)
    result = run(loop)
    assert isinstance(result, Summary)
    assert result.exit_code == 4
    assert bench.sets == []
    assert bench.safe


@pytest.mark.parametrize("where", ["open", "read", "snap", "set"])
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_driver_that_hangs(make_loop: LoopMaker, clock: Any, where: str) -> None:
    """The owner's thread is lost inside the driver: the deadline ends it, and the beam goes off from another thread."""
    release = threading.Event()

    def fault(call: str, count: int) -> None:
        if call == where and (count >= 3 or where in ("open", "read")):
            release.wait(30)

    bench = Bench(clock(), exposure_ms=1, fault=fault, settle_s=0.001)
    deadlines = Deadlines(open_s=0.2, frame_s=0.2, command_s=0.2, safe_s=0.2)
    loop = make_loop(bench, *ON, policy=forever(), deadlines=deadlines)
    result = run(loop)
    assert isinstance(result, Summary)
    assert (result.outcome, result.exit_code) == ("failed", 4)
    assert "0.2" in result.error
    assert bench.safe
    assert bench.values["excitation_power"] == 0.0
    commanded = len(bench.sets)
    release.set()
    deadline = time.monotonic() + 5
    while not bench.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert bench.closed  # once the driver comes back, its thread tidies up...
    assert bench.values["excitation_power"] == 0.0
    assert len(bench.sets) <= commanded + 1  # ...and sends nothing but what it hung in


def test_a_camera_that_ends_by_itself(make_loop: LoopMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=1)
    real = bench.frames
    bench.frames = lambda: (frame for frame, _ in zip(real(), range(3), strict=False))  # type: ignore[method-assign, assignment]
    loop = make_loop(bench, *ON, policy=Follow(within_um=1e9))
    result = run(loop)
    assert isinstance(result, Summary)
    assert result.exit_code == 4
    assert "ended its acquisition" in result.error
    assert_safe(bench, loop)


@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("at", [1, 2, 7])
@pytest.mark.parametrize("times", [1, 3])
def test_cancelled_at_any_frame_and_more_than_once(make_loop: LoopMaker, clock: Any, at: int, times: int) -> None:
    bench = Bench(clock(), exposure_ms=1, settle_s=0.001)

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None

        def cancel(step: Step) -> None:
            if step.frames >= at and not bench.safe:
                for number in range(times):
                    asyncio.get_running_loop().call_later(0.001 * number, runner.cancel)

        loop = make_loop(bench, *ON, policy=forever(), listeners=[cancel])
        holder.append(loop)
        runner = asyncio.ensure_future(loop.run())
        with pytest.raises(asyncio.CancelledError):
            await runner

    holder: list[Loop] = []
    asyncio.run(main())
    assert_safe(bench, holder[0])


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.003, 0.01, 0.05])
def test_safe_at_any_moment_and_asked_for_repeatedly(make_loop: LoopMaker, delay_s: float) -> None:
    bench = Bench(ServingClock(), exposure_ms=1, settle_s=0.005)
    loop = make_loop(bench, *ON, policy=forever())

    def ask() -> None:
        time.sleep(delay_s)
        for _ in range(5):
            loop.request_safe("the operator's hand")
            time.sleep(0.001)

    asker = threading.Thread(target=ask)
    asker.start()
    result = run(loop)
    asker.join()
    assert isinstance(result, Summary)
    assert result.exit_code == 5
    assert "the operator's hand" in result.error
    assert bench.values["excitation_power"] == 0.0
    names = [entry[0] for entry in bench.log]
    assert not names or "set" not in names[names.index("make_safe") :]


@pytest.mark.parametrize("frames", [20, 100_000], ids=["after the last frame", "while the camera runs"])
def test_a_silent_loop_loses_its_lease_and_the_owner_makes_safe_by_itself(make_loop: LoopMaker, frames: int) -> None:
    bench = Bench(ServingClock(), exposure_ms=1)
    was: list[float] = []

    def sleepy(step: Step) -> None:
        if step.scored and not was:
            time.sleep(1.5)  # the event loop is blocked: nobody watches the beam
            was.append(bench.values["excitation_power"])

    settings = ["start={excitation_power: 5}", f"session.max_frames={frames}", "limits.beam_lease_s=0.5"]
    loop = make_loop(bench, *settings, policy=forever(), listeners=[sleepy])
    result = run(loop)
    assert was == [0.0]  # off already while the loop still slept
    assert isinstance(result, Summary)
    assert (result.outcome, result.exit_code) == ("tripped", 5)
    assert "did not answer for 0.5 s" in result.error
    assert_safe(bench, loop)  # which woke up late, and sent nothing any more


def test_a_silent_loop_is_noticed_between_two_beats_too(make_loop: LoopMaker) -> None:
    """A frame an hour is no reason to leave the light on for an hour."""
    bench = Bench(ServingClock(), exposure_ms=1)
    was: list[float] = []

    def sleepy(step: Step) -> None:
        deadline = time.monotonic() + 30.0
        while bench.values["excitation_power"] > 0 and time.monotonic() < deadline:
            time.sleep(0.01)  # the event loop is blocked
        was.append(bench.values["excitation_power"])

    settings = ["start={excitation_power: 5}", "microscope.interval_ms=3600000", "limits.beam_lease_s=0.5"]
    loop = make_loop(bench, *settings, policy=forever(), listeners=[sleepy])
    result = run(loop)
    assert was == [0.0]
    assert isinstance(result, Summary)
    assert (result.outcome, result.exit_code) == ("tripped", 5)
    assert bench.log.count(("snap",)) == 1, "no frame was taken by a light that nobody watched"
    assert_safe(bench, loop)


@pytest.mark.parametrize(("interval_ms", "exposure_ms"), [(700, 1), (0, 700)], ids=["beats", "exposures"])
def test_a_loop_that_waits_longer_than_its_lease_for_a_frame_is_alive(
    make_loop: LoopMaker, interval_ms: int, exposure_ms: int
) -> None:
    bench = Bench(ServingClock(), exposure_ms=exposure_ms)
    loop = make_loop(
        bench, "start={excitation_power: 5}", "session.max_frames=3", "limits.beam_lease_s=0.4",
        f"microscope.interval_ms={interval_ms}", policy=Follow(within_um=1e9),
    )  # fmt: skip
    result = run(loop)
    assert isinstance(result, Summary)
    assert (result.outcome, result.frames) == ("done", 3), result.error


def test_a_slow_scorer_is_no_silent_loop(make_loop: LoopMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=10)
    loop = make_loop(
        bench, "start={excitation_power: 5}", "session.max_frames=300", "limits.beam_lease_s=1.2",
        scorer=Reader(delay_s=2.0), policy=Follow(within_um=1e9),
    )  # fmt: skip
    result = run(loop)
    assert isinstance(result, Summary)
    assert result.outcome == "done", result.error


def test_make_safe_that_raises_still_closes(make_loop: LoopMaker) -> None:
    bench = Bench()
    bench.make_safe = lambda: (_ for _ in ()).throw(HardwareError("the shutter is stuck"))  # type: ignore[method-assign]
    closed = []
    bench.close = lambda: closed.append(True)  # type: ignore[method-assign]
    result = run(make_loop(bench, "session.max_frames=3"))
    assert isinstance(result, Summary)
    assert closed == [True]


def test_commands_queued_before_the_end_are_not_sent_after_it() -> None:
    """A command that timed out in the queue must not reach a microscope that was made safe meanwhile."""
    release, exposing = threading.Event(), threading.Event()

    def fault(where: str, count: int) -> None:
        if where == "snap":
            exposing.set()
            release.wait(10)

    bench = Bench(ServingClock(), fault=fault)

    async def main() -> None:
        lease = BeamLease(100.0)
        owner = Owner(bench, DoseLedger(), lease)
        owner.start()
        await owner.open(5.0)
        lease.renew(bench.clock.now())
        owner.stream(True)
        assert await asyncio.to_thread(exposing.wait, 10)
        with pytest.raises(DeviceTimeoutError):
            await owner.set("excitation_power", 5.0, 0.1)
        closing = asyncio.ensure_future(owner.close(0.1))
        await asyncio.sleep(0.05)
        release.set()
        await closing

    with structlog.testing.capture_logs():
        asyncio.run(main())
    assert bench.sets == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_a_killed_scorer_process_is_replaced_and_the_loop_goes_on(make_loop: LoopMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=5, shape=(64, 64))
    scorer = ProcessScorer([ModelSpec("sharpness", {})], max_pixels=64 * 64)
    killed: list[int] = []
    scored_after: list[int] = []

    def kill(step: Step) -> None:
        if step.scored == 3 and not killed and scorer.pid is not None:
            killed.append(scorer.pid)
            os.kill(scorer.pid, signal.SIGKILL)
        elif killed and step.assessments is not None:
            scored_after.append(step.frames)
            if len(scored_after) > 3:
                loop.request_stop("seen enough")

    policy = Follow(script=[Hold("watch")] * 100_000)
    loop = make_loop(bench, "start={}", scorer=scorer, policy=policy, listeners=[kill])
    result = run(loop)
    assert isinstance(result, Summary)
    assert (result.outcome, result.exit_code) == ("stopped", 0)
    assert scorer.restarts == 1
    assert len(scored_after) > 3
    assert_safe(bench, loop)


SCRIPT = """
import asyncio, sys, pathlib
sys.path.insert(0, sys.argv[1])
from doubles import Bench, Follow, Reader
from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.session import Session
from parfocal.policies.base import Change
config = load_config(None, ["session.record=none", "microscope.interval_ms=0"])
policy = Follow(script=[Change({"z_um": float(i % 2)}, "to and fro") for i in range(100000)])
session = Session.create(config, pathlib.Path(sys.argv[2]))
bench = Bench(ServingClock(), exposure_ms=1, settle_s=0.001)
asyncio.run(Loop(bench, Decider(Reader(), lambda _: (policy, {})), session).run())
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="POSIX only")
def test_sigkill_leaves_a_session_readable_up_to_the_last_decision(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", SCRIPT, str(Path(__file__).parent), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = folder / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.stat().st_size < 60_000:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    reading = read_journal(journal)
    readbacks, commands = list(reading.of("readback")), list(reading.of("command"))
    assert len(commands) > 5
    assert 0 <= len(commands) - len(readbacks) <= 1  # never a move that nothing was written about
    assert json.loads((folder / "session.json").read_text())["simulated"] is True
