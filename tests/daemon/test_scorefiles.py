"""Every plane of every file gets its row, with the optics that are known, and a failing one does not stop the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from parfocal import UsageError, models
from parfocal.daemon.commands.score import row_text
from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import find_images
from parfocal.daemon.overlays import overlay, write_overlay
from parfocal.daemon.scorefiles import FileScorer, ScoreRow
from parfocal.models.base import Assessment, ImageError, ModelCard, PatchMap, check_images

KNOWN = PartialOptics(na=0.75, immersion_index=1.0, emission_um=0.52, pixel_um=0.3)


class FakeModel:
    """Answers with its options, so that a test can see which optics it was made for."""

    card = ModelCard("defocus", "0", "fake", "none", "0" * 64)

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        made.append(self)

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        check_images(images)
        in_um = float("na" in self.options)
        patches = PatchMap(np.array([[0.0, 5.0]]), np.array([[1.0, 0.0]]), 24, 24)
        if images.max() == 0:
            return [Assessment.abstain("defocus", "blank", {"signal": float("nan")})]
        return [Assessment("defocus", float(images.mean()), 0.5, detail={"in_um": in_um}, patch_map=patches)]


made: list[FakeModel] = []


@pytest.fixture(autouse=True)
def fake_defocus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_defocus_model")
    module.make = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_defocus_model", module)
    monkeypatch.setattr(models, "BUILT_IN", {**models.BUILT_IN, "defocus": "fake_defocus_model:make"})
    made.clear()


def write(path: Path, *values: int) -> Path:
    stack = np.stack([np.full((40, 48), value, dtype=np.uint16) for value in values])
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


def rows(scorer: FileScorer, *paths: Path) -> list[ScoreRow]:
    return list(scorer.rows(find_images(paths)))


def test_a_row_a_plane_with_everything_in_it(tmp_path: Path) -> None:
    found = rows(FileScorer(["defocus"], KNOWN), write(tmp_path / "a.tif", 3, 0))
    first, second = (row.to_json() for row in found)
    assert first == {
        "path": str(tmp_path / "a.tif"),
        "plane": 0,
        "axes": {"z": 0},
        "model": "defocus",
        "value": 3.0,
        "sd": 0.5,
        "unit": "um",
        "abstained": False,
        "reason": "",
        "detail": {"in_um": 1.0},
    }
    assert (second["value"], second["abstained"], second["reason"]) == (None, True, "blank")
    assert json.loads(json.dumps(second, allow_nan=False))["detail"] == {"signal": None}
    assert len(made) == 1
    assert made[0].options == KNOWN.known()


def test_a_row_a_model(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(90, 4000, (64, 64), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", noise)
    found = rows(FileScorer(["sharpness", "defocus"], KNOWN), tmp_path / "a.tif")
    assert [row.model for row in found] == ["sharpness", "defocus"]
    assert not any(row.error for row in found)


def test_what_fails_becomes_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 1)
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((8, 8), dtype=np.uint16))
    colour = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "d.tif", colour, photometric="rgb")
    write(tmp_path / "e.tif", 2)
    found = rows(FileScorer(["defocus"], KNOWN), tmp_path)
    assert [row.error for row in found] == ["", "ImageFileError", "ImageError", "ImageFileError", ""]
    assert [row.plane for row in found] == [0, None, 0, 0, 0]
    assert "colour" in found[3].assessment.reason
    assert "32x32" in found[2].assessment.reason
    assert found[1].to_json()["error"] == "ImageFileError"
    assert "error" not in found[0].to_json()


def test_optics_of_the_file_of_the_person_and_of_the_configuration(tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.1, "Channel": {"EmissionWavelength": [600]}}
    image = np.ones((40, 48), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.ome.tif", image, photometric="minisblack", metadata=metadata)
    scorer = FileScorer(
        ["defocus"], PartialOptics(na=0.5), PartialOptics(na=0.9, emission_um=0.5, immersion_index=1.33)
    )
    (row,) = rows(scorer, tmp_path / "a.ome.tif")
    assert row.unit == "um"
    assert made[0].options == pytest.approx({"na": 0.5, "immersion_index": 1.33, "emission_um": 0.6, "pixel_um": 0.1})


def test_without_optics_the_value_is_in_pixels_and_that_is_said(tmp_path: Path) -> None:
    scorer = FileScorer(["defocus"], PartialOptics(na=0.5))
    (row,) = rows(scorer, write(tmp_path / "a.tif", 1))
    assert row.to_json()["unit"] == "px"
    notes = " ".join(scorer.notes)
    assert "--pixel-um" in notes
    assert "--emission-nm" in notes
    assert "index 1.0" in notes


def test_an_immersion_objective_is_not_guessed(tmp_path: Path) -> None:
    scorer = FileScorer(["defocus"], PartialOptics(na=1.2, emission_um=0.5, pixel_um=0.1))
    (row,) = rows(scorer, write(tmp_path / "a.tif", 1))
    assert row.unit == "px"
    assert "--immersion-index" in " ".join(scorer.notes)


def test_impossible_optics_and_unknown_models_are_refused() -> None:
    with pytest.raises(UsageError, match="positive"):
        FileScorer(["defocus"], PartialOptics(na=-1))
    with pytest.raises(UsageError, match="no objective has NA 2"):
        FileScorer(["defocus"], PartialOptics(na=2))
    with pytest.raises(UsageError, match="did you mean 'sharpness'"):
        FileScorer(["sharpnes"])


def test_image_error_is_known() -> None:
    with pytest.raises(ImageError):
        check_images(np.zeros((8, 8)))


def test_an_overlay_tells_near_from_far_and_sure_from_unsure() -> None:
    patches = PatchMap(np.array([[0.0, 5.0], [5.0, np.nan]]), np.array([[1.0, 1.0], [0.2, 0.0]]), 24, 24)
    picture = overlay(np.full((48, 48), 7, dtype=np.uint16), patches, blur_px=6.0).astype(int)
    assert picture.shape == (48 + 12, 48, 3)
    near, far, unsure, none = picture[5, 5], picture[5, 40], picture[40, 5], picture[40, 40]
    assert near[2] > near[0]
    assert far[0] > far[2]
    assert unsure.sum() < far.sum()
    assert none[0] == none[1] == none[2]


def test_maps_are_written_one_a_plane_and_never_over_one_another(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.tif", 3, 4)
    found = rows(FileScorer(["defocus"], KNOWN), tmp_path)
    paths = [write_overlay(row, tmp_path / "maps") for row in found]
    assert len(set(paths)) == 4
    with Image.open(str(paths[0])) as image:
        assert image.size == (48, 52)


def test_no_map_where_there_is_none(tmp_path: Path) -> None:
    (row,) = rows(FileScorer(["defocus"], KNOWN), write(tmp_path / "a.tif", 0))
    assert write_overlay(row, tmp_path / "maps") is None
    assert not (tmp_path / "maps").exists()


def test_a_folder_for_maps_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (row,) = rows(FileScorer(["defocus"], KNOWN), write(tmp_path / "a.tif", 3))
    with pytest.raises(UsageError, match="cannot be written"):
        write_overlay(row, tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("value", "sd", "signed", "text"),
    [
        (0.08262, 0.21, 0.0, "0.08 +- 0.21"),
        (-2.4251, 0.0371, 1.0, "-2.425 +- 0.037"),
        (2.4251, 1.27, 1.0, "+2.4 +- 1.3"),
        (8850327183987.0, 1590706173724.0, None, "8.85e+12 +- 1.6e+12"),
        (3.25, float("nan"), None, "3.25"),
    ],
)
def test_a_line_has_no_more_digits_than_are_known_and_no_sign_that_is_not(
    value: float, sd: float, signed: float | None, text: str
) -> None:
    detail = {} if signed is None else {"signed": signed}
    row = ScoreRow(Path("a.tif"), 0, "defocus", Assessment("defocus", value, sd, detail=detail))
    assert row_text(row) == f"a.tif  0  defocus  {text}"


def test_a_wide_map_says_what_its_colours_mean(tmp_path: Path) -> None:
    patches = PatchMap(np.zeros((1, 2)), np.ones((1, 2)), 48, 160)
    said = Assessment("defocus", 0.0, 0.1, patch_map=patches)
    path = write_overlay(ScoreRow(Path("a.tif"), 0, "defocus", said, pixels=np.zeros((48, 320))), tmp_path)
    assert path is not None
    with Image.open(path) as image:
        assert image.size == (320, 48 + 12 + 14)
        assert np.asarray(image)[60:].max() > 127
