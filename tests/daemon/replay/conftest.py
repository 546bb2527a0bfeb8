"""Sessions recorded on the bench: a real policy, a microscope whose focus drifts, virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench, Reader

from parfocal.daemon.choice import PolicyChoice
from parfocal.daemon.compose import policy_maker
from parfocal.daemon.config import load_config
from parfocal.daemon.decide import Decider
from parfocal.daemon.loop import Loop
from parfocal.daemon.session import Session
from parfocal.daemon.terms import Deadlines, Ending
from parfocal.simulator.clock import VirtualClock

SessionMaker = Callable[..., Path]
DRIFT_UM_PER_S = 0.05


class Drifting(Bench):
    """A bench whose focus goes off by itself."""

    def snap(self) -> Any:
        self.focus_um = 10.0 + DRIFT_UM_PER_S * self.clock.now()
        return super().snap()


@pytest.fixture
def record_session(tmp_path: Path) -> SessionMaker:
    """Record a session; configuration keys as strings, and what else a `Loop` takes as keywords."""

    def record(
        *settings: str,
        name: str = "session",
        frames: int = 40,
        microscope: Any = None,
        scorer: Any = None,
        each: Callable[[Loop, Any], None] | None = None,
        about: Mapping[str, Any] | None = None,
        **keywords: Any,
    ) -> Path:
        base = [f"session.folder={tmp_path}", "microscope.interval_ms=500", "session.record=none", *settings]
        config = load_config(None, [*base, f"session.max_frames={frames}"])
        choice = PolicyChoice(config, policy_maker)
        facts = {"optics": OPTICS, "simulated": True} | dict(about or {})
        session = Session.create(config, tmp_path / name, about=facts)

        def listen(step: Any) -> None:
            if each is not None:
                each(loop, step)

        loop = Loop(
            microscope or Drifting(VirtualClock()),
            Decider(scorer or Reader(), choice),
            session,
            ending=Ending(frames, None),
            deadlines=Deadlines(frame_s=5.0, command_s=5.0, safe_s=1.0),
            listeners=[listen],
            choice=choice,
            **keywords,
        )
        with structlog.testing.capture_logs():
            asyncio.run(loop.run())
        return session.folder

    return record


OPTICS = {"na": 0.75, "immersion_index": 1.0, "magnification": 20.0, "emission_um": 0.52, "pixel_um": 0.325}
