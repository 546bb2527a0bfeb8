"""Pausing: no light after it, whatever the interval, and a frame that somebody snaps never falls into another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from daemon_doubles import Bench

from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease
from parfocal.daemon.owner import Owner, ServingClock


def played(bench: Bench, play: Callable[[Owner], Awaitable[None]], *, interval_s: float | None = None) -> None:
    """Let the camera run, and do something meanwhile."""

    async def run() -> None:
        lease = BeamLease(300.0)
        owner = Owner(bench, DoseLedger(), lease, interval_s=interval_s)
        owner.start()
        await owner.open(10.0)
        lease.renew(owner.clock.now())
        owner.stream(True)
        try:
            await play(owner)
        finally:
            assert await owner.close(10.0)

    asyncio.run(run())


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def snaps(bench: Bench) -> int:
    return bench.log.count(("snap",))


def test_a_snap_waits_for_the_exposure_that_has_begun() -> None:
    """Served in the middle of it, it would ask a driver's generator for a frame that is at work on one."""
    bench = Bench(ServingClock(), exposure_ms=300)

    async def play(owner: Owner) -> None:
        await until(lambda: snaps(bench) == 1)
        owner.stream(False)
        taken = await owner.one(20.0)
        assert taken.frame.index == 1
        assert owner._slot is not None, "the frame that had begun was finished"
        assert taken.frame.start_s >= owner._slot.frame.end_s

    played(bench, play)


def test_settings_are_still_made_in_the_middle_of_an_exposure() -> None:
    bench = Bench(ServingClock(), exposure_ms=400)

    async def play(owner: Owner) -> None:
        await until(lambda: snaps(bench) == 1)
        await owner.set("z_um", 5.0, 20.0)
        assert owner.frames == 0
        owner.stream(False)
        asked = asyncio.create_task(owner.one(20.0))
        await asyncio.sleep(0.02)
        assert not asked.done()
        await asked

    played(bench, play)
    assert bench.sets == [("z_um", 5.0)]


@pytest.mark.parametrize("then", ["pause", "close"])
def test_between_two_beats_stopping_means_no_further_exposure(then: str) -> None:
    bench = Bench(ServingClock(), exposure_ms=1)

    async def play(owner: Owner) -> None:
        assert await owner.next(20.0) is not None
        await until(lambda: owner._between)
        if then == "close":
            assert await owner.close(10.0)
        else:
            owner.stream(False)
            await until(lambda: not owner._between)
            assert (await owner.one(20.0)).frame.index == 1, "and one that is asked for does not wait for the next beat"
            owner.stream(True)
            await until(lambda: owner._between)

    played(bench, play, interval_s=600.0)
    assert snaps(bench) == (1 if then == "close" else 2)
