"""What is believed of any dye before a frame is seen: laws of resolution, bleaching and signal, as prior means.

From fits to simulations of an ATTO647N-like dye (FWHM against depletion power: Harke 2008; bleaching against dose and
power), and the geometry of a smaller focus. A dye differs from them mostly by factors, which are shifts of logarithms:
what a surrogate then has to learn is small and smooth.
"""

from __future__ import annotations

import math

import numpy as np

from parfocal.policies.sted.objectives import Outcome
from parfocal.policies.sted.space import DEPLETION, LINES, SATURATION_MW, Space, Vector

CONFOCAL_NM = 220.0
BLEACH_PER_DOSE = 0.0063
BLEACH_EXPONENT = 0.73
REFERENCE_MW = 100.0
_LEAST_MW = 5.0
STARVED_DOSE = 0.8
"""Square root of the dose at which photon noise alone doubles the resolution; uW us."""
FOCUS_EXPONENT = 0.7
LEAST_HAZARD = 3e-3
LEAST_SIGNAL = 1e-3

OBJECTIVES = ("signal", "bleach", "resolution", "quality")
FLOORS = {"signal": 0.06, "bleach": 0.06, "resolution": 0.03, "quality": 0.02}
"""Least standard deviation of one measurement, in the surrogates' scales: fields are not alike."""


def mean(name: str, space: Space, rows: Vector, lines: float, confocal_dose: float) -> Vector:
    """Return the prior mean of one surrogate at rows of settings."""
    dose = space.dose(rows, lines)
    power = space.column(rows, DEPLETION, 0.0)
    narrow = np.log1p(power / SATURATION_MW)
    if name == "signal":
        out: Vector = np.log(dose / confocal_dose) - FOCUS_EXPONENT * narrow
    elif name == "bleach":
        out = np.log(BLEACH_PER_DOSE * dose) + BLEACH_EXPONENT * np.log((power + _LEAST_MW) / REFERENCE_MW)
    elif name == "resolution":
        out = math.log(CONFOCAL_NM) - 0.5 * narrow + np.log1p(STARVED_DOSE / np.sqrt(dose))
    else:
        out = np.full(len(np.atleast_2d(rows)), 0.5)
    return out


def features(space: Space, rows: Vector, lines: float) -> Vector:
    """Return what surrogates see, about 1 wide each: log dose, log depletion, log time on a pixel, log line steps.

    Signal and bleaching depend on excitation power and dwell only through the dose (a ridge); time, background,
    detector and dark states break the tie, weakly.
    """
    rows = np.atleast_2d(rows)
    columns = [
        np.log(space.dose(rows, lines)) / 2.0,
        np.log1p(space.column(rows, DEPLETION, 0.0) / SATURATION_MW) / 1.5,
        np.log(space.pixel_us(rows, lines)) / 2.0,
    ]
    if LINES in space.names:
        columns.append(np.log(space.column(rows, LINES, 1.0)) / 2.0)
    return np.stack(columns, axis=1)


def encode(outcome: Outcome) -> dict[str, tuple[float, float]]:
    """Return value and variance of each surrogate's quantity for a measured outcome; what is not known is left out."""
    hazard = -math.log(max(1.0 - outcome.bleach, 1e-3))
    floored = max(hazard, LEAST_HAZARD)
    # The delta method; a bleaching of nothing says that the logarithm is small, not how small.
    bleach_sd = outcome.bleach_sd / max(1.0 - outcome.bleach, 1e-3) / floored
    signal = max(outcome.signal_ratio, LEAST_SIGNAL)
    resolution_sd = outcome.resolution_sd_nm / outcome.resolution_nm
    if outcome.censored:
        resolution_sd = max(resolution_sd, 0.15)
    told = {
        "signal": (math.log(signal), outcome.signal_sd / signal),
        "bleach": (math.log(floored), min(bleach_sd, 3.0)),
        "resolution": (math.log(outcome.resolution_nm), resolution_sd),
    }
    if math.isfinite(outcome.quality):
        told["quality"] = (outcome.quality, outcome.quality_sd if math.isfinite(outcome.quality_sd) else 0.05)
    return {name: (value, sd**2 + FLOORS[name] ** 2) for name, (value, sd) in told.items()}


def decode(name: str, drawn: Vector) -> Vector:
    """Turn a surrogate's quantity into the objective it stands for."""
    if name == "bleach":
        out: Vector = -np.expm1(-np.exp(np.minimum(drawn, 5.0)))
    elif name == "quality":
        out = np.clip(drawn, 0.0, 1.0)
    else:
        out = np.exp(np.clip(drawn, -20.0, 20.0))
    return out


OBJECTIVE_OF = {"signal": "signal_ratio", "bleach": "bleach", "resolution": "resolution_nm", "quality": "quality"}
