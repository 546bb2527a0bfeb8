from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.artefacts import ARTEFACTS
from parfocal.models.quality_labels import LabelScale
from parfocal.models.training.quality_batches import (
    KEYS,
    VIGNETTING,
    ImageBuffer,
    QualityBatch,
    make_batch,
    random_patches,
)
from parfocal.models.training.quality_graded import alike_throughout
from parfocal.models.training.quality_loss import deviation

LABELS = {"frc": LabelScale("frc", "log2_px", 2.0, 0.5), "mm": LabelScale("mm", "probability", 0.5, 0.25)}


def chunk(values: list[float], side: int = 96, artefact: int = 1) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(4)
    n = len(values)
    made = {
        "counts": rng.poisson(200, (n, side, side)).astype(np.uint16)
        + np.asarray(values, dtype=np.uint16)[:, None, None],
        "artefact": np.full(n, artefact),
        "frc": np.asarray(values, dtype=np.float32),
        "frc_censored": np.asarray([value > 3 for value in values]),
        "mm": np.asarray(values, dtype=np.float32) / 10,
        "level": np.asarray(values),
        "ladder": np.full(n, -1),
    }
    return made | alike_throughout(made["frc"], made["frc_censored"], made["mm"], side // 32)


def batch(drawn: dict[str, NDArray[Any]], *, mixed: float, seed: int = 1, scaling: str = "fixed") -> QualityBatch:
    rng = np.random.default_rng(seed)
    return make_batch(drawn, LABELS, rng, scaling=scaling, mixed=mixed, device=torch.device("cpu"))


def test_the_buffer_holds_the_last_chunks_and_keeps_rows_together() -> None:
    buffer = ImageBuffer(2)
    for number in range(4):
        buffer.add(chunk([float(number)] * (number + 1), side=32))
    drawn = buffer.draw(200, np.random.default_rng(1))
    assert set(drawn["frc"]) == {2.0, 3.0}
    assert set(drawn) == set(KEYS)
    assert set(drawn["level"]) == {2.0, 3.0}
    np.testing.assert_allclose(drawn["mm"], drawn["frc"] / 10)


def test_whole_frames_have_the_labels_of_their_image_everywhere() -> None:
    made = batch(chunk([1.0, 4.0]), mixed=0.0)
    assert made.images.shape == (2, 1, 96, 96)
    assert made.unmixed.all()
    assert (made.labels["frc"][0] == -2.0).all()
    assert (made.labels["frc"][1] == 4.0).all()
    assert made.censored["frc"][:, 0, 0].tolist() == [False, True]
    assert not made.censored["mm"].any()
    assert torch.allclose(made.labels["mm"][0], torch.tensor(-1.6))
    assert made.level.tolist() == [1.0, 4.0]


def test_an_image_without_a_label_pulls_at_nothing() -> None:
    drawn = chunk([1.0, 2.0])
    drawn["frc_rows"][1] = np.nan
    made = batch(drawn, mixed=0.0)
    assert made.censored["frc"][:, 0, 0].tolist() == [False, True]
    assert float(deviation(torch.tensor(9.0), made.labels["frc"][1, 0, 0], made.censored["frc"][1, 0, 0])) == 0.0
    assert torch.isfinite(made.labels["mm"]).all()


def test_labels_of_a_graded_frame_turn_with_it() -> None:
    drawn = chunk([1.0, 2.0])
    ladder = np.asarray([0.0, 0.2, 0.4], dtype=np.float32)
    drawn["counts"][1] = np.repeat(1000 * np.arange(1, 4), 32)[:, None] + drawn["counts"][1]
    drawn["mm_rows"][1] = ladder
    seen = set()
    for seed in range(24):
        made = batch(drawn, mixed=0.0, seed=seed)
        assert made.unmixed.tolist() == [True, False]
        means = made.images[1, 0].reshape(3, 32, 3, 32).mean(dim=(1, 3)).flatten()
        # Where the frame is brighter its label is higher, whichever way up it lies.
        assert np.corrcoef(means.numpy(), made.labels["mm"][1].flatten().numpy())[0, 1] > 0.99
        assert torch.allclose(made.labels["mm"][0], torch.tensor(-1.6))
        seen.add(tuple(made.labels["mm"][1].flatten().tolist()))
    assert len(seen) == 4  # up, down, left and right


def test_a_mixed_frame_is_of_two_images_patch_by_patch() -> None:
    drawn = chunk([1.0, 2.0, 4.0])
    whole, made = batch(drawn, mixed=0.0), batch(drawn, mixed=1.0)
    assert not made.unmixed.any()
    for k in range(3):
        mine, theirs = made.labels["frc"][k], whole.labels["frc"]
        other = (k + 1) % 3
        is_other = mine == theirs[other, 0, 0]
        assert is_other.any()
        assert (~is_other).any()
        assert (made.censored["frc"][k] == torch.where(is_other, other == 2, k == 2)).all()
        for row in range(3):
            for column in range(3):
                at = (slice(row * 32, row * 32 + 32), slice(column * 32, column * 32 + 32))
                source = other if is_other[row, column] else k
                assert torch.equal(made.images[k, 0][at], whole.images[source, 0][at])


def test_a_vignetted_frame_is_never_cut() -> None:
    """A part of it does not show the vignette."""
    drawn = chunk([1.0, 2.0, 4.0], artefact=VIGNETTING)
    assert ARTEFACTS[VIGNETTING] == "vignetting"
    assert batch(drawn, mixed=1.0).unmixed.all()


def test_frames_are_turned_with_their_number_of_patches() -> None:
    drawn = chunk([1.0])
    seen = {batch(drawn, mixed=0.0, seed=seed).images.numpy().tobytes() for seed in range(40)}
    assert len(seen) == 8


def test_the_papers_scaling_is_another() -> None:
    made = batch(chunk([1.0]), mixed=0.0, scaling="paper")
    assert (float(made.images.min()), float(made.images.max())) == (0.0, 1.0)


def test_random_patches_are_of_their_own_image() -> None:
    images = torch.stack([torch.full((1, 64, 80), float(k)) for k in range(3)])
    patches = random_patches(images, 5, np.random.default_rng(2))
    assert patches.shape == (15, 1, 32, 32)
    assert patches.mean(dim=(1, 2, 3)).tolist() == [0.0] * 5 + [1.0] * 5 + [2.0] * 5


def test_random_patches_are_cut_as_they_lie() -> None:
    image = torch.arange(64.0 * 80).reshape(1, 1, 64, 80)
    patches = random_patches(image, 20, np.random.default_rng(2))
    assert len({float(patch[0, 0, 0]) for patch in patches}) > 10
    for patch in patches:
        assert float(patch[0, 1, 0] - patch[0, 0, 0]) == 80.0
        assert float(patch[0, 0, 31] - patch[0, 0, 0]) == pytest.approx(31.0)


def test_a_ladder_is_drawn_whole_and_comes_last() -> None:
    held = chunk([float(value) for value in range(12)])
    held["ladder"] = np.asarray([0] * 5 + [1] * 5 + [-1] * 2)
    buffer = ImageBuffer(2)
    buffer.add(held)
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(20):
        drawn = buffer.draw(8, rng, ladders=1)
        assert drawn["ladder"].tolist() == [-1] * 3 + [0] * 5
        seen.add(tuple(drawn["frc"][3:].tolist()))
    assert seen == {(0.0, 1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0, 9.0)}
    assert batch(drawn, mixed=0.0).ladder.tolist() == drawn["ladder"].tolist()


def test_where_there_is_no_ladder_images_are_drawn_alone() -> None:
    buffer = ImageBuffer(1)
    buffer.add(chunk([1.0, 2.0]))
    drawn = buffer.draw(6, np.random.default_rng(3), ladders=1)
    assert drawn["ladder"].tolist() == [-1] * 6
    assert len(drawn["frc"]) == 6
