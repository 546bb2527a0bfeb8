"""Another choice on the same observations: counted, listed, drawn, and called open loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from daemon_doubles import Reader
from rich.console import Console

from parfocal import UsageError
from parfocal.daemon.replay.choices import Choice, try_choice
from parfocal.daemon.replay.decisions import ReplayError, as_recorded, decide_again
from parfocal.daemon.replay.frames import TOLERANCE_SD, Rescoring
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.settings import split_settings
from parfocal.daemon.replay.tables import picture, terminal_plot
from parfocal.daemon.replay.verb import Request, replay
from parfocal.models import ModelSpec
from parfocal.policies.base import Finish, Hold

SessionMaker = Callable[..., Path]


class Shifted(Reader):
    """Says something else than was recorded, by so many standard deviations (of 0.5 um)."""

    def __init__(self, by_sd: float) -> None:
        super().__init__()
        self._by = 0.5 * by_sd

    def score(self, *args: Any, **keywords: Any) -> Any:
        found = super().score(*args, **keywords)["defocus"]
        object.__setattr__(found, "value", found.value + self._by)
        return {"defocus": found}


def test_the_same_policy_agrees_with_itself(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session())
    tried = try_choice(reader, Choice(policy="focus.belief"))
    assert tried.open_loop
    assert tried.comparison.differing == []
    assert len(tried.comparison.decisions) == 39


def test_one_that_never_moves_differs_where_the_recorded_one_moved(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session())
    tried = try_choice(reader, Choice(policy="focus.hold"))
    moved = [r["index"] for r in reader.journal.of("action") if r["action"] == "change" and r["index"] is not None]
    assert [one.index for one in tried.comparison.differing] == moved
    table = {what: (then, now) for what, then, now in tried.comparison.rows()}
    assert table["moves"] == (len(moved), 0)
    assert table["wanted travel um"][1] == 0.0
    assert table["holds"] == (39 - len(moved), 39)


def test_other_options_and_a_small_difference_within_tolerance(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session())
    comparison = try_choice(reader, Choice(options={"confidence": 0.99})).comparison
    assert comparison.now == "focus.belief (confidence=0.99)"
    one = {"action": "change", "settings": {"z_um": 5.0}}
    near = {"action": "change", "settings": {"z_um": 5.0 + 0.9 * comparison.tolerance_um}}
    far = {"action": "change", "settings": {"z_um": 5.0 + 1.1 * comparison.tolerance_um}}
    assert comparison.agrees(one, near)
    assert not comparison.agrees(one, far)
    assert not comparison.agrees(one, {"action": "hold"})
    assert not comparison.agrees(one, {"action": "change", "settings": {"exposure_ms": 5.0}})


class Finisher:
    """Finishes at its third frame."""

    name = "finisher"

    def __init__(self) -> None:
        self._told = 0

    def tell(self, observation: Any) -> None:
        self._told += 1

    def ask(self) -> Any:
        return Finish({}, "enough") if self._told == 3 else Hold("not yet")


def test_a_policy_that_would_have_finished_is_compared_up_to_there(
    record_session: SessionMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = SessionReader(record_session())
    monkeypatch.setattr("parfocal.daemon.replay.choices.make_policy", lambda name, options: Finisher())
    comparison = try_choice(reader, Choice(policy="finisher")).comparison
    assert comparison.finished == 3
    assert [one.index for one in comparison.decisions] == [1, 2, 3]
    assert comparison.to_json()["would_finish_at"] == 3


def test_a_model_that_nobody_asked_is_asked_for(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session())
    with pytest.raises(ReplayError, match="give --model sharpness"):
        try_choice(reader, Choice(policy="focus.jaf"))
    with pytest.raises(ReplayError, match="no frames"):
        try_choice(reader, Choice(policy="focus.jaf", model="sharpness"))
    with pytest.raises(ReplayError, match="cannot be made for this session"):
        try_choice(reader, Choice(options={"confidense": 1}))


@pytest.mark.parametrize(("by_sd", "outside"), [(0.0, 0), (0.9 * TOLERANCE_SD, 0), (1.1 * TOLERANCE_SD, 39)])
def test_frames_scored_again_agree_within_a_stated_tolerance(
    record_session: SessionMaker, by_sd: float, outside: int
) -> None:
    reader = SessionReader(record_session("session.record=all"))
    rescoring = Rescoring(reader, [ModelSpec("defocus")], Shifted(by_sd)).start()
    decided = list(decide_again(reader, as_recorded(reader), rescoring.observe))
    found = rescoring.to_json()
    assert (found["scored"], found["compared"], found["not_recorded"]) == (39, 39, 0)
    assert found["outside_tolerance"] == outside
    assert found["largest_difference_sd"] == pytest.approx(by_sd)
    if by_sd == 0.0:
        assert all(one.same_action for one in decided)


def test_frames_that_were_not_recorded_keep_their_assessments(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session("session.record=decisions"))
    rescoring = Rescoring(reader, [ModelSpec("defocus")], Reader(abstain=True)).start()
    list(decide_again(reader, as_recorded(reader), rescoring.observe))
    found = rescoring.to_json()
    assert 0 < found["scored"] < 39
    assert found["scored"] + found["not_recorded"] == 39
    assert found["abstained_only_once"] == found["scored"]


def test_the_pictures_hold_both_sides(record_session: SessionMaker) -> None:
    comparison = try_choice(SessionReader(record_session()), Choice(policy="focus.hold")).comparison
    svg = ElementTree.fromstring(picture(comparison, simulated=True, note="<open> loop"))  # noqa: S314 - our own
    text = "".join(svg.itertext())
    assert "SIMULATED" in text
    assert "<open> loop" in text
    console = Console(width=80, file=None, force_terminal=False)
    rows = [line.plain for line in terminal_plot(comparison, console)]
    assert any("the record" in row for row in rows)


def test_the_verb_in_words_and_as_json(
    record_session: SessionMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = record_session()
    assert replay(Request(folder)) == 0
    said = capsys.readouterr().out
    assert "identical, bit for bit" in said
    assert "SIMULATED" in said
    plot = tmp_path / "plot.svg"
    assert replay(Request(folder, Choice(policy="focus.hold"), plot=plot)) == 0
    assert "open loop" in capsys.readouterr().out
    ElementTree.parse(plot)  # noqa: S314 - our own
    assert replay(Request(folder, Choice(policy="focus.hold"), as_json=True)) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["mode"] == "open_loop"
    assert found["differing"] == len(found["differences"])
    assert found["simulated"] is True
    journal = folder / "journal.jsonl"
    journal.write_text(journal.read_text().replace("move", "MOVE").replace("look at", "LOOK AT"))
    assert replay(Request(folder, as_json=True)) == 1
    assert json.loads(capsys.readouterr().out)["identical"] is False
    with pytest.raises(UsageError, match="expected simulator"):
        replay(Request(folder, against="nature"))


def test_settings_of_the_command_line() -> None:
    options, overrides = split_settings("--set", ["a=1.5", "b=[x]", "c.d=2"], dotted=True)
    assert options == {"a": 1.5, "b": ["x"]}
    assert overrides == ["c.d=2"]
    for wrong in ("a", "=2", "c.d=2"):
        with pytest.raises(UsageError, match="--set"):
            split_settings("--set", [wrong], dotted=False)
    assert math.isclose(options["a"], 1.5)
