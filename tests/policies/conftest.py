"""Fixtures of the policies' tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def arena() -> ModuleType:
    """Give the module `arena.py` beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("policy_arena", Path(__file__).with_name("arena.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["policy_arena"] = module
    spec.loader.exec_module(module)
    return module
