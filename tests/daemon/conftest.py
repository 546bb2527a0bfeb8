"""Fixtures of the daemon's tests: no facility file of this machine, no chatter, loops on the bench."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.journal import read_journal
from parfocal.daemon.loop import Loop
from parfocal.daemon.owner import ServingClock
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


class Live:
    """A loop that runs in a thread of its own, with a service to talk to it."""

    def __init__(self, loop: Loop, service: Any) -> None:
        self.loop, self.service = loop, service
        self.summary: Any = None
        self._thread = threading.Thread(target=self._run, name="live")
        self._thread.start()

    def _run(self) -> None:
        with structlog.testing.capture_logs():
            self.summary = asyncio.run(self.loop.run())
        self.service.end(self.summary)

    def until(self, state: str) -> None:
        """Wait until the session is in a state."""
        deadline = time.monotonic() + 20
        while self.loop.state.state.value != state:
            assert time.monotonic() < deadline, f"still {self.loop.state.state.value}, not {state}"
            time.sleep(0.005)

    def finish(self) -> Any:
        """End the session if it has not ended, and return its summary."""
        self.loop.request_stop("the test is over")
        self._thread.join(20)
        assert not self._thread.is_alive()
        self.service.close()
        return self.summary

    def records(self, *kinds: Any) -> list[dict[str, Any]]:
        """Return records of the journal."""
        return list(read_journal(self.loop.session.folder / "journal.jsonl").of(*kinds))


@pytest.fixture
def live(
    make_loop: LoopMaker, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Live]]:
    """Start a loop on the bench with a service: keywords of `make_loop`, and `section`, `allowed` of the service."""
    from parfocal.daemon.config_models import ServiceSection
    from parfocal.daemon.service.server import Service

    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
    doubles, started = _load("daemon_doubles"), []

    def start(*settings: str, section: Any = None, allowed: Any = None, **keywords: Any) -> Live:
        microscope = keywords.pop("microscope", None) or doubles.Bench(ServingClock(), exposure_ms=2)
        service = Service(section or ServiceSection(bind="tcp://127.0.0.1:*"), allowed)
        keywords.setdefault("policy", doubles.Follow(within_um=1e9))
        loop = make_loop(microscope, *settings, listeners=[service.listen], onlooker=service, **keywords)
        service.attach(loop.orders.submit)
        started.append(Live(loop, service))
        return started[-1]

    yield start
    for one in started:
        one.finish()
