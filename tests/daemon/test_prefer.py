"""`parfocal prefer`: picks become a network, contradictions are named, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parfocal.daemon import prefer
from parfocal.daemon.cli import app
from parfocal.daemon.journal import Journal
from parfocal.policies import make_policy

INPUTS = prefer.INPUTS
A, B, C = (60.0, 0.5, 0.3), (90.0, 0.2, 0.4), (140.0, 0.05, 0.8)


def run(*arguments: object, keys: str = "") -> tuple[int, str]:
    result = CliRunner().invoke(app, ["prefer", *map(str, arguments)], input=keys)
    return result.exit_code, result.output


def row(preferred: prefer.Outcome, other: prefer.Outcome) -> str:
    return json.dumps(
        {"preferred": dict(zip(INPUTS, preferred, strict=True)), "other": dict(zip(INPUTS, other, strict=True))}
    )


def test_picks_in_the_terminal_become_a_preference_a_policy_takes(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    code, said = run(file, "--picks", 8, keys="1\n2\nx\n=\n1\n1\n2\n2\n1\nu\n1\n1\n")
    assert code == 0, said
    assert "Type one of 1, 2, =, u, q." in said
    assert "8 picks in" in said
    picks, net = prefer.load(file)
    assert net is not None
    assert len(picks.pairs) == 8
    policy = make_policy("sted.bayes", {"preference": prefer.preference_option(file)})
    assert policy.wish.needs == INPUTS
    code, said = run(file, "--picks", 1, "--json", keys="1\n")
    assert json.loads(said.splitlines()[-1])["picks"] == 9


def test_q_and_the_end_of_input_are_enough(tmp_path: Path) -> None:
    assert run(tmp_path / "a.json", keys="1\nq\n")[0] == 0
    assert run(tmp_path / "b.json", keys="1\n2\n")[0] == 0
    assert len(prefer.load(tmp_path / "b.json")[0].pairs) == 2
    code, said = run(tmp_path / "c.json", keys="q\n")
    assert code == 2
    assert "nothing was written" in said
    assert not (tmp_path / "c.json").exists()


def test_shows_the_outcomes_of_sessions(tmp_path: Path) -> None:
    session = tmp_path / "session"
    session.mkdir()
    journal = Journal(session / "journal.jsonl")
    journal.append("session", session="s")
    for number, outcome in enumerate((A, B, C), start=1):
        detail = {"images": float(number), "outcome": 1.0, **dict(zip(INPUTS, outcome, strict=True))}
        for _ in range(3):
            journal.append("action", index=number, action="change", reason="", settings={}, detail=detail)
    journal.close()
    assert prefer.outcomes_of([session], INPUTS) == [A, B, C]
    code, said = run(tmp_path / "p.json", "--session", session, keys="1\n1\nq\n")
    assert code == 0, said
    assert "There is nothing left to ask" in said or "60" in said
    shown = {outcome for pair in prefer.load(tmp_path / "p.json")[0].pairs for outcome in pair}
    assert shown <= {A, B, C}


def test_a_session_without_trials_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append("session", session="s")
    journal.close()
    code, said = run(tmp_path / "p.json", "--session", tmp_path)
    assert code == 3
    assert "hold no outcome of a STED trial" in said


def test_picks_from_a_file_are_learned_and_a_cycle_among_them_is_named(tmp_path: Path) -> None:
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text("\n".join([row(A, B), row(B, C)]))
    assert run(tmp_path / "p.json", "--pairs", good)[0] == 0
    bad.write_text("\n".join([row(A, B), row(B, C), row(C, A)]))
    code, said = run(tmp_path / "q.json", "--pairs", bad)
    assert code == 3
    assert "contradict each other" in said
    for outcome in ("resolution 60 nm, bleach 50%", "resolution 90 nm", "resolution 140 nm"):
        assert outcome in " ".join(said.split())
    assert not (tmp_path / "q.json").exists()
    later = tmp_path / "later.jsonl"
    later.write_text(row(C, A))
    before = (tmp_path / "p.json").read_bytes()
    code, said = run(tmp_path / "p.json", "--pairs", later)
    assert code == 3
    assert "contradicts what" in said
    assert (tmp_path / "p.json").read_bytes() == before


def test_a_pick_that_contradicts_is_told_at_once() -> None:
    picks = prefer.Picks(INPUTS, [(A, B), (B, C)])
    cycle = picks.add(C, A)
    assert set(cycle) == {A, B, C}
    assert picks.pairs == [(A, B), (B, C)]
    assert "(resolution 60 nm, bleach 50%, signal ratio 0.3)" in prefer.describe_cycle(cycle, INPUTS)
    assert picks.replace(C, A) == 1
    assert picks.pairs == [(B, C), (C, A)]
    picks.check()
    with pytest.raises(prefer.PreferenceCycleError, match="take one of them out"):
        prefer.Picks(INPUTS, [(A, B), (B, A)]).check()


def test_nobody_is_asked_what_has_only_one_answer() -> None:
    dominated = (70.0, 0.6, 0.2)  # worse than A throughout
    asker = prefer.Asker(prefer.Picks(), [A, B, dominated], seed=1)
    seen = [asker.next() for _ in range(20)]
    assert all(pair is not None and {*pair} != {A, dominated} for pair in seen)
    assert prefer.Asker(prefer.Picks(INPUTS, [(A, B)]), [A, B], seed=1).next() is None


def test_later_questions_are_the_close_ones() -> None:
    picks = prefer.Picks()
    asker = prefer.Asker(picks, None, seed=0)
    while len(picks.pairs) < 10:
        both = asker.next()
        assert both is not None
        first, second = sorted(both)  # the finer one
        picks.add(first, second)
    net = picks.learn()
    gaps = []
    for _ in range(10):
        both = asker.next()
        assert both is not None
        gaps.append(abs(float(net.score(both[0]) - net.score(both[1]))))  # type: ignore[arg-type]
    assert max(gaps) < 0.5 * net.width


@pytest.mark.parametrize(
    ("content", "said"),
    [("", "not JSON"), ("[]", "expected schema"), ('{"schema": "x"}', "expected schema"),
     ('{"schema": "parfocal.preference/1", "inputs": ["bleach"], "pairs": [[[1], [1, 2]]]}', "not a preference file")],
)  # fmt: skip
def test_files_of_something_else_are_refused(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "p.json"
    file.write_text(content)
    with pytest.raises(prefer.PreferenceFileError, match=said):
        prefer.load(file)
    with pytest.raises(prefer.PreferenceFileError, match="cannot be read"):
        prefer.load(tmp_path / "none.json")


def test_objectives_are_checked(tmp_path: Path) -> None:
    code, said = run(tmp_path / "p.json", "--objectives", "bleech")
    assert code == 2
    assert "did you mean 'bleach'" in said
    run(tmp_path / "p.json", "--objectives", "bleach,pixel_us", keys="1\nq\n")
    code, said = run(tmp_path / "p.json", "--objectives", "bleach,resolution_nm")
    assert code == 2
    assert "was made with bleach, pixel_us" in said
