"""Reading ahead keeps order and errors, holds a few items at a time, and ends with whoever wants them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from parfocal.daemon.readahead import read_ahead


def test_everything_comes_in_order_from_another_thread() -> None:
    def threads() -> Iterator[tuple[int, str]]:
        for index in range(5):
            yield index, threading.current_thread().name

    assert list(read_ahead(threads())) == [(index, "read-ahead") for index in range(5)]


def test_an_error_comes_in_its_place() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("disk")

    ahead = read_ahead(failing())
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="disk"):
        next(ahead)


def test_no_more_than_one_waits_and_the_thread_ends_with_its_consumer() -> None:
    made = 0
    closed = threading.Event()

    def endless() -> Iterator[int]:
        nonlocal made
        try:
            while True:
                made += 1
                yield made
        finally:
            closed.set()

    ahead = read_ahead(endless())
    assert next(ahead) == 1
    for _ in range(20):
        time.sleep(0.005)
    assert made <= 3
    ahead.close()  # type: ignore[attr-defined]
    assert closed.wait(5.0)


def test_nothing_is_nothing() -> None:
    assert list(read_ahead(iter(()))) == []
