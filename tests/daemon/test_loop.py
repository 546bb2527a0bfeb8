"""The loop on the bench: it follows a focus, holds on every doubt, gates what is stale, and writes all of it down."""

from __future__ import annotations

import asyncio
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from daemon_doubles import Bench, Follow, Reader, constant, noisy

from parfocal.daemon.config import load_config
from parfocal.daemon.intake import Intake
from parfocal.daemon.journal import read_journal
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.records import Grids, action_fields, read_assessment, read_observation
from parfocal.daemon.states import TRANSITIONS, State, StateMachine, TransitionError
from parfocal.daemon.summary import Step
from parfocal.daemon.terms import Deadlines
from parfocal.drivers.base import CameraError, Frame
from parfocal.models.base import Assessment, ScorerError
from parfocal.policies.base import Change, Finish, Hold
from parfocal.simulator.clock import VirtualClock

LoopMaker = Callable[..., Loop]


def records(loop: Loop, *kinds: Any) -> list[dict[str, Any]]:
    return list(read_journal(loop.session.folder / "journal.jsonl").of(*kinds))


def test_it_finds_and_holds_the_focus(make_loop: LoopMaker) -> None:
    bench, steps = Bench(focus_um=12.5), []
    loop = make_loop(bench, "session.max_frames=6", listeners=[steps.append])
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code, summary.error) == ("done", 0, "")
    assert bench.sets == [("z_um", 0.0), ("z_um", 12.5)]  # the start setting, then one move
    assert (summary.frames, summary.scored, summary.stale, summary.actions, summary.refused) == (6, 5, 0, 1, 0)
    assert summary.frames_to_focus == 3  # one to see that the camera is alive, one to decide on, one to confirm
    assert summary.travel_um == 12.5
    assert summary.dose == 0.0  # the beam is at 0 mW
    assert summary.to_json()["truth"] == {"defocus_um": 0.0}
    assert summary.to_json()["final"]["defocus_um"] == 0.0
    assert bench.safe
    assert bench.closed
    assert [step.state for step in steps] == ["running"] * 6
    assert [step.frames for step in steps] == [1, 2, 3, 4, 5, 6]
    assert all(step.action is not None and step.action.reason for step in steps)


def test_summary_json_has_exactly_the_promised_keys(make_loop: LoopMaker) -> None:
    summary = asyncio.run(make_loop(Bench(), "session.max_frames=3").run())
    content = json.loads(json.dumps(summary.to_json(), allow_nan=False))
    promised = (
        "session driver simulated outcome frames scored stale dropped actions refused frames_to_focus travel_um dose "
        "final truth latency_ms"
    )
    assert list(content) == promised.split()
    assert list(content["final"]) == ["settings", "defocus_um", "defocus_sd_um", "quality"]
    assert list(content["latency_ms"]) == ["p50", "p99"]


def test_one_thread_owns_the_microscope(make_loop: LoopMaker) -> None:
    bench = Bench()
    asyncio.run(make_loop(bench, "session.max_frames=5").run())
    assert bench.threads == {"microscope"}


