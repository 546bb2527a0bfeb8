"""Bad input, as whoever sits at the command line meets it: one message, the right exit code, a safe microscope.

Here, through the command line from end to end; where a case is tested closer to its code as well:

- missing, malformed or mistyped configuration: here; every kind of problem in daemon/test_config.py, test_check.py
- unknown driver, .cfg or recording: here; devices that a core does not have in drivers/test_micromanager.py; plug-ins
  that cannot be imported in drivers/test_registry.py
- absent weights, wrong hash: here; cards and weight files of every kind in models/test_cards.py
- an image of the wrong type or shape: here; file formats in daemon/test_imagefiles.py and test_scorefiles.py, single
  frames in daemon/test_loop.py, in the scorer process in models/test_scoring.py
- a folder without images: here, for `score` and for the driver `recorded`
- a stage that does not answer, a camera that stops: here; hanging drivers, and a fault at every call a driver has, in
  daemon/test_promises.py
- a full disk: here with a limit that the operating system keeps; at every record, and in the middle of one, in
  daemon/test_promises.py and test_journal.py; before the start in daemon/test_session.py
- an instrument in use, signals, SIGKILL: test_cli_processes.py
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from parfocal.daemon import compose
from parfocal.daemon.cli import app
from parfocal.daemon.journal import read_journal
from parfocal.drivers.faults import Fault, FaultPlan, FaultyMicroscope
from parfocal.models.cards import PACKAGED

QUICK = [
    "--set=scoring.models=[sharpness]",
    "--set=scoring.process=false",
    "--set=policy.name=focus.sweep",
    "--set=microscope.interval_ms=1",
    "--set=microscope.simulation.size_px=64",
    "--set=session.record=none",
]
Invoke = Callable[..., Any]


@pytest.fixture
def invoke(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("locks")))
    monkeypatch.setenv("PARFOCAL_FACILITY", "")
    runner = CliRunner()
    return lambda *args: runner.invoke(app, [str(arg) for arg in args])


def assert_one_message(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.stderr, result.stderr


def assert_whole(folder: Path) -> list[dict[str, Any]]:
    """The journal can be read to its end, and says that the microscope was made safe."""
    reading = read_journal(folder / "journal.jsonl")
    assert reading.torn == ""
    assert [record["new"] for record in reading.of("state")][-2:] == ["safe", "ended"]
    assert reading.records[-1]["kind"] == "end"
    return reading.records


# -- configuration ----------------------------------------------------------------------------------------------------

CONFIGURATIONS = {
    "syntax": ("microscope: {driver: simulated\nstart: {}\n", "c.yaml:2", "not valid YAML"),
    "duplicate key": ("microscope:\n  driver: simulated\n  driver: recorded\n", "c.yaml:3", "given twice"),
    "unknown key": ("microscope: {driver: simulated, exposure_sm: 1}\n", "c.yaml:1", "did you mean 'exposure_ms'?"),
    "wrong type": ("microscope:\n  driver: simulated\n  exposure_ms: fast\n", "c.yaml:3", "got 'fast'"),
    "not a number": ("microscope: {driver: simulated}\nstart: {z_um: .nan}\n", "c.yaml:2", "finite"),
    "nothing in it": ("", "c.yaml", "microscope"),
    "no text": ("\ud800", "c.yaml", "UTF-8"),
    "driver": ("microscope: {driver: simulatd}\n", "c.yaml:1", "did you mean 'simulated'?"),
    "model": ("microscope: {driver: simulated}\nscoring: {models: [defcus]}\n", "c.yaml:2", "did you mean 'defocus'?"),
    "policy": ("microscope: {driver: simulated}\npolicy:\n  name: focus.beleif\n", "c.yaml:3", "focus.belief"),
    "option": ("microscope: {driver: simulated}\npolicy: {name: focus.belief, rang_um: 4}\n", "c.yaml:2", "range_um"),
    "no .cfg": (
        "microscope: {driver: micromanager, system_config: no.cfg}\npolicy: {name: focus.hold}\n",
        "c.yaml:1",
        "no.cfg",
    ),
    "no recording": (
        "microscope: {driver: recorded, path: nowhere}\npolicy: {name: focus.hold}\n",
        "c.yaml:1",
        "nowhere",
    ),
    "no specimen": ("microscope: {driver: simulated, simulation: {specimen: no.tif}}\n", "c.yaml", "no.tif"),
}


@pytest.mark.parametrize("verb", ["check", "run"])
@pytest.mark.parametrize(("text", "place", "what"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_broken_configuration(invoke: Invoke, tmp_path: Path, verb: str, text: str, place: str, what: str) -> None:
    (tmp_path / "c.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    result = invoke(verb, "c.yaml")
    if (verb, what) == ("run", "no.tif"):
        assert_one_message(result, 4, what)  # what a device needs and is not there; check says it beforehand
    else:
        assert_one_message(result, 3, place, what)
    assert result.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]  # nothing was started, so nothing is left behind


@pytest.mark.parametrize("verb", ["check", "run", "doctor"])
def test_no_configuration(invoke: Invoke, verb: str) -> None:
    assert_one_message(invoke(verb, "none.yaml"), 3, "none.yaml", "no such file")


def test_paths_are_relative_to_the_file_that_names_them(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scope").mkdir()
    (tmp_path / "elsewhere").mkdir()
    image = np.random.default_rng(0).integers(0, 4000, (64, 64), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "scope" / "cells.tif", image)
    (tmp_path / "scope" / "c.yaml").write_text(
        "microscope: {driver: simulated, simulation: {specimen: cells.tif}}\n"
        "scoring: {models: [defocus], options: {defocus: {card: gone.json}}}\npolicy: {name: focus.hold}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert_one_message(invoke("check", "../scope/c.yaml"), 3, "scope/gone.json cannot be read")


# -- weights ----------------------------------------------------------------------------------------------------------


def bad_card(folder: Path, damage: str) -> Path:
    """Put a card with something wrong about its weights into a folder."""
    card = json.loads((PACKAGED / "defocus.json").read_text(encoding="utf-8"))
    weights = folder / card["weights_file"]
    if damage == "hash":
        shutil.copy(PACKAGED / card["weights_file"], weights)
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
    path = folder / "card.json"
    path.write_text(json.dumps(card), encoding="utf-8")
    return path


@pytest.mark.parametrize(("damage", "words"), [("absent", "cannot be read"), ("hash", "damaged or was exchanged")])
def test_weights_that_cannot_be_trusted(invoke: Invoke, tmp_path: Path, damage: str, words: str) -> None:
    bad_card(tmp_path, damage)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64), np.uint16))
    (tmp_path / "c.yaml").write_text(
        "microscope: {driver: simulated, simulation: {size_px: 64}}\n"
        "scoring: {models: [defocus], process: false, options: {defocus: {card: card.json}}}\n"
    )
    assert_one_message(invoke("check", "c.yaml"), 3, "c.yaml:2", words)
    assert_one_message(invoke("score", "--config", "c.yaml", "a.tif"), 3, words)
    assert_one_message(invoke("run", "c.yaml", "--session", "s"), 3, words)
    records = assert_whole(tmp_path / "s")
    assert not any(record["kind"] == "command" for record in records)


# -- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.ones((48, 48), np.complex64), "complex64"),
        (np.ones((8, 8), np.uint16), "32x32"),
        (np.full((48, 48), np.nan, np.float32), "finite"),
        (np.arange(6912, dtype=np.uint8).reshape(48, 48, 3), "colour"),
    ],
    ids=["complex", "too small", "not finite", "colour"],
)
def test_images_that_cannot_be_scored(invoke: Invoke, tmp_path: Path, image: Any, reason: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="rgb" if image.ndim == 3 else "minisblack")
    result = invoke("score", "a.tif", "--model", "sharpness")
    assert_one_message(result, 2, "1 of 1")
    assert "a.tif" in result.stdout
    assert reason in result.stdout


def test_a_folder_without_images(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert_one_message(invoke("score", "empty"), 2, "empty", "no images")
    recorded = ["--set=microscope.driver=recorded", "--set=microscope.path=empty", "--set=microscope.simulation={}"]
    result = invoke("run", *QUICK[:-2], *recorded, "--session", "s", "--set=session.record=none")
    assert_one_message(result, 4, "empty", "no images")
    assert_whole(tmp_path / "s")


# -- hardware ---------------------------------------------------------------------------------------------------------


@dataclass
class Witness:
    """What was done to the microscope, in order, and the laser's power once it had been made safe."""

    calls: list[str] = field(default_factory=list)
    power: float | None = None


