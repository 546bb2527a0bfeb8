"""`parfocal bench`: its arguments, its tables on tiny episodes, and their printing; never how long anything takes."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parfocal import UsageError
from parfocal.daemon import bench, bench_defocus, bench_focus
from parfocal.models.training import tables

NAN = float("nan")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Namespace]]:
    """Replace the measurements by two tables that put down what they are asked for."""
    seen: list[tuple[str, Namespace]] = []

    def measuring(name: str, row: list[Any]) -> Callable[[Namespace], bench.Table]:
        def measure(options: Namespace) -> bench.Table:
            seen.append((name, options))
            return {"title": name.title(), "columns": ["what", "ms"], "rows": [row], "notes": ["a note"]}

        return measure

    made = {"speed": measuring("speed", ["all", 1.23456]), "loop": measuring("loop", ["none", NAN])}
    monkeypatch.setattr(bench, "_tables", lambda: made)
    return seen


def test_one_table_is_measured_with_its_options(
    asked: list[tuple[str, Namespace]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = ["speed", "--episodes", "3", "--jobs", "2", "--seed", "5", "--policies", "focus.hold"]
    (tmp_path / "y").touch()
    assert bench.run([*given, f"--fields={tmp_path}", f"--stacks={tmp_path}", f"--yang={tmp_path / 'y'}"]) == 0
    ((name, options),) = asked
    assert name == "speed"
    assert (options.episodes, options.jobs, options.seed, options.policies) == (3, 2, 5, "focus.hold")
    assert (options.fields, options.stacks, options.yang) == (tmp_path, tmp_path, tmp_path / "y")
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == ["### Speed", "", "| what | ms |", "|---|---|", "| all | 1.23 |"]
    assert "- a note" in lines
    assert lines[-1].startswith("Measured on ")
    assert "torch" in lines[-1]


def test_all_tables_are_measured_when_none_is_named(asked: list[tuple[str, Namespace]]) -> None:
    assert bench.run([]) == 0
    assert [name for name, _ in asked] == ["speed", "loop"]


def test_json_is_one_object_and_nothing_else(
    asked: list[tuple[str, Namespace]], capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    assert bench.run(["--json"]) == 0
    found = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert list(found) == ["machine", "speed", "loop"]
    assert found["speed"]["rows"] == [["all", 1.23456]]
    assert found["loop"]["rows"] == [["none", None]]


@pytest.mark.parametrize(
    ("name", "says"),
    [("sped", "there is no table 'sped'; did you mean 'speed'?; there are all, speed, loop"), ("zz", "no table 'zz'")],
)
def test_an_unknown_table_is_a_usage_error(asked: list[tuple[str, Namespace]], name: str, says: str) -> None:
    with pytest.raises(UsageError, match=says.replace("?", r"\?")):
        bench.run([name])
    assert asked == []


@pytest.mark.parametrize("argv", [["--episodes", "0"], ["--jobs", "0"], ["--episodes", "many"], ["--nonsense"]])
def test_a_wrong_option_is_a_usage_error(asked: list[tuple[str, Namespace]], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        bench.run(argv)
    assert left.value.code == 2
    assert asked == []


@pytest.mark.parametrize(("option", "kind"), [("--fields", "folder"), ("--stacks", "folder"), ("--yang", "file")])
def test_a_path_that_is_not_there_is_told_before_anything_is_measured(
    asked: list[tuple[str, Namespace]], tmp_path: Path, option: str, kind: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option} {tmp_path / 'none'}: there is no such {kind}"):
        bench.run([option, str(tmp_path / "none")])
    assert asked == []


def test_every_table_that_is_offered_can_be_measured() -> None:
    for name, measure in bench._tables().items():
        assert callable(measure), name
    module_names = {"speed", "loop", "focus", "drift", "doubt", "defocus"}
    assert module_names <= set(bench._tables())


def test_cells_are_short_and_what_is_not_known_is_a_dash() -> None:
    assert [bench._cell(value) for value in (None, 0.123456, 1234567.0, 12, "x", NAN)] == [
        "-", "0.123", "1.23e+06", "12", "x", "-",
    ]  # fmt: skip


# -- the tables themselves, on episodes of a few frames ---------------------------------------------------------------


def shaped(table: bench.Table) -> None:
    assert set(table) >= {"title", "columns", "rows"}
    assert table["rows"]
    assert all(len(row) == len(table["columns"]) for row in table["rows"])
    json.dumps(table)


def test_the_focus_table_has_a_row_for_every_policy_and_light(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bench_focus.Episode] = []

    def outcome(episode: Any) -> Any:
        seen.append(episode)
        return bench_focus.Outcome(episode, True, 3, 0.1, 7.0, 30.0)

    monkeypatch.setattr(bench_focus, "run_episode", outcome)
    monkeypatch.setattr(bench_focus, "visible", lambda *given: True)
    options = Namespace(episodes=2, jobs=1, seed=3, policies="focus.belief,focus.sweep")
    table = bench_focus.focus(options)
    shaped(table)
    assert {row[0] for row in table["rows"]} == {"focus.belief", "focus.sweep"}
    assert len(table["rows"]) == 2 * len(bench_focus.PHOTONS)
    assert len(seen) == 2 * len(table["rows"])
    columns = dict(zip(table["columns"], table["rows"][0], strict=True))
    assert columns["episodes"] == 2
    assert columns["within DoF/2"] == 1.0
    # The same fields for every policy: only then their rows can be compared.
    starts: dict[tuple[float, int], set[float]] = {}
    for episode in seen:
        starts.setdefault((episode.photons, episode.seed), set()).add(episode.focus_um)
    assert all(len(where) == 1 for where in starts.values())


def test_an_episode_runs_through_the_whole_loop_to_its_end() -> None:
    small = ("microscope.simulation.size_px=128", "session.max_frames=3", "scoring.models=[sharpness]")
    episode = bench_focus.Episode("focus.hold", 1000.0, 1, (*small, "policy.name=focus.hold"), 5.0, 0)
    found = bench_focus.run_episode(episode)
    assert found.episode is episode
    assert not found.focused  # who holds finds nothing
    assert found.travel_um == 0.0
    assert found.dose > 0.0


def test_the_defocus_table_is_that_of_evaluate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked_for: dict[str, Any] = {}
    row = {"images": 4, "abstained": 0.25, "level_within_1": 1.0, "mean_error_px": 0.5, "cover50": 0.5, "cover90": 0.9}

    def measured(**given: Any) -> dict[str, Any]:
        asked_for.update(given)
        return {
            "procedural": {"compact": {"all": row, "20 photons": row}}, "empty fields abstained": 0.995,
            "focus series": [{"series": "one", "planes_off": 1, "abstained": 2}],
        }  # fmt: skip

    monkeypatch.setattr(tables, "tables", measured)
    table = bench_defocus.defocus(Namespace(fields=None, stacks=tmp_path, yang=None, seed=6))
    shaped(table)
    assert table["rows"] == [
        ["procedural", "compact", light, 4, 0.25, 1.0, 0.5, 0.5, 0.9] for light in ("all", "20 photons")
    ]
    assert table["notes"] == ["empty fields abstained: 0.995", "one: best plane 1 off, 2 abstained"]
    assert (asked_for["fields"], asked_for["stacks"], asked_for["seed"]) == (None, tmp_path, 6)


def test_a_camera_that_repeats_itself_leads_to_no_command(tmp_path: Path) -> None:
    """The recorded driver, whose exposure nobody can change, through the whole loop."""
    row = bench_focus._doubt_row("frozen", ["session.max_frames=5"], bench_focus._frozen(tmp_path, 1))
    assert row[1] == 5
    assert row[2] == 0
