from __future__ import annotations

import numpy as np
import pytest

from parfocal.simulator.sted import focus
from parfocal.simulator.sted.settings import StedOptics

RED = (635e-9, 1.4, 1.5)
NIR = (750e-9, 1.4, 1.5)


def test_the_crests_are_those_of_vector_theory() -> None:
    """As published, in W/m² a watt: 1.06e13 of excitation, 1.3e14 of depletion in the pulse, 62.5 times the mean."""
    optics = StedOptics()
    excitation = focus.irradiance(*RED, 0.0, False).max() * optics.excitation_transmission * optics.pupil_share
    donut = focus.irradiance(*NIR, 0.0, True).max() * optics.depletion_transmission * optics.pupil_share
    assert excitation == pytest.approx(1.06e13, rel=0.03)
    assert donut * 62.5 == pytest.approx(1.3e14, rel=0.03)


def test_a_vortex_leaves_nothing_on_the_axis_at_any_defocus() -> None:
    for defocus_m in (0.0, 0.3e-6, 1e-6):
        donut = focus.irradiance(*NIR, defocus_m, True)
        assert donut[0] < 1e-12 * donut.max()
    assert focus.RADII_M[focus.irradiance(*NIR, 0.0, True).argmax()] == pytest.approx(0.22e-6, abs=0.01e-6)


def test_at_low_aperture_the_spot_is_the_airy_disk() -> None:
    """FWHM 0.514 wavelengths over NA, and one watt through the plane."""
    spot = focus.irradiance(500e-9, 0.5, 1.0, 0.0, False)
    assert focus.full_width_m(spot) == pytest.approx(0.514 * 500e-9 / 0.5, rel=0.03)
    power = float(np.sum(spot * 2 * np.pi * focus.RADII_M) * focus.RADIUS_STEP_M)
    # Inside 2 um lie all but the outer rings, and |E|^2 exceeds the flux by 2 / (1 + cos 30 degrees).
    assert power == pytest.approx(2 / (1 + np.sqrt(0.75)), rel=0.06)


def test_defocus_dims_the_spot_alike_on_both_sides() -> None:
    spot = focus.irradiance(*RED, 0.0, False)[0]
    above, below = (focus.irradiance(*RED, z, False)[0] for z in (0.3e-6, -0.3e-6))
    assert above == pytest.approx(below, rel=1e-9)
    assert 0.2 < above / spot < 0.7


def test_the_pinhole_passes_more_the_wider_it_is_and_none_far_away() -> None:
    shares = [focus.detection(690e-9, 1.4, 1.5, hole, 0.0) for hole in (0.1e-6, 0.2e-6, 0.4e-6)]
    on_axis = [share[0] for share in shares]
    assert on_axis == sorted(on_axis)
    assert 0.55 < on_axis[1] < 0.75
    assert all(0 <= share.min() and share.max() < 1 for share in shares)
    assert shares[1][focus.RADII_M > 1e-6].max() < 0.02
    assert focus.detection(690e-9, 1.4, 1.5, 0.2e-6, 1e-6)[0] < 0.3 * on_axis[1]


def test_tables_are_shared_so_nobody_may_write_to_them() -> None:
    with pytest.raises(ValueError, match="read-only"):
        focus.irradiance(*RED, 0.0, False)[0] = 1.0


def test_full_width_of_a_known_profile_and_of_none() -> None:
    gauss = np.exp(-((focus.RADII_M / 100e-9) ** 2))
    assert focus.full_width_m(gauss) == pytest.approx(2 * 100e-9 * np.sqrt(np.log(2)), rel=1e-3)
    assert np.isnan(focus.full_width_m(np.zeros_like(gauss)))
    assert np.isnan(focus.full_width_m(np.ones_like(gauss)))


def test_a_profile_on_pixels_is_centred_and_symmetric() -> None:
    grid = focus.on_grid(focus.irradiance(*RED, 0.0, False), 20e-9, 10)
    assert grid.shape == (21, 21)
    assert np.unravel_index(grid.argmax(), grid.shape) == (10, 10)
    np.testing.assert_array_equal(grid, grid[::-1])
    np.testing.assert_array_equal(grid, grid.T)
