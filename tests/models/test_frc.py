"""Fourier ring correlation: the reference's number to the last digits, and a robust mode that never makes one up.

The oracle is miplib's method written from its description, with numpy and scipy, a mask a ring and all; the library
itself cannot be installed beside NumPy 2. `test_frc_peer.py` compares with the library where somebody has it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.interpolate import interp1d
from scipy.ndimage import gaussian_filter
from scipy.optimize import fmin

from parfocal.models.base import ImageError, ModelError
from parfocal.models.metrics import frc_calibration
from parfocal.models.metrics.frc import FrcStatus, frc_curve, half_bit, single_image_frc, two_half_frc
from parfocal.models.metrics.thinning import thin

Image = NDArray[Any]


def sample(shape: tuple[int, int], *, blur_px: float = 1.5, light: float = 300.0, seed: int = 0) -> NDArray[np.uint16]:
    """Beads, blurred, on a camera: Poisson noise, gain 2, offset 100."""
    rng = np.random.default_rng(seed)
    field = gaussian_filter((rng.random(shape) < 0.02).astype(float), blur_px, mode="wrap")
    return (100 + 2 * rng.poisson(light * field / field.max() + 3)).astype(np.uint16)


def band_limited(side: int, cutoff: float, seed: int) -> Image:
    """Beads through the transfer function of a circular pupil that ends at `cutoff` of Nyquist; 0..1."""
    rng = np.random.default_rng(seed)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None, :]) * 2 / cutoff
    rho = np.minimum(f, 1)
    transfer = 2 / np.pi * (np.arccos(rho) - rho * np.sqrt(1 - rho**2))
    image = np.fft.irfft2(np.fft.rfft2((rng.random((side, side)) < 0.02).astype(float)) * transfer, s=(side, side))
    return np.asarray(np.clip(image, 0, None) / image.max())


# The oracle


def into(part: Image, shape: tuple[int, int]) -> Image:
    out = np.zeros(shape)
    top, left = ((a - b + 1) // 2 for a, b in zip(shape, part.shape, strict=True))
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out


def ring_correlation(a: Image, b: Image) -> tuple[Image, int]:
    shape = (max(a.shape[0], b.shape[0]), max(a.shape[1], b.shape[1]))
    square = (max(shape), max(shape))
    one, two = (np.fft.fftshift(np.fft.fft2(into(into(part, shape), square))) for part in (a, b))
    # The grid of the rings is that of the parts before they are made square, and lies the other way round.
    y, x = (np.arange(-np.floor(side / 2), np.ceil(side / 2)) for side in shape)
    radius = np.hypot(*np.meshgrid(y, x))
    count = shape[0] // 2
    sums = np.zeros((3, count), dtype=np.float32)
    for ring in range(count):
        rows, columns = np.nonzero((radius >= ring) & (radius < ring + 1))
        p, q = one[rows, columns], two[rows, columns]
        with np.errstate(over="ignore"):
            sums[:, ring] = np.sum(p * np.conj(q)).real, np.sum(np.abs(p) ** 2), np.sum(np.abs(q) ** 2)
    with np.errstate(all="ignore"):
        curve = np.abs(sums[0]) / np.sqrt(sums[1] * sums[2])
    curve[np.isinf(curve)] = 0
    return np.nan_to_num(curve), square[0] // 2


def oracle(image: Image) -> float | type[Exception]:
    """Resolution in px, or the exception that miplib would raise."""
    window = np.sqrt(np.hamming(image.shape[0]))[:, None] * np.sqrt(np.hamming(image.shape[1]))
    damped = image.astype(np.float64) * window
    first, nyquist = ring_correlation(damped[1::2, 1::2], damped[0::2, 0::2])
    second, _ = ring_correlation(damped[1::2, 0::2], damped[0::2, 1::2])
    curve = 0.5 * first + 0.5 * second
    frequency = np.arange(len(curve)).astype(np.float32) / np.float32(nyquist)
    line = interp1d(frequency, curve, kind="slinear")
    try:
        start = frequency[np.flatnonzero(curve - np.float64(1 / 7) <= 0)[0] - 1]
        root = fmin(lambda at: abs(line(at) - 1 / 7), start, disp=False)[0]
    except (IndexError, ValueError) as error:
        return type(error)
    k = 0.95988146 * np.exp(13.90441896 * (root - 0.97979108)) + 0.55146136
    return float(2.0 / root / k)


SHAPES = [(128, 128), (96, 128), (128, 96), (97, 97), (130, 131), (65, 130), (131, 64), (33, 32)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blur_px", [0.7, 1.5, 3.0])
def test_reference_mode_is_the_reference(shape: tuple[int, int], blur_px: float) -> None:
    for seed, light in enumerate((20.0, 300.0, 5000.0)):
        image = sample(shape, blur_px=blur_px, light=light, seed=seed)
        told = single_image_frc(image, mode="reference")
        expected = oracle(image)
        if isinstance(expected, float):
            assert float(told.resolution_px[0]) == pytest.approx(expected, rel=1e-6)
            assert int(told.status[0]) == FrcStatus.MEASURED
        else:
            reason = {IndexError: FrcStatus.NEVER_CROSSES, ValueError: FrcStatus.LEFT_RANGE}[expected]
            assert int(told.status[0]) == reason
            assert np.isnan(float(told.resolution_px[0]))
            assert np.isnan(float(told.cutoff[0]))


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(32, 80),
    width=st.integers(32, 80),
    blur_px=st.floats(0.5, 4.0),
    light=st.floats(3.0, 1e4),
    seed=st.integers(0, 999),
)
def test_reference_mode_is_the_reference_for_any_shape(
    height: int, width: int, blur_px: float, light: float, seed: int
) -> None:
    image = sample((height, width), blur_px=blur_px, light=light, seed=seed)
    told, expected = float(single_image_frc(image, mode="reference").resolution_px[0]), oracle(image)
    assert told == pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else np.isnan(told)


def test_reference_mode_ends_where_float32_does() -> None:
    bright = sample((64, 64)).astype(np.float64) * 1e16
    assert oracle(bright) is ValueError
    assert int(single_image_frc(bright, mode="reference").status[0]) == FrcStatus.LEFT_RANGE
    usual = single_image_frc(sample((64, 64), blur_px=2.5))
    far = single_image_frc(sample((64, 64), blur_px=2.5).astype(np.float64) * 1e16)
    assert int(far.status[0]) == FrcStatus.MEASURED
    assert float(far.resolution_px[0]) == pytest.approx(float(usual.resolution_px[0]))


@pytest.mark.parametrize(
    ("root", "expected_k", "expected_px"),
    [(0.3, 0.552, 12.09), (0.5, 0.553, 7.24), (0.7, 0.571, 5.00), (0.9, 0.868, 2.56), (0.95, 1.186, 1.78)],
)
def test_calibration_has_the_published_values(root: float, expected_k: float, expected_px: float) -> None:
    cutoff = torch.tensor([root], dtype=torch.float64)
    assert float(frc_calibration.calibration(cutoff)) == pytest.approx(expected_k, abs=6e-4)
    assert float(frc_calibration.single_image_resolution_px(cutoff)) == pytest.approx(expected_px, abs=6e-3)
    step = 1e-6
    after = frc_calibration.single_image_resolution_px(cutoff + step)
    slope = float((after.log() - frc_calibration.single_image_resolution_px(cutoff).log()) / step)
    assert float(frc_calibration.log_slope(cutoff)) == pytest.approx(slope, rel=1e-4)


def test_sampling_limit_is_where_the_resolution_is_two_pixels() -> None:
    limit = torch.tensor(frc_calibration.sampling_limit(), dtype=torch.float64)
    assert float(limit) == pytest.approx(0.93, abs=0.01)
    assert float(frc_calibration.single_image_resolution_px(limit)) == pytest.approx(2.0, rel=1e-9)


# Robust mode


@pytest.mark.parametrize("mode", ["robust", "reference"])
def test_a_batch_is_measured_image_by_image(mode: Any) -> None:
    batch = np.stack([sample((96, 128), blur_px=blur, seed=seed) for seed, blur in enumerate((1.0, 2.0, 4.0))])
    together = single_image_frc(batch, mode=mode)
    for index, image in enumerate(batch):
        alone = single_image_frc(image, mode=mode)
        assert torch.equal(alone.curve[0], together.curve[index])
        assert alone.resolution_px[0] == together.resolution_px[index] or torch.isnan(alone.resolution_px[0])
    assert torch.equal(frc_curve(batch, mode=mode), together.curve)
    assert together.frequency.shape == together.curve.shape[1:]


def test_any_real_type_is_taken_and_gives_the_same() -> None:
    image = np.minimum(sample((64, 64)), 255).astype(np.uint8)
    expected = single_image_frc(image).resolution_px
    for kind in ("u2", ">u2", "i4", "u4", "u8", "f4", "f8", ">f4"):
        assert torch.equal(single_image_frc(image.astype(kind)).resolution_px, expected), kind
    for tensor in (torch.from_numpy(image), torch.from_numpy(image.astype(np.uint16))):
        assert torch.equal(single_image_frc(tensor).resolution_px, expected)
    frozen = image.copy()
    frozen.flags.writeable = False
    assert torch.equal(single_image_frc(frozen).resolution_px, expected)
    assert torch.equal(single_image_frc(np.asfortranarray(image)).resolution_px, expected)
    assert torch.equal(single_image_frc(torch.from_numpy(image.T.copy()).T).resolution_px, expected)


def test_gain_and_offset_leave_no_trace_in_robust_mode() -> None:
    image = sample((128, 160), blur_px=2.0).astype(np.float64)
    told = single_image_frc(np.stack([image, 0.5 * image, 2 * image + 500, image + 60000]))
    assert (told.resolution_px / told.resolution_px[0] - 1).abs().max() < 1e-9


def test_more_blur_is_coarser_and_more_light_finer() -> None:
    blurs = single_image_frc(np.stack([sample((256, 256), blur_px=blur) for blur in (1.5, 2.5, 4.0)])).resolution_px
    assert (blurs.diff() > 0.5).all()
    lights = np.stack([sample((256, 256), blur_px=3.0, light=light) for light in (30.0, 300.0, 3000.0)])
    assert (single_image_frc(lights).resolution_px.diff() < -0.2).all()


def test_sd_is_the_scatter_between_exposures() -> None:
    rng = np.random.default_rng(4)
    clean = 200 * band_limited(192, 0.4, seed=1) + 5
    told = single_image_frc(rng.poisson(clean, (40, 192, 192)).astype(np.uint16))
    assert (told.status == FrcStatus.MEASURED).all()
    assert 0.4 < float(told.sd_px.median() / told.resolution_px.std()) < 2.5


@pytest.mark.parametrize("mean", [0.5, 100.0, 20000.0])
@pytest.mark.parametrize("side", [32, 128, 256])
def test_noise_alone_never_has_a_resolution(mean: float, side: int) -> None:
    noise = np.random.default_rng(3).poisson(mean, (40, side, side)).astype(np.uint16)
    told = single_image_frc(noise)
    assert (told.status == FrcStatus.NO_CORRELATION).all()
    assert not told.censored.any()
    assert "nothing" in told.reasons()[0]


def test_a_hot_pixel_is_not_a_structure() -> None:
    noise = np.random.default_rng(3).poisson(100, (128, 128)).astype(np.uint16)
    noise[40, 51] = 60000
    assert np.isnan(float(single_image_frc(noise).resolution_px[0]))


def test_an_image_without_noise_is_censored_not_sharp() -> None:
    clean = gaussian_filter(np.random.default_rng(0).random((128, 128)), 3.0)
    told = single_image_frc(np.stack([clean, clean * 1000 + 5]))
    assert told.censored.all()
    assert told.resolution_px.isnan().all()
    assert told.sd_px.isnan().all()
    assert told.bound_px == pytest.approx(2.0)
    assert "never falls" in told.reasons()[0]


def test_finer_than_two_pixels_is_censored() -> None:
    rng = np.random.default_rng(5)
    # Pixels alike in pairs along the diagonals correlate at every frequency; a little noise ends that near Nyquist.
    found = set()
    for noise in np.linspace(0.02, 0.4, 25):
        image = sample((128, 128), blur_px=1.0, light=3000, seed=2) + rng.normal(0, 300 * noise, (128, 128))
        told = single_image_frc(image)
        status = int(told.status[0])
        found.add(status)
        if status == FrcStatus.MEASURED:
            assert float(told.resolution_px[0]) >= 2.0
        else:
            assert bool(told.censored[0])
    assert FrcStatus.MEASURED in found


def test_small_images_say_how_little_they_could_tell() -> None:
    told = single_image_frc(sample((32, 32)))
    last = torch.tensor(7 / 8, dtype=torch.float64)
    assert float(told.bound_px[0]) == pytest.approx(float(frc_calibration.single_image_resolution_px(last)))


def test_constant_images_have_no_resolution() -> None:
    for mode in ("robust", "reference"):
        told = single_image_frc(np.stack([np.zeros((64, 64)), np.zeros((64, 64))]), mode=mode)  # type: ignore[arg-type]
        assert told.resolution_px.isnan().all()
    told = single_image_frc(np.full((64, 64), 117, np.uint8))
    assert int(told.status[0]) == FrcStatus.CONSTANT
    assert not bool(told.censored[0])


def test_a_frame_that_is_not_square_is_measured_in_the_same_pixels() -> None:
    square = sample((384, 384), blur_px=2.5, light=1000)
    whole = float(single_image_frc(square).resolution_px[0])
    for cut in (square[:192], square[:, :192], square[:193, :317]):
        told = single_image_frc(cut)
        assert float(told.resolution_px[0]) == pytest.approx(whole, rel=0.15)


def test_resolution_in_um() -> None:
    image = sample((96, 96), blur_px=2.0)
    told = single_image_frc(image, pixel_um=0.325)
    assert torch.equal(told.resolution_um, told.resolution_px * 0.325)
    assert single_image_frc(image).resolution_um.isnan().all()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((31, 64)),
        np.full((64, 64), np.nan),
        np.zeros((4, 64, 64, 3)),
        np.zeros((64, 64), complex),
        torch.zeros(31, 64),
        torch.full((64, 64), torch.inf),
        torch.zeros(64),
        torch.zeros(64, 64, dtype=torch.complex64),
        torch.zeros(64, 64, dtype=torch.bool),
    ],
)
def test_bad_images_are_refused(bad: Any) -> None:
    with pytest.raises(ImageError):
        single_image_frc(bad)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ModelError, match="robust and reference"):
        single_image_frc(sample((64, 64)), mode="exact")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="half-bit"):
        two_half_frc(sample((64, 64)), 0, 2.0, 100.0, threshold="full-bit")  # type: ignore[arg-type]


# Two halves


def test_halves_are_all_the_photons_and_independent() -> None:
    counts = (100 + 2.5 * np.random.default_rng(0).poisson(40, (2, 128, 128))).astype(np.float32)
    halves = thin(counts, seed=1, gain=2.5, offset=100)
    assert torch.equal(halves.first + halves.second, torch.from_numpy((counts - 100) / 2.5))
    assert float(halves.first.mean()) == pytest.approx(20, rel=0.02)
    pixels = torch.stack([halves.first.flatten(), halves.second.flatten()])
    assert abs(float(torch.corrcoef(pixels)[0, 1])) < 0.03
    assert float(pixels[0].var() / pixels[0].mean()) == pytest.approx(1, abs=0.05)
    assert (halves.below_zero == 0).all()


def test_thinning_is_seeded_and_knows_no_batch() -> None:
    batch = np.stack([sample((64, 64), seed=seed) for seed in range(3)])
    together = thin(batch, 7, 2.0, 100.0)
    assert torch.equal(together.first[2], thin(batch[2], 7, 2.0, 100.0).first[0])
    assert not torch.equal(together.first, thin(batch, 8, 2.0, 100.0).first)


def test_pixels_below_the_offset_are_counted() -> None:
    counts = np.full((32, 32), 102.0)
    counts[:8] = 97.0
    assert float(thin(counts, 0, 2.0, 100.0).below_zero[0]) == 0.25


@pytest.mark.parametrize(("gain", "offset"), [(0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_a_camera_that_makes_no_sense_is_refused(gain: float, offset: float) -> None:
    with pytest.raises(ModelError, match="positive gain"):
        thin(sample((32, 32)), 0, gain, offset)


@pytest.mark.parametrize("cutoff", [0.25, 0.4, 0.6])
def test_two_halves_find_a_known_band_limit(cutoff: float) -> None:
    clean = 5e4 * band_limited(192, cutoff, seed=3)
    counts = 100 + 0.5 * np.random.default_rng(0).poisson(clean)
    told = two_half_frc(counts, 1, 0.5, 100.0)
    assert float(told.cutoff[0]) == pytest.approx(cutoff, rel=0.12)
    assert float(told.resolution_px[0]) == pytest.approx(2 / cutoff, rel=0.12)
    dim = two_half_frc(100 + 0.5 * np.random.default_rng(0).poisson(clean / 500), 1, 0.5, 100.0)
    assert float(dim.resolution_px[0]) > float(told.resolution_px[0])


def test_half_bit_threshold() -> None:
    # van Heel and Schatz 2005: 0.1716 for many points, 1 for few.
    assert float(half_bit(torch.tensor([1e12], dtype=torch.float64))) == pytest.approx(0.1716, abs=1e-4)
    assert float(half_bit(torch.tensor([1.0], dtype=torch.float64))) == pytest.approx(1.0, abs=1e-3)
    image = sample((128, 128), blur_px=2.0)
    seventh, half = (two_half_frc(image, 0, 2.0, 100.0, threshold=t) for t in ("1/7", "half-bit"))  # type: ignore[arg-type]
    assert torch.equal(seventh.curve, half.curve)
    assert float(half.resolution_px[0]) > float(seventh.resolution_px[0])


def test_halves_of_noise_have_no_resolution() -> None:
    noise = np.random.default_rng(0).poisson(50, (20, 96, 96))
    told = two_half_frc(noise, 0, 1.0, 0.0)
    assert (told.status == FrcStatus.NO_CORRELATION).all()
    assert int(two_half_frc(np.full((64, 64), 100), 0, 1.0, 100.0).status[0]) == FrcStatus.CONSTANT
