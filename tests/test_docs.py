"""The documents against the code: configurations load, links lead somewhere, and no key, error or verb is forgotten."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

import parfocal
from parfocal import ParfocalError
from parfocal.daemon import config_models
from parfocal.daemon.cli import app
from parfocal.daemon.compose import microscope_for, policy_maker
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.journal import Kind
from parfocal.drivers import faults, mm_options, recorded, simulated_options, sted_options
from parfocal.policies.focus.beliefoptions import BeliefOptions
from parfocal.policies.focus.jaf import JafOptions
from parfocal.policies.focus.oughtafocus import OughtaFocusOptions
from parfocal.policies.focus.sweep import SweepOptions
from parfocal.policies.sted.bayes import BayesOptions
from parfocal.policies.sted.preference import Weights
from parfocal.policies.sted.simple import FixedOptions, RandomOptions
from parfocal.policies.sted.supervisor import SupervisorOptions
from parfocal.policies.sted.thompson import ThompsonOptions

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
YAML_BLOCK = re.compile(r"^ *```yaml\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
WITHOUT_OPTICS = "democamera.yaml"
WITH_A_CORE = "attach.yaml"  # its core comes from a program


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8"))
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_can_be_used(path: Path) -> None:
    config = load_config(path)
    if path.name == WITHOUT_OPTICS:  # nothing of it may be used before `parfocal calibrate` has measured its blur
        with pytest.raises(ConfigError, match="parfocal calibrate"):
            policy_maker(config)
    else:
        policy_maker(config)
    if path.name != WITH_A_CORE:
        microscope_for(config)


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_examples_import(path: Path) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_configurations_in_documents_have_the_right_keys(tmp_path: Path) -> None:
    blocks = [
        (document, block)
        for document in DOCUMENTS
        for block in YAML_BLOCK.findall(document.read_text(encoding="utf-8"))
    ]
    assert blocks
    for document, block in blocks:
        lines = [line.removeprefix("   ") if block.startswith("   ") else line for line in block.splitlines()]
        text = "\n".join(lines)
        if "microscope:" not in text:
            text += "\nmicroscope: {driver: simulated}\n"
        path = tmp_path / "block.yaml"
        path.write_text(text, encoding="utf-8")
        assert load_config(path), document


@pytest.mark.parametrize(
    "model",
    [
        config_models.MicroscopeSection,
        config_models.Objective,
        config_models.ScoringSection,
        config_models.PolicySection,
        config_models.Limit,
        config_models.LimitsSection,
        config_models.Dose,
        config_models.SessionSection,
        config_models.ServiceSection,
        config_models.WebSection,
        simulated_options.SimulationOptions,
        simulated_options.DriftOptions,
        simulated_options.StageOptions,
        simulated_options.CameraOptions,
        simulated_options.BleachingOptions,
        simulated_options.AberrationOptions,
        mm_options.PropertyOptions,
        recorded._Section,
        sted_options.StedOptions,
        sted_options.StedSimulationOptions,
        BeliefOptions,
        OughtaFocusOptions,
        JafOptions,
        SweepOptions,
        BayesOptions,
        ThompsonOptions,
        RandomOptions,
        FixedOptions,
        SupervisorOptions,
        Weights,
    ],
    ids=lambda model: model.__name__,
)
def test_every_key_is_in_the_reference(model: type[BaseModel]) -> None:
    reference = text_of("docs/reference/configuration.md")
    # `response` is what the daemon makes of policy.calibration.
    missing = [name for name in model.model_fields if f"`{name}`" not in reference and name != "response"]
    assert not missing


def test_every_verb_is_in_the_reference_and_no_other() -> None:
    reference = text_of("docs/reference/command-line.md")
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"^## parfocal (\w+)", reference, re.MULTILINE)) == set(commands)
    for name, command in commands.items():
        section = reference.partition(f"## parfocal {name}")[2].partition("\n## ")[0]
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert not [option for option in options if option not in section and option != "--help"], name
        assert f"`parfocal {name}" in text_of("README.md")


def errors_of_the_code() -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for module_info in pkgutil.walk_packages(parfocal.__path__, "parfocal."):
        if not re.match(r"parfocal\.(daemon|drivers|models|policies|simulator)\b", module_info.name):
            continue
        module = importlib.import_module(module_info.name)
        for name, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, ParfocalError):
                found.setdefault(name, set()).add(kind.exit_code)
    return found


def test_every_error_is_in_the_reference_with_its_exit_code() -> None:
    rows = re.findall(r"^\| `([A-Z]\w+)`.*\| (\d+) \|$", text_of("docs/reference/errors.md"), re.MULTILINE)
    listed: dict[str, set[int]] = {}
    for name, code in rows:
        listed.setdefault(name, set()).add(int(code))
    assert listed == errors_of_the_code()
    codes = set(re.findall(r"^\| (\d+) \|", text_of("docs/reference/exit-codes.md"), re.MULTILINE))
    assert {str(code) for kinds in listed.values() for code in kinds} | {"0"} == codes


def test_every_kind_of_record_is_in_the_reference() -> None:
    reference = text_of("docs/reference/journal.md")
    assert not [kind for kind in Kind.__args__ if f"| `{kind}` |" not in reference]  # type: ignore[attr-defined]


def test_every_decision_is_listed_and_short() -> None:
    folder = ROOT / "docs" / "decisions"
    decisions = sorted(path.name for path in folder.glob("[0-9]*.md"))
    assert sorted(re.findall(r"\((\d{4}-[\w-]+\.md)\)", text_of("docs/decisions/README.md"))) == decisions
    assert [name[:4] for name in decisions] == [f"{number:04d}" for number in range(1, len(decisions) + 1)]
    for name in decisions:
        assert len((folder / name).read_text(encoding="utf-8").splitlines()) <= 40, name


def test_fault_kinds_named_in_the_how_to_exist() -> None:
    assert {"dropped", "hang", "frozen", "stage_stuck", "stage_creep"} <= set(faults.KINDS)
