from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from parfocal.models.base import ModelError
from parfocal.models.restore.comi import load_generator
from parfocal.models.restore.comi_net import ComiGenerator, to_network
from parfocal.models.training import train_comi
from parfocal.models.training.train_comi import ComiRecipe, Job, crop_px, how_long, publish_comi, read_progress, train

TINY = ComiRecipe(
    steps=6, size_px=32, pair_px=64, width=4, blocks=1, seed=7, procedural=2, chunk_examples=2, buffer_chunks=2,
    workers=0, device="cpu", checkpoint_every=1,
)  # fmt: skip
CPU = torch.device("cpu")


class Interruption(Exception):  # noqa: N818 - not an error
    pass


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module")
def trained(out: Path) -> ComiGenerator:
    return train(TINY, out)


def chunk(side: int = 64, images: int = 2) -> dict[str, Any]:
    """Pairs whose frame is half of the truth, at every pixel another."""
    truth = np.arange(images * side * side, dtype=np.float32).reshape(images, side, side) / 1e4
    return {"channels": np.stack([truth / 2] * 3, axis=1), "truth": truth}


def test_training_changes_the_generator_and_says_how_far_it_came(trained: ComiGenerator, out: Path) -> None:
    torch.manual_seed(TINY.seed)
    untrained = ComiGenerator(4, 1).state_dict()
    held = trained.state_dict()
    assert all(torch.isfinite(value).all() for value in held.values())
    assert not torch.equal(held["body.0.weight"], untrained["body.0.weight"])
    assert not trained.training
    progress = read_progress(out)
    assert (progress.steps, progress.device) == (6, "cpu")
    assert progress.seconds > 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["seed"] == 7
    assert recipe["fields"] is False  # whether, not where


def test_the_same_seed_gives_the_same_weights_to_the_bit_and_another_does_not(
    trained: ComiGenerator, tmp_path: Path
) -> None:
    again, other = train(TINY, tmp_path / "again"), train(replace(TINY, seed=8), tmp_path / "other")
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    assert not torch.equal(trained.state_dict()["body.0.weight"], other.state_dict()["body.0.weight"])


def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    trained: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn, seen = Job.learn, []

    def interrupted(job: Job, held: deque[Any], clock: Callable[[], float]) -> dict[str, float]:
        seen.append(job.steps)
        if len(seen) == 3:
            raise Interruption
        return learn(job, held, clock)

    monkeypatch.setattr(Job, "learn", interrupted)
    with pytest.raises(Interruption):
        train(TINY, tmp_path)
    gone_on = train(TINY, tmp_path)
    assert seen == [0, 2, 4, 4]
    for name, value in trained.state_dict().items():
        assert torch.equal(value, gone_on.state_dict()[name])


