from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from parfocal import UsageError
from parfocal.models.cards import load_card, packaged_card_path
from parfocal.models.training import publish, tables, train_defocus
from parfocal.models.training.cli import evaluate_defocus
from parfocal.models.training.cli import train_defocus as train_command
from tests.models.training.test_fields import field, write

Calls = list[tuple[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Put down what the commands ask for instead of working for hours."""
    seen: Calls = []

    def train(recipe: Any, out: Path) -> nn.Module:
        seen.append(("train", (recipe, out)))
        return nn.Identity()

    def published(network: nn.Module, recipe: Any, out: Path, *, fields: Path | None) -> None:
        seen.append(("publish", (recipe, out, fields)))

    def measured(**asked: Any) -> dict[str, Any]:
        seen.append(("tables", asked))
        return {"empty fields abstained": 0.5, "fields": {"compact": {"all": {"images": 0, "abstained": float("nan")}}}}

    monkeypatch.setattr(train_defocus, "train", train)
    monkeypatch.setattr(publish, "publish", published)
    monkeypatch.setattr(tables, "tables", measured)
    monkeypatch.setattr(tables, "render", lambda found: "rendered")
    return seen


def test_a_training_is_the_recipe_of_its_options_and_is_published(calls: Calls, tmp_path: Path) -> None:
    fields, start = tmp_path / "fields", tmp_path / "start.safetensors"
    fields.mkdir()
    write(fields / "cells", "train", [field(1)])
    start.touch()
    given = ["--chunks", "3", "--size-px", "192", "--batch", "4", "--seed", "8", "--workers", "0", "--device", "cpu"]
    given += ["--fields", str(fields), "--start-from", str(start), "--out", str(tmp_path / "new")]
    assert train_command([*given, "--no-tables"]) == 0
    (first, (recipe, out)), (second, (same, there, told)) = calls
    assert (first, second) == ("train", "publish")
    assert (recipe.architecture, recipe.chunks, recipe.size_px, recipe.batch) == ("compact", 3, 192, 4)
    assert (recipe.seed, recipe.workers, recipe.device) == (8, 0, "cpu")
    assert (recipe.fields, recipe.start_from) == (str(fields), str(start))
    assert same is recipe
    assert out == there == tmp_path / "new"
    assert told == fields


def test_a_folder_that_leaves_nothing_to_train_on_is_refused_before_the_training(calls: Calls, tmp_path: Path) -> None:
    write(tmp_path / "cells", "validation", [field(1)])
    with pytest.raises(UsageError, match="no field is in the train split"):
        train_command(["--fields", str(tmp_path), "--out", str(tmp_path / "new")])
    assert calls == []


def test_the_papers_network_gets_weights_and_no_card(calls: Calls, tmp_path: Path) -> None:
    assert train_command(["--architecture", "yang2018", "--out", str(tmp_path / "y")]) == 0
    assert [name for name, _ in calls] == ["train"]
    assert calls[0][1][0].architecture == "yang2018"


@pytest.mark.parametrize(
    ("option", "path", "says"),
    [
        ("--fields", "none", "there is no such folder"),
        ("--fields", "file", "there is no such folder"),
        ("--start-from", "none", "there is no such file"),
        ("--out", "file", "is no folder"),
    ],
)
def test_a_training_that_cannot_begin_says_which_path(
    calls: Calls, tmp_path: Path, option: str, path: str, says: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=f"^{option} {tmp_path / path}: {says}$"):
        train_command([option, str(tmp_path / path)])
    assert calls == []


@pytest.mark.parametrize(
    ("command", "argv", "says"),
    [
        (train_command, ["--chunks", "0"], "must be a whole number from 1 on (got 0)"),
        (train_command, ["--batch", "many"], "must be a whole number from 1 on (got many)"),
        (train_command, ["--passes", "0"], "must be a number above 0 (got 0)"),
        (train_command, ["--passes", "few"], "must be a number above 0 (got few)"),
        (train_command, ["--architecture", "resnet"], "invalid choice: 'resnet'"),
        (train_command, ["--lr", "1"], "unrecognized arguments: --lr 1"),
        (evaluate_defocus, ["--limit", "-1"], "must be a whole number from 1 on (got -1)"),
        (evaluate_defocus, ["--jsn"], "unrecognized arguments: --jsn"),
    ],
)
def test_a_wrong_argument_is_a_usage_error(
    calls: Calls, capsys: pytest.CaptureFixture[str], command: Any, argv: list[str], says: str
) -> None:
    with pytest.raises(SystemExit) as left:
        command(argv)
    assert left.value.code == 2
    assert says in capsys.readouterr().err
    assert calls == []


def test_examples_smaller_than_a_window_are_refused(calls: Calls) -> None:
    with pytest.raises(UsageError, match=r"--size-px 127: .* 128 px"):
        train_command(["--size-px", "127"])
    assert calls == []


@pytest.mark.parametrize(
    ("option", "path", "says"),
    [
        ("--fields", "none", "there is no such folder"),
        ("--stacks", "none", "there is no such folder"),
        ("--yang", "none", "there is no such file"),
        ("--card", "none", "there is no such file"),
        ("--card", ".", "there is no such file"),
    ],
)
def test_an_evaluation_of_nothing_says_which_path(
    calls: Calls, tmp_path: Path, option: str, path: str, says: str
) -> None:
    with pytest.raises(UsageError, match=f"^{option} {tmp_path / path}: {says}$"):
        evaluate_defocus([option, str(tmp_path / path)])
    assert calls == []


def test_series_without_their_truth_are_refused(calls: Calls, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"truth\.csv: there is no such file"):
        evaluate_defocus(["--stacks", str(tmp_path)])
    assert calls == []


def test_an_evaluation_prints_its_tables(calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert evaluate_defocus(["--fields", str(tmp_path), "--limit", "3", "--seed", "4"]) == 0
    assert capsys.readouterr().out == "rendered\n"
    asked = {"fields": tmp_path, "stacks": None, "yang": None, "card": None, "limit": 3, "seed": 4}
    assert calls == [("tables", asked)]


def test_an_evaluation_in_json_is_json_even_where_nothing_was_counted(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    assert evaluate_defocus(["--json"]) == 0
    told = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert told["empty fields abstained"] == 0.5
    assert told["fields"]["compact"]["all"] == {"images": 0, "abstained": None}
    assert len(calls) == 1


def test_a_card_keeps_the_tables_of_its_own_weights(calls: Calls, tmp_path: Path) -> None:
    out = tmp_path / "new"
    out.mkdir()
    shutil.copy(packaged_card_path("defocus"), out / "defocus.json")
    assert train_command(["--out", str(out)]) == 0
    assert [name for name, _ in calls] == ["train", "publish", "tables"]
    assert calls[2][1]["card"] == out / "defocus.json"
    held = load_card(out / "defocus.json").measured["tables"]
    assert held["empty fields abstained"] == 0.5
    assert held["fields"]["compact"]["all"]["abstained"] is None


def test_what_is_not_given_is_as_the_shipped_weights_were_trained(calls: Calls, tmp_path: Path) -> None:
    assert train_command(["--out", str(tmp_path / "new"), "--no-tables"]) == 0
    recipe = calls[0][1][0]
    card = load_card(packaged_card_path("defocus")).training
    names = ("architecture", "chunks", "chunk_examples", "passes", "batch", "learning_rate", "seed", "size_px")
    assert {name: getattr(recipe, name) for name in names} == {name: card[name] for name in names}
    assert recipe == train_defocus.Recipe()
