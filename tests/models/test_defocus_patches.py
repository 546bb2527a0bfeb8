"""Values of all patches at once are those of every patch alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from parfocal.models.defocus_net import BLUR_BINS
from parfocal.models.defocus_patches import neighbours, patch_values
from parfocal.models.defocus_posterior import Posterior


@pytest.mark.parametrize("binning", [1, 2, 4])
def test_all_patches_say_what_each_posterior_says(binning: int) -> None:
    logits = 3 * np.random.default_rng(5).normal(size=(9, BLUR_BINS)).astype(np.float32)
    blur_px, certainty = patch_values(logits, binning, 1.3, 0.02)
    for k, row in enumerate(logits):
        alone = Posterior.of_logits(row, np.zeros(BLUR_BINS), temperature=1.3, floor=0.02, orientation=0.0)
        assert blur_px[k] == pytest.approx(binning * alone.mean_px(), rel=1e-12)
        assert certainty[k] == pytest.approx(max(0.0, alone.certainty(binning)), abs=1e-12)


def test_neighbours_are_two_by_two_and_overlap() -> None:
    cells = torch.arange(12.0).reshape(1, 1, 3, 4)
    patches = neighbours(cells)
    assert patches.shape == (6, 1, 2, 2)
    assert patches[0, 0].flatten().tolist() == [0, 1, 4, 5]
    assert patches[-1, 0].flatten().tolist() == [6, 7, 10, 11]
