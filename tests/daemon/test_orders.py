"""Orders from outside: written down before they take effect, answered always, and never more than what is allowed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Follow, Reader
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon import controls
from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.compose import build
from parfocal.daemon.config import load_config
from parfocal.daemon.config_models import Limit
from parfocal.daemon.controls import ControlError, narrowed
from parfocal.daemon.journal import JournalError, read_journal
from parfocal.daemon.loop import Loop
from parfocal.daemon.orders import MOST_WAITING
from parfocal.daemon.owner import ServingClock
from parfocal.daemon.requests import Answer, Order
from parfocal.daemon.summary import Step
from parfocal.drivers.base import CameraError
from parfocal.models.base import ScorerError
from parfocal.policies.base import Change, Hold, PolicyError, PolicyOptionError
from parfocal.simulator.clock import VirtualClock

LoopMaker = Callable[..., Loop]


class Caller:
    """Gives orders after given frames, as a listener of the loop, and keeps what was answered."""

    def __init__(self, *orders: tuple[int, str, dict[str, Any]]) -> None:
        self.loop: Loop | None = None
        self.answers: list[tuple[str, Answer]] = []
        self.steps: list[Step] = []
        self._orders = list(orders)

    def give(self, command: str, **arguments: Any) -> None:
        assert self.loop is not None
        self.loop.orders.submit(
            Order("ann", "operate", command, arguments, lambda said: self.answers.append((command, said)))
        )

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        for after, command, arguments in self._orders:
            if len(self.steps) == after:
                self.give(command, **arguments)


def run(make_loop: LoopMaker, caller: Caller, *settings: str, **keywords: Any) -> Any:
    keywords.setdefault("policy", Follow(within_um=1e9))
    microscope = keywords.pop("microscope", None) or Bench()
    loop = make_loop(microscope, *settings, listeners=[caller], **keywords)
    caller.loop = loop
    return asyncio.run(loop.run())


def records(loop: Loop | None, *kinds: Any) -> list[dict[str, Any]]:
    assert loop is not None
    return list(read_journal(loop.session.folder / "journal.jsonl").of(*kinds))


def test_stop_is_written_down_answered_and_done(make_loop: LoopMaker) -> None:
    caller = Caller((3, "stop", {"reason": "enough"}))
    summary = run(make_loop, caller)
    assert (summary.outcome, summary.frames) == ("stopped", 4)  # the fourth was on its way
    assert caller.answers == [("stop", Answer(True, "stops after the frame at hand"))]
    (order,) = records(caller.loop, "command_received")
    assert (order["who"], order["role"], order["command"], order["accepted"]) == ("ann", "operate", "stop", True)
    stopping = next(r for r in records(caller.loop, "state") if r["new"] == "stopping")
    assert order["n"] < stopping["n"]
    assert stopping["reason"] == "enough (ann)"


def test_safe_takes_effect_in_the_middle_of_a_frame_and_is_in_the_journal(make_loop: LoopMaker) -> None:
    bench, caller, scoring = Bench(ServingClock(), exposure_ms=1), Caller(), threading.Event()

    def slow(call: int) -> None:
        if call == 2:
            caller.give("safe", reason="smoke")
            scoring.wait(20)

    try:
        summary = run(make_loop, caller, microscope=bench, scorer=Reader(fault=slow))
    finally:
        scoring.set()
    assert (summary.outcome, summary.exit_code) == ("safe", 5)
    assert "smoke (ann)" in summary.error
    assert bench.safe
    assert records(caller.loop, "command_received")[0]["command"] == "safe"
    assert caller.answers[0][1].accepted


def test_a_full_disk_keeps_nobody_from_making_safe(make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    caller, bench = Caller((2, "safe", {"reason": "smoke"})), Bench()
    loop = make_loop(bench, listeners=[caller], policy=Follow(within_um=1e9))
    caller.loop = loop
    real = loop.session.journal.append

    def full(kind: Any, **fields: Any) -> int:
        if kind == "command_received":
            raise JournalError("No space left on device")
        return real(kind, **fields)

    monkeypatch.setattr(loop.session.journal, "append", full)
    summary = asyncio.run(loop.run())
    assert summary.outcome == "safe"
    assert bench.safe
    assert caller.answers[0][1].accepted


@pytest.mark.parametrize("command", ["pause", "set_limit"])
def test_what_cannot_be_written_down_does_not_take_effect(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    arguments = {"parameter": "z_um", "bound": "upper", "value": 5.0} if command == "set_limit" else {}
    caller = Caller((2, command, arguments))
    loop = make_loop(Bench(), "session.max_frames=5", listeners=[caller], policy=Follow(within_um=1e9))
    caller.loop = loop
    real = loop.session.journal.append

    def full(kind: Any, **fields: Any) -> int:
        if kind == "command_received":
            raise JournalError("No space left on device")
        return real(kind, **fields)

    monkeypatch.setattr(loop.session.journal, "append", full)
    summary = asyncio.run(loop.run())
    assert not caller.answers[0][1].accepted
    assert "No space left" in caller.answers[0][1].reason
    assert loop._guard.limits["z_um"].upper == 100
    assert summary.outcome == ("done" if command == "pause" else "failed")


def test_pausing_twice_and_resuming_what_runs_is_said(make_loop: LoopMaker) -> None:
    bench = Bench(ServingClock(), exposure_ms=1)
    caller = Caller((2, "resume", {}), (3, "pause", {"reason": "tea"}), (3, "pause", {"reason": "cake"}))
    loop = make_loop(bench, "session.max_frames=60", listeners=[caller], policy=Follow(within_um=1e9))
    caller.loop = loop
    resume = threading.Timer(0.3, lambda: caller.give("resume"))
    resume.start()
    asyncio.run(loop.run())
    resume.join()
    texts = [said.reason for _, said in caller.answers]
    assert texts[:3] == ["was not paused", "paused after the frame at hand", "paused already: tea (ann)"]
    assert texts[3] == "going on"


def test_an_order_before_the_first_frame_is_written_down_after_the_header(make_loop: LoopMaker) -> None:
    caller = Caller()

    def give_early(call: int) -> None:
        return None

    scorer = Reader(fault=give_early)
    loop = make_loop(Bench(ServingClock(), exposure_ms=1), scorer=scorer, listeners=[caller])
    caller.loop = loop
    real = scorer.start

    def start() -> None:
        caller.give("stop", reason="never mind")
        real()

    scorer.start = start  # type: ignore[method-assign]
    summary = asyncio.run(loop.run())
    assert summary.outcome == "stopped"
    kinds = [record["kind"] for record in records(loop, "session", "command_received", "state")]
    assert kinds[:2] == ["session", "command_received"]


def test_an_order_that_finds_no_session_is_answered(make_loop: LoopMaker) -> None:
    caller = Caller()
    loop = make_loop(Bench(), "session.max_frames=2")
    caller.loop = loop
    caller.give("pause")
    assert asyncio.run(loop.run()).outcome == "done"
    caller.give("resume")
    assert [(said.accepted, said.code) for _, said in caller.answers] == [(False, "not_running")] * 2
    caller.give("safe")
    assert caller.answers[-1][1].accepted, "it is safe already, which is no reason to refuse"


def test_safe_before_the_session_begins_keeps_it_from_doing_anything(make_loop: LoopMaker) -> None:
    caller, bench = Caller(), Bench()
    loop = make_loop(bench, "session.max_frames=5", "start.z_um=7", listeners=[caller])
    caller.loop = loop
    caller.give("safe", reason="smoke")
    assert caller.answers[0][1].accepted
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code, summary.frames) == ("safe", 5, 0)
    assert "smoke (ann)" in summary.error
    assert caller.steps == []
    assert records(loop, "command") == []


def test_an_order_at_the_very_end_is_refused_and_not_lost(
    make_loop: LoopMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller = Caller()
    loop = make_loop(Bench(), "session.max_frames=2")
    caller.loop = loop
    real = loop._decider.close

    async def close() -> None:
        caller.give("set_limit", parameter="z_um", bound="upper", value=1.0)
        caller.give("safe")
        await asyncio.sleep(0.01)
        await real()

    monkeypatch.setattr(loop._decider, "close", close)
    asyncio.run(loop.run())
    assert [(name, said.accepted, said.code) for name, said in caller.answers] == [
        ("set_limit", False, "ending"), ("safe", True, ""),
    ]  # fmt: skip
    assert records(loop, "command_received") == []


def test_whoever_is_faster_than_the_microscope_is_told_so(make_loop: LoopMaker) -> None:
    limit = {"parameter": "z_um", "bound": "upper", "value": 50.0}
    caller = Caller(*[(2, "set_limit", limit)] * (MOST_WAITING + 5))
    run(make_loop, caller, "session.max_frames=5")
    codes = [said.code for _, said in caller.answers]
    assert codes.count("busy") == 5
    assert codes.count("") == MOST_WAITING


# -- limits ------------------------------------------------------------------------------------------------------------


def test_a_narrower_limit_holds_from_the_next_frame_on(make_loop: LoopMaker) -> None:
    policy = Follow(script=[Hold("look"), Hold("look"), Change({"z_um": 30.0}, "far"), Change({"z_um": 10.0}, "near")])
    bench = Bench()
    caller = Caller((2, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 20.0}))
    run(make_loop, caller, "session.max_frames=5", "start={}", policy=policy, microscope=bench)
    assert bench.sets == [("z_um", 10.0)]
    assert [r["accepted"] for r in records(caller.loop, "verdict")] == [True, True, False, True]
    assert caller.answers[0][1].reason == "limits.z_um.upper: 20"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("z_um", "upper", 100.1), "wider than the 100 this session began with"),
        (("z_um", "lower", -101.0), "wider than the -100"),
        (("z_um", "max_step", 41.0), "wider than the 40"),
        (("z_um", "upper", -200.0), "must be below upper"),
        (("z_um", "max_step", 0.0), "greater than 0"),
        (("z_um", "budget", 5.0), "a budget belongs to dose"),
        (("dose", "upper", 5.0), "a budget belongs to dose"),
        (("dose", "budget", -1.0), "must be above 0"),
        (("dose", "budget", 1001.0), "more than the 1000 uJ this session began with"),
        (("z_mm", "upper", 5.0), "did you mean 'z_um'"),
        (("excitation_power", "upper", 51.0), "wider than the 50"),  # the device's own
    ],
)
def test_no_limit_becomes_wider_than_it_was(make_loop: LoopMaker, arguments: Any, says: str) -> None:
    parameter, bound, value = arguments
    caller = Caller((2, "set_limit", {"parameter": parameter, "bound": bound, "value": value}))
    run(make_loop, caller, "session.max_frames=4", "limits.dose={budget: 1000, unit: uJ}")
    (answer,) = [said for _, said in caller.answers]
    assert not answer.accepted
    assert says in answer.reason
    (record,) = records(caller.loop, "command_received")
    assert (record["accepted"], record["reason"]) == (False, answer.reason)


def test_what_was_narrowed_can_be_given_back_but_no_more(make_loop: LoopMaker) -> None:
    def upper(value: float | None) -> dict[str, Any]:
        return {"parameter": "z_um", "bound": "upper", "value": value}

    caller = Caller((2, "set_limit", upper(10.0)), (3, "set_limit", upper(90.0)), (4, "set_limit", upper(None)))
    run(make_loop, caller, "session.max_frames=6")
    assert [said.detail["value"] for _, said in caller.answers] == [10.0, 90.0, 100.0]


def test_a_smaller_budget_ends_the_session_when_it_is_spent(make_loop: LoopMaker) -> None:
    caller = Caller((3, "set_limit", {"parameter": "dose", "bound": "budget", "value": 90.0}))
    settings = ["start={excitation_power: 2}", "limits.dose={budget: 1000, unit: uJ}", "session.max_frames=50"]
    summary = run(make_loop, caller, *settings)
    assert (summary.outcome, summary.dose) == ("tripped", 80.0), summary.error
    assert caller.loop is not None
    assert caller.loop.ledger.budget == 90.0


bounds = st.sampled_from(["lower", "upper", "max_step", "max_rate", "max_travel"])
changes = st.lists(st.tuples(bounds, st.none() | st.floats() | st.integers(-300, 300)), max_size=20)


@given(changes)
def test_whatever_is_asked_for_the_limits_stay_inside_those_of_the_beginning(asked: list[tuple[str, Any]]) -> None:
    base = current = Limit(lower=-100.0, upper=100.0, max_step=40.0)
    for bound, value in asked:
        try:
            current = narrowed(base, current, "z_um", bound, None if value is None else float(value))
        except ControlError:
            continue
    assert current.lower is not None
    assert current.upper is not None
    assert current.max_step is not None
    assert -100.0 <= current.lower < current.upper <= 100.0
    assert 0 < current.max_step <= 40.0
    assert current.max_rate is None or current.max_rate > 0


# -- one frame while paused --------------------------------------------------------------------------------------------


def once_paused(caller: Caller, then: Callable[[], None]) -> None:
    """Do something as soon as the session has paused, however busy the machine is."""

    def wait() -> None:
        while caller.loop is None or caller.loop.state.state.value != "paused":
            time.sleep(0.01)
        then()

    threading.Thread(target=wait, daemon=True).start()


def paused(make_loop: LoopMaker, *then: tuple[str, dict[str, Any]], **keywords: Any) -> tuple[Caller, Any]:
    """Pause at the third frame, give orders one after the other, resume."""
    caller, waiting = Caller((3, "pause", {"reason": "look"})), list(then)

    def after(answer: Answer) -> None:
        caller.answers.append(("after", answer))
        following()

    def following() -> None:
        command, arguments = waiting.pop(0) if waiting else ("resume", {})
        assert caller.loop is not None
        done = (lambda said: caller.answers.append(("resume", said))) if command == "resume" else after
        caller.loop.orders.submit(Order("ann", "operate", command, arguments, done))

    once_paused(caller, following)
    summary = run(
        make_loop, caller, "session.max_frames=40", microscope=keywords.pop("microscope", None)
        or Bench(ServingClock(), exposure_ms=1), **keywords,
    )  # fmt: skip
    return caller, summary


def test_one_frame_while_paused_is_scored_written_down_and_not_acted_upon(make_loop: LoopMaker) -> None:
    policy = Follow(within_um=1e9)
    caller, summary = paused(make_loop, ("snap", {}), policy=policy)
    answer = next(said for name, said in caller.answers if name == "after")
    assert answer.accepted, answer.reason
    assert answer.detail["assessments"]["defocus"]["value"] == pytest.approx(-10.0)
    index = answer.detail["index"]
    (frame,) = [r for r in records(caller.loop, "frame") if r["index"] == index]
    assert frame["unfit"] == "snap"
    assert [r["value"] for r in records(caller.loop, "assessment") if r["index"] == index] == [-10.0]
    assert index not in {r["index"] for r in records(caller.loop, "action", "verdict", "command")}
    assert index not in {observation.index for observation in policy.told}
    assert (summary.outcome, summary.frames) == ("done", 40)
    shown = next(step for step in caller.steps if step.frame.index == index)
    assert shown.state == "paused"


def test_a_frame_is_only_asked_for_while_paused(make_loop: LoopMaker) -> None:
    caller = Caller((2, "snap", {}))
    run(make_loop, caller, "session.max_frames=4")
    assert "pause first" in caller.answers[0][1].reason


def test_a_camera_or_scorer_that_fails_at_it_is_said_and_the_session_goes_on(make_loop: LoopMaker) -> None:
    def broken(call: int) -> None:
        assert threading.current_thread() is not threading.main_thread()
        if asked:
            asked.clear()
            raise ScorerError("the process died")

    asked: list[int] = []
    bench = Bench(ServingClock(), exposure_ms=1)
    real, failing = bench.frames, [CameraError("no frame")]

    def frames() -> Any:
        if caller.steps and caller.steps[-1].state == "running" and len(caller.steps) >= 3 and failing:
            raise failing.pop()
        asked.append(1) if not failing and len(asked) == 0 and caller.answers[-1][0] == "after" else None
        return real()

    bench.frames = frames  # type: ignore[method-assign]
    caller = Caller((3, "pause", {"reason": "look"}))
    said: list[Answer] = []

    def snap(then: Callable[[], None]) -> None:
        def answered(answer: Answer) -> None:
            said.append(answer)
            caller.answers.append(("after", answer))
            then()

        assert caller.loop is not None
        caller.loop.orders.submit(Order("ann", "operate", "snap", {}, answered))

    once_paused(caller, lambda: snap(lambda: snap(lambda: caller.give("resume"))))
    summary = run(make_loop, caller, "session.max_frames=40", microscope=bench, scorer=Reader(fault=broken))
    assert [(answer.accepted, answer.reason) for answer in said] == [(False, "no frame"), (False, "the process died")]
    assert summary.outcome == "done"


# -- the policy --------------------------------------------------------------------------------------------------------


class Opinionated(Follow):
    def __init__(self, name: str, options: dict[str, Any]) -> None:
        super().__init__(within_um=1e9)
        self.name, self.options = name, options
        self.restored: Any = None

    def checkpoint(self) -> dict[str, Any]:
        return {"told": len(self.told)}

    def restore(self, checkpoint: Any) -> None:
        self.restored = checkpoint


def chosen(tmp_path: Path) -> tuple[PolicyChoice, list[Opinionated]]:
    made: list[Opinionated] = []

    def maker_for(config: Any) -> Any:
        if "bad" in config.policy.options:
            raise PolicyOptionError("unknown option 'bad'")
        limit = config.limits.parameters["z_um"]

        def make(frame: Any) -> Any:
            options = {"upper_um": limit.upper, **config.policy.options}
            made.append(Opinionated(config.policy.name, options))
            return made[-1], options

        return make

    base = ["microscope.interval_ms=0", f"session.folder={tmp_path}"]
    return PolicyChoice(load_config(None, base), maker_for), made


def run_chosen(make_loop: LoopMaker, tmp_path: Path, caller: Caller) -> list[Opinionated]:
    choice, made = chosen(tmp_path)
    loop = make_loop(Bench(), "session.max_frames=8", listeners=[caller], choice=choice)
    loop._decider._make_policy = choice
    caller.loop = loop
    assert asyncio.run(loop.run()).outcome == "done"
    return made


def test_an_option_makes_a_new_policy_that_decides_from_the_next_frame_on(make_loop: LoopMaker, tmp_path: Path) -> None:
    caller = Caller((4, "set_option", {"option": "pace", "value": 3}))
    first, second = run_chosen(make_loop, tmp_path, caller)
    assert second.options == {"upper_um": 100, "pace": 3}
    assert (len(first.told), len(second.told)) == (4, 3)  # the fifth frame was on its way
    assert second.restored is None
    written = records(caller.loop, "policy")
    assert [record["options"] for record in written] == [first.options, second.options]
    order = records(caller.loop, "command_received")[0]
    assert written[0]["n"] < order["n"] < written[1]["n"]
    assert "begins anew with the next frame" in order["reason"]


def test_another_policy_takes_over_with_its_own_options_only(make_loop: LoopMaker, tmp_path: Path) -> None:
    caller = Caller(
        (3, "set_option", {"option": "pace", "value": 3}),
        (4, "set_policy", {"policy": "focus.hold", "options": {"calm": True}}),
    )
    made = run_chosen(make_loop, tmp_path, caller)
    assert (made[-1].name, made[-1].options) == ("focus.hold", {"upper_um": 100, "calm": True})
    assert records(caller.loop, "policy")[-1]["policy"] == "focus.hold"


def test_what_the_policy_refuses_is_refused_with_its_words(make_loop: LoopMaker, tmp_path: Path) -> None:
    caller = Caller(
        (3, "set_option", {"option": "bad", "value": 1}),
        (3, "set_option", {"option": "name", "value": "focus.hold"}),
        (3, "set_option", {"option": "pace", "value": float("nan")}),
    )
    made = run_chosen(make_loop, tmp_path, caller)
    assert "unknown option 'bad'" in caller.answers[0][1].reason
    assert "switch the policy instead" in caller.answers[1][1].reason
    assert [said.accepted for _, said in caller.answers[:2]] == [False, False]
    assert made[0].told


def test_a_narrower_limit_reaches_the_policy_which_goes_on_where_it_was(make_loop: LoopMaker, tmp_path: Path) -> None:
    caller = Caller((5, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 20.0}))
    made = run_chosen(make_loop, tmp_path, caller)
    assert made[-1].options == {"upper_um": 20.0}
    assert made[-1].restored == {"told": 5}
    assert records(caller.loop, "policy")[-1]["continues"] is True


def test_a_policy_that_can_takes_over_without_a_checkpoint(
    make_loop: LoopMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: Any) -> None:
        raise PolicyError("not from this one")

    taken: list[Any] = []
    monkeypatch.setattr(Opinionated, "hand_over", lambda self: len(self.told), raising=False)
    monkeypatch.setattr(Opinionated, "take_over", lambda self, handed: taken.append(handed), raising=False)
    order = (5, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 20.0})
    caller = Caller(order)
    made = run_chosen(make_loop, tmp_path, caller)
    assert (taken, made[-1].restored) == ([5], None)
    assert records(caller.loop, "policy")[-1]["continues"] is True

    monkeypatch.setattr(Opinionated, "take_over", lambda self, handed: refuse(handed))
    caller = Caller(order)
    run_chosen(make_loop, tmp_path, caller)
    assert "continues" not in records(caller.loop, "policy")[-1], "one that cannot go on begins anew"


def test_a_policy_that_is_quickly_made_is_not_handed_to_a_thread_for_a_limit(
    make_loop: LoopMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Handing it there and back takes longer; an option may change how long it takes, so that always goes there."""
    threads: list[bool] = []
    plain = Opinionated.__init__

    def noted(self: Any, name: str, options: dict[str, Any]) -> None:
        plain(self, name, options)
        threads.append(threading.current_thread() is threading.main_thread())

    monkeypatch.setattr(Opinionated, "__init__", noted)
    orders = (
        (2, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 30.0}),
        (3, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 20.0}),
        (4, "set_option", {"option": "pace", "value": 3}),
    )
    for brief_s, where in ((60.0, [False, True, False]), (0.0, [False, False, False])):
        threads.clear()
        monkeypatch.setattr(controls, "BRIEF_S", brief_s)
        made = run_chosen(make_loop, tmp_path, Caller(*orders))
        assert threads[-3:] == where
        assert made[-1].options == {"upper_um": 20.0, "pace": 3}


