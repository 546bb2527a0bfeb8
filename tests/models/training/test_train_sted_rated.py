"""Training on a lab's rated images: what is wrong with them is told, and it learns what they say."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from parfocal import UsageError
from parfocal.models import make_model
from parfocal.models.cards import load_card
from parfocal.models.sted_quality_net import StedQualityNet
from parfocal.models.training.sted_quality_data import LABELS
from parfocal.models.training.sted_quality_publish import publish
from parfocal.models.training.sted_quality_recipe import StedRecipe
from parfocal.models.training.train_sted_rated import RatedRecipe, read_rated, read_scores, split_of, train_rated

RECIPE = RatedRecipe(pixel_um=0.02, epochs=5, batch=8, learning_rate=3e-3)


def table(folder: Path, rows: list[str], header: str = "path,score") -> Path:
    path = folder / "scores.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def image(level: float, seed: int = 0, size: int = 40) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(level * np.kron(rng.random((8, 8)), np.ones((5, 5)))[:size, :size]).astype(np.uint16)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A card of an untrained network."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    held_out = {name: rng.random(20).astype(np.float32) for name in LABELS}
    held_out |= {"counts": np.stack([image(9, seed) for seed in range(20)]), "pixel_um": np.full(20, 0.02, np.float32)}
    return publish(StedQualityNet().eval(), StedRecipe(), held_out, tmp_path_factory.mktemp("start"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Dim images rated low, bright ones rated high; sizes differ."""
    folder = tmp_path_factory.mktemp("lab")
    rows = []
    for number in range(60):
        good = number % 2 == 1
        tifffile.imwrite(folder / f"field{number}.tif", image(60.0 if good else 3.0, number, 40 if number % 3 else 36))
        rows.append(f"field{number}.tif,{0.9 if good else 0.1}")
    return folder, table(folder, rows)


def test_it_learns_what_the_raters_say(lab: tuple[Path, Path], start: Path, tmp_path: Path) -> None:
    card, words = train_rated(*lab, RECIPE, tmp_path / "out", start_from=start)
    held = load_card(card)
    assert sum(held.measured["images"].values()) == 60
    assert held.measured["test"]["mae"] < 0.2 < held.measured["test_before"]["mae"]
    assert held.training["started_from"] == load_card(start).weights_sha256
    assert "60 images are few" in words
    model = make_model("sted_quality", {"card": str(card)})
    low, high = (model.assess(image(level, 99)[None], 0.02)[0] for level in (3.0, 60.0))
    assert low.value < 0.35
    assert high.value > 0.65


def test_what_is_wrong_with_a_table_is_told_with_its_line(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(5))
    scores = table(tmp_path, ["a.tif,0.5", "b.tif,0.5", "./a.tif,0.7"])
    with pytest.raises(UsageError, match="line 3: there is no file") as error:
        read_scores(tmp_path, scores)
    assert "line 4: ./a.tif was rated in line 2 already" in str(error.value)


@pytest.mark.parametrize("score", ["1.01", "-0.1", "nan", "good", ""])
def test_scores_outside_the_range_are_refused(score: str, tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image(5))
    with pytest.raises(UsageError, match=r"line 2: a score must be a number in 0\.\.1"):
        read_scores(tmp_path, table(tmp_path, [f"a.tif,{score}"]))


def test_a_table_or_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        read_scores(tmp_path / "none", table(tmp_path, []))
    with pytest.raises(UsageError, match="cannot be read"):
        read_scores(tmp_path, tmp_path / "none.csv")
    with pytest.raises(UsageError, match="no column score"):
        read_scores(tmp_path, table(tmp_path, [], "path,quality"))


def test_few_images_are_too_few(tmp_path: Path) -> None:
    for number in range(5):
        tifffile.imwrite(tmp_path / f"{number}.tif", image(5, number))
    scores = table(tmp_path, [f"{number}.tif,0.5" for number in range(5)])
    with pytest.raises(UsageError, match="5 rated images are too few to train with: at least 40, better 300"):
        train_rated(tmp_path, scores, RECIPE, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_images_that_are_no_counts_or_no_plane_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((3, 40, 40), np.uint16), photometric="minisblack")
    tifffile.imwrite(tmp_path / "plane.tif", image(5))
    (tmp_path / "text.tif").write_text("no image", encoding="utf-8")
    with pytest.raises(UsageError, match="one plane"):
        read_rated([(tmp_path / "stack.tif", 0.5)], RECIPE)
    with pytest.raises(UsageError, match="cannot be read as TIFF"):
        read_rated([(tmp_path / "text.tif", 0.5)], RECIPE)
    with pytest.raises(UsageError, match="below --offset 100"):
        read_rated([(tmp_path / "plane.tif", 0.5)], RatedRecipe(**{**asdict(RECIPE), "offset": 100.0}))


def test_gain_and_offset_make_photons(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", (4 * image(5) + 10).astype(np.uint16))
    recipe = RatedRecipe(pixel_um=0.02, gain=4.0, offset=10.0)
    assert np.array_equal(read_rated([(tmp_path / "a.tif", 0.5)], recipe)[0].counts, image(5))


def test_files_of_one_stem_are_on_one_side() -> None:
    assert split_of(Path("a/field7.tif")) == split_of(Path("b/field7.tiff"))
    found = [split_of(Path(f"{number}.tif")) for number in range(1000)]
    assert 750 < found.count("train") < 850
    assert found.count("test") > 60
    assert found.count("validation") > 60
