"""Light in the focus of a high-NA objective: vector diffraction, with and without a vortex plate, and a pinhole."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import jv, roots_legendre

RealArray = NDArray[np.float64]

RADIUS_STEP_M = 4e-9
RADII_M: RealArray = np.arange(0, 501, dtype=np.float64) * RADIUS_STEP_M  # every profile is tabulated here, out to 2 um


@lru_cache(maxsize=128)
def irradiance(wavelength_m: float, na: float, index: float, defocus_m: float, vortex: bool) -> RealArray:
    """Return the time-averaged irradiance in the focal region for one watt through a uniformly lit pupil.

    Parameters
    ----------
    wavelength_m : float
        In vacuum.
    na, index : float
        Numerical aperture and refractive index of the immersion.
    defocus_m : float
        Distance from the focal plane; both sides are alike.
    vortex : bool
        With a helical phase of one turn, of the handedness that leaves nothing in the centre.

    Returns
    -------
    ndarray of float64
        W/m² at the distances `RADII_M` from the axis, for circular polarisation. Not to be written to.

    Notes
    -----
    Richards and Wolf, Proc R Soc A 253:358 (1959): ``A_m(r) = integral of sqrt(cos t) sin t g_m J_m(k r sin t)
    exp(i k z cos t) dt``, with ``g = 1 + cos t, sin t, 1 - cos t`` and m = 0, 1, 2; the vortex raises each m by one.
    The irradiance is ``|A_0|^2 + 2 |A_1|^2 + |A_2|^2``, and by Parseval's theorem the power through any plane is
    ``4 pi sin^2(aperture angle) / k^2``.
    """
    aperture = float(np.arcsin(na / index))
    # Enough nodes for the phase that the defocus turns over the aperture, in steps, so that their tables are shared.
    cosine, tables = _pupil(wavelength_m, na, index, vortex, 96 * max(1, int(np.ceil(abs(defocus_m) / 3e-6))))
    k = 2 * np.pi * index / wavelength_m
    total = np.abs(np.einsum("mrt,t->mr", tables, np.exp(1j * k * defocus_m * cosine))) ** 2
    return _frozen((total[0] + 2 * total[1] + total[2]) * k**2 / (4 * np.pi * np.sin(aperture) ** 2))


@lru_cache(maxsize=16)
def _pupil(wavelength_m: float, na: float, index: float, vortex: bool, nodes: int) -> tuple[RealArray, RealArray]:
    """Cosines of the angles in the aperture, and the rest of the integrand, by order, radius and angle."""
    aperture = float(np.arcsin(na / index))
    places, weights = roots_legendre(nodes)
    theta = (places + 1) * aperture / 2
    cosine, sine = np.cos(theta), np.sin(theta)
    common = weights * (aperture / 2) * np.sqrt(cosine) * sine
    argument = 2 * np.pi * index / wavelength_m * np.outer(RADII_M, sine)
    parts = (1 + cosine, sine, 1 - cosine)
    tables = [jv(order + int(vortex), argument) * (common * part) for order, part in enumerate(parts)]
    return cosine, np.stack(tables)


@lru_cache(maxsize=128)
def detection(emission_m: float, na: float, index: float, pinhole_m: float, defocus_m: float) -> RealArray:
    """Return the share of a molecule's collected light that passes the pinhole, at the distances `RADII_M`.

    Parameters
    ----------
    emission_m, na, index, defocus_m
        As for `irradiance`.
    pinhole_m : float
        Radius of the pinhole, projected into the sample.
    """
    profile = irradiance(emission_m, na, index, defocus_m, False)
    # One watt gives 2 / (1 + cos(aperture angle)) in the whole plane, what lies beyond the table included.
    whole = 2 / (1 + np.sqrt(1 - (na / index) ** 2))
    return _frozen(_arcs(pinhole_m) @ (profile * RADII_M * RADIUS_STEP_M) / whole)


@lru_cache(maxsize=8)
def _arcs(hole_m: float) -> RealArray:
    """Angle of the circle of each radius (second index) that a hole at each distance (first index) lets through."""
    away, circle = RADII_M[:, None], RADII_M[None, :]
    product = 2 * away * circle
    cosine = (away**2 + circle**2 - hole_m**2) / np.where(product > 0, product, 1.0)
    inside = np.where(away + circle <= hole_m, -1.0, 1.0)
    return np.asarray(2 * np.arccos(np.clip(np.where(product > 0, cosine, inside), -1.0, 1.0)))


def on_grid(profile: RealArray, pixel_m: float, half_px: int) -> RealArray:
    """Lay a radial profile out on pixels: shape (2 * half_px + 1, 2 * half_px + 1), the axis in the middle."""
    axis = np.arange(-half_px, half_px + 1) * pixel_m
    return np.asarray(np.interp(np.hypot(axis[:, None], axis[None, :]), RADII_M, profile, right=0.0))


def full_width_m(profile: RealArray) -> float:
    """Full width at half of the value on the axis, in metres; NaN if that is 0 or nothing falls below its half."""
    half = profile[0] / 2
    below = np.flatnonzero(profile < half)
    if not (profile[0] > 0 and below.size):
        return float("nan")
    index = int(below[0])
    part = (profile[index - 1] - half) / (profile[index - 1] - profile[index])
    return float(2 * RADIUS_STEP_M * (index - 1 + part))


def _frozen(array: NDArray[Any]) -> RealArray:
    array = np.asarray(array, dtype=np.float64)
    array.flags.writeable = False
    return array
