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


def interrupt_at(monkeypatch: pytest.MonkeyPatch, chunk_number: int) -> list[int]:
    """Let a training end before the steps of a chunk, once; the chunks learnt or begun are returned."""
    learn = train_defocus._Job.learn
    seen: list[int] = []

    def interrupted(job: Any, buffer: Buffer, number: int) -> dict[str, float]:
        seen.append(number)
        if seen.count(chunk_number) == 1 and number == chunk_number:
            raise Interruption
        return learn(job, buffer, number)

    monkeypatch.setattr(train_defocus._Job, "learn", interrupted)
    return seen


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two chunks are held, and the third has taken the place of the first when it is interrupted.
    recipe = replace(TINY, chunks=5, chunk_examples=2, batch=2)
    train(recipe, tmp_path / "whole")
    seen = interrupt_at(monkeypatch, 3)
    with pytest.raises(Interruption):
        train(recipe, tmp_path / "parts")
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    train(recipe, tmp_path / "parts")
    assert seen == [0, 1, 2, 3, 3, 4]  # no chunk's steps are done again
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    last = torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)
    assert {int(state["step"]) for state in last["optimiser"]["state"].values()} == {5}
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [
        "checkpoint.pt",
        "recipe.json",
        "weights.safetensors",
    ]


def test_units_are_dropped_after_an_interruption_as_they_would_have_been(tmp_path: Path) -> None:
    job = train_defocus._Job(TINY, torch.device("cpu"))
    job.save(tmp_path / "checkpoint.pt", 1)
    expected = torch.rand(4)
    torch.rand(1000)
    job.restore(tmp_path / "checkpoint.pt")
    assert torch.equal(torch.rand(4), expected)


def test_a_finished_training_is_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(TINY, chunks=1)
    train(recipe, tmp_path)
    first = weights(tmp_path)
    seen = interrupt_at(monkeypatch, 0)
    train(recipe, tmp_path)
    assert seen == []
    assert all(torch.equal(first[name], value) for name, value in weights(tmp_path).items())


def test_a_checkpoint_that_is_being_written_does_not_cost_the_one_before_it(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train_defocus._Job(TINY, torch.device("cpu"))
    assert job.restore(trained / "checkpoint.pt") == 2
    path = tmp_path / "checkpoint.pt"
    job.save(path, 2)

    def killed(held: Any, where: Path) -> None:
        Path(where).write_bytes(b"half of it")
        raise Interruption

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(Interruption):
        job.save(path, 3)
    assert job.restore(path) == 2


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


@pytest.mark.parametrize(("first", "last"), [(0, 2), (0, 7), (4, 7), (5, 8)])
def test_a_buffer_filled_again_draws_what_the_lost_one_would_have(first: int, last: int) -> None:
    whole, again = Buffer(3), Buffer(3, first=first)
    for number in range(last):
        whole.add(chunk(float(number)))
    for number in range(first, last):
        again.add(chunk(float(number)))
    one, two = (buffer.batch(100, np.random.default_rng(1))["blur_px"] for buffer in (whole, again))
    np.testing.assert_array_equal(one, two)


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
