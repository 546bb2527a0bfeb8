from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal.models.base import ImageError
from parfocal.models.restore import METHODS, make_restorer
from parfocal.models.restore.base import (
    CELL_PX,
    MAX_PIXELS,
    Blur,
    Restoration,
    RestoreError,
    Verdict,
    cells_of,
    check_frame,
)
from parfocal.models.restore.gate import Gate, Limits, block_rms, spread
from parfocal.models.restore.kinds import KINDS, MOVED, OWN, WHY, KindJudge, packaged_judge
from parfocal.simulator.optics import Optics
from tests.models.restore.test_deconvolution import frame_and_truth, psnr

OPTICS = Optics()
DEPTH = OPTICS.depth_of_field_um


def test_a_blurred_frame_is_restored_nearer_to_the_truth() -> None:
    frame, truth, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    done = make_restorer("richardson_lucy").restore(frame, blur)
    assert done.verdict is Verdict.RESTORED
    assert done.refused.shape == cells_of((192, 192))
    assert psnr(done.pixels, truth) > psnr(frame, truth) + 0.5


@pytest.mark.parametrize("method", ["wiener", "richardson_lucy"])
@pytest.mark.parametrize(
    ("blur", "word"),
    [
        (Blur(OPTICS, 40.0 * DEPTH, 0.1), "too far"),
        (Blur(OPTICS, 3.0 * DEPTH, 3.5 * DEPTH), "doubt"),
        (Blur(OPTICS, float("nan"), 0.1), "not a number"),
    ],
)
def test_a_blur_that_is_too_large_or_not_known_is_refused_with_the_frame_untouched(
    method: str, blur: Blur, word: str
) -> None:
    frame, _, _ = frame_and_truth("nuclei", 2.0, 2000.0)
    done = make_restorer(method).restore(frame, blur)
    assert done.verdict is Verdict.REFUSED
    assert word in done.reason
    assert np.array_equal(done.pixels, frame) and done.refused.all()


@pytest.mark.parametrize("blur", [Blur(OPTICS, 0.05, 0.2), Blur(OPTICS, 0.35 * DEPTH, 0.46 * DEPTH)])
def test_a_frame_in_focus_is_left_as_it_is(blur: Blur) -> None:
    frame, _, _ = frame_and_truth("nuclei", 0.0, 2000.0)
    done = make_restorer("wiener").restore(frame, blur)
    assert done.verdict is Verdict.IN_FOCUS
    assert np.array_equal(done.pixels, frame) and not done.refused.any()


def test_saturated_light_is_refused() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    clipped = np.minimum(frame, np.percentile(frame, 97.0))
    done = make_restorer("wiener").restore(clipped, blur)
    assert done.verdict is Verdict.REFUSED and "saturated" in done.reason


def test_a_frame_of_one_value_is_refused() -> None:
    done = make_restorer("wiener").restore(np.full((128, 128), 100, dtype=np.uint16), Blur(OPTICS, 3.0, 0.1))
    assert done.verdict is Verdict.REFUSED and "one value" in done.reason


def test_squares_that_the_result_does_not_explain_keep_the_frames_pixels() -> None:
    frame, _, blur = frame_and_truth("nuclei", 3.0, 2000.0)
    frame[68:92, 108:112] += 6000.0  # a sharp bar, as no blurred specimen has
    restorer = make_restorer("richardson_lucy")
    restorer._gate.judge = None  # type: ignore[attr-defined]  # who would call it drawn, and be right
    done = restorer.restore(frame, blur)
    assert done.verdict is Verdict.RESTORED
    assert done.refused[2, 3] and done.refused.mean() < 0.5
    where = spread(done.refused, frame.shape)
    assert np.array_equal(done.pixels[where], frame[where])
    assert not np.array_equal(done.pixels[~where], frame[~where])
    assert "squares refused" in done.reason


def test_limits_are_the_gates() -> None:
    frame, _, blur = frame_and_truth("nuclei", 3.0, 2000.0)
    strict = Gate(Limits(most_depths=2.0))
    assert strict.before("x", frame, frame, blur) is not None
    assert Gate().before("x", frame, frame, blur) is None


