"""Records of a service: JSON lines that say which session and which frame they belong to, whoever made them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from daemon_doubles import Bench

from parfocal.daemon.logs import about_session, logs_to
from parfocal.daemon.loop import Loop


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_off_a_terminal_and_words_on_one() -> None:
    pipe, terminal = io.StringIO(), Terminal()
    for stream in (pipe, terminal):
        with logs_to(stream=stream):
            structlog.get_logger("here").info("it happened", z_um=1.5)
    record = json.loads(pipe.getvalue())
    assert (record["event"], record["z_um"], record["level"], record["logger"]) == ("it happened", 1.5, "info", "here")
    assert record["timestamp"].endswith("Z")
    assert "it happened" in terminal.getvalue()
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(terminal.getvalue())


def records_in(stream: io.StringIO) -> dict[str, dict[str, Any]]:
    return {(record := json.loads(line))["event"]: record for line in stream.getvalue().splitlines()}


def test_every_record_says_which_session_in_whatever_thread_and_from_whatever_library() -> None:
    stream = io.StringIO()
    with logs_to(stream=stream):
        structlog.get_logger().info("before")
        with about_session("20260101-night"):
            structlog.get_logger().info("own")
            logging.getLogger("pymmcore-plus").warning("theirs")
            threads = [
                threading.Thread(target=structlog.get_logger().info, args=("own, in a thread",)),
                threading.Thread(target=logging.getLogger("pymmcore-plus").warning, args=("theirs, in a thread",)),
            ]
            for thread in threads:
                thread.start()
                thread.join()
            structlog.get_logger().info("another", session="named")
        structlog.get_logger().info("after")
    found = records_in(stream)
    assert [found[name].get("session") for name in ("before", "after")] == [None, None]
    for name in ("own", "theirs", "own, in a thread", "theirs, in a thread"):
        assert found[name]["session"] == "20260101-night", name
    assert found["another"]["session"] == "named"


def test_the_loops_own_records_say_which_frame(make_loop: Callable[..., Loop]) -> None:
    stream = io.StringIO()

    def listener(step: Any) -> None:
        if step.frame.index == 2:
            structlog.get_logger().warning("own")
            logging.getLogger("theirs").warning("theirs")
            raise ValueError("a listener that breaks")

    loop = make_loop(Bench(), "session.max_frames=4", listeners=[listener])
    with logs_to(stream=stream), about_session("s"):
        asyncio.run(loop.run())
        structlog.get_logger().info("outside")
    found = records_in(stream)
    for name in ("own", "theirs", "listener.failed"):
        assert (found[name]["frame"], found[name]["session"]) == (2, "s"), name
    assert "frame" not in found["outside"]
