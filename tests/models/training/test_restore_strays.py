"""Frames to learn the gate on: every maker, of its kind, from its seed alone."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal.models.restore.kinds import KINDS
from parfocal.models.training.objects import ObjectBank
from parfocal.models.training.restore_pairs import PairMaker
from parfocal.models.training.restore_strays import MAKERS, StrayMaker

BANK = ObjectBank([], procedural=5, seed=1)


def maker(seed: int) -> StrayMaker:
    return StrayMaker(PairMaker(BANK, size_px=96, seed=seed))


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_every_maker_draws_frames_of_its_kind(name: str) -> None:
    stray, again, other = maker(3).draw(name), maker(3).draw(name), maker(4).draw(name)
    assert (stray.kind, stray.maker) == (MAKERS[name][0], name)
    assert stray.frame.shape == (96, 96) and stray.frame.dtype == np.float32
    assert np.isfinite(stray.frame).all() and np.ptp(stray.frame) > 0
    assert not stray.optics.zernike_waves and stray.optics.depth_um == 0.0
    assert np.array_equal(stray.frame, again.frame) and not np.array_equal(stray.frame, other.frame)


def test_every_kind_has_a_maker() -> None:
    assert {kind for kind, _ in MAKERS.values()} == set(KINDS)