def test_a_doubtful_distance_is_too_far_only_if_it_is_with_its_doubt() -> None:
    frame, _, _ = frame_and_truth("nuclei", 3.0, 2000.0)
    said = [
        Gate(Limits(most_px=1e6)).before("x", frame, frame, Blur(OPTICS, depths * DEPTH, sd * DEPTH))
        for depths, sd in ((9.5, 0.2), (9.5, 1.0), (11.9, 3.5), (12.1, 6.0))
    ]
    assert [stop is not None and "too far" in stop.reason for stop in said] == [True, False, False, True]


def test_what_is_called_in_focus_is_looked_at_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    frame, _, _ = frame_and_truth("nuclei", 0.0, 2000.0)
    gate, blur = Gate(judge=packaged_judge()), Blur(OPTICS, 0.05, 0.2)
    plain = gate.admit("x", frame, frame, blur)
    assert isinstance(plain, Restoration) and plain.verdict is Verdict.IN_FOCUS
    monkeypatch.setattr(KindJudge, "likely", lambda self, looked: dict.fromkeys(KINDS, 0.0) | {MOVED: 0.9, OWN: 0.1})
    smeared = gate.admit("x", frame, frame, blur)
    assert isinstance(smeared, Restoration)
    assert (smeared.verdict, smeared.reason) == (Verdict.REFUSED, WHY[MOVED])
    assert np.array_equal(smeared.pixels, frame) and smeared.refused.all()


def test_identity_gives_the_frame() -> None:
    frame, _, blur = frame_and_truth("puncta", 2.0, 200.0)
    done = make_restorer("identity").restore(frame.astype(np.uint16), blur)
    assert done.verdict is Verdict.RESTORED and np.array_equal(done.pixels, frame)


def test_the_source_array_is_never_written_to() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    frame.setflags(write=False)
    before = frame.copy()
    for method in ("wiener", "richardson_lucy", "identity"):
        make_restorer(method).restore(frame, blur)
    assert np.array_equal(frame, before)


@pytest.mark.parametrize(
    ("frame", "error", "word"),
    [
        (np.zeros((100, 100, 3)), ImageError, "colour"),
        (np.zeros((4, 100, 100)), ImageError, "one image"),
        (np.zeros((100, 100), dtype=complex), ImageError, "real|floating"),
        (np.full((100, 100), np.nan), ImageError, "NaN"),
        (np.zeros((63, 300)), RestoreError, "too small"),
    ],
)
def test_what_is_no_frame_is_said(frame: np.ndarray, error: type[Exception], word: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(error, match=word):
        check_frame(frame)


def test_a_huge_frame_is_said() -> None:
    huge = np.broadcast_to(np.uint8(0), (MAX_PIXELS // 1000 + 1, 1000))
    with pytest.raises(RestoreError, match="too large"):
        check_frame(huge)


def test_methods_are_made_by_name() -> None:
    with pytest.raises(RestoreError, match="did you mean 'wiener'"):
        make_restorer("weiner")
    with pytest.raises(RestoreError, match=r"knows no option 'iteration'.*iterations"):
        make_restorer("richardson_lucy", {"iteration": 3})
    with pytest.raises(RestoreError, match="whole number"):
        make_restorer("richardson_lucy", {"iterations": 0})
    with pytest.raises(RestoreError, match="takes none"):
        make_restorer("wiener", {"x": 1})
    assert "unet" in METHODS


@settings(max_examples=40, deadline=None)
@given(st.integers(64, 200), st.integers(64, 200), st.integers(0, 2**31))
def test_block_rms_is_that_of_each_square(height: int, width: int, seed: int) -> None:
    image = np.random.default_rng(seed).normal(size=(height, width)).astype(np.float32)
    blocks = block_rms(image)
    rows, columns = cells_of((height, width))
    assert blocks.shape == (rows, columns)
    last = image[(rows - 1) * CELL_PX :, (columns - 1) * CELL_PX :]
    assert blocks[-1, -1] == pytest.approx(float(np.sqrt(np.mean(last**2))), rel=1e-4)
    assert spread(blocks > 0, image.shape).shape == image.shape
