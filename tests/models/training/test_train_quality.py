from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from parfocal import UsageError
from parfocal.models.artefacts import load_classifier
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.quality_student import StudentQualityNet
from parfocal.models.training import train_quality
from parfocal.models.training.quality_batches import ImageBuffer
from parfocal.models.training.quality_graded import alike_throughout
from parfocal.models.training.quality_recipe import QualityRecipe
from parfocal.models.training.train_quality import QualityJob, measured_labels, train

TINY = QualityRecipe(
    chunks=3, chunk_images=6, passes=1, batch=3, size_px=64, workers=0, seed=7, device="cpu", checkpoint_every=1,
    label_chunks=1,
)  # fmt: skip
PAPER = replace(TINY, network="paper", target="mm", batch=1, patches=6)
CPU = torch.device("cpu")


class Interruption(Exception):  # noqa: N818 - not an error
    pass


def fake_chunk(seed: int, images: int, side: int = 64) -> dict[str, NDArray[Any]]:
    """Noise grows with the label; the artefact is whether there is much."""
    rng = np.random.default_rng(seed)
    level = rng.random(images)
    shape = (images, side, side)
    scene = 800 * (rng.random(shape) > 0.97)
    noise = rng.normal(0, 1, shape) * (5 + 300 * level)[:, None, None]
    made = {
        "counts": (1000 + scene + noise).clip(0, 65535).astype(np.uint16),
        "artefact": (3 * (level > 0.4)).astype(np.int64),
        "level": level.astype(np.float32),
        "frc": (1.5 + 3 * level).astype(np.float32),
        "frc_censored": level < 0.1,
        "mm": (0.95 - 0.9 * level).astype(np.float32),
        "ladder": np.arange(images) // 5 - (images < 5),
    }
    return made | alike_throughout(made["frc"], made["frc_censored"], made["mm"], side // 32)


@pytest.fixture(autouse=True)
def fake_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(
        recipe: QualityRecipe, split: str, *, count: int, images: int, start: int = 0, workers: int | None = None
    ) -> Iterator[dict[str, NDArray[Any]]]:
        for number in range(start, count):
            yield fake_chunk(1000 * recipe.seed + number + 500 * (split != "train"), images, recipe.size_px)

    monkeypatch.setattr(train_quality, "stream_chunks", stream)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights.safetensors")


def test_training_writes_weights_that_load_and_what_their_numbers_mean(tmp_path: Path) -> None:
    trained = train(TINY, tmp_path)
    network = StudentQualityNet()
    network.load_state_dict(weights(tmp_path))
    assert all(torch.isfinite(value.float()).all() for value in network.state_dict().values())
    held = json.loads((tmp_path / "recipe.json").read_text())
    assert held["seed"] == 7
    assert held["fields"] is False  # whether, not where
    assert held["labels"] == {target: scale.to_json() for target, scale in trained.labels.items()}
    first = fake_chunk(7000, 6)
    assert trained.labels["frc"].mean == pytest.approx(float(first["frc"][~first["frc_censored"]].mean()), rel=1e-5)


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_others(tmp_path: Path) -> None:
    short = replace(TINY, chunks=1)
    for name, recipe in (("a", short), ("b", short), ("c", replace(short, seed=8))):
        train(recipe, tmp_path / name)
    one, two, other = (weights(tmp_path / name) for name in "abc")
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["judge.weight"], other["judge.weight"])


