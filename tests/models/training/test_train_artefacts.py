from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parfocal.models.artefacts import Classifier, load_classifier
from parfocal.models.metrics.markers import MARKERS
from parfocal.models.training.degradations import ARTEFACTS, NOISES, TABLE1
from parfocal.models.training.quality_data import NO_LEVEL, QualitySource
from parfocal.models.training.train_artefacts import (
    SHARES,
    ArtefactRecipe,
    Measured,
    evaluate,
    measure,
    publish,
    reference_share,
    train,
    write,
)
from tests.models.training.test_fields import field
from tests.models.training.test_fields import write as write_fields

RECIPE = ArtefactRecipe(fields=None, images=96, held_out=48, procedural=10, epochs=8, workers=0)


def clouds(each: int, seed: int, spread: float = 0.3) -> Measured:
    """Markers of six classes that lie apart, each further out the higher its level."""
    rng = np.random.default_rng(seed)
    artefact = np.repeat(np.arange(6), each)
    level = np.where(artefact == 0, NO_LEVEL, rng.uniform(-1, 1, artefact.size)).astype(np.float32)
    found = rng.normal(0.0, spread, (artefact.size, MARKERS))
    found[np.arange(artefact.size), artefact] += np.where(artefact > 0, 4 * (level + 1), 0.0)
    return Measured(found.astype(np.float32), artefact, level, np.zeros(artefact.size, dtype=np.float32))


@pytest.mark.parametrize("artefact", TABLE1)
def test_what_is_left_of_a_reference_falls_with_the_level_without_a_jump(artefact: str) -> None:
    shares = np.asarray([reference_share(artefact, float(level), 0.0) for level in np.linspace(-1, 1.4, 300)])
    assert (np.diff(shares) < 0).all()
    assert np.abs(np.diff(shares)).max() < 0.02
    assert shares[0] == pytest.approx(1.0)
    least, worst = SHARES[artefact]
    assert least < 0.5  # the paper's least artefact is no reference any more
    assert reference_share(artefact, 0.0, 0.0) == pytest.approx(least)
    assert reference_share(artefact, 1.0, 0.0) == pytest.approx(worst)


def test_of_two_references_the_noisier_is_less_of_one_but_still_one() -> None:
    told = [reference_share("reference", NO_LEVEL, noise) for noise in (0.0, 0.003, 0.015, 0.15)]
    assert told[0] == told[1] == 1.0
    assert told == sorted(told, reverse=True)
    assert told[-1] > 0.5


def test_noise_that_is_the_artefact_counts_once() -> None:
    for artefact in NOISES:
        assert reference_share(artefact, 0.3, 5.0) == reference_share(artefact, 0.3, 0.0)
    assert reference_share("blur", 0.3, 0.15) < reference_share("blur", 0.3, 0.0)


def test_a_classifier_learns_classes_and_grades() -> None:
    classifier = train(clouds(150, 1), ArtefactRecipe(None, epochs=25))
    held = clouds(60, 2)
    sure = (held.artefact == 0) | (held.level > 0)
    found = evaluate(classifier, Measured(*(part[sure] for part in vars(held).values())))
    assert found["accuracy"] > 0.97
    markers = np.zeros((5, MARKERS), dtype=np.float32)
    markers[:, 1] = 4 * np.linspace(0, 2, 5)  # blur of levels -1 to 1
    with torch.inference_mode():
        score = torch.softmax(classifier(torch.from_numpy(markers)), 1)[:, 0].tolist()
    assert score == sorted(score, reverse=True)
    assert score[0] > 0.8
    assert score[-1] < 0.1


def test_training_is_the_same_from_the_same_seed() -> None:
    one, two = (train(clouds(20, 1), ArtefactRecipe(None, epochs=2)) for _ in range(2))
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, two.state_dict()[name], rtol=0, atol=0)


def test_the_confusion_counts_what_was_said() -> None:
    held = clouds(50, 3, spread=0.05)
    found = evaluate(train(clouds(100, 4, spread=0.05), ArtefactRecipe(None, epochs=10)), held)
    assert found["images"] == 300
    assert np.trace([[row[name] for name in ARTEFACTS] for row in found["confusion"].values()]) / 6 == pytest.approx(
        found["accuracy"], abs=1e-3
    )


def test_measuring_is_the_same_in_a_worker() -> None:
    source = QualitySource(None, "train", 6, size_px=64, seed=2)
    one, two = measure(source, 50, 0), measure(source, 50, 1)
    assert one.markers.shape == (96, MARKERS)
    np.testing.assert_allclose(one.markers, two.markers, atol=1e-4)
    np.testing.assert_array_equal(one.level, two.level)


def test_it_writes_a_card_and_weights_that_load(tmp_path: Path) -> None:
    card = publish(RECIPE, tmp_path)
    assert load_classifier(tmp_path / "artefacts.json").mean.shape == (MARKERS,)
    assert card.training["images"] == 96
    assert card.training["fields"] == {}
    assert set(card.measured) == {"table 1, held-out fields", "all of the training's kinds, held-out fields"}
    assert (tmp_path / "artefacts.safetensors").stat().st_size < 40_000


def test_the_card_names_the_folders_that_were_used(tmp_path: Path) -> None:
    write_fields(tmp_path / "mine", "train", [field(1), field(2)])
    recipe = ArtefactRecipe(fields=tmp_path)
    assert write(Classifier(), recipe, {}, tmp_path).training["fields"] == {"mine": 2}
