from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from parfocal.models import quality_runtime
from parfocal.models.base import ModelCard, ModelError, WeightsHashError
from parfocal.models.cards import save_card, save_weights
from parfocal.models.metrics.markers import MARKER_NAMES, markers
from parfocal.models.quality_net import PaperQualityNet, covering
from parfocal.models.quality_runtime import MAX_BFLOAT16_ERROR, QualityNetwork, bears_bfloat16, load_network
from parfocal.models.quality_scaling import scale
from parfocal.models.quality_student import StudentQualityNet, outputs

MM = {"mm": {"form": "logit", "mean": 0.0, "sd": 2.0}}
BOTH = {"frc": {"form": "log2_px", "mean": 2.0, "sd": 0.5}, **MM}
FRAME = np.random.default_rng(1).poisson(300, (70, 96)).astype(np.uint16)


def written(folder: Path, kind: str, *, half: bool = False, **changes: Any) -> tuple[ModelCard, Path]:
    torch.manual_seed(2)
    network = StudentQualityNet() if kind == "student" else PaperQualityNet()
    state = {name: value.half() if half else value for name, value in network.state_dict().items()}
    card = ModelCard(
        name="quality", version="1", architecture=type(network).__name__, weights_file="w.safetensors",
        weights_sha256=save_weights(state, folder / "w.safetensors"),
        input={"scaling": "fixed", "markers": list(MARKER_NAMES)},
        training={"labels": BOTH if kind == "student" else MM},
        measured={"bfloat16_error_sd": 0.01},
    )  # fmt: skip
    card = replace(card, **changes)
    save_card(card, folder / "card.json")
    return card, folder / "card.json"


@pytest.mark.parametrize("kind", ["student", "paper"])
def test_it_says_what_the_network_says_of_the_scaled_frame(tmp_path: Path, kind: str) -> None:
    card, path = written(tmp_path, kind)
    network = load_network(card, path)
    (said,) = QualityNetwork(card, path, {"precision": "float32", "device": "cpu"}).judge(FRAME[None])
    images, share = covering(scale(FRAME[None]))
    with torch.inference_mode():
        if isinstance(network, StudentQualityNet):
            found = outputs(*network(images, markers(scale(FRAME[None])[:, 0])))
        else:
            assert isinstance(network, PaperQualityNet)
            found = {"mm": network.frames(images)}
        expected = {target: out.counting(share) for target, out in found.items()}
    assert said.targets.keys() == expected.keys()
    for target, out in expected.items():
        assert torch.allclose(said.targets[target].patch_quality, out.patch_quality, atol=1e-4)
        assert torch.allclose(said.targets[target].patch_weight, out.patch_weight, rtol=1e-3)
        assert torch.allclose(said.targets[target].score, out.score, atol=1e-4)


def test_half_precision_weights_are_used_in_single(tmp_path: Path) -> None:
    card, path = written(tmp_path, "paper", half=True)
    assert (tmp_path / "w.safetensors").stat().st_size < 11e6
    network = load_network(card, path)
    assert all(value.dtype == torch.float32 for value in network.state_dict().values())


def test_auto_is_float32_for_the_student_and_what_the_card_bears_for_the_paper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    card, path = written(tmp_path, "student")
    assert QualityNetwork(card, path, {"device": "cpu"}).describe()["precision"] == "float32"
    card, path = written(tmp_path, "paper")
    assert QualityNetwork(card, path, {"device": "cpu"}).describe()["precision"] == "bfloat16"
    fixed = QualityNetwork(card, path, {"device": "cpu", "precision": "float32"})
    assert fixed.describe()["precision"] == "float32"
    rough = replace(card, measured={"bfloat16_error_sd": 2 * MAX_BFLOAT16_ERROR})
    assert QualityNetwork(rough, path, {"device": "cpu"}).describe()["precision"] == "float32"
    assert not bears_bfloat16(replace(card, measured={}))


def test_a_machine_without_bfloat16_is_not_made_to_use_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, _ = written(tmp_path, "paper")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": False}, raising=False)
    assert not bears_bfloat16(card)


def test_frames_scaled_as_in_the_paper_are_scaled_so(tmp_path: Path) -> None:
    card, path = written(tmp_path, "paper", input={"scaling": "paper"})
    options = {"precision": "float32", "device": "cpu"}
    hot = FRAME.copy()
    hot[3, 3] = 60_000
    one, two = QualityNetwork(card, path, options).judge(np.stack([FRAME, hot]))
    fixed = QualityNetwork(replace(card, input={"scaling": "fixed"}), path, options)
    three, four = fixed.judge(np.stack([FRAME, hot]))
    moved = [abs(float(a.targets["mm"].score[0] - b.targets["mm"].score[0])) for a, b in ((one, two), (three, four))]
    assert moved[0] > 3 * moved[1]  # a hot pixel


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"architecture": "ResNet"}, "ResNet"),
        ({"architecture": "StudentQualityNet"}, "not those of a StudentQualityNet"),
        ({"input": {}}, "scaled"),
        ({"architecture": "StudentQualityNet", "input": {"scaling": "fixed"}}, "other markers"),
        ({"training": {}}, "labels"),
        ({"training": {"labels": BOTH}}, "cannot have the targets"),
        ({"training": {"labels": {"beauty": {}}}}, "cannot have the targets"),
    ],
)
def test_cards_that_do_not_fit_their_weights_are_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    card, path = written(tmp_path, "paper", **changes)
    with pytest.raises(ModelError, match=problem):
        QualityNetwork(card, path, {"device": "cpu"})


def test_exchanged_weights_are_refused(tmp_path: Path) -> None:
    card, path = written(tmp_path, "student")
    torch.manual_seed(99)
    save_weights(StudentQualityNet().state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsHashError):
        QualityNetwork(card, path, {"device": "cpu"})


def test_the_papers_patches_go_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card, path = written(tmp_path, "paper")
    whole = QualityNetwork(card, path, {"device": "cpu", "precision": "float32"})
    monkeypatch.setattr(quality_runtime, "PATCHES_A_CHUNK", {"float32": 4})
    parts = QualityNetwork(card, path, {"device": "cpu", "precision": "float32"})
    assert parts.describe()["chunk"] == 4
    (one,), (two,) = whole.judge(FRAME[None]), parts.judge(FRAME[None])
    assert torch.allclose(one.targets["mm"].patch_quality, two.targets["mm"].patch_quality, atol=1e-5)


def test_several_callers_at_once_get_the_answers_of_one_and_none_waits_for_ever(tmp_path: Path) -> None:
    card, path = written(tmp_path, "student")
    threads = torch.get_num_threads()
    network = QualityNetwork(card, path, {"device": "cpu", "threads": 2})
    torch.set_num_threads(threads)  # an option of the whole process
    frames = [np.random.default_rng(seed).poisson(200, (64, 64)).astype(np.uint16) for seed in range(12)]

    def score(frame: NDArray[Any]) -> float:
        (said,) = network.judge(frame[None])
        return float(said.targets["mm"].score[0])

    alone = [score(frame) for frame in frames]
    with ThreadPoolExecutor(4) as callers:
        waiting = [callers.submit(score, frame) for frame in frames]
        assert [one.result(timeout=60) for one in waiting] == alone
