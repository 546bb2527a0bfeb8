"""Losses of COMI's networks, as in the paper (equations 5 to 10) or as in its published code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, l1_loss, mse_loss

Style = Literal["paper", "code"]
STYLES: tuple[Style, ...] = ("paper", "code")
WEIGHTS: Mapping[Style, Mapping[str, float]] = {
    "paper": {"adversarial": 1.0, "content": 1.0, "cycle": 0.001},
    "code": {
        "adversarial": 1e-3, "adversarial_back": 1e-3, "content": 1.0, "content_back": 1.0, "identity": 1.0,
    },
}  # fmt: skip
"""Of every part of the generators' loss; a part stands for both directions."""
LEAST_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Images:
    """One direction: what was asked for, what was made, and what became of the other side's image on its way back.

    All (n, 1, h, w) in the networks' units. `back` has been through both generators, `same` is what the generator makes
    of an image that is already `wanted`; either may be left out where no part of the loss needs it.
    """

    wanted: Tensor
    made: Tensor
    back: Tensor | None = None
    same: Tensor | None = None


def judged(scores: Tensor, style: Style, *, real: bool) -> Tensor:
    """How far a discriminator's scores (n, 1, rows, columns) are from saying `real` or not.

    In the paper the probability of an image is the mean of its patches', and the loss its logarithm (equation 4). As
    usual the generator minimises ``-log D(G)`` instead of ``log(1 - D(G))``: the same fixed point, with a gradient at
    the start. In the code it is a squared difference for every patch.
    """
    if style == "code":
        return mse_loss(scores, scores.new_full(scores.shape, float(real)))
    probability = scores.sigmoid().mean(dim=(1, 2, 3)).clamp(LEAST_PROBABILITY, 1.0 - LEAST_PROBABILITY)
    return binary_cross_entropy(probability, probability.new_full(probability.shape, float(real)))


def discriminator_loss(discriminator: nn.Module, images: Images, style: Style) -> Tensor:
    """What one discriminator minimises: real ones said to be real, made ones not."""
    real = judged(discriminator(images.wanted), style, real=True)
    return real + judged(discriminator(images.made.detach()), style, real=False)


def content(features: nn.Module, made: Tensor, wanted: Tensor, style: Style) -> Tensor:
    """Squared distance of the features of two images (equation 6); the gradient goes to the first alone.

    In the paper it is divided by the places of a map, in the code by the channels too.
    """
    distance: Tensor = (features(made).float() - features(wanted).float().detach()).square()
    return distance.sum(dim=1).mean() if style == "paper" else distance.mean()


def generator_parts(discriminator: nn.Module, features: nn.Module, images: Images, style: Style) -> dict[str, Tensor]:
    """The parts of the loss of one direction, not weighted; see `WEIGHTS`."""
    parts = {
        "adversarial": judged(discriminator(images.made), style, real=True),
        "content": content(features, images.made, images.wanted, style),
    }
    if images.back is not None:
        if style == "paper":
            parts["cycle"] = l1_loss(images.back, images.wanted)
        else:
            parts["adversarial_back"] = judged(discriminator(images.back), style, real=True)
            parts["content_back"] = content(features, images.back, images.wanted, style)
    if images.same is not None:
        parts["identity"] = mse_loss(images.same, images.wanted)
    return parts


def weighted(parts: Mapping[str, Tensor], style: Style, *, cycle_every: int = 1) -> Tensor:
    """Sum of the parts by `WEIGHTS`; a part that is computed in one step of `cycle_every` counts as often as that."""
    weights = WEIGHTS[style]
    rare = ("cycle", "adversarial_back", "content_back")
    terms = [weights[name] * (cycle_every if name in rare else 1) * part for name, part in parts.items()]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total
