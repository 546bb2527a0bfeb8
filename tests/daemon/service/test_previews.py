"""Previews: small, grey, honest about their range, and never a crash whatever the camera gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from parfocal.daemon.service.eventmodels import Preview, read_event
from parfocal.daemon.service.events import preview_event
from parfocal.daemon.service.messages import encode
from parfocal.daemon.service.previews import preview
from parfocal.models.base import Assessment, PatchMap

shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
dtypes = st.sampled_from([np.uint8, np.uint16, np.int32, np.float32, np.float64, np.bool_])


@settings(deadline=None)
@given(dtypes.flatmap(lambda dtype: npst.arrays(dtype, shapes)), st.integers(1, 64))
def test_any_frame_becomes_a_small_image_of_the_same_shape(pixels: np.ndarray, longest_px: int) -> None:
    with np.errstate(all="ignore"):
        made = preview(pixels, None, longest_px)
    assert made is not None
    assert max(made["width"], made["height"]) <= longest_px
    assert len(made["pixels"]) == made["width"] * made["height"]
    assert made["height"] == max(pixels.shape[0] // made["factor"], 1)
    assert made["width"] == max(pixels.shape[1] // made["factor"], 1)


def test_a_bright_spot_stays_where_it_is() -> None:
    pixels = np.full((400, 600), 100, np.uint16)
    pixels[300:336, 450:486] = 4000
    made = preview(pixels, None, 100)
    assert made is not None
    grey = np.frombuffer(made["pixels"], np.uint8).reshape(made["height"], made["width"])
    row, column = np.unravel_index(np.argmax(grey), grey.shape)
    assert (made["factor"], made["width"], made["height"]) == (6, 100, 66)
    assert (50 <= row <= 56, 75 <= column <= 81) == (True, True)
    assert (made["low"], made["high"]) == (100.0, pytest.approx(4000.0))


def test_the_mean_of_a_block_is_what_is_shown() -> None:
    pixels = np.arange(16, dtype=np.uint16).reshape(4, 4)
    made = preview(pixels, None, 2)
    assert made is not None
    means = pixels.reshape(2, 2, 2, 2).mean(axis=(1, 3))
    span = made["high"] - made["low"]
    expected = np.clip((means - made["low"]) * 255 / span, 0, 255).astype(np.uint8)
    assert made["pixels"] == expected.tobytes()


def test_a_flat_frame_and_one_of_nothing_but_nan_are_black() -> None:
    for pixels in (np.full((9, 9), 7, np.uint8), np.full((9, 9), np.nan, np.float32)):
        made = preview(pixels, None, 64)
        assert made is not None
        assert set(made["pixels"]) == {0}


@pytest.mark.parametrize("pixels", [np.zeros((2, 3, 4)), np.zeros((0, 4)), np.zeros((4, 4), complex), np.zeros(4)])
def test_what_is_no_image_has_no_preview(pixels: np.ndarray) -> None:
    assert preview(pixels, None, 64) is None


def test_the_patch_map_goes_with_it_and_comes_out_the_same() -> None:
    value = np.array([[0.1, np.nan, 0.3], [0.4, 0.5, 0.6]])
    said = {
        "sharpness": Assessment("sharpness", 1.0, 1.0),
        "defocus": Assessment("defocus", 1.0, 1.0, patch_map=PatchMap(value, np.ones((2, 3)), 84, 42, "um")),
    }
    made = preview(np.zeros((64, 64), np.uint8), said, 32)
    assert made is not None
    event = read_event(encode(preview_event(1, 2.0, 5, made)))
    assert isinstance(event, Preview)
    patch_map = event.patch_map
    assert patch_map is not None
    assert (patch_map.model, patch_map.rows, patch_map.columns, patch_map.unit) == ("defocus", 2, 3, "um")
    again = np.frombuffer(patch_map.value, "<f4").reshape(patch_map.rows, patch_map.columns)
    np.testing.assert_array_equal(again, value.astype(np.float32))


def test_every_model_gives_its_map_that_of_quality_first() -> None:
    one = PatchMap(np.zeros((1, 1)), np.ones((1, 1)), 84, 84)
    said = {name: Assessment(name, 1.0, 1.0, patch_map=one) for name in ("other", "defocus", "quality")}
    made = preview(np.zeros((8, 8), np.uint8), said, 8)
    assert made is not None
    assert [found["model"] for found in made["patch_maps"]] == ["quality", "defocus", "other"]


def test_a_model_with_a_malformed_map_gives_none() -> None:
    said = {
        "a": Assessment("a", 1.0, 1.0, patch_map=PatchMap(np.zeros((2, 2)), np.ones((1, 1)), 84, 84)),
        "b": Assessment("b", 1.0, 1.0, patch_map=PatchMap(np.zeros((1, 1)), np.ones((1, 1)), 84, 84)),
    }
    made = preview(np.zeros((8, 8), np.uint8), said, 8)
    assert made is not None
    assert [found["model"] for found in made["patch_maps"]] == ["b"]
