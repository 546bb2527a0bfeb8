"""The engine in a real runner, with devices and a scorer that fail on demand."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
from pymmcore_plus.core._sequencing import SequencedEvent

from parfocal.daemon.mda import run
from parfocal.daemon.mda.follower import Outlook
from parfocal.daemon.mda.run import SeatRun

LIMITS = {"limits": {"z_um": {"lower": -5.0, "upper": 5.0}}}
LASER = {"microscope": {"driver": "micromanager", "properties": {"excitation_power_pct": {
    "device": "Laser", "property": "Power", "unit": "%", "lower": 0.0, "upper": 50.0}}}}  # fmt: skip


def kinds(journal: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [record for record in journal if record["kind"] in names]


def corrections(rig: Any) -> list[float]:
    return [meta["parfocal"]["correction_um"] for _, meta, _ in rig.frames]


def test_a_drifting_focus_is_followed_and_the_plan_is_kept(rig: Any, timelapse: Any) -> None:
    # It drifts with every frame, and frames come as fast as this machine can: not as steadily as a real one would.
    rig.scene.drift_um = 0.02
    rig.attach(drift_um_per_min=120)
    rig.run(timelapse(60))
    plain = 0.02 * rig.scene.snaps
    defocus = [abs(meta["parfocal"]["planned_z_um"] + meta["parfocal"]["correction_um"]) for _, meta, _ in rig.frames]
    assert len(rig.frames) == 60
    assert defocus[-1] == pytest.approx(plain, abs=0.68), "within half a depth of field, where the focus went"
    assert {event.z_pos for event, _, _ in rig.frames} == {0.0}
    for _, meta, z_um in rig.frames:
        assert meta["parfocal"]["planned_z_um"] == 0.0
        assert z_um == pytest.approx(meta["parfocal"]["correction_um"], abs=1e-9)
    status = rig.seat.status()
    # How many frames pass before the first score is there depends on the machine; none is left out after it.
    first = next(k for k, um in enumerate(corrections(rig)) if um != 0.0)
    assert status.corrected == 60 - first >= 20
    assert status.looks > 0
    assert len(rig.scene.defocus_um) == 60 + status.looks


def test_without_a_seat_the_same_sample_drifts_away(rig: Any, timelapse: Any) -> None:
    """What the test above would see if nothing were done."""
    rig.scene.drift_um = 0.02
    rig.core.mda.run(iter(timelapse(60)))
    assert rig.scene.defocus_um[-1] == pytest.approx(-1.2)
    assert all("parfocal" not in meta for _, meta, _ in rig.frames)


def test_every_command_is_judged_and_written_before_it_is_read_back(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.attach()
    rig.run(timelapse(8))
    journal = rig.journal()
    commands, readbacks = kinds(journal, "command"), kinds(journal, "readback")
    assert 0 < len(commands) < len(readbacks) == len(kinds(journal, "verdict"))
    sent, waiting = math.nan, False
    for record in kinds(journal, "command", "readback"):
        earlier = [r for r in journal if r["n"] < record["n"] and r.get("action", "change") == "change"]
        before, verdict = kinds(earlier, "action")[-1], kinds(earlier, "verdict")[-1]
        assert verdict["accepted"] and verdict["n"] > before["n"]
        if record["kind"] == "command":
            assert not waiting, "every command is read back before the next"
            sent, waiting = record["settings"]["z_um"], True
            continue
        assert record["commanded"] == record["readback"] == sent == before["settings"]["z_um"]
        waiting = False
    assert not waiting
    assert [goal for goal in rig.stage.goals if goal != 0.0] == [
        c["settings"]["z_um"] for c in commands if c["settings"]["z_um"] != 0.0
    ]
    assert journal[-1]["kind"] == "end"
    assert kinds(journal, "frame")[-1]["dose"] == pytest.approx(1.0 * rig.scene.snaps, abs=1.0)


def spaced(count: int, **more: Any) -> list[Any]:
    """Events with a pause between them that is long enough to be used, known from the start."""
    return [useq.MDAEvent(index={"t": t}, z_pos=0.0, min_start_time=0.3 * t, **more) for t in range(count)]


def aheads(journal: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record for record in kinds(journal, "action") if record["reason"].startswith("ahead")]


def known(monkeypatch: pytest.MonkeyPatch, rate_um_per_s: float, focus_um: float = 0.0) -> None:
    """Have the focus and its drift known from the first event on; nothing more is learned."""
    plain = SeatRun.__init__

    def knowing(self: Any, *args: Any, **more: Any) -> None:
        plain(self, *args, **more)
        memory, now_s = self.policy.memory(), self.clock.now()
        for ago_s in np.arange(4.0, 0.0, -0.1):
            memory.learn(0, now_s - ago_s, focus_um - rate_um_per_s * ago_s, 0.02)
        self.follower.outlook = Outlook(memory)
        monkeypatch.setattr(self.follower, "offer", lambda *_: None)

    monkeypatch.setattr(SeatRun, "__init__", knowing)
    monkeypatch.setattr(run, "LEAST_PAUSE_S", 0.0)  # however busy the machine is that tests
    monkeypatch.setattr(run, "WAY_S", 0.0)


def test_in_a_pause_the_stage_goes_ahead_of_the_event(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.attach(drift_um_per_min=60, looks="never")
    goals_at: list[int] = []
    rig.core.mda.events.eventStarted.connect(lambda _event: goals_at.append(len(rig.stage.goals)))
    taken_at: list[int] = []
    rig.core.mda.events.frameReady.connect(lambda *_: taken_at.append(len(rig.stage.goals)))
    known(monkeypatch, 1.0)
    rig.core.mda.run(spaced(8))
    in_pauses = [b - a for a, b in zip(taken_at, goals_at[1:], strict=False)]
    assert sum(in_pauses) >= 5, "most went in the pause"
    journal = rig.journal()
    went = aheads(journal)
    assert len(went) == sum(in_pauses)
    for action in went:
        verdict, command, readback = journal[action["n"] + 1 : action["n"] + 4]
        assert (verdict["kind"], verdict["accepted"]) == ("verdict", True)
        assert command["settings"]["z_um"] == readback["readback"] == action["settings"]["z_um"]
    # Each event decides again, is judged, and reads the stage back, whether it went in the pause or goes now.
    decided = [r for r in kinds(journal, "action") if r["index"] is None and not r["reason"].startswith("ahead")]
    assert len(decided) == rig.seat.status().corrected
    assert [meta["parfocal"]["correction_um"] for _, meta, _ in rig.frames] == pytest.approx(
        [z_um for _, _, z_um in rig.frames], abs=1e-9
    )


@pytest.mark.parametrize("what", ["generator", "cancelled", "paused", "seat paused", "no pause", "plan moves", "xy"])
def test_without_a_pause_or_for_a_move_of_the_plan_nothing_goes_ahead(
    rig: Any, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    seat = rig.attach(drift_um_per_min=60, looks="never")
    known(monkeypatch, 1.0)
    events: Any = spaced(4)
    runner = rig.core.mda
    if what == "generator":
        events = iter(events)
    elif what == "no pause":
        events = [event.model_copy(update={"min_start_time": None}) for event in events]
    elif what == "plan moves":
        events = [event.model_copy(update={"z_pos": 0.5 * event.index["t"]}) for event in events]
    elif what == "xy":
        events = [
            event.model_copy(update={"index": {"t": event.index["t"], "p": event.index["t"] % 2}}) for event in events
        ]
    hooks = {
        "cancelled": runner.cancel,
        "paused": lambda: (runner.set_paused(True), threading.Timer(0.5, runner.set_paused, (False,)).start()),
        "seat paused": lambda: seat.pause("by hand"),
    }  # fmt: skip
    if what in hooks:
        runner.events.frameReady.connect(lambda _image, event, _meta: event.index["t"] == 1 and hooks[what]())
    runner.run(events)
    assert len(rig.frames) == (2 if what == "cancelled" else 4)
    # Before the hook is pulled one pause is used, and after the runner's pause another.
    assert len(aheads(rig.journal())) == {"cancelled": 1, "seat paused": 1, "paused": 2}.get(what, 0)


def test_a_stage_that_was_moved_in_the_pause_is_put_back(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody turns the knob between two events: the read-back of the next one says so."""
    rig.attach(drift_um_per_min=60, looks="never")
    known(monkeypatch, 1.0)

    def turn(event: Any, _remaining_s: float) -> None:
        if event.index["t"] == 3:
            rig.scene.z_um = 4.0

    rig.core.mda.events.awaitingEvent.connect(turn)
    rig.core.mda.run(spaced(5))
    for _, meta, z_um in rig.frames:
        assert z_um == pytest.approx(meta["parfocal"]["correction_um"], abs=1e-9)


