"""A run without a terminal: each decision that says something new is one line, and a stuck reader stops nothing."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import structlog

from parfocal.daemon.logs import logs_to
from parfocal.daemon.plainlog import REPORT_EVERY_S, Line, PlainLog
from parfocal.models.base import Assessment, Distribution
from parfocal.policies.base import Action, Change, Hold


def make_step(index: int, action: Action | None, time_s: float | None = None) -> Any:
    frame = SimpleNamespace(index=index, end_s=100 + (index if time_s is None else time_s), settings={"z_um": 1.0})
    verdict = SimpleNamespace(accepted=True, reason="")
    return SimpleNamespace(frame=frame, action=action, verdict=verdict, assessments=None)


def logged(*steps: Any) -> list[Line]:
    lines: list[Line] = []
    log = PlainLog(lines.append)
    for step in steps:
        log.listen(step)
    log.close()
    return lines


def test_holds_that_say_the_same_are_counted_and_moves_are_all_written() -> None:
    holds = [make_step(i, Hold(f"in focus: {i / 10} um"), i / 10) for i in range(5)]
    moves = [make_step(5 + i, Change({"z_um": 2.0}, "drift"), 0.5 + i / 10) for i in range(2)]
    lines = logged(*holds, make_step(9, None), *moves)
    assert [(line.frame, line.decision, line.repeats) for line in lines] == [
        (0, "hold", 0),
        (5, "move z_um to 2", 4),
        (6, "move z_um to 2", 0),
    ]
    assert "drift (and 4 like it before)" in lines[1].text()
    assert lines[0].time_s == 0.0


def test_a_long_hold_shows_a_sign_of_life() -> None:
    lines = logged(*(make_step(i, Hold("in focus"), float(i)) for i in range(int(REPORT_EVERY_S) + 2)))
    assert [line.time_s for line in lines] == [0.0, REPORT_EVERY_S]


def test_a_hold_with_a_new_reason_is_written() -> None:
    lines = logged(make_step(0, Hold("in focus")), make_step(1, Hold("the frame is blank")))
    assert [line.reason for line in lines] == ["in focus", "the frame is blank"]


def test_a_reader_that_takes_nothing_blocks_nobody() -> None:
    stuck = threading.Event()
    began = threading.Event()
    taken: list[Line] = []

    def slow(line: Line) -> None:
        taken.append(line)
        began.set()
        stuck.wait(30)

    log = PlainLog(slow)
    for index in range(1000):
        log.listen(make_step(index, Change({"z_um": float(index)}, "x")))
    assert began.wait(10)
    log.close(timeout_s=0.05)
    assert len(taken) == 1, "it is still busy with the first, and everybody else has gone on"
    stuck.set()


def test_a_reader_that_left_ends_the_writing_only() -> None:
    def gone(line: Line) -> None:
        raise BrokenPipeError

    log = PlainLog(gone)
    log.listen(make_step(0, Change({"z_um": 1.0}, "x")))
    log.close()
    log.listen(make_step(1, Change({"z_um": 1.0}, "x")))
    assert not log._thread.is_alive()


def test_records_of_both_kinds_arrive_as_json(tmp_path: Path) -> None:
    stream, recent = io.StringIO(), deque[str](maxlen=3)
    with logs_to(stream=stream, file=tmp_path / "log.jsonl", recent=recent):
        structlog.get_logger("a").info("small", z_um=1.5)
        logging.getLogger("pymmcore-plus").warning("device %s is slow", "Z")
        logging.getLogger("pymmcore-plus").debug("noise")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["event"], r["level"]) for r in records] == [("small", "info"), ("device Z is slow", "warning")]
    assert records[0]["z_um"] == 1.5
    stored = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert stored == ["small", "device Z is slow"]
    assert list(recent) == ["device Z is slow"]


def test_the_inner_place_wins_and_the_outer_comes_back() -> None:
    outer, inner = io.StringIO(), io.StringIO()
    with logs_to(stream=outer):
        with logs_to(stream=inner):
            structlog.get_logger("a").warning("one")
        structlog.get_logger("a").warning("two")
    assert "one" in inner.getvalue() and "one" not in outer.getvalue()
    assert "two" in outer.getvalue()


def test_exceptions_are_written_whole() -> None:
    stream = io.StringIO()
    with logs_to(stream=stream):
        try:
            raise ValueError("broken")
        except ValueError:
            structlog.get_logger("a").exception("failed")
    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


@pytest.mark.parametrize("z_um", [None, 1.0])
def test_a_line_without_defocus_says_nothing_of_it(z_um: float | None) -> None:
    assert "defocus" not in Line(0.0, 1, z_um, None, None, "hold", "why", 0).text()


@pytest.mark.parametrize(("known", "text"), [(True, "+16.500 (sd 1.100) um"), (False, "|16.500| (sd 1.100) um")])
def test_a_line_has_a_sign_only_where_the_side_is_known(known: bool, text: str) -> None:
    assert f" {text}" in Line(0.0, 1, 0.0, 16.5, 1.1, "hold", "why", 0, known).text()


@pytest.mark.parametrize(("signed", "text"), [(False, "defocus  |3.000|"), (True, "defocus   -3.000")])
def test_what_the_network_says_of_a_frame_has_a_sign_only_where_the_optics_tell_one(signed: bool, text: str) -> None:
    """A sweep, and a search by a score, believe nothing of their own; then the line shows the network's number."""
    grid = np.array([-3.0, 3.0])
    said = Assessment("defocus", -3.0, 0.5, distribution=Distribution(grid, np.array([0.5, 0.5]), signed))
    step = make_step(0, Change({"z_um": 2.0}, "plane 3 of 21"))
    step.assessments = {"defocus": said}
    (line,) = logged(step)
    assert text in line.text()


@pytest.mark.parametrize(("known", "defocus_um"), [(True, -16.5), (False, None)])
def test_a_program_is_told_a_defocus_only_where_the_side_is_known(known: bool, defocus_um: float | None) -> None:
    record = Line(0.0, 1, 0.0, -16.5, 1.1, "hold", "why", 0, known).to_json()
    assert (record["defocus_um"], record["distance_um"], record["side_known"]) == (defocus_um, 16.5, known)
    assert Line(0.0, 1, 0.0, None, None, "hold", "why", 0).to_json()["distance_um"] is None
