"""Frames that must not be restored: each kind is what its name says, and verdicts are counted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Restoration, RestoreError, Verdict, unchanged
from parfocal.models.training.restore_cases import Sample, samples
from parfocal.models.training.restore_refusals import KINDS, refusal_frames, refusals
from parfocal.simulator.optics import Optics

Frames = dict[str, list[NDArray[Any]]]


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return samples(None, count=2, size_px=96, seed=2)


@pytest.fixture(scope="module")
def frames(drawn: list[Sample]) -> Frames:
    held: Frames = {}
    for name, frame, _ in refusal_frames(drawn, seed=1, per_kind=2):
        held.setdefault(name, []).append(frame)
    return held


def test_every_kind_has_its_frames_and_the_same_seed_gives_the_same(drawn: list[Sample], frames: Frames) -> None:
    assert list(frames) == list(KINDS)
    for name, held in frames.items():
        assert len(held) == 2
        assert all(frame.shape == (96, 96) and frame.dtype.kind == "u" and np.ptp(frame) > 0 for frame in held), name
    again = [frame for _, frame, _ in refusal_frames(drawn, seed=1, per_kind=2)]
    assert all(np.array_equal(a, b) for a, b in zip(again, (f for held in frames.values() for f in held), strict=True))


def test_kinds_are_what_they_are_called(frames: Frames) -> None:
    assert all(frame.dtype == np.uint8 for frame in frames["JPEG, 8 bit"])
    assert all(np.mean(frame == frame.max()) > 0.01 for frame in frames["clipped"])
    # Transmitted light: a bright field, the camera's offset of 100 counts aside.
    assert all(np.median(f) - 100.0 > 0.3 * (f.max() - 100.0) for f in frames["transmitted light"])
    assert all(np.median(f) - 100.0 < 0.3 * (f.max() - 100.0) for f in frames["motion blur"])
    # A few photons a pixel: hardly more than the noise.
    dim, far = (np.median([np.std(f) / np.std(np.diff(f, axis=0)) for f in frames[name]]) for name in
                ("5 to 10 photons at 4 to 6 depths", "12 to 25 depths of field"))  # fmt: skip
    assert dim < far


class Picky:
    """Refuses what is bright."""

    name = "picky"

    def restore(self, frame: NDArray[Any], blur: Blur) -> Restoration:
        verdict = Verdict.REFUSED if frame.max() > 100 else Verdict.IN_FOCUS
        return unchanged(self.name, verdict, "", frame.astype(np.float32), blur)


def test_verdicts_are_counted_by_kind_and_an_unknown_blur_refuses_for_all() -> None:
    optics = Optics()

    def estimate(frame: NDArray[Any], told: Optics) -> Blur:
        if frame.min() == 0:
            raise RestoreError("empty")
        return Blur(told, 3.0)

    shown = [("a", np.full((64, 64), level), optics) for level in (200, 10)]
    shown += [("b", np.zeros((64, 64)), optics)]
    here = {"identity": make_restorer("identity"), "picky": Picky()}
    found = refusals(iter(shown), here, estimate)
    assert found["a"]["methods"] == {"picky": {"restored": 0.0, "in_focus": 0.5, "refused": 0.5}}
    assert found["b"]["blur_unknown"] == 1.0
    assert found["b"]["methods"]["picky"]["refused"] == 1.0
    assert found["all"]["frames"] == 3
    assert found["all"]["methods"]["picky"]["refused"] == pytest.approx(2 / 3)
    assert refusals(iter(()), here, estimate) == {}
