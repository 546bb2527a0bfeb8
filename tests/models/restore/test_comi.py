from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from parfocal.models.base import ImageError, ModelCard, ModelError, WeightsHashError, WeightsMissingError
from parfocal.models.cards import load_card, save_card, save_weights
from parfocal.models.restore import comi, make_restorer
from parfocal.models.restore.base import Blur, RestoreError, Verdict, cells_of
from parfocal.models.restore.comi import ComiRestorer
from parfocal.models.restore.comi_net import ComiGenerator, to_network
from parfocal.models.restore.gate import Gate, Limits
from parfocal.models.restore.unet_net import prepare
from parfocal.simulator.optics import Optics
from tests.models.restore.test_deconvolution import frame_and_truth

EXACT = {"device": "cpu", "precision": "float32"}
OPTICS = Optics()


def last_layer(network: ComiGenerator) -> nn.Conv2d:
    layer = network.body[-1]
    assert isinstance(layer, nn.Conv2d)
    return layer


def publish(network: ComiGenerator, folder: Path, **changes: object) -> Path:
    """A card and weights of a generator of width 4 with one block."""
    sha = save_weights({name: value.half() for name, value in network.state_dict().items()}, folder / "c.safetensors")
    told = {"width": 4, "blocks": 1, "upsampling": "transposed", "residual": True}
    card = ModelCard("restore_comi", "0", "ComiGenerator", "c.safetensors", sha, input=told)
    save_card(replace(card, **changes), folder / "restore_comi.json")  # type: ignore[arg-type]
    return folder / "restore_comi.json"


@pytest.fixture
def network() -> ComiGenerator:
    torch.manual_seed(3)
    made = ComiGenerator(4, 1)
    nn.init.normal_(last_layer(made).weight, std=0.01)
    return made


@pytest.fixture
def nothing() -> ComiGenerator:
    """A generator that changes nothing."""
    made = ComiGenerator(4, 1)
    nn.init.zeros_(last_layer(made).weight)
    return made


def test_it_is_made_by_its_name_and_gives_counts_of_the_frames_shape(network: ComiGenerator, tmp_path: Path) -> None:
    restorer = make_restorer("comi", {"card": str(publish(network, tmp_path)), **EXACT})
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    done = restorer.restore(frame[:131, :97], blur)
    assert done.method == restorer.name == "comi"
    assert done.pixels.shape == (131, 97)
    assert done.pixels.dtype == np.float32
    assert done.refused.shape == cells_of((131, 97))
    assert done.sd is None


