"""What the simulator knows of a scan and a microscope does not: the true resolution, the light to expect, the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import UsageError
from parfocal.simulator.sted.dyes import Dye
from parfocal.simulator.sted.kernels import FloatArray
from parfocal.simulator.sted.photophysics import fwhm_nm
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import light, plan_for
from parfocal.simulator.sted.settings import StedSettings

TARGET_FWHM_NM = 50.0  # what a very good STED image of fixed cells shows


@dataclass(frozen=True, eq=False)
class Truth:
    """Of one scan that has not been made yet.

    Parameters
    ----------
    fwhm_nm : float
        Full width at half maximum of the effective PSF, bleaching left out.
    expected : ndarray of float32, shape (height, width)
        Mean counts of the scan, its own bleaching included; without background and dead time.
    unbleached : ndarray of float32, shape (height, width)
        The same of the fresh sample, were nothing to bleach.
    bleaches : float
        Share of the field's present molecules that the scan will take.
    """

    fwhm_nm: float
    expected: FloatArray
    unbleached: FloatArray
    bleaches: float


def truth(sample: StedSample, settings: StedSettings, *, defocus_um: float = 0.0) -> Truth:
    """Foretell a scan of the sample as it is now; nothing bleaches by it."""
    plan = plan_for(sample, settings, defocus_um)
    fresh = StedSample(sample.fresh, pixel_um=sample.pixel_um, dye=_without_bleaching(sample), optics=sample.optics)
    present = sample.field(sample.molecules)
    lost = float(np.sum(present * (1 - sample.field(plan.survive))))
    return Truth(
        fwhm_nm(sample.optics, sample.dye, settings, defocus_um),
        light(sample.molecules, plan),
        light(fresh.molecules, plan_for(fresh, settings, defocus_um)),
        lost / float(present.sum()) if present.any() else 0.0,
    )


def target(sample: StedSample, *, fwhm_nm: float = TARGET_FWHM_NM) -> FloatArray:
    """The field's fresh molecules as an image of that resolution would show them, without any noise."""
    if not 0 < fwhm_nm <= 1000:
        raise UsageError(f"sted truth: fwhm_nm must lie in 0..1000 (got {fwhm_nm!r})")
    sigma_px = fwhm_nm / 2.3548 / (1000 * sample.pixel_um)
    blurred = ndimage.gaussian_filter(sample.fresh.astype(np.float32), sigma_px, truncate=5.0)
    return np.ascontiguousarray(sample.field(blurred))


def fidelity(image: NDArray[Any], sample: StedSample, *, fwhm_nm: float = TARGET_FWHM_NM) -> float:
    """How much of an image is the structure that was there before any light: correlation with `target`.

    Blur lowers it, so does noise, and so does what had bleached before the beam arrived. It needs no scale: twice the
    light with the same noise is the same fidelity. NaN where the structure or the image is flat.
    """
    seen, there = np.asarray(image, dtype=np.float64), target(sample, fwhm_nm=fwhm_nm).astype(np.float64)
    if seen.shape != there.shape:
        raise UsageError(f"sted truth: an image of shape {seen.shape} for a field of {there.shape}")
    seen, there = seen - seen.mean(), there - there.mean()
    norm = float(np.sqrt(np.sum(seen**2) * np.sum(there**2)))
    return float(np.sum(seen * there)) / norm if norm > 0 else float("nan")


def _without_bleaching(sample: StedSample) -> Dye:
    return replace(sample.dye, k0=0.0, k1=0.0, bleach_yield=0.0, dark_bleach=0.0)
