from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.artefacts import ARTEFACTS, Classifier, MmStyle, load_classifier, make
from parfocal.models.base import ImageError, Model, ModelError, WeightsHashError, WeightsMissingError
from parfocal.models.cards import load_card, packaged_card_path, save_card, save_weights
from parfocal.models.metrics.markers import MARKER_NAMES, markers
from parfocal.models.training import degradations
from parfocal.models.training.degradations import degrade


@functools.cache
def cells(seed: int, side: int = 256) -> NDArray[np.float32]:
    """Bright cells with sharp edges and grain on a background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 0.12)
    for cy, cx, r in rng.uniform((0, 0, 4), (side, side, 14), (side * side // 900, 3)):
        image[(y - cy) ** 2 + (x - cx) ** 2 < r**2] = rng.uniform(0.4, 1.0)
    return image.astype(np.float32)


def counts(seed: int, artefact: str, level: float | None = 0.5, **options: bool) -> NDArray[np.uint16]:
    image = degrade(cells(seed), artefact, np.random.default_rng(seed), level=level, **options)
    return np.round(image * 2000 + 100).astype(np.uint16)


@pytest.fixture(scope="module")
def model() -> MmStyle:
    return make({})


def test_the_classes_are_those_of_the_training() -> None:
    assert ARTEFACTS == degradations.ARTEFACTS


def test_it_is_a_model(model: MmStyle) -> None:
    assert isinstance(model, Model)
    assert model.card.name == "artefacts"
    assert set(model.describe()) == {"device", "backend", "precision"}


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_it_says_what_is_wrong_with_an_image(model: MmStyle, artefact: str) -> None:
    told = model.assess(np.stack([counts(seed, artefact, 0.7) for seed in range(5)]), 0.1)
    assert sum(ARTEFACTS[int(one.detail["artefact"])] == artefact for one in told) >= 4
    for one in told:
        assert one.value == one.detail["artefact_reference"]
        assert sum(one.detail[f"artefact_{name}"] for name in ARTEFACTS) == pytest.approx(1.0, abs=1e-5)
        assert one.sd == pytest.approx(np.sqrt(one.value * (1 - one.value)))
        assert set(MARKER_NAMES) <= set(one.detail)


@pytest.mark.parametrize("artefact", ARTEFACTS[1:])
def test_a_worse_image_has_a_lower_score(model: MmStyle, artefact: str) -> None:
    levels = (-1.0, -0.4, 0.0, 0.5, 1.0)
    told = [
        float(np.mean([one.value for one in model.assess(np.stack([counts(s, artefact, x) for s in range(4)]), 0.1)]))
        for x in levels
    ]
    # Four images: what little the weakest two differ by may be their noise.
    assert all(worse <= better + 0.03 for better, worse in pairwise(told))
    assert told[2:] == sorted(told[2:], reverse=True)
    assert told[0] > 0.6
    assert told[-1] < 0.2


def test_gain_and_offset_hardly_move_the_score(model: MmStyle) -> None:
    for artefact in ARTEFACTS:
        image = counts(3, artefact).astype(np.float64)
        told = [
            model.assess(np.round(image * gain + offset).astype(np.uint16)[None], 0.1)[0].value
            for gain, offset in ((1.0, 0), (0.5, 0), (2.0, 500), (1.3, 100))
        ]
        assert np.ptp(told) < 0.05


def test_it_abstains_where_there_is_nothing_to_judge(model: MmStyle) -> None:
    constant = model.assess(np.full((1, 64, 64), 100, dtype=np.uint16), 0.1)[0]
    assert constant.abstained
    assert "constant" in constant.reason
    clipped = np.minimum(counts(1, "reference").astype(np.int64) * 40, 65535).astype(np.uint16)
    saturated = model.assess(clipped[None], 0.1)[0]
    assert saturated.abstained
    assert "saturated" in saturated.reason
    assert saturated.detail["saturated_share"] > 0.01


def test_a_known_ceiling_is_believed() -> None:
    image = counts(1, "reference")
    ceiling = float(np.percentile(image, 90))
    assert make({"saturation_counts": ceiling}).assess(image[None], 0.1)[0].abstained
    assert not make({"saturation_counts": 65535}).assess(image[None], 0.1)[0].abstained


@pytest.mark.parametrize("shape", [(32, 32), (40, 300), (600, 64)])
def test_frames_of_any_shape_and_type(model: MmStyle, shape: tuple[int, int]) -> None:
    frame = np.random.default_rng(0).poisson(50.0, shape)
    for kind in (np.uint8, np.uint16, ">u2", np.float64):
        told = model.assess(frame.astype(kind), 0.1)
        assert len(told) == 1
        assert 0.0 <= told[0].value <= 1.0


def test_what_is_no_image_is_refused(model: MmStyle) -> None:
    for bad in (np.full((64, 64), np.nan), np.zeros((8, 8)), np.zeros((2, 3, 64, 64))):
        with pytest.raises(ImageError):
            model.assess(bad, 0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crad": "x"}, "did you mean 'card'"),
        ({"card": 3}, "must be a path"),
        ({"saturation_counts": 0}, "positive number"),
        ({"saturation_counts": True}, "positive number"),
        ({"saturation_counts": float("nan")}, "positive number"),
        ({"card": "/nowhere/artefacts.json"}, "cannot be read"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        make(options)


# Cards and weights


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A copy of the packaged card and weights."""
    packaged = packaged_card_path("artefacts")
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"artefacts{suffix}").write_bytes(packaged.with_suffix(suffix).read_bytes())
    return tmp_path / "artefacts.json"


