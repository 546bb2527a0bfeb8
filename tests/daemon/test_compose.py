"""Composition: from a configuration to a running loop, and a clear word about whatever does not fit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon import compose
from parfocal.daemon.check import unfit
from parfocal.daemon.config import Config, ConfigError, load_config
from parfocal.daemon.journal import read_journal
from parfocal.drivers.base import DeviceNotFoundError, Frame
from parfocal.simulator.clock import VirtualClock
from parfocal.simulator.optics import Optics

SMALL = (
    "microscope.simulation.size_px=96",
    "scoring.models=[sharpness]",
    "scoring.process=false",
    "policy.name=focus.hold",
    "session.max_frames=4",
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return make(tmp_path)


def make(folder: Path, *settings: str) -> Config:
    return load_config(None, [f"session.folder={folder / 'sessions'}", *SMALL, *settings])


@pytest.mark.usefixtures("_quiet")
def test_the_packaged_example_runs_on_the_simulator(config: Config) -> None:
    loop = compose.build(config, clock=VirtualClock())
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.error, summary.frames, summary.scored) == ("done", "", 4, 3)
    assert summary.simulated
    assert summary.truth_defocus_um == pytest.approx(-20, abs=2)
    reading = read_journal(loop.session.folder / "journal.jsonl")
    assert reading.header["simulated"] is True
    policy = next(reading.of("policy"))
    assert policy["policy"] == "focus.hold"
    assert policy["options"]["upper_um"] == 100
    assert next(reading.of("assessment"))["model"] == "sharpness"


@pytest.mark.usefixtures("_quiet")
def test_two_runs_of_one_seed_have_the_same_journal(tmp_path: Path) -> None:
    texts = []
    for name in "ab":
        loop = compose.build(make(tmp_path), clock=VirtualClock(), session_folder=tmp_path / name)
        asyncio.run(loop.run())
        reading = read_journal(tmp_path / name / "journal.jsonl")
        texts.append([json.dumps(record) for record in reading.records if record["kind"] not in ("session", "end")])
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("policy.name=focus.beleif", "focus.belief"),
        ("policy.uper_um=3", "upper_um"),
        ("scoring.models=[sharpnes]", "sharpness"),
        ("microscope.driver=simulatd", "simulated"),
        ("microscope.simulation.specimn=x", "specimen"),
        ("policy.calibration=none.json", "cannot be read"),
    ],
)
def test_what_does_not_fit_is_said_before_a_folder_is_made(tmp_path: Path, setting: str, message: str) -> None:
    from parfocal import ParfocalError

    config = make(tmp_path, setting)
    with pytest.raises(ParfocalError, match=message):
        asyncio.run(compose.build(config).run())
    assert any(message in problem or "no such file" in problem for problem in unfit(config))
    assert not (tmp_path / "sessions").exists()


def test_a_good_configuration_has_no_problems(config: Config) -> None:
    assert unfit(config) == []


def test_mistakes_of_a_section_are_located(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("microscope:\n  driver: simulated\npolicy:\n  name: focus.hold\n  seed: 1.5\n")
    with pytest.raises(ConfigError) as caught:
        compose.policy_maker(load_config(path))
    assert caught.value.problems[0].startswith(f"{path}:5 policy.seed: ")
    assert caught.value.exit_code == 3


def test_a_missing_recording_is_a_missing_device(tmp_path: Path) -> None:
    config = make(tmp_path, "microscope.driver=recorded", "microscope.path=/nowhere", "microscope.simulation={}")
    with pytest.raises(DeviceNotFoundError) as caught:
        compose.microscope_for(load_config(None, [*_recorded(), "microscope.path=/nowhere"])).open()
    assert caught.value.exit_code == 4
    assert config.microscope.frames_to_freeze(simulated=False) == 0


def _recorded() -> list[str]:
    return ["microscope.driver=recorded"]


def test_drivers_are_told_what_was_given_and_nothing_of_the_loop(config: Config) -> None:
    options = compose.driver_options(config)
    assert options["objective"] == {"na": 0.75, "immersion_index": 1.0, "magnification": 20.0}
    assert options["exposure_ms"] == 10
    assert not {"driver", "interval_ms", "frozen_after", "camera", "timeout_ms"} & set(options)
    json.dumps(options)


def test_the_policy_knows_limits_and_depth_of_field(config: Config) -> None:
    options = compose.policy_options(config)
    optics = Optics(na=0.75, immersion_index=1.0, emission_um=0.52, pixel_um=0.325, magnification=20)
    assert options["dof_um"] == pytest.approx(optics.depth_of_field_um)
    assert (options["lower_um"], options["upper_um"], options["max_step_um"]) == (-100, 100, 40)


def test_what_the_user_says_to_the_policy_wins(tmp_path: Path) -> None:
    assert compose.policy_options(make(tmp_path, "policy.dof_um=3"))["dof_um"] == 3


def test_a_pixel_size_nobody_configured_comes_from_the_first_frame(tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("microscope: {driver: simulated}\npolicy: {name: focus.hold}\n")
    import numpy as np

    frame = Frame(np.zeros((4, 4)), 0, {}, 0.0, 1.0, pixel_um=0.65)
    _, options = compose.policy_maker(load_config(path))(frame)
    assert options["dof_um"] == pytest.approx(Optics(pixel_um=0.65).depth_of_field_um)


def test_models_get_the_optics_and_the_users_options(tmp_path: Path) -> None:
    config = make(tmp_path, "scoring.models=[defocus, sharpness]", "scoring.options={sharpness: {metric: jaf}}")
    specs: Mapping[str, Any] = {spec.name: spec.options for spec in compose.model_specs(config)}
    assert specs["sharpness"] == {"metric": "jaf"}
    assert specs["defocus"]["na"] == 0.75
    assert specs["defocus"]["emission_um"] == 0.52


def bare(folder: Path, objective: str = "", *settings: str) -> Config:
    """Load a real microscope of which only `objective` is known."""
    path = folder / "scope.yaml"
    path.write_text(f"microscope:\n  driver: recorded\n  path: nowhere\n{objective}policy: {{name: focus.belief}}\n")
    return load_config(path, list(settings))


OBJECTIVE = "  objective: {na: 0.75, immersion_index: 1.0, magnification: 20}\n"
TABLE = {"defocus_um": [-2, -1, 0, 1, 2], "mean": [2, 1, 0, 1, 2], "sd": [0.1] * 5, "source": "blur_px"}


def test_unknown_optics_are_not_made_up(tmp_path: Path) -> None:
    config = bare(tmp_path)
    assert compose.optics_options(config) == {}
    assert "na" not in compose.model_specs(config)[0].options
    with pytest.raises(ConfigError, match=r"optics are not known.*parfocal calibrate"):
        compose.policy_maker(config)
    with pytest.raises(ConfigError, match="optics are not known"):
        compose.policy_maker(bare(tmp_path, "", "policy.dof_um=1"))


def test_an_na_without_a_wavelength_is_refused_where_it_stands(tmp_path: Path) -> None:
    _, problem = unfit(bare(tmp_path, OBJECTIVE))  # the first: its recording is not there
    assert problem.startswith(f"{tmp_path / 'scope.yaml'}:4 microscope.objective.na")
    assert "emission_nm" in problem
    assert compose.optics_options(bare(tmp_path, OBJECTIVE + "  emission_nm: 600\n"))["emission_um"] == 0.6


def test_without_optics_the_depth_of_field_is_the_calibrations_or_the_users(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"response": TABLE, "dof_um": 0.4, "optics": {}}))
    config = bare(tmp_path, "", f"policy.calibration={tmp_path / 'c.json'}")
    policy, options = compose.policy_maker(config)(None)
    assert options["dof_um"] == 0.4
    assert policy.name == "focus.belief"
    config = bare(tmp_path, "", f"policy.calibration={tmp_path / 'c.json'}", "policy.dof_um=0.3")
    assert compose.policy_options(config)["dof_um"] == 0.3


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (
            {"optics": {"na": 0.8, "immersion_index": 1.0, "magnification": 20.0, "emission_um": 0.6}},
            "na 0.8, now.*0.75",
        ),
        ({"optics": {}}, "emission_um not known, now it is 0.6"),
        ({"pixel_um": 0.65}, "pixel_um 0.65, now it is 0.325"),
        ({"model": {"name": "defocus", "weights_sha256": "ab" * 32}}, "other weights of the network.*abab"),
    ],
)
def test_a_calibration_of_another_microscope_or_network_is_refused(
    tmp_path: Path, stored: dict[str, Any], said: str
) -> None:
    path = tmp_path / "c.json"
    where = f"policy.calibration={path}"
    settings = (OBJECTIVE + "  emission_nm: 600\n  pixel_um: 0.325\n", where)
    path.write_text(json.dumps({"response": TABLE, "dof_um": 0.4}))
    compose.policy_options(bare(tmp_path, *settings))
    path.write_text(json.dumps({"response": TABLE, "dof_um": 0.4, **stored}))
    with pytest.raises(ConfigError, match=f"{said}.*calibrate again"):
        compose.policy_options(bare(tmp_path, *settings))


def test_the_pixel_size_of_the_first_frame_is_held_against_the_calibration(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"response": TABLE, "dof_um": 0.4, "optics": {}, "pixel_um": 0.65}))
    make_one = compose.policy_maker(bare(tmp_path, "", f"policy.calibration={tmp_path / 'c.json'}"))
    import numpy as np

    make_one(Frame(np.zeros((4, 4)), 0, {}, 0.0, 1.0, pixel_um=0.65))
    with pytest.raises(ConfigError, match=r"pixel_um 0\.65, now it is 0\.1"):
        make_one(Frame(np.zeros((4, 4)), 0, {}, 0.0, 1.0, pixel_um=0.1))


def test_a_calibration_is_read_and_handed_over(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(json.dumps({"response": {"a": 1}, "made": "today"}))
    config = make(tmp_path, f"policy.calibration={tmp_path / 'c.json'}")
    assert compose.policy_options(config)["response"] == {"a": 1}
    (tmp_path / "c.json").write_text("[1]")
    with pytest.raises(ConfigError, match="not a calibration"):
        compose.policy_options(config)
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ConfigError, match="not a calibration"):
        compose.policy_options(config)


def test_deadlines_follow_the_devices(tmp_path: Path) -> None:
    deadlines = compose.deadlines_of(make(tmp_path, "microscope.timeouts_ms={camera: 1000, Z: 20000}"))
    assert (deadlines.frame_s, deadlines.command_s) == (1.0, 30.0)


@pytest.mark.parametrize("name", ["focus.jaf", "focus.oughtafocus", "focus.sweep", "focus.quality", "focus.belief"])
def test_a_policy_whose_model_nobody_runs_is_refused(tmp_path: Path, name: str) -> None:
    """It would hold all night, and end as if all were well."""
    config = make(tmp_path, f"policy.name={name}", "scoring.models=[frc]")
    with pytest.raises(ConfigError, match=r"reads the model '\w+', which is not among scoring.models \(frc\)"):
        compose.policy_maker(config)
    assert any("not among scoring.models" in problem for problem in unfit(config))


def test_a_policy_that_does_not_say_what_it_reads_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from parfocal.policies.focus.hold import HoldPolicy

    class Older(HoldPolicy):
        def __getattribute__(self, name: str) -> Any:
            if name == "reads":
                raise AttributeError(name)
            return super().__getattribute__(name)

    monkeypatch.setattr("parfocal.policies.focus.hold.HoldPolicy", Older)
    gated = make(tmp_path, "policy.name=focus.hold", "quality={model: sharpness, below: 1}")
    policy, _ = compose.policy_maker(gated)(None)
    assert policy.reads == ("sharpness",)


def test_what_only_forecasts_is_refused_where_it_would_claim_a_focus(tmp_path: Path) -> None:
    config = make(tmp_path, "policy.name=focus.follow", "scoring.models=[defocus]")
    with pytest.raises(ConfigError, match=r"policy\.name: focus\.follow moves nothing.*parfocal\.attach"):
        compose.build(config)
    (problem,) = unfit(config)
    assert "parfocal.attach" in problem
