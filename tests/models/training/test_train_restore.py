from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from parfocal.models.base import ModelError, WeightsHashError
from parfocal.models.cards import load_card, save_card, save_weights
from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Restoration, RestoreError, Verdict
from parfocal.models.restore.unet import UnetRestorer
from parfocal.models.restore.unet_net import RestoreNet
from parfocal.models.training import restore_publish
from parfocal.models.training.chunks import Source
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.restore_chunks import make_pair_chunk
from parfocal.models.training.restore_pairs import PairMaker, estimated
from parfocal.models.training.restore_publish import publish_restore
from parfocal.models.training.train_restore import RestoreRecipe, restore_loss, train
from tests.models.restore.test_deconvolution import frame_and_truth
from tests.models.training.test_fields import field, write

TINY = RestoreRecipe(
    chunks=3, chunk_examples=4, passes=1, batch=2, buffer_chunks=2, size_px=64, procedural=6, workers=0, device="cpu",
    checkpoint_every=1,
)  # fmt: skip


def maker(seed: int = 5) -> PairMaker:
    return PairMaker(ObjectBank([], procedural=6, seed=1), size_px=96, seed=seed)


def test_pairs_are_of_one_light_and_camera() -> None:
    for pair in (pair for _ in range(6) for pair in maker(_).pairs(2)):
        assert pair.frame.shape == pair.truth.shape == (96, 96)
        assert np.array_equal(pair.frame, np.round(pair.frame))
        assert pair.truth.std() > 0
        # The blur spreads light, and some leaves the field, but the level stays.
        assert pair.frame.mean() == pytest.approx(pair.truth.mean(), rel=0.5)


def test_pairs_come_from_the_seed_alone() -> None:
    first, again, other = maker(3).pairs(1)[0], maker(3).pairs(1)[0], maker(4).pairs(1)[0]
    assert np.array_equal(first.frame, again.frame) and first.blur == again.blur
    assert not np.array_equal(first.frame, other.frame)


def test_the_blur_told_is_about_the_true_one_and_its_sd_honest() -> None:
    drawn = maker(8)
    rank = []
    for _ in range(200):
        scene = drawn.scene()
        blur = estimated(scene, drawn.rng)
        rank.append(abs(blur.diameter_px - abs(scene.blur_px)) / (blur.sd_um * blur.optics.blur_px_per_um))
    assert 0.7 < float(np.mean(np.asarray(rank) < 1.0)) < 0.95  # on the safe side, as the defocus model is


def test_a_chunk_is_the_same_whoever_makes_it() -> None:
    source = Source(None, "train", 6, 64, 1)
    one, two = make_pair_chunk(source, 4, 3), make_pair_chunk(source, 4, 3)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert one["channels"].shape == (3, 4, 64, 64) and one["truth"].shape == (3, 64, 64)
    assert np.all(np.isfinite(one["conditions"]))


def test_the_errors_likelihood_does_not_pull_at_the_image() -> None:
    image, log_sd = torch.zeros(1, 1, 8, 8, requires_grad=True), torch.zeros(1, 1, 8, 8, requires_grad=True)
    truth = torch.full((1, 1, 8, 8), 0.3)
    restore_loss(image, log_sd, truth, torch.ones(1))["sure"].backward()
    assert image.grad is None or not image.grad.any()
    assert log_sd.grad is not None and bool((log_sd.grad > 0).all())  # an error of 0.3 is less than an sd of 1


def test_half_the_error_is_six_decibels() -> None:
    truth, sd = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    whole, half = (restore_loss(torch.full_like(truth, e), sd, truth, torch.ones(1))["image"] for e in (0.4, 0.2))
    assert float(20.0 / np.log(10.0) * (whole - half)) == pytest.approx(6.02, abs=0.05)


