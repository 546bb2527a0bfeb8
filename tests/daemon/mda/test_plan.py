"""Where an event belongs, for plans of every kind."""

from __future__ import annotations

from typing import Any

import pytest
import useq
from hypothesis import given
from hypothesis import strategies as st

from parfocal.daemon.mda.plan import Plan


def places(sequence: Any, start_um: float = 3.0, channels: Any = None, planes: Any = "all") -> list[Any]:
    plan = Plan(start_um, channels, planes)
    return [plan.place(event) for event in sequence]


@pytest.mark.parametrize(
    ("given_plan", "references"),
    [
        ({"stage_positions": [{"z": 10.0}, {"z": 12.0}], "z_plan": {"range": 4, "step": 2}}, {10.0, 12.0}),
        ({"stage_positions": [{"x": 0, "y": 0}], "channels": ["A"]}, {3.0}),
        ({"stage_positions": [{"x": 0, "y": 0}], "z_plan": {"range": 4, "step": 2}}, {0.0}),
        ({"z_plan": {"bottom": 1, "top": 5, "step": 1}, "channels": ["A"]}, {3.0}),
        ({"stage_positions": [{"z": 9.0}], "channels": ["A"]}, {9.0}),
        (
            {"stage_positions": [{"z": 9.0, "sequence": {"z_plan": {"range": 2, "step": 1}}}, {"z": 5.0}]},
            {9.0, 5.0},
        ),
    ],
)
def test_the_reference_is_the_positions_own_z(given_plan: dict[str, Any], references: set[float]) -> None:
    sequence = useq.MDASequence(**given_plan)
    found = places(sequence)
    assert {place.reference_um for place in found} == references
    for event, place in zip(sequence, found, strict=True):
        assert place.planned_um == (3.0 if event.z_pos is None else event.z_pos)


def test_planes_and_channels_of_one_stay_belong_together() -> None:
    sequence = useq.MDASequence(
        axis_order="tpcz", time_plan={"interval": 0, "loops": 2}, stage_positions=[{"z": 0.0}, {"z": 1.0}],
        channels=["A", "B"], z_plan={"range": 2, "step": 1},
    )  # fmt: skip
    found = places(sequence, planes="middle")
    assert [place.visit for place in found] == [1 + n // 6 for n in range(24)]
    assert [place.position for place in found] == ([0] * 6 + [1] * 6) * 2
    assert [n for n, place in enumerate(found) if place.scored] == [1, 7, 13, 19], "first channel, middle plane"


def test_events_from_a_generator_have_the_first_z_for_reference() -> None:
    events = [useq.MDAEvent(index={"p": p, "z": z}, z_pos=5.0 * p + z) for p in (0, 1) for z in (0, 1)]
    assert [place.reference_um for place in places(events)] == [0.0, 0.0, 5.0, 5.0]


def test_tiles_of_a_grid_are_places_of_their_own() -> None:
    sequence = useq.MDASequence(grid_plan={"rows": 1, "columns": 3}, stage_positions=[{"x": 0, "y": 0, "z": 1.0}])
    assert [place.position for place in places(sequence)] == [0, 1, 2]


def test_how_far_the_scored_planes_lie_apart() -> None:
    sequence = useq.MDASequence(z_plan={"range": 4, "step": 2}, stage_positions=[{"z": 1.0}])
    (event, *_) = sequence
    assert Plan(0.0, None, "all").span_um(event) == 4.0
    assert Plan(0.0, None, "middle").span_um(event) == 0.0
    assert Plan(0.0, None, (0, 1)).span_um(event) == 2.0
    assert Plan(0.0, None, "all").span_um(useq.MDAEvent(z_pos=1.0)) == 0.0


@given(
    st.lists(st.floats(-500, 500), min_size=1, max_size=4),
    st.floats(0.5, 20),
    st.integers(1, 4),
    st.sampled_from(["tpcz", "ptcz", "tpzc", "ptzc"]),
)
def test_planned_minus_reference_is_the_plans_own_geometry(z: list[float], span: float, steps: int, order: str) -> None:
    sequence = useq.MDASequence(
        axis_order=order, stage_positions=[{"z": one} for one in z], z_plan={"range": span, "step": span / steps}
    )
    offsets = list(sequence.z_plan)
    for event, place in zip(sequence, places(sequence), strict=True):
        assert place.reference_um == z[event.index["p"]]
        assert place.planned_um - place.reference_um == pytest.approx(offsets[event.index["z"]], abs=1e-6)
