"""What the speed and latency tables count and compare; never how long anything takes."""

from __future__ import annotations

import math
from argparse import Namespace
from collections import deque
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parfocal.daemon import bench_speed
from parfocal.daemon.bench_speed import Latencies, Timed, timed

SMALL = ("microscope.simulation.size_px=128", "session.max_frames=6", "session.max_seconds=null", "microscope.seed=1")


def test_a_call_is_timed_after_it_has_warmed_up() -> None:
    calls: list[int] = []
    took = timed(lambda: calls.append(1), 5)
    assert len(calls) == 6
    assert 0 <= took.least <= took.median


def step(latency_ms: float, *, accepted: bool = True, settings: dict[str, float] | None = None) -> Any:
    return SimpleNamespace(latency_ms=latency_ms, verdict=SimpleNamespace(accepted=accepted, settings=settings or {}))


def test_the_disks_share_is_taken_off_frames_that_command_only() -> None:
    found = Latencies()
    found.note(step(3.0, settings={"z_um": 1.0}), 2.0)
    found.note(step(1.0), 2.0)
    found.note(step(0.5, accepted=False, settings={"z_um": 1.0}), 2.0)
    found.note(step(math.nan), 2.0)
    assert list(found.all_ms) == [3.0, 1.0, 0.5]
    assert list(found.commanding_ms) == [3.0]
    assert list(found.without_disk_ms) == [1.0]


def test_a_sweep_commands_and_waits_for_the_disk_every_time() -> None:
    sweep = ("policy.name=focus.sweep", "scoring.models=[sharpness]", "policy.range_um=5", "policy.step_um=0.5")
    found = bench_speed._latencies([*SMALL, *sweep])
    assert len(found.commanding_ms) >= 4
    for with_disk, without in zip(found.commanding_ms, found.without_disk_ms, strict=True):
        assert 0 < without < with_disk


def test_the_latency_table_has_a_row_a_policy_and_the_disks_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def latencies(overrides: Any) -> Latencies:
        asked.append(list(overrides))
        return Latencies(deque([1.0, 2.0]), deque([2.0]), deque([0.5]))

    monkeypatch.setattr(bench_speed, "_latencies", latencies)
    table = bench_speed.loop_latency(Namespace(seed=7))
    assert [len(row) for row in table["rows"]] == [len(table["columns"])] * 4
    assert table["rows"][0][:7] == ["focus.belief", 2, 1, 1.0, 2.0, 2.0, 2.0]
    assert table["rows"][-1][5] > 0
    assert all("microscope.seed=7" in overrides for overrides in asked)


def test_the_speed_table_compares_like_with_like(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_speed, "_frame", lambda side, seed: np.zeros((side, side), dtype=np.uint16))
    monkeypatch.setattr(bench_speed, "timed", lambda call, repeats: Timed(60.0, 50.0, 40.0))
    monkeypatch.setattr(bench_speed, "_compact", lambda frame: (Timed(2.0, 1.0, 4.0), "here"))
    monkeypatch.setattr(bench_speed, "_simulator", lambda seed: Timed(9.0, 8.0, 7.0))
    table = bench_speed.speed(Namespace(seed=7))
    assert [len(row) for row in table["rows"]] == [len(table["columns"])] * 3
    assert table["rows"][1][1:] == [2.0, 1.0, 4.0, 60.0, 50.0, 40.0, 30.0, 50.0, 10.0]
