"""`check` finds what a run would stumble over, says where it is written, and opens no device."""

from __future__ import annotations

from pathlib import Path

from parfocal.daemon.check import checked as looked_at
from parfocal.daemon.check import problems_of
from parfocal.daemon.service.keys import new_key

GOOD = """
microscope: {driver: simulated, emission_nm: 520, pixel_um: 0.325}
policy: {name: focus.hold}
scoring: {models: [sharpness]}
"""


def checked(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "scope.yaml").write_text(text)
    return problems_of(tmp_path / "scope.yaml")


def test_a_good_configuration_has_no_problems_and_leaves_nothing_behind(tmp_path: Path) -> None:
    assert checked(tmp_path, GOOD) == []
    assert [path.name for path in tmp_path.iterdir()] == ["scope.yaml"]


def test_the_packaged_configuration_has_no_problems() -> None:
    assert problems_of(None) == []


def test_every_problem_is_listed_with_its_line(tmp_path: Path) -> None:
    problems = checked(tmp_path, GOOD + "limits: {z_um: {uper: 3, max_step: -1}}\n")
    assert len(problems) == 2
    assert all("scope.yaml:5" in problem for problem in problems)
    assert "upper" in problems[0] + problems[1]


def test_unknown_names_are_found(tmp_path: Path) -> None:
    for wrong, right in [("simulated", "simulatd"), ("focus.hold", "focus.holt"), ("sharpness", "sharpnes")]:
        problems = checked(tmp_path, GOOD.replace(wrong, right))
        assert len(problems) == 1, problems
        assert right in problems[0]
        assert "scope.yaml" in problems[0]


def test_an_unknown_policy_option_is_found(tmp_path: Path) -> None:
    problems = checked(tmp_path, GOOD.replace("name: focus.hold", "name: focus.belief, rang_um: 40"))
    assert len(problems) == 1
    assert "range_um" in problems[0]


def test_files_that_are_not_there_are_found(tmp_path: Path) -> None:
    text = GOOD.replace("driver: simulated", "driver: micromanager, system_config: nowhere.cfg")
    problems = checked(tmp_path, text)
    assert len(problems) == 1
    assert "nowhere.cfg" in problems[0]
    assert "scope.yaml:2" in problems[0]


def test_a_missing_file_is_one_problem(tmp_path: Path) -> None:
    problems = problems_of(tmp_path / "none.yaml")
    assert len(problems) == 1
    assert "none.yaml" in problems[0]


def test_a_service_that_other_computers_reach_is_said(tmp_path: Path) -> None:
    new_key(tmp_path / "keys", "ann", "operate")
    service = "service:\n  bind: 'tcp://*:5571'\n  keys: keys\n  allow: {ann: operate}\n"
    (tmp_path / "scope.yaml").write_text(GOOD + service)
    found = looked_at(tmp_path / "scope.yaml")
    assert found.problems == []
    (warning,) = found.warnings
    says = "scope.yaml:6 service.bind: reachable from other computers (tcp://*:5571); allowed: ann (operate)"
    assert warning.endswith(says)
    for quiet in ("", "service: {bind: 'tcp://127.0.0.1:5571'}\n", service + "  enabled: false\n"):
        (tmp_path / "scope.yaml").write_text(GOOD + quiet)
        assert looked_at(tmp_path / "scope.yaml").warnings == []
    assert looked_at(None).warnings == []


def test_keys_that_are_missing_are_problems(tmp_path: Path) -> None:
    (tmp_path / "scope.yaml").write_text(GOOD + "service: {keys: keys, allow: {ann: operate}}\n")
    (problem,) = problems_of(tmp_path / "scope.yaml")
    assert "scope.yaml:5 service.keys: " in problem
    assert "parfocal keys new" in problem
