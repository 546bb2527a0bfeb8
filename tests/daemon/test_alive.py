"""Alive for as long as the event loop answers and something with a deadline is waited for, and no longer."""

from __future__ import annotations

import asyncio
import time

import pytest

from parfocal.daemon.alive import kept_alive


def test_it_is_renewed_while_waiting_and_not_afterwards() -> None:
    times: list[float] = []

    async def run() -> int:
        with kept_alive(lambda: times.append(time.monotonic()), 0.01):
            while len(times) < 3:
                await asyncio.sleep(0.005)
        during = len(times)
        await asyncio.sleep(0.1)
        return during

    assert asyncio.run(run()) == len(times) >= 3


def test_what_needs_no_waiting_renews_nothing_and_an_error_ends_it() -> None:
    times: list[float] = []

    async def run() -> None:
        with kept_alive(lambda: times.append(0.0), 0.01):
            pass
        with pytest.raises(ValueError, match="inside"), kept_alive(lambda: times.append(0.0), 0.01):
            raise ValueError("inside")
        await asyncio.sleep(0.1)

    asyncio.run(run())
    assert times == []


def test_an_event_loop_that_hangs_is_not_alive() -> None:
    times: list[float] = []

    async def run() -> list[float]:
        with kept_alive(lambda: times.append(0.0), 0.01):
            time.sleep(0.2)
            return list(times)

    assert asyncio.run(run()) == []
