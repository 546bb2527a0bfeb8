"""How unlike the frames of the training set a frame is: Mahalanobis distance of its traits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

LEAST_SD = 0.02
"""No direction of the traits is believed to vary less."""


@dataclass(frozen=True)
class Strangeness:
    """Distance from the training set's traits, in units of the distance that most ordinary frames stay below.

    Parameters
    ----------
    mean : Tensor, shape (n,)
    whiten : Tensor, shape (n, n)
        Principal directions, divided by the standard deviation along them.
    limit : Tensor, shape (1,)
    """

    KEYS: ClassVar[tuple[str, ...]] = ("gate.mean", "gate.whiten", "gate.limit")
    mean: Tensor
    whiten: Tensor
    limit: Tensor

    @staticmethod
    def of_state(held: Mapping[str, Tensor]) -> Strangeness:
        """From a weight file."""
        return Strangeness(*(held[key].float() for key in Strangeness.KEYS))

    def state(self) -> dict[str, Tensor]:
        """For a weight file."""
        return dict(zip(Strangeness.KEYS, (self.mean, self.whiten, self.limit), strict=True))

    @staticmethod
    def fit(known: Tensor, held_out: Tensor, *, share: float = 0.99) -> Strangeness:
        """From traits (samples, n) of training frames; the limit from those of other frames, `share` of them below."""
        mean = known.median(dim=0).values
        _, size, directions = torch.linalg.svd(known - mean, full_matrices=False)
        whiten = directions.T / (size / len(known) ** 0.5).clamp(min=LEAST_SD)
        raw = Strangeness(mean, whiten, torch.ones(1))
        distances = torch.tensor([raw.of(row) for row in held_out])
        return Strangeness(mean, whiten, torch.quantile(distances, share)[None])

    def of(self, traits: Tensor) -> float:
        """Distance of one frame's traits (n,); above 1 is strange."""
        return float(((traits - self.mean) @ self.whiten).square().mean().sqrt() / self.limit)
