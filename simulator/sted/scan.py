"""A scan, fast: every molecule's light and loss from tables that know the raster order."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from parfocal.simulator.sted import detector
from parfocal.simulator.sted.detector import CountImage
from parfocal.simulator.sted.kernels import FloatArray, ScanPlan, scan_plan
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.settings import StedSettings

DEFOCUS_STEP_UM = 0.02  # the tables are made for steps of defocus, far below the depth of field


def scan(
    sample: StedSample, settings: StedSettings, rng: np.random.Generator, *, defocus_um: float = 0.0
) -> CountImage:
    """Scan the field once, line by line from the top, each from the left; the sample bleaches meanwhile.

    Parameters
    ----------
    sample : StedSample
        Its `molecules` are what the scan has left, afterwards.
    settings : StedSettings
        Depletion power 0 is a confocal scan.
    rng : numpy.random.Generator
        Of the counts and of which molecules bleach.
    defocus_um : float
        Distance of the sample from the focal plane.

    Returns
    -------
    ndarray of uint16, shape (height, width)
        Counts, dead time and background included.

    Notes
    -----
    The approximation: an image shows the expected number of molecules left at each moment, not the ones that happened
    to be; how many are left afterwards is drawn (binomially). And each pass over a line finds the dark state that a
    long series of passes would leave. `exact.scan_exact` does neither.
    """
    plan = plan_for(sample, settings, defocus_um)
    photons = light(sample.molecules, plan)
    counts = detector.count(photons, sample.optics, settings, rng)
    sample.molecules = survivors(sample.molecules, plan, rng)
    return counts


def expected(sample: StedSample, settings: StedSettings, *, defocus_um: float = 0.0) -> FloatArray:
    """Return the counts that a scan would have in the mean, without background and dead time; nothing bleaches.

    The bleaching during the scan itself is in it.
    """
    return light(sample.molecules, plan_for(sample, settings, defocus_um))


def plan_for(sample: StedSample, settings: StedSettings, defocus_um: float = 0.0) -> ScanPlan:
    """Return the tables for a scan of this sample."""
    nearest_um = round(abs(defocus_um) / DEFOCUS_STEP_UM) * DEFOCUS_STEP_UM
    return scan_plan(sample.optics, sample.dye, settings, sample.pixel_um, sample.shape, nearest_um)


def light(molecules: NDArray[np.int32], plan: ScanPlan) -> FloatArray:
    """Counts expected on each pixel of the field, from the molecules in it and around it."""
    width = 2 * plan.reach + 1
    columns, rows = molecules.shape[1], molecules.shape[0] - 2 * plan.reach
    across = np.ascontiguousarray(molecules.T, dtype=np.float32)
    there = np.flatnonzero(across.any(axis=1))
    image = np.zeros((columns + 2 * plan.reach, rows), dtype=np.float32)
    if there.size:
        classes = plan.classes[there]
        # Molecules by column, offset along y and line: the same column, slid along, less what earlier lines took.
        present = sliding_window_view(across[there], rows, axis=1) * plan.left[classes][:, :, None]
        top = plan.left_top.shape[2]
        present[:, :, :top] = sliding_window_view(across[there], rows, axis=1)[:, :, :top] * plan.left_top[classes]
        seen = np.matmul(plan.signal[classes], present)
        for at, column in enumerate(there):  # seen at column - offset
            image[column : column + width] += seen[at, ::-1]
    return np.ascontiguousarray(image[2 * plan.reach : columns].T)


def survivors(molecules: NDArray[np.int32], plan: ScanPlan, rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw how many molecules of each pixel the scan leaves."""
    left = molecules.copy()
    there = molecules > 0
    left[there] = rng.binomial(molecules[there], plan.survive[there])
    return left
