"""Teaching the gate the kinds: what is fitted tells them apart, the limit keeps to ordinary frames, a card is whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parfocal.models.base import ModelError
from parfocal.models.restore.base import Blur
from parfocal.models.restore.estimate import NotEstimatedError
from parfocal.models.restore.kinds import KINDS, LOOKS, OWN, KindJudge
from parfocal.models.training import restore_kinds
from parfocal.models.training.restore_kinds import KindRecipe, Looked, drawn, fit, limit_of, publish_kinds
from parfocal.simulator.optics import Optics
from tests.models.training.test_fields import field, write

QUICK = KindRecipe(frames=40, validation=20, members=2, hidden=6, steps=300, seed=3)


def toy(count: int, seed: int) -> Looked:
    """Every kind lies off the middle in a number of its own."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.arange(count) % len(KINDS)
    looks = 0.02 * torch.randn(count, LOOKS, generator=generator)
    looks[torch.arange(count), kinds] += 3.0
    return Looked(looks, kinds, tuple(KINDS[int(kind)] for kind in kinds))


def test_what_is_fitted_tells_the_kinds_apart() -> None:
    judge, unseen = fit(toy(240, 1), QUICK), toy(60, 2)
    said = [judge.likely(one) for one in unseen.looks]
    assert all(abs(sum(likely.values()) - 1.0) < 1e-5 for likely in said)
    right = [
        max(likely, key=lambda kind: likely[kind]) == name for likely, name in zip(said, unseen.makers, strict=True)
    ]
    assert np.mean(right) > 0.9


def test_the_limit_lets_ordinary_frames_pass() -> None:
    judge, unseen = fit(toy(240, 1), QUICK), toy(600, 5)
    own = unseen.looks[unseen.kinds == KINDS.index(OWN)]
    assert limit_of(judge, own, 0.01) >= 0.5
    strange = unseen.looks[unseen.kinds != KINDS.index(OWN)]
    limit = limit_of(judge, strange, 0.2)  # as if they were ordinary: then it must lie higher
    other = np.array([1.0 - judge.likely(one)[OWN] for one in strange])
    assert limit > 0.5 and abs(np.mean(other > limit) - 0.2) < 0.02


def test_a_card_holds_what_was_fitted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits: list[Any] = []

    def draw(recipe: KindRecipe, split: str, count: int, estimate: object) -> Looked:
        splits.append((split, count))
        return toy(count, len(splits))

    monkeypatch.setattr(restore_kinds, "drawn", draw)
    card = publish_kinds(QUICK, tmp_path)
    assert splits == [("train", 40), ("validation", 20)]
    assert card.training["fields"] == {}
    write(tmp_path / "mine", "train", [field(1), field(2)])
    named = restore_kinds.write_kinds(fit(toy(40, 1), QUICK), replace(QUICK, fields=str(tmp_path)), tmp_path / "b", {})
    assert named.training["fields"] == {"mine": 2}
    judge = KindJudge.of_card(tmp_path / "restore_kinds.json")
    assert judge.limit == card.measured["limit"] and set(card.measured["validation"]) == set(KINDS)
    again = fit(toy(40, 1), QUICK)
    assert judge.likely(toy(1, 9).looks[0]) == again.likely(toy(1, 9).looks[0])


def test_frames_are_drawn_with_the_blur_as_it_is_estimated() -> None:
    def estimate(frame: Any, optics: Optics) -> Blur:
        if int(frame.sum()) % 3 == 0:
            raise NotEstimatedError("not this one")
        return Blur(optics, 2.0 * optics.depth_of_field_um, 0.2 * optics.depth_of_field_um)

    found = drawn(KindRecipe(seed=8), "train", 12, estimate)
    assert 3 < len(found.looks) == len(found.kinds) == len(found.makers) <= 12
    assert found.looks.shape[1] == LOOKS and bool(found.looks.isfinite().all())


def test_nothing_to_learn_on_is_said() -> None:
    def never(frame: Any, optics: Optics) -> Blur:
        raise NotEstimatedError("no")

    with pytest.raises(ModelError, match="nothing to learn"):
        drawn(KindRecipe(seed=8), "train", 3, never)
