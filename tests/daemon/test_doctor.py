"""The doctor looks at everything, calls what is broken broken, and goes on after it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from parfocal.daemon import doctor
from parfocal.daemon.config import Config, load_config
from parfocal.daemon.doctor import Finding, examine
from parfocal.daemon.lock import InstanceLock
from parfocal.daemon.running import lock_key
from parfocal.models import cards


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load_config(None, [f"session.folder={tmp_path / 'not' / 'yet'}"])


def findings(config: Config, group: str) -> list[Finding]:
    return [finding for finding in examine(config) if finding.group == group]


def test_every_group_is_looked_at_and_nothing_is_left_behind(config: Config, tmp_path: Path) -> None:
    groups = {finding.group for finding in examine(config)}
    assert groups == {"versions", "compute", "micro-manager", "models", "limits", "instrument", "disk", "clock"}
    assert list(tmp_path.iterdir()) == []


def test_limits_are_shown(config: Config) -> None:
    z = next(finding for finding in findings(config, "limits") if finding.name == "z_um")
    assert z.detail == "lower -100, upper 100, max_step 40, max_travel 2000"


def test_no_limits_are_noted(tmp_path: Path) -> None:
    config = load_config(None, ["limits={}", f"session.folder={tmp_path}"])
    assert findings(config, "limits")[0].status == "note"


def weights(folder: Path, content: bytes) -> None:
    card = {
        "name": "defocus",
        "version": "1",
        "architecture": "x",
        "weights_file": "defocus.safetensors",
        "weights_sha256": hashlib.sha256(b"right").hexdigest(),
    }
    (folder / "defocus.json").write_text(json.dumps(card))
    (folder / "defocus.safetensors").write_bytes(content)


@pytest.mark.parametrize(("content", "status"), [(b"right", "ok"), (b"wrong", "fail")])
def test_weights_are_verified(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, status: str
) -> None:
    monkeypatch.setattr(cards, "PACKAGED", tmp_path)
    weights(tmp_path, content)
    (found,) = findings(config, "models")
    assert found.status == status
    assert found.detail.endswith("verified") == (status == "ok")
    assert found.exit_code == (0 if status == "ok" else 3)


def test_no_models_at_all_is_a_failure(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "PACKAGED", tmp_path)
    assert findings(config, "models")[0].status == "fail"


def test_a_look_that_breaks_does_not_stop_the_others(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(folder: Path) -> Any:
        raise OSError("no such device")

    monkeypatch.setattr(doctor, "fsync_ms", broken)
    found = list(examine(config))
    assert any(finding.status == "fail" and "no such device" in finding.detail for finding in found)
    assert found[-1].group == "clock"


def test_a_slow_disk_is_noted(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "fsync_ms", lambda folder: (80.0, 300.0))
    assert findings(config, "disk")[-1].status == "note"


def test_an_instrument_in_use_is_noted_with_its_holder(config: Config) -> None:
    assert findings(config, "instrument")[0].detail == "free"
    with InstanceLock(lock_key(config)) as lock:
        lock.acquire(session="sessions/night")
        (found,) = findings(config, "instrument")
    assert found.status == "note"
    assert "sessions/night" in found.detail


def test_micro_manager_is_only_needed_by_its_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymmcore_plus

    monkeypatch.setattr(pymmcore_plus, "find_micromanager", lambda: None)
    simulated = load_config(None, [f"session.folder={tmp_path}"])
    assert {finding.status for finding in findings(simulated, "micro-manager")} == {"ok"}
    (tmp_path / "c.yaml").write_text("microscope: {driver: micromanager, system_config: none.cfg}\n")
    real = load_config(tmp_path / "c.yaml", [f"session.folder={tmp_path}"])
    failed = [finding.name for finding in findings(real, "micro-manager") if finding.status == "fail"]
    assert failed == ["adapters", "system_config"]


def test_cuda_that_is_asked_for_and_missing_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = load_config(None, ["scoring.device=cuda", f"session.folder={tmp_path}"])
    cuda = next(finding for finding in findings(config, "compute") if finding.name == "cuda")
    assert cuda.status == "fail"
    assert cuda.exit_code == 4
