"""Weights of another architecture are one short line that names the file, whichever network was to be filled."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from parfocal.models.artefacts import Classifier
from parfocal.models.base import ModelError
from parfocal.models.cards import fill, load_card, packaged_card_path, save_card, save_weights
from parfocal.models.quality_student import StudentQualityNet


def test_of_many_names_a_few_are_said_and_a_count() -> None:
    network = StudentQualityNet()
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("stages")}
    lost = len(network.state_dict()) - len(state)
    with pytest.raises(ModelError) as found:
        fill(network, {**state, "extra": torch.zeros(1), "judge.bias": torch.zeros(9)}, Path("w.safetensors"))
    said = str(found.value)
    assert len(said.splitlines()) == 1
    assert len(said) < 400
    for words in ("w.safetensors", "StudentQualityNet", "another architecture", f"and {lost - 3} more", "has extra",
                  "other shapes of judge.bias"):  # fmt: skip
        assert words in said
    assert said.count("stages.") == 3


def test_nothing_is_filled_in_where_something_does_not_fit() -> None:
    network = nn.Linear(2, 2)
    before = network.weight.detach().clone()
    with pytest.raises(ModelError, match=r"lacks bias\)"):
        fill(network, {"weight": torch.zeros(2, 2)}, Path("w.safetensors"))
    assert torch.equal(network.weight, before)


def test_weights_in_half_precision_are_used_in_the_networks_own() -> None:
    network = nn.Linear(2, 2)
    fill(network, {"weight": torch.full((2, 2), 0.5).half(), "bias": torch.zeros(2)}, Path("w.safetensors"))
    assert network.weight.dtype == torch.float32
    assert torch.equal(network.weight.detach(), torch.full((2, 2), 0.5))


MODELS = [
    ("mm_style", "artefacts"), ("quality", "quality_student"), ("quality", "quality_mm"), ("defocus", "defocus"),
    ("sted_quality", "sted_quality"),
]  # fmt: skip


def exchanged(folder: Path, card: str) -> Path:
    """A packaged card beside weights of another architecture that its hash says are right."""
    from dataclasses import replace

    network = StudentQualityNet() if card == "artefacts" else Classifier()
    sha = save_weights(network.state_dict(), folder / "w.safetensors")
    held = load_card(packaged_card_path(card))
    save_card(replace(held, weights_file="w.safetensors", weights_sha256=sha), folder / f"{card}.json")
    return folder / f"{card}.json"


@pytest.mark.parametrize(("model", "card"), MODELS)
def test_a_card_with_other_weights_is_one_clear_line(tmp_path: Path, model: str, card: str) -> None:
    from parfocal.models import make_model

    with pytest.raises(ModelError, match="another architecture") as found:
        make_model(model, {"card": str(exchanged(tmp_path, card))})
    assert len(str(found.value).splitlines()) == 1
    assert len(str(found.value)) < 500 + len(str(tmp_path))
    assert "w.safetensors" in str(found.value)


def test_a_restorers_card_with_other_weights_is_one_clear_line(tmp_path: Path) -> None:
    from parfocal.models.restore import make_restorer

    with pytest.raises(ModelError, match="another architecture") as found:
        make_restorer("unet", {"card": str(exchanged(tmp_path, "restore"))})
    assert len(str(found.value).splitlines()) == 1
    assert "w.safetensors" in str(found.value)