def test_a_correction_that_changes_nothing_moves_nothing(
    rig: Any, timelapse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.attach(looks="never")
    known(monkeypatch, 0.0, focus_um=0.5)
    rig.run(timelapse(6))
    assert corrections(rig) == pytest.approx([0.5] * 6, abs=0.05)
    assert len(set(rig.stage.goals)) == len(rig.stage.goals) == 1, "once there it is only read"
    assert len(kinds(rig.journal(), "readback")) == rig.seat.status().corrected == 6


def test_a_plan_without_z_is_followed_from_where_the_stage_stood(rig: Any, timelapse: Any) -> None:
    rig.scene.z_um, rig.scene.focus_um = 7.0, 7.6
    rig.attach()
    rig.run(timelapse(10, z_pos=None))
    assert rig.scene.defocus_um[-1] == pytest.approx(0.0, abs=0.25)
    assert rig.frames[0][1]["parfocal"]["planned_z_um"] == 7.0
    assert rig.frames[0][0].z_pos is None


def test_positions_are_remembered_and_share_the_drift(rig: Any) -> None:
    rig.scene.tilt_um = {"0": 0.0, "1": 0.7}
    rig.attach()
    plan = [useq.MDAEvent(index={"t": t, "p": p}, z_pos=10.0 * p) for t in range(12) for p in (0, 1)]
    rig.scene.tilt_um["1"] += 10.0
    rig.run(plan)
    memory = rig.seat._last.follower.outlook.memory
    assert memory.offset_um(1) - memory.offset_um(0) == pytest.approx(0.7, abs=0.2)
    last = {event.index["p"]: meta["parfocal"]["correction_um"] for event, meta, _ in rig.frames}
    assert last[1] - last[0] == pytest.approx(0.7, abs=0.25)


def test_a_correction_that_is_refused_leaves_the_plan_and_says_so(rig: Any) -> None:
    rig.scene.focus_um = 6.0
    rig.attach(LIMITS)
    rig.run([
        useq.MDAEvent(index={"t": 0}, z_pos=4.0, action=useq.CustomAction(name="parfocal.autofocus")),
        *(useq.MDAEvent(index={"t": t}, z_pos=4.0) for t in range(1, 4)),
    ])  # fmt: skip
    assert [z_um for _, _, z_um in rig.frames] == [4.0, 4.0, 4.0]
    assert all(goal <= 5.0 for goal in rig.stage.goals)
    status = rig.seat.status()
    assert status.refused > 0
    assert "outside" in status.why
    assert "refused" in rig.frames[-1][1]["parfocal"]["reason"] or status.state != "failed"
    refused = [record for record in kinds(rig.journal(), "verdict") if not record["accepted"]]
    assert refused and refused[0]["refusal"] == "limit"


@pytest.mark.parametrize("recovers", [False, True])
def test_a_scorer_that_dies_holds_the_last_correction(rig: Any, timelapse: Any, recovers: bool) -> None:
    rig.scene.focus_um = 0.8
    rig.oracle.fail_from, rig.oracle.recovers = 16, recovers
    rig.attach()
    rig.scene.drift_um = 0.0
    rig.run(timelapse(30))
    assert len(rig.frames) == 30
    found = corrections(rig)
    held = [um for um, (_, meta, _) in zip(found, rig.frames, strict=True) if "scorer" in meta["parfocal"]["reason"]]
    assert held, "at least one event had no scorer"
    assert len(set(held)) == 1
    assert held[0] == pytest.approx(0.8, abs=0.25), "the last correction, not the plan"
    state = rig.seat._last.follower
    assert bool(state.given_up) is not recovers
    assert rig.oracle.restarts >= 1


def test_doubt_of_the_network_holds(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.oracle.silent_from = 16
    rig.attach()
    rig.run(timelapse(24))
    assert len(set(corrections(rig)[-6:])) == 1
    assert corrections(rig)[-1] == pytest.approx(0.8, abs=0.25)
    assert "no structure" in rig.frames[-1][1]["parfocal"]["reason"]


def test_a_slow_scorer_costs_frames_to_look_at_and_nothing_else(rig: Any, timelapse: Any) -> None:
    rig.oracle.gate = threading.Event()
    rig.attach(looks="never")
    frames_by_then: list[int] = []

    def all_while_it_stands_still() -> Any:
        yield from timelapse(40)
        frames_by_then.append(len(rig.frames))
        rig.oracle.gate.set()

    rig.run(all_while_it_stands_still())
    assert frames_by_then == [40], "all were acquired while the scorer stood still"
    assert rig.seat.status().dropped >= 30
    missed = [record for record in kinds(rig.journal(), "frame") if record.get("unfit") == "missed"]
    assert len(missed) >= 30


@pytest.mark.parametrize("method", ["correct", "place", "took", "look_about", "bad"])
def test_a_crash_of_ours_never_ends_the_acquisition(
    rig: Any, timelapse: Any, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain, calls = getattr(SeatRun, method), [0]

    def crash(self: Any, *args: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6:
            raise ZeroDivisionError("a mistake")
        return plain(self, *args)

    monkeypatch.setattr(SeatRun, method, crash)
    rig.scene.focus_um = 0.8
    rig.attach()
    rig.run(timelapse(12))
    assert [event.index["t"] for event, _, _ in rig.frames] == list(range(12))
    assert rig.frames[-1][2] == 0.0, "from then on as planned"
    status = rig.seat.status()
    assert (status.state, status.why) == ("failed", "ZeroDivisionError: a mistake")
    journal = rig.journal()
    assert kinds(journal, "error")[0]["message"] == "a mistake"
    assert journal[-1]["kind"] == "end"
    assert journal[-1]["outcome"] == "failed"


def test_a_session_that_cannot_be_written_never_stops_the_acquisition(rig: Any, timelapse: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    rig.attach(session=tmp_path / "file" / "s")
    rig.run(timelapse(3))
    assert len(rig.frames) == 3
    assert rig.seat.status().state == "failed"


def test_a_journal_that_breaks_ends_the_corrections_not_the_acquisition(
    rig: Any, timelapse: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from parfocal.daemon import journal as journals

    rig.scene.focus_um = 0.8
    rig.attach()
    plain, left = journals.Journal._write, [60]

    def full(self: Any, data: bytes) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise journals.JournalError("the journal cannot be written (No space left on device)")
        plain(self, data)

    monkeypatch.setattr(journals.Journal, "_write", full)
    rig.run(timelapse(20))
    assert len(rig.frames) == 20
    assert rig.seat.status().state in ("failed", "idle")
    assert "No space left" in rig.seat.engine.trouble


def test_a_stage_that_does_not_arrive_ends_the_corrections(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.attach()
    events = [*timelapse(6), *timelapse(12, z_pos=4.0)[6:]]

    def then_stuck() -> Any:
        for event in events:
            rig.scene.stuck = event.index["t"] >= 6
            yield event

    rig.run(then_stuck())
    assert len(rig.frames) == 12
    assert "StageError" in rig.seat.status().why


def test_a_stage_that_reads_nan_teaches_nothing(rig: Any, timelapse: Any) -> None:
    rig.attach()
    rig.scene.lost = True
    rig.run(timelapse(4))
    assert len(rig.frames) == 4
    assert all(math.isfinite(goal) for goal in rig.stage.goals)


def test_a_plan_with_nan_is_not_ours_to_mend(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.attach()
    rig.run([*timelapse(6), useq.MDAEvent(index={"t": 6}, z_pos=float("nan"))])
    commanded = [record["settings"]["z_um"] for record in kinds(rig.journal(), "command")]
    assert commanded and all(isinstance(z_um, float) for z_um in commanded)
    refused = [record for record in kinds(rig.journal(), "verdict") if not record["accepted"]]
    assert refused[-1]["refusal"] == "not_finite"


def test_the_whole_stack_moves_with_one_line(rig: Any) -> None:
    """What is learned inside a stack waits for the next: planes keep their distances."""
    rig.scene.focus_um = 0.8
    rig.attach()
    plan = [useq.MDAEvent(index={"t": t, "z": z}, z_pos=2.0 * z - 2.0) for t in range(5) for z in range(3)]
    rig.run(plan)
    for t in range(5):
        stack = [z_um for event, _, z_um in rig.frames if event.index["t"] == t]
        assert np.diff(stack) == pytest.approx([2.0, 2.0], abs=0.05)
    assert abs(corrections(rig)[-1] - 0.8) < 0.3 or abs(corrections(rig)[-1] - 2.8) < 0.3


def test_a_burst_is_shifted_as_a_whole(rig: Any, timelapse: Any) -> None:
    rig.attach()
    rig.run(timelapse(1))
    events = tuple(useq.MDAEvent(index={"z": n}, z_pos=float(n)) for n in range(3))
    burst = SequencedEvent(events=events, z_sequence=(0.0, 1.0, 2.0), z_pos=None)
    run = rig.seat._make_run()
    try:
        from parfocal.daemon.mda.corrections import Correction
        from parfocal.daemon.mda.plan import Place

        correction = Correction(Place(0, 1, 0.0, 0.0, True, 0.0), 0.5, 0.5, 0.1, "", True)
        mine = rig.seat.engine._without_z(burst, correction)
        assert mine.z_sequence == (0.5, 1.5, 2.5)
        assert burst.z_sequence == (0.0, 1.0, 2.0)
    finally:
        run.end()


# -- light ---------------------------------------------------------------------------------------------------------


def test_a_laser_is_set_through_the_guard_and_read_back(rig: Any) -> None:
    rig.attach(LASER)
    rig.run([useq.MDAEvent(index={"t": 0}, z_pos=0.0, properties=[("Laser", "Power", 30.0)])])
    assert rig.laser.told == [30.0]
    journal = rig.journal()
    assert {"excitation_power_pct": 30.0} in [record["settings"] for record in kinds(journal, "command")]
    readback = [r for r in kinds(journal, "readback") if r["parameter"] == "excitation_power_pct"]
    assert readback[0]["readback"] == 30.0
    assert len(rig.frames) == 1


@pytest.mark.parametrize(("power", "deaf", "why"), [(80.0, False, "outside"), (30.0, True, "reads")])
def test_a_laser_that_is_refused_or_deaf_costs_the_frame(rig: Any, power: float, deaf: bool, why: str) -> None:
    """pymmcore-plus alone would take it, at the old power."""
    rig.laser.deaf = deaf
    rig.attach(LASER)
    rig.run([
        useq.MDAEvent(index={"t": 0}, z_pos=0.0, properties=[("Laser", "Power", power)]),
        useq.MDAEvent(index={"t": 1}, z_pos=0.0),
    ])  # fmt: skip
    assert [event.index["t"] for event, _, _ in rig.frames] == [1]
    assert rig.laser.told == ([30.0] if deaf else [])
    assert rig.seat.status().skipped == 1
    assert why in kinds(rig.journal(), "error")[0]["message"]


def test_a_channel_beyond_the_limits_is_not_switched_to(rig: Any) -> None:
    rig.core.defineConfig("Channel", "Hot", "Laser", "Power", 90.0)
    rig.core.defineConfig("Channel", "Cool", "Laser", "Power", 20.0)
    rig.attach(LASER, channels=["Cool", "Hot"])
    rig.run([useq.MDAEvent(index={"t": t}, channel=name, z_pos=0.0) for t, name in enumerate(("Cool", "Hot", "Cool"))])
    assert [event.channel.config for event, _, _ in rig.frames] == ["Cool", "Cool"]
    assert max(rig.laser.told) == 20.0


def test_any_other_property_is_read_back_too(rig: Any) -> None:
    rig.attach()
    rig.run([useq.MDAEvent(index={"t": 0}, z_pos=0.0, properties=[("Laser", "Filter", 9.0)])])
    assert rig.frames == []
    assert "reads 5.0" in kinds(rig.journal(), "error")[0]["message"]


# -- what is looked at, and left out -------------------------------------------------------------------------------


def test_only_the_reference_channel_and_plane_are_looked_at(rig: Any) -> None:
    for name in ("A", "B"):
        rig.core.defineConfig("Channel", name, "Laser", "Power", 20.0)
    rig.attach(channels={"B": 0.5}, planes="middle", looks="never")
    plan = useq.MDASequence(
        channels=["A", "B"], z_plan={"range": 4, "step": 2}, stage_positions=[{"z": 1.0}], axis_order="pcz"
    )
    rig.run(plan)
    frames = kinds(rig.journal(), "frame")
    assert len(rig.frames) == 6
    assert [record["settings"]["reference_um"] for record in frames] == [1.5]
    assert frames[0]["settings"]["z_um"] == 1.0


def test_bad_frames_leave_the_other_channels_out_until_a_good_one(rig: Any, tmp_path: Path) -> None:
    for name in ("A", "B"):
        rig.core.defineConfig("Channel", name, "Laser", "Power", 20.0)
    quality = {"quality": {"model": "defocus", "above": 3.0, "for_frames": 1}}
    rig.attach(quality, skip_bad=True, looks="never")
    plan = [useq.MDAEvent(index={"t": t, "c": c}, channel=n, z_pos=0.0) for t in range(6) for c, n in enumerate("AB")]

    def bad_between() -> Any:
        for event in plan:
            rig.scene.tilt_um = {"A": 5.0 if 2 <= event.index["t"] <= 3 else 0.0}
            yield event

    rig.run(bad_between())
    taken = [(event.index["t"], event.channel.config) for event, _, _ in rig.frames]
    assert [t for t, name in taken if name == "A"] == list(range(6)), "what is looked at is always taken"
    assert [t for t, name in taken if name == "B"] == [0, 1, 4, 5]
    assert rig.seat.status().skipped == 2


def test_the_dose_budget_ends_the_looks_not_the_plan(rig: Any, timelapse: Any) -> None:
    rig.attach({"limits": {"dose": {"budget": 10.0}}})
    rig.run(timelapse(30))
    assert len(rig.frames) == 30
    assert rig.scene.snaps <= 30 + 10
    assert "dose budget" in rig.seat.status().why or rig.seat.status().looks <= 8


def test_a_look_that_fails_is_one_look_less(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.camera.fail_at = 1
    rig.attach()
    rig.run(timelapse(10))
    assert len(rig.frames) == 10
    assert rig.seat.status().state == "idle"
    assert corrections(rig)[-1] == pytest.approx(0.8, abs=0.25)


def test_a_replay_knows_where_the_microscopes_own_autofocus_went(rig: Any, timelapse: Any) -> None:
    from parfocal.daemon.replay.decisions import reproduce
    from parfocal.daemon.replay.reader import SessionReader

    rig.scene.focus_um = 0.8
    rig.attach()

    def with_a_device() -> Any:
        for event in timelapse(12):
            yield event
            if event.index["t"] == 5:
                rig.scene.focus_um = 3.0
                before, rig.scene.z_um = rig.scene.z_um, 3.0
                rig.seat._last.moved_by_device(before)

    rig.run(with_a_device())
    (told,) = [record for record in rig.journal() if record["kind"] == "observation"]
    assert told["settings"]["device_focus"] == 1.0
    assert corrections(rig)[-1] == pytest.approx(3.0, abs=0.3)
    again = reproduce(SessionReader(Path(rig.seat.status().session)))
    assert again.identical
    assert again.decisions >= 12


def test_a_replay_decides_the_same(rig: Any, timelapse: Any) -> None:
    """Frames, extra looks, a search and a scorer that fails in between: all of it again, bit for bit."""
    from parfocal.daemon.replay.decisions import reproduce
    from parfocal.daemon.replay.reader import SessionReader

    rig.scene.focus_um, rig.scene.drift_um = 6.0, 0.02
    rig.oracle.fail_from, rig.oracle.recovers = 20, True
    rig.attach(drift_um_per_min=60)
    find = useq.MDAEvent(index={"t": 0}, z_pos=0.0, action=useq.CustomAction(name="parfocal.autofocus"))
    rig.run([find, *timelapse(24)])
    again = reproduce(SessionReader(Path(rig.seat.status().session)))
    assert again.identical
    assert again.decisions >= 24