def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = QualityJob.learn
    seen: list[int] = []

    def interrupted(job: QualityJob, buffer: ImageBuffer, number: int) -> dict[str, float]:
        seen.append(number)
        if len(seen) == 2:
            raise Interruption
        return learn(job, buffer, number)

    monkeypatch.setattr(QualityJob, "learn", interrupted)
    with pytest.raises(Interruption):
        train(TINY, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert before["chunks"] == 1
    trained = train(TINY, tmp_path)
    assert seen == [0, 1, 1, 2]  # the first chunk's steps are not done again
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert {int(state["step"]) for state in after["optimiser"]["state"].values()} == {6}
    assert after["labels"] == before["labels"]  # measured once: weights and labels belong together
    assert {target: scale.to_json() for target, scale in trained.labels.items()} == before["labels"]


def test_a_checkpoint_of_another_recipe_is_left_alone(tmp_path: Path) -> None:
    train(replace(TINY, chunks=1), tmp_path)
    assert QualityJob(replace(TINY, chunks=1, learning_rate=1e-4), CPU).restore(tmp_path / "checkpoint.pt") == 0
    assert QualityJob(replace(TINY, chunks=1), CPU).restore(tmp_path / "checkpoint.pt") == 1


def test_a_fresh_student_begins_with_the_markers_as_the_classifier_takes_them() -> None:
    network, classifier = QualityJob(TINY, CPU).network, load_classifier()
    assert isinstance(network, StudentQualityNet)
    assert torch.equal(network.measured.mean, classifier.mean)
    assert torch.equal(network.measured.layers[0].weight, classifier.layers[0].weight)


def test_training_goes_on_from_weights_and_their_labels(tmp_path: Path) -> None:
    trained = train(replace(TINY, chunks=1), tmp_path)
    job = QualityJob(replace(TINY, seed=9, start_from=str(tmp_path / "weights.safetensors")), CPU)
    held = weights(tmp_path)
    assert all(torch.equal(value, held[name]) for name, value in job.network.state_dict().items())
    assert job.labels == trained.labels


def test_heads_alone_are_trained_on_a_trunk_that_stays(tmp_path: Path) -> None:
    train(replace(TINY, chunks=1), tmp_path / "a")
    start = tmp_path / "a" / "weights.safetensors"
    train(replace(TINY, chunks=1, seed=9, start_from=str(start), heads_only=True), tmp_path / "b")
    before, after = weights(tmp_path / "a"), weights(tmp_path / "b")
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert {name for name in before if name.startswith("stages.")} <= same  # its normalisation too
    assert not {"embed.1.weight", "judge.weight", "artefact.weight", "embed.0.running_mean"} & same


def test_weights_of_another_target_are_a_start_without_labels(tmp_path: Path) -> None:
    train(replace(PAPER, chunks=1, chunk_images=2), tmp_path)
    other = replace(PAPER, target="frc", start_from=str(tmp_path / "weights.safetensors"))
    job = QualityJob(other, CPU)
    assert job.labels == {}
    assert torch.equal(job.network.state_dict()["features.0.weight"], weights(tmp_path)["features.0.weight"])


@pytest.mark.parametrize("spoil", ["missing", "form"])
def test_weights_whose_numbers_mean_nothing_known_are_refused(tmp_path: Path, spoil: str) -> None:
    save_file(StudentQualityNet().state_dict(), tmp_path / "weights.safetensors")
    if spoil == "form":
        labels = {
            "frc": {"form": "log2_px", "mean": 0, "sd": 1}, "mm": {"form": "probability", "mean": 0, "sd": 1}
        }  # fmt: skip
        (tmp_path / "recipe.json").write_text(json.dumps({"labels": labels}))
    with pytest.raises(UsageError, match=r"recipe\.json"):
        QualityJob(replace(TINY, start_from=str(tmp_path / "weights.safetensors")), CPU)


def test_steps_on_one_batch_lower_its_loss() -> None:
    torch.manual_seed(1)
    job = QualityJob(replace(TINY, mixed=0.0, learning_rate=2e-3), CPU)
    chunk = fake_chunk(3, 6)
    job.labels = measured_labels(TINY, [chunk])
    for group in job.optimiser.param_groups:
        group["lr"] = 2e-3
    losses = [job.step(chunk)["total"] for _ in range(15)]
    assert losses[-1] < 0.6 * losses[0]


def test_the_order_of_a_ladder_is_learned_where_the_recipe_asks_for_it() -> None:
    torch.manual_seed(1)
    job = QualityJob(replace(TINY, ladders=1, batch=6, mixed=0.0), CPU)
    buffer = ImageBuffer(1)
    buffer.add(fake_chunk(3, 10))
    job.labels = measured_labels(TINY, [fake_chunk(3, 10)])
    assert {"frc_ladder", "mm_ladder"} <= set(job.learn(buffer, 0))


def test_the_papers_network_is_trained_on_patches_of_one_image() -> None:
    torch.manual_seed(1)
    job = QualityJob(PAPER, CPU)
    chunk = fake_chunk(3, 1)
    job.labels = measured_labels(PAPER, [fake_chunk(4, 8)])
    seen: list[tuple[int, ...]] = []
    job.network.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    before = job.network.weight[2].bias.detach().clone()  # type: ignore[index, operator, union-attr]
    losses = [job.step(chunk) for _ in range(4)]
    assert seen == [(6, 1, 32, 32)] * 4
    assert losses[0]["total"] == pytest.approx(losses[0]["whole"] + losses[0]["patch"], rel=1e-5)
    assert losses[0]["alive"] == 1.0
    assert not torch.equal(before, job.network.weight[2].bias)  # type: ignore[index, operator, union-attr]


def test_a_dead_weight_head_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stillborn(PaperQualityNet):
        def __init__(self) -> None:
            super().__init__()
            torch.nn.init.constant_(self.weight[2].bias, -1e6)  # type: ignore[arg-type]

    said: list[str] = []
    monkeypatch.setattr(train_quality, "PaperQualityNet", Stillborn)
    monkeypatch.setattr(train_quality.log, "warning", lambda event, **_: said.append(event))
    train(replace(PAPER, chunks=1, chunk_images=2), tmp_path)
    assert any("weight head is dead" in event for event in said)


def test_validation_is_on_images_of_its_own_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(
        train_quality.log, "info", lambda event, **fields: told.append(fields) if event == "validated" else None
    )
    train(replace(TINY, chunks=2, validate_every=1, validation_images=5), tmp_path)
    assert len(told) == 2
    assert {"frc_spearman", "mm_mae_sd", "artefact_accuracy", "chunk"} <= set(told[0])


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"network": "resnet"}, "resnet"), ({"target": "beauty"}, "beauty"), ({"scaling": "minmax"}, "minmax"),
        ({"network": "paper", "target": "both"}, "one output"), ({"size_px": 100}, "100"), ({"mixed": 1.5}, "1.5"),
        ({"chunks": 0}, "positive"), ({"mm_form": "odds"}, "odds"), ({"order": -1.0}, "-1.0"),
        ({"heads_only": True}, "start from"), ({"ladders": 4, "batch": 16}, "do not fit"),
        ({"ladder_share": -1.0}, "no weight"),
    ],
)  # fmt: skip
def test_recipes_that_make_no_sense_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        replace(TINY, **change)