def test_before_the_first_decision_the_choice_is_just_another(make_loop: LoopMaker, tmp_path: Path) -> None:
    caller, scorer = Caller(), Reader()
    choice, made = chosen(tmp_path)
    loop = make_loop(Bench(), "session.max_frames=8", choice=choice, scorer=scorer)
    loop._decider._make_policy = choice
    caller.loop = loop
    scorer.start = lambda: caller.give("set_option", option="pace", value=3)  # type: ignore[method-assign]
    asyncio.run(loop.run())
    assert [one.options for one in made] == [{"upper_um": 100, "pace": 3}]
    assert "begins with the first frame" in caller.answers[0][1].reason


def test_without_a_choice_the_policy_stays(make_loop: LoopMaker) -> None:
    caller = Caller((2, "set_policy", {"policy": "focus.hold", "options": {}}))
    run(make_loop, caller, "session.max_frames=4")
    assert "cannot be changed" in caller.answers[0][1].reason


def test_a_real_run_takes_real_policies(tmp_path: Path) -> None:
    settings = [
        "scoring.models=[sharpness]", "scoring.process=false", "policy.name=focus.hold", "session.max_frames=10",
        "microscope.simulation.size_px=64", "microscope.interval_ms=0", "session.record=none",
    ]  # fmt: skip
    config = load_config(None, settings)
    caller = Caller(
        (2, "set_policy", {"policy": "focus.sweep", "options": {"range_um": 10.0, "step_um": 2.0}}),
        (4, "set_option", {"option": "step_um", "value": 1.0}),
        (5, "set_option", {"option": "stp_um", "value": 1.0}),
        (5, "set_policy", {"policy": "focus.quality", "options": {}}),
        (6, "set_limit", {"parameter": "z_um", "bound": "upper", "value": 30.0}),
    )
    with structlog.testing.capture_logs():
        loop = build(config, clock=VirtualClock(), session_folder=tmp_path / "s", listeners=[caller])
        caller.loop = loop
        asyncio.run(loop.run())
    said = dict(caller.answers)
    texts = [answer.reason for _, answer in caller.answers]
    assert texts[0].startswith("policy focus.sweep; it begins")
    assert texts[1].startswith("policy.step_um: 1.0; it begins anew")
    assert texts[2] == "policy focus.sweep: unknown option 'stp_um', did you mean 'step_um'?"
    assert "reads the model 'quality', which is not among scoring.models" in texts[3]
    assert said["set_limit"].accepted, said["set_limit"].reason
    names = [(record["policy"], record["options"].get("upper_um")) for record in records(loop, "policy")]
    assert names[-1] == ("focus.sweep", 30.0)
