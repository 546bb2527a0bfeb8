"""The software-autofocus callable: found, not found, cancelled; the stage never left lost."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest

from parfocal import ParfocalError
from parfocal.daemon.config import ConfigError
from parfocal.daemon.journal import read_journal
from parfocal.daemon.mda.autofocus import (
    AutofocusCancelled,
    AutofocusResult,
    AutofocusSettings,
    SoftwareAutofocus,
    register,
)
from parfocal.models.base import ScorerError


@pytest.fixture
def settings(tmp_path: Any) -> AutofocusSettings:
    optics = {"na": 0.75, "magnification": 20.0, "emission_nm": 520.0, "pixel_um": 0.325}
    return AutofocusSettings(**optics, session=str(tmp_path / "s"), range_um=30.0)


@pytest.mark.parametrize("given", [{}, {"emission_nm": 520.0}, {"na": 0.75}, {"magnification": 20.0}])
def test_optics_that_nobody_gave_are_not_made_up(rig: Any, tmp_path: Any, given: dict[str, float]) -> None:
    """An NA that is assumed turns every blur into a wrong distance, and nothing of it would show."""
    rig.scene.z_um, rig.scene.focus_um = 2.0, 11.0
    with pytest.raises(ConfigError, match=r"(optics are not known|NA alone).*emission_nm"):
        SoftwareAutofocus()(rig.core, "Z", AutofocusSettings(session=str(tmp_path / "s"), **given))
    assert (rig.scene.z_um, rig.scene.snaps, rig.oracle.started) == (2.0, 0, 0)
    assert not (tmp_path / "s").exists()


def test_optics_may_be_the_configurations(rig: Any, tmp_path: Any) -> None:
    rig.scene.z_um, rig.scene.focus_um = 2.0, 11.0
    config = {"microscope": {"objective": {"na": 0.75}, "emission_nm": 520, "pixel_um": 0.325}}
    found = SoftwareAutofocus(config)(rig.core, "Z", AutofocusSettings(session=str(tmp_path / "s"), range_um=30.0))
    assert found.succeeded


def test_a_focus_is_found_and_told_about(rig: Any, settings: AutofocusSettings, tmp_path: Any) -> None:
    rig.scene.z_um, rig.scene.focus_um = 2.0, 11.0
    method = SoftwareAutofocus()
    result = method(rig.core, "Z", settings)
    assert result.succeeded
    assert (result.kind, result.method, result.focus_device) == ("software", "parfocal", "Z")
    assert result.z_before == 2.0
    assert result.z_after == rig.scene.z_um == pytest.approx(11.0, abs=0.7)
    assert result.n_images == len(result.scores) == rig.scene.snaps
    assert result.message
    (folder,) = (tmp_path / "s").iterdir()
    records = read_journal(folder / "journal.jsonl").records
    commands = [r for r in records if r["kind"] == "command"]
    assert [r["settings"]["z_um"] for r in commands] == rig.stage.goals
    method(rig.core, None, settings)
    assert rig.oracle.started == 1, "the network is loaded once"
    method.close()
    assert rig.oracle.closed == 1


@pytest.mark.parametrize("when", [0, 2])
def test_cancelled_the_stage_is_where_it_was(rig: Any, settings: AutofocusSettings, when: int) -> None:
    rig.scene.z_um, rig.scene.focus_um = 2.0, 11.0
    asked = [0]

    def cancel() -> bool:
        asked[0] += 1
        return asked[0] > when

    with pytest.raises(AutofocusCancelled, match="back where it was"):
        SoftwareAutofocus()(rig.core, "Z", settings, should_cancel=cancel)
    assert rig.scene.z_um == 2.0
    assert rig.scene.snaps == max(when - 1, 0)


@pytest.mark.parametrize("fault", ["silent", "dead", "camera", "far"])
def test_not_found_the_stage_is_where_it_was(rig: Any, settings: AutofocusSettings, fault: str) -> None:
    rig.scene.z_um, rig.scene.focus_um = 2.0, 11.0
    if fault == "silent":
        rig.oracle.silent_from = 3
    elif fault == "dead":
        rig.oracle.raises = ScorerError("gone")
    elif fault == "camera":
        rig.camera.fail_at = 2
    else:
        rig.scene.focus_um = 60.0
    result = SoftwareAutofocus()(rig.core, "Z", settings)
    assert not result.succeeded
    assert result.message
    assert rig.scene.z_um == result.z_after == 2.0


def test_live_mode_is_stopped_first(rig: Any, settings: AutofocusSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(rig.core, "isSequenceRunning", lambda *_: not said, raising=False)
    monkeypatch.setattr(rig.core, "stopSequenceAcquisition", lambda *_: said.append("stopped"), raising=False)
    SoftwareAutofocus()(rig.core, "Z", settings)
    assert said[:1] == ["stopped"]


def test_it_registers_where_there_is_a_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ParfocalError, match="no software-autofocus interface yet"):
        register()
    module, got = ModuleType("pymmcore_plus.autofocus"), dict[str, Any]()

    def enter(name: str, run: Any, settings_model: Any, *, description: str = "") -> None:
        got.update(name=name, run=run, model=settings_model, description=description)

    module.register_software_autofocus = enter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pymmcore_plus.autofocus", module)
    method = register()
    assert got["name"] == "parfocal"
    assert got["run"] is method
    assert got["model"] is AutofocusSettings
    assert got["description"]


def test_the_result_has_the_fields_of_the_interface() -> None:
    assert list(AutofocusResult.__dataclass_fields__) == [
        "kind", "method", "focus_device", "z_before", "z_after", "succeeded", "message", "scores", "n_images",
    ]  # fmt: skip