def test_the_journal_explains_every_move_and_was_written_before_it(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []
    synced: list[int] = []
    bench = Bench()
    loop = make_loop(bench, "session.max_frames=4")
    real_set, real_sync = bench.set, loop.session.journal.sync

    def sync() -> None:
        synced.append(loop.session.journal.records)
        real_sync()

    def watched(name: str, value: float) -> float:
        commands = [
            r for r in read_journal(loop.session.journal.path).of("command") if r["settings"].get(name) == value
        ]
        seen.append((len(commands), synced[-1] - commands[-1]["n"]))
        return real_set(name, value)

    monkeypatch.setattr(loop.session.journal, "sync", sync)
    bench.set = watched  # type: ignore[method-assign]
    asyncio.run(loop.run())
    assert seen == [(1, 1), (1, 1)]  # each command was in the journal, and the disk had it
    header = records(loop, "session")[0]
    assert header["simulated"] is True
    assert header["policy"] if "policy" in header else records(loop, "policy")[0]["policy"]
    kinds = [
        record["kind"] for record in records(loop, "frame", "assessment", "action", "verdict", "command", "readback")
    ]
    assert kinds[:5] == ["action", "verdict", "command", "readback", "frame"]  # the start settings
    move = kinds.index("command", 4)
    assert kinds[move - 4 : move + 2] == ["frame", "assessment", "action", "verdict", "command", "readback"]
    assert records(loop, "end")[0]["outcome"] == "done"
    assert [(r["old"], r["new"]) for r in records(loop, "state")] == [
        ("idle", "running"), ("running", "stopping"), ("stopping", "safe"), ("safe", "ended"),
    ]  # fmt: skip


def test_decisions_can_be_made_again_from_the_journal_alone(make_loop: LoopMaker) -> None:
    loop = make_loop(Bench(focus_um=7.77), "session.max_frames=8")
    asyncio.run(loop.run())
    again, grids, frame, told, decided = Follow(), Grids(), None, [], []
    for record in records(loop, "grid", "frame", "assessment", "action"):
        if record["kind"] == "grid":
            grids.learn(record)
        elif record["kind"] == "frame":
            frame = record
        elif record["kind"] == "assessment":
            assert frame is not None
            again.tell(read_observation(frame, {"defocus": read_assessment(record, grids)}))
            told.append(record["index"])
        elif record["index"] in told:
            fields = {k: v for k, v in record.items() if k not in ("n", "kind", "index")}
            decided.append((fields, json.loads(json.dumps(action_fields(again.ask())))))
    assert len(decided) == 7
    assert all(recorded == remade for recorded, remade in decided)


@pytest.mark.parametrize(
    ("pixels", "reason"),
    [
        (constant, "frozen"),
        (lambda i, d, s: noisy(i, d, (64, 64 + i)), "before"),
        (lambda i, d, s: np.full(s, np.nan, np.float32), "not finite"),
        (lambda i, d, s: np.zeros((3, *s), np.uint16), "no image"),
        (lambda i, d, s: np.zeros(s, complex), "not numbers"),
    ],
)
def test_nothing_moves_on_a_doubtful_frame(make_loop: LoopMaker, pixels: Any, reason: str) -> None:
    bench, steps = Bench(make_pixels=pixels), []
    loop = make_loop(bench, "session.max_frames=5", "start={}", listeners=[steps.append])
    summary = asyncio.run(loop.run())
    assert bench.sets == []
    assert (summary.outcome, summary.actions, summary.scored) == ("done", 0, 0)
    assert isinstance(steps[-1].action, Hold)
    assert reason in steps[-1].action.reason
    assert [r["unfit"] for r in records(loop, "frame")] == ["doubtful"] * 5


def test_a_camera_that_freezes_later_moves_nothing_from_then_on(make_loop: LoopMaker) -> None:
    stuck = noisy(3, 5.0, (64, 64))
    bench = Bench(make_pixels=lambda i, d, s: noisy(i, d, s) if i < 3 else stuck)
    asyncio.run(make_loop(bench, "session.max_frames=9", "start={}").run())
    assert len(bench.sets) <= 2


def test_frozen_after_zero_lets_recordings_repeat_themselves() -> None:
    intake = Intake(0)
    frame = Frame(np.zeros((8, 8), np.uint8), 0, {}, 0, 1, 1)
    assert [intake.doubt(frame), intake.doubt(frame)] == ["", ""]
    intake = Intake(2)
    assert [bool(intake.doubt(frame)) for _ in range(4)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("settings", "simulated", "expected"),
    [
        (["microscope.driver=micromanager"], False, 1),
        (["microscope.driver=micromanager"], True, 0),  # DemoCamera: no noise
        (["microscope.driver=recorded"], False, 0),
        (["microscope.driver=simulated"], True, 1),
        (["microscope.driver=recorded", "microscope.frozen_after=3"], False, 3),
    ],
)
def test_which_cameras_may_repeat_themselves(settings: list[str], simulated: bool, expected: int) -> None:
    assert load_config(None, settings).microscope.frames_to_freeze(simulated=simulated) == expected


def test_abstention_holds_and_says_why(make_loop: LoopMaker) -> None:
    bench, steps = Bench(), []
    asyncio.run(
        make_loop(
            bench, "session.max_frames=4", "start={}", scorer=Reader(abstain=True), listeners=[steps.append]
        ).run()
    )
    assert bench.sets == []
    assert "an empty field" in steps[-1].action.reason


def test_frames_begun_before_a_change_settled_are_stale_and_never_told(make_loop: LoopMaker) -> None:
    """On a running camera: the frame in exposure while the stage moves is recorded, counted, and not decided on."""
    bench = Bench(ServingClock(), exposure_ms=20, settle_s=0.05)
    policy = Follow(script=[Hold("look")] + [Change({"z_um": float(z)}, "go") for z in (5, 6, 7)] + [Hold("stay")] * 99)
    loop = make_loop(bench, "session.max_frames=25", policy=policy)
    summary = asyncio.run(loop.run())
    assert summary.stale >= 1  # of four moves; a slow machine may serve some of them between two frames
    settled = -math.inf
    changes: list[tuple[float, str]] = []
    for record in records(loop, "frame", "readback"):
        if record["kind"] == "readback":
            settled = record["settled_s"]
        else:
            changes.append((record["start_s"] - settled, record.get("unfit", "")))
    assert all((ahead < 0) == (unfit == "stale") for ahead, unfit in changes if unfit != "missed")
    assert all(observation.settings["z_um"] in (0.0, 5.0, 6.0, 7.0) for observation in policy.told)
    assert summary.frames == 25


def test_latest_wins_and_what_was_missed_is_counted_and_recorded(make_loop: LoopMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=2)
    loop = make_loop(bench, "session.max_frames=30", scorer=Reader(delay_s=0.02), policy=Follow(within_um=1e9))
    summary = asyncio.run(loop.run())
    assert summary.frames == 30
    assert summary.dropped > 5
    assert len(records(loop, "frame")) == 30
    assert summary.scored + summary.stale + summary.dropped + 1 == 30  # one was looked at to see the camera live


def test_lost_camera_frames_are_counted(make_loop: LoopMaker) -> None:
    bench = Bench()
    real = bench.snap

    def skipping() -> Frame:
        bench._index += 2
        return real()

    bench.snap = skipping  # type: ignore[method-assign]
    assert asyncio.run(make_loop(bench, "session.max_frames=4").run()).dropped == 6


def test_a_refused_action_is_not_sent_and_counted(make_loop: LoopMaker) -> None:
    bench, steps = Bench(), []
    policy = Follow(script=[Change({"z_um": 99.0}, "far"), Change({"z_um": math.nan}, "nan"), Hold("stay")])
    loop = make_loop(bench, "session.max_frames=4", "start={}", policy=policy, listeners=[steps.append])
    summary = asyncio.run(loop.run())
    assert bench.sets == []
    assert summary.refused == 2
    assert [r["refusal"] for r in records(loop, "verdict")] == ["step", "not_finite", None]
    assert steps[1].verdict is not None
    assert not steps[1].verdict.accepted


def test_a_policy_that_insists_trips_the_guard(make_loop: LoopMaker) -> None:
    bench = Bench()
    policy = Follow(script=[Change({"z_um": 5000.0}, "out")] * 50)
    loop = make_loop(bench, "session.max_frames=60", "start={}", policy=policy)
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code) == ("tripped", 5)
    assert bench.sets == []
    assert bench.safe
    assert "in a row" in records(loop, "error")[0]["message"]