class Watched(FaultyMicroscope):
    """A microscope that fails by plan, with a witness."""

    def __init__(self, inner: Any, plan: FaultPlan, witness: Witness) -> None:
        super().__init__(inner, plan)
        self._witness = witness

    def set(self, name: str, value: float) -> float:
        self._witness.calls.append("set")
        return super().set(name, value)

    def make_safe(self) -> None:
        super().make_safe()
        if "safe" not in self._witness.calls:
            self._witness.power = self.inner.read()["excitation_power"]
        self._witness.calls.append("safe")


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Witness]:
    """Have the command line's microscope fail by plan."""

    def plan(*faults: Fault) -> Witness:
        witness, make = Witness(), compose.make_microscope

        def wrapped(*args: Any, **more: Any) -> Watched:
            return Watched(make(*args, **more), FaultPlan(faults), witness)

        monkeypatch.setattr(compose, "make_microscope", wrapped)
        return witness

    return plan


FAULTS = {
    "stage silent at the start": (Fault("stage_timeout", amount=20), "stage: no answer within 20 ms"),
    "stage silent": (Fault("stage_timeout", first=4, amount=20), "stage: no answer within 20 ms"),
    "stage stuck": (Fault("stage_stuck", first=2), "3 moves in a row went like that"),
    "stage lost": (Fault("stage_error", first=4), "did not reach z_um"),
    "camera stopped": (Fault("stopped", first=4), "acquisition has stopped"),
    "camera silent": (Fault("timeout", first=4, amount=20), "camera: no frame within 20 ms"),
    "camera loses all": (Fault("dropped", first=4), "frames were lost in a row"),
    "another shape": (Fault("shape", first=4), "(64, 32) uint16, but this camera gave (64, 64) uint16 before"),
    "another type": (Fault("dtype", first=4), "complex64"),
    "no image from the start": (Fault("dtype"), "complex64, not numbers"),
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.values(), ids=FAULTS)
def test_hardware_that_fails(
    invoke: Invoke, tmp_path: Path, fail: Callable[..., Witness], fault: Fault, words: str
) -> None:
    witness = fail(fault)
    result = invoke("run", *QUICK, "--frames", "2000", "--session", "s")
    assert_one_message(result, 4, words)
    assert witness.power == 0.0
    assert "set" not in witness.calls[witness.calls.index("safe") :]
    records = assert_whole(tmp_path / "s")
    assert next(record for record in records if record["kind"] == "error")["message"] in result.stderr
    assert records[-1]["outcome"] == "failed"


