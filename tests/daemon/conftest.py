"""Fixtures of the daemon's tests: no facility file of this machine, no chatter, loops on the bench."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.session import Session
from parfocal.daemon.terms import Deadlines, Ending


def _load(name: str) -> Any:
    """Load a neighbour by its path: with import mode `importlib` the tests' folder is no place to import from."""
    module = sys.modules.get(name)
    if module is None:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("doubles.py"))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return module


_load("daemon_doubles")


@pytest.fixture(autouse=True)
def _no_facility(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PARFOCAL_FACILITY", raising=False)
    monkeypatch.setattr("parfocal.daemon.facility.FACILITY_FILE", tmp_path / "no-facility.yaml")


@pytest.fixture
def _quiet() -> Iterator[None]:
    with structlog.testing.capture_logs():
        yield


LoopMaker = Callable[..., Loop]


@pytest.fixture
def make_loop(tmp_path: Path, _quiet: None) -> LoopMaker:
    """Make a loop on the bench; configuration keys as strings, the rest as keywords."""

    def make(
        microscope: Any,
        *settings: str,
        scorer: Any = None,
        policy: Any = None,
        max_restarts: int = 3,
        timeout_s: float = 5.0,
        deadlines: Deadlines | None = None,
        **keywords: Any,
    ) -> Loop:
        doubles = _load("daemon_doubles")
        base = ["microscope.interval_ms=0", "session.record=none", f"session.folder={tmp_path}", *settings]
        config = load_config(None, base)
        terms = config.session
        policy = policy or doubles.Follow()
        return Loop(
            microscope,
            Decider(
                scorer or doubles.Reader(),
                lambda _: (policy, {"seed": 0}),
                timeout_s=timeout_s,
                max_restarts=max_restarts,
            ),
            Session.create(config),
            ending=Ending(terms.max_frames, terms.max_seconds, terms.until_focused, terms.focused_frames),
            deadlines=deadlines or Deadlines(frame_s=2.0, command_s=2.0, safe_s=0.5),
            **keywords,
        )

    return make
