"""Saying that the loop is alive, while it waits for something that has a deadline of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def kept_alive(renew: Callable[[], None], every_s: float) -> Iterator[None]:
    """Within, have the event loop call `renew` every so often, for as long as its thread answers.

    Only for waits that end by themselves: what waits for ever must not look alive.

    Parameters
    ----------
    renew : callable
        Renews the beam lease.
    every_s : float
        Well within the lease.
    """
    events = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []

    def again() -> None:
        renew()
        timers[:] = [events.call_later(every_s, again)]

    timers.append(events.call_later(every_s, again))
    try:
        yield
    finally:
        timers[-1].cancel()