def test_a_spent_dose_stops_the_camera_before_it_is_overdrawn(make_loop: LoopMaker) -> None:
    bench = Bench(exposure_ms=10)
    settings = ["start={excitation_power: 2}", "limits.dose={budget: 90, unit: uJ}", "session.max_frames=50"]
    loop = make_loop(bench, *settings, policy=Follow(within_um=1e9))
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code) == ("tripped", 5)
    assert summary.frames == 4
    assert summary.dose == 80.0
    assert bench.values["excitation_power"] == 0.0


def test_finish_ends_the_session_after_its_settings(make_loop: LoopMaker) -> None:
    bench = Bench()
    summary = asyncio.run(make_loop(bench, policy=Follow(script=[Finish({"z_um": 3.0}, "found")])).run())
    assert summary.outcome == "finished"
    assert bench.sets[-1] == ("z_um", 3.0)


def test_until_focused_wants_so_many_frames_in_a_row(make_loop: LoopMaker) -> None:
    settings = ["session.until_focused=true", "session.focused_frames=3", "session.max_frames=50"]
    summary = asyncio.run(make_loop(Bench(), *settings).run())
    assert (summary.outcome, summary.frames, summary.frames_to_focus) == ("focused", 5, 5)


def test_max_seconds_counts_on_the_injected_clock(make_loop: LoopMaker) -> None:
    clock = VirtualClock()
    summary = asyncio.run(make_loop(Bench(clock), "session.max_seconds=3600", "microscope.interval_ms=60000").run())
    assert summary.outcome == "done"
    assert clock.now() >= 3600
    assert 60 <= summary.frames <= 62


def test_max_seconds_ends_while_waiting_for_a_rare_frame(make_loop: LoopMaker) -> None:
    loop = make_loop(Bench(ServingClock()), "session.max_seconds=0.2", "microscope.interval_ms=60000")
    assert asyncio.run(loop.run()).outcome == "done"


