"""`parfocal train restore` and `evaluate restore`: what their arguments come to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parfocal import UsageError
from parfocal.daemon.commands.tools import EVALUATORS, TRAINERS
from parfocal.models.training import (
    evaluate_restore,
    fields,
    restore_cli,
    restore_figure,
    restore_kinds,
    restore_publish,
    restore_report,
    train_comi,
    train_restore,
)

Calls = list[tuple[str, Any]]


@pytest.fixture
def checked() -> list[Any]:
    """Which folders were looked through, and for which splits."""
    return []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, checked: list[Any]) -> Calls:
    seen: Calls = []

    def train(recipe: Any, out: Path) -> str:
        seen.append(("train", (recipe, out)))
        return "network"

    monkeypatch.setattr(train_restore, "train", train)
    monkeypatch.setattr(train_comi, "train", train)
    monkeypatch.setattr(train_comi, "read_progress", lambda out: train_comi.Progress(7, 60.0, "cpu"))
    monkeypatch.setattr(
        restore_publish, "publish_restore", lambda network, recipe, out, fields: seen.append(("publish", fields))
    )
    monkeypatch.setattr(restore_kinds, "publish_kinds", lambda *given: seen.append(("kinds", given)))
    monkeypatch.setattr(train_comi, "publish_comi", lambda *given: seen.append(("publish", given)))
    monkeypatch.setattr(evaluate_restore, "peers", lambda *given: seen.append(("peers", given)) or "peers")
    monkeypatch.setattr(
        restore_report, "measure", lambda made, plan: seen.append(("measure", plan)) or {"a": float("nan")}
    )
    monkeypatch.setattr(restore_report, "render", lambda found: "rendered")
    monkeypatch.setattr(fields, "check_fields", lambda *given: checked.append(given))
    monkeypatch.setattr(restore_figure, "figure", lambda made, seed: Image.new("RGB", (4, 4)))
    return seen


def test_the_tools_are_found_by_name() -> None:
    assert TRAINERS["restore"] == "parfocal.models.training.restore_cli:train_restore"
    assert EVALUATORS["restore"] == "parfocal.models.training.restore_cli:evaluate_restore"


def test_kinds_are_the_recipe_of_their_options(calls: Calls, tmp_path: Path) -> None:
    given = [
        "--method",
        "kinds",
        "--fields",
        str(tmp_path),
        "--frames",
        "70",
        "--seed",
        "4",
        "--out",
        str(tmp_path / "new"),
    ]
    assert restore_cli.train_restore(given) == 0
    recipe = restore_kinds.KindRecipe(fields=str(tmp_path), frames=70, seed=4)
    assert calls == [("kinds", (recipe, tmp_path / "new"))]
    with pytest.raises(UsageError, match="--chunks: --method kinds takes no such option"):
        restore_cli.train_restore([*given, "--chunks", "3"])


def test_a_unet_is_the_recipe_of_its_options_and_is_published(calls: Calls, tmp_path: Path) -> None:
    given = ["--method", "unet", "--chunks", "3", "--size-px", "128", "--seed", "9", "--workers", "0"]
    assert restore_cli.train_restore([*given, "--fields", str(tmp_path), "--out", str(tmp_path / "new")]) == 0
    (_, (recipe, out)), (_, folder) = calls
    assert recipe == train_restore.RestoreRecipe(chunks=3, size_px=128, seed=9, workers=0, fields=str(tmp_path))
    assert (out, folder) == (tmp_path / "new", tmp_path)


def test_a_cyclegan_is_told_how_long_it_was_trained_and_on_what(calls: Calls, tmp_path: Path) -> None:
    given = ["--method", "comi", "--minutes", "0.5", "--losses", "code", "--no-residual", "--device", "cpu"]
    assert restore_cli.train_restore([*given, "--out", str(tmp_path / "new")]) == 0
    (_, (recipe, out)), (_, (network, same, there, seconds, machine)) = calls
    assert recipe == train_comi.ComiRecipe(minutes=0.5, losses="code", residual=False, device="cpu")
    assert (network, same, out, there, seconds) == ("network", recipe, there, tmp_path / "new", 60.0)
    assert "threads" in machine


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--method", "unet", "--minutes", "3"], "--minutes: --method unet takes no such option"),
        (["--method", "comi", "--chunks", "3"], "--chunks: --method comi takes no such option"),
        (["--method", "unet", "--size-px", "100"], "--size-px 100: .* multiple of 16"),
        (["--method", "comi", "--device", "cpu", "--size-px", "30"], "--size-px: crops must be"),
        (["--method", "unet", "--fields", "none"], "--fields none: there is no such folder"),
        (["--method", "comi", "--vgg19", "none"], "--vgg19 none: there is no such file"),
    ],
)
def test_a_training_that_cannot_be_says_why(calls: Calls, argv: list[str], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        restore_cli.train_restore(argv)
    assert calls == []


@pytest.mark.parametrize("argv", [[], ["--method", "wiener"], ["--method", "unet", "--chunks", "0"]])
def test_a_wrong_argument_is_a_usage_error(calls: Calls, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as left:
        restore_cli.train_restore(argv)
    assert left.value.code == 2
    assert calls == []


def test_an_evaluation_measures_what_it_is_told_to(
    calls: Calls, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "truth.csv").touch()
    (tmp_path / "card.json").touch()
    given = ["--method", "wiener", "--method", "comi", "--fields", str(tmp_path), "--stacks", str(tmp_path)]
    given += ["--comi", str(tmp_path / "card.json"), "--fields-count", "3", "--bad-count", "4", "--seed", "5"]
    assert restore_cli.evaluate_restore([*given, "--size-px", "128"]) == 0
    assert calls == [
        ("peers", (["wiener", "comi"], {"comi": tmp_path / "card.json"})),
        ("measure", restore_report.Plan(tmp_path, tmp_path, 3, 128, 4, 5)),
    ]
    assert capsys.readouterr().out == "rendered\n"


def test_json_is_json_and_all_methods_are_measured_where_none_is_named(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert restore_cli.evaluate_restore(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": None}
    assert calls[0] == ("peers", (None, {}))


def test_a_picture_is_drawn_instead_of_the_tables(calls: Calls, tmp_path: Path) -> None:
    assert restore_cli.evaluate_restore(["--figure", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (4, 4)
    assert [name for name, _ in calls] == ["peers"]
    with pytest.raises(UsageError, match=r"must end with \.png"):
        restore_cli.evaluate_restore(["--figure", str(tmp_path / "a.jpg")])


@pytest.mark.parametrize(("option", "kind"), [("--fields", "folder"), ("--stacks", "folder"), ("--comi", "file")])
def test_a_path_that_is_not_there_is_told_at_once(calls: Calls, option: str, kind: str) -> None:
    with pytest.raises(UsageError, match=f"{option} none: there is no such {kind}"):
        restore_cli.evaluate_restore([option, "none"])
    assert calls == []


@pytest.mark.parametrize(("method", "splits"), [("unet", ()), ("kinds", ()), ("comi", (("train",),))])
def test_a_folder_is_looked_through_before_the_training(
    calls: Calls, checked: list[Any], tmp_path: Path, method: str, splits: tuple[Any, ...]
) -> None:
    given = ["--method", method, "--fields", str(tmp_path), "--out", str(tmp_path / "new")]
    restore_cli.train_restore(given + (["--device", "cpu"] if method != "kinds" else []))
    assert checked == [(tmp_path, *splits)]
