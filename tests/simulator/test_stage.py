from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.simulator.stage import StageLimitError, StageParameters, ZStage

PLAIN = StageParameters(speed_um_per_s=100.0, settle_ms=40.0, quantum_um=0.0)


def test_a_move_takes_the_ramp_and_the_settling() -> None:
    stage = ZStage(PLAIN)
    rests_at_s = stage.move_to(10.0, 5.0)
    assert rests_at_s == pytest.approx(5.0 + 0.1 + 0.04)
    assert stage.position_um(5.0) == 0.0
    assert stage.busy(5.0)
    assert stage.busy(rests_at_s - 1e-6)
    assert not stage.busy(rests_at_s)
    assert stage.position_um(rests_at_s) == 10.0


def test_settling_is_exponential_without_overshoot() -> None:
    stage = ZStage(PLAIN)
    stage.move_to(10.0, 0.0)
    track = [stage.position_um(t / 1000) for t in range(141)]
    assert all(later >= earlier for earlier, later in pairwise(track))
    assert track[50] == pytest.approx(100.0 * (0.050 - 0.005), abs=0.01)  # the lag behind the ramp is one time constant
    ratio = (10.0 - track[115]) / (10.0 - track[110])
    assert ratio == pytest.approx(math.exp(-1.0), rel=1e-6)
    assert 10.0 - track[139] < 1e-3


def test_a_new_command_starts_from_where_the_stage_is() -> None:
    stage = ZStage(PLAIN)
    stage.move_to(10.0, 0.0)
    there = stage.position_um(0.05)
    assert 0 < there < 10
    rests_at_s = stage.move_to(there, 0.05)
    assert rests_at_s == 0.05
    stage.move_to(-10.0, 0.06)
    assert stage.position_um(0.06) == there


def test_stop_stays_where_it_is() -> None:
    stage = ZStage(PLAIN)
    stage.move_to(10.0, 0.0)
    there = stage.position_um(0.05)
    stage.stop(0.05)
    stage.stop(0.05)
    assert not stage.busy(0.05)
    assert stage.position_um(100.0) == there


def test_backlash_loop() -> None:
    stage = ZStage(StageParameters(backlash_um=2.0, settle_ms=0.0, quantum_um=0.0))

    def at_rest(z_um: float, t_s: float) -> float:
        stage.move_to(z_um, t_s)
        assert stage.position_um(t_s + 0.5) == z_um
        return stage.sample_um(t_s + 0.5)

    up = [at_rest(float(z), z) for z in range(0, 11)]
    down = [at_rest(float(z), 20 - z) for z in range(10, -1, -1)]
    assert up == [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9]  # the first um takes up the half of the play that it starts in
    assert down == [9, 9, 9, 8, 7, 6, 5, 4, 3, 2, 1]  # then all of it on reversal
    assert at_rest(-5.0, 30.0) == -4.0
    assert at_rest(0.0, 31.0) == -1.0


def test_without_backlash_the_sample_follows_the_encoder() -> None:
    stage = ZStage(PLAIN)
    stage.move_to(10.0, 0.0)
    assert all(stage.sample_um(t / 100) == stage.position_um(t / 100) for t in range(20))


def test_targets_are_whole_steps() -> None:
    stage = ZStage(StageParameters(quantum_um=0.25))
    stage.move_to(3.14, 0.0)
    assert stage.target_um == 3.25
    stage.move_to(3.12, 10.0)
    assert stage.target_um == 3.0


def test_rounding_never_leaves_the_limits() -> None:
    stage = ZStage(StageParameters(lower_um=-1.0, upper_um=1.0, quantum_um=0.6))
    stage.move_to(1.0, 0.0)
    assert stage.target_um == pytest.approx(0.6)
    stage.move_to(-1.0, 10.0)
    assert stage.target_um == pytest.approx(-0.6)


@pytest.mark.parametrize("z_um", [100.0001, -1e9, float("nan"), float("inf"), float("-inf")])
def test_outside_the_limits_is_refused_and_nothing_moves(z_um: float) -> None:
    stage = ZStage(PLAIN)
    stage.move_to(1.0, 0.0)
    with pytest.raises(StageLimitError, match="nothing moved"):
        stage.move_to(z_um, 10.0)
    assert stage.target_um == 1.0
    assert stage.position_um(1000.0) == 1.0


def test_time_does_not_go_back() -> None:
    stage = ZStage(PLAIN)
    stage.move_to(1.0, 10.0)
    for call in (lambda: stage.move_to(2.0, 9.0), lambda: stage.position_um(9.0), lambda: stage.stop(9.0)):
        with pytest.raises(UsageError, match="before its last command"):
            call()
    with pytest.raises(UsageError):
        stage.position_um(float("nan"))


@pytest.mark.parametrize(
    "changes",
    [
        {"lower_um": 5.0, "upper_um": 5.0},
        {"speed_um_per_s": 0.0},
        {"settle_ms": -1.0},
        {"backlash_um": float("nan")},
        {"lower_um": 0.1, "upper_um": 0.2, "quantum_um": 1.0},
    ],
)
def test_impossible_stages_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="stage"):
        StageParameters(**changes)


Commands = st.lists(
    st.tuples(
        st.floats(-60, 60) | st.sampled_from([float("nan"), float("inf"), -50.0, 50.0]),
        st.floats(0, 0.2),
        st.sampled_from(["move", "move", "stop"]),
    ),
    max_size=25,
)


@given(
    Commands,
    st.floats(1, 1e4),
    st.floats(0, 50),
    st.floats(0, 5),
    st.sampled_from([0.0, 0.01, 0.3, 7.0]),
)
@settings(max_examples=150, deadline=None)
def test_never_outside_the_limits_never_nan(
    commands: list[tuple[float, float, str]], speed: float, settle_ms: float, backlash_um: float, quantum_um: float
) -> None:
    stage = ZStage(StageParameters(-50.0, 50.0, speed, settle_ms, backlash_um, quantum_um))
    now_s = 0.0
    for z_um, wait_s, what in commands:
        if what == "stop":
            stage.stop(now_s)
        elif math.isfinite(z_um) and -50 <= z_um <= 50:
            rests_at_s = stage.move_to(z_um, now_s)
            assert abs(stage.target_um - z_um) <= quantum_um + 1e-9
            assert stage.position_um(max(rests_at_s, now_s)) == stage.target_um
        else:
            with pytest.raises(StageLimitError):
                stage.move_to(z_um, now_s)
        for part in (0.0, 0.3, 1.0):
            position, sample = stage.position_um(now_s + part * wait_s), stage.sample_um(now_s + part * wait_s)
            assert -50.0 <= position <= 50.0
            assert abs(sample - position) <= backlash_um / 2 + 1e-9
            assert -50.0 - 1e-9 <= sample <= 50.0 + 1e-9
        now_s += wait_s
