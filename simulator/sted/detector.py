"""A photon-counting detector: background, Poisson statistics, and the dead time that flattens high rates."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.simulator import poisson
from parfocal.simulator.sted.settings import StedOptics, StedSettings

CountImage = NDArray[np.uint16]


def count(photons: NDArray[Any], optics: StedOptics, settings: StedSettings, rng: np.random.Generator) -> CountImage:
    """Count what an ideal detector would have seen in the mean.

    Parameters
    ----------
    photons : ndarray, shape (height, width)
        Counts expected on each pixel without dead time and background; not negative.
    optics, settings
        For the background, the dead time and the time on each pixel.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint16, shape (height, width)

    Notes
    -----
    A detector that is blind for t after each count turns a mean of n events in a time T into ``n / (1 + n t / T)``
    and their variance into ``n / (1 + n t / T)**3``, less than Poisson's (Müller, Nucl Instr Meth 112:47, 1973). The
    events drawn are shifted and scaled to just that, and fractions rounded up or down at random.
    """
    mean = np.asarray(photons + optics.background_per_us * settings.pixel_us, dtype=np.float32)
    drawn = poisson.draw(np.ascontiguousarray(mean).ravel(), rng).reshape(mean.shape)
    most = 65535.0
    if optics.dead_time_ns:
        busy = 1 + mean * np.float32(optics.dead_time_ns * 1e-3 / settings.pixel_us)
        drawn = after_dead_time(mean, optics, settings) + (drawn - mean) / busy**1.5
        drawn += rng.random(drawn.shape, dtype=np.float32)
        most = min(most, optics.max_rate_mhz * settings.pixel_us)
    return np.minimum(drawn, most).astype(np.uint16)


def after_dead_time(events: NDArray[Any], optics: StedOptics, settings: StedSettings) -> NDArray[Any]:
    """Return the mean counts that are left of so many events on a pixel."""
    return np.asarray(events / (1 + events * np.float32(optics.dead_time_ns * 1e-3 / settings.pixel_us)))


def saturation_counts(optics: StedOptics, settings: StedSettings) -> float:
    """Counts on a pixel at which the detector misses as many photons as it counts: half of what it can never exceed.

    From there on, twice the light gives at most a third more counts. Without a dead time: what 16 bits hold.
    """
    return min(65535.0, 0.5 * optics.max_rate_mhz * settings.pixel_us)
