"""The guard: whatever a policy asks for, only what is within every limit goes through, unchanged or not at all."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from parfocal.daemon.config_models import Limit
from parfocal.daemon.guard import BeamLease, Guard, GuardState, Refusal, SafetyTripError, resolve_limits
from parfocal.drivers.base import Parameter
from parfocal.policies.base import Change, Finish, Hold

PARAMETERS = {
    "z_um": Parameter("z_um", "um", -200.0, 200.0),
    "excitation_power": Parameter("excitation_power", "mW", 0.0, 50.0, "beam"),
    "exposure_ms": Parameter("exposure_ms", "ms", 1.0, 100.0, "timing"),
}
LIMITS = {
    "z_um": Limit(lower=-100, upper=100, max_step=40, max_travel=100),
    "excitation_power": Limit(lower=0, upper=10),
}


def make(limits: Mapping[str, Limit] = LIMITS, *, lease_s: float | None = 1.0, max_refusals: int = 5) -> Guard:
    lease = BeamLease(1.0)
    if lease_s is not None:
        lease.renew(0.0)
    guard = Guard(limits, PARAMETERS, lease, max_refusals=max_refusals)
    guard.begin(0.0)
    return guard


def state(z: float = 0.0, power: float = 1.0, time_s: float = 0.5, **keywords: float) -> GuardState:
    return GuardState({"z_um": z, "excitation_power": power, "exposure_ms": 10.0}, time_s, **keywords)


@pytest.mark.parametrize(
    ("settings", "now", "refusal"),
    [
        ({"z_um": 10.0}, state(), None),
        ({"z_um": 100.0}, state(80.0), None),
        ({"z_um": 100.1}, state(80.0), Refusal.LIMIT),
        ({"z_um": -100.1}, state(-80.0), Refusal.LIMIT),
        ({"z_um": 40.0}, state(), None),
        ({"z_um": 40.1}, state(), Refusal.STEP),
        ({"z_um": math.nan}, state(), Refusal.NOT_FINITE),
        ({"z_um": math.inf}, state(), Refusal.NOT_FINITE),
        ({"z_um": True}, state(), Refusal.NOT_FINITE),
        ({"z_um": "10"}, state(), Refusal.NOT_FINITE),
        ({"z_um": 10.0}, state(math.nan), Refusal.NOT_FINITE),
        ({"y_um": 1.0}, state(), Refusal.UNKNOWN),
        ({"exposure_ms": 20.0}, state(), Refusal.UNKNOWN),  # the microscope has it, but nobody gave it limits
        ({"excitation_power": 2.0}, state(), None),
        ({"excitation_power": 2.0}, state(time_s=1.5), Refusal.LEASE),
        ({"excitation_power": 0.5}, state(time_s=1.5), None),  # down is always allowed
        ({"excitation_power": 11.0}, state(), Refusal.LIMIT),
        ({"z_um": 10.0}, state(anchor_s=0.1, settled_s=0.2), Refusal.STALE),
        ({"z_um": 10.0}, state(anchor_s=0.2, settled_s=0.2), None),
        ({"z_um": 10.0, "excitation_power": 11.0}, state(), Refusal.LIMIT),  # one wrong setting refuses both
    ],
)
def test_each_reason(settings: dict[str, float], now: GuardState, refusal: Refusal | None) -> None:
    verdict = make().check(Change(settings, "why"), now)
    assert verdict.refusal is refusal
    assert verdict.accepted is (refusal is None)
    assert dict(verdict.settings) == (settings if refusal is None else {})
    assert verdict.reason


def test_finish_is_judged_like_a_change_and_hold_needs_no_judge() -> None:
    guard = make()
    assert not guard.check(Finish({"z_um": 500.0}, "done"), state()).accepted
    assert guard.check(Finish({}, "done"), state()).accepted
    assert guard.check(Hold("doubt"), state()).accepted


def test_travel_adds_up_over_the_session_by_read_backs() -> None:
    guard = make()
    for z in (30.0, 0.0, 30.0):
        assert guard.check(Change({"z_um": z}, ""), state(30.0 - z)).accepted
        guard.commit("z_um", 30.0 - z, z, 0.5)
    assert guard.travel["z_um"] == 90.0
    assert guard.check(Change({"z_um": 40.0}, ""), state(30.0)).accepted
    assert guard.check(Change({"z_um": 19.0}, ""), state(30.0)).refusal is Refusal.TRAVEL


def test_rate_is_the_step_over_the_time_since_the_last_change() -> None:
    guard = make({"z_um": Limit(lower=-100, upper=100, max_rate=10)})
    assert guard.check(Change({"z_um": 5.0}, ""), state(time_s=0.4)).refusal is Refusal.RATE
    assert guard.check(Change({"z_um": 5.0}, ""), state(time_s=0.5)).accepted
    guard.commit("z_um", 0.0, 5.0, 0.5)
    assert guard.check(Change({"z_um": 6.0}, ""), state(5.0, time_s=0.55)).refusal is Refusal.RATE
    assert guard.check(Change({"z_um": 6.0}, ""), state(5.0, time_s=0.6)).accepted


def test_refusals_in_a_row_trip_and_an_accepted_action_forgives() -> None:
    guard = make(max_refusals=3)
    bad, good = Change({"z_um": 500.0}, ""), Change({"z_um": 1.0}, "")
    for _ in range(2):
        guard.check(bad, state())
    guard.check(good, state())
    for _ in range(2):
        guard.check(bad, state())
    with pytest.raises(SafetyTripError, match="3 actions in a row") as caught:
        guard.check(bad, state())
    assert caught.value.exit_code == 5
    assert guard.refused == 5


def test_refusals_that_waiting_cures_do_not_trip() -> None:
    guard = make(max_refusals=2)
    for _ in range(10):
        assert guard.check(Change({"z_um": 1.0}, ""), state(anchor_s=0.0, settled_s=1.0)).refusal is Refusal.STALE


def test_limits_are_completed_by_the_device_and_checked_against_it() -> None:
    endless = Parameter("z_um", "um", -math.inf, math.inf)
    limits, problems = resolve_limits({"z_um": Limit(upper=500), "y_um": Limit()}, PARAMETERS)
    assert (limits["z_um"].lower, limits["z_um"].upper) == (-200, 200)
    assert (limits["exposure_ms"].lower, limits["exposure_ms"].upper) == (1, 100)
    assert problems == [
        "limits.y_um: this microscope has no such parameter (it has excitation_power, exposure_ms, z_um)"
    ]
    assert resolve_limits({}, {"z_um": endless}) == ({}, [])
    assert "lower and upper must be given" in resolve_limits({"z_um": Limit(max_step=1)}, {"z_um": endless})[1][0]
    assert "leaves nothing" in resolve_limits({"z_um": Limit(lower=300)}, PARAMETERS)[1][0]


@settings(max_examples=300)
@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    z=st.floats(-200, 200) | st.just(math.nan),
    step=st.floats(0.1, 100) | st.none(),
    bounds=st.tuples(st.floats(-300, 300), st.floats(-300, 300)).filter(lambda b: b[0] < b[1]),
)
def test_no_float_gets_through_outside_a_limit(
    value: float, z: float, step: float | None, bounds: tuple[float, float]
) -> None:
    guard = make({"z_um": Limit(lower=bounds[0], upper=bounds[1], max_step=step)})
    verdict = guard.check(Change({"z_um": value}, ""), state(z))
    if verdict.accepted:
        assert verdict.settings["z_um"] == value  # never changed
        assert max(bounds[0], -200) <= value <= min(bounds[1], 200)
        assert step is None or abs(value - z) <= step * (1 + 1e-6)
    else:
        assert not verdict.settings


class AnyPolicy(RuleBasedStateMachine):
    """Whatever is asked, in whatever order: the stage stays within limits and travel, the beam within its lease."""

    def __init__(self) -> None:
        super().__init__()
        self.lease = BeamLease(1.0)
        self.guard = Guard(LIMITS, PARAMETERS, self.lease, max_refusals=10**9)
        self.now, self.travelled = 0.0, 0.0
        self.values = {"z_um": 0.0, "excitation_power": 0.0}
        self.guard.begin(0.0)

    @rule(seconds=st.floats(0, 2))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def renew(self) -> None:
        self.lease.renew(self.now)

    @rule(name=st.sampled_from(["z_um", "excitation_power", "nonsense"]), value=st.floats() | st.floats(-110, 110))
    def ask(self, name: str, value: float) -> None:
        verdict = self.guard.check(Change({name: value}, ""), GuardState(self.values, self.now))
        for key, accepted in verdict.settings.items():
            if key == "excitation_power" and accepted > self.values[key]:
                assert self.lease.valid(self.now)
            if key == "z_um":
                assert abs(accepted - self.values[key]) <= 40 * (1 + 1e-6)
                self.travelled += abs(accepted - self.values[key])
            self.guard.commit(key, self.values[key], accepted, self.now)
            self.values[key] = accepted

    @invariant()
    def within(self) -> None:
        assert -100 <= self.values["z_um"] <= 100
        assert 0 <= self.values["excitation_power"] <= 10
        assert self.travelled <= 100 * (1 + 1e-6)


TestAnyPolicy = AnyPolicy.TestCase
TestAnyPolicy.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
