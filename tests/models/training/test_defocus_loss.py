from __future__ import annotations

import math

import pytest
import torch

from parfocal.models.defocus_net import BLUR_BINS, BLUR_MAX_PX, NetOutput, blur_edges
from parfocal.models.training.defocus_loss import SIGN_FROM_WAVES, bin_position, defocus_loss, soft_labels

UNIFORM = math.log(BLUR_BINS)


def output(count: int, blur: torch.Tensor | None = None, sign: float = 0.0, signal: float = 0.0) -> NetOutput:
    logits = torch.zeros(count, BLUR_BINS) if blur is None else blur
    return NetOutput(logits, torch.full((count, BLUR_BINS), sign), torch.full((count,), signal))


def parts(out: NetOutput, blur_px: float, *, signal: float = 1.0, waves: float = 0.0) -> dict[str, float]:
    told = defocus_loss(out, torch.tensor([blur_px]), torch.tensor([signal]), torch.tensor([waves]))
    return {name: float(value) for name, value in told.items()}


def test_bin_position_is_the_inverse_of_the_edges() -> None:
    edges = blur_edges().float()
    assert torch.allclose(bin_position(edges[:-1]), torch.arange(BLUR_BINS).float(), atol=1e-3)
    assert torch.equal(bin_position(-edges), bin_position(edges))
    assert float(bin_position(torch.tensor([9 * BLUR_MAX_PX]))) < BLUR_BINS


def test_soft_labels_are_a_bump_about_the_truth() -> None:
    edges = blur_edges().float()
    centres = BLUR_MAX_PX * ((torch.arange(BLUR_BINS) + 0.5) / BLUR_BINS) ** 2
    labels = soft_labels(torch.cat([centres, -centres]))
    assert torch.allclose(labels.sum(dim=1), torch.ones(2 * BLUR_BINS), atol=1e-6)
    assert torch.equal(labels.argmax(dim=1), torch.arange(BLUR_BINS).repeat(2))
    # Gaussian of 0.6 bins: one bin away exp(-0.5 / 0.36).
    assert float(labels[20, 21] / labels[20, 20]) == pytest.approx(math.exp(-0.5 / 0.36), rel=1e-3)
    between = soft_labels(edges[20:21])
    assert float(between[0, 19]) == pytest.approx(float(between[0, 20]), rel=1e-2)


def test_knowing_nothing_costs_the_logarithm_of_the_bins() -> None:
    told = parts(output(1), 40.0, waves=0.1)
    assert told["cross"] == pytest.approx(UNIFORM, rel=1e-5)
    assert told["sign"] == pytest.approx(math.log(2), rel=1e-5)
    assert told["signal"] == pytest.approx(math.log(2), rel=1e-5)
    assert told["total"] == pytest.approx(
        told["cross"] + 0.3 * told["ranked"] + 0.5 * told["sign"] + told["signal"], rel=1e-5
    )


def test_the_truth_costs_least_and_a_near_miss_less_than_a_far_one() -> None:
    truth = torch.tensor([30.0])
    right = torch.log(soft_labels(truth) + 1e-9)
    near, far = right.roll(3, 1), right.roll(20, 1)
    costs = [parts(output(1, logits), 30.0) for logits in (right, near, far)]
    assert costs[0]["ranked"] == pytest.approx(0.0, abs=1e-5)
    assert costs[0]["cross"] < costs[1]["cross"]
    assert costs[0]["ranked"] < costs[1]["ranked"] < costs[2]["ranked"]


@pytest.mark.parametrize("signal", [0.0, -1.0])
def test_blur_is_not_asked_of_fields_without_signal(signal: float) -> None:
    told = parts(output(1), 40.0, signal=signal, waves=0.1)
    assert told["cross"] == told["ranked"] == told["sign"] == 0.0
    assert (told["signal"] == 0.0) == (signal < 0)  # where nobody can say, nothing is asked


def test_sign_is_asked_only_where_the_aberration_was_told() -> None:
    assert parts(output(1, sign=2.0), 40.0, waves=0.5 * SIGN_FROM_WAVES)["sign"] == 0.0
    right, wrong = (parts(output(1, sign=2.0), blur, waves=0.1)["sign"] for blur in (40.0, -40.0))
    assert right == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-4)
    assert wrong == pytest.approx(math.log(1 + math.exp(2)), rel=1e-4)


def test_signal_is_told_apart() -> None:
    assert parts(output(1, signal=3.0), 1.0)["signal"] == pytest.approx(math.log(1 + math.exp(-3)), rel=1e-4)
    assert parts(output(1, signal=3.0), 1.0, signal=0.0)["signal"] == pytest.approx(math.log(1 + math.exp(3)), rel=1e-4)


def test_parts_are_means_over_those_that_count() -> None:
    out = output(3)
    blur, signal = torch.tensor([10.0, 40.0, 99.0]), torch.tensor([1.0, 0.0, -1.0])
    told = defocus_loss(out, blur, signal, torch.zeros(3))
    assert float(told["cross"]) == pytest.approx(UNIFORM, rel=1e-5)
    nobody = defocus_loss(out, blur, -torch.ones(3), torch.zeros(3))
    assert float(nobody["total"]) == 0.0
