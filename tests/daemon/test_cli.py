"""The command line: one clear message and the right exit code for whatever a person can do wrong."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import structlog
import tifffile
from typer.testing import CliRunner

from parfocal import __version__
from parfocal.daemon import running
from parfocal.daemon.cli import app
from parfocal.daemon.commands import tools
from parfocal.daemon.config import load_config
from parfocal.daemon.config_models import ServiceSection
from parfocal.daemon.guard import SafetyTripError
from parfocal.daemon.lock import InstanceLock
from parfocal.drivers.base import DeviceNotFoundError

QUICK = [
    "--set=scoring.models=[sharpness]",
    "--set=scoring.process=false",
    "--set=policy.name=focus.hold",
    "--set=microscope.interval_ms=1",
    "--set=microscope.simulation.size_px=64",
]


@pytest.fixture
def invoke(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("locks")))
    runner = CliRunner()
    return lambda *args: runner.invoke(app, [str(arg) for arg in args])


Invoke = Callable[..., Any]


def test_help_lists_the_verbs_and_exit_codes(invoke: Invoke) -> None:
    text = invoke("--help").stdout
    verbs = "run check doctor score train evaluate calibrate bench status watch pause resume stop safe set snap keys"
    for verb in (*verbs.split(), "Exit codes"):
        assert verb in text
    assert invoke("--version").stdout.strip() == f"parfocal {__version__}"


@pytest.mark.parametrize("verb", ["run", "check", "doctor", "score", "calibrate"])
def test_every_verb_explains_itself(invoke: Invoke, verb: str) -> None:
    result = invoke(verb, "--help")
    assert result.exit_code == 0
    assert "--json" in result.stdout


def test_the_command_line_imports_nothing_heavy() -> None:
    code = (
        "import sys, parfocal.daemon.cli\n"
        "heavy = {'torch', 'scipy', 'pymmcore', 'pymmcore_plus', 'numpy', 'tifffile'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["run", "--frames", "0"],
        ["run", "--frames", "many"],
        ["run", "--no-such-option"],
        ["score"],
        ["check"],
        ["train"],
        ["train", "defcus"],
        ["evaluate", "sharpness"],
        ["score", "no-such-file.tif"],
        ["score", "."],
        ["calibrate", "--range-um", "1", "--step-um", "1"],
    ],
)
def test_misuse_ends_with_2_and_one_message(invoke: Invoke, args: list[str]) -> None:
    result = invoke(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.strip()
    assert "Traceback" not in result.output


def test_a_broken_configuration_ends_with_3_and_every_problem(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("microscope: {driver: simulated, pixl_um: 1}\nlimits: {z_um: {max_step: -1}}\n")
    for verb in ("run", "check", "doctor", "calibrate"):
        result = invoke(verb, "c.yaml")
        assert result.exit_code == 3, (verb, result.output)
        assert "c.yaml:1" in result.stderr
        assert "did you mean" in result.stderr
        assert "c.yaml:2" in result.stderr
        assert "Traceback" not in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["c.yaml"]


def test_check_as_json(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("microscope: {}\n")
    result = invoke("check", "c.yaml", "--json")
    assert result.exit_code == 3
    said = json.loads(result.stdout)
    assert said["valid"] is False
    assert len(said["problems"]) == 1


def test_a_service_reached_from_elsewhere_is_warned_of_and_keeps_nothing_from_running(
    invoke: Invoke, tmp_path: Path
) -> None:
    result = invoke("keys", "new", "ann", "--role", "operate", "--json")
    assert json.loads(result.stdout)["secret"].endswith("ann.secret.json")
    service = "{bind: 'tcp://0.0.0.0:*', keys: keys, allow: {ann: operate}}"
    (tmp_path / "c.yaml").write_text(f"microscope: {{driver: simulated}}\nservice: {service}\n")
    says = "reachable from other computers (tcp://0.0.0.0:*); allowed: ann (operate)"
    result = invoke("check", "c.yaml", *QUICK)
    assert result.exit_code == 0, result.output
    assert f"warning: c.yaml:2 service.bind: {says}" in result.stderr
    said = json.loads(invoke("check", "c.yaml", *QUICK, "--json").stdout)
    assert (said["valid"], len(said["warnings"])) == (True, 1)
    result = invoke("run", "c.yaml", *QUICK, "--frames", "2")
    assert result.exit_code == 0, result.output
    (log,) = (tmp_path / "sessions").glob("*/log.jsonl")
    records = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [record["level"] for record in records if says in record["event"]] == ["warning"]


def test_an_address_in_use_ends_with_75_where_it_was_asked_for(invoke: Invoke, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        result = invoke("run", *QUICK, "--frames", "2", f"--set=service.bind={address}")
        assert result.exit_code == 75, result.output
        assert f"service.bind: {address}: another program listens there already" in result.stderr
        assert "Traceback" not in result.output
        assert not (tmp_path / "sessions").exists()
        result = invoke("run", *QUICK, "--frames", "2", f"--set=service={{bind: '{address}', enabled: false}}")
        assert result.exit_code == 0, result.output


def test_without_a_service_section_a_taken_port_keeps_nothing_from_running(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        default = ServiceSection(bind=f"tcp://127.0.0.1:{taken.getsockname()[1]}")
        unasked = default.model_construct(_fields_set=set(), **default.model_dump())
        monkeypatch.setattr("parfocal.daemon.service.opening.ServiceSection", lambda: unasked)
        result = invoke("run", *QUICK, "--frames", "2")
    assert result.exit_code == 0, result.output


def test_hardware_that_is_not_there_ends_with_4(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("run", *QUICK, "--set=microscope.driver=recorded", "--set=microscope.path=nowhere")
    assert result.exit_code in (3, 4), result.output
    assert "nowhere" in result.stderr


@pytest.mark.parametrize(("error", "code"), [(SafetyTripError("too far"), 5), (DeviceNotFoundError("no stage"), 4)])
def test_errors_keep_their_exit_code(
    invoke: Invoke, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr(running, "run_locked", fail)
    result = invoke("run", *QUICK)
    assert result.exit_code == code
    assert result.stderr == f"parfocal: {error}\n"


def test_debug_shows_the_traceback(invoke: Invoke) -> None:
    result = invoke("--debug", "score", "no-such-file.tif")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr


def test_an_instrument_in_use_ends_with_75(invoke: Invoke, tmp_path: Path) -> None:
    config = load_config(None, [f"session.folder={tmp_path / 'sessions'}"])
    with InstanceLock(running.lock_key(config)) as lock:
        lock.acquire(session="the other one")
        result = invoke("run", *QUICK, "--frames", "2")
    assert result.exit_code == 75
    assert "the other one" in result.stderr
    assert not (tmp_path / "sessions").exists()


def test_run_as_json_ends_with_one_object(invoke: Invoke, tmp_path: Path) -> None:
    result = invoke("run", *QUICK, "--frames", "20", "--json", "--session", "mine")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["frames"] == 20
    assert summary["simulated"] is True
    assert summary["outcome"] == "done"
    assert set(summary) == set(
        "session driver simulated outcome frames scored stale dropped actions refused frames_to_focus travel_um dose "
        "final truth latency_ms".split()
    )
    assert (tmp_path / "mine" / "journal.jsonl").is_file()
    events = [json.loads(line) for line in result.stderr.splitlines()]
    assert any(event["event"] == "decision" for event in events)


def test_run_in_a_pipe_writes_lines(invoke: Invoke) -> None:
    result = invoke("run", *QUICK, "--frames", "5", "--shadow")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert "SIMULATED" in lines[0]
    assert "SHADOW" in lines[0]
    assert any("focus.hold never moves" in line for line in lines)
    assert any(line.strip().startswith("journal") for line in lines)


def test_a_session_folder_in_use_is_refused(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    result = invoke("run", *QUICK, "--frames", "2", "--session", "mine")
    assert result.exit_code == 2, "a folder that was named, not the hardware"
    assert "mine" in result.stderr
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_score_as_json_is_one_object_a_line(invoke: Invoke, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(90, 4000, (2, 64, 64), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", noise, photometric="minisblack", metadata={"axes": "ZYX"})
    (tmp_path / "b.tif").write_bytes(b"broken")
    result = invoke("score", ".", "--model", "sharpness", "--json")
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["path"], row["plane"]) for row in rows] == [("a.tif", 0), ("a.tif", 1), ("b.tif", None)]
    assert "1 of 3" in result.stderr
    text = invoke("score", "a.tif", "--model", "sharpness").stdout
    assert text.startswith("a.tif  z0  sharpness  ")


def test_score_of_nothing_but_broken_files_ends_with_2(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "b.tif").write_bytes(b"broken")
    result = invoke("score", "b.tif", "--model", "sharpness")
    assert result.exit_code == 2
    assert "ERROR" in result.stdout


def test_doctor_as_json(invoke: Invoke) -> None:
    said = json.loads(invoke("doctor", "--json").stdout)
    assert {"group", "name", "status", "detail"} == set(said["findings"][0])
    assert said["healthy"] == all(finding["status"] != "fail" for finding in said["findings"])


def test_tools_get_the_rest_of_the_line_and_say_how_it_went(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[list[str]] = []
    module = ModuleType("fake_tool")
    module.tool = lambda argv: got.append(argv) or 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_tool", module)
    monkeypatch.setattr(tools, "TRAINERS", {"defocus": "fake_tool:tool"})
    monkeypatch.setattr(tools, "EVALUATORS", {"defocus": "fake_tool:tool"})
    monkeypatch.setattr(tools, "BENCHES", {"all": "fake_tool:tool"})
    assert invoke("train", "defocus", "--steps", "10", "-v", "x").exit_code == 7
    assert invoke("evaluate", "defocus", "--help").exit_code == 7
    assert invoke("bench").exit_code == 7
    assert invoke("bench", "focus", "--json").exit_code == 7
    assert invoke("bench", "--json").exit_code == 7
    assert got == [["--steps", "10", "-v", "x"], ["--help"], [], ["focus", "--json"], ["--json"]]


@pytest.mark.parametrize("verb", ["train", "evaluate"])
def test_who_waits_long_is_told_how_far_it_is(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    module = ModuleType("fake_tool")

    def slow(_: list[str]) -> int:
        structlog.get_logger().info("trained", chunk=5, of=300)
        return 0

    module.tool = slow  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_tool", module)
    monkeypatch.setattr(tools, "TRAINERS", {"defocus": "fake_tool:tool"})
    monkeypatch.setattr(tools, "EVALUATORS", {"defocus": "fake_tool:tool"})
    told = invoke(verb, "defocus")
    record = json.loads(told.stderr)
    assert (record["event"], record["chunk"], record["of"]) == ("trained", 5, 300)
    assert told.stdout == ""  # which is for the tables


def test_a_tool_that_is_not_there_is_one_message(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "TRAINERS", {"defocus": "parfocal.no_such_module:tool"})
    result = invoke("train", "defocus")
    assert result.exit_code == 3
    assert "no_such_module" in result.stderr
