"""Assessments on the wire: equal to the last bit after a round trip, and nothing malformed accepted."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from parfocal.models import wire
from parfocal.models.base import Assessment, Distribution, PatchMap, ScorerError

FLOATS = st.floats(allow_nan=True, allow_infinity=True, width=64)
DTYPES = st.sampled_from([np.float16, np.float32, np.float64])


@st.composite
def float_arrays(draw: st.DrawFn, dims: int) -> Any:
    shape = draw(st.tuples(*[st.integers(0, 5)] * dims))
    dtype = np.dtype(draw(DTYPES))
    return draw(arrays(dtype, shape, elements=st.floats(width=dtype.itemsize * 8)))  # type: ignore[arg-type]


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    number = draw(st.integers(0, 9))
    grid, mass = (draw(arrays(np.float64, number, elements=FLOATS)) for _ in range(2))
    return Distribution(grid, mass, draw(st.booleans()))


@st.composite
def patch_maps(draw: st.DrawFn) -> PatchMap:
    value, certainty = draw(float_arrays(2)), draw(float_arrays(2))
    return PatchMap(value, certainty, draw(st.integers(1, 999)), draw(st.integers(1, 999)), draw(st.text(max_size=4)))


ASSESSMENTS = st.builds(
    Assessment,
    model=st.text(max_size=9),
    value=FLOATS,
    sd=FLOATS,
    abstained=st.booleans(),
    reason=st.text(max_size=20),
    detail=st.dictionaries(st.text(max_size=9), FLOATS, max_size=4),
    distribution=st.none() | distributions(),
    patch_map=st.none() | patch_maps(),
)


def bits(value: Any) -> Any:
    """Make it comparable to the last bit, NaN payloads included."""
    if isinstance(value, float):
        return struct.pack("<d", value)
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, Distribution | PatchMap | Assessment):
        return {key: bits(item) for key, item in vars(value).items()}
    return value


@given(st.dictionaries(st.text(max_size=9), ASSESSMENTS, max_size=3))
@settings(max_examples=60, deadline=None)
def test_round_trip_is_exact(assessments: dict[str, Assessment]) -> None:
    back = wire.unpack_assessments(wire.pack_assessments(assessments))
    assert {name: bits(item) for name, item in back.items()} == {name: bits(a) for name, a in assessments.items()}


def test_numpy_scalars_become_plain_numbers() -> None:
    said = Assessment("m", np.float32(0.5), np.float64(1), bool(np.True_), detail={"n": np.int64(3)})  # type: ignore[arg-type, dict-item]
    back = wire.unpack_assessments(wire.pack_assessments({"m": said}))["m"]
    assert (type(back.value), back.value, back.detail) == (float, 0.5, {"n": 3.0})


def test_arrays_are_writable_native_and_only_floats() -> None:
    back = wire.decode_array(wire.encode_array(np.arange(6.0).astype(">f4").reshape(2, 3).T))
    assert back.tolist() == [[0, 3], [1, 4], [2, 5]]
    back[0, 0] = 9
    with pytest.raises(TypeError, match="must be floats"):
        wire.encode_array(np.array(["text"]))


@given(st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_rubbish_is_refused_with_one_kind_of_error(data: bytes) -> None:
    try:
        assert wire.unpack_assessments(data) == {}
    except ScorerError:
        pass


GOOD = wire.encode_assessment(Assessment("m", 1.0, 2.0, distribution=Distribution(np.arange(3.0), np.ones(3) / 3)))


@pytest.mark.parametrize(
    "change",
    [
        {"value": "1.0"},
        {"value": 1},
        {"abstained": 0},
        {"detail": {"a": None}},
        {"detail": [1]},
        {"distribution": {"defocus_um": 1}},
        {"distribution": {**GOOD["distribution"], "probability": wire.encode_array(np.ones(4))}},
        {"distribution": {**GOOD["distribution"], "signed": None}},
        {"patch_map": {"value": {"dtype": "|O", "shape": [1], "data": b"12345678"}}},
        {"patch_map": {"value": {"dtype": "<f8", "shape": [2], "data": b"12345678"}}},
        {"patch_map": {"value": {"dtype": "<f8", "shape": [-1, -1], "data": b"12345678"}}},
    ],
)
def test_a_malformed_assessment_is_refused(change: dict[str, Any]) -> None:
    assert wire.decode_assessment(wire.unpack(wire.pack(GOOD))).value == 1.0
    with pytest.raises(ScorerError, match="malformed"):
        wire.decode_assessment(wire.unpack(wire.pack(GOOD | change)))


def test_a_missing_key_is_refused() -> None:
    with pytest.raises(ScorerError, match="KeyError: 'sd'"):
        wire.decode_assessment({key: value for key, value in GOOD.items() if key != "sd"})