def test_a_beam_goes_down_first_and_up_last(make_loop: LoopMaker) -> None:
    bench = Bench()
    script = [
        Change({"excitation_power": 5.0, "z_um": 1.0}, "up"),
        Change({"z_um": 2.0, "excitation_power": 1.0}, "down"),
    ]
    asyncio.run(make_loop(bench, "session.max_frames=3", "start={}", policy=Follow(script=script)).run())
    assert [name for name, _ in bench.sets] == ["z_um", "excitation_power", "excitation_power", "z_um"]


def test_start_settings_pass_the_guard(make_loop: LoopMaker) -> None:
    bench = Bench()
    bench.values["z_um"] = 90.0
    summary = asyncio.run(make_loop(bench, "session.max_frames=5").run())
    assert (summary.exit_code, summary.frames) == (5, 0)
    assert "start settings were refused" in summary.error
    assert bench.sets == []


def test_limits_and_starts_of_unknown_parameters_are_configuration_errors(make_loop: LoopMaker) -> None:
    loop = make_loop(Bench(), "limits.y_um={lower: 0}", "start.x_um=1")
    summary = asyncio.run(loop.run())
    assert summary.exit_code == 3
    assert "limits.y_um: this microscope has no such parameter" in summary.error
    assert "start.x_um: this microscope has no such parameter" in summary.error


def test_a_dying_scorer_is_started_again_and_the_loop_goes_on(make_loop: LoopMaker) -> None:
    def die(call: int) -> None:
        if call in (2, 3):
            raise ScorerError("the process died")

    bench, scorer, steps = Bench(), Reader(fault=die), []
    summary = asyncio.run(make_loop(bench, "session.max_frames=8", scorer=scorer, listeners=[steps.append]).run())
    assert summary.outcome == "done"
    assert scorer.restarts == 2
    assert summary.scored == 5
    assert any("started again" in step.notes for step in steps)
    assert scorer.closed


def test_a_scorer_that_stays_dead_ends_the_session_safe(make_loop: LoopMaker) -> None:
    def die(call: int) -> None:
        raise ScorerError("the process died")

    bench, scorer = Bench(), Reader(fault=die)
    summary = asyncio.run(make_loop(bench, scorer=scorer, max_restarts=3).run())
    assert (summary.outcome, summary.exit_code) == ("failed", 4)
    assert "4 times in a row" in summary.error
    assert scorer.restarts == 3
    assert bench.safe


def test_a_scorer_that_hangs_for_good_does_not_hang_the_loop(make_loop: LoopMaker) -> None:
    release = threading.Event()
    bench = Bench()
    loop = make_loop(bench, scorer=Reader(fault=lambda call: release.wait(30)), timeout_s=0.1)
    try:
        summary = asyncio.run(asyncio.wait_for(loop.run(), 20))
    finally:
        release.set()
    assert summary.exit_code == 4
    assert bench.safe


def test_pause_stops_the_camera_and_resume_goes_on(make_loop: LoopMaker) -> None:
    bench, steps = Bench(ServingClock(), exposure_ms=2), []
    holder: list[Loop] = []

    def watch(step: Step) -> None:
        steps.append(step)
        if len(steps) == 5:
            holder[0].pause("coffee")
            threading.Timer(0.1, holder[0].resume).start()

    loop = make_loop(bench, "session.max_frames=100", listeners=[watch], policy=Follow(within_um=1e9))
    holder.append(loop)
    summary = asyncio.run(loop.run())
    assert summary.outcome == "done"
    moves = [(r["old"], r["new"]) for r in records(loop, "state")]
    assert ("running", "paused") in moves
    assert ("paused", "running") in moves
    starts = [r["start_s"] for r in records(loop, "frame")]
    assert max(np.diff(starts)) > 0.05


def test_stop_and_safe_from_another_thread(make_loop: LoopMaker) -> None:
    for request, outcome, code in (("request_stop", "stopped", 0), ("request_safe", "safe", 5)):
        bench = Bench(ServingClock(), exposure_ms=2)
        loop = make_loop(bench, policy=Follow(within_um=1e9))
        threading.Timer(0.1, getattr(loop, request), ["enough"]).start()
        summary = asyncio.run(loop.run())
        assert (summary.outcome, summary.exit_code) == (outcome, code)
        assert bench.safe
        assert bench.closed


def test_a_request_before_the_start_holds(make_loop: LoopMaker) -> None:
    bench = Bench()
    loop = make_loop(bench)
    loop.request_stop("never mind")
    assert asyncio.run(loop.run()).outcome == "stopped"
    loop = make_loop(bench)
    loop.request_safe("no")
    assert asyncio.run(loop.run()).exit_code == 5


