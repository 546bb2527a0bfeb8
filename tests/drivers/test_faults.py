from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.drivers.base import (
    CameraError,
    DeviceTimeoutError,
    Frame,
    HardwareError,
    Microscope,
    ParameterError,
    StageError,
)
from parfocal.drivers.faults import KINDS, Fault, FaultPlan, FaultyMicroscope
from parfocal.drivers.simulated import SimulatedMicroscope
from parfocal.simulator.clock import VirtualClock


def faulty(*faults: Fault, seed: int = 0, **simulation: Any) -> FaultyMicroscope:
    options = {"simulation": {"size_px": 48, "specimen": "nuclei", **simulation}, "seed": 3}
    made = FaultyMicroscope(SimulatedMicroscope(options, VirtualClock(100.0)), FaultPlan(faults, seed))
    made.open()
    return made


def snaps(made: FaultyMicroscope, count: int) -> list[Frame]:
    return [made.snap() for _ in range(count)]


def streamed(made: FaultyMicroscope, count: int) -> list[Frame]:
    source = made.frames()
    frames = [next(source) for _ in range(count)]
    source.close()  # type: ignore[attr-defined]
    return frames


both_ways = pytest.mark.parametrize("take", [snaps, streamed])
Take = Callable[[FaultyMicroscope, int], list[Frame]]


def test_is_itself_a_microscope() -> None:
    made = faulty()
    assert isinstance(made, Microscope)
    assert made.simulated
    assert made.parameters == made.inner.parameters
    assert made.clock is made.inner.clock


@both_ways
def test_an_empty_plan_changes_nothing(take: Take) -> None:
    made, plain = faulty(), faulty().inner
    for frame, expected in zip(take(made, 3), [plain.snap() for _ in range(3)], strict=True):
        assert np.array_equal(frame.pixels, expected.pixels)
        assert (frame.index, frame.settings, frame.truth) == (expected.index, expected.settings, expected.truth)
    assert made.struck == []


@both_ways
def test_dropped_frames_leave_a_gap_in_the_index(take: Take) -> None:
    made = faulty(Fault("dropped", frames=(1, 2)))
    assert [frame.index for frame in take(made, 3)] == [0, 3, 4]
    assert made.struck == [(1, "dropped"), (2, "dropped")]


@both_ways
def test_a_camera_that_loses_everything_has_stopped(take: Take) -> None:
    with pytest.raises(CameraError, match="lost in a row"):
        take(faulty(Fault("dropped"), size_px=32, specimen="empty"), 1)


@both_ways
def test_timeout_comes_after_its_delay(take: Take) -> None:
    made = faulty(Fault("timeout", frames=(0,), amount=2000.0))
    before = made.clock.now()
    with pytest.raises(DeviceTimeoutError, match="2000 ms"):
        take(made, 1)
    assert made.clock.now() == pytest.approx(before + 2.0)
    assert take(made, 1)[0].index == 0


@both_ways
def test_a_camera_that_stops(take: Take) -> None:
    made = faulty(Fault("stopped", first=1, last=2))
    assert take(made, 1)[0].index == 0
    for _ in range(2):
        with pytest.raises(CameraError, match="stopped"):
            take(made, 1)
    assert take(made, 1)[0].index == 1


def test_a_hanging_camera_delivers_long_after_its_exposure() -> None:
    made = faulty(Fault("hang", frames=(1,), amount=30_000.0))
    made.snap()
    frame = made.snap()
    assert made.clock.now() - frame.end_s > 29.9


@both_ways
def test_a_frozen_camera_repeats_its_pixels_under_new_numbers(take: Take) -> None:
    frames = take(faulty(Fault("frozen", first=1, last=3)), 5)
    assert all(np.array_equal(frames[0].pixels, frame.pixels) for frame in frames[1:4])
    assert not np.array_equal(frames[0].pixels, frames[4].pixels)
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert np.all(np.diff([frame.start_s for frame in frames]) > 0)


def test_nan_frames_are_float32_with_as_many_nan_as_said() -> None:
    frames = snaps(faulty(Fault("nan", frames=(0,), amount=0.25), Fault("nan", frames=(1,), amount=0.0)), 3)
    assert frames[0].pixels.dtype == np.float32
    assert np.isnan(frames[0].pixels).mean() == pytest.approx(0.25)
    assert np.isnan(frames[1].pixels).sum() == 1
    assert frames[2].pixels.dtype == np.uint16


def test_wrong_shape_and_wrong_dtype() -> None:
    shape, dtype, fine = snaps(faulty(Fault("shape", frames=(0,)), Fault("dtype", frames=(1,))), 3)
    assert shape.pixels.shape == (48, 24)
    assert dtype.pixels.dtype == np.complex64
    assert fine.pixels.shape == (48, 48)
    assert fine.pixels.dtype == np.uint16


def test_saturated_and_blank() -> None:
    saturated, blank, fine = snaps(faulty(Fault("saturated", frames=(0,)), Fault("blank", frames=(1,))), 3)
    assert (saturated.pixels == saturated.saturation_counts).all()
    assert blank.pixels.std() < 3 < fine.pixels.std()
    assert blank.pixels.std() > 1
    assert blank.pixels.dtype == np.uint16


def test_a_late_frame_was_exposed_before_the_last_move() -> None:
    made = faulty(Fault("late", frames=(1,)))
    before = made.snap()
    made.set("z_um", 20.0)
    moved_s = made.clock.now()
    late = made.snap()
    assert late.start_s < late.end_s < moved_s
    assert late.settings["z_um"] == 0.0
    assert np.array_equal(late.pixels, before.pixels)
    assert late.index == 1
    assert made.snap().start_s >= moved_s


