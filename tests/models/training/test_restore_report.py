"""All tables of restoring in one run, on a few small frames, and their printing; and the picture."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from parfocal.models.restore.base import Blur
from parfocal.models.training import restore_figure, restore_report
from parfocal.models.training.card_tables import plain
from parfocal.models.training.evaluate_restore import Peers, peers
from parfocal.models.training.restore_figure import GAP_PX, PANEL_PX, SHOWN, figure
from parfocal.models.training.restore_refusals import KINDS
from parfocal.models.training.restore_report import Plan, measure, render
from parfocal.models.training.restore_stacks import FAR_FOLDER, FAR_KIND
from parfocal.simulator.optics import Optics


@pytest.fixture(scope="module")
def made() -> Peers:
    here = peers(["wiener"])
    return Peers(here.here, {"unet": "no weights in this test"})


def estimate(frame: NDArray[Any], optics: Optics) -> Blur:
    """Knows nothing and says so."""
    return Blur(optics, 3.0 * optics.depth_of_field_um, optics.depth_of_field_um)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """No defocus network: what it says is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (restore_report, restore_figure):
            patch.setattr(module, "estimator", lambda: estimate)
        yield


@pytest.fixture(scope="module")
def found(made: Peers) -> dict[str, Any]:
    return measure(made, Plan(count=1, size_px=96, per_kind=1, seed=3))


def test_every_table_is_measured_on_the_same_frames(found: dict[str, Any]) -> None:
    assert found["setting"]["what"] == "procedural specimens, unseen seeds"
    assert set(found["held out"]["table"]) == {"identity", "affine identity", "wiener"}
    assert found["held out"]["table"]["wiener"]["images"] == found["true blur"]["table"]["wiener"]["images"] == 12
    assert found["refusals"]["all"]["frames"] == len(KINDS)
    assert list(found["goals"]) == ["wiener"]
    assert "series" not in found
    assert found["cost"] == {}  # of the networks alone
    json.dumps(plain(found), allow_nan=False)


def test_real_far_frames_are_a_row_of_their_own_and_in_the_count_of_all(made: Peers, tmp_path: Path) -> None:
    (tmp_path / FAR_FOLDER).mkdir(parents=True)
    (tmp_path / "truth.csv").write_text("series,file,z_um,defocus_um,pixel_um,modality,truth\n")
    rng = np.random.default_rng(1)
    for number in range(2):
        tifffile.imwrite(tmp_path / FAR_FOLDER / f"{number}.tif", rng.poisson(900, (96, 96)).astype(np.uint16))
    found = measure(made, Plan(stacks=tmp_path, count=1, size_px=96, per_kind=1, seed=3))
    assert found["refusals"][FAR_KIND]["frames"] == 2
    assert found["refusals"]["all"]["frames"] == len(KINDS) + 2
    assert f"| {FAR_KIND} | 2 |" in render(found)
    assert f"{FAR_KIND}: refused" in {goal["what"] for goal in found["goals"]["wiener"]}


def test_the_tables_are_markdown_with_what_is_absent_in_them(found: dict[str, Any]) -> None:
    text = render(found)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    for block in blocks:
        assert len({line.count("|") for line in block}) == 1, block[0]
    assert "| unet | no weights: no weights in this test |" in text
    assert "| wiener | both |" in text
    assert "| empty, with shade | 1 |" in text
    assert "nan" not in text


def test_the_goals_of_a_network_and_the_series_are_printed(found: dict[str, Any]) -> None:
    goal = {"what": "gain", "reach": ">= 5", "found": 4.0, "reached": False}
    series = [{"series": "one", "method": "unet", "planes": 3, "refused": 1, "gain": 0.25}]
    text = render({**found, "goals": {"unet": [goal]}, "series": series})
    assert "| gain | >= 5 | 4 | short |" in text
    assert "| one | unet | 3 | 1 | - | 0.25 |" in text


def test_the_picture_has_a_row_a_specimen_and_a_panel_a_method(made: Peers) -> None:
    picture = figure(made, seed=1)
    assert picture.width == GAP_PX + 4 * (PANEL_PX + GAP_PX)  # frame, wiener, truth, uncertainty
    assert picture.height > len(SHOWN) * PANEL_PX
    assert picture.getextrema()[0][1] == 255