def test_stop_while_paused(make_loop: LoopMaker) -> None:
    loop = make_loop(Bench(ServingClock()))
    loop.pause()
    threading.Timer(0.1, loop.request_stop, ["home"]).start()
    assert asyncio.run(loop.run()).outcome == "stopped"


def test_a_raising_listener_is_contained(make_loop: LoopMaker) -> None:
    def bad(step: Step) -> None:
        raise ValueError("my plot broke")

    assert asyncio.run(make_loop(Bench(), "session.max_frames=4", listeners=[bad]).run()).outcome == "done"


def test_frames_are_recorded_where_the_journal_says(make_loop: LoopMaker) -> None:
    import yaozarrs

    for keep in ("all", "decisions"):
        loop = make_loop(Bench(focus_um=4.0), "session.max_frames=6", f"session.record={keep}")
        asyncio.run(loop.run())
        group = yaozarrs.open_group(str(loop.session.folder / "frames.ome.zarr"))
        pixels = np.asarray(group["0"].to_tensorstore().read().result())
        if keep == "all":
            places = {r["index"]: r["stored"] for r in records(loop, "frame")}
            assert len(places) == 6
        else:
            places = {r["index"]: r["stored"] for r in records(loop, "stored")}
            assert sorted(places) == [0, 1, 5]  # the first, the one that made it move, the last
        truth = {r["index"]: r["truth"]["defocus_um"] for r in records(loop, "frame")}
        for index, place in places.items():
            assert (int(pixels[place, 0, 0]) - 30000) / 100 == truth[index]


def test_no_room_for_all_frames_is_refused_before_they_are_taken(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench()
    loop = make_loop(bench, "session.max_frames=100000000", "session.record=all")
    summary = asyncio.run(loop.run())
    assert summary.exit_code == 4
    assert "make room" in summary.error
    assert bench.safe


def test_opening_and_closing_the_session_early_still_leaves_a_readable_journal(make_loop: LoopMaker) -> None:
    def fail(where: str, count: int) -> None:
        if where == "open":
            raise CameraError("no camera on the bus")

    loop = make_loop(Bench(fault=fail))
    summary = asyncio.run(loop.run())
    assert (summary.exit_code, summary.error) == (4, "no camera on the bus")
    assert [r["kind"] for r in records(loop, "session", "error", "end")] == ["session", "error", "end"]


def test_the_clock_serves_commands_while_a_driver_waits(make_loop: LoopMaker) -> None:
    """A long exposure does not hold up the stage: the command is carried out while the driver sleeps on its clock."""
    bench = Bench(ServingClock(), exposure_ms=300, settle_s=0.001)
    loop = make_loop(bench, "session.max_frames=3", "start={}", policy=Follow(script=[Change({"z_um": 1.0}, "go")] * 9))
    asyncio.run(loop.run())
    settled_s = records(loop, "readback")[0]["settled_s"]
    assert any(r["start_s"] < settled_s < r["end_s"] for r in records(loop, "frame"))


def test_state_table() -> None:
    changes: list[tuple[State, State]] = []
    machine = StateMachine(lambda old, new, reason: changes.append((old, new)))
    for state in (State.RUNNING, State.PAUSED, State.RUNNING, State.STOPPING, State.SAFE, State.ENDED):
        machine.to(state, "x")
    assert len(changes) == 6
    with pytest.raises(TransitionError, match="from ended to running"):
        machine.to(State.RUNNING, "again")
    assert all(State.SAFE in new for old, new in TRANSITIONS.items() if old not in (State.SAFE, State.ENDED))
    assert [old for old, new in TRANSITIONS.items() if State.ENDED in new] == [State.SAFE]


def test_deadlines_are_generous_by_default() -> None:
    assert Deadlines().command_s >= 5


def test_assessments_of_a_real_type_are_what_the_policy_is_told(make_loop: LoopMaker) -> None:
    policy = Follow()
    asyncio.run(make_loop(Bench(), "session.max_frames=3", policy=policy).run())
    told = policy.told[0].assessments["defocus"]
    assert isinstance(told, Assessment)
    assert type(told.detail["certainty"]) is float


def test_time_passes_for_the_loop_only_on_the_microscopes_clock(make_loop: LoopMaker) -> None:
    began = time.monotonic()
    clock = VirtualClock()
    asyncio.run(make_loop(Bench(clock), "session.max_seconds=86400", "microscope.interval_ms=3600000").run())
    assert clock.now() > time.monotonic() - began
