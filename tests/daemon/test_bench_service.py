"""The service's table, small: every row measures what it says, and would show it if it were otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from parfocal.daemon import bench_service
from parfocal.daemon.service.auth import AllowList, User
from parfocal.daemon.service.keys import daemon_key, new_key

pytestmark = pytest.mark.slow


def test_commands_are_answered_while_the_loop_runs() -> None:
    what, measured, _ = bench_service.commands(15)
    frames = int(re.search(r"(\d+) frames", what).group(1))  # type: ignore[union-attr]
    assert frames > 15
    assert len(re.findall(r"(status|set|resume): p50 [\d.]+, p99 [\d.]+ ms", measured)) == 3


def test_living_subscribers_miss_nothing_beside_stopped_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_service, "SUBSCRIBERS", 6)
    monkeypatch.setattr(bench_service, "STOPPED", 2)
    _, measured, _ = bench_service.subscribers(1.0)
    missed, steps = (int(text) for text in re.search(r"(\d+) of (\d+) decisions missed by the 4", measured).groups())  # type: ignore[union-attr]
    assert missed == 0
    assert steps > 40


def test_strangers_are_all_refused() -> None:
    _, measured, _ = bench_service.strangers(400)
    assert measured.startswith("0 accepted of 406 ")
    assert "loop went on" in measured
    for code in ("malformed", "stale", "role", "repeated", "unknown_key"):
        assert re.search(rf"\d+ {code}", measured), measured


def test_a_stranger_who_got_in_would_be_counted(tmp_path: Path) -> None:
    """Eve on the list: the row would say so."""
    keys = {who: new_key(tmp_path, who, role)[1] for who, role in bench_service.ROLES.items()}
    server = daemon_key(tmp_path)
    users = {key.public: User(who, key.role) for who, key in keys.items()}
    allowed = AllowList(server.public.encode(), server.secret.encode(), users)
    with bench_service.running(allowed=allowed) as live:
        address, publish = bench_service.address_of(live), bench_service.publish_of(live)
        found = bench_service.peer("flood", address, publish, str(tmp_path), "20")
    assert found["accepted"] == 3
