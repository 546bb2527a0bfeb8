"""`check` finds what a run would stumble over, says where it is written, and opens no device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

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


MANY = """microscope:
  driver: simulated
  emision_nm: 520
policy: {name: focus.belief, rang: 3}
polcy: {}
limits: {z_um: {uper: 3, max_step: -1}, qq_um: {upper: 3}}
start: {rr_um: 3}
scoring: {models: [sharpnes, defcus]}
"""


def test_mistakes_of_all_kinds_are_told_in_one_go(tmp_path: Path) -> None:
    """One key that is unknown must not hide what is wrong elsewhere."""
    problems = checked(tmp_path, MANY)
    expected = {
        "scope.yaml:3 microscope.emision_nm: unknown key; did you mean 'emission_nm'?",
        "scope.yaml:4 policy.rang: policy focus.belief: unknown option 'rang', did you mean 'range_um'?",
        "scope.yaml:5 polcy: unknown key; did you mean 'policy'?",
        "scope.yaml:6 limits.z_um.uper: unknown key; did you mean 'upper'?",
        "scope.yaml:6 limits.z_um.max_step: should be greater than 0 (got -1)",
        "scope.yaml:6 limits.qq_um: this microscope has no such parameter (it has excitation_power, exposure_ms, z_um)",
        "scope.yaml:7 start.rr_um: this microscope has no such parameter (it has excitation_power, exposure_ms, z_um)",
        "scope.yaml:8 scoring.models[0]: unknown model (got 'sharpnes'); did you mean 'sharpness'?",
        "scope.yaml:8 scoring.models[1]: unknown model (got 'defcus'); did you mean 'defocus'?",
    }
    assert {problem.removeprefix(f"{tmp_path}/") for problem in problems} == expected
    assert len(problems) == len(expected)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # What rests on something that is wrong is no second mistake.
        ("microscope: {driver: micromanager, objectiv: {na: 0.75}}\npolicy: {name: focus.belief}\n", ["objectiv"]),
        ("microscope: {driver: simulatd}\nlimits: {qq_um: {upper: 3}}\n", ["simulatd"]),
        ("microscope: {}\npolicy: {name: focus.holt}\n", ["microscope.driver: required", "focus.holt"]),
        ("policy: {name: focus.hold, seed: 1, seed: 2}\nstart: {z_um: far}\n", ["given twice", "start", "microscope"]),
        ("microscope: {driver: simulated}\nscoring: {models: [sharpnes]}\npolicy: {name: focus.jaf}\n", ["sharpnes"]),
        ("[1, 2]\n", ["expected `key: value` lines", "microscope: required"]),
        ("microscope: 3\n", ["microscope: "]),
    ],
)
def test_what_rests_on_a_mistake_is_not_told_as_another(tmp_path: Path, text: str, says: list[str]) -> None:
    problems = checked(tmp_path, text)
    assert len(problems) == len(says), problems
    for said in says:
        assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("added", "says"),
    [
        ("limits: {qq_um: {upper: 3}}\n", "scope.yaml:5 limits.qq_um: this microscope has no such parameter"),
        ("start: {rr_um: 3}\n", "scope.yaml:5 start.rr_um: this microscope has no such parameter"),
        ("start: {z_um: 500}\n", "scope.yaml:5 start.z_um: is outside the device's range -100..100 um (got 500)"),
        ("limits: {z_um: {lower: 200, upper: 300}}\n", "limits.z_um: leaves nothing of the device's range -100..100"),
    ],
)
def test_what_the_microscope_does_not_have_is_told_without_opening_it(tmp_path: Path, added: str, says: str) -> None:
    (problem,) = checked(tmp_path, GOOD + added)
    assert says in problem


def test_a_real_microscope_has_what_the_section_names(tmp_path: Path) -> None:
    (tmp_path / "a.cfg").write_text("")
    text = GOOD.replace(
        "driver: simulated",
        "driver: micromanager, system_config: a.cfg, properties: {laser: {device: L, property: P}}, z_upper_um: 50",
    )
    (problem,) = checked(tmp_path, text + "start: {laser: 3, exposure_ms: 3, lamp: 2}\n")
    assert "start.lamp: this microscope has no such parameter (it has exposure_ms, laser, z_um)" in problem
    (problem,) = checked(tmp_path, text + "start: {z_um: 3}\n")
    assert "start.z_um: the device names no range of its own: give limits.z_um" in problem
    (problem,) = checked(tmp_path, text + "start: {z_um: 70}\n")
    assert "outside the device's range -inf..50 um" in problem


def test_a_recording_is_read(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((5, 16, 16), np.uint16))
    text = GOOD.replace("driver: simulated", "driver: recorded, path: a.tif")
    (problem,) = checked(tmp_path, text)
    assert "scope.yaml:2 microscope" in problem
    assert "nothing says at which z" in problem
    text = text.replace("a.tif", "a.tif, z_start_um: 0, z_step_um: 1")
    assert checked(tmp_path, text) == []
    (problem,) = checked(tmp_path, text + "start: {z_um: 5}\n")
    assert "start.z_um: is outside the device's range 0..4 um (got 5)" in problem
    (problem,) = checked(tmp_path, text + "start: {exposure_ms: 10}\n")
    assert "cannot change it" in problem


def test_a_run_refuses_at_once_what_check_finds(tmp_path: Path) -> None:
    from parfocal.daemon.check import refuse_unusable
    from parfocal.daemon.config import ConfigError, load_config

    (tmp_path / "scope.yaml").write_text(GOOD + "start: {z_um: 500}\n")
    with pytest.raises(ConfigError, match=r"start\.z_um"):
        refuse_unusable(load_config(tmp_path / "scope.yaml"))


def test_every_problem_of_a_driver_has_its_line_and_its_key_once(tmp_path: Path) -> None:
    text = "microscope:\n  driver: simulated\n  simulation:\n    drift: {rate: 3}\n    stagee: {}\n"
    problems = checked(tmp_path, text + "policy: {name: focus.hold}\n")
    assert [problem.removeprefix(f"{tmp_path}/") for problem in problems] == [
        "scope.yaml:4 microscope.simulation.drift.rate: unknown key; did you mean 'rate_um_per_min'?",
        "scope.yaml:5 microscope.simulation.stagee: unknown key; did you mean 'stage'?",
    ]
    (problem,) = checked(tmp_path, "microscope: {driver: recorded}\npolicy: {name: focus.hold}\n")
    assert problem.endswith("scope.yaml:1 microscope.path: required key is missing")


@pytest.mark.parametrize(
    ("option", "meant"), [("nam: 3", "name"), ("range: 3", "search_range_um"), ("calibratoin: x", "calibration")]
)
def test_a_mistyped_key_beside_the_options_is_guessed(tmp_path: Path, option: str, meant: str) -> None:
    text = GOOD.replace("name: focus.hold", f"name: focus.oughtafocus, {option}")
    (problem,) = checked(tmp_path, text)
    assert f"did you mean {meant!r}" in problem
