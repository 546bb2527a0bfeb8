"""What the loop knows of a session at its end, and of what others do to the microscope meanwhile."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon_doubles import Bench, Follow, noisy

from parfocal.daemon.intake import MOST_MISSHAPEN
from parfocal.daemon.journal import read_journal
from parfocal.daemon.loop import Loop
from parfocal.policies.base import Change, Hold

LoopMaker = Callable[..., Loop]


def records(loop: Loop, *kinds: Any) -> list[dict[str, Any]]:
    return list(read_journal(loop.session.folder / "journal.jsonl").of(*kinds))


def test_shadow_decides_and_records_but_commands_nothing(make_loop: LoopMaker) -> None:
    bench = Bench()
    loop = make_loop(bench, "session.max_frames=5", shadow=True)
    summary = asyncio.run(loop.run())
    assert bench.sets == []
    assert summary.actions == 4
    assert summary.travel_um == 0
    assert records(loop, "command") == []
    assert records(loop, "session")[0]["shadow"] is True


def test_the_summary_is_about_where_the_stage_was_left(make_loop: LoopMaker) -> None:
    detail = {"focus_z_um": 10.0, "defocus_um": -10.0, "defocus_sd_um": 0.5, "focused": 1.0, "positive": 0.0}
    go = Change({"z_um": 9.5}, "go there", detail)
    loop = make_loop(Bench(), "session.max_frames=2", "start={}", policy=Follow(script=[go]))
    summary = asyncio.run(loop.run())
    assert summary.settings["z_um"] == 9.5
    assert (summary.defocus_um, summary.defocus_sd_um) == (-0.5, 0.5)
    assert summary.truth_defocus_um == pytest.approx(-0.5)


def test_a_defocus_of_unknown_side_is_not_known(make_loop: LoopMaker) -> None:
    detail = {"focus_z_um": 10.0, "defocus_um": -10.0, "defocus_sd_um": 0.5, "positive": 0.5}
    loop = make_loop(Bench(), "session.max_frames=2", "start={}", policy=Follow(script=[Hold("wait", detail)]))
    assert asyncio.run(loop.run()).to_json()["final"]["defocus_um"] is None


def test_a_stage_moved_by_hand_is_where_its_frames_say(make_loop: LoopMaker) -> None:
    """The largest step counts from there, in shadow mode too, where somebody else moves."""
    bench = Bench()

    def pushed(index: int, defocus_um: float, shape: tuple[int, int]) -> Any:
        if index == 1:
            bench.values["z_um"] = 50.0  # behind the loop's back
        return noisy(index, defocus_um, shape)

    bench._make_pixels = pushed
    script = [Hold("watch"), Change({"z_um": 2.0}, "near where it was"), Change({"z_um": 52.0}, "near where it is")]
    settings = ["session.max_frames=4", "start={}", "limits={z_um: {max_step: 5}}"]
    loop = make_loop(bench, *settings, policy=Follow(script=script), shadow=True)
    summary = asyncio.run(loop.run())
    assert [record["accepted"] for record in records(loop, "verdict")] == [True, False, True]
    assert summary.settings["z_um"] == 50.0


def test_a_camera_that_changed_its_shape_for_good_ends_the_session(make_loop: LoopMaker) -> None:
    bench = Bench(make_pixels=lambda i, d, s: noisy(i, d, s if i < 3 else (32, 32)))
    loop = make_loop(bench, "session.max_frames=500", "start={}")
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code, summary.frames) == ("failed", 4, 3 + MOST_MISSHAPEN)
    assert "(32, 32)" in summary.error
    assert bench.safe


def test_a_dose_that_is_not_a_number_stops_the_camera(make_loop: LoopMaker) -> None:
    def fault(where: str, count: int) -> None:
        if (where, count) == ("snap", 2):
            bench.values["excitation_power"] = float("nan")

    bench = Bench(fault=fault)
    loop = make_loop(bench, "session.max_frames=50", "start={}", "limits={dose: {budget: 1000}}", policy=Follow())
    summary = asyncio.run(loop.run())
    assert (summary.outcome, summary.exit_code, summary.frames) == ("tripped", 5, 2)
    assert summary.to_json()["dose"] is None


def test_the_session_folder_holds_the_summary(make_loop: LoopMaker) -> None:
    loop = make_loop(Bench(), "session.max_frames=3")
    summary = asyncio.run(loop.run())
    content = json.loads((Path(summary.session) / "summary.json").read_text())
    assert content["frames"] == 3
    assert content["exit_code"] == 0
    assert json.loads((Path(summary.session) / "session.json").read_text())["simulated"] is True
