"""By how much a field misleads: the network's error as an unknown smooth function of |defocus|, alike at every look."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

KNOTS_DOF = (0.0, 0.25, 0.5, 0.75, 1.0, 1.7, 4.5, 20.0)
"""Where the error's coefficients sit, in depths of field: dense where a blur begins to show."""


@dataclass(frozen=True)
class BiasPrior:
    """What is known of a field's error before it was ever looked at.

    The error of a look, in units of the spread that the network states, is a piecewise linear function of |defocus|
    with Gaussian coefficients at `KNOTS_DOF`. A specimen is the same above its focus and below it, so the error is
    taken to be, too. That is what finds a focus to a fraction of the depth of field: not the number that the network
    says, but that it says the same on both sides.

    Parameters
    ----------
    dof_um : float
        Depth of field.
    spread : float
        Sd of the error, in units of the spread stated: 1 for an honest network.
    common : float
        Share of its variance that all of |defocus| has in common.
    memory_min : float
        The field changes within so many minutes.
    """

    dof_um: float
    spread: float = 1.2
    common: float = 0.5
    memory_min: float = 60.0
    knots_um: Vector = field(init=False, repr=False, compare=False)
    moments: Vector = field(init=False, repr=False, compare=False)
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]] = field(init=False, repr=False, compare=False)
    full: NDArray[np.intp] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        knots = np.asarray(KNOTS_DOF) * self.dof_um
        apart = np.subtract.outer(np.arange(len(knots)), np.arange(len(knots)))
        covariance = self.spread**2 * (self.common + (1.0 - self.common) * np.exp(-0.5 * (apart / 1.5) ** 2))
        object.__setattr__(self, "knots_um", knots)
        object.__setattr__(self, "pairs", np.triu_indices(len(knots)))
        object.__setattr__(self, "moments", np.concatenate([np.zeros(len(knots)), covariance[self.pairs]]))
        full = np.zeros(covariance.shape, dtype=np.intp)
        full[self.pairs] = full.T[self.pairs] = np.arange(len(self.pairs[0]))
        object.__setattr__(self, "full", full)

    @property
    def count(self) -> int:
        """Number of coefficients."""
        return len(KNOTS_DOF)

    def basis(self, defocus_um: Vector) -> Vector:
        """Weights of the coefficients at some |defocus|, shape (count, ...)."""
        place = np.interp(defocus_um, self.knots_um, np.arange(float(self.count)))
        index = np.arange(float(self.count)).reshape(-1, *[1] * place.ndim)
        weights = _spline(place - index)
        # Even about the focus, and constant beyond the last knot.
        weights[1] += _spline(place + 1.0)
        weights[-1] += _spline(place - float(self.count))
        return weights


def _spline(t: Vector) -> Vector:
    """Quadratic B-spline about 0, three knots wide."""
    far = np.maximum(1.5 - np.abs(t), 0.0)
    bump: Vector = np.where(far > 1.0, 0.75 - t * t, 0.5 * far * far)
    return bump
