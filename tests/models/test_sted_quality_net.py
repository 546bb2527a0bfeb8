"""The networks of STED quality: what the paper gives, absolute counts, frames of any size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from parfocal.models.sted_quality_net import NETWORKS, OUTPUTS, RobitailleNet, StedQualityNet

PIXEL = torch.tensor([0.02])


def frame(height: int = 96, width: int = 96, *, mean: float = 4.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rate = mean * torch.rand((1, 1, height, width), generator=generator)
    return torch.poisson(rate, generator=generator)


@pytest.fixture(params=sorted(NETWORKS))
def network(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    return NETWORKS[request.param]().eval()


def test_robitailles_network_is_as_the_paper_gives_it() -> None:
    modules = list(RobitailleNet().modules())
    convolutions = [one for one in modules if isinstance(one, nn.Conv2d)]
    linear = [one for one in modules if isinstance(one, nn.Linear)]
    pools = [one for one in modules if isinstance(one, nn.MaxPool2d)]
    assert (len(convolutions), len(linear), len(pools)) == (6, 2, 6)
    assert {(one.kernel_size, one.stride) for one in pools} == {(2, 1)}
    # After all convolutions but the first, and after the first fully connected layer.
    assert len([one for one in modules if isinstance(one, nn.BatchNorm2d | nn.BatchNorm1d)]) == 6
    assert len([one for one in modules if isinstance(one, nn.ELU)]) == 7
    kinds = [type(one) for one in RobitailleNet().convolutions]
    assert kinds[:3] == [nn.Conv2d, nn.ELU, nn.MaxPool2d]


def test_robitailles_input_is_shifted_and_scaled_once() -> None:
    one, other = RobitailleNet(2.0, 10.0).eval(), RobitailleNet(0.0, 1.0).eval()
    other.load_state_dict({**one.state_dict(), "mean": torch.tensor(0.0), "sd": torch.tensor(1.0)})
    counts = frame()
    assert torch.allclose(one(counts, PIXEL), other((counts - 2.0) / 10.0, PIXEL), atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (96, 96), (64, 160), (129, 97), (224, 224)])
def test_frames_of_any_size(network: nn.Module, shape: tuple[int, int]) -> None:
    if min(shape) < network.min_px:  # type: ignore[operator]
        pytest.skip("this network takes none as small")
    logits = network(frame(*shape), PIXEL)
    assert logits.shape == (1, len(network.names))  # type: ignore[arg-type]
    assert torch.isfinite(logits).all()


def test_an_empty_frame_and_a_glaring_one_give_numbers(network: nn.Module) -> None:
    for counts in (torch.zeros((1, 1, 64, 64)), torch.full((1, 1, 64, 64), 6e4)):
        assert torch.isfinite(network(counts, PIXEL)).all()


def test_twice_the_counts_are_another_image(network: nn.Module) -> None:
    counts = frame()
    assert (network(2 * counts, PIXEL) - network(counts, PIXEL)).abs().max() > 1e-4


def test_what_lies_beside_a_frame_does_not_change_it(network: nn.Module) -> None:
    both = torch.cat([frame(seed=1), frame(seed=2, mean=40.0)])
    alone = network(both[:1], PIXEL)
    assert torch.allclose(network(both, PIXEL.expand(2))[:1], alone, atol=1e-5)


def test_the_compact_network_is_told_the_size_of_a_pixel() -> None:
    torch.manual_seed(1)
    network, counts = StedQualityNet().eval(), frame()
    assert (network(counts, PIXEL) - network(counts, 1.5 * PIXEL)).abs().max() > 1e-4
    assert sum(one.numel() for one in network.parameters()) <= 300_000
    assert network.names == OUTPUTS


def test_the_compact_network_learns() -> None:
    torch.manual_seed(1)
    network = StedQualityNet().train()
    counts = torch.cat([frame(64, 64, seed=seed, mean=2.0 if seed % 2 else 20.0) for seed in range(4)])
    wanted = torch.tensor([0.1 if seed % 2 else 0.9 for seed in range(4)])
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        loss = nn.functional.mse_loss(torch.sigmoid(network(counts, PIXEL.expand(4)))[:, 0], wanted)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
