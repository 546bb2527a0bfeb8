"""Slow suggestions: solved in another process, by a deadline; whatever goes wrong, the policy falls back."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from parfocal.daemon import decide as module
from parfocal.daemon.decide import Decider, Decision
from parfocal.daemon.deliberate import Deliberator, Suggested
from parfocal.daemon.journal import Journal, read_journal
from parfocal.daemon.owner import Taken
from parfocal.daemon.record import Record
from parfocal.drivers.base import Frame
from parfocal.models.base import Assessment
from parfocal.policies.base import Action, Change, Hold, Observation, PolicyError
from parfocal.policies.quality_gate import GatedPolicy, GateTerms

SOLVERS = """
import os, time
def echo(problem): return {"number": problem["number"], "pid": os.getpid()}
def slow(problem): time.sleep(60); return {}
def wrong(problem): raise ValueError("no way")
def nan(problem): return {"number": float("nan")}
def dies(problem): os._exit(7)
"""


@pytest.fixture
def solvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make a module of solvers that the other process can import."""
    (tmp_path / "some_solvers.py").write_text(SOLVERS)
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), known]) if known else str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    with structlog.testing.capture_logs():
        yield


class Slow:
    """A policy that needs a suggestion for every frame."""

    name = "slow"
    deadline_s = 30.0

    def __init__(self, solver: str, deadline_s: float = 30.0) -> None:
        self.solver, self.deadline_s = f"some_solvers:{solver}", deadline_s
        self.accepted: list[Mapping[str, Any] | None] = []
        self._due = False

    def tell(self, observation: Observation) -> None:
        self._due = observation.index > 0

    def problem(self) -> dict[str, Any] | None:
        return {"solve": self.solver, "number": 0.1 + 0.2} if self._due else None

    def accept(self, suggestion: Mapping[str, Any] | None) -> None:
        self.accepted.append(suggestion)

    def ask(self) -> Action:
        suggestion = self.accepted[-1] if self.accepted else None
        return Hold("fell back") if suggestion is None else Change({"z_um": suggestion["number"]}, "as suggested")

    def checkpoint(self) -> dict[str, Any]:
        return {}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        pass


class Scorer:
    def start(self) -> None: ...

    def restart(self) -> None: ...

    def close(self) -> None: ...

    def score(self, *_: Any) -> dict[str, Assessment]:
        return {"m": Assessment("m", 1.0, 0.1)}

    def describe(self) -> dict[str, Any]:
        return {}


class Heavy(Slow):
    """A policy that computes for a while, and says in which thread."""

    off_loop = True

    def __init__(self, *, off_loop: bool = True) -> None:
        self.off_loop = off_loop
        self.threads: list[str] = []

    def tell(self, observation: Observation) -> None:
        self.threads.append(threading.current_thread().name)

    def problem(self) -> None:
        return None

    def ask(self) -> Action:
        self.threads.append(threading.current_thread().name)
        if len(self.threads) > 20:
            raise PolicyError("enough")
        return Hold("thought about it")


def decide(policy: Any, frames: int = 2, *, beats: list[float] | None = None) -> list[Decision]:
    async def run() -> list[Decision]:
        decider = Decider(Scorer(), lambda _: (policy, {}))
        await decider.start()
        made = []
        try:
            for index in range(frames):
                frame = Frame(np.zeros((32, 32)), index, {"z_um": 0.0}, 0.0, 0.1, 0.1)
                alive = (lambda: beats.append(time.monotonic())) if beats is not None else (lambda: None)
                made.append(await decider.decide(Taken(frame, 0.0, None, 0.0), alive))
        finally:
            await decider.close()
        return made

    return asyncio.run(run())


def leftovers() -> list[str]:
    deadline = time.monotonic() + 5.0
    while time.monotonic() < deadline:
        left = [child.name for child in multiprocessing.active_children() if child.name == "parfocal-solver"]
        if not left:
            return []
        time.sleep(0.05)
    return left


def test_a_suggestion_is_made_elsewhere_accepted_and_told(solvers: None) -> None:
    policy = Slow("echo")
    first, second = decide(policy)
    assert first.suggested is None
    assert second.suggested is not None
    assert second.suggested.suggestion == policy.accepted[0]
    assert policy.accepted[0] is not None
    assert policy.accepted[0]["number"] == 0.1 + 0.2
    assert policy.accepted[0]["pid"] != os.getpid()
    assert second.action == Change({"z_um": 0.1 + 0.2}, "as suggested")
    assert leftovers() == []


def test_beyond_the_deadline_the_policy_falls_back_and_the_loop_says_it_lives(solvers: None) -> None:
    policy, beats = Slow("slow", deadline_s=0.6), list[float]()
    decision = decide(policy, beats=beats)[1]
    assert policy.accepted == [None]
    assert decision.action == Hold("fell back")
    assert decision.suggested is not None
    assert decision.suggested.reason == "no suggestion within 0.6 s"
    assert len(beats) >= 2
    assert leftovers() == []


