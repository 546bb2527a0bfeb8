from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parfocal import UsageError
from parfocal.simulator.camera import Camera, CameraParameters, flat_field

PLAIN = CameraParameters(
    quantum_efficiency=1.0,
    gain_counts_per_electron=1.0,
    read_noise_electrons=0.0,
    dark_electrons_per_s=0.0,
    hot_pixel_fraction=0.0,
    vignetting=0.0,
    full_well_electrons=1e9,
)
SHAPE = (192, 160)


def flat(photons: float, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.full(shape, photons, dtype=np.float32)


def pair_variance(camera: Camera, photons: np.ndarray, exposure_ms: float = 10.0) -> float:
    """Temporal noise from the difference of two frames, free of every fixed pattern."""
    first, second = (camera.expose(photons, exposure_ms).astype(np.float64) for _ in range(2))
    return float((first - second).var() / 2)


@pytest.mark.parametrize("gain", [0.5, 3.0])
def test_photon_transfer_curve_has_the_gain_as_its_slope(gain: float) -> None:
    camera = Camera(replace(PLAIN, gain_counts_per_electron=gain, read_noise_electrons=1.5), (400, 400), seed=3)
    levels = [20.0, 200.0, 2000.0]
    means = [float(camera.expose(flat(level, (400, 400)), 10.0).mean()) - 100.0 for level in levels]
    variances = [pair_variance(camera, flat(level, (400, 400))) for level in levels]
    slope = np.polyfit(means, variances, 1)[0]
    assert slope == pytest.approx(gain, rel=0.03)
    assert means == pytest.approx([level * gain for level in levels], rel=0.01)


def test_quantum_efficiency_scales_the_signal_not_only_the_counts() -> None:
    camera = Camera(replace(PLAIN, quantum_efficiency=0.25), (400, 400))
    assert camera.expose(flat(400.0, (400, 400)), 10.0).mean() - 100 == pytest.approx(100.0, rel=0.01)
    assert pair_variance(camera, flat(400.0, (400, 400))) == pytest.approx(100.0, rel=0.05)


def test_dark_current_grows_with_the_exposure() -> None:
    camera = Camera(replace(PLAIN, dark_electrons_per_s=50.0), SHAPE)
    short, long = (camera.expose(flat(0.0), ms).mean() - 100.0 for ms in (100.0, 1000.0))
    assert short == pytest.approx(5.0, rel=0.05)
    assert long == pytest.approx(50.0, rel=0.02)


def test_read_noise_is_each_pixels_own_with_a_lognormal_tail() -> None:
    parameters = replace(
        PLAIN, read_noise_electrons=2.0, read_noise_spread=0.4, gain_counts_per_electron=20.0, offset_counts=2000.0
    )
    camera = Camera(parameters, (64, 64), seed=5)
    frames = np.stack([camera.expose(flat(0.0, (64, 64)), 1.0) for _ in range(300)]).astype(np.float64) / 20.0
    measured = frames.std(axis=0)
    assert measured == pytest.approx(camera.read_noise_electrons, rel=0.25)
    assert np.log(measured).std() == pytest.approx(0.4, abs=0.03)
    assert np.median(measured) == pytest.approx(2.0, rel=0.05)
    assert frames.mean() == pytest.approx(2000.0 / 20.0, abs=0.02)


def test_hot_pixels_stay_where_the_seed_put_them() -> None:
    parameters = replace(PLAIN, hot_pixel_fraction=0.01, hot_electrons_per_s=20_000.0)
    camera, again, other = (Camera(parameters, SHAPE, seed=seed) for seed in (1, 1, 2))
    hot = camera.expose(flat(0.0), 1000.0) > 200
    assert 0.003 < hot.mean() < 0.012
    assert np.array_equal(camera.hot_pixels, again.hot_pixels)
    assert not np.array_equal(camera.hot_pixels, other.hot_pixels)
    assert not (hot & ~camera.hot_pixels).any()


def test_vignetting_dims_the_corners_by_as_much_as_it_says() -> None:
    assert flat_field((101, 201), 0.3)[50, 100] == pytest.approx(1.0)
    assert flat_field((101, 201), 0.3)[[0, -1, 0, -1], [0, 0, -1, -1]] == pytest.approx(0.7)
    camera = Camera(replace(PLAIN, vignetting=0.5), (200, 200))
    counts = camera.expose(flat(10_000.0, (200, 200)), 1.0).astype(float) - 100
    assert counts[:10, :10].mean() / counts[95:105, 95:105].mean() == pytest.approx(0.54, abs=0.03)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 65535.0),
        ({"bit_depth": 12}, 4095.0),
        ({"full_well_electrons": 1000.0}, 1100.0),
        ({"full_well_electrons": 1000.0, "gain_counts_per_electron": 0.5}, 600.0),
    ],
)
def test_saturates_at_the_well_or_the_converter(changes: dict[str, float], expected: float) -> None:
    parameters = replace(PLAIN, **changes)
    assert parameters.saturation_counts == expected
    counts = Camera(parameters, SHAPE).expose(flat(1e7), 10.0)
    assert counts.dtype == np.uint16
    assert (counts == expected).all()


