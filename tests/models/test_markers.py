from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from parfocal.models.metrics.markers import MARKER_NAMES, MARKERS, PART_PX, markers, quick_markers
from parfocal.models.quality_scaling import scale
from parfocal.models.training.degradations import degrade

Image = NDArray[np.float32]


def clean(seed: int = 1, side: int = 128) -> Image:
    """Cells with grain, everywhere in the field, on a background."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    image = np.full((side, side), 0.08)
    for cy, cx, r in rng.uniform((0, 0, 3), (side, side, 8), (side * side // 500, 3)):
        image[np.hypot(y - cy, x - cx) < r] = rng.uniform(0.5, 1.0)
    return image.astype(np.float32)


def measured(image: Image | Tensor) -> dict[str, float]:
    held = torch.as_tensor(image)[None]
    return dict(zip(MARKER_NAMES, markers(held)[0].tolist(), strict=True))


def seen(artefact: str, level: float | None = None, **options: bool) -> dict[str, float]:
    """Mean markers of an artefact over a few fields."""
    found = [
        measured(degrade(clean(seed), artefact, np.random.default_rng(seed), level=level, **options) * 1000 + 100)
        for seed in range(4)
    ]
    return {name: float(np.mean([one[name] for one in found])) for name in MARKER_NAMES}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), gain=st.floats(0.5, 2.0), offset=st.floats(0.0, 500.0))
def test_gain_and_offset_leave_no_trace(seed: int, gain: float, offset: float) -> None:
    image = degrade(clean(seed % 7), "dark", np.random.default_rng(seed), level=0.5) * 300 + 50
    batch = torch.from_numpy(np.stack([image, image * np.float32(gain) + np.float32(offset)]))
    one, two = markers(batch)
    np.testing.assert_allclose(two, one, atol=0.02)


def test_a_hot_pixel_hardly_moves_noise_brightness_and_shade() -> None:
    image = degrade(clean(), "reference", np.random.default_rng(0)) * 1000 + 100
    spoilt = image.copy()
    spoilt[40, 40] = 60_000.0
    before, after = measured(image), measured(spoilt)
    for name in MARKER_NAMES:
        # A bright pixel is a broad spectrum, and the brightest of its surroundings; it is held, not ignored.
        if not name.startswith(("band", "frc", "power")):
            assert after[name] == pytest.approx(before[name], abs=0.3 if name.startswith("shade") else 0.05), name


def test_blur_takes_fine_detail_and_noise_brings_it_back() -> None:
    reference, blurred, noisy = seen("reference"), seen("blur", 0.5), seen("readout", 0.5)
    for band in ("band_3", "band_4"):
        assert blurred[band] < reference[band] - 0.5
        assert noisy[band] > reference[band]
    assert blurred["power_slope"] < reference["power_slope"] < noisy["power_slope"]
    assert blurred["frc_cutoff"] < reference["frc_cutoff"]


def test_noise_is_measured_beside_the_signal() -> None:
    found = [seen(name, 0.5)["snr"] for name in ("reference", "dark", "readout")]
    assert found == sorted(found, reverse=True)
    assert found[0] > seen("shot", 0.5)["snr"] + 0.5
    assert seen("readout", 1.0)["noise_dark"] < seen("readout", 0.0)["noise_dark"] - 0.05


def test_shot_noise_grows_with_brightness_and_read_noise_does_not() -> None:
    assert seen("shot", 0.5)["noise_growth"] > seen("readout", 0.5)["noise_growth"] + 0.15


def test_dark_events_are_few_and_whole() -> None:
    dark, readout = seen("dark", 0.5), seen("readout", 0.5)
    assert dark["noise_skew"] > 0.2
    assert dark["noise_step_50"] < readout["noise_step_50"] - 0.1


def test_a_vignette_shows_in_background_and_brightness() -> None:
    reference, weak, strong = seen("reference"), seen("vignetting", 0.0), seen("vignetting", 1.0)
    for name in ("shade_background_sigmas", "shade_bright", "shade_bright_sigmas"):
        assert strong[name] > weak[name] > reference[name], name
    assert abs(reference["shade_bright"]) < 1.0
    # 1 / (2 sigma^2), of the envelope of a field of cells.
    assert weak["shade_bright"] == pytest.approx(1 / (2 * 0.6**2), abs=0.8)


def test_without_noise_the_correlation_is_censored_and_the_blur_still_shows() -> None:
    sharp, blurred = seen("reference", noise_free=True), seen("blur", 0.5, noise_free=True)
    assert blurred["frc_censored"] == 1.0
    assert blurred["frc_cutoff"] == 1.0
    assert blurred["band_5"] < sharp["band_5"] - 1.0


@pytest.mark.parametrize("shape", [(32, 32), (33, 70), (200, 64)])
def test_any_shape_has_finite_markers(shape: tuple[int, int]) -> None:
    frames = torch.from_numpy(np.random.default_rng(0).normal(100.0, 5.0, (2, *shape)).astype(np.float32))
    found = markers(frames)
    assert found.shape == (2, MARKERS)
    assert bool(found.isfinite().all())


def test_frames_are_measured_each_by_itself() -> None:
    one, two = (degrade(clean(s), "shot", np.random.default_rng(s), level=0.3) for s in (1, 2))
    together = markers(torch.from_numpy(np.stack([one, two])))
    for frame, row in zip((one, two), together, strict=True):
        np.testing.assert_allclose(markers(torch.from_numpy(frame)[None])[0], row, atol=1e-3)


def test_a_constant_frame_has_finite_markers() -> None:
    assert bool(markers(torch.full((1, 64, 64), 7.0)).isfinite().all())


def test_whole_counts_are_taken_as_they_are() -> None:
    image = np.round(degrade(clean(), "shot", np.random.default_rng(0), level=0.3) * 100)
    one = markers(torch.from_numpy(image.astype(np.uint16)[None]))
    np.testing.assert_allclose(one, markers(torch.from_numpy(image)[None]), atol=1e-5)


def test_of_a_frame_of_usual_size_every_pixel_is_measured() -> None:
    frames = scale(torch.from_numpy(1000 * clean(side=256))[None])[:, 0]
    assert torch.equal(quick_markers(frames), markers(frames))


def test_of_a_large_frame_the_fullest_square_tells_the_noise_and_the_whole_its_light() -> None:
    rng = np.random.default_rng(5)
    image = rng.normal(100.0, 5.0, (1024, 1100)).astype(np.float32)
    image[PART_PX : 2 * PART_PX, :PART_PX] += 1000 * clean(3, PART_PX)
    frames = scale(torch.from_numpy(image)[None])[:, 0]
    quick = dict(zip(MARKER_NAMES, quick_markers(frames)[0].tolist(), strict=True))
    whole = dict(zip(MARKER_NAMES, markers(frames)[0].tolist(), strict=True))
    square = frames[:, PART_PX : 2 * PART_PX, :PART_PX]
    part = dict(zip(MARKER_NAMES, markers(square)[0].tolist(), strict=True))
    assert quick["frc_cutoff"] == pytest.approx(part["frc_cutoff"], abs=1e-6)
    for name in ("fill", "contrast", "shade_background", "shade_bright"):
        assert quick[name] == pytest.approx(whole[name], abs=1e-4)
