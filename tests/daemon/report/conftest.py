"""Sessions to report on: the fixtures of the replay."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any


def _load() -> Any:
    name = "replay_sessions"
    if name not in sys.modules:
        path = Path(__file__).parents[1] / "replay" / "conftest.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


record_session = _load().record_session
