from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.cards import load_card, weights_path
from parfocal.models.metrics.markers import MARKER_NAMES
from parfocal.models.quality import QualityModel
from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.quality_student import StudentQualityNet
from parfocal.models.training import quality_publish
from parfocal.models.training.card_tables import add_tables
from parfocal.models.training.quality_measures import Said
from parfocal.models.training.quality_publish import calibration, publish
from parfocal.models.training.quality_recipe import QualityRecipe
from parfocal.models.training.train_quality import Trained
from tests.models.training.test_fields import field, write

LABELS = {"frc": LabelScale("frc", "log2_px", 2.0, 0.5), "mm": LabelScale("mm", "logit", 0.0, 2.0)}


@pytest.fixture(autouse=True)
def fake_stream(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []

    def stream(recipe: QualityRecipe, split: str, *, count: int, images: int) -> Iterator[dict[str, NDArray[Any]]]:
        rng = np.random.default_rng(1)
        asked.append(split)
        for _ in range(count):
            yield {
                "counts": rng.poisson(300, (images, 64, 64)).astype(np.uint16),
                "artefact": rng.integers(0, 6, images), "level": np.zeros(images),
                "frc": rng.uniform(1, 4, images).astype(np.float32), "frc_censored": rng.random(images) < 0.2,
                "mm": rng.random(images).astype(np.float32),
            }  # fmt: skip

    monkeypatch.setattr(quality_publish, "stream_chunks", stream)
    monkeypatch.setattr(quality_publish, "CHUNK", 16)
    return asked


def student(folder: Path, **changes: Any) -> Path:
    torch.manual_seed(3)
    recipe = QualityRecipe(**changes)
    return publish(Trained(StudentQualityNet().eval(), LABELS, recipe), folder, images=32)


def test_a_published_student_is_a_model(tmp_path: Path, fake_stream: list[str]) -> None:
    path = student(tmp_path)
    assert path.name == "quality_student.json"
    assert fake_stream == ["validation"]
    model = QualityModel({"card": str(path), "device": "cpu"})
    rng = np.random.default_rng(1)
    image = (np.kron(rng.random((6, 6)) * 900, np.ones((16, 16))) + rng.poisson(100, (96, 96))).astype(np.uint16)
    said = model.assess(image[None], 0.1)[0]
    assert not said.abstained
    assert said.sd > 0


def test_the_card_says_what_was_measured_and_not_where(tmp_path: Path) -> None:
    fields = tmp_path / "secret"
    fields.mkdir()
    for name in ("cells", "vignetted"):
        write(fields / name, "train", [field(1), field(2)])
    card = load_card(student(tmp_path, fields=str(fields)))
    assert card.measured["validation"]["images"] == 32
    assert {"frc_spearman", "frc_mae_sd", "mm_spearman", "artefact_accuracy"} <= set(card.measured["validation"])
    assert set(card.measured["calibration"]) == {"frc", "mm"}
    assert tuple(card.input["markers"]) == MARKER_NAMES
    assert 0 <= card.measured["bfloat16_error_sd"] < 0.5
    assert card.training["labels"] == {target: scale.to_json() for target, scale in LABELS.items()}
    assert card.training["fields"] == {"cells": 2}  # those that were used
    assert "secret" not in str(card)
    assert card.input["scaling"] == "fixed"
    assert {"mixed", "graded", "order", "went_on"} <= set(card.training)
    assert "patches" not in card.training  # of the paper's network


def test_the_papers_network_is_measured_as_it_is_kept(tmp_path: Path) -> None:
    torch.manual_seed(3)
    network = PaperQualityNet().eval()
    recipe = QualityRecipe(network="paper", target="mm")
    path = publish(Trained(network, {"mm": LABELS["mm"]}, recipe), tmp_path, images=16)
    assert path.name == "quality_mm.json"
    assert not {"mixed", "graded", "order", "heads_only", "teachers"} & set(load_card(path).training)
    assert load_card(path).training["patches"] == 128
    assert weights_path(load_card(path), path).stat().st_size < 11e6
    kept = network.state_dict()["features.0.weight"]
    assert torch.equal(kept, kept.half().float())


def test_spread_is_the_error_found_about_a_value() -> None:
    n = 4000
    rng = np.random.default_rng(1)
    value = rng.uniform(0, 1, n)
    truth = value + rng.normal(0, 1, n) * (0.01 + 0.1 * value)
    scale = LabelScale("mm", "probability", 0.0, 1.0)
    told = Said({"mm": value}, {"mm": truth}, {"mm": np.zeros(n, dtype=bool)}, None, 1.0)
    found = calibration(told, "mm", scale)
    assert found["value"] == sorted(found["value"])
    for at in (0.2, 0.8):
        assert np.interp(at, found["value"], found["sd"]) == pytest.approx(0.01 + 0.1 * at, rel=0.15)
    assert found["within"][0] == pytest.approx(0.68, abs=0.05)
    assert found["within"][1] == pytest.approx(0.95, abs=0.03)


def test_bounds_do_not_calibrate() -> None:
    told = Said(
        {"frc": np.zeros(40)}, {"frc": np.r_[np.zeros(20), np.full(20, 50.0)]},
        {"frc": np.arange(40) >= 20}, None, 1.0,
    )  # fmt: skip
    assert max(calibration(told, "frc", LABELS["frc"])["sd"]) <= quality_publish.LEAST_SD


def test_tables_go_into_the_card_and_what_is_no_number_becomes_null(tmp_path: Path) -> None:
    path = student(tmp_path)
    add_tables(path, {"rows": {"student": {"blur": 0.97, "noise": math.nan}}, "list": [math.inf, 1]})
    card = load_card(path)
    assert card.measured["tables"] == {"rows": {"student": {"blur": 0.97, "noise": None}}, "list": [None, 1]}
    assert "validation" in card.measured
