"""Making models by name: built-ins, plugins, and what goes wrong."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from parfocal.models import BUILT_IN, ModelSpec, available_models, make_model
from parfocal.models.base import Model, ModelError


def test_sharpness_is_built_in() -> None:
    model = make_model("sharpness", {"metric": "edges"})
    assert isinstance(model, Model)
    assert model.card.name == "sharpness"


@pytest.mark.parametrize(("name", "guess"), [("sharpnes", "sharpness"), ("defokus", "defocus")])
def test_an_unknown_name_suggests_the_nearest(name: str, guess: str) -> None:
    with pytest.raises(ModelError, match=f"did you mean '{guess}'"):
        make_model(name)


def test_a_name_far_from_all_lists_them() -> None:
    with pytest.raises(ModelError, match="there are defocus, frc"):
        make_model("zzz")


def test_plugins_are_found_by_their_entry_point(plugin: Path) -> None:
    assert available_models()["obedient"] == "parfocal_plugin_for_tests:make"
    assert list(available_models())[: len(BUILT_IN)] == list(BUILT_IN)
    assert make_model("obedient").card.name == "obedient"


def test_a_plugin_that_cannot_be_imported_is_one_clear_error(plugin: Path) -> None:
    with pytest.raises(ModelError, match=r"parfocal_plugin_that_is_not_there:make.*cannot be imported.*No module"):
        make_model("unimportable")


def test_a_factory_that_returns_no_model(plugin: Path) -> None:
    with pytest.raises(ModelError, match="without `card` and `assess`"):
        make_model("useless")


def test_two_plugins_of_one_name_are_refused(plugin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "another-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[parfocal.models]\nobedient = another:make\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="more than one plugin"):
        make_model("obedient")


def test_a_spec_crosses_as_json_and_as_pickle() -> None:
    spec = ModelSpec("sharpness", {"metric": "edges", "metrics": ["jaf"]})
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec  # noqa: S301 - our own bytes
    assert spec.make().card.input["metric"] == "edges"


def test_the_registry_imports_no_torch() -> None:
    code = "import sys, parfocal.models.scoring, parfocal.models.cards; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
