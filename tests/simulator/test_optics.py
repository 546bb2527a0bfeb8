from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import psfmodels
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from psf_generator.propagators.scalar_cartesian_propagator import ScalarCartesianPropagator
from psf_generator.propagators.scalar_spherical_propagator import ScalarSphericalPropagator
from scipy import fft
from scipy.special import j1

from parfocal.simulator.optics import (
    Imager,
    Optics,
    RadialTransfer,
    depth_path_um,
    oversampling,
    psf,
    psf_size_px,
)

Array = NDArray[np.float64]
AIR = Optics(na=0.75, pixel_um=0.2)
LOW = Optics(na=0.3, pixel_um=0.4)
DEEP = Optics(na=0.75, pixel_um=0.2, depth_um=10.0)
WATER = Optics(na=1.2, immersion_index=1.33, pixel_um=0.1, sample_index=1.4, depth_um=10.0)
OIL = Optics(na=1.4, immersion_index=1.518, pixel_um=0.08, sample_index=1.45, depth_um=3.0)
SPHERICAL = Optics(na=0.75, pixel_um=0.2, zernike_waves={(4, 0): 0.1})


def radius_px(side: int) -> Array:
    index = np.arange(side) - side // 2
    return np.asarray(np.hypot(index[:, None], index[None, :]))


def encircled(image: Array, radii: tuple[float, ...] = (1, 2, 4, 8, 16)) -> Array:
    r = radius_px(len(image))
    return np.asarray([image[r <= radius].sum() for radius in radii]) / image.sum()


def rms_radius(image: Array) -> float:
    return math.sqrt(float(np.sum(image * radius_px(len(image)) ** 2) / image.sum()))


def centre(optics: Optics, defocus_um: float, side: int) -> Array:
    """The middle of a PSF computed on a window twice as large, so that no light has wrapped around."""
    margin = side // 2
    wide = psf(optics, defocus_um, 2 * side + 1).astype(np.float64)
    start = (2 * side + 1) // 2 - margin
    cut = wide[start : start + side, start : start + side]
    return np.asarray(cut / cut.sum())


def difference(first: Array, second: Array) -> float:
    """Share of the light that lies elsewhere, 0..1."""
    return float(0.5 * np.abs(first / first.sum() - second / second.sum()).sum())


# --- against other libraries ---------------------------------------------------------------------------------------


def gibson_lanni(optics: Optics, defocus_um: float, side: int) -> Array:
    """Scalar Gibson-Lanni of psfmodels at the same wavefront: its z is that of the focus in a paraxial sample."""
    balance = 0.0
    if optics.depth_um:
        n, ns = optics.immersion_index, optics.sample_index
        rho = np.linspace(0.0, min(1.0, 0.99 * ns / optics.na), 200)
        inside, outside = np.sqrt(ns**2 - (optics.na * rho) ** 2), np.sqrt(n**2 - (optics.na * rho) ** 2)
        taken_out = optics.depth_um * (inside - n / ns * outside) - depth_path_um(optics, rho)
        basis = np.stack([np.ones_like(rho), outside - n], axis=1)
        fit, *_ = np.linalg.lstsq(basis, taken_out, rcond=None)
        # Nothing but piston and defocus may have been taken out of Gibson and Lanni's path.
        np.testing.assert_allclose(basis @ fit, taken_out, atol=1e-9 * optics.depth_um)
        balance = float(fit[1])
    return np.asarray(
        psfmodels.make_psf(
            [optics.depth_um - defocus_um + balance],
            side,
            dxy=optics.pixel_um,
            pz=optics.depth_um,
            NA=optics.na,
            wvl=optics.emission_um,
            ns=optics.sample_index if optics.depth_um else optics.immersion_index,
            ni=optics.immersion_index,
            ni0=optics.immersion_index,
            oversample_factor=9,
            model="scalar",
        )[0]
    )


