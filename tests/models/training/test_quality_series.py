from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import tifffile

from parfocal.models.base import Assessment
from parfocal.models.training.quality_series import figure, quality_series

DEFOCUS = (-4.0, -2.0, 0.0, 2.0, 4.0)


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    rows = ["series,file,z_um,defocus_um,pixel_um,modality,truth"]
    for number, z in enumerate(DEFOCUS):
        tifffile.imwrite(tmp_path / f"p{number}.tif", np.full((40, 40), 100 + 10 * number, dtype=np.uint16))
        rows.append(f"beads & <more>,p{number}.tif,{z},{z},0.3,widefield,known")
    (tmp_path / "truth.csv").write_text("\n".join(rows), encoding="utf-8")
    return tmp_path


def judge(image: np.ndarray) -> Assessment:
    z = DEFOCUS[int(image[0, 0] - 100) // 10]
    if z == 4.0:
        return Assessment.abstain("quality", "too dark")
    return Assessment("quality", 0.5, 0.1, detail={"mm": 1.0 / (1.0 + abs(z + 0.1)), "frc_px": 8.0 - abs(z)})


def test_a_series_is_judged_by_its_order_and_by_its_best_plane(stacks: Path) -> None:
    mm, frc = quality_series({"mine": (judge, ("mm", "frc"))}, stacks)
    assert mm["score"] == "mine, mm"
    assert mm["quality"][4] is None  # what was not told is not made up
    assert mm["planes_off"] == 0
    assert mm["spearman"] == pytest.approx(-0.9486833)  # the two planes 2 um away are equally far
    # The resolution gets finer with the distance here: everything the wrong way round.
    assert frc["planes_off"] == 2
    assert frc["spearman"] == pytest.approx(1.0, abs=0.06)


def test_a_series_without_answers_has_no_best_plane(stacks: Path) -> None:
    (row,) = quality_series({"mute": (lambda image: Assessment.abstain("q", "no"), ("mm",))}, stacks)
    assert row["planes_off"] is None
    assert row["spearman"] is None
    assert "polyline" not in figure([row])


def test_the_figure_has_a_panel_a_series_and_a_line_a_score(stacks: Path) -> None:
    rows = quality_series({"mine": (judge, ("mm", "frc"))}, stacks)
    root = ElementTree.fromstring(figure(rows))  # noqa: S314 - our own, and well-formed though a name holds < and &
    lines = root.findall(".//{http://www.w3.org/2000/svg}polyline")
    assert len(lines) == 2
    points = [tuple(map(float, point.split(","))) for point in str(lines[0].get("points")).split()]
    assert len(points) == 4
    assert min(points, key=lambda point: point[1])[0] == pytest.approx(points[2][0])  # the best plane is drawn highest
