from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from parfocal.models.quality_net import (
    PARAMETERS,
    PATCH_PX,
    WEIGHT_FLOOR,
    FoldedPaperNet,
    PaperQualityNet,
    QualityOutput,
    covering,
    gathered,
    patches_of,
    weighted_mean,
)


@pytest.fixture(scope="module")
def network() -> PaperQualityNet:
    torch.manual_seed(3)
    return PaperQualityNet().eval().requires_grad_(False)


def test_it_has_the_parameters_the_paper_states() -> None:
    assert (
        sum(parameter.numel() for parameter in PaperQualityNet().parameters() if parameter.requires_grad) == 5_237_986
    )
    assert PARAMETERS == 5_237_986


def test_a_patch_becomes_512_features(network: PaperQualityNet) -> None:
    assert network.features(torch.zeros(2, 1, PATCH_PX, PATCH_PX)).shape == (2, 512, 1, 1)


def test_patches_are_judged_alone(network: PaperQualityNet) -> None:
    images = torch.rand(2, 1, 64, 96)
    out = network.frames(images)
    assert out.patch_quality.shape == out.patch_weight.shape == (2, 2, 3)
    quality, weight = network(images[1:, :, 32:64, 64:96])
    assert out.patch_quality[1, 1, 2] == pytest.approx(float(quality[0]), abs=1e-6)
    assert out.patch_weight[1, 1, 2] == pytest.approx(float(weight[0]), abs=1e-6)


def test_the_score_is_the_weighted_mean_of_the_patches(network: PaperQualityNet) -> None:
    out = network.frames(torch.rand(1, 1, 64, 64))
    expected = (out.patch_quality * out.patch_weight).sum() / out.patch_weight.sum()
    assert float(out.score[0]) == pytest.approx(float(expected), rel=1e-6)


def test_what_does_not_fill_a_patch_is_left_out(network: PaperQualityNet) -> None:
    images = torch.rand(1, 1, 95, 65)
    cut = network.frames(images[:, :, :64, :64])
    assert torch.allclose(network.frames(images).score, cut.score)


@given(st.integers(32, 130), st.integers(32, 130))
def test_covering_patches_leave_out_no_pixel_and_count_each_once(height: int, width: int) -> None:
    image = torch.arange(float(height * width)).reshape(1, 1, height, width)
    whole, share = covering(image)
    patches = patches_of(whole)
    assert len(patches) == share.numel() == -(-height // PATCH_PX) * -(-width // PATCH_PX)
    assert patches.unique().numel() == height * width
    assert float(share.sum()) * PATCH_PX**2 == pytest.approx(height * width, rel=1e-5)
    for patch in patches:  # of neighbouring pixels, as they lie
        assert torch.equal(patch[0] - patch[0, 0, 0], image[0, 0, :PATCH_PX, :PATCH_PX])


def test_frames_of_whole_patches_are_covered_as_they_are() -> None:
    image = torch.rand(1, 1, 64, 96)
    whole, share = covering(image)
    assert whole is image
    assert torch.equal(share, torch.ones(2, 3))


def test_an_overlapping_patch_counts_by_what_is_new_in_it() -> None:
    out = QualityOutput(torch.zeros(1), torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[2.0, 4.0]]]))
    counted = out.counting(torch.tensor([[1.0, 0.5]]))
    assert float(counted.score[0]) == pytest.approx((2.0 * 1.0 + 2.0 * 3.0) / 4.0)
    assert torch.equal(counted.patch_weight, out.patch_weight)  # the map shows what the network thinks of the patch


def test_patches_lie_row_by_row() -> None:
    image = torch.arange(4.0).repeat_interleave(PATCH_PX).repeat(PATCH_PX, 1)[None, None]
    image = torch.cat([image, image + 4], dim=2)
    patches = patches_of(image)
    assert patches.shape == (8, 1, PATCH_PX, PATCH_PX)
    assert patches.mean(dim=(1, 2, 3)).tolist() == list(range(8))
    assert gathered(patches.mean(dim=(1, 2, 3)), torch.ones(8), image).patch_quality[0].tolist() == [
        [0.0, 1.0, 2.0, 3.0],
        [4.0, 5.0, 6.0, 7.0],
    ]


def test_weights_are_never_nothing_and_start_alive(network: PaperQualityNet) -> None:
    out = network.frames(torch.rand(4, 1, 64, 64))
    assert (out.alive == 1.0).all()
    with torch.no_grad():
        dead = PaperQualityNet().eval()
        dead.weight[2].bias.fill_(-1e3)  # type: ignore[operator, union-attr]
        out = dead.frames(torch.rand(4, 1, 64, 64))
    assert (out.patch_weight == WEIGHT_FLOOR).all()
    assert (out.alive == 0.0).all()
    assert torch.allclose(out.score, out.patch_quality.mean(dim=(1, 2)), atol=1e-6)


def test_a_heavy_patch_has_the_say() -> None:
    assert float(weighted_mean(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 3.0]))) == 0.75
    out = QualityOutput(torch.zeros(1), torch.zeros(1, 1, 2), torch.tensor([[[WEIGHT_FLOOR, 1.0]]]))
    assert float(out.alive[0]) == 0.5


def test_dropout_is_of_the_heads_and_of_training_only(network: PaperQualityNet) -> None:
    patches = torch.rand(3, 1, 32, 32)
    assert torch.equal(network(patches)[0], network(patches)[0])
    network.train()
    try:
        assert not torch.equal(network(patches)[0], network(patches)[0])
    finally:
        network.eval()


def test_a_settled_network_hears_all_its_channels() -> None:
    torch.manual_seed(1)
    network = PaperQualityNet().eval().requires_grad_(False)
    patches = 0.05 * torch.randn(16, 1, 32, 32)
    network.settle(patches)
    x = patches
    for module in network.features:
        x = module(x)
        if isinstance(module, torch.nn.Conv2d):
            assert torch.allclose(x.mean(dim=(0, 2, 3)), torch.zeros(1), atol=1e-2)
            assert torch.allclose(x.std(dim=(0, 2, 3)), torch.ones(1), atol=1e-2)


def test_folded_heads_are_the_same_function(network: PaperQualityNet) -> None:
    folded = FoldedPaperNet(network).eval()
    patches = torch.rand(8, 1, 32, 32)
    with torch.inference_mode():
        for one, two in zip(network(patches), folded(patches), strict=True):
            assert torch.allclose(one, two, rtol=1e-5, atol=1e-5)
    heads = sum(p.numel() for p in folded.heads.parameters())
    assert heads == 2 * 513  # and the two layers of 262 k weights each are gone