def test_an_interrupted_training_goes_on(tmp_path: Path) -> None:
    whole = train(TINY, tmp_path / "whole")
    train(TINY, tmp_path / "cut")
    held = torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)
    assert held["chunks"] == 3
    again = train(TINY, tmp_path / "cut")  # nothing is left to do: the same network comes back
    for one, two in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, two)
    assert set(load_file(tmp_path / "whole" / "weights.safetensors")) == set(whole.state_dict())
    assert json.loads((tmp_path / "whole" / "recipe.json").read_text())["fields"] is False


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("restore")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("parfocal.models.training.restore_publish.TRAINING_FRAMES", 48)
        patched.setattr("parfocal.models.training.restore_publish.VALIDATION_FRAMES", 16)
        patched.setattr("parfocal.models.training.restore_publish.SPECIMENS", 6)
        publish_restore(train(TINY, out), TINY, out, fields=None)
    return out / "restore.json"


def test_a_card_tells_of_the_fields_that_were_used_and_of_stages(card: Path, tmp_path: Path) -> None:
    assert load_card(card).training["fields"] == {}
    assert load_card(card).training["went_on"] is False
    write(tmp_path / "mine", "train", [field(n) for n in range(5)])
    recipe = replace(TINY, start_from=str(tmp_path / "secret.safetensors"))
    told = restore_publish._write(RestoreNet(), recipe, tmp_path, restore_publish.NEUTRAL, {}, {}, tmp_path).training
    assert (told["fields"], told["went_on"]) == ({"mine": 3}, True)
    assert "secret" not in str(told)


def restored(card: Path, frame: np.ndarray, **options: str) -> Restoration:  # type: ignore[type-arg]
    _, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    return UnetRestorer({"card": str(card), **options}).restore(frame, blur)


def test_a_published_network_restores_or_refuses(card: Path) -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    restorer = make_restorer("unet", {"card": str(card), "precision": "float32"})
    done = restorer.restore(frame, blur)
    assert done.verdict in (Verdict.RESTORED, Verdict.REFUSED)
    assert {"strangeness", "gain_db", "residual"} <= set(done.detail)
    assert done.pixels.shape == frame.shape


def test_tiles_make_no_seams(card: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from parfocal.models.restore.unet_net import prepare

    frame, _, blur = frame_and_truth("filaments", 2.0, 2000.0)
    restorer = UnetRestorer({"card": str(card), "precision": "float32"})
    ready = prepare(frame, blur)
    with torch.inference_mode():
        whole = restorer.run(ready)[0]
        monkeypatch.setattr("parfocal.models.restore.unet.TILE_PX", 64)
        monkeypatch.setattr("parfocal.models.restore.unet.OVERLAP_PX", 32)
        tiled = restorer.run(ready)[0]
    assert float((whole - tiled).abs().max()) < 0.02 * float(whole.abs().max())
    assert not torch.equal(whole, tiled)  # it was really cut


@pytest.mark.parametrize("shape", [(64, 64), (65, 79), (130, 97)])
def test_any_shape_is_taken(card: Path, shape: tuple[int, int]) -> None:
    frame = np.ascontiguousarray(frame_and_truth("nuclei", 2.0, 2000.0)[0][: shape[0], : shape[1]])
    assert restored(card, frame).pixels.shape == shape


def test_weights_that_are_not_the_cards_are_not_used(card: Path, tmp_path: Path) -> None:
    (tmp_path / "restore.json").write_text(card.read_text())
    damaged = bytearray((card.parent / "restore.safetensors").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "restore.safetensors").write_bytes(bytes(damaged))
    with pytest.raises(WeightsHashError):
        make_restorer("unet", {"card": str(tmp_path / "restore.json")})


def test_weights_of_another_network_are_said(card: Path, tmp_path: Path) -> None:
    held = load_file(card.parent / "restore.safetensors")
    held.pop("leave.bias")
    described = load_card(card)
    sha = save_weights(held, tmp_path / "restore.safetensors")
    save_card(replace(described, weights_sha256=sha), tmp_path / "restore.json")
    with pytest.raises(ModelError, match="do not fit"):
        make_restorer("unet", {"card": str(tmp_path / "restore.json")})


def test_unknown_options_are_said(card: Path) -> None:
    with pytest.raises(RestoreError, match="did you mean 'card'"):
        make_restorer("unet", {"crad": str(card)})
    with pytest.raises(Exception, match="precision must be one of"):
        make_restorer("unet", {"card": str(card), "precision": "int8"})
