"""The calibration sweep stays within limits, measures what it says, comes back, and stores only what it found."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from parfocal import UsageError, models
from parfocal.daemon.calibrate import (
    BETWEEN_FIELDS,
    CalibrationError,
    Measured,
    Sweep,
    SweepScript,
    calibration_overrides,
    content,
    store,
    sweep_script,
)
from parfocal.daemon.calibrating import report
from parfocal.daemon.cli import app
from parfocal.daemon.config import load_config
from parfocal.daemon.journal import read_journal
from parfocal.models.base import Assessment, ModelCard
from parfocal.models.cards import load_card, packaged_card_path
from parfocal.policies.base import Change, Finish, Hold, Observation, PolicyError
from parfocal.policies.focus.response import Response


class Stage:
    """A stage and a network in one: |z - focus| rounded at the bottom."""

    def __init__(self, z_um: float, focus_um: float, *, blank: bool = False, lag: int = 0) -> None:
        self.z_um, self.focus_um, self.blank = z_um, focus_um, blank
        self.visited: list[float] = []
        self._lag, self._waiting = lag, 0

    def observe(self, index: int) -> Observation:
        value = math.hypot(self.z_um - self.focus_um, 0.4) + 0.02 * math.sin(37 * index)
        said = Assessment("defocus", value, 0.1) if not self.blank else Assessment.abstain("defocus", "blank")
        return Observation(index, {"z_um": self.z_um}, index / 10, 0.0, {"defocus": said})

    def do(self, change: Change) -> None:
        self._waiting += 1
        if self._waiting > self._lag:
            self.z_um, self._waiting = change.settings["z_um"], 0
            self.visited.append(self.z_um)


def played(script: SweepScript, stage: Stage, most: int = 5000) -> Finish:
    for index in range(most):
        script.tell(stage.observe(index))
        action = script.ask()
        if isinstance(action, Finish):
            return action
        if isinstance(action, Change):
            stage.do(action)
        assert action.reason
    raise AssertionError("the sweep never ends")


def test_a_sweep_finds_the_focus_and_goes_back() -> None:
    script, stage = SweepScript(Sweep(20, 1), -50, 50, 40), Stage(3.0, 4.2)
    assert "done" in played(script, stage).reason
    assert stage.z_um == pytest.approx(3.0)
    assert script.response is not None
    assert script.response.z0_um == pytest.approx(4.2, abs=0.1)
    assert len(script.measured.values) == 63
    assert (min(stage.visited), max(stage.visited)) == pytest.approx((-7, 13))


def test_go_ends_at_the_focus() -> None:
    script, stage = SweepScript(Sweep(20, 1, go=True), -50, 50, 40), Stage(3.0, 4.2)
    played(script, stage)
    assert stage.z_um == pytest.approx(4.2, abs=0.3)


@settings(deadline=None)
@given(
    home_um=st.floats(-60, 60),
    range_um=st.floats(8, 60),
    step_um=st.floats(0.5, 4),
    max_step_um=st.floats(0.3, 50),
    focus_um=st.floats(-60, 60),
)
def test_no_move_leaves_the_limits_or_is_too_long(
    home_um: float, range_um: float, step_um: float, max_step_um: float, focus_um: float
) -> None:
    sweep = Sweep(range_um, step_um, 1, go=True)
    if not 8 <= sweep.planes <= 500:
        return
    script, stage = SweepScript(sweep, -50, 50, max_step_um), Stage(home_um, focus_um)
    played(script, stage)
    way = [home_um, *stage.visited]
    assert all(-50 <= z <= 50 for z in stage.visited)
    assert all(abs(after - before) <= max_step_um for before, after in pairwise(way))


def test_a_sweep_that_would_leave_the_limits_never_starts() -> None:
    script, stage = SweepScript(Sweep(20, 1), -5, 50, 40), Stage(3.0, 4.2)
    assert "would leave the limits -5..50 um" in played(script, stage).reason
    assert stage.visited == []


def test_a_stage_that_needs_asking_twice_is_asked_again() -> None:
    script, stage = SweepScript(Sweep(20, 1), -50, 50, 40), Stage(3.0, 4.2, lag=2)
    played(script, stage)
    assert script.response is not None


def test_an_empty_field_gives_no_calibration_and_the_stage_goes_back() -> None:
    script, stage = SweepScript(Sweep(20, 1, go=True), -50, 50, 40), Stage(3.0, 4.2, blank=True)
    assert "usable positions" in played(script, stage).reason
    assert stage.z_um == pytest.approx(3.0)
    with pytest.raises(CalibrationError, match="usable positions"):
        content(load_config(None), script, {}, simulated=True)


def swept(say: Callable[[float, int], Assessment], repeats: int = 3) -> Measured:
    measured = Measured()
    for plane, z_um in enumerate(np.linspace(-10, 10, 21)):
        for frame in range(repeats):
            observation = Observation(0, {"z_um": float(z_um)}, 0.0, 0.0, {"defocus": say(float(z_um), frame)})
            measured.add(observation, plane)
    return measured


def blurred(z_um: float, frame: int = 0, **detail: float) -> Assessment:
    """A network that says um in its value, and pixels of blur, three to the um, in its detail."""
    blur = 3 * math.hypot(z_um, 0.5)
    return Assessment("defocus", z_um, 0.1, detail={"blur_px": blur, "blur_sd_px": 1.0, **detail})


def test_the_blur_in_pixels_is_what_is_calibrated() -> None:
    """The value of a signed assessment crosses zero, or hides in its two sides: no magnitude of a blur."""
    response = swept(blurred).fit()
    assert response.source == "blur_px"
    assert np.interp(6.0, response.defocus_um, response.mean) == pytest.approx(18.0, abs=0.5)
    assert response.sd.min() >= BETWEEN_FIELDS * 1.0


def test_a_sign_is_calibrated_only_where_the_assessment_has_one() -> None:
    def signed(z_um: float, frame: int) -> Assessment:
        return blurred(z_um, signed=1.0, positive=1 / (1 + math.exp(-z_um)))

    response = swept(signed).fit()
    assert (response.signed, response.sign_source) == (True, "positive")
    assert response.observed_sign(signed(3.0, 0)) == pytest.approx(0.95, abs=0.01)
    unsigned = blurred(3.0, signed=0.0, positive=0.5)
    assert response.observed_sign(unsigned) is None
    assert not swept(lambda z_um, frame: blurred(z_um, signed=0.0, positive=0.5)).fit().signed


def test_the_scatter_of_the_frames_of_a_plane_is_in_the_spread_of_one_look() -> None:
    quiet, noisy = (
        swept(lambda z_um, frame, size=size: blurred(z_um + size * (frame - 1))).fit() for size in (0.0, 0.4)
    )
    assert np.median(noisy.sd) > 3 * np.median(quiet.sd)


def test_what_was_abstained_from_does_not_count() -> None:
    def say(z_um: float, frame: int) -> Assessment:
        return Assessment.abstain("defocus", "empty", {"blur_px": 99.0}) if frame == 1 else blurred(z_um)

    measured = swept(say)
    assert sum(math.isnan(value) for value in measured.values) == 21
    assert measured.fit().mean.max() < 40


def test_a_missing_model_is_said_before_anything_moves() -> None:
    script = SweepScript(Sweep(20, 1), -50, 50, 40)
    script.tell(Observation(0, {"z_um": 0.0}, 0.0, 0.0, {}))
    assert "scoring.models" in script.ask().reason


def test_a_sweep_cannot_be_continued() -> None:
    script = SweepScript(Sweep(20, 1), -50, 50, 40)
    measured = json.loads(json.dumps(script.checkpoint()))["measured"]
    assert all(measured[name] == [] for name in ("z_um", "values", "sds", "signs", "plane"))
    with pytest.raises(PolicyError):
        script.restore({})


@pytest.mark.parametrize("sweep", [Sweep(3, 1), Sweep(1e6, 1), Sweep(math.nan, 1), Sweep(20, -1)])
def test_senseless_sweeps_are_usage_errors(sweep: Sweep) -> None:
    with pytest.raises(UsageError):
        sweep.check()


def test_without_limits_nothing_is_swept() -> None:
    config = load_config(None, ["limits={}"])
    with pytest.raises(UsageError, match=r"limits\.z_um"):
        sweep_script(config, Sweep(20, 1))


def test_a_sweep_is_a_session_that_ends_by_itself() -> None:
    config = load_config(None, calibration_overrides(Sweep(20, 1), ["session.name=mine"]))
    assert config.session.max_seconds is None
    assert config.session.max_frames is not None and config.session.max_frames > 21 * 3
    assert config.session.name == "mine"


def made() -> dict[str, Any]:
    script = SweepScript(Sweep(20, 1), -50, 50, 40)
    played(script, Stage(3.0, 4.2))
    models = {"defocus": {"name": "defocus", "weights_sha256": packaged_sha()}}
    return content(load_config(None), script, models, simulated=True, pixel_um=0.325)


def packaged_sha() -> str:
    return load_card(packaged_card_path("defocus")).weights_sha256


def test_what_is_stored_can_be_used_as_a_response(tmp_path: Path) -> None:
    store(tmp_path / "deep" / "c.json", made())
    text = (tmp_path / "deep" / "c.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    assert stored["schema"] == "parfocal.calibration/1"
    assert stored["model"]["weights_sha256"] == packaged_sha()
    assert stored["simulated"] is True
    assert stored["pixel_um"] == 0.325
    assert stored["dof_um"] > 0
    assert stored["optics"]["na"] == 0.75
    assert Response.from_json(stored["response"]).z0_um == pytest.approx(stored["vertex_um"])
    assert len(stored["measured"]["z_um"]) == 63
    config = load_config(None, [f"policy.calibration={tmp_path / 'deep' / 'c.json'}"])
    from parfocal.daemon.compose import policy_options

    assert policy_options(config, 0.325)["response"] == stored["response"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CalibrationError, match="cannot be written"):
        store(tmp_path / "file" / "c.json", made())


def test_the_report_shows_plot_and_table() -> None:
    text = "\n".join(report(made()))
    assert "SIMULATED" in text
    assert "focus at z = +4." in text
    assert "network says" in text
    assert any(0x2800 < ord(character) <= 0x28FF for character in text)


class BlurModel:
    """Stands in for the network: the less fine structure, the larger the number."""

    card = ModelCard("defocus", "0", "fake", "none", "0" * 64)

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        image = gaussian_filter(images[0].astype(float), 1.0)
        fine = np.std(image - gaussian_filter(image, 3.0)) / (image.mean() - 90)
        return [Assessment("defocus", float(3 / (10 * fine + 0.05)), 0.3)]


@pytest.fixture
def blur_model(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_blur_model")
    module.make = lambda options: BlurModel()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_blur_model", module)
    monkeypatch.setattr(models, "BUILT_IN", {**models.BUILT_IN, "defocus": "fake_blur_model:make"})


def calibrated(tmp_path: Path, *more: str) -> Any:
    quick = ["scoring.process=false", "microscope.interval_ms=1", "start.z_um=18"]
    quick += ["microscope.simulation.size_px=128", "microscope.simulation.drift.rate_um_per_min=0"]
    args = [f"--set={one}" for one in [*quick, f"session.folder={tmp_path / 'sessions'}"]]
    out = ["--out", str(tmp_path / "c.json"), "--range-um", "24", "--step-um", "2", "--repeats", "1"]
    return CliRunner().invoke(app, ["calibrate", *args, *out, *more])


@pytest.mark.usefixtures("blur_model")
def test_the_whole_command_on_the_simulator(tmp_path: Path) -> None:
    result = calibrated(tmp_path, "--json", "--go")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["vertex_um"] == pytest.approx(20.0, abs=1.5)
    assert said["simulated"] is True
    assert said["pixel_um"] == pytest.approx(0.325)
    assert said["summary"]["final"]["settings"]["z_um"] == pytest.approx(said["vertex_um"], abs=0.6)
    assert json.loads((tmp_path / "c.json").read_text())["response"] == said["response"]
    (session,) = (tmp_path / "sessions").iterdir()
    sent = [record["settings"]["z_um"] for record in read_journal(session / "journal.jsonl").of("command")]
    assert min(sent) == pytest.approx(6, abs=0.2)
    assert max(sent) == pytest.approx(30, abs=0.2)


@pytest.mark.usefixtures("blur_model")
def test_limits_hold_for_the_whole_command(tmp_path: Path) -> None:
    result = calibrated(tmp_path, "--set=limits.z_um.upper=25")
    assert result.exit_code == 4, result.output
    assert "would leave the limits" in result.stderr
    assert not (tmp_path / "c.json").exists()


def test_holds_only_while_a_plane_needs_more_frames() -> None:
    script, stage = SweepScript(Sweep(20, 1, repeats=2), -50, 50, 40), Stage(0.0, 1.0)
    script.tell(stage.observe(0))
    first = script.ask()
    assert isinstance(first, Change)
    stage.do(first)
    script.tell(stage.observe(1))
    assert isinstance(script.ask(), Hold)
    script.tell(stage.observe(2))
    assert isinstance(script.ask(), Change)
