from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from parfocal import UsageError
from parfocal.models.base import ModelCard
from parfocal.models.cards import save_card, save_weights
from parfocal.models.quality_labels import LabelScale
from parfocal.models.quality_net import PaperQualityNet
from parfocal.models.training.quality_teacher import FRAMES, Teacher

CPU = torch.device("cpu")


def card_at(folder: Path, **changes: object) -> tuple[Path, PaperQualityNet]:
    torch.manual_seed(1)
    network = PaperQualityNet().eval()
    sha = save_weights(network.state_dict(), folder / "w.safetensors")
    card = ModelCard(
        "quality_mm", "1", "PaperQualityNet", "w.safetensors", sha,
        input={"scaling": "fixed"}, training={"labels": {"mm": {"form": "logit", "mean": 1.0, "sd": 2.0}}},
    )  # fmt: skip
    save_card(replace(card, **changes), folder / "card.json")  # type: ignore[arg-type]
    return folder / "card.json", network


def test_a_lesson_is_in_the_pupils_units(tmp_path: Path) -> None:
    path, network = card_at(tmp_path)
    teacher = Teacher(path, "fixed", CPU)
    images = torch.rand(FRAMES + 2, 1, 64, 64)
    taught = teacher.lesson(images, {"mm": LabelScale("mm", "logit", -1.0, 4.0)})
    assert teacher.target == "mm"
    assert taught.shape == (FRAMES, 2, 2)
    assert not taught.requires_grad
    with torch.no_grad():
        own = network.frames(images[:FRAMES]).patch_quality
    assert torch.allclose(taught, (own * 2.0 + 1.0 + 1.0) / 4.0, atol=1e-4)


def test_a_teacher_of_another_kind_is_refused(tmp_path: Path) -> None:
    path, _ = card_at(tmp_path)
    with pytest.raises(UsageError, match="not 'paper'"):
        Teacher(path, "paper", CPU)
    with pytest.raises(UsageError, match="probability"):
        Teacher(path, "fixed", CPU).lesson(torch.rand(1, 1, 32, 32), {"mm": LabelScale("mm", "probability", 0.5, 0.3)})
    path, _ = card_at(tmp_path, architecture="StudentQualityNet")
    with pytest.raises(UsageError, match="not the paper's"):
        Teacher(path, "fixed", CPU)
