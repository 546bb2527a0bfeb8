"""A replay reproduces every decision and verdict bit for bit, and notices the smallest change of the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_doubles import Reader

from parfocal.daemon.replay.decisions import ReplayError, as_recorded, decide_again, reproduce
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.requests import Order
from parfocal.models.base import Assessment
from parfocal.policies.base import Hold

SessionMaker = Callable[..., Path]
LIMITS = "limits={z_um: {lower: -100, upper: 100, max_step: 5, max_travel: 2000}}"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def rewrite(folder: Path, records: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps({**record, "n": n}) + "\n" for n, record in enumerate(records))
    (folder / "journal.jsonl").write_text(text)


def test_every_decision_comes_out_the_same(record_session: SessionMaker) -> None:
    folder = record_session()
    found = reproduce(SessionReader(folder))
    assert found.identical
    assert found.decisions == 39  # the first frame only shows that the camera is alive
    assert found.recorded_sha256 == found.replayed_sha256 == found.stated_sha256
    stated = json.loads((folder / "summary.json").read_text())
    assert (stated["decisions"], stated["decisions_sha256"]) == (39, found.recorded_sha256)
    assert found.session_s == pytest.approx(0.5 * 38, rel=0.1)


@pytest.mark.parametrize(
    ("settings", "least_refused"),
    [
        (["limits={z_um: {lower: -100, upper: 100, max_rate: 3}}"], 3),  # refused until enough time has passed
        ([LIMITS, "policy.max_step_um=9"], 1),
        (["policy.name=focus.hold"], 0),
        (["policy.name=focus.belief", "quality={model: defocus, above: 3, for_frames: 2}"], 0),
    ],
)
def test_refusals_gates_and_other_policies_too(
    record_session: SessionMaker, settings: list[str], least_refused: int
) -> None:
    folder = record_session(*settings)
    found = reproduce(SessionReader(folder))
    refused = [r for r in lines(folder) if r["kind"] == "verdict" and not r["accepted"]]
    assert found.identical, [(one.index, one.verdict, one.now_verdict) for one in found.differing]
    assert len(refused) >= least_refused


def test_a_session_that_the_guard_ended(record_session: SessionMaker) -> None:
    folder = record_session("limits={z_um: {lower: -100, upper: 100, max_step: 0.001}}", "policy.max_step_um=50")
    assert SessionReader(folder).summary["outcome"] == "tripped"
    found = reproduce(SessionReader(folder))
    assert found.identical
    assert found.unfinished == 0


class Doubtful(Reader):
    """Abstains now and then, and says NaN where it does."""

    def score(self, *args: Any, **keywords: Any) -> dict[str, Assessment]:
        found = super().score(*args, **keywords)
        return found if self.calls % 5 else {"defocus": Assessment.abstain("defocus", "an empty field")}


def test_abstentions_and_numbers_that_are_none(record_session: SessionMaker) -> None:
    assert reproduce(SessionReader(record_session(scorer=Doubtful()))).identical


def test_one_bit_of_one_assessment_is_noticed(record_session: SessionMaker) -> None:
    folder = record_session()
    records = lines(folder)
    at = next(n for n, r in enumerate(records) if r["kind"] == "frame" and r["index"] == 5)
    records[at]["settings"]["z_um"] += 1e-3
    rewrite(folder, records)
    found = reproduce(SessionReader(folder))
    assert not found.identical
    assert found.differing[0].index >= 5


def test_a_decision_that_was_edited_is_noticed(record_session: SessionMaker) -> None:
    folder = record_session()
    records = lines(folder)
    at = next(n for n, r in enumerate(records) if r["kind"] == "action" and r["index"] == 7)
    records[at]["reason"] = "because"
    rewrite(folder, records)
    found = reproduce(SessionReader(folder))
    assert [one.index for one in found.differing] == [7]
    assert found.stated_sha256 != found.recorded_sha256


def test_an_order_to_switch_the_policy_is_honoured(record_session: SessionMaker) -> None:
    answers: list[Any] = []

    def order(loop: Any, step: Any) -> None:
        arguments = {10: ("set_option", {"option": "lead_dof", "value": 0.1}),
                     15: ("set_limit", {"parameter": "z_um", "bound": "max_step", "value": 3.0}),
                     20: ("set_policy", {"policy": "focus.hold", "options": {}})}.get(step.frame.index)  # fmt: skip
        if arguments is not None:
            loop.orders.submit(Order("ada", "operate", arguments[0], arguments[1], answers.append))

    folder = record_session(each=order)
    assert [answer.accepted for answer in answers] == [True, True, True], answers
    made = [r for r in lines(folder) if r["kind"] == "policy"]
    assert [r["policy"] for r in made] == ["focus.belief", "focus.belief", "focus.belief", "focus.hold"]
    assert [bool(r.get("continues")) for r in made] == [False, False, True, False]
    found = reproduce(SessionReader(folder))
    assert found.identical, found.differing[:1]


def test_killed_between_an_action_and_its_verdict(record_session: SessionMaker) -> None:
    folder = record_session()
    records = lines(folder)
    for kind, unfinished in (("action", 0), ("assessment", 1), ("verdict", 0), ("frame", 0)):
        at = max(n for n, r in enumerate(records) if r["kind"] == kind)
        rewrite(folder, records[: at + 1])
        (folder / "summary.json").unlink(missing_ok=True)
        reader = SessionReader(folder)
        found = reproduce(reader)
        assert found.identical, kind
        assert found.unfinished == unfinished
        assert any("killed" in note for note in reader.notes)


def test_a_policy_nobody_has_any_more_is_one_message(record_session: SessionMaker) -> None:
    folder = record_session(frames=4)
    records = lines(folder)
    for record in records:
        if record["kind"] == "policy":
            record["policy"] = "focus.gone"
    rewrite(folder, records)
    with pytest.raises(ReplayError, match=r"focus\.gone") as caught:
        reproduce(SessionReader(folder))
    assert caught.value.exit_code == 2


def test_a_frame_snapped_while_paused_is_not_told_to_the_policy(record_session: SessionMaker) -> None:
    folder = record_session()
    records = lines(folder)
    at = next(n for n, r in enumerate(records) if r["kind"] == "frame" and r["index"] == 20)
    looked = next(r for r in records if r["kind"] == "assessment" and r["index"] == 19)
    records[at:at] = [{**records[at], "index": 1000, "unfit": "snap"}, {**looked, "index": 1000}]
    rewrite(folder, records)
    found = reproduce(SessionReader(folder))
    assert found.identical
    assert (found.decisions, found.unfinished) == (39, 0)


class Slow:
    """Goes where it is told to, or stays where it was told nothing in time."""

    name = "slow"

    def __init__(self) -> None:
        self._due = False
        self._accepted: Any = "nothing"

    def tell(self, observation: Any) -> None:
        self._due = observation.index % 2 == 0

    def problem(self) -> Any:
        return {"solve": "nobody:nothing"} if self._due else None

    def accept(self, suggestion: Any) -> None:
        self._accepted = suggestion

    def ask(self) -> Any:
        accepted, self._accepted = self._accepted, "nothing"
        return Hold(f"accepted {accepted}")


def test_suggestions_of_slow_policies_are_given_again(
    record_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = record_session(frames=6)
    records: list[dict[str, Any]] = []
    for record in lines(folder):
        if record["kind"] == "action" and record["index"]:
            suggestion = {"z_um": 1.5} if record["index"] == 2 else None
            if record["index"] % 2 == 0:
                records.append({"kind": "suggestion", "index": record["index"], "suggestion": suggestion})
            told = suggestion if record["index"] % 2 == 0 else "nothing"
            record = {"kind": "action", "index": record["index"], "action": "hold", "reason": f"accepted {told}"}
        if record["kind"] == "verdict" and record["index"]:
            record["reason"] = "nothing to send"
        records.append(record)
    rewrite(folder, records)
    (folder / "summary.json").unlink()
    monkeypatch.setattr("parfocal.daemon.replay.decisions.make_policy", lambda name, options: Slow())
    reader = SessionReader(folder)
    found = reproduce(reader)
    assert found.differing == ()
    assert found.decisions == 5
    own = [one.now["reason"] for one in decide_again(reader, as_recorded(reader), suggested=False)]
    assert own == ["accepted nothing"] * 5
