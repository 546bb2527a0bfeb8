from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from parfocal import UsageError
from parfocal.models.base import ModelCard
from parfocal.models.cards import load_card, save_card
from parfocal.models.training import quality_publish
from parfocal.models.training import train_quality as trainer
from parfocal.models.training.quality_cli import evaluate_quality, peer_of, peers_of, train_quality
from parfocal.models.training.quality_recipe import QualityRecipe
from tests.models.training.test_fields import field, write

FRC = {"frc": {"form": "log2_px", "mean": 2.0, "sd": 0.5}}
MM = {"mm": {"form": "logit", "mean": 0.0, "sd": 1.0}}


def card_at(folder: Path, architecture: str, labels: dict[str, Any]) -> Path:
    path = folder / "card.json"
    save_card(ModelCard("quality_x", "1", architecture, "w", "0" * 64, training={"labels": labels}), path)
    return path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the command asks of the trainer, the publisher and the tables."""
    found: dict[str, Any] = {}

    def train(recipe: QualityRecipe, out: Path) -> str:
        found["recipe"] = recipe
        return "trained"

    def publish(trained: str, out: Path, *, images: int) -> Path:
        assert trained == "trained"
        found["images"] = images
        out.mkdir(exist_ok=True)
        return card_at(out, "StudentQualityNet", FRC | MM)

    def tables(**given: Any) -> dict[str, Any]:
        found["tables"] = given
        return {"fields": bool(given["fields"])}

    monkeypatch.setattr(trainer, "train", train)
    monkeypatch.setattr(quality_publish, "publish", publish)
    stand_in = SimpleNamespace(
        tables=tables, render=lambda held: f"# {held}", model_peers=list, SHIPPED=[("shipped", {}, ("mm",))]
    )
    monkeypatch.setitem(sys.modules, "parfocal.models.training.quality_tables", stand_in)
    return found


def test_one_command_trains_on_a_folder_and_gives_a_card_with_tables(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields, out = tmp_path / "fields", tmp_path / "out"
    fields.mkdir()
    write(fields / "cells", "train", [field(1)])
    assert train_quality(["--fields", str(fields), "--out", str(out), "--chunks", "7", "--seed", "3"]) == 0
    recipe = asked["recipe"]
    assert (recipe.network, recipe.target, recipe.chunks, recipe.seed) == ("student", "both", 7, 3)
    assert recipe.fields == str(fields)
    ((name, options, targets),) = asked["tables"]["peers"]
    assert name == "quality_x"
    assert options == {"network": "student", "target": "mm", "card": str(out / "card.json")}
    assert targets == ("frc", "mm")
    assert load_card(out / "card.json").measured["tables"] == {"fields": True}
    assert (out / "tables.md").read_text() == "# {'fields': True}\n"
    assert "# {'fields': True}" in capsys.readouterr().out


def test_the_tables_can_be_left_out(asked: dict[str, Any], tmp_path: Path) -> None:
    train_quality(["--out", str(tmp_path / "out"), "--no-tables", "--validation-images", "9"])
    assert "tables" not in asked
    assert asked["images"] == 9


def test_every_option_reaches_the_recipe(asked: dict[str, Any], tmp_path: Path) -> None:
    train_quality(
        ["--out", str(tmp_path / "out"), "--no-tables", "--network", "paper", "--target", "frc", "--patches", "16",
         "--batch", "8", "--learning-rate", "3e-4", "--scaling", "paper", "--images", "12", "--size-px", "512",
         "--workers", "0", "--threads", "2", "--mm-form", "probability", "--passes", "2.5", "--precision", "float32"]
    )  # fmt: skip
    assert asked["recipe"] == QualityRecipe(
        network="paper", target="frc", patches=16, batch=8, learning_rate=3e-4, scaling="paper", chunk_images=12,
        size_px=512, workers=0, threads=2, mm_form="probability", passes=2.5,
        precision="float32",
    )  # fmt: skip


def test_the_papers_network_needs_a_target(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="--target"):
        train_quality(["--network", "paper"])


@pytest.mark.parametrize("option", ["--fields", "--stacks"])
def test_a_folder_that_is_not_there_is_said_at_once(asked: dict[str, Any], option: str) -> None:
    for command in (train_quality, evaluate_quality):
        with pytest.raises(UsageError, match="no such folder"):
            command([option, "/not/there"])
    assert asked == {}


def test_a_folder_that_leaves_nothing_to_train_on_is_refused_before_the_training(
    asked: dict[str, Any], tmp_path: Path
) -> None:
    write(tmp_path / "cells", "test", [field(1)])
    with pytest.raises(UsageError, match="no field is in the train split"):
        train_quality(["--fields", str(tmp_path), "--out", str(tmp_path / "out")])
    assert asked == {}


@pytest.mark.parametrize(("tables", "warned"), [("--tables", 2), ("--no-tables", 1)])
def test_the_splits_that_tables_need_are_asked_for_only_with_them(
    asked: dict[str, Any], tmp_path: Path, tables: str, warned: int
) -> None:
    write(tmp_path / "cells", "train", [field(1)])
    with structlog.testing.capture_logs() as said:
        train_quality(["--fields", str(tmp_path), "--out", str(tmp_path / "out"), tables])
    assert sum(one["log_level"] == "warning" for one in said) == warned


def test_the_folders_of_bad_images_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (train_quality, evaluate_quality):
        with pytest.raises(SystemExit):
            command(["--help"])
        told = capsys.readouterr().out
        assert all(name in told for name in ("vignetted", "live_low_snr", "bbbc006/z00_far"))


def test_the_packaged_cards_are_evaluated_unless_others_are_named(
    asked: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate_quality(["--table-images", "12", "--samples", "3", "--json"]) == 0
    assert asked["tables"]["peers"] == [("shipped", {}, ("mm",))]
    assert (asked["tables"]["images"], asked["tables"]["samples"]) == (12, 3)
    assert json.loads(capsys.readouterr().out) == {"fields": False}
    evaluate_quality(["--card", str(card_at(tmp_path, "PaperQualityNet", FRC))])
    ((_, options, targets),) = asked["tables"]["peers"]
    assert (options["network"], options["target"], targets) == ("paper", "frc", ("frc",))


def test_a_card_is_asked_for_the_targets_it_has(tmp_path: Path) -> None:
    assert peer_of(card_at(tmp_path, "StudentQualityNet", MM))[2] == ("mm",)


def test_cards_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    cards = []
    for name in ("fixed", "paper"):
        (tmp_path / name).mkdir()
        cards.append(card_at(tmp_path / name, "StudentQualityNet", FRC | MM))
    assert [name for name, _, _ in peers_of(cards)] == ["fixed/quality_x", "paper/quality_x"]
    assert [name for name, _, _ in peers_of(cards[:1])] == ["quality_x"]