@pytest.mark.parametrize(
    ("optics", "defocus_um"),
    [
        *((LOW, z) for z in (0.0, -20.0)),
        *((AIR, z) for z in (0.0, 3.0)),
        *((DEEP, z) for z in (0.0, 1.0, -1.0, 3.0)),
        *((WATER, z) for z in (0.0, -0.5)),
        *((OIL, z) for z in (0.5, -0.5)),
    ],
)
def test_agrees_with_gibson_lanni_of_psfmodels(optics: Optics, defocus_um: float) -> None:
    ours, theirs = centre(optics, defocus_um, 129), gibson_lanni(optics, defocus_um, 129)
    assert difference(ours, theirs) < 0.008
    np.testing.assert_allclose(encircled(ours), encircled(theirs), atol=0.004)
    assert rms_radius(ours) == pytest.approx(rms_radius(theirs), rel=0.06)  # ruled by the last 0.1 % of the light
    # The wavefront's sign counts: the mirrored defocus is another image as soon as there is a depth.
    if optics.depth_um and defocus_um:
        assert difference(centre(optics, -defocus_um, 129), theirs) > 0.02


def generated(kind: type[Any], optics: Optics, defocus_um: float, side: int, **options: Any) -> Array:
    """Intensity by psf-generator, whose samples span the field from edge to edge, in nm."""
    propagator = kind(
        n_pix_pupil=257,
        n_pix_psf=side,
        wavelength=1000 * optics.emission_um,
        na=optics.na,
        pix_size=1000 * optics.pixel_um * (side - 1) / side,
        defocus_step=2000 * abs(defocus_um) / 3,
        n_defocus=3,
        n_i=optics.immersion_index,
        n_i0=optics.immersion_index,
        **options,
    )
    field = propagator.compute_focus_field()[-1, 0].numpy()
    return np.asarray(np.abs(field) ** 2, dtype=np.float64)


@pytest.mark.parametrize(
    ("optics", "defocus_um"),
    [(Optics(na=0.3, pixel_um=0.15), 0.0), (Optics(na=0.3, pixel_um=0.15), 10.0)]
    + [(Optics(na=0.75, pixel_um=0.06), z) for z in (0.0, 1.0, 3.0)]
    + [(Optics(na=1.2, immersion_index=1.33, pixel_um=0.04), z) for z in (0.0, 0.5, 1.0)],
)
def test_agrees_with_the_cartesian_propagator_of_psf_generator(optics: Optics, defocus_um: float) -> None:
    ours = centre(optics, defocus_um, 129)
    theirs = generated(ScalarCartesianPropagator, optics, defocus_um, 129, sz_correction=False)
    assert difference(ours, theirs) < 0.013
    assert rms_radius(ours) == pytest.approx(rms_radius(theirs), rel=0.05)
    assert ours.max() / ours.sum() == pytest.approx(theirs.max() / theirs.sum(), rel=0.05)


@pytest.mark.parametrize("defocus_um", [0.0, 10.0])
def test_agrees_with_the_spherical_propagator_at_low_aperture(defocus_um: float) -> None:
    # Spherical coordinates weigh the rim of the pupil by 1 / cos: at low aperture this makes no difference.
    optics = Optics(na=0.3, pixel_um=0.15)
    theirs = generated(ScalarSphericalPropagator, optics, defocus_um, 129, apod_factor=True)
    assert difference(centre(optics, defocus_um, 129), theirs) < 0.015