def test_a_training_at_its_end_is_not_trained_further(
    trained: ComiGenerator, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(train_comi, "chunks")
    again = train(TINY, out)
    for name, value in trained.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_a_checkpoint_of_another_recipe_is_not_gone_on_from(trained: ComiGenerator, out: Path) -> None:
    job = Job(replace(TINY, seed=9), CPU)
    assert job.restore(out / "checkpoint.pt") == 0
    assert job.steps == 0


def test_the_rate_is_the_papers_for_half_of_the_steps_and_falls_to_nothing() -> None:
    job, rates = Job(replace(TINY, steps=8, chunk_examples=1), CPU), []
    for _ in range(8):
        job.learn(deque([chunk()]), lambda: 0.0)
        rates.append(job.rate)
    assert rates == pytest.approx([1e-4, 1e-4, 1e-4, 1e-4, 1e-4, 0.75e-4, 0.5e-4, 0.25e-4])
    assert {group["lr"] for optimiser in (job.makers, job.critics) for group in optimiser.param_groups} == {job.rate}
    assert all(group["betas"] == (0.5, 0.99) for group in job.makers.param_groups)


def test_minutes_end_a_training_and_lower_its_rate_in_time() -> None:
    job = Job(replace(TINY, steps=1000, minutes=1.0, chunk_examples=3), CPU)
    clock = iter([45.0, 54.0, 61.0, 99.0])
    job.learn(deque([chunk()]), lambda: next(clock))
    assert job.steps == 3
    assert job.progress() > 1.0
    assert job.rate == pytest.approx(0.2e-4)  # of the last step, which began at 54 s
    started = Job(replace(TINY, steps=1000, minutes=1.0, chunk_examples=9), CPU)
    clock = iter([20.0, 70.0, 80.0])
    started.learn(deque([chunk()]), lambda: next(clock))
    assert started.steps == 2


def test_the_way_back_is_computed_in_its_turn() -> None:
    job = Job(replace(TINY, cycle_every=3), CPU)
    pair = job._batch(deque([chunk()]))
    turns = []
    for _ in range(4):
        turns.append("cycle" in job._step(*pair))
        job.steps += 1
    assert turns == [True, False, False, True]


def test_the_codes_losses_have_their_own_parts_and_teach_both_generators() -> None:
    job = Job(replace(TINY, losses="code", upsampling="nearest", precision="float32"), CPU)
    before = [network.body[0].weight.clone() for network in (job.sharpen, job.blur, job.judge_sharp, job.judge_blurred)]
    found = job._step(*job._batch(deque([chunk()])))
    assert set(found) == {
        "adversarial", "adversarial_back", "content", "content_back", "identity", "critics", "mse"
    }  # fmt: skip
    after = [network.body[0].weight for network in (job.sharpen, job.blur, job.judge_sharp, job.judge_blurred)]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_batch_is_a_crop_of_frame_and_truth_alike() -> None:
    job = Job(replace(TINY, batch=3), CPU)
    frames, truths = job._batch(deque([chunk()]))
    assert frames.shape == truths.shape == (3, 1, 32, 32)
    assert torch.allclose(frames, to_network((truths * 2 + 1) / 2), atol=1e-6)  # half of the truth, in both units
    assert len({float(truth[0, 0, 0]) for truth in truths}) == 3


@pytest.mark.parametrize(("size_px", "pair_px"), [(16, 64), (128, 64), (34, 64)])
def test_crops_that_cannot_be_are_refused(size_px: int, pair_px: int) -> None:
    with pytest.raises(ValueError, match="crops must be"):
        crop_px(replace(TINY, size_px=size_px, pair_px=pair_px), CPU)


def test_crops_are_128_px_on_a_cpu_and_256_elsewhere() -> None:
    recipe = ComiRecipe()
    assert crop_px(recipe, CPU) == 128
    assert crop_px(recipe, torch.device("cuda")) == 256


def test_what_is_published_is_the_generator_and_how_it_was_trained(
    trained: ComiGenerator, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "progress.json").write_text((out / "progress.json").read_text())
    card = publish_comi(trained, TINY, tmp_path, 1800.0, "one core")
    path = tmp_path / "restore_comi.json"
    loaded = load_generator(card, path).state_dict()
    assert all(torch.equal(value.half().float(), loaded[name]) for name, value in trained.state_dict().items())
    assert load_file(tmp_path / "restore_comi.safetensors")["body.0.weight"].dtype == torch.float16
    held = json.loads(path.read_text())
    assert held["training"]["steps"] == 6
    assert held["training"]["machine"] == "one core"
    assert held["training"]["fields"] == {}
    assert "threads" not in held["training"]
    assert held["measured"]["parameters"] == sum(value.numel() for value in trained.state_dict().values())
    assert held["notes"][0].startswith("Trained for 0.50 hours on one core: 6 steps")


def test_a_card_that_cannot_say_how_long_was_trained_is_not_written(trained: ComiGenerator, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="how far a training"):
        publish_comi(trained, TINY, tmp_path, 1.0, "one core")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "side", "says"),
    [
        (2000, 128, "a lower bound of the method's worth"),
        (60_000, 512, "less than its authors', which is to be borne in mind"),
        (100_000, 512, "as long as in the paper"),
        (100_000, 128, "a lower bound of the method's worth"),
    ],
)
def test_a_card_says_what_its_training_is_worth(steps: int, side: int, says: str) -> None:
    text = how_long(ComiRecipe(), steps, side, 3600.0, "one core")
    assert says in text
    assert "1.00 hours on one core" in text
