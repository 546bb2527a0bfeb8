"""The verbs on the command line: what they print, and what they end with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from parfocal.daemon.cli import app

SessionMaker = Callable[..., Path]


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


def test_replay(record_session: SessionMaker, tmp_path: Path) -> None:
    folder = str(record_session())
    code, out, _ = run("replay", folder)
    assert code == 0
    assert "identical, bit for bit" in out
    code, out, _ = run("replay", folder, "--set", "confidence=0.99", "--plot", str(tmp_path / "p.svg"), "--json")
    assert code == 0
    assert json.loads(out)["now"] == "focus.belief (confidence=0.99)"
    assert (tmp_path / "p.svg").read_text().startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--frames"], "there are no frames to score"),
        (["--policy", "focus.belive"], "did you mean 'focus.belief'"),
        (["--set", "microscope.seed=3"], "only --against simulator uses"),
        (["--against", "nature"], "expected simulator (got 'nature')"),
        (["--against", "simulator", "--frames"], "takes no --model or --frames"),
    ],
)
def test_what_replay_refuses(record_session: SessionMaker, arguments: list[str], said: str) -> None:
    code, _, err = run("replay", str(record_session(frames=4)), *arguments)
    assert code == 2
    assert said in err


def test_report(record_session: SessionMaker, tmp_path: Path) -> None:
    folder = record_session(frames=6)
    code, out, _ = run("report", str(folder))
    assert (code, out.strip()) == (0, f"report {folder / 'report.html'}")
    target = tmp_path / "other.html"
    code, out, _ = run("report", str(folder), "--out", str(target), "--no-verify", "--json")
    assert code == 0
    found = json.loads(out)
    assert found["report"] == str(target)
    assert found["frames"] == 6
    assert "SIMULATED" in target.read_text(encoding="utf-8")
    code, _, err = run("report", str(tmp_path / "nowhere"))
    assert code == 2
    assert "no such folder" in err