def test_axial_intensity_is_born_and_wolfs_closed_form() -> None:
    # I(u) = (sin(u/4) / (u/4))^2 with u = 2 pi NA^2 z / (lambda n): on axis, at low aperture, with a point-like pixel.
    optics = Optics(na=0.1, pixel_um=0.25, emission_um=0.5)
    side = 600
    z = np.linspace(-220.0, 220.0, 9)
    u = 2 * np.pi * optics.na**2 * z / optics.emission_um
    axial = np.asarray([psf(optics, float(position), side)[side // 2, side // 2] for position in z])
    focal = psf(optics, 0.0, side)[side // 2, side // 2]
    np.testing.assert_allclose(axial / focal, np.sinc(u / 4 / np.pi) ** 2, atol=0.006)


def test_airy_pattern_in_focus() -> None:
    optics = Optics(na=0.5, pixel_um=0.05, emission_um=0.5)
    line = psf(optics, 0.0, 601)[300, 300:].astype(np.float64)
    v = 2 * np.pi / optics.emission_um * optics.na * optics.pixel_um * np.arange(1, 301)
    airy = (2 * j1(v) / v) ** 2
    np.testing.assert_allclose(line[1:60] / line[0], airy[:59], atol=0.01)


def test_camera_pixels_integrate() -> None:
    # A PSF on pixels is the sum of one on nine times smaller pixels, whatever the sampling.
    for pixel_um in (0.15, 0.2, 0.325, 0.65):
        coarse = centre(replace(AIR, pixel_um=pixel_um), 0.0, 31)
        fine = psf(replace(AIR, pixel_um=pixel_um / 9), 0.0, 63 * 9).astype(np.float64)
        summed = fine.reshape(63, 9, 63, 9).sum(axis=(1, 3))[16:47, 16:47]
        assert difference(coarse, summed) < 0.006


# --- what any PSF must be ------------------------------------------------------------------------------------------

APERTURES = st.one_of(
    st.tuples(st.floats(0.1, 0.95), st.just(1.0)),
    st.tuples(st.floats(0.4, 1.25), st.just(1.33)),
    st.tuples(st.floats(0.6, 1.49), st.just(1.518)),
)


@settings(deadline=None, max_examples=60)
@given(
    APERTURES,
    st.floats(0.4, 0.75),
    st.floats(0.25, 2.5),
    st.floats(1.33, 1.5),
    st.one_of(st.just(0.0), st.floats(0.0, 60.0)),
    st.floats(-0.3, 0.3),
    st.floats(-0.2, 0.2),
    st.floats(-15.0, 15.0),
    st.integers(32, 65),
)
def test_psf_is_finite_not_negative_and_sums_to_one(
    aperture: tuple[float, float],
    emission_um: float,
    cutoff: float,
    sample_index: float,
    depth_um: float,
    spherical: float,
    astigmatism: float,
    defocus_um: float,
    side: int,
) -> None:
    na, index = aperture
    optics = Optics(
        na=na,
        immersion_index=index,
        emission_um=emission_um,
        pixel_um=cutoff * emission_um / (2 * na),
        sample_index=sample_index,
        depth_um=depth_um,
        zernike_waves={(4, 0): spherical, (2, 2): astigmatism},
    )
    spread = psf(optics, defocus_um, side)
    assert spread.shape == (side, side)
    assert spread.dtype == np.float32
    assert np.isfinite(spread).all()
    assert float(spread.sum(dtype=np.float64)) == pytest.approx(1.0, abs=1e-4)
    assert float(spread.min()) > -1e-3 * float(spread.max())
    assert math.isfinite(optics.spherical_waves)
    assert psf_size_px(optics, defocus_um) >= optics.marginal_blur_px(defocus_um)


@pytest.mark.parametrize("side", [64, 65, 96, 97])
@pytest.mark.parametrize("pixel_um", [0.15, 0.325])
def test_psf_is_centred_and_symmetric_about_its_middle_pixel(side: int, pixel_um: float) -> None:
    spread = psf(replace(AIR, pixel_um=pixel_um), 2.0, side)
    middle = side // 2
    reach = (side - 1) // 2
    window = spread[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    peak = spread.max()
    for turned in (window[::-1], window[:, ::-1], window.T):
        assert np.abs(window - turned).max() < 1e-4 * peak


@pytest.mark.parametrize("optics", [AIR, LOW, replace(AIR, zernike_waves={(2, 2): 0.1})])
def test_no_sign_of_defocus_without_spherical_aberration(optics: Optics) -> None:
    up, down = (psf(optics, z, 96).astype(np.float64) for z in (3.0, -3.0))
    # Astigmatism turns by a right angle through focus; else nothing changes.
    down = down[1:, 1:].T if optics.zernike_waves else down[1:, 1:]
    assert difference(up[1:, 1:], down) < 1e-3


@pytest.mark.parametrize("optics", [DEEP, WATER, SPHERICAL])
def test_sign_of_defocus_shows_with_spherical_aberration(optics: Optics) -> None:
    z = 1.5 * optics.depth_of_field_um
    up, down = (psf(optics, sign * z, 128).astype(np.float64) for sign in (1, -1))
    assert difference(up, down) > 0.05


def test_mirrored_aberration_mirrors_defocus() -> None:
    mirrored = replace(SPHERICAL, zernike_waves={(4, 0): -0.1})
    assert difference(psf(SPHERICAL, 2.0, 97).astype(float), psf(mirrored, -2.0, 97).astype(float)) < 1e-3


@pytest.mark.parametrize("optics", [Optics(na=0.3, pixel_um=0.65), Optics(na=0.75, pixel_um=0.325)])
@pytest.mark.parametrize(("reach_px", "atol"), [(30.0, 0.09), (80.0, 0.055)])  # rays are the limit of a large blur
def test_far_out_of_focus_the_blur_is_that_of_rays(optics: Optics, reach_px: float, atol: float) -> None:
    defocus_um = reach_px / optics.marginal_blur_px(1.0)
    spread = centre(optics, -defocus_um, 2 * int(reach_px) + 1)
    radii = np.asarray([0.25, 0.4, 0.45]) * reach_px
    # A pupil evenly lit in sine, seen in tangent.
    sine = np.sin(np.arctan(2 * radii / reach_px * np.tan(np.arcsin(optics.na))))
    np.testing.assert_allclose(encircled(spread, tuple(radii)), (sine / optics.na) ** 2, atol=atol)
    assert encircled(spread, (0.6 * reach_px,))[0] > 0.96
    # The effective diameter is that of the disc of even light which holds 0.3 of it within the same radius.
    core_px = math.sqrt(0.3) * optics.blur_diameter_px(defocus_um) / 2
    assert encircled(spread, (core_px,))[0] == pytest.approx(0.3, abs=atol)


@pytest.mark.parametrize("optics", [LOW, AIR, DEEP, WATER, OIL, SPHERICAL, Optics(), replace(DEEP, depth_um=80.0)])
@pytest.mark.parametrize("blur_px", [0.0, 5.0, -5.0, 40.0, -40.0])
def test_window_holds_the_light(optics: Optics, blur_px: float) -> None:
    defocus_um = blur_px / optics.blur_px_per_um
    side = psf_size_px(optics, defocus_um)
    wide = psf(optics, defocus_um, 4 * side)
    start = 2 * side - side // 2
    assert float(wide[start : start + side, start : start + side].sum()) >= 0.98


# --- numbers of an objective ---------------------------------------------------------------------------------------


def test_formulas_against_numbers_worked_by_hand() -> None:
    optics = Optics(na=0.5, immersion_index=1.0, emission_um=0.5, pixel_um=0.65)
    assert optics.depth_of_field_um == pytest.approx(0.5 / 0.25 + 0.65 / 0.5)  # 3.3 um
    assert optics.cutoff_per_px == pytest.approx(1.3)
    # sin = 1/2: 0.3 of the light lies within 0.5 sqrt(0.3) / sqrt(1 - 0.075), a disc of 1 / sqrt(0.925) = 1.039750 um.
    assert optics.blur_px_per_um == pytest.approx(1.039750 / 0.65, rel=1e-5)
    assert optics.blur_diameter_px(-10.0) == pytest.approx(15.9962, abs=1e-3)
    assert optics.marginal_blur_px(-10.0) == pytest.approx(20 * math.tan(math.radians(30)) / 0.65)
    assert Optics(na=0.01, pixel_um=1.0).blur_px_per_um == pytest.approx(0.02, rel=1e-3)  # paraxial: 2 NA / n
    # Yang 2018's classes: 2 um a level gives 3 px of blur a level, 20 um the last.
    assert [optics.level(z) for z in (0.0, 0.8, 2.0, -2.0, 10.0, 20.0, 500.0)] == [0, 0, 1, 1, 5, 10, 10]
    oil = Optics(na=1.4, immersion_index=1.518, emission_um=0.6, pixel_um=0.1)
    assert oil.depth_of_field_um == pytest.approx(0.6 * 1.518 / 1.96 + 1.518 * 0.1 / 1.4)
    assert oversampling(Optics(na=0.75, emission_um=0.6, pixel_um=0.2)) == 1
    assert oversampling(Optics(na=0.75, emission_um=0.6, pixel_um=0.21)) == 2


def test_spherical_waves_adds_term_and_depth() -> None:
    assert SPHERICAL.spherical_waves == pytest.approx(0.1)
    assert AIR.spherical_waves == 0.0
    # Lowest order of a mismatch: W040 = d NA^4 / 8 (1 / (n_i^2 n_s) - 1 / n_s^3), its rms W040 / (6 sqrt 5).
    low = Optics(na=0.1, depth_um=5000.0, sample_index=1.33)
    w040 = 5000.0 * 0.1**4 / 8 * (1 / (1.33 * 1.0**2) - 1 / 1.33**3)
    assert low.spherical_waves == pytest.approx(w040 / (6 * math.sqrt(5)) / low.emission_um, rel=0.03)
    both = replace(low, zernike_waves={(4, 0): -0.02})
    assert both.spherical_waves == pytest.approx(low.spherical_waves - 0.02)


@pytest.mark.parametrize("optics", [DEEP, WATER, OIL, replace(DEEP, depth_um=25.0)])
def test_depth_keeps_the_best_focus_at_zero(optics: Optics) -> None:
    z = np.arange(-8, 9) / 4 * optics.depth_of_field_um
    strehl = [float(psf(replace(optics, pixel_um=0.05), float(position), 161).max()) for position in z]
    assert abs(z[int(np.argmax(strehl))]) <= 0.5 * optics.depth_of_field_um


def test_rotational_symmetry_is_told() -> None:
    assert SPHERICAL.rotationally_symmetric
    assert replace(AIR, zernike_waves={(2, 2): 0.0}).rotationally_symmetric
    assert not replace(AIR, zernike_waves={(2, 2): 0.01}).rotationally_symmetric


def test_options_are_read_as_plain_json() -> None:
    optics = Optics.from_options(
        {
            "na": 1.2,
            "immersion_index": 1.33,
            "pixel_um": 0.1,
            "depth_um": None,
            "zernike_waves": {"4,0": 0.1, "(2,-2)": 1},
        }
    )
    assert optics == Optics(na=1.2, immersion_index=1.33, pixel_um=0.1, zernike_waves={(4, 0): 0.1, (2, -2): 1.0})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"na": 0.0}, "na must be a positive"),
        ({"na": -0.5}, "na must be a positive"),
        ({"na": math.nan}, "na must be a positive"),
        ({"na": 1.0}, "immersion index"),
        ({"na": 1.4}, "immersion index"),
        ({"pixel_um": 0.0}, "pixel_um"),
        ({"emission_um": math.inf}, "emission_um"),
        ({"sample_index": 0.0}, "sample_index"),
        ({"depth_um": -1.0}, "depth_um"),
        ({"depth_um": math.nan}, "depth_um"),
    ],
)
def test_what_is_not_physical_is_refused(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optics(**values)  # type: ignore[arg-type]


# --- imager --------------------------------------------------------------------------------------------------------


def specimen(shape: tuple[int, int], seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, dtype=np.float32) ** 8


@pytest.mark.parametrize("shape", [(96, 128), (97, 131)])
@pytest.mark.parametrize("defocus_um", [0.0, 2.0, -6.0])
def test_periodic_imager_conserves_light_and_stays_in_place(shape: tuple[int, int], defocus_um: float) -> None:
    imager = Imager(AIR, shape)
    dots = specimen(shape)
    image = imager.image(dots, defocus_um)
    assert image.shape == shape
    assert image.dtype == np.float32
    assert float(image.sum(dtype=np.float64)) == pytest.approx(float(dots.sum(dtype=np.float64)), rel=2e-3)
    point = np.zeros(shape, dtype=np.float32)
    point[40, 50] = 1.0
    spread = imager.image(point, 0.0)
    assert np.unravel_index(int(spread.argmax()), shape) == (40, 50)


def test_periodic_imager_wraps_and_mirror_imager_does_not() -> None:
    shape = (128, 128)
    edge = np.zeros(shape, dtype=np.float32)
    edge[:, 2] = 1.0
    periodic, mirrored = (Imager(AIR, shape, boundary=kind).image(edge, 4.0) for kind in ("periodic", "mirror"))
    assert periodic[:, -4:].mean() > 0.2 * periodic[:, :4].mean()
    assert mirrored[:, -16:].max() < 0.01 * mirrored.max()
    # Light that leaves over the near edge comes back from the mirror image: all of it stays in the field.
    assert float(mirrored.sum()) == pytest.approx(128.0, rel=0.01)


@pytest.mark.parametrize("boundary", ["periodic", "mirror"])
def test_an_even_field_stays_even(boundary: str) -> None:
    image = Imager(DEEP, (96, 96), boundary=boundary).image(np.full((96, 96), 3.0, dtype=np.float32), 5.0)
    np.testing.assert_allclose(image, 3.0, rtol=1e-3)


def test_imager_is_the_convolution_with_the_psf() -> None:
    dots = specimen((96, 96))
    image = Imager(DEEP, (96, 96)).image(dots, 1.0)
    side = psf_size_px(DEEP, 1.0)
    kernel = np.zeros((96, 96))
    kernel[:side, :side] = psf(DEEP, 1.0, side)
    kernel = np.roll(kernel, (-(side // 2), -(side // 2)), (0, 1))
    direct = fft.ifft2(fft.fft2(dots.astype(np.float64)) * fft.fft2(kernel)).real
    np.testing.assert_allclose(image, direct, atol=1e-4 * direct.max())


@pytest.mark.parametrize("boundary", ["periodic", "mirror"])
def test_another_specimen_is_not_answered_from_the_cache(boundary: str) -> None:
    imager = Imager(AIR, (64, 64), boundary=boundary)
    first, second = specimen((64, 64), 1), specimen((64, 64), 2)
    before = imager.image(first, 1.0)
    np.testing.assert_array_equal(
        imager.image(second, 1.0), Imager(AIR, (64, 64), boundary=boundary).image(second, 1.0)
    )
    np.testing.assert_array_equal(imager.image(first, 1.0), before)
    np.testing.assert_array_equal(imager.image(first.copy(), 1.0), before)


def test_a_specimen_changed_in_place_is_not_noticed() -> None:
    # Comparing pixels every frame would cost what the cache saves; whoever changes a specimen gives a new array.
    imager = Imager(AIR, (64, 64))
    dots = specimen((64, 64))
    before = imager.image(dots, 1.0)
    dots *= 2.0
    np.testing.assert_array_equal(imager.image(dots, 1.0), before)
    np.testing.assert_allclose(imager.image(dots.copy(), 1.0), 2.0 * before, rtol=1e-4, atol=1e-6)


def test_imager_refuses_what_it_cannot_image() -> None:
    imager = Imager(AIR, (64, 64))
    with pytest.raises(ValueError, match="shape"):
        imager.image(specimen((64, 65)), 0.0)
    with pytest.raises(ValueError, match="not finite"):
        imager.image(specimen((64, 64)), math.nan)
    with pytest.raises(ValueError, match="boundary"):
        Imager(AIR, (64, 64), boundary="zero")


# --- radial transfer -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def radial() -> RadialTransfer:
    return RadialTransfer()


@pytest.mark.parametrize(
    "optics",
    [
        Optics(na=0.3, pixel_um=0.3),
        Optics(na=0.75, pixel_um=0.15),
        Optics(na=0.75, pixel_um=0.15, depth_um=30.0),
        Optics(na=0.75, pixel_um=0.15, zernike_waves={(4, 0): 0.1}),
        Optics(na=1.2, immersion_index=1.33, pixel_um=0.09, sample_index=1.4, depth_um=10.0),
    ],
)
@pytest.mark.parametrize("blur_px", [0.0, 3.0, -3.0, 10.0, 30.0])
def test_radial_transfer_is_that_of_the_imager(radial: RadialTransfer, optics: Optics, blur_px: float) -> None:
    assert optics.cutoff_per_px < 0.5  # else the camera folds what lies beyond its Nyquist frequency
    defocus_um = blur_px / optics.blur_px_per_um
    transfer = Imager(optics, (256, 256)).transfer(defocus_um)
    fy, fx = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None, :]
    s = np.hypot(fy, fx) * 2.0 / optics.cutoff_per_px
    curve = radial(radial.phase(optics, defocus_um)[None])[0]
    expected = np.interp(s, radial.s, curve) * (s <= 2.0) * np.sinc(fy) * np.sinc(fx)
    assert np.abs(transfer.imag).max() < 0.01
    np.testing.assert_allclose(transfer.real, expected, atol=0.03)
    assert float(np.sqrt(np.mean((transfer.real - expected) ** 2))) < 0.008


def test_radial_transfer_in_focus_is_the_closed_form(radial: RadialTransfer) -> None:
    # Goodman, eq. 7-33: 2/pi (arccos(f) - f sqrt(1 - f^2)) with f in units of the cut-off.
    f = radial.s / 2.0
    closed = 2 / np.pi * (np.arccos(f) - f * np.sqrt(1 - f**2))
    np.testing.assert_allclose(radial(radial.phase(LOW, 0.0)[None])[0], closed, atol=0.015)


def test_radial_transfer_leaves_out_what_is_not_symmetric(radial: RadialTransfer) -> None:
    askew = replace(SPHERICAL, zernike_waves={(4, 0): 0.1, (2, 2): 0.3})
    np.testing.assert_array_equal(radial.phase(askew, 2.0), radial.phase(SPHERICAL, 2.0))
