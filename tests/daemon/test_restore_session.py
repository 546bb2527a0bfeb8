"""`parfocal restore` of a session's folder: optics from its own configuration, and none that nobody gave."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner, Result

from parfocal.daemon import restoreoutput
from parfocal.daemon.cli import app
from parfocal.simulator.optics import Imager, Optics, psf
from parfocal.simulator.specimens import make_specimen

Invoke = Callable[..., Result]
OPTICS = Optics()
FAR_UM = 4.0


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raw").mkdir()
    monkeypatch.setattr(restoreoutput, "RESERVE_BYTES", 0)  # the disk that runs this may be nearly full
    return lambda *args: CliRunner().invoke(app, ["restore", *args], catch_exceptions=False)


def save(path: Path) -> Path:
    shape = (128, 128)
    specimen = make_specimen("nuclei", shape, pixel_um=0.325, seed=0)
    light = 2000.0 * Imager(OPTICS, shape).image(specimen, FAR_UM)
    tifffile.imwrite(path, np.random.default_rng(0).poisson(100.0 + light).astype(np.uint16))
    return path


def rows_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def record_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))


CONFIG = """
microscope:
  driver: simulated
  objective: {na: 0.75, immersion_index: 1.0, magnification: 40.0}
  emission_nm: 520.0
  pixel_um: 0.325
scoring: {options: {defocus: {spherical_waves: 0.12}}}
"""


def session_at(folder: Path, config: str = CONFIG) -> Path:
    """What a run leaves that matters here, with a frame that says nothing of its optics."""
    folder.mkdir()
    (folder / "session.json").write_text('{"schema": "parfocal.session/1"}')
    (folder / "config.yaml").write_text(config)
    return save(folder / "frame.tif")


def test_frames_of_a_session_are_restored_with_its_own_optics(invoke: Invoke, tmp_path: Path) -> None:
    session_at(tmp_path / "raw/run")
    save(tmp_path / "raw/alone.tif")
    result = invoke("raw", "--out", "out", "--method", "wiener", "--defocus-um", "4", "--json")
    alone, frame = rows_of(result)
    assert (alone["verdict"], frame["verdict"]) == ("refused", "restored")
    assert "the optics are not known" in alone["reason"]
    assert f"from {Path('raw/run/config.yaml')}" in result.stderr
    record = record_of(tmp_path / "out/run/frame.tif.restored-wiener.json")
    (plane,) = record["images"][0]["planes"]
    names = ("na", "immersion_index", "emission_um", "pixel_um", "magnification")
    assert plane["optics_from"] == dict.fromkeys(names, "session")
    assert record["asked"]["recorded"]["emission_um"] == 0.52
    optics = plane["psf"]["optics"]
    assert (optics["na"], optics["magnification"], optics["zernike_waves"]) == (0.75, 40.0, {"4,0": 0.12})


def test_options_win_over_the_session_and_the_session_over_a_configuration(invoke: Invoke, tmp_path: Path) -> None:
    session_at(tmp_path / "raw/run")
    (tmp_path / "other.yaml").write_text(
        CONFIG.replace("520", "600").replace("{defocus: {spherical_waves: 0.12}}", "{}")
    )
    asked = ("raw/run", "--out", "out", "--method", "wiener", "--defocus-um", "4", "--config", "other.yaml")
    (row,) = rows_of(invoke(*asked, "--na", "0.7", "--spherical-waves", "0", "--json"))
    assert row["verdict"] == "restored", row
    (plane,) = record_of(tmp_path / "out/frame.tif.restored-wiener.json")["images"][0]["planes"]
    optics = plane["psf"]["optics"]
    assert (optics["na"], optics["emission_um"], optics["zernike_waves"]) == (0.7, 0.52, {"4,0": 0.0})
    assert (plane["optics_from"]["na"], plane["optics_from"]["emission_um"]) == ("options", "session")


def test_a_session_whose_optics_changed_is_restored_again(invoke: Invoke, tmp_path: Path) -> None:
    session_at(tmp_path / "raw/run")
    asked = ("raw/run", "--out", "out", "--method", "wiener", "--defocus-um", "4", "--json")
    assert [rows_of(invoke(*asked))[0]["skipped"] for _ in range(2)] == [False, True]
    (tmp_path / "raw/run/config.yaml").write_text(CONFIG.replace("0.75", "0.7"))
    assert not rows_of(invoke(*asked))[0]["skipped"]


@pytest.mark.parametrize(
    "config", ["microscope: [", "microscope: {objective: {na: high}}", "microscope: {objective: {na: 3}}", "[]"]
)
def test_a_session_without_usable_optics_is_said_and_not_guessed(invoke: Invoke, tmp_path: Path, config: str) -> None:
    session_at(tmp_path / "raw/run", config)
    result = invoke("raw", "--out", "out", "--method", "wiener", "--json")
    assert rows_of(result)[0]["verdict"] == "refused"
    assert "the optics of the session cannot be taken from" in result.stderr


def test_a_configuration_beside_images_that_no_session_recorded_is_nobodys(invoke: Invoke, tmp_path: Path) -> None:
    session_at(tmp_path / "raw/run")
    (tmp_path / "raw/run/session.json").write_text('{"schema": "somebody.else/1"}')
    (row,) = rows_of(invoke("raw", "--out", "out", "--method", "wiener", "--json"))
    assert "the optics are not known" in row["reason"]


def test_nothing_that_nobody_gave_is_in_the_record(invoke: Invoke, tmp_path: Path) -> None:
    save(tmp_path / "raw/a.tif")
    dry = ("--na", "0.75", "--emission-nm", "520", "--pixel-um", "0.325")
    invoke("raw", "--out", "out", "--method", "wiener", *dry, "--defocus-um", "4")
    (plane,) = record_of(tmp_path / "out/a.tif.restored-wiener.json")["images"][0]["planes"]
    assert "magnification" not in plane["psf"]["optics"]
    assert plane["optics_from"] == {
        "na": "options", "immersion_index": "assumed", "emission_um": "options", "pixel_um": "options",
    }  # fmt: skip
    kernel = psf(Optics.from_options(plane["psf"]["optics"]), FAR_UM, plane["psf"]["size_px"])
    assert np.array_equal(kernel, psf(OPTICS, FAR_UM, plane["psf"]["size_px"]))
