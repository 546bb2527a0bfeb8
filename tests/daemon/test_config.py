"""The configuration: what is read, what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.config import Config, ConfigError, load_config
from parfocal.daemon.config_lines import MAX_BYTES, parse_source


def write(folder: Path, text: str, name: str = "my.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    assert caught.value.exit_code == 3
    return caught.value.problems


def test_only_the_driver_must_be_given(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "microscope: {driver: simulated}"))
    assert config.policy.name == "focus.belief"
    assert config.session.record == "decisions"
    assert config.service is None


def test_the_packaged_example_loads_and_is_what_a_person_gets_without_a_file() -> None:
    config = load_config(None)
    assert config.microscope.driver == "simulated"
    assert config.limits.parameters["z_um"].max_step == 40
    assert config.session.max_seconds is not None


def test_the_dump_is_plain_json_that_loads_again(tmp_path: Path) -> None:
    import json

    import yaml

    first = load_config(None)
    again = load_config(write(tmp_path, yaml.safe_dump(json.loads(json.dumps(first.to_json())))))
    assert again.to_json() == first.to_json()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("microscope:\n  drivr: simulated\n", "2 microscope.drivr: unknown key; did you mean 'driver'?"),
        ("microscope: {driver: x}\nmax_frames: 3\n", "2 max_frames: unknown key; did you mean 'session.max_frames'?"),
        ("microscope: {driver: x}\nsession:\n  max_frames: 0\n", "3 session.max_frames: should be greater than"),
        ("microscope: {driver: x}\nsession:\n  max_frames: '9'\n", "(got '9')"),
        ("microscope: {driver: x}\nsession: {record: decision}\n", "did you mean 'decisions'?"),
        ("start: {z_um: 0}\n", "1 microscope: required key is missing"),
        ("microscope: {driver: x}\nmicroscope: {driver: y}\n", "the key is given twice (first on line 1)"),
        ("microscope: {driver: x, pixel_um: .nan}\n", "1 microscope.pixel_um: must be a finite number"),
        ("microscope: {driver: x, simulation: {a: [1, .inf]}}\n", "simulation.a[1]: must be a finite number"),
        ("microscope: &a {driver: x}\nstart: *a\n", "anchors and aliases"),
        ("microscope: {driver: x, seed: !!python/object/apply:os.getpid []}\n", "microscope.seed:"),
        ("microscope: {driver: x, camera: !!python/name:os.system ''}\n", "cannot be read as"),
        ("microscope: {driver: x, objective: {na: 1.2}}\n", "na 1.2 must be below immersion_index 1"),
        ("microscope: {driver: x}\nlimits: {z_um: {lower: 1, upper: 1}}\n", "lower 1 must be below upper 1"),
        ("microscope: {driver: x}\nlimits:\n  z_um:\n    max_stp: 1\n", "4 limits.z_um.max_stp: unknown key; did you"),
        ("microscope: {driver: x}\nlimits: {Z: {lower: 1}}\n", "a parameter is named like z_um"),
        ("microscope: {driver: x}\nservice: {bind: 'tcp://0.0.0.0:5570'}\n", "must be a loopback address"),
        ("microscope: {driver: x}\nservice: {bind: 'tcp://example.org:5570'}\n", "must be a loopback address"),
        ("microscope: {driver: x}\nservice: {bind: here}\n", "must read tcp://127.0.0.1:PORT"),
        ("microscope: {driver: x}\nstart: {z_um: 9}\nlimits: {z_um: {upper: 5}}\n", "outside limits.z_um -inf..5"),
        ("microscope: {driver: x}\nscoring: {options: {quality: {}}}\n", "options are given for quality"),
        ("microscope: [a\n", "not valid YAML"),
        ("- a\n- b\n", "expected `key: value` lines"),
        ("? [a]\n: 1\n", "a key must be plain text"),
        ("", "required key is missing"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
)  # fmt: skip
def test_every_mistake_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = write(tmp_path, text)
    found = problems(path)
    assert any(expected in line.removeprefix(f"{path}:").removeprefix(" ") for line in found), found
    assert all(line.startswith(str(path)) for line in found)


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    found = problems(
        write(tmp_path, "microscope: {driver: x, pixel_um: -1, na: 3}\nsession: {max_seconds: 0}\nfoo: 1\n")
    )
    assert len(found) == 4


def test_a_missing_file_a_folder_a_large_and_a_binary_file_are_one_message_each(tmp_path: Path) -> None:
    assert "no such file" in problems(tmp_path / "none.yaml")[0]
    assert "folder" in problems(tmp_path)[0]
    assert "too large" in problems(write(tmp_path, "#" * (MAX_BYTES + 1)))[0]
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in problems(tmp_path / "b.yaml")[0]


def test_overrides_win_are_typed_and_are_named_when_wrong(tmp_path: Path) -> None:
    config = load_config(
        None, ["session.max_frames=7", "policy.range_um=1e1", "limits.z_um.upper=50", "service.bind=ipc:///x"]
    )
    assert config.session.max_frames == 7
    assert config.policy.options["range_um"] == 10.0
    assert config.limits.parameters["z_um"].upper == 50
    assert config.limits.parameters["z_um"].lower == -100
    assert problems(None, "session.max_frames=-1")[0].startswith("--set session.max_frames=-1 session.max_frames:")
    assert "expected KEY=VALUE" in problems(None, "session.max_frames")[0]
    assert "is not a section" in problems(None, "microscope.driver.x=1")[0]
    assert "finite" in problems(None, "start.z_um=.inf")[0]
    assert "did you mean" in problems(None, "sesion.max_frames=1")[0]


def test_paths_are_relative_to_the_file_and_in_overrides_to_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    monkeypatch.chdir(tmp_path)
    path = write(
        tmp_path / "a", "microscope: {driver: micromanager, system_config: scope.cfg}\nsession: {folder: out}\n"
    )
    config = load_config(Path("a/my.yaml"), ["policy.calibration=c.json"])
    assert config.microscope.system_config == str(path.parent / "scope.cfg")
    assert config.session.folder == str(tmp_path / "a" / "out")
    assert config.policy.calibration == str(tmp_path / "c.json")
    assert load_config(None).session.folder == str(tmp_path / "sessions")


def test_yaml_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "microscope: {driver: x, exposure_ms: 1e1, pixel_um: 2.5E-1}"))
    assert (config.microscope.exposure_ms, config.microscope.pixel_um) == (10.0, 0.25)


@pytest.mark.parametrize("bind", ["tcp://127.0.0.1:5570", "tcp://localhost:*", "tcp://[::1]:1", "tcp://127.1.2.3:9"])
def test_loopback_addresses_are_taken(bind: str) -> None:
    assert load_config(None, [f"service.bind='{bind}'"]).service is not None


@given(st.text(max_size=300))
def test_no_text_crashes_the_reader(text: str) -> None:
    try:
        parse_source(text, "x")
    except ConfigError as error:
        assert error.problems


class TestFacility:
    """A facility's file: limits a user's configuration can only narrow."""

    @pytest.fixture
    def facility(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        path = write(
            tmp_path,
            "limits:\n  z_um: {lower: -50, upper: 50, max_rate: 10}\n"
            "  beam_lease_s: 2\n  dose: {budget: 100, unit: mJ}\n",
            "facility.yaml",
        )
        monkeypatch.setenv("PARFOCAL_FACILITY", str(path))
        return path

    def config(self, tmp_path: Path, limits: str) -> Config:
        return load_config(write(tmp_path, f"microscope: {{driver: x}}\nlimits:\n  {limits}\n"))

    def test_fills_what_the_user_left_open(self, tmp_path: Path, facility: Path) -> None:
        limits = self.config(tmp_path, "z_um: {upper: 20}").limits
        z = limits.parameters["z_um"]
        assert (z.lower, z.upper, z.max_rate, z.max_step) == (-50, 20, 10, None)
        assert limits.beam_lease_s == 2
        assert limits.dose is not None
        assert limits.dose.budget == 100

    @pytest.mark.parametrize(
        ("limits", "key"),
        [
            ("z_um: {upper: 60}", "limits.z_um.upper"),
            ("z_um: {lower: -51}", "limits.z_um.lower"),
            ("z_um: {max_rate: 11}", "limits.z_um.max_rate"),
            ("dose: {budget: 101, unit: mJ}", "limits.dose.budget"),
            ("dose: {budget: 1, unit: J}", "limits.dose.unit"),
            ("beam_lease_s: 3", "limits.beam_lease_s"),
            ("z_um: {lower: 60}", "limits.z_um"),
        ],
    )
    def test_widening_is_refused_and_names_both_lines(
        self, tmp_path: Path, facility: Path, limits: str, key: str
    ) -> None:
        with pytest.raises(ConfigError) as caught:
            self.config(tmp_path, limits)
        text = caught.value.problems[0]
        assert f"my.yaml:3 {key}: " in text
        assert f"{facility}:" in text

    def test_start_settings_are_held_against_the_facilitys_limits_too(self, tmp_path: Path, facility: Path) -> None:
        text = "microscope: {driver: x}\nstart: {z_um: 60}\n"
        with pytest.raises(ConfigError, match=r"my\.yaml:2 start\.z_um: is outside limits\.z_um -50\.\.50"):
            load_config(write(tmp_path, text))

    def test_a_dose_without_a_unit_is_in_the_facilitys(self, tmp_path: Path, facility: Path) -> None:
        dose = self.config(tmp_path, "dose: {budget: 50}").limits.dose
        assert dose is not None
        assert (dose.budget, dose.unit) == (50, "mJ")

    @pytest.mark.parametrize(
        ("microscope", "problem"),
        [
            ("exposure_ms: 500", "microscope.exposure_ms: is outside limits.exposure_ms -inf..100"),
            ("initial_properties: [[Laser, Power, 80]]", "initial_properties[0]: is outside limits.laser 0..20"),
            ("initial_properties: [[Laser, Power, full]]", "initial_properties[0]: is outside limits.laser 0..20"),
            ("", "microscope.properties.light: is Laser Power, which"),
        ],
    )
    def test_nothing_gets_past_it_by_another_way_or_name(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, microscope: str, problem: str
    ) -> None:
        limits = "limits:\n  exposure_ms: {upper: 100}\n  laser: {lower: 0, upper: 20}\n"
        monkeypatch.setenv("PARFOCAL_FACILITY", str(write(tmp_path, limits, "facility.yaml")))
        properties = "laser: {device: Laser, property: Power}"
        allowed = f"microscope:\n  driver: x\n  properties: {{{properties}}}\n"
        fine = "  exposure_ms: 100\n  initial_properties: [[Laser, Power, 20], [Laser, Mode, CW], [Camera, Gain, 99]]\n"
        assert load_config(write(tmp_path, allowed + fine)).limits.parameters["laser"].upper == 20
        if not microscope:
            allowed = allowed.replace(properties, f"{properties}, light: {{device: Laser, property: Power}}")
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path, f"{allowed}  {microscope}\n"))
        (found,) = caught.value.problems
        assert problem in found

    def test_a_link_that_leads_nowhere_is_not_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        link = tmp_path / "own.yaml"
        link.symlink_to(tmp_path / "not-mounted" / "facility.yaml")
        monkeypatch.setattr("parfocal.daemon.facility.FACILITY_FILE", link)
        assert "nothing starts without" in problems(None)[0]
        monkeypatch.setenv("PARFOCAL_FACILITY", str(write(tmp_path, "limits: {}\n", "mine.yaml")))
        assert "cannot replace" in problems(None)[0]

    def test_a_folder_nobody_may_look_into_is_not_no_file(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def locked(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("parfocal.daemon.facility.FACILITY_FILE", tmp_path / "locked" / "facility.yaml")
        monkeypatch.setattr(Path, "lstat", locked)
        assert "limits cannot be read (Permission denied)" in problems(None)[0]

    def test_narrows_the_packaged_example_but_not_what_somebody_asked_for(self, facility: Path) -> None:
        assert load_config(None).limits.parameters["z_um"].upper == 50
        assert "wider" in problems(None, "limits.z_um.upper=60")[0]

    def test_a_named_file_that_is_missing_or_wrong_is_an_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PARFOCAL_FACILITY", str(tmp_path / "gone.yaml"))
        assert "no such facility file" in problems(None)[0]
        monkeypatch.setenv("PARFOCAL_FACILITY", str(write(tmp_path, "limit: {}\n", "f.yaml")))
        assert "did you mean 'limits'?" in problems(None)[0]

    def test_the_machines_own_file_cannot_be_replaced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        own = write(tmp_path, "limits: {z_um: {upper: 30}}\n", "own.yaml")
        monkeypatch.setattr("parfocal.daemon.facility.FACILITY_FILE", own)
        assert load_config(None).limits.parameters["z_um"].upper == 30
        monkeypatch.setenv("PARFOCAL_FACILITY", str(own))
        assert load_config(None).limits.parameters["z_um"].upper == 30
        monkeypatch.setenv("PARFOCAL_FACILITY", str(write(tmp_path, "limits: {}\n", "mine.yaml")))
        assert "cannot replace" in problems(None)[0]

    @given(
        mine=st.tuples(st.floats(-100, 100), st.floats(-100, 100)).filter(lambda b: b[0] < b[1]),
        theirs=st.tuples(st.floats(-100, 100), st.floats(-100, 100)).filter(lambda b: b[0] < b[1]),
    )
    def test_what_comes_out_is_never_wider(self, mine: tuple[float, float], theirs: tuple[float, float]) -> None:
        from parfocal.daemon.config_models import FacilityConfig, Limit, LimitsSection
        from parfocal.daemon.facility import Narrowing

        config = Config.model_validate({"microscope": {"driver": "x"}}).model_copy(
            update={"limits": LimitsSection(z_um=Limit(lower=mine[0], upper=mine[1]))}
        )
        facility = FacilityConfig(limits=LimitsSection(z_um=Limit(lower=theirs[0], upper=theirs[1])))
        narrowing = Narrowing(config, parse_source("", "f"), facility)
        limit = narrowing.limits().parameters["z_um"]
        if not narrowing.problems:
            assert limit.lower is not None
            assert limit.upper is not None
            assert theirs[0] <= limit.lower < limit.upper <= theirs[1]
        else:
            assert mine[0] < theirs[0] or mine[1] > theirs[1]
