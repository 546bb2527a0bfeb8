"""A map tells near from far to every eye, leaves the image readable, and says what its colours mean."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from parfocal import UsageError
from parfocal.daemon.mapcolours import HUE_HIGH, HUE_LOW, colour_code, coloured, linear_rgb
from parfocal.daemon.overlays import DrawnMap, Scale, draw, overlay, scale_of, stem_of, ticks
from parfocal.models.base import PatchMap

PATCHES = PatchMap(np.array([[0.0, 5.0], [5.0, np.nan]]), np.array([[1.0, 1.0], [0.2, 0.9]]), 240, 240, "um")
SCALE = Scale(0.0, 5.0, "defocus, um")

# G. M. Machado et al., "A physiologically-based model for simulation of color vision deficiency", 2009, severity 1.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)


def picture(pixels: NDArray[np.uint16], patches: PatchMap = PATCHES, scale: Scale = SCALE) -> NDArray[np.int_]:
    return overlay(pixels, patches, scale).astype(int)


def test_near_is_blue_far_is_orange_unsure_is_paler_and_no_answer_is_grey() -> None:
    drawn = picture(np.full((480, 480), 7, dtype=np.uint16))
    assert drawn.shape == (480, 480, 3)
    near, far, unsure, none = drawn[5, 5], drawn[5, 400], drawn[400, 5], drawn[400, 400]
    assert near[2] > near[0] + 40
    assert far[0] > far[2] + 40
    assert 0 < unsure[0] - unsure[2] < far[0] - far[2]
    assert np.ptp(none) <= 1


def test_all_structure_of_the_image_stays_visible_under_any_colour() -> None:
    image = np.tile(np.arange(480, dtype=np.uint16), (480, 1))
    patches = PatchMap(np.full((2, 2), 5.0), np.ones((2, 2)), 240, 240)
    luma = picture(image, patches) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luma[::40, 8:472:16], axis=1) > 0).all()


def test_what_no_patch_covers_is_grey() -> None:
    patches = PatchMap(np.full((1, 1), 5.0), np.ones((1, 1)), 400, 200)
    drawn = picture(np.full((500, 500), 7, dtype=np.uint16), patches)
    assert np.ptp(drawn[399, 399]) > 40
    assert np.ptp(drawn[401, 399]) <= 1
    assert np.ptp(drawn[399, 401]) <= 1


@pytest.mark.parametrize("eye", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["usual", "deuteranopia", "protanopia"])
def test_every_eye_sees_the_scale_rise(eye: NDArray[np.float64]) -> None:
    angles = np.deg2rad(np.linspace(HUE_LOW, HUE_HIGH, 9))
    seen = np.clip(linear_rgb(0.6, 0.12, angles) @ eye.T, 0, 1)
    yellow_minus_blue = seen[:, :2].mean(axis=1) - seen[:, 2]
    assert (np.diff(yellow_minus_blue) > 0).all()
    assert yellow_minus_blue[-1] - yellow_minus_blue[0] > 0.4


def test_colours_are_those_asked_for() -> None:
    grey = coloured(np.array([0.0, 0.5, 1.0]), colour_code(np.array([0.0, 0.5, 1.0]), np.zeros(3))).astype(int)
    assert (np.ptp(grey, axis=1) <= 1).all()
    assert (np.diff(grey[:, 0]) > 50).all()


@pytest.mark.parametrize(
    ("shape", "drawn"),
    [((48, 48), (480, 480)), ((256, 200), (512, 400)), ((2048, 1100), (1024, 550)), ((1200, 9), (1200, 9))],
)
def test_pictures_are_of_a_size_to_look_at(shape: tuple[int, int], drawn: tuple[int, int]) -> None:
    patches = PatchMap(np.zeros((1, 1)), np.ones((1, 1)), 32, 32)
    assert picture(np.ones(shape, dtype=np.uint16), patches).shape == (*drawn, 3)


def test_the_files_hold_picture_scale_and_arrays(tmp_path: Path) -> None:
    files = draw(np.full((480, 480), 7, dtype=np.uint16), PATCHES, SCALE, "a")
    path = files.write(tmp_path / "maps")
    assert path == tmp_path / "maps" / "a.png"
    with Image.open(io.BytesIO(files.png)) as image:
        assert image.width == 480
        below = np.asarray(image)[480:].astype(int)
    assert (below == 255).all(axis=-1).mean() > 0.4  # paper
    assert (below == 30).all(axis=-1).sum() > 100  # ink
    assert (np.ptp(below, axis=-1) > 60).sum() > 1000  # colours
    with np.load(tmp_path / "maps" / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"value", "certainty", "patch_px", "stride_px", "unit"}
        assert np.array_equal(arrays["value"], PATCHES.value, equal_nan=True)
        assert np.array_equal(arrays["certainty"], PATCHES.certainty)
        assert (int(arrays["patch_px"]), int(arrays["stride_px"]), str(arrays["unit"])) == (240, 240, "um")


def test_a_narrow_image_still_has_a_readable_scale() -> None:
    patches = PatchMap(np.zeros((1, 1)), np.ones((1, 1)), 32, 32)
    with Image.open(io.BytesIO(draw(np.ones((640, 40), np.uint16), patches, SCALE, "a").png)) as image:
        assert image.width >= 400


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "maps").write_text("a file")
    with pytest.raises(UsageError, match="cannot be written"):
        DrawnMap("a", b"", b"").write(tmp_path / "maps")


def test_names_of_maps_tell_folders_planes_and_models_apart() -> None:
    names = {
        stem_of(Path(folder) / "a.ome.tif", plane, model)
        for folder in ("x", "y")
        for plane in (0, 1)
        for model in ("defocus", "quality")
    }
    assert len(names) == 8
    assert all("." not in name for name in names)


def test_scales_of_known_models_are_the_same_in_every_picture() -> None:
    assert scale_of("defocus", PATCHES, 6.0) == Scale(0.0, 5.0, "defocus, um", above=True)
    in_px = PatchMap(PATCHES.value, PATCHES.certainty, 240, 240, "px")
    assert scale_of("defocus", in_px, None) == Scale(0.0, 30.0, "defocus, px", above=True)
    quality = scale_of("quality", PATCHES, None)
    assert quality.higher_is_better
    assert quality.share(np.array([1.5, 0.5, -9.0])).tolist() == [0.0, 0.5, 1.0]


def test_a_model_nobody_knows_gets_the_range_of_its_map() -> None:
    assert scale_of("other", PATCHES, None) == Scale(0.0, 5.0, "other, um")
    flat = PatchMap(np.full((1, 1), 3.0), np.ones((1, 1)), 32, 32)
    assert scale_of("other", flat, None).high > 3.0
    empty = PatchMap(np.full((1, 1), np.nan), np.zeros((1, 1)), 32, 32)
    assert scale_of("other", empty, None) == Scale(0.0, 1.0, "other")


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_a_few_and_within_the_scale(low: float, width: float) -> None:
    high = low + width
    if not high > low + 1e-9 * abs(low):
        return
    found = ticks(low, high)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-6 * width <= value <= high + 1e-6 * width for value in found)
    assert found == sorted(set(found))
