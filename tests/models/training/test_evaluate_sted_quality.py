"""The tables of STED quality: their numbers by hand, peers that could not know, one small run of everything."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.models.sted_quality_net import StedQualityNet
from parfocal.models.training import evaluate_sted_quality as evaluation
from parfocal.models.training.evaluate_sted_quality import (
    balanced,
    drawn_from,
    evaluate,
    fifth_of,
    held_out_sources,
    recipe_of,
    render,
    ridge,
    row,
)
from parfocal.models.training.sted_quality_data import StedSource, make_chunk
from parfocal.models.training.sted_quality_publish import publish
from parfocal.models.training.sted_quality_recipe import StedRecipe
from parfocal.models.training.train_sted_quality import source
from parfocal.simulator.sted import DYES

RECIPE = StedRecipe(chunks=1, chunk_frames=36, size_px=48, structures=2)


def test_a_row_by_hand() -> None:
    truth = np.asarray([0.1, 0.15, 0.3, 0.5, 0.7, 0.9])
    value = np.asarray([0.1, 0.45, 0.2, 0.6, 0.7, 1.0])
    found = row(truth, value, np.full(6, 0.1), 1)
    assert found["mae"] == [0.15, 0.1, 0.1, 0.0, 0.1]
    assert (found["bad"], found["bad_above"], found["bad_worst"]) == (2, 0.5, 0.45)
    # The first of every fifth: 0.1 0.3 0.5 0.7 0.9, in their order.
    assert found["spearman"] == 1.0
    assert found["within"] == [pytest.approx(5 / 6, abs=1e-3), pytest.approx(5 / 6, abs=1e-3)]
    assert row(truth, value, np.full(6, math.nan), 1)["within"] is None


def test_fifths_and_balance() -> None:
    assert fifth_of(np.asarray([0.0, 0.19, 0.2, 0.99, 1.0])).tolist() == [0, 0, 1, 4, 4]
    truth = np.asarray([0.05] * 10 + [0.95] * 3 + [0.5])
    assert balanced(truth, 2).tolist() == [0, 1, 10, 11, 13]


def test_what_is_held_out_is_nowhere_in_the_training() -> None:
    sources, trained = held_out_sources(RECIPE.seed), source(RECIPE)
    assert trained.seed not in {of.seed for of in sources.values()}
    assert len({of.seed for of in sources.values()}) == len(sources)
    assert trained.dyes == ()
    assert any(set(of.dyes) == set(DYES) for of in sources.values())
    assert any(not set(of.kinds) & set(trained.kinds) for of in sources.values())


def test_the_random_peer_knows_the_labels_and_not_the_image() -> None:
    labels = np.asarray([0.2, 0.2, 0.8], dtype=np.float32)
    frames = {"counts": np.zeros((3000, 2, 2))}
    value, sd = drawn_from(labels, 1)(frames)
    assert set(np.round(value, 3)) == {0.2, 0.8}
    assert value.mean() == pytest.approx(0.4, abs=0.03)
    assert np.isnan(sd).all()


def test_the_ridge_learns_from_measures() -> None:
    taught = make_chunk(StedSource(11, ("clusters",), ("robust",), 64, 3), 0, 54)
    value, _ = ridge(taught)(taught)
    assert np.corrcoef(value, taught["quality"])[0, 1] > 0.8
    assert (value >= 0).all()
    assert (value <= 1).all()


def test_one_small_run_of_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "MOST_CHUNKS", 1)
    monkeypatch.setattr(evaluation, "A_CHUNK", 12)
    small = {
        name: StedSource(of.seed, of.kinds, of.dyes, 48, 2, 1) for name, of in held_out_sources(RECIPE.seed).items()
    }
    monkeypatch.setattr(evaluation, "held_out_sources", lambda seed: small)
    torch.manual_seed(0)
    card = publish(StedQualityNet().eval(), RECIPE, make_chunk(source(RECIPE), 0, 36), tmp_path)
    found = evaluate([card], recipe=recipe_of(card), per_fifth=2)
    assert set(found) == {*small, "all", "what is wrong"}
    assert set(found["all"]["peers"]) == {"sted_quality", "ridge on sted_measures", "random, of the training's labels"}
    whole = found["all"]["peers"]["sted_quality"]
    assert whole["frames"] == sum(found[name]["peers"]["sted_quality"]["frames"] for name in small)
    assert set(found["what is wrong"]) == {"too_dim", "bleached", "unresolved"}
    text = render(found)
    assert text.count("### ") == len(small) + 2
    assert "Abstained, by fifth" in text


def test_the_recipe_of_a_card_is_the_one_it_was_trained_by(tmp_path: Path) -> None:
    torch.manual_seed(0)
    card = publish(StedQualityNet().eval(), RECIPE, make_chunk(source(RECIPE), 0, 36), tmp_path)
    assert recipe_of(card) == RECIPE
    assert recipe_of(card, 7).seed == 7
