"""No configuration, and no suggestion however wild, makes a policy ask for what it must not."""

from __future__ import annotations

import itertools
import math
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parfocal.policies import make_policy
from parfocal.policies.sted.audit import audit, random_options
from parfocal.policies.sted.fields import field_at, spiral
from parfocal.policies.sted.safety import Envelope, dimmest
from parfocal.policies.sted.space import Space

BOX = {"excitation_power": (0.1, 10.0), "depletion_power": (0.0, 300.0), "dwell_us": (1.0, 60.0)}


def test_no_request_is_over_a_limit_in_random_configurations_with_wild_suggestions() -> None:
    found = audit(300, seed=1)
    assert found.requests > 2000
    assert found.trials > 500
    assert found.over == []


def test_the_audit_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "parfocal.policies.sted.base.StedPolicy._may",
        lambda self, s: all(math.isfinite(v) and v > 0 for v in s.values()),
    )
    over = audit(60, seed=1).over
    assert any("outside" in problem for problem in over)
    assert any("dose" in problem for problem in over)


def test_the_audit_sees_many_kinds_of_configuration() -> None:
    rng = np.random.default_rng(0)
    many = [random_options(rng) for _ in range(200)]
    for key in ("max_step", "dose_budget", "start", "confocal"):
        share = np.mean([bool(options.get(key)) for options in many])
        assert 0.1 < share < 0.9, key


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dose=st.floats(0.1, 600), depletion=st.floats(0.1, 18000), factor=st.floats(1.2, 20), rate=st.floats(0.5, 40),
    seen=st.lists(st.tuples(st.floats(0, 300), st.floats(0.01, 30)), max_size=8),
    bad=st.lists(st.floats(1, 1e5), max_size=3),
)  # fmt: skip
def test_the_envelope_keeps_its_word(
    dose: float, depletion: float, factor: float, rate: float, seen: list[tuple[float, float]], bad: list[float]
) -> None:
    space = Space.of(BOX)
    envelope = Envelope(factor, rate, dose, depletion, list(bad), list(seen))
    rows = space.candidates(256, [1])
    for row in rows[envelope.allowed(space, rows)]:
        power, beam, dwell = row
        assert power * dwell <= factor * dose * 1.002
        assert beam * dwell <= factor * depletion * 1.002
        assert all(power * dwell * (beam + 5) ** 0.73 < value for value in bad)
        weaker = [value for at, value in seen if at <= beam]
        if weaker:
            assert power * min(weaker) <= rate  # what was seen with less depletion
        elif seen:
            assert power * max(value for _, value in seen) <= rate
    again = Envelope.from_json(envelope.to_json())
    assert (again.allowed(space, rows) == envelope.allowed(space, rows)).all()


def test_a_saturated_frame_at_least_halves_the_excitation() -> None:
    space, envelope = Space.of(BOX), Envelope(1e9, 15.0, 1.0, 1.0)
    envelope.note_rate({"excitation_power": 4.0, "depletion_power": 100.0}, 14.0, saturated=True)
    rows = np.array([[power, 100.0, 1.0] for power in (0.5, 1.0, 1.3, 2.0, 4.0)])
    assert envelope.allowed(space, rows).tolist() == [True, True, True, False, False]


def test_the_dimmest_is_the_least_of_everything() -> None:
    assert dimmest(Space.of(BOX | {"line_steps": (1, 8)})) == {
        "excitation_power": 0.1, "depletion_power": 0.0, "dwell_us": 1.0, "line_steps": 1.0,
    }  # fmt: skip


def test_line_steps_are_whole_also_where_the_bounds_are_not() -> None:
    box = {"excitation_power": (0.1, 10.0), "dwell_us": (1.0, 100.0)}
    space = Space.of(box | {"line_steps": (0.0, 3.5)})
    assert space.settings(space.from_unit(np.ones(space.size))[0])["line_steps"] == 3.0
    assert "line_steps" not in Space.of(box | {"line_steps": (0.0, 1.5)}).names  # one alone: nothing to choose


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_settings_survive_naming_and_the_unit_cube(data: Any) -> None:
    bounds = {}
    for name, top in (
        ("excitation_power", 100.0),
        ("depletion_power", 1000.0),
        ("dwell_us", 200.0),
        ("line_steps", 25.0),
    ):
        low = data.draw(st.floats(0.0, top / 2))
        bounds[name] = (low, data.draw(st.floats(max(low * 1.01, 1.5), top)))
    if math.ceil(bounds["line_steps"][0]) > bounds["line_steps"][1]:
        bounds["line_steps"] = (1.0, 1.0)
    space = Space.of(bounds)
    row = space.from_unit(np.array([data.draw(st.floats(0, 1)) for _ in space.names]))
    named = space.settings(row[0])
    for name, value in named.items():
        assert bounds[name][0] <= value <= bounds[name][1]
        if name == "line_steps":
            assert value == int(value)
    assert space.from_unit(space.unit(row)) == pytest.approx(row, rel=1e-6)


def test_fields_are_each_visited_once_neighbours_after_one_another() -> None:
    places = list(spiral())
    assert len(set(places)) == len(places) == 51 * 51
    assert all(abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1 for a, b in itertools.pairwise(places))


def test_fields_keep_to_bounds_and_to_the_axes_there_are() -> None:
    origin, bounds = {"x_um": 0.0, "y_um": 0.0}, {"x_um": (0.0, 4.0), "y_um": (0.0, 2.0)}
    found = [field_at(number, origin, 2.0, bounds) for number in range(7)]
    assert found[6] is None
    assert {tuple(place.values()) for place in found[:6] if place} == {(x, y) for x in (0, 2, 4) for y in (0, 2)}
    assert field_at(3, {"x_um": 1.0}, 2.0, {}) == {"x_um": pytest.approx(-1.0)} or field_at(3, {"x_um": 1.0}, 2.0, {})
    assert set(field_at(3, {"x_um": 1.0}, 2.0, {}) or {}) == {"x_um"}
    assert field_at(99, {}, 2.0, {}) == {}
    assert field_at(99, origin, 0.0, {}) == {}


@pytest.mark.parametrize("name", ["sted.thompson", "sted.random", "sted.fixed"])
def test_unguided_policies_keep_the_limits_too(bench: ModuleType, name: str) -> None:
    bounds = {"excitation_power": [0.2, 3.0], "depletion_power": [0, 90.0], "dwell_us": [2.0, 30.0]}
    scope, policy = bench.Scope(), make_policy(name, {"bounds": bounds, "max_images": 6, "max_rate_mhz": 9.0})
    bench.drive(policy, scope)
    assert len(policy.trials) == 6
    for request in scope.requests:
        for key, (low, high) in bounds.items():
            assert low <= request.get(key, low) <= high
    assert all(t.outcome.rate_mhz <= 9.0 for t in policy.trials if t.outcome is not None)
