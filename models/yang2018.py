"""The network of Yang et al. 2018 (BMC Bioinformatics 19:77), re-implemented and retrained: the learned baseline."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

PATCH_PX = 84
LEVELS = 11
INPUT_SCALE = 1.0 / 1024.0
"""Fixed scale of the input. The paper divides by 65535 and trains for 10^6 steps; a larger scale starts sooner."""


class YangNet(nn.Module):
    """84 px patches to 11 ordered defocus levels; 28 965 771 parameters (Fig. 2a of the paper).

    Notes
    -----
    Convolutions of 32 and 64 filters of 5x5, each followed by a 2x2 maximum, a layer of 1024 units, dropout of one
    half, 11 outputs. Input: raw 16-bit counts times `INPUT_SCALE`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 5, padding=2)
        self.conv2 = nn.Conv2d(32, 64, 5, padding=2)
        self.fc1 = nn.Linear(64 * (PATCH_PX // 4) ** 2, 1024)
        self.drop = nn.Dropout(0.5)
        self.fc2 = nn.Linear(1024, LEVELS)

    def forward(self, patches: Tensor) -> Tensor:
        """Logits (n, 11) of patches (n, 1, 84, 84)."""
        x = functional.max_pool2d(functional.relu(self.conv1(patches)), 2)
        x = functional.max_pool2d(functional.relu(self.conv2(x)), 2)
        x = functional.relu(self.fc1(x.flatten(1)))
        logits: Tensor = self.fc2(self.drop(x))
        return logits


def ranked_probability_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Mean ranked probability score, ``sum_k (CDF_predicted[k] - CDF_true[k])^2`` (Murphy 1969; the paper's loss)."""
    predicted = torch.softmax(logits, dim=1).cumsum(dim=1)
    steps = torch.arange(logits.shape[1], device=logits.device)
    true = (levels[:, None] <= steps[None, :]).to(predicted.dtype)
    return (predicted - true).square().sum(dim=1).mean()


def certainty(probabilities: Tensor) -> Tensor:
    """One minus the entropy over its maximum: 1 is sure of one level, 0 knows nothing. Over the last axis."""
    entropy = -(probabilities * torch.log(probabilities.clamp_min(1e-12))).sum(dim=-1)
    return 1.0 - entropy / math.log(probabilities.shape[-1])


def aggregate(probabilities: Tensor) -> Tensor:
    """Certainty-weighted mean of the patches' distributions, (n, levels) to (levels,)."""
    weights = certainty(probabilities).clamp_min(1e-9)
    return (probabilities * weights[:, None]).sum(dim=0) / weights.sum()