@pytest.mark.parametrize(
    ("solver", "said"),
    [("wrong", "ValueError: no way"), ("nan", "ValueError"), ("dies", "died"), ("missing", "cannot be imported")],
)
def test_a_solver_that_fails_is_a_reason_and_the_next_one_works(solvers: None, solver: str, said: str) -> None:
    deliberator = Deliberator()
    try:
        failed = deliberator.solve({"solve": f"some_solvers:{solver}", "number": 1}, 20.0)
        assert failed.suggestion is None
        assert said in failed.reason
        again = deliberator.solve({"solve": "some_solvers:echo", "number": 2}, 20.0)
        assert again.suggestion is not None
        assert again.suggestion["number"] == 2
    finally:
        deliberator.close()
    assert leftovers() == []
    assert "over" in deliberator.solve({"solve": "some_solvers:echo", "number": 2}, 1.0).reason


def test_a_process_serves_many_problems(solvers: None) -> None:
    deliberator = Deliberator()
    try:
        answers = [deliberator.solve({"solve": "some_solvers:echo", "number": n}, 20.0).suggestion for n in range(3)]
    finally:
        deliberator.close()
    assert [answer["number"] for answer in answers if answer] == [0, 1, 2]
    assert len({answer["pid"] for answer in answers if answer}) == 1


def test_closing_interrupts_a_deliberation(solvers: None) -> None:
    deliberator, found = Deliberator(), list[Suggested]()
    deliberator.warm_up("some_solvers:slow")
    thread = threading.Thread(
        target=lambda: found.append(deliberator.solve({"solve": "some_solvers:slow"}, 50.0)), daemon=True
    )
    thread.start()
    time.sleep(0.3)
    deliberator.close()
    thread.join(10.0)
    assert not thread.is_alive()
    assert found[0].suggestion is None
    assert leftovers() == []


def test_a_policy_that_needs_no_suggestions_is_not_asked_for_problems() -> None:
    class Plain(Slow):
        problem = None  # type: ignore[assignment]

    policy = Plain("echo")
    del Plain.problem
    plain = type(
        "Quick", (), {name: getattr(Slow, name) for name in ("tell", "ask", "checkpoint", "restore", "name")}
    )()
    plain.accepted = []
    assert [decision.suggested for decision in decide(plain)] == [None, None]
    assert policy.accepted == []


def test_a_gate_lets_suggestions_through(solvers: None) -> None:
    policy = Slow("echo")
    gated = GatedPolicy(policy, GateTerms(model="m", below=0.5))
    decision = decide(gated)[1]
    assert decision.suggested is not None
    assert policy.accepted == [decision.suggested.suggestion]


def test_what_was_accepted_is_in_the_journal_bit_for_bit(tmp_path: Path) -> None:
    class Session:
        folder = tmp_path
        journal = Journal(tmp_path / "journal.jsonl")
        config = type("C", (), {"session": type("S", (), {"record": "none"})})

    record = Record(Session())  # type: ignore[arg-type]
    Session.journal.append("session")
    record.suggestion(4, Suggested({"settings": {"dwell_us": 0.1 + 0.2}, "stop": False}, 0.25))
    record.suggestion(7, Suggested(None, 10.0, "no suggestion within 10 s"))
    record.flush()
    Session.journal.close()
    read = list(read_journal(tmp_path / "journal.jsonl").of("suggestion"))
    assert read[0]["index"] == 4
    assert read[0]["suggestion"] == {"settings": {"dwell_us": 0.1 + 0.2}, "stop": False}
    assert read[1]["suggestion"] is None
    assert read[1]["reason"] == "no suggestion within 10 s"
    assert json.dumps(read[0])


@pytest.mark.parametrize("gated", [False, True])
def test_a_policy_that_takes_its_time_leaves_the_event_loop_alone(gated: bool) -> None:
    heavy = Heavy()
    made = decide(GatedPolicy(heavy, GateTerms(model="m", below=0.5)) if gated else heavy, frames=3)
    assert [one.action.reason.split(";")[0] for one in made] == ["thought about it"] * 3
    assert len(heavy.threads) == 6
    assert "MainThread" not in heavy.threads
    light = Heavy(off_loop=False)
    decide(light, frames=1)
    assert set(light.threads) == {"MainThread"}


def test_what_such_a_policy_raises_arrives() -> None:
    heavy = Heavy()
    heavy.threads = ["before"] * 20
    with pytest.raises(PolicyError, match="enough"):
        decide(heavy, frames=1)


class Ahead(Heavy):
    """A policy that works ahead, and remembers of what it was told in which order."""

    def __init__(self, *, off_loop: bool = False) -> None:
        super().__init__(off_loop=off_loop)
        self.heard: list[Any] = []

    def expect(self, settings: Mapping[str, float], time_s: float) -> None:
        self.heard.append((dict(settings), time_s))

    def tell(self, observation: Observation) -> None:
        self.heard.append(observation.index)


def unhurried(self: Scorer, *_: Any) -> dict[str, Assessment]:
    time.sleep(0.05)
    return {"m": Assessment("m", 1.0, 0.1)}


def test_a_policy_that_works_ahead_is_told_of_the_frame_while_it_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "score", unhurried)
    policy = Ahead()
    decide(policy, 3)
    frame = ({"z_um": 0.0}, 0.05)
    assert policy.heard == [0, frame, 1, frame, 2]  # before the first frame there was no policy


def test_a_scorer_that_is_fast_is_not_kept_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AHEAD_AFTER_S", 30.0)
    policy = Ahead()
    decide(policy, 3)
    assert policy.heard == [0, 1, 2]


def test_a_policy_of_another_thread_does_not_work_ahead_in_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scorer, "score", unhurried)
    policy = Ahead(off_loop=True)
    decide(policy, 2)
    assert policy.heard == [0, 1]