def test_only_the_raw_frame_is_shown_in_the_scaling_of_the_other_network(
    network: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = ComiRestorer({"card": publish(network, tmp_path), **EXACT})
    shown: list[Tensor] = []
    run = restorer._runner.run

    def watched(image: Tensor) -> tuple[Tensor, ...]:
        shown.append(image.clone())
        return run(image)

    monkeypatch.setattr(restorer._runner, "run", watched)
    monkeypatch.setattr(restorer, "_gate", Gate(Limits(most_residual=float("inf"), most_residual_of_all=float("inf"))))
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    done = restorer.restore(frame, blur)
    ready = prepare(frame.astype(np.float32), blur)
    expected = to_network((torch.from_numpy(frame.astype(np.float32)) - ready.zero) / ready.scale)
    edge = comi.EDGE_PX
    assert torch.allclose(shown[0], pad(expected[None, None], (edge,) * 4, mode="reflect"), atol=1e-5)
    wide = network.half().float().eval()(shown[0])[0, 0].detach().numpy()
    made = wide[edge:-edge, edge:-edge] * 2.0 + 1.0
    assert not done.refused.any()
    assert np.allclose(done.pixels, made * ready.scale + ready.zero, atol=1e-3 * ready.scale)
    assert np.abs(done.pixels - frame).max() > 0.1 * ready.scale


@pytest.mark.parametrize("shape", [(64, 64), (97, 131), (300, 210)])
def test_tiles_lie_where_they_belong(
    nothing: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    restorer = ComiRestorer({"card": publish(nothing, tmp_path), **EXACT})
    image = torch.arange(shape[0] * shape[1], dtype=torch.float32).reshape(shape) / 1e4
    assert torch.allclose(restorer.run(image), image, atol=1e-6)
    monkeypatch.setattr(comi, "TILE_PX", 64)
    monkeypatch.setattr(comi, "OVERLAP_PX", 10)
    assert torch.allclose(restorer.run(image), image, atol=1e-6)


def test_a_large_frame_is_never_run_in_one_piece(
    nothing: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    restorer = ComiRestorer({"card": publish(nothing, tmp_path), **EXACT})
    sizes: list[tuple[int, ...]] = []
    monkeypatch.setattr(restorer._runner, "run", lambda image: (sizes.append(tuple(image.shape[2:])), image)[1:])
    image = torch.rand(3000, 300)
    assert torch.equal(restorer.run(image), image)
    assert len(sizes) == 3
    assert all(side % 4 == 0 and side <= 1024 + 2 * 96 + 4 for size in sizes for side in size)


@pytest.mark.parametrize(
    ("blur", "verdict"),
    [
        (Blur(OPTICS, 40.0 * OPTICS.depth_of_field_um), Verdict.REFUSED),
        (Blur(OPTICS, 0.0), Verdict.IN_FOCUS),
    ],
)
def test_the_gate_is_that_of_every_method(
    network: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blur: Blur, verdict: Verdict
) -> None:
    restorer = ComiRestorer({"card": publish(network, tmp_path), **EXACT})
    monkeypatch.delattr(restorer, "_runner")  # the network is not even asked
    frame, _, _ = frame_and_truth("nuclei", 2.0, 2000.0)
    done = restorer.restore(frame, blur)
    assert done.verdict is verdict
    assert np.array_equal(done.pixels, frame)


def test_what_does_not_explain_the_frame_is_refused(network: ComiGenerator, tmp_path: Path) -> None:
    nn.init.normal_(last_layer(network).weight, std=3.0)
    restorer = ComiRestorer({"card": publish(network, tmp_path), **EXACT})
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    done = restorer.restore(frame, blur)
    assert done.verdict is Verdict.REFUSED
    assert np.array_equal(done.pixels, frame)


def test_colour_is_refused(network: ComiGenerator, tmp_path: Path) -> None:
    restorer = ComiRestorer({"card": publish(network, tmp_path), **EXACT})
    with pytest.raises(ImageError, match="colour"):
        restorer.restore(np.zeros((64, 64, 3), dtype=np.uint8), Blur(OPTICS, 1.0))


def test_without_weights_it_says_how_they_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comi, "PACKAGED", tmp_path)
    with pytest.raises(WeightsMissingError, match="parfocal train restore --method comi"):
        make_restorer("comi")


def test_packaged_weights_are_taken_where_there_are_any(
    network: ComiGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(network, tmp_path)
    monkeypatch.setattr(comi, "PACKAGED", tmp_path)
    assert ComiRestorer(EXACT).describe()["precision"] == "float32"


def test_an_unknown_option_is_refused_with_the_nearest(network: ComiGenerator, tmp_path: Path) -> None:
    with pytest.raises(RestoreError, match=r"'precison'.*precision"):
        make_restorer("comi", {"card": str(publish(network, tmp_path)), "precison": "float32"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"architecture": "RestoreNet"}, "describes a 'RestoreNet'"),
        ({"input": {"width": 4, "blocks": 1, "upsampling": "nearest"}}, "lacks 'residual'"),
        ({"input": {"width": 8, "blocks": 1, "upsampling": "transposed", "residual": True}}, "are not those"),
        ({"input": {"width": 4, "blocks": 1, "upsampling": "bicubic", "residual": True}}, "must be transposed"),
        ({"input": {"width": "4", "blocks": 1, "upsampling": "nearest", "residual": True}}, "are not those"),
    ],
)
def test_a_card_of_something_else_is_refused(
    network: ComiGenerator, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    with pytest.raises(ModelError, match=says):
        ComiRestorer({"card": publish(network, tmp_path, **change), **EXACT})


def test_weights_that_were_exchanged_are_refused(network: ComiGenerator, tmp_path: Path) -> None:
    path = publish(network, tmp_path)
    assert load_card(path).weights_sha256 in json.dumps(path.read_text())
    (tmp_path / "c.safetensors").write_bytes(b"other")
    with pytest.raises(WeightsHashError):
        ComiRestorer({"card": path, **EXACT})
