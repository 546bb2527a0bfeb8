"""Training of the networks of STED quality: reproducible, resumable, and its card is a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from parfocal import UsageError
from parfocal.models import make_model
from parfocal.models.cards import load_card
from parfocal.models.training import train_sted_quality
from parfocal.models.training.sted_quality_data import Chunk, make_chunk
from parfocal.models.training.sted_quality_publish import add_tables, calibration, publish
from parfocal.models.training.sted_quality_recipe import StedRecipe
from parfocal.models.training.train_sted_quality import ask, compact_loss, score, train, validation_frames

RECIPE = StedRecipe(
    networks=("StedQualityNet", "RobitailleNet"), chunks=2, chunk_frames=18, passes=1.0, size_px=48, structures=2,
    batch=9, paper_batch=9, validation_frames=18, validate_every=1, checkpoint_every=1, buffer_frames=64,
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, nn.Module]]:
    out = tmp_path_factory.mktemp("trained")
    return out, train(RECIPE, out)


@pytest.fixture(scope="module")
def held_out() -> Chunk:
    return validation_frames(RECIPE)


def test_training_is_the_same_from_the_same_seed(trained: tuple[Path, dict[str, nn.Module]], tmp_path: Path) -> None:
    again = train(RECIPE, tmp_path)
    for name, network in trained[1].items():
        state = again[name].state_dict()
        for key, value in network.state_dict().items():
            assert torch.equal(value, state[key]), (name, key)
    assert not any(network.training for network in again.values())


def test_a_training_goes_on_from_its_checkpoint(
    trained: tuple[Path, dict[str, nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((trained[0] / "checkpoint.pt").read_bytes())
    monkeypatch.setattr(train_sted_quality.CompactJob, "learn", None)  # everything is done: nothing may be learned
    again = train(RECIPE, tmp_path)
    counts, size = np.random.default_rng(0).poisson(4.0, (2, 64, 64)), np.full(2, 0.02)
    for name, network in trained[1].items():
        assert np.allclose(ask(again[name], counts, size), ask(network, counts, size))


def test_a_checkpoint_of_another_recipe_is_left_alone(
    trained: tuple[Path, dict[str, nn.Module]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes((trained[0] / "checkpoint.pt").read_bytes())
    begun: list[int] = []

    def none(*_: object, start: int, **__: object) -> list[Chunk]:
        begun.append(start)
        return []

    monkeypatch.setattr(train_sted_quality, "chunks", none)
    train(replace(RECIPE, seed=2), tmp_path)
    assert begun == [0]


def test_a_published_network_is_a_model(
    trained: tuple[Path, dict[str, nn.Module]], held_out: Chunk, tmp_path: Path
) -> None:
    for name, network in trained[1].items():
        path = publish(network, RECIPE, held_out, tmp_path)
        card = load_card(path)
        assert card.architecture == name
        assert card.input["pixel_um"] == [0.015, 0.03]
        assert card.training["never_seen"] == ["synapses"]
        add_tables(path, {"row": (1, 2)})
        assert load_card(path).measured["tables"] == {"row": [1, 2]}
        model = make_model("sted_quality", {"card": str(path)})
        image = np.random.default_rng(0).poisson(np.kron(np.arange(16).reshape(4, 4), np.ones((16, 16))))
        said = model.assess(image[None], 0.02)[0]
        assert said.value == pytest.approx(ask(network, image[None], np.asarray([0.02]))[0, 0], abs=1e-5)
        assert said.sd > 0


def test_robitailles_network_is_scaled_by_the_training_frames(trained: tuple[Path, dict[str, nn.Module]]) -> None:
    network = trained[1]["RobitailleNet"]
    counts = make_chunk(train_sted_quality.source(RECIPE), 0, 18)["counts"]
    assert 0 < float(network.mean) < counts.max()  # type: ignore[arg-type]
    assert 0 < float(network.sd) < counts.max()  # type: ignore[arg-type]
    assert float(network.sd) != 14.9  # type: ignore[arg-type]


def test_held_out_frames_are_none_of_the_training(held_out: Chunk) -> None:
    frames = make_chunk(train_sted_quality.source(RECIPE), 0, 18)["counts"]
    assert not any(np.array_equal(one, other) for one in held_out["counts"] for other in frames)


def test_an_unknown_network_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'RobitailleNet'"):
        train(replace(RECIPE, networks=("RobitaileNet",)), tmp_path)


def test_the_loss_is_least_at_the_label() -> None:
    labels = torch.tensor([[0.2, 0.7, 0.1, 0.5]])
    right = compact_loss(torch.logit(labels), labels, RECIPE)
    for index in range(4):
        wrong = labels.clone()
        wrong[0, index] = 0.9 if index != 1 else 0.1
        assert compact_loss(torch.logit(wrong), labels, RECIPE) > right + 0.01


def test_score_and_calibration_by_hand() -> None:
    rng = np.random.default_rng(0)
    said = rng.random(2000)
    truth = said + rng.normal(0, 0.01 + 0.1 * said)
    held = calibration(said, truth)
    assert np.interp(0.9, held["value"], held["sd"]) == pytest.approx(0.1, abs=0.02)
    assert np.interp(0.15, held["value"], held["sd"]) == pytest.approx(0.025, abs=0.01)
    assert held["within"][0] == pytest.approx(0.68, abs=0.04)
    assert held["value"] == sorted(held["value"])
    # A handful of frames is one bin.
    assert len(calibration(said[:20], truth[:20])["sd"]) == 1

    class Half(nn.Module):
        def forward(self, counts: torch.Tensor, pixel_um: torch.Tensor) -> torch.Tensor:
            return counts.mean(dim=(2, 3)) / 10

    counts = np.stack([np.full((32, 32), level) for level in (0, 10, 20)])
    truth3 = np.asarray([0.5, 0.6, 0.7])
    found = score(Half(), {"counts": counts, "pixel_um": np.full(3, 0.02), "quality": truth3})
    assert found["spearman"] == 1.0
    assert found["mae"] == pytest.approx(np.mean(np.abs(1 / (1 + np.exp([0, -1, -2])) - truth3)), abs=1e-4)
