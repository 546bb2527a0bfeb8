from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from parfocal import UsageError
from parfocal.models import yang2018
from parfocal.models.base import Assessment
from parfocal.models.training import tables as made
from parfocal.models.training.card_tables import plain
from parfocal.models.training.evaluate_defocus import Case, procedural_objects
from parfocal.models.training.fields import split_of
from parfocal.models.training.tables import by_photons, render, tables
from parfocal.simulator.optics import PIXELS_PER_LEVEL, Imager, Optics
from parfocal.simulator.specimens import make_specimen

OPTICS = Optics(na=0.45, pixel_um=0.65, emission_um=0.5)


@pytest.fixture(scope="module")
def fields(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two fields whose names put them into the test split, and one that belongs to the training split."""
    folder = tmp_path_factory.mktemp("fields")
    (folder / "cells").mkdir()
    of_test = [f"f{n}" for n in range(100) if split_of(f"cells/f{n}") == "test"][:2]
    of_train = [f"f{n}" for n in range(100) if split_of(f"cells/f{n}") == "train"][:1]
    for number, name in enumerate(of_test + of_train):
        image = make_specimen("nuclei", (256, 256), pixel_um=0.3, seed=number)
        tifffile.imwrite(folder / "cells" / f"{name}.tif", (image * 9000 + 100).astype(np.uint16))
    return folder


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stacks")
    lines = ["series,file,z_um,defocus_um,pixel_um,modality,truth"]
    specimen = make_specimen("nuclei", (192, 192), pixel_um=0.65, seed=3)
    imager = Imager(OPTICS, (192, 192))
    for index, defocus in enumerate((-25.0, 0.0, 25.0)):
        expected = imager.image(specimen, defocus) * 3000 + 50
        counts = np.random.default_rng(index).poisson(expected).astype(np.uint16)
        tifffile.imwrite(folder / f"p{index}.tif", counts)
        lines.append(f"made,p{index}.tif,{defocus},{defocus},0.65,fluorescence,known")
    (folder / "truth.csv").write_text("\n".join(lines) + "\n")
    return folder


def measured(monkeypatch: pytest.MonkeyPatch, **paths: Path) -> dict[str, Any]:
    def small(count: int, *, seed: int) -> Any:
        return procedural_objects(count, seed=seed, side_px=160)

    monkeypatch.setattr(made, "PHOTON_LEVELS", (10_000.0, 100.0))
    monkeypatch.setattr(made, "procedural_objects", small)
    monkeypatch.setattr(made, "EMPTY", 2)
    asked = {"fields": None, "stacks": None, "yang": None, "card": None, "limit": 2, "seed": 1} | paths
    return tables(**asked)  # type: ignore[arg-type]


def test_every_table_is_measured_on_what_it_names(monkeypatch: pytest.MonkeyPatch, fields: Path, stacks: Path) -> None:
    found = measured(monkeypatch, fields=fields, stacks=stacks)
    contents = ["real fields, held out", "real fields, held out, binned 2x2", "procedural, unseen seeds"]
    assert list(found) == [*contents, "empty fields abstained", "focus series"]
    for content in contents:
        table = found[content]["compact"]
        assert list(table) == ["all", "10000 photons", "100 photons"]
        images = [table[level]["images"] for level in ("10000 photons", "100 photons")]
        assert images[0] == 2  # at much light both fields stand out of the noise, whatever their blur
        assert table["all"]["images"] == sum(images)
        assert 0.0 <= table["10000 photons"]["level_within_1"] <= 1.0
    assert found["empty fields abstained"] == 1.0
    (series,) = found["focus series"]
    assert (series["series"], series["planes"], series["planes_off"], series["abstained"]) == ("made", 3, 0, 0)
    assert render(found).count("| compact | 10000 photons | 2 | ") == 3
    assert json.loads(json.dumps(plain(found), allow_nan=False)).keys() == found.keys()


def test_a_folder_without_a_field_of_the_test_split_is_an_error(fields: Path, tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    for path in (fields / "cells").iterdir():
        if split_of(f"cells/{path.stem}") == "train":
            (tmp_path / "cells" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match=f"{tmp_path} holds no field of the test split"):
        tables(fields=tmp_path, stacks=None, yang=None, card=None, limit=2, seed=1)


def case(photons: float, detectability: float) -> Case:
    return Case(np.zeros((8, 8), dtype=np.uint16), OPTICS, 9.0 / OPTICS.blur_px_per_um, photons, "x", detectability)


def test_fields_that_nobody_could_see_are_not_counted() -> None:
    cases = [case(1000.0, 50.0), case(1000.0, 40.0), case(20.0, 50.0), case(20.0, 1.0)]
    answers = iter([3.0, 9.0, 4.0, 0.0])

    def assess(image: NDArray[Any], optics: Optics) -> Assessment:
        return Assessment("fake", 1.0, 0.1, detail={"level": next(answers), "q50": 9.0 / optics.blur_px_per_um})

    table = by_photons(cases, assess)
    assert list(table) == ["all", "1000 photons", "20 photons"]
    assert [row["images"] for row in table.values()] == [3, 2, 1]
    assert [row["level_within_1"] for row in table.values()] == [pytest.approx(2 / 3, abs=1e-4), 0.5, 1.0]


class _Always(nn.Module):
    """The paper's network as it would be if it always told one level, for sure where an image is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.0))

    def forward(self, patches: Tensor) -> Tensor:
        logits = torch.zeros(len(patches), yang2018.LEVELS)
        logits[:, int(self.level)] = 1000.0 * patches.mean(dim=(1, 2, 3))
        return logits


def test_the_papers_network_is_asked_patch_by_patch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    save_file({"level": torch.tensor(4.0)}, tmp_path / "yang.safetensors")
    monkeypatch.setattr(yang2018, "YangNet", _Always)
    frame = np.zeros((200, 170), dtype=np.uint16)
    frame[:84, :84] = 30_000  # the one patch of four that says anything, so the others must not weigh
    said = made.yang_assessor(tmp_path / "yang.safetensors")(frame, OPTICS)
    assert said.detail["level"] == 4.0
    assert said.value == pytest.approx(4 * PIXELS_PER_LEVEL / OPTICS.blur_px_per_um, rel=0.02)
    assert said.detail["q05"] < said.detail["q50"] < said.detail["q95"]


def test_levels_are_read_as_blur() -> None:
    p = np.zeros(yang2018.LEVELS)
    p[0] = 1.0
    said = made._levels_as_assessment(p, OPTICS)
    assert said.detail["q50"] == pytest.approx(0.25 * PIXELS_PER_LEVEL / OPTICS.blur_px_per_um)  # half of half a level
    assert said.detail["level"] == 0.0


def row(**changes: float) -> dict[str, float]:
    told = {
        "images": 3,
        "abstained": 0.3333,
        "level_within_1": 1.0,
        "mean_error_px": 0.5,
        "cover50": 0.5,
        "cover90": 0.9,
    }
    return told | changes


def test_tables_are_rendered_as_markdown() -> None:
    series = {"series": "one", "planes": 2, "abstained": 1, "planes_off": None, "blur_px": [1.04, float("nan")]}
    found = {
        "fields": {"compact": {"all": row(), "20 photons": row(images=0, level_within_1=float("nan"))}},
        "empty fields abstained": 0.9951, "focus series": [series],
    }  # fmt: skip
    assert render(found).splitlines() == [
        "### fields",
        "",
        "| network | photons | images | abstained | level within 1 | error px | cover 50 | cover 90 |",
        "|---|---|---|---|---|---|---|---|",
        "| compact | all | 3 | 0.3333 | 1 | 0.5 | 0.5 | 0.9 |",
        "| compact | 20 photons | 0 | 0.3333 | nan | 0.5 | 0.5 | 0.9 |",
        "",
        "### empty fields abstained",
        "",
        "0.995",
        "",
        "### focus series",
        "",
        "| series | planes | abstained | planes off | blur px by plane |",
        "|---|---|---|---|---|",
        "| one | 2 | 1 | None | 1.0 nan |",
    ]
    assert plain(found)["fields"]["compact"]["20 photons"]["level_within_1"] is None
    assert plain(found)["focus series"][0]["blur_px"] == [1.04, None]
