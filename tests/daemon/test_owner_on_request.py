"""Frames on request on a real clock: none that nobody waits for, and the beam lease is watched all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.guard import BeamLease, SafetyTripError
from parfocal.daemon.owner import Owner
from parfocal.drivers import make_microscope


def microscope() -> Any:
    return make_microscope("simulated_sted", {"simulation": {"size_px": 32, "overhead_ms": 0}})


def test_frames_are_taken_when_they_are_waited_for_and_not_before() -> None:
    async def run() -> tuple[int, int]:
        lease = BeamLease(30.0)
        owner = Owner(microscope(), ledger := DoseLedger(), lease, on_request=True)
        owner.start()
        await owner.open(10.0)
        lease.renew(owner.clock.now())
        owner.stream(True)
        await asyncio.sleep(0.3)
        before = owner.frames
        taken = await owner.next(10.0)
        await asyncio.sleep(0.2)
        assert taken is not None and ledger.spent >= 0
        await owner.close(5.0)
        return before, owner.frames

    assert asyncio.run(run()) == (0, 1)


def test_a_loop_that_does_not_answer_has_its_beams_switched_off() -> None:
    async def run() -> None:
        scope, lease = microscope(), BeamLease(0.2)
        owner = Owner(scope, DoseLedger(), lease, on_request=True)
        owner.start()
        await owner.open(10.0)
        lease.renew(owner.clock.now())
        await owner.set("excitation_power", 5.0, 5.0)
        owner.stream(True)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if scope.read()["excitation_power"] == 0.0:
                break
        assert scope.read()["excitation_power"] == 0.0
        with pytest.raises(SafetyTripError, match="did not answer"):
            await owner.next(5.0)
        with pytest.raises(SafetyTripError, match="did not answer"):
            await owner.set("excitation_power", 5.0, 5.0)
        await owner.close(5.0)

    asyncio.run(run())