@pytest.mark.parametrize("move", [False, True])
def test_a_late_first_frame_only_has_older_times(move: bool) -> None:
    made = faulty(Fault("late", frames=(0,), amount=7.0))
    if move:
        made.set("z_um", 20.0)
    now = made.clock.now()
    late = made.snap()
    assert late.start_s == pytest.approx(now - 0.007 - (0.010 if move else 0.0))
    assert late.end_s - late.start_s == pytest.approx(0.010)


def test_a_stuck_stage_does_not_follow_and_reads_back_so() -> None:
    made = faulty(Fault("stage_stuck", first=1))
    assert made.set("z_um", 5.0) == 5.0
    made.snap()
    assert made.set("z_um", 9.0) == 5.0
    assert made.read()["z_um"] == 5.0
    assert made.snap().truth["stage_um"] == 5.0
    assert made.set("excitation_power", 0.5) == 0.5  # only the stage is stuck
    with pytest.raises(ParameterError):
        made.set("z_um", 1e6)


def test_a_creeping_stage_goes_away_by_itself_as_far_as_it_can() -> None:
    made = faulty(Fault("stage_creep", first=1, amount=40.0), size_px=32)
    assert [round(frame.settings["z_um"], 6) for frame in snaps(made, 5)] == [0.0, 40.0, 80.0, 80.0, 80.0]
    assert made.struck == [(1, "stage_creep"), (2, "stage_creep")]


def test_a_stage_that_times_out_or_fails_has_not_moved() -> None:
    made = faulty(Fault("stage_timeout", first=0, last=0, amount=3000.0), Fault("stage_error", first=1))
    before = made.clock.now()
    with pytest.raises(DeviceTimeoutError, match="3000 ms"):
        made.set("z_um", 5.0)
    assert made.clock.now() == pytest.approx(before + 3.0)
    made.snap()
    with pytest.raises(StageError, match="z_um = 5 um"):
        made.set("z_um", 5.0)
    assert made.read()["z_um"] == 0.0


def test_faults_that_strike_together_all_show() -> None:
    made = faulty(Fault("dtype", first=1), Fault("nan", first=1, last=1), Fault("shape"), Fault("frozen", first=1))
    first, second, third = snaps(made, 3)
    assert first.pixels.shape == second.pixels.shape == (48, 24)
    assert second.pixels.dtype == third.pixels.dtype == np.complex64
    assert 0 < np.isnan(second.pixels).sum() < second.pixels.size
    assert np.array_equal(third.pixels.real, first.pixels)  # frozen at the whole frame, not at the spoiled one


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_can_be_seen_and_none_prevents_a_safe_end(kind: str) -> None:
    made = faulty(Fault(kind), size_px=32)  # type: ignore[arg-type]
    clean = faulty(size_px=32)
    seen: list[object] = []
    for microscope in (clean, made):
        try:
            reached = microscope.set("z_um", 2.0)
            frame = microscope.snap()
            following = microscope.snap()
            delay = microscope.clock.now() - following.end_s
            pixels = frame.pixels if kind != "frozen" else np.equal(frame.pixels, following.pixels).all()
            seen.append(str((reached, frame.settings, frame.start_s, pixels, frame.pixels.dtype, delay)))
        except (CameraError, DeviceTimeoutError, StageError) as error:
            seen.append(str(error))
    assert seen[0] != seen[1]
    assert {struck for _, struck in made.struck} == {kind}
    made.make_safe()
    made.make_safe()
    assert made.inner.read()["excitation_power"] == 0.0
    made.close()
    made.close()


def test_probability_is_drawn_from_the_seed_and_not_from_what_else_happens() -> None:
    plan = FaultPlan((Fault("blank", probability=0.3), Fault("saturated", probability=0.3)), seed=5)
    struck = [[fault.kind for fault in plan.striking(n)] for n in range(2000)]
    assert struck == [[fault.kind for fault in plan.striking(n)] for n in range(2000)]
    blank = np.array(["blank" in kinds for kinds in struck])
    saturated = np.array(["saturated" in kinds for kinds in struck])
    assert blank.mean() == pytest.approx(0.3, abs=0.04)
    assert (blank & saturated).mean() == pytest.approx(0.09, abs=0.03)
    other = FaultPlan(plan.faults, seed=6)
    assert struck != [[fault.kind for fault in other.striking(n)] for n in range(2000)]


@given(
    st.lists(st.sampled_from(KINDS), max_size=6), st.lists(st.sampled_from(["snap", "z", "power", "safe"]), max_size=12)
)
@settings(max_examples=60, deadline=None)
def test_whatever_the_plan_only_errors_of_hardware_come_out(kinds: list[Any], calls: list[str]) -> None:
    plan = (Fault(kind, probability=0.4) for kind in kinds)
    made = faulty(*plan, size_px=32, specimen="empty")
    for call in calls:
        try:
            if call == "snap":
                made.snap()
            elif call == "safe":
                made.make_safe()
            else:
                made.set("z_um" if call == "z" else "excitation_power", 0.5)
        except (CameraError, DeviceTimeoutError, StageError):
            pass
    made.close()
    with pytest.raises(HardwareError):
        made.snap()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gremlin"}, "no kind 'gremlin'"),
        ({"kind": "blank", "probability": 1.5}, "probability"),
        ({"kind": "blank", "amount": 1.0}, "takes no amount"),
        ({"kind": "timeout", "amount": -1.0}, "negative"),
        ({"kind": "stage_creep", "amount": float("nan")}, "finite"),
    ],
)
def test_impossible_faults_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fault(**changes)
