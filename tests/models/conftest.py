"""Fixtures of the models' tests: a plugin distribution whose models misbehave on demand."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def _plugin_models() -> object:
    # Under --import-mode=importlib test folders are not on the path, and must not be.
    spec = importlib.util.spec_from_file_location("plugin_models", Path(__file__).with_name("plugin_models.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Put the plugin on the path, for this process and those it spawns."""
    folder: Path = _plugin_models().install(tmp_path_factory.mktemp("plugin"))  # type: ignore[attr-defined]
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("parfocal_plugin_for_tests", None)
