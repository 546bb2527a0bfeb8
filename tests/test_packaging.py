"""The repository as a package: what it lists, what the wheel holds, which rooms know which, and what CI runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import parfocal

ROOT = Path(__file__).parents[1]
ROOMS = ("daemon", "drivers", "models", "policies", "simulator")
COMMANDS = ("pip install -e . && parfocal run", 'pip install -e ".[test]" && pytest')
NOT_SOURCE = shutil.ignore_patterns(
    ".*", "build", "dist", "*.egg-info", "__pycache__", "sessions", "runs", "tests", "docs", "benchmarks", "examples"
)


def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def folders() -> dict[str, str]:
    """Package name to folder, for every folder with an `__init__.py`."""
    found = {"parfocal": "."}
    for room in ROOMS:
        for init in (ROOT / room).rglob("__init__.py"):
            folder = init.parent.relative_to(ROOT)
            found[".".join(("parfocal", *folder.parts))] = folder.as_posix()
    return found


def sources() -> set[str]:
    """Every module of the checkout, as the wheel must name it."""
    return {"parfocal/__init__.py"} | {
        f"parfocal/{path.relative_to(ROOT).as_posix()}" for room in ROOMS for path in (ROOT / room).rglob("*.py")
    }


def test_the_list_of_packages_is_the_list_of_folders() -> None:
    tool = project()["tool"]["setuptools"]
    assert sorted(tool["packages"]) == sorted(folders())
    assert tool["package-dir"] == folders()


def test_every_module_lies_in_a_listed_package() -> None:
    listed = set(folders().values())
    homeless = [name for name in sources() if (Path(name).parent.relative_to("parfocal").as_posix()) not in listed]
    assert not homeless, "a folder without __init__.py is not shipped"


def test_no_other_module_lies_at_the_root() -> None:
    assert [path.name for path in ROOT.glob("*.py")] == ["__init__.py"]


def test_the_installed_package_has_every_module_of_the_checkout() -> None:
    # A strict editable install is a tree of links, which does not see a new file.
    home = Path(parfocal.__file__).parent
    missing = [name for name in sources() if not (home / Path(name).relative_to("parfocal")).is_file()]
    assert not missing, 'run `pip install -e ".[test]"` again: files were added since'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    copy = tmp_path_factory.mktemp("wheel") / "source"
    shutil.copytree(ROOT, copy, ignore=NOT_SOURCE)
    build = "import setuptools.build_meta as b; b.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def test_the_wheel_holds_the_package_and_nothing_else(wheel: list[str]) -> None:
    package = {name for name in wheel if ".dist-info/" not in name}
    data = {name for name in package if not name.endswith(".py")}
    assert package - data == sources()
    weights = {f"parfocal/models/weights/{path.name}" for path in (ROOT / "models/weights").iterdir()}
    assert {name for name in weights if name.endswith(".safetensors")}, "the shipped network has no weights"
    pages = {
        f"parfocal/{path.relative_to(ROOT).as_posix()}"
        for folder in ("daemon/report", "daemon/web/assets")
        for path in (ROOT / folder).iterdir()
        if path.is_file() and path.suffix != ".py"
    }
    assert data == {"parfocal/py.typed", "parfocal/config.yaml", "parfocal/drivers/sim.cfg"} | weights | pages
    info = {name.partition(".dist-info/")[2] for name in wheel if ".dist-info/" in name}
    assert {"METADATA", "entry_points.txt", "licenses/LICENSE"} <= info


def test_rooms_know_only_the_rooms_below_them() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_command_line_does_not_import_what_is_heavy() -> None:
    heavy = "torch pymmcore_plus scipy tensorstore openvino".split()
    program = f"import sys, parfocal.daemon.cli; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not done.stdout.split()


def test_ci_runs_what_the_readme_says_first() -> None:
    blocks = (ROOT / "README.md").read_text(encoding="utf-8").split("```sh\n")[1:]
    first = [block.partition("\n```")[0] for block in blocks]
    assert tuple(first[:2]) == COMMANDS
    lines = [line.strip() for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()]
    assert any(line.startswith(f"{COMMANDS[0]} --frames 150 --json") for line in lines)
    assert COMMANDS[1] in lines


def test_ci_can_be_run() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert script.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
