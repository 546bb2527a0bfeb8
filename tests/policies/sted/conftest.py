"""Fixtures of the STED policies' tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def bench() -> ModuleType:
    """Give the module `bench_scope.py` beside this file (tests are not a package)."""
    spec = importlib.util.spec_from_file_location("sted_bench_scope", Path(__file__).with_name("bench_scope.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["sted_bench_scope"] = module
    spec.loader.exec_module(module)
    return module
