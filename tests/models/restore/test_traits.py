from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from parfocal.models.restore import make_restorer
from parfocal.models.restore.base import Blur, Verdict
from parfocal.models.restore.deconvolution import observe
from parfocal.models.restore.traits import LEAST, NAMES, blockiness, traits
from tests.models.restore.test_deconvolution import OPTICS, frame_and_truth


def told(frame: NDArray[np.float32], blur: Blur) -> dict[str, float]:
    residual = np.ones((4, 4), dtype=np.float32)
    values = traits(frame, observe(frame, blur), residual, blur, noise=0.02, gain_db=3.0)
    return dict(zip(NAMES, values.tolist(), strict=True))


def compressed(frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    eight = np.clip((frame - frame.min()) / np.ptp(frame) * 250.0, 0, 255).astype(np.uint8)
    packed = io.BytesIO()
    Image.fromarray(eight).save(packed, "JPEG", quality=50)
    return np.asarray(Image.open(packed))


def test_lossy_compression_shows_in_blocks() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    assert blockiness(frame) < 1.1 < 1.5 < blockiness(compressed(frame).astype(np.float32))
    done = make_restorer("wiener").restore(compressed(frame), blur)
    assert done.verdict is Verdict.REFUSED and "compressed" in done.reason


def test_one_bad_line_makes_no_blocks() -> None:
    frame, _, _ = frame_and_truth("nuclei", 2.0, 2000.0)
    frame[64] += 4000.0
    assert blockiness(frame) < 1.3


def test_too_little_light_is_refused() -> None:
    frame, _, blur = frame_and_truth("nuclei", 4.0, 6.0)
    done = make_restorer("richardson_lucy").restore(frame, blur)
    assert done.verdict is Verdict.REFUSED and "too little light" in done.reason


def test_a_direction_shows_in_its_band() -> None:
    frame, _, blur = frame_and_truth("nuclei", 3.0, 2000.0)
    y = np.arange(frame.shape[0], dtype=np.float32)[:, None]
    striped = frame + 0.2 * np.ptp(frame) * np.sin(2 * np.pi * 0.08 * y).astype(np.float32)
    assert told(striped, blur)["fine_direction"] > told(frame, blur)["fine_direction"] + 1.0
    assert told(striped, blur)["coarse_direction"] == pytest.approx(told(frame, blur)["coarse_direction"], abs=0.3)


def test_bright_field_is_skewed_the_other_way() -> None:
    frame, _, blur = frame_and_truth("puncta", 2.0, 2000.0)
    dark = (float(frame.max()) + 100.0 - frame).astype(np.float32)
    assert told(frame, blur)["negative_skewness"] == pytest.approx(LEAST["negative_skewness"])
    assert told(dark, blur)["negative_skewness"] > 0.5
    assert told(dark, blur)["median_light"] > told(frame, blur)["median_light"] + 1.0


def test_gain_and_offset_of_the_camera_do_not_matter() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    plain, other = told(frame, blur), told(4.0 * frame + 300.0, blur)
    assert plain == pytest.approx(other, abs=0.05)


def test_a_doubtful_blur_shows_and_a_sure_one_is_nothing_to_wonder_at() -> None:
    frame, _, blur = frame_and_truth("nuclei", 2.0, 2000.0)
    surer, doubtful = (Blur(OPTICS, blur.defocus_um, share * blur.defocus_um) for share in (0.001, 0.4))
    assert told(frame, surer)["doubt"] == told(frame, blur)["doubt"] == pytest.approx(LEAST["doubt"])
    assert told(frame, doubtful)["doubt"] > LEAST["doubt"] + 0.8
