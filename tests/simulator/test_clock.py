from __future__ import annotations

import pytest

from parfocal.simulator.clock import Clock, RealClock, VirtualClock


@pytest.mark.parametrize("clock", [RealClock(), VirtualClock(5.0)])
def test_both_are_clocks_and_never_go_back(clock: Clock) -> None:
    assert isinstance(clock, Clock)
    before = clock.now()
    for seconds in (-1.0, 0.0, 0.001):
        clock.sleep(seconds)
        assert clock.now() >= before
        before = clock.now()


def test_virtual_time_passes_only_by_sleeping() -> None:
    clock = VirtualClock(5.0)
    assert clock.virtual
    assert clock.now() == clock.now() == 5.0
    clock.sleep(3600.0)
    clock.sleep(-10.0)
    assert clock.now() == 3605.0


def test_real_clock_lets_at_least_that_long_pass() -> None:
    clock = RealClock()
    start = clock.now()
    clock.sleep(0.01)
    assert clock.now() - start >= 0.009
    assert not clock.virtual
