"""The dose ledger: power times exposure of every frame the camera exposed, and no frame that would be too much."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from daemon_doubles import Bench, Follow
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.dose import DoseLedger
from parfocal.daemon.loop import Loop
from parfocal.policies.base import Change

LoopMaker = Callable[..., Loop]


def test_dose_is_power_times_exposure() -> None:
    ledger = DoseLedger(budget=100.0)
    assert ledger.add({"excitation_power": 2.0, "exposure_ms": 10.0}, 99.0) == 20.0
    assert ledger.add({"excitation_power_pct": 3.0}, 10.0) == 50.0
    assert ledger.add({"excitation_power": -1.0, "exposure_ms": 10.0}, 99.0) == 50.0
    assert ledger.add({"excitation_power": 1.0, "excitation_power_2": 2.0, "exposure_ms": 2.0}, 99.0) == 56.0
    assert ledger.remaining == 44.0
    assert DoseLedger().remaining is None


def test_the_unit_is_the_users_or_follows_from_the_parameters() -> None:
    assert DoseLedger().resolve_unit({"z_um": 0}) == "ms"
    assert DoseLedger().resolve_unit({"excitation_power": 0}) == "power x ms"
    assert DoseLedger(unit="uJ").resolve_unit({"excitation_power": 0}) == "uJ"


def test_it_is_spent_before_one_more_frame_would_be_too_much() -> None:
    ledger = DoseLedger(budget=100.0)
    ledger.add({"exposure_ms": 30.0}, 99.0)
    ledger.add({"exposure_ms": 30.0}, 99.0)
    assert not ledger.exhausted
    ledger.add({"exposure_ms": 30.0}, 99.0)
    assert ledger.exhausted  # 90 and another 30
    ledger.expect({"exposure_ms": 10.0})
    assert not ledger.exhausted  # 90 and 10 are just what may be given
    assert not DoseLedger().exhausted


def test_the_first_frame_counts_before_it_is_taken() -> None:
    ledger = DoseLedger(budget=100.0)
    assert not ledger.exhausted  # nothing is known of the microscope yet
    ledger.expect({"exposure_ms": 20.0, "excitation_power": 5.0, "z_um": 3.0})
    assert not ledger.exhausted
    ledger.expect({"excitation_power": 5.1})
    assert ledger.exhausted
    assert ledger.spent == 0.0


def test_a_beam_raised_since_the_last_frame_counts_before_the_next() -> None:
    ledger = DoseLedger(budget=100.0)
    ledger.add({"exposure_ms": 10.0, "excitation_power": 1.0}, 99.0)
    ledger.expect({"excitation_power": 9.0})
    assert not ledger.exhausted
    ledger.expect({"excitation_power": 10.0})
    assert ledger.exhausted


def test_a_microscope_that_names_no_exposure_is_judged_by_its_last_frame() -> None:
    ledger = DoseLedger(budget=50.0)
    ledger.expect({"z_um": 1.0})
    ledger.add({"z_um": 1.0}, 30.0)
    assert ledger.next_frame == 30.0
    assert ledger.exhausted


@pytest.mark.parametrize("settings", [{"excitation_power": math.nan, "exposure_ms": 1.0}, {"exposure_ms": math.nan}])
def test_a_dose_that_is_not_a_number_is_too_much(settings: Mapping[str, float]) -> None:
    ledger = DoseLedger(budget=1e9)
    ledger.expect(settings)
    assert ledger.exhausted
    ledger = DoseLedger(budget=1e9)
    ledger.add(settings, 1.0)
    assert ledger.exhausted
    ledger.expect({"excitation_power": 1.0, "exposure_ms": 1.0})
    assert ledger.exhausted  # what was spent is not known any more


def test_frames_lost_on_the_way_were_exposed_too() -> None:
    ledger = DoseLedger()
    assert ledger.add({"exposure_ms": 10.0}, 99.0, frames=4) == 40.0
    assert ledger.next_frame == 10.0


POWERS = st.floats(0.0, 50.0)


@given(st.floats(1.0, 1000.0), st.lists(st.tuples(POWERS, st.floats(0.1, 100.0)), max_size=30))
def test_whoever_asks_before_every_frame_never_overdraws(budget: float, frames: list[tuple[float, float]]) -> None:
    ledger = DoseLedger(budget=budget)
    for power, exposure_ms in frames:
        ledger.expect({"excitation_power": power, "exposure_ms": exposure_ms})
        if ledger.exhausted:
            break
        ledger.add({"excitation_power": power, "exposure_ms": exposure_ms}, 0.0)
    assert ledger.spent <= budget


# -- through the loop and the thread that owns the microscope ---------------------------------------------------------


def run(make_loop: LoopMaker, bench: Any, *settings: str, **keywords: Any) -> Any:
    return asyncio.run(make_loop(bench, "session.max_frames=50", *settings, **keywords).run())


def test_no_frame_is_taken_if_the_first_would_be_too_much(make_loop: LoopMaker) -> None:
    bench = Bench(exposure_ms=10)
    settings = ("start={excitation_power: 2}", "limits.dose={budget: 19.9, unit: uJ}")
    summary = run(make_loop, bench, *settings, policy=Follow(within_um=1e9))
    assert (summary.outcome, summary.exit_code, summary.frames) == ("tripped", 5, 0)
    assert ("snap",) not in bench.log
    assert bench.values["excitation_power"] == 0.0
    assert "dose budget" in json.loads((Path(summary.session) / "summary.json").read_text())["error"]


def test_no_frame_is_taken_with_a_beam_that_was_raised_too_far(make_loop: LoopMaker) -> None:
    bench = Bench(exposure_ms=10)
    settings = ("start={excitation_power: 2}", "limits={dose: {budget: 100}, excitation_power: {lower: 0, upper: 50}}")
    policy = Follow(script=[Change({"excitation_power": 40.0}, "brighter")] * 50)
    summary = run(make_loop, bench, *settings, policy=policy)
    assert (summary.outcome, summary.exit_code) == ("tripped", 5)
    assert 0 < summary.dose <= 100.0


class Losing(Bench):
    """A camera of which every second frame never arrives."""

    def snap(self) -> Any:
        super().snap()
        return super().snap()


def test_frames_that_never_arrived_are_in_the_dose(make_loop: LoopMaker) -> None:
    bench = Losing(exposure_ms=10)
    summary = run(make_loop, bench, "start={excitation_power: 2}", "session.max_frames=3", policy=Follow(within_um=1e9))
    # 1, 3, 5 arrived, 2 and 4 are known to be missing; of what came before the first nobody knows.
    assert (summary.frames, summary.dose) == (3, 5 * 20.0)
