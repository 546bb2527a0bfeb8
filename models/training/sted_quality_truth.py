"""What a simulated STED image is worth: the share of the sample's fine detail that it explains.

See docs/decisions/0025-sted-truth.md for why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from parfocal import UsageError
from parfocal.simulator.sted import StedSample
from parfocal.simulator.sted.truth import TARGET_FWHM_NM, target

FWHM_PER_SIGMA = 2.3548
EYE_NM = 25.0
"""Width of the blur with which an image is looked at: finer than anything STED shows, coarser than a lone count."""
DIFFRACTION_NM = 220.0
"""What a confocal image shows anyway: structure coarser than that earns nothing."""
BAND = {"target_nm": TARGET_FWHM_NM, "eye_nm": EYE_NM, "diffraction_nm": DIFFRACTION_NM}


def fine_detail(image: NDArray[Any], pixel_um: float) -> NDArray[np.float32]:
    """What an image shows between the eye's blur and the diffraction limit; same shape."""
    pixels = np.asarray(image, dtype=np.float32)
    nm_per_px = 1000.0 * pixel_um * FWHM_PER_SIGMA
    fine = ndimage.gaussian_filter(pixels, EYE_NM / nm_per_px)
    return np.asarray(fine - ndimage.gaussian_filter(pixels, DIFFRACTION_NM / nm_per_px))


def explained(image: NDArray[Any], wanted: NDArray[Any], pixel_um: float) -> float:
    """Share of the variance of the wanted image's fine detail that an image explains, 0..1.

    It is the squared correlation of the two, 0 where they are opposed or either is flat.

    Parameters
    ----------
    image, wanted : ndarray, shape (height, width)
        Any units: twice the light with the same noise explains as much.
    pixel_um : float

    Raises
    ------
    UsageError
        Different shapes.
    """
    if np.shape(image) != np.shape(wanted):
        raise UsageError(f"sted quality: an image of shape {np.shape(image)} for a field of {np.shape(wanted)}")
    return shared(fine_detail(image, pixel_um), fine_detail(wanted, pixel_um))


def shared(seen: NDArray[np.float32], there: NDArray[np.float32]) -> float:
    """Share of the variance of one fine detail that another explains; see `explained`."""
    seen, there = seen.ravel() - seen.mean(dtype=np.float64), there.ravel() - there.mean(dtype=np.float64)
    norm = float(np.sqrt(seen @ seen) * np.sqrt(there @ there))
    # Below a millionth of a count there is only rounding.
    if not norm > 1e-6 * seen.size:
        return 0.0
    return max(0.0, float(seen @ there) / norm) ** 2


def true_quality(image: NDArray[Any], sample: StedSample) -> float:
    """Quality of an image of a sample, 0..1: how much it explains of what was there before any light."""
    return explained(image, target(sample), sample.pixel_um)


def blurred(wanted_molecules: NDArray[Any], fwhm_nm: float, pixel_um: float) -> NDArray[np.float32]:
    """The fresh molecules as a PSF of that width would show them, without noise and bleaching."""
    sigma_px = fwhm_nm / (1000.0 * pixel_um * FWHM_PER_SIGMA)
    return np.asarray(ndimage.gaussian_filter(np.asarray(wanted_molecules, dtype=np.float32), sigma_px))
