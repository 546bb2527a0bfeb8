"""The loop closed on a simulator made from a session: what is estimated is near the truth, what is assumed is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from parfocal.daemon.replay.decisions import ReplayError
from parfocal.daemon.replay.estimates import camera_of, drift_of, light_of
from parfocal.daemon.replay.reader import SessionReader
from parfocal.daemon.replay.twin import other_policy, twin_of
from parfocal.daemon.replay.verb import Request, replay
from parfocal.drivers import make_microscope
from parfocal.models.base import Assessment, Distribution
from parfocal.simulator.clock import VirtualClock

SessionMaker = Callable[..., Path]
RATE_UM_PER_MIN = 2.0
SIMULATION = {
    "specimen": "filaments", "size_px": 128, "photons": 600, "background_photons": 20, "focus_um": 4.0,
    "drift": {"rate_um_per_min": RATE_UM_PER_MIN},
    "camera": {"gain_counts_per_electron": 1.5, "offset_counts": 200.0, "read_noise_electrons": 1.4},
}  # fmt: skip


class Oracle:
    """Knows the defocus from the simulator; anything else would test the network."""

    def __init__(self) -> None:
        self.microscope: Any = None

    def start(self) -> None: ...

    def score(self, pixels: Any, pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        value = self.microscope.simulator.defocus_um(self.microscope._now_s())
        grid = np.linspace(-60.0, 60.0, 401)
        weights = np.exp(-0.5 * ((grid - value) / 0.3) ** 2)
        return {
            "defocus": Assessment("defocus", value, 0.3, distribution=Distribution(grid, weights / weights.sum(), True))
        }

    def restart(self) -> None: ...

    def close(self) -> None: ...

    def describe(self) -> dict[str, Any]:
        return {}


@pytest.fixture
def simulated(record_session: SessionMaker) -> Path:
    """A minute and a half at the simulated microscope."""
    options = {"simulation": SIMULATION, "interval_ms": 1000.0, "exposure_ms": 10.0, "seed": 3, "pixel_um": 0.325}
    oracle = Oracle()
    oracle.microscope = make_microscope("simulated", options, clock=VirtualClock())
    text = json.dumps({key: value for key, value in SIMULATION.items() if key != "focus_um"})
    return record_session(
        "microscope.interval_ms=1000", f"microscope.simulation={text}", "session.record=all",
        "scoring.models=[defocus]", frames=90, microscope=oracle.microscope, scorer=oracle,
    )  # fmt: skip


def test_what_is_estimated_is_near_the_truth(simulated: Path) -> None:
    reader = SessionReader(simulated)
    camera = camera_of(reader)
    assert camera is not None
    assert camera.gain == pytest.approx(1.5, rel=0.2)
    assert camera.offset == pytest.approx(200.0, abs=12.0)
    light = light_of(reader, camera.gain, camera.offset)
    assert light is not None
    assert 0.4 * 600 * 0.8 < light.peak_electrons < 1.6 * 600 * 0.8
    twin = twin_of(reader, seed=5)
    drift = twin.estimates["drift"]
    assert drift["rate_um_per_min"] == pytest.approx(RATE_UM_PER_MIN, abs=0.3)
    assert drift["focus_um"] == pytest.approx(4.0, abs=0.4)
    assert drift["walk_um_per_sqrt_min"] < 0.2
    microscope = twin.config["microscope"]
    assert microscope["simulation"]["specimen"] == "filaments"
    assert microscope["simulation"]["size_px"] == 128
    assert microscope["interval_ms"] == pytest.approx(1000.0)
    assert twin.assumptions == []


def test_a_walk_is_told_from_the_scatter_of_sightings() -> None:
    rng = np.random.default_rng(1)
    at = np.arange(0.0, 3600.0, 5.0)
    walk = np.cumsum(rng.normal(0.0, 0.3 * np.sqrt(5.0 / 60.0), at.size))
    sightings = 2.0 + 1.0 * at / 60.0 + walk + rng.normal(0.0, 0.05, at.size)
    found = drift_of(at, sightings, np.full(at.size, 0.05))
    assert found is not None
    assert 0.12 < found.walk_um_per_sqrt_min < 0.45
    still = drift_of(at, 2.0 + rng.normal(0.0, 0.05, at.size), np.full(at.size, 0.05))
    assert still is not None
    assert still.walk_um_per_sqrt_min < 0.02
    assert drift_of(at[:3], sightings[:3], np.zeros(3)) is None


def test_what_no_record_tells_is_said_to_be_assumed(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session("microscope.driver=recorded", "microscope.path=x"))
    said = " ".join(twin_of(reader, seed=0).assumptions)
    for word in ("the specimen: nuclei", "the camera:", "the light:", "frames of 512 px"):
        assert word in said


def test_without_optics_there_is_no_simulator(record_session: SessionMaker) -> None:
    reader = SessionReader(record_session(about={"optics": "not known"}))
    with pytest.raises(ReplayError, match="optics of the session are not known"):
        twin_of(reader, seed=0)


def test_another_policy_keeps_the_limits_it_shares(simulated: Path) -> None:
    twin = twin_of(SessionReader(simulated), seed=0)
    config = other_policy(twin, "focus.hold", {"seed": 4})
    assert config["policy"]["name"] == "focus.hold"
    assert config["policy"]["seed"] == 4
    assert config["policy"]["lower_um"] == -100
    assert other_policy(twin, None, {})["policy"] == twin.config["policy"]


def test_the_loop_is_closed_and_seeded(simulated: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "courses.svg"
    common = {"against": "simulator", "max_frames": 6, "as_json": True}
    keys = ["scoring.models=[sharpness]", "policy={name: focus.hold}"]
    found = []
    for seed in (1, 1, 2):
        request = Request(simulated, overrides=keys, seed=seed, plot=plot, out=tmp_path / f"{len(found)}", **common)  # type: ignore[arg-type]
        assert replay(request) == 0
        found.append(json.loads(capsys.readouterr().out))
    first = found[0]
    assert first["closed_loop"] is True
    assert first["runs"][0]["frames"] == 6
    assert first["session"]["frames"] == 90
    ElementTree.parse(plot)  # noqa: S314 - our own
    values = []
    for number in range(3):
        (folder,) = (tmp_path / str(number)).iterdir()
        reader = SessionReader(folder)
        assert reader.simulated
        values.append([r["value"] for r in reader.journal.of("assessment")])
    assert values[0] == values[1]
    assert values[0] != values[2]
