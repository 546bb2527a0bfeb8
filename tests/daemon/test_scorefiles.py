"""Every plane of every file gets its row, with the optics that are known, and a failing one does not stop the rest."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal import UsageError, models
from parfocal.daemon import scorefiles
from parfocal.daemon.commands.score import row_text
from parfocal.daemon.fileoptics import PartialOptics
from parfocal.daemon.imagefiles import Plane, find_images
from parfocal.daemon.scorefiles import FileScorer, ScoreJob, ScoreRow, chunks
from parfocal.models.base import Assessment, ImageError, ModelCard, PatchMap, WeightsMissingError, check_images

KNOWN = PartialOptics(na=0.75, immersion_index=1.0, emission_um=0.52, pixel_um=0.3)


class FakeModel:
    """Answers with its options, so that a test can see which optics it was made for."""

    card = ModelCard("defocus", "0", "fake", "none", "0" * 64)

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = dict(options)
        made.append(self)

    def assess(self, images: NDArray[Any], pixel_um: float) -> list[Assessment]:
        check_images(images)
        batches.append(len(images))
        return [self.assess_one(image) for image in images]

    def assess_one(self, image: NDArray[Any]) -> Assessment:
        in_um = float("na" in self.options)
        patches = PatchMap(np.array([[0.0, 5.0]]), np.array([[1.0, 0.0]]), 24, 24)
        if image.max() == BROKEN:
            raise RuntimeError("out of memory on the device")
        if image.max() == 0:
            return Assessment.abstain("defocus", "blank", {"signal": float("nan")})
        return Assessment("defocus", float(image.mean()), 0.5, detail={"in_um": in_um}, patch_map=patches)


BROKEN = 9999
made: list[FakeModel] = []
batches: list[int] = []


@pytest.fixture(autouse=True)
def fake_defocus(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("fake_defocus_model")
    module.make = FakeModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fake_defocus_model", module)
    monkeypatch.setattr(models, "BUILT_IN", {**models.BUILT_IN, "defocus": "fake_defocus_model:make"})
    made.clear()
    batches.clear()


def write(path: Path, *values: int) -> Path:
    stack = np.stack([np.full((40, 48), value, dtype=np.uint16) for value in values])
    tifffile.imwrite(path, stack, photometric="minisblack", metadata={"axes": "ZYX"})
    return path


def rows(scorer: FileScorer, *paths: Path) -> list[ScoreRow]:
    return list(scorer.rows(find_images(paths)))


def scorer_of(*names: str, given: PartialOptics = KNOWN, **more: Any) -> FileScorer:
    return FileScorer(ScoreJob(names or ("defocus",), given, **more))


def test_a_row_a_plane_with_everything_in_it(tmp_path: Path) -> None:
    found = rows(scorer_of(), write(tmp_path / "a.tif", 3, 0))
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
        "artefact_name": "",
        "detail": {"in_um": 1.0},
    }
    assert (second["value"], second["abstained"], second["reason"]) == (None, True, "blank")
    assert json.loads(json.dumps(second, allow_nan=False))["detail"] == {"signal": None}
    assert len(made) == 1
    assert made[0].options == KNOWN.known()


def test_a_row_a_model(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(90, 4000, (64, 64), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", noise)
    found = rows(scorer_of("sharpness", "defocus"), tmp_path / "a.tif")
    assert [row.model for row in found] == ["sharpness", "defocus"]
    assert not any(row.error for row in found)


def test_what_fails_becomes_a_row_and_the_rest_goes_on(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 1)
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    tifffile.imwrite(tmp_path / "c.tif", np.zeros((8, 8), dtype=np.uint16))
    colour = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "d.tif", colour, photometric="rgb")
    write(tmp_path / "e.tif", 2)
    found = rows(scorer_of(), tmp_path)
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
    fallback = PartialOptics(na=0.9, emission_um=0.5, immersion_index=1.33)
    scorer = scorer_of(given=PartialOptics(na=0.5), fallback=fallback)
    (row,) = rows(scorer, tmp_path / "a.ome.tif")
    assert row.unit == "um"
    assert made[0].options == pytest.approx({"na": 0.5, "immersion_index": 1.33, "emission_um": 0.6, "pixel_um": 0.1})


def test_without_optics_the_value_is_in_pixels_and_that_is_said(tmp_path: Path) -> None:
    scorer = scorer_of(given=PartialOptics(na=0.5))
    (row,) = rows(scorer, write(tmp_path / "a.tif", 1))
    assert row.to_json()["unit"] == "px"
    notes = " ".join(scorer.notes)
    assert "--pixel-um" in notes
    assert "--emission-nm" in notes
    assert "index 1.0" in notes


def test_an_immersion_objective_is_not_guessed(tmp_path: Path) -> None:
    scorer = scorer_of(given=PartialOptics(na=1.2, emission_um=0.5, pixel_um=0.1))
    (row,) = rows(scorer, write(tmp_path / "a.tif", 1))
    assert row.unit == "px"
    assert "--immersion-index" in " ".join(scorer.notes)


def test_impossible_optics_and_unknown_models_are_refused() -> None:
    with pytest.raises(UsageError, match="positive"):
        scorer_of(given=PartialOptics(na=-1))
    with pytest.raises(UsageError, match="no objective has NA 2"):
        scorer_of(given=PartialOptics(na=2))
    with pytest.raises(UsageError, match="did you mean 'sharpness'"):
        scorer_of("sharpnes")


def test_image_error_is_known() -> None:
    with pytest.raises(ImageError):
        check_images(np.zeros((8, 8)))


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


def test_planes_of_equal_shape_go_together_and_keep_their_order(tmp_path: Path) -> None:
    for index in range(5):
        shape = (32, 32) if index == 2 else (40, 48)
        tifffile.imwrite(tmp_path / f"{index}.tif", np.full(shape, index + 1, dtype=np.uint16))
    found = rows(scorer_of(), tmp_path)
    assert [row.assessment.value for row in found] == [1, 2, 3, 4, 5]
    assert sorted(batches) == [1, 4]


def test_a_batch_is_no_larger_than_the_model_wants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tif", *range(1, 8))
    monkeypatch.setattr(FakeModel, "batch_pixels", 3 * 40 * 48, raising=False)
    rows(scorer_of(), tmp_path)
    assert batches == [3, 3, 1]


def test_a_plane_that_breaks_the_model_spoils_no_other_of_its_batch(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 1, BROKEN, 3)
    found = rows(scorer_of(), tmp_path)
    assert [(row.assessment.value, row.error) for row in found if not row.error] == [(1.0, ""), (3.0, "")]
    assert found[1].error == "RuntimeError"
    assert found[1].assessment.reason == "out of memory on the device"


def test_a_model_that_answers_for_fewer_planes_is_an_error_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.tif", 1, 2)
    monkeypatch.setattr(FakeModel, "assess", lambda self, images, pixel_um: [])
    assert [row.error for row in rows(scorer_of(), tmp_path)] == ["ModelError", "ModelError"]


def test_never_more_than_a_few_planes_are_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = 0
    most = 0

    class Counted(np.ndarray[Any, Any]):
        def __del__(self) -> None:
            nonlocal held
            held -= 1

    class Lazy:
        def __init__(self, value: int) -> None:
            self.value = value

        def __call__(self) -> NDArray[Any]:
            nonlocal held, most
            held += 1
            most = max(most, held)
            return np.full((1024, 1024), self.value, dtype=np.uint16).view(Counted)

    def planes(path: Path) -> Iterator[Plane]:
        return (Plane(path, index, Lazy(index + 1)) for index in range(40))

    monkeypatch.setattr(scorefiles, "iter_planes", planes)
    found = [row.assessment.value for row in scorer_of().rows([tmp_path / "a.tif"])]
    assert found == [float(index + 1) for index in range(40)]
    assert most <= 8  # three windows of two, and one plane read too many for its window


def test_weights_that_are_absent_end_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: FakeModel, options: Mapping[str, Any]) -> None:
        raise WeightsMissingError("no weights")

    monkeypatch.setattr(FakeModel, "__init__", refuse)
    with pytest.raises(WeightsMissingError):
        rows(scorer_of(), write(tmp_path / "a.tif", 1))


def test_a_row_names_the_file_as_the_person_did_wherever_it_is(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", 1)
    (tmp_path / "b.tif").write_bytes(b"no tiff")
    given = [Path("x/a.tif"), Path("x/b.tif"), Path("x/c.tif")]
    places = [tmp_path / "a.tif", tmp_path / "b.tif", tmp_path / "c.tif"]
    scorer = FileScorer(ScoreJob(("defocus",), KNOWN), seen_from="the moon")
    found = list(scorer.rows(given, places))
    assert [row.path for row in found] == given
    assert not any(str(tmp_path) in row.assessment.reason for row in found)
    assert found[2].assessment.reason == "no such file, as seen from the moon"


def test_files_are_cut_into_runs_that_large_ones_and_folders_end(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{index:02}.tif", 1) for index in range(20)]
    (tmp_path / "z.zarr").mkdir()
    found = list(chunks([*paths[:3], tmp_path / "z.zarr", *paths[3:], tmp_path / "gone.tif"]))
    assert [len(chunk) for chunk in found] == [3, 1, 16, 2]
    assert [path for chunk in found for path in chunk][3] == tmp_path / "z.zarr"


def test_maps_come_with_the_rows_where_they_are_wanted(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "a.tif", 3, 0)
    assert [row.drawn for row in rows(scorer_of(), tmp_path)] == [None] * 4
    drawn = [row.drawn for row in rows(scorer_of(maps=True), tmp_path)]
    assert [one is None for one in drawn] == [False, True, False, True]
    assert drawn[0] is not None
    assert drawn[2] is not None
    assert drawn[0].stem != drawn[2].stem
    assert drawn[0].png != b""
