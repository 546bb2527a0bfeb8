from __future__ import annotations

import math

import pytest
import torch

from parfocal.models.yang2018 import LEVELS, PATCH_PX, YangNet, aggregate, certainty, ranked_probability_loss


def test_the_network_has_the_papers_layout_and_number_of_parameters() -> None:
    torch.manual_seed(1)
    network = YangNet().eval()
    assert sum(parameter.numel() for parameter in network.parameters()) == 28_965_771
    with torch.inference_mode():
        logits = network(torch.rand(3, 1, PATCH_PX, PATCH_PX))
    assert logits.shape == (3, LEVELS)
    assert not torch.equal(logits[0], logits[1])


def certain_of(level: int, levels: int = LEVELS) -> torch.Tensor:
    logits = torch.full((levels,), -50.0)
    logits[level] = 50.0
    return logits


@pytest.mark.parametrize(("said", "true", "expected"), [(4, 4, 0.0), (4, 5, 1.0), (0, 10, 10.0), (10, 0, 10.0)])
def test_ranked_probability_counts_the_levels_between(said: int, true: int, expected: float) -> None:
    loss = ranked_probability_loss(certain_of(said)[None], torch.tensor([float(true)]))
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_ranked_probability_of_half_and_half() -> None:
    # Half on 0, half on 2, truth 1: the cumulative sums differ by 1/2 at 0 and at 1.
    logits = torch.log(torch.tensor([[0.5, 1e-12, 0.5]]))
    assert float(ranked_probability_loss(logits, torch.tensor([1.0]))) == pytest.approx(0.5, abs=1e-5)


def test_ranked_probability_is_the_mean_over_examples() -> None:
    logits = torch.stack([certain_of(4), certain_of(4)])
    assert float(ranked_probability_loss(logits, torch.tensor([4.0, 7.0]))) == pytest.approx(1.5, abs=1e-6)


def test_certainty_at_its_ends_and_between() -> None:
    uniform, sure = torch.full((LEVELS,), 1 / LEVELS), torch.eye(LEVELS)[3]
    two = torch.zeros(LEVELS)
    two[2:4] = 0.5
    told = certainty(torch.stack([uniform, sure, two]))
    assert told.tolist() == pytest.approx([0.0, 1.0, 1 - math.log(2) / math.log(LEVELS)], abs=1e-6)


def test_aggregate_weighs_by_certainty() -> None:
    uniform, sure = torch.full((LEVELS,), 1 / LEVELS), torch.eye(LEVELS)[3]
    told = aggregate(torch.stack([uniform, sure, uniform, uniform]))
    assert float(told.sum()) == pytest.approx(1.0, abs=1e-6)
    assert float(told[3]) == pytest.approx(1.0, abs=1e-5)  # patches that know nothing have no say
    halves = aggregate(torch.stack([torch.eye(LEVELS)[2], torch.eye(LEVELS)[5]]))
    assert halves[2] == pytest.approx(0.5)
    assert halves[5] == pytest.approx(0.5)
    nobody = aggregate(torch.stack([uniform, uniform]))
    assert torch.allclose(nobody, uniform, atol=1e-6)