def test_another_card_can_be_named(card: Path) -> None:
    frame = counts(0, "shot")
    assert make({"card": str(card)}).assess(frame, 0.1)[0].value == make({}).assess(frame, 0.1)[0].value


def test_exchanged_weights_are_refused(card: Path) -> None:
    weights = card.with_suffix(".safetensors")
    data = bytearray(weights.read_bytes())
    data[-2] ^= 0xFF
    weights.write_bytes(bytes(data))
    with pytest.raises(WeightsHashError):
        load_classifier(card)
    weights.unlink()
    with pytest.raises(WeightsMissingError):
        load_classifier(card)


def test_another_architecture_or_other_markers_are_refused(card: Path) -> None:
    held = load_card(card)
    save_card(replace(held, architecture="CompactDefocusNet"), card)
    with pytest.raises(ModelError, match="not a 'MarkerClassifier'"):
        load_classifier(card)
    save_card(replace(held, input={**held.input, "markers": list(MARKER_NAMES)[::-1]}), card)
    with pytest.raises(ModelError, match="other markers"):
        load_classifier(card)
    sha = save_weights({"layers.0.weight": torch.zeros(2, 2)}, card.with_suffix(".safetensors"))
    save_card(replace(held, weights_sha256=sha), card)
    with pytest.raises(ModelError, match="not those of a marker classifier"):
        load_classifier(card)


def test_the_card_says_how_often_it_is_right() -> None:
    measured = json.loads(packaged_card_path("artefacts").read_text())["measured"]
    for table in measured.values():
        assert 0.5 < table["accuracy"] <= 1.0
        assert set(table["confusion"]) == set(ARTEFACTS)
        for row in table["confusion"].values():
            assert sum(row.values()) == pytest.approx(1.0, abs=0.01)


def test_markers_far_outside_of_the_training_are_held_at_its_border() -> None:
    classifier = load_classifier()
    with torch.inference_mode():
        far = classifier.mean[None] + torch.tensor([[50.0], [5000.0]]) * classifier.sd
        torch.testing.assert_close(classifier(far)[0], classifier(far)[1])


def test_scores_are_the_first_of_the_probabilities() -> None:
    classifier = Classifier().eval()
    frames = torch.rand(2, 64, 64) * 100
    with torch.inference_mode():
        torch.testing.assert_close(classifier.scores(frames), torch.softmax(classifier(markers(frames)), 1)[:, 0])