def test_read_noise_never_lifts_a_pixel_above_saturation_nor_wraps_below_zero() -> None:
    parameters = replace(PLAIN, read_noise_electrons=50.0, offset_counts=10.0, full_well_electrons=500.0)
    camera = Camera(parameters, SHAPE)
    clipped = camera.expose(flat(1e6), 1.0)
    assert clipped.max() == parameters.saturation_counts
    assert (clipped < parameters.saturation_counts).mean() == pytest.approx(0.5, abs=0.05)  # the well clips before it
    dark = camera.expose(flat(0.0), 1.0)
    assert dark.min() == 0
    assert dark.max() < 600


def test_same_seed_and_sequence_give_the_same_frames_for_any_number_of_threads() -> None:
    ramp = np.linspace(0, 300, 512 * 300, dtype=np.float32).reshape(512, 300)
    cameras = [Camera(CameraParameters(), ramp.shape, seed=7, threads=threads) for threads in (1, 2, 3)]
    sequences = [[camera.expose(ramp * scale, 10.0) for scale in (1.0, 0.1, 5.0)] for camera in cameras]
    for sequence in sequences[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(sequences[0], sequence, strict=True))
    assert not np.array_equal(sequences[0][0], cameras[0].expose(ramp, 10.0))
    assert not np.array_equal(sequences[0][0], Camera(CameraParameters(), ramp.shape, seed=8).expose(ramp, 10.0))


def test_noise_of_neighbouring_pixels_rows_and_frames_is_independent() -> None:
    camera = Camera(PLAIN, (400, 400), seed=1)
    first, second = (camera.expose(flat(50.0, (400, 400)), 1.0).astype(float) for _ in range(2))
    for one, other in ((first, second), (first[1:], first[:-1]), (first[:, 1:], first[:, :-1])):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.015


@given(st.floats(0, 1e7, width=32), st.floats(0.01, 1e5), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_any_physical_light_gives_counts_within_range(photons: float, exposure_ms: float, seed: int) -> None:
    counts = Camera(CameraParameters(), (8, 9), seed=seed).expose(flat(photons, (8, 9)), exposure_ms)
    assert counts.shape == (8, 9)
    assert counts.max() <= CameraParameters().saturation_counts


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_unphysical_light_is_refused(bad: float) -> None:
    photons = flat(1.0)
    photons[3, 4] = bad
    with pytest.raises(UsageError, match="finite and not negative"):
        Camera(PLAIN, SHAPE).expose(photons, 10.0)


def test_wrong_shape_and_exposure_are_refused() -> None:
    camera = Camera(PLAIN, SHAPE)
    with pytest.raises(UsageError, match="shape"):
        camera.expose(flat(1.0, (10, 10)), 10.0)
    for exposure_ms in (0.0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="exposure_ms"):
            camera.expose(flat(1.0), exposure_ms)


@pytest.mark.parametrize(
    "changes",
    [{"quantum_efficiency": 1.1}, {"bit_depth": 17}, {"read_noise_electrons": float("nan")}, {"vignetting": -0.1}],
)
def test_unphysical_cameras_are_refused_by_name(changes: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(changes))):
        replace(PLAIN, **changes)
