from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from parfocal.models.defocus_net import CompactDefocusNet
from parfocal.models.training import train_defocus
from parfocal.models.training.train_defocus import Buffer, Recipe, train

TINY = Recipe(
    chunks=2, chunk_examples=4, passes=1, batch=4, buffer_chunks=2, size_px=128, procedural=2, workers=0, seed=7,
    device="cpu", checkpoint_every=1,
)  # fmt: skip


class Interruption(Exception):  # noqa: N818 - not an error
    pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(TINY, out)
    return out


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "weights.safetensors")


def test_training_writes_weights_that_load_and_the_recipe(trained: Path) -> None:
    network = CompactDefocusNet()
    network.load_state_dict(weights(trained))
    assert all(torch.isfinite(value.float()).all() for value in network.state_dict().values())
    torch.manual_seed(TINY.seed)
    untrained = CompactDefocusNet().state_dict()
    assert any(not torch.equal(value, untrained[name]) for name, value in network.state_dict().items())
    held = json.loads((trained / "recipe.json").read_text())
    assert held["seed"] == 7
    assert held["fields"] is False  # whether, not where


def test_the_same_seed_gives_the_same_weights_to_the_bit(trained: Path, tmp_path: Path) -> None:
    train(TINY, tmp_path)
    first, second = weights(trained), weights(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_seed_gives_other_weights(trained: Path, tmp_path: Path) -> None:
    train(replace(TINY, seed=8), tmp_path)
    assert not torch.equal(weights(trained)["head.0.weight"], weights(tmp_path)["head.0.weight"])


def test_an_interrupted_training_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = train_defocus._Job.learn
    seen: list[int] = []

    def interrupted(job: Any, buffer: Buffer, number: int) -> dict[str, float]:
        seen.append(number)
        if len(seen) == 2:
            raise Interruption
        return learn(job, buffer, number)

    monkeypatch.setattr(train_defocus._Job, "learn", interrupted)
    with pytest.raises(Interruption):
        train(TINY, tmp_path)
    assert not (tmp_path / "weights.safetensors").exists()
    before = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert before["chunks"] == 1
    train(TINY, tmp_path)
    assert seen == [0, 1, 1]  # the first chunk's steps are not done again
    after = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    steps = {int(state["step"]) for state in after["optimiser"]["state"].values()}
    assert steps == {2}
    assert int(after["averaged"]["n_averaged"]) == 2


def test_a_checkpoint_of_another_recipe_is_left_alone(trained: Path) -> None:
    job = train_defocus._Job(replace(TINY, learning_rate=1e-4), torch.device("cpu"))
    assert job.restore(trained / "checkpoint.pt") == 0
    same = train_defocus._Job(TINY, torch.device("cpu"))
    assert same.restore(trained / "checkpoint.pt") == 2


def test_training_goes_on_from_given_weights(trained: Path) -> None:
    job = train_defocus._Job(replace(TINY, start_from=str(trained / "weights.safetensors")), torch.device("cpu"))
    held = weights(trained)
    assert all(torch.equal(value, held[name]) for name, value in job.network.state_dict().items())


def chunk(value: float, rows: int = 4) -> dict[str, NDArray[Any]]:
    return {"counts": np.full((rows, 2, 2), value), "blur_px": np.full(rows, value)}


def test_the_buffer_holds_the_last_chunks_and_keeps_rows_together() -> None:
    buffer = Buffer(3)
    for number in range(5):
        buffer.add(chunk(float(number)))
    batch = buffer.batch(500, np.random.default_rng(1))
    assert set(batch["blur_px"]) == {2.0, 3.0, 4.0}
    np.testing.assert_array_equal(batch["counts"][:, 0, 0], batch["blur_px"])


def batch_of(count: int, blur_px: float) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(3)
    return {
        "counts": rng.poisson(300, (count, 128, 128)).astype(np.uint16),
        "blur_px": np.full(count, blur_px, dtype=np.float32),
        "log2_cutoff": np.zeros(count, dtype=np.float32),
        "spherical_waves": np.full(count, -0.1, dtype=np.float32),
        "signal": np.ones(count, dtype=np.float32),
        "transmitted": np.zeros(count, dtype=bool),
    }


def test_steps_on_one_batch_lower_its_loss() -> None:
    torch.manual_seed(1)
    job = train_defocus._Job(replace(TINY, learning_rate=1e-3), torch.device("cpu"))
    losses = [job._step(batch_of(4, 30.0))["total"] for _ in range(8)]
    assert losses[-1] < 0.8 * losses[0]


def test_the_papers_network_is_trained_on_its_patches() -> None:
    torch.manual_seed(1)
    job = train_defocus._Job(replace(TINY, architecture="yang2018"), torch.device("cpu"))
    before = job.network.fc2.weight.detach().clone()  # type: ignore[union-attr]
    parts = job._step(batch_of(2, 9.0))
    assert 0.0 < parts["total"] < 10.0
    assert not torch.equal(before, job.network.fc2.weight)  # type: ignore[arg-type]
