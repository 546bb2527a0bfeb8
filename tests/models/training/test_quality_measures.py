from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.quality_scaling import scale
from parfocal.models.quality_student import StudentQualityNet
from parfocal.models.training.quality_measures import Said, ask, measure, spearman, summary

LABELS = {"frc": LabelScale("frc", "log2_px", 2.0, 0.5), "mm": LabelScale("mm", "logit", 0.0, 2.0)}


def said(z: list[float], label: list[float], censored: list[bool]) -> Said:
    return Said(
        {"frc": np.asarray(z)}, {"frc": np.asarray(label)}, {"frc": np.asarray(censored)},
        np.asarray([0, 1, 1, 2]), 0.5,
    )  # fmt: skip


def test_censored_labels_count_only_as_bounds() -> None:
    told = said([0.0, 1.0, 2.5, 9.0], [0.0, 1.0, 2.0, 8.0], [False, False, False, True])
    found = summary(told, np.asarray([0, 1, 2, 2]))
    assert found["frc_mae_sd"] == pytest.approx(0.5 / 3, abs=1e-4)
    assert found["frc_spearman"] == 1.0
    assert found["frc_beyond_sd"] == 1.0
    assert found["frc_censored"] == 0.25
    assert found["artefact_accuracy"] == 0.75
    assert found["alive"] == 0.5


def test_an_answer_below_its_bound_is_not_beyond_it() -> None:
    found = summary(said([0.0, 1.0, 2.0, 1.0], [0.0, 1.0, 2.0, 8.0], [False, False, False, True]), np.zeros(4))
    assert found["frc_beyond_sd"] == 0.0


def test_what_does_not_vary_has_no_rank() -> None:
    assert spearman(np.ones(5), np.arange(5.0)) == 0.0
    assert spearman(np.arange(5.0), -np.arange(5.0)) == pytest.approx(-1.0)


def chunk(images: int = 10) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(1)
    return {
        "counts": rng.poisson(300, (images, 64, 96)).astype(np.uint16), "artefact": np.zeros(images, dtype=np.int64),
        "frc": rng.random(images).astype(np.float32), "frc_censored": np.zeros(images, dtype=bool),
        "mm": rng.random(images).astype(np.float32),
    }  # fmt: skip


def test_networks_are_asked_about_every_image_in_order() -> None:
    torch.manual_seed(1)
    network, images = StudentQualityNet().eval(), chunk()
    told = ask(network, images, LABELS, scaling="fixed")
    with torch.inference_mode():
        one = network.outputs(scale(images["counts"][9:10]))
    assert told.z["mm"].shape == (10,)
    assert told.z["frc"][9] == pytest.approx(float(one["frc"].score[0]), abs=1e-5)
    np.testing.assert_allclose(told.label["frc"], (images["frc"] - 2.0) / 0.5, rtol=1e-5)
    assert told.artefact is not None
    assert one["mm"].artefact_logits is not None
    assert told.artefact[9] == int(one["mm"].artefact_logits[0].argmax())


def test_the_papers_network_has_its_target_only() -> None:
    torch.manual_seed(1)
    found = measure(PaperQualityNet().eval(), chunk(3), {"mm": LABELS["mm"]}, scaling="paper")
    assert set(found) == {"mm_spearman", "mm_mae_sd", "alive"}


def test_no_other_network_is_measured() -> None:
    with pytest.raises(TypeError, match="Linear"):
        ask(torch.nn.Linear(1, 1), chunk(1), LABELS, scaling="fixed")
