"""A real Micro-Manager core, a camera whose blur follows no lens: calibrated once, then focused from wherever it is.

The whole chain: composition, shipped network, belief, guard, journal. `parfocal` is called as a person would for the
calibration and for one run, the rest runs in this process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon import compose
from parfocal.daemon.config import load_config
from parfocal.daemon.journal import read_journal

EXAMPLE = Path(__file__).parents[2] / "examples" / "democamera.yaml"
# Not in a hurry on a busy machine, and not slower than need be on an idle one.
PATIENT = ("microscope.timeout_ms=60000", "scoring.timeout_ms=60000", "microscope.interval_ms=40")
MOST_FRAMES = 12
WITHIN_UM = 0.5

pytestmark = pytest.mark.timeout(400)


def parfocal(folder: Path, *args: str) -> dict[str, Any]:
    settings = [f"--set={setting}" for setting in (*PATIENT, f"session.folder={folder / 'sessions'}")]
    done = subprocess.run(
        [sys.executable, "-m", "parfocal.daemon.cli", *args, *settings, "--json"],
        env={**os.environ, "XDG_RUNTIME_DIR": str(folder), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    path = folder / "calibration.json"
    said = parfocal(folder, "calibrate", str(EXAMPLE), "--range-um=40", "--step-um=1", "--repeats=2", f"--out={path}")
    assert abs(said["vertex_um"]) < 0.1
    assert said["simulated"] is True
    assert said["response"]["source"] == "blur_px"
    assert said["optics"] == {"pixel_um": 0.325}
    return path


@pytest.mark.parametrize("start_um", [-15.0, -8.0, -3.0, 3.0, 8.0, 15.0])
def test_the_beads_are_focused(calibration: Path, tmp_path: Path, start_um: float) -> None:
    settings = [*PATIENT, f"policy.calibration={calibration}", f"start.z_um={start_um}", "scoring.process=false"]
    config = load_config(EXAMPLE, [*settings, "session.until_focused=true", "session.max_frames=60"])
    summary = asyncio.run(compose.build(config, session_folder=tmp_path / "s").run())
    assert (summary.outcome, summary.refused) == ("focused", 0)
    assert summary.scored <= MOST_FRAMES
    assert abs(summary.settings["z_um"]) <= WITHIN_UM
    records = read_journal(tmp_path / "s" / "journal.jsonl").records
    last = [record for record in records if record["kind"] == "action"][-1]
    assert abs(last["detail"]["defocus_um"]) <= 0.5 * config.policy.options["dof_um"]


def test_as_a_person_does_it(calibration: Path, tmp_path: Path) -> None:
    said = parfocal(
        tmp_path,
        "run",
        str(EXAMPLE),
        f"--set=policy.calibration={calibration}",
        "--set=start.z_um=9",
        "--until-focused",
    )
    assert said["outcome"] == "focused"
    assert said["scored"] <= MOST_FRAMES
    assert abs(said["final"]["settings"]["z_um"]) <= WITHIN_UM
    session = Path(said["session"])
    assert json.loads((session / "session.json").read_text())["optics"] == {"pixel_um": 0.325}
