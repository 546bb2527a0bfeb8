from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from parfocal.models.training.restore_comi_loss import (
    STYLES,
    WEIGHTS,
    Images,
    Style,
    content,
    discriminator_loss,
    generator_parts,
    judged,
    weighted,
)


class Mean(nn.Module):
    """Says of every image one score, its brightness."""

    def forward(self, image: Tensor) -> Tensor:
        return image.mean(dim=(1, 2, 3), keepdim=True)


def flat(value: float, *, grad: bool = False) -> Tensor:
    return torch.full((1, 1, 8, 8), value, requires_grad=grad)


def test_the_papers_probability_is_the_mean_of_the_patches() -> None:
    torn = torch.tensor([[[[30.0, -30.0]]]])
    # The mean of the patches' own losses would be 15.
    assert float(judged(torn, "paper", real=True)) == pytest.approx(math.log(2.0), rel=1e-5)
    assert float(judged(torn, "paper", real=False)) == pytest.approx(math.log(2.0), rel=1e-5)


def test_the_codes_loss_is_a_squared_difference_for_every_patch() -> None:
    scores = torch.tensor([[[[1.0, 3.0]]]])
    assert float(judged(scores, "code", real=True)) == pytest.approx(2.0)
    assert float(judged(scores, "code", real=False)) == pytest.approx(5.0)


@pytest.mark.parametrize("style", STYLES)
def test_a_sure_judgement_stays_finite(style: Style) -> None:
    scores = torch.full((1, 1, 2, 2), 200.0, requires_grad=True)
    loss = judged(scores, style, real=False)
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert scores.grad is not None and torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("style", STYLES)
def test_a_discriminator_does_not_teach_the_generator(style: Style) -> None:
    made = flat(0.2, grad=True)
    weight = torch.ones(1, requires_grad=True)

    class Scaled(Mean):
        def forward(self, image: Tensor) -> Tensor:
            return super().forward(image) * weight

    discriminator_loss(Scaled(), Images(flat(1.0), made), style).backward()  # type: ignore[no-untyped-call]
    assert made.grad is None
    assert weight.grad is not None


def test_a_discriminator_gains_by_telling_them_apart() -> None:
    told = discriminator_loss(Mean(), Images(flat(9.0), flat(-9.0)), "paper")
    confused = discriminator_loss(Mean(), Images(flat(-9.0), flat(9.0)), "paper")
    assert float(told) < 0.01 < float(confused)


def test_content_teaches_what_was_made_and_not_what_was_wanted() -> None:
    made, wanted = flat(1.0, grad=True), flat(3.0, grad=True)
    distance = content(nn.Identity(), made, wanted, "code")
    assert distance.item() == pytest.approx(4.0)
    distance.backward()  # type: ignore[no-untyped-call]
    assert made.grad is not None
    assert wanted.grad is None
    assert content(nn.Identity(), wanted, wanted, "code").item() == 0.0


def test_the_papers_content_is_summed_over_the_channels_and_the_codes_is_a_mean() -> None:
    made, wanted = torch.zeros(1, 8, 4, 4), torch.full((1, 8, 4, 4), 3.0)
    assert float(content(nn.Identity(), made, wanted, "paper")) == pytest.approx(72.0)
    assert float(content(nn.Identity(), made, wanted, "code")) == pytest.approx(9.0)


def test_the_papers_parts_and_their_weights() -> None:
    parts = generator_parts(Mean(), nn.Identity(), Images(flat(1.0), flat(3.0), back=flat(0.5)), "paper")
    adversarial = -math.log(1.0 / (1.0 + math.exp(-3.0)))
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {"adversarial": adversarial, "content": 4.0, "cycle": 0.5}, rel=1e-4
    )
    assert float(weighted(parts, "paper")) == pytest.approx(adversarial + 4.0 + 0.001 * 0.5, rel=1e-5)


def test_the_codes_parts_and_their_weights() -> None:
    images = Images(flat(1.0), flat(3.0), back=flat(0.5), same=flat(1.1))
    parts = generator_parts(Mean(), nn.Identity(), images, "code")
    assert {name: float(value) for name, value in parts.items()} == pytest.approx(
        {"adversarial": 4.0, "content": 4.0, "adversarial_back": 0.25, "content_back": 0.25, "identity": 0.01}, rel=1e-4
    )
    assert float(weighted(parts, "code")) == pytest.approx(1e-3 * 4.25 + 4.25 + 0.01, rel=1e-5)


def test_what_is_computed_in_one_step_of_four_counts_four_times() -> None:
    parts = {"adversarial": torch.tensor(1.0), "content": torch.tensor(2.0), "cycle": torch.tensor(100.0)}
    assert float(weighted(parts, "paper", cycle_every=4)) == pytest.approx(3.4)
    assert float(weighted({"content": torch.tensor(2.0)}, "paper", cycle_every=4)) == pytest.approx(2.0)


def test_without_a_way_back_there_is_no_part_of_it() -> None:
    assert set(generator_parts(Mean(), nn.Identity(), Images(flat(1.0), flat(3.0)), "paper")) == {
        "adversarial", "content"
    }  # fmt: skip
    for style in STYLES:
        images = Images(flat(1.0), flat(3.0), flat(1.0), flat(1.0) if style == "code" else None)
        assert set(generator_parts(Mean(), nn.Identity(), images, style)) == set(WEIGHTS[style])
