"""`parfocal train sted-quality` and `evaluate sted-quality`: arguments, refusals, what is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parfocal import UsageError
from parfocal.daemon.commands.tools import EVALUATORS, TRAINERS
from parfocal.models.training import sted_quality_cli as cli
from parfocal.models.training import train_sted_quality, train_sted_rated
from parfocal.models.training.sted_quality_cli import evaluate_sted_quality
from parfocal.models.training.sted_quality_cli import train_sted_quality as train_command


def test_the_commands_are_in_the_table() -> None:
    assert TRAINERS["sted-quality"].endswith("sted_quality_cli:train_sted_quality")
    assert EVALUATORS["sted-quality"].endswith("sted_quality_cli:evaluate_sted_quality")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scores", "a.csv"], "--scores goes with --images"),
        (["--gain", "2"], "--gain goes with --images"),
        (["--images", "folder"], "needs --scores"),
        (["--images", "folder", "--scores", "a.csv"], "--pixel-um"),
        (["--images", "folder", "--scores", "a.csv", "--pixel-um", "0"], "--pixel-um must be positive"),
        (["--images", "f", "--scores", "a.csv", "--pixel-um", "0.02", "--gain", "-1"], "--gain must be positive"),
        (["--images", "nowhere", "--scores", "a.csv", "--pixel-um", "0.02"], "there is no such folder"),
        (["--start-from", "nowhere.json"], "--start-from nowhere.json"),
    ],
)
def test_what_does_not_go_together_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_command(arguments)


def test_the_options_become_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def none(recipe: Any, out: Path, *, start_from: Any) -> dict[str, Any]:
        seen.append((recipe, out, start_from))
        return {}

    monkeypatch.setattr(train_sted_quality, "train", none)
    monkeypatch.setattr(train_sted_quality, "validation_frames", lambda recipe: {})
    arguments = ["--network", "both", "--seed", "7", "--chunks", "3", "--specimens", "2", "--out", str(tmp_path)]
    assert train_command([*arguments, "--no-tables"]) == 0
    recipe, out, start_from = seen[0]
    assert recipe.networks == ("StedQualityNet", "RobitailleNet")
    assert (recipe.seed, recipe.chunks, recipe.specimens, out, start_from) == (7, 3, 2, tmp_path, [])


def test_rated_images_get_their_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    def fake(images: Path, scores: Path, recipe: Any, out: Path, *, start_from: Any) -> tuple[Path, str]:
        seen.append((images, scores, recipe, start_from))
        return out / "sted_quality.json", "41 images are few"

    monkeypatch.setattr(train_sted_rated, "train_rated", fake)
    options = ["--images", str(tmp_path), "--scores", "s.csv", "--pixel-um", "0.03", "--offset", "5", "--out", "o"]
    assert train_command(options) == 0
    assert seen[0][2].pixel_um == 0.03
    assert (seen[0][2].gain, seen[0][2].offset, seen[0][3]) == (1.0, 5.0, None)
    assert "41 images are few" in capsys.readouterr().out


def test_a_user_study_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "choices.csv"
    rows = ["tester,target,choice", "a,0.1,target", "a,0.1,prediction", "b,0.1,prediction", "b,0.1,equivalent"]
    path.write_text("\n".join(rows), encoding="utf-8")
    assert evaluate_sted_quality(["--choices", str(path)]) == 0
    text = capsys.readouterr().out
    # a: C 1, D 0.5; b: C 0.5, D 1
    assert "| 0.00-0.20 | 2 | 0.75 ± 0.35 | 0.75 ± 0.35 |" in text
    assert "| 0.80-1.00 | 0 | undefined | undefined |" in text
    assert evaluate_sted_quality(["--choices", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found[0]["confusion"][0] == pytest.approx(0.75)
    assert found[4]["domination"] == [None, None]


def test_a_card_that_is_not_there_is_told() -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        evaluate_sted_quality(["--card", "nowhere.json"])
    with pytest.raises(UsageError, match="there is no such file"):
        evaluate_sted_quality(["--choices", "nowhere.csv"])


def test_help_names_the_lab_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train_command(["--help"])
    text = capsys.readouterr().out
    assert "--images" in text
    assert cli.PEERS[0] in text
