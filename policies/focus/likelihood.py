"""From an assessment to a likelihood of the focus position, and how much of it is news."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal.models.base import Assessment, Distribution
from parfocal.policies.focus.grid import Vector
from parfocal.policies.focus.response import Response

# No microscope is out of focus by a metre, nor sure of it to a picometre; also what is NaN fails the comparison.
_ABSURD_UM = 1e6


@dataclass(frozen=True)
class Look:
    """What one frame says: a density per um over the defocus it was taken at.

    Beyond the table the density of its end goes on: a network that says "at least 30 um" does not deny 40.
    """

    defocus_um: Vector
    density: Vector
    signed: bool = False

    def __call__(self, defocus_um: Vector) -> Vector:
        """Density at ascending defocus."""
        values: Vector = np.interp(defocus_um, self.defocus_um, self.density)
        return values


def read_look(assessment: Assessment, *, response: Response | None, floor: float, min_certainty: float) -> Look | str:
    """Read an assessment; the answer is a reason in words if nothing can be learned from it.

    Parameters
    ----------
    assessment : Assessment
        Of the model that measures defocus.
    response : Response, optional
        A measured response: the likelihood then comes from the assessment's value through it.
    floor : float
        Chance that the model is simply wrong about a frame (dirt, a passing cell): a flat share of the density.
    min_certainty : float
        Below this ``detail["certainty"]`` the frame counts as doubtful.
    """
    if assessment.abstained:
        return assessment.reason or f"{assessment.model} abstained"
    certainty = assessment.detail.get("certainty")
    if certainty is not None and not certainty >= min_certainty:
        return f"{assessment.model} is uncertain (certainty {certainty:.2f}, at least {min_certainty:.2f} needed)"
    if response is not None:
        look = _from_response(assessment, response)
    elif assessment.distribution is not None:
        look = _from_distribution(assessment.model, assessment.distribution)
    else:
        look = _from_value(assessment)
    if isinstance(look, str):
        return look
    flat = 1.0 / float(look.defocus_um[-1] - look.defocus_um[0])
    return Look(look.defocus_um, (1.0 - floor) * look.density + floor * flat, look.signed)


def _from_distribution(model: str, distribution: Distribution) -> Look | str:
    """Masses of uneven cells under a flat prior become a density per um."""
    grid = np.asarray(distribution.defocus_um, dtype=np.float64)
    mass = np.asarray(distribution.probability, dtype=np.float64)
    if grid.ndim != 1 or grid.shape != mass.shape or len(grid) < 3:
        return f"{model} gave a malformed distribution (shapes {grid.shape} and {mass.shape})"
    if not (np.isfinite(grid).all() and np.isfinite(mass).all()):
        return f"{model} gave a distribution with NaN or infinite entries"
    if (
        max(np.abs(grid).max(), mass.max()) > _ABSURD_UM
        or (np.diff(grid) < 1.0 / _ABSURD_UM).any()
        or (mass < 0.0).any()
    ):
        return f"{model} gave a malformed distribution (grid not ascending, or negative probabilities)"
    widths = np.gradient(grid)
    total = float(mass.sum())
    density = mass / widths / total if total > 1e-12 else mass
    if not 1e-12 < total < _ABSURD_UM or not np.isfinite(density).all():
        return f"{model} gave a distribution without any probability"
    return Look(grid, density, distribution.signed)


def _from_value(assessment: Assessment) -> Look | str:
    """Make do without a distribution: a Gaussian in the magnitude, on both sides."""
    if assessment.detail.get("in_um") == 0.0:
        return f"{assessment.model} says pixels of blur, not um: it needs the optics, or the policy a calibration"
    value, sd = abs(assessment.value), assessment.sd
    if not (value < _ABSURD_UM and 1.0 / _ABSURD_UM < sd < _ABSURD_UM):
        return f"{assessment.model} gave no usable number ({assessment.value:g} ± {assessment.sd:g})"
    reach = value + 8.0 * sd
    grid = np.linspace(-reach, reach, 801)
    density = np.exp(-0.5 * ((np.abs(grid) - value) / sd) ** 2)
    return Look(grid, density / max(float(np.trapezoid(density, grid)), 1e-300))


def _from_response(assessment: Assessment, response: Response) -> Look | str:
    value = response.observable(assessment)
    if not math.isfinite(value):
        return f"{assessment.model} gave no usable {response.source!r} ({value:g})"
    density = response.likelihood(value, response.observed_sign(assessment))
    return Look(response.defocus_um, density, response.signed)


class Novelty:
    """How much of a look is news, given the looks before it.

    Errors of a network on one specimen at one defocus repeat themselves: they belong to the specimen, not to the
    photons. They are taken as a process correlated over `length_um` in z and `memory_s` in time; a look right after
    another at the same z then carries the share ``1 - rho**2`` of its information, so that standing still does not
    make the belief ever narrower.
    """

    def __init__(self, length_um: float, memory_s: float, keep: int = 12) -> None:
        self.length_um = length_um
        self.memory_s = memory_s
        self.keep = keep
        self.looks: list[tuple[float, float]] = []

    def share(self, z_um: Any, time_s: float) -> Any:
        """Share of news (0..1) of looks at `z_um` (a number or an array of them)."""
        z = np.asarray(z_um, dtype=np.float64)
        if not self.looks:
            return np.ones_like(z)[()]
        past = np.asarray(self.looks)
        age = np.maximum(time_s - past[:, 1], 0.0) / max(self.memory_s, 1e-9)
        apart = ((z[..., None] - past[:, 0]) / self.length_um) ** 2
        return (-np.expm1(-(2.0 * age + apart).min(axis=-1)))[()]

    def add(self, z_um: float, time_s: float) -> None:
        """Remember a look."""
        self.looks = [*self.looks[-(self.keep - 1) :], (z_um, time_s)]