@pytest.mark.parametrize("kind", ["shape", "dtype", "nan", "dropped"])
def test_a_single_bad_frame_ends_nothing(
    invoke: Invoke, tmp_path: Path, fail: Callable[..., Witness], kind: Any
) -> None:
    witness = fail(Fault(kind, frames=(3,)))
    result = invoke("run", *QUICK, "--frames", "12", "--session", "s", "--json")
    assert result.exit_code == 0, result.output
    records = assert_whole(tmp_path / "s")
    decided = [record["index"] for record in records if record["kind"] == "action" and record["action"] == "change"]
    assert len(decided) > 2
    assert 3 not in decided
    assert witness.power == 0.0


# -- disk -------------------------------------------------------------------------------------------------------------

LIMITED = """
import resource, sys
from parfocal.daemon.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
sys.argv = ["parfocal", *sys.argv[2:]]
main()
"""


@pytest.mark.skipif(os.name == "nt", reason="POSIX limits")
@pytest.mark.parametrize(
    ("limit", "record", "words"), [(20_000, "none", "journal"), (100_000, "all", "frames cannot be written")]
)
def test_a_disk_that_takes_no_more(tmp_path: Path, limit: int, record: str, words: str) -> None:
    """A file that may not grow behaves like a full disk: a part of the data goes in, the rest is refused."""
    size = [] if record == "none" else ["--set=microscope.simulation.size_px=512"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), "run", *QUICK, *size, f"--set=session.record={record}",
         "--frames", "5000", "--session", "s"],
        cwd=tmp_path, env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    reading = read_journal(tmp_path / "s" / "journal.jsonl")
    assert reading.torn == ""
    commands, readbacks = list(reading.of("command")), list(reading.of("readback"))
    assert len(commands) > 1
    assert len(commands) - len(readbacks) in (0, 1)
