"""By how much a field misleads: the network's error as an unknown smooth function of |defocus|, alike at every look."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

KNOTS_DOF = (0.0, 0.4, 0.7, 1.1, 2.0, 5.0, 20.0)
"""Where the error's coefficients sit, in depths of field: dense where a blur begins to show."""
FLAT_DOF, LENGTH = 0.9, 0.23
"""The error is smooth in ``log(1 + (d / FLAT_DOF)**2) / 2``, over this length: see `BiasPrior`."""
ROUGH, ROUGH_FROM_DOF, ROUGH_APART_DOF = 0.33, 0.64, 0.2
"""What of the error is not smooth, in units of the spread: from where on, and how far apart it is another one."""
OF_RESPONSE = {"common": 0.5, "rough": 0.0}
"""A response measured on the objective itself leaves an error of one piece; what is rough is in its own sd."""


@dataclass(frozen=True)
class BiasPrior:
    """What is known of a field's error before it was ever looked at.

    The error of a look, in units of the spread that the network states, is a piecewise linear function of |defocus|
    with Gaussian coefficients at `KNOTS_DOF`. A specimen is the same above its focus and below it, so the error is
    taken to be, too. That is what finds a focus to a fraction of the depth of field: not the number that the network
    says, but that it says the same on both sides.

    Defocus changes the transfer function with its square, so near the focus the error, too, changes with the square of
    |defocus|, and hardly at all: that a number stays as it is tells nothing there. Far from it what counts is the
    ratio of two distances. The coordinate in which the error is smooth is therefore a logarithm of the square; its
    scale, the length and the common share are the likeliest for what the network said of 154 series of 18 defoci (real
    fields of the validation split and procedural ones, six optics, 20 to 2000 photons; docs/decisions/0029).

    Off the focus the error is also rough. What is rough belongs to the place looked from: frames taken there one after
    the other share it, the next place has another. It is the last coefficient, renewed by every move (`kept`).

    Parameters
    ----------
    dof_um : float
        Depth of field.
    spread : float
        Sd of the error, in units of the spread stated: 1 for an honest network.
    common : float
        Share of the smooth part's variance that all of |defocus| has in common.
    rough : float
        Sd of its rough part.
    memory_min : float
        The field changes within so many minutes.
    """

    dof_um: float
    spread: float = 1.1
    common: float = 0.16
    rough: float = ROUGH
    memory_min: float = 60.0
    knots_um: Vector = field(init=False, repr=False, compare=False)
    moments: Vector = field(init=False, repr=False, compare=False)
    pairs: tuple[NDArray[np.intp], NDArray[np.intp]] = field(init=False, repr=False, compare=False)
    full: NDArray[np.intp] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        knots = np.asarray(KNOTS_DOF) * self.dof_um
        place = 0.5 * np.log1p((np.asarray(KNOTS_DOF) / FLAT_DOF) ** 2)
        apart = np.subtract.outer(place, place) / LENGTH
        covariance = np.zeros((self.count, self.count))
        covariance[:-1, :-1] = self.spread**2 * (self.common + (1.0 - self.common) * np.exp(-0.5 * apart**2))
        covariance[-1, -1] = self.rough**2
        object.__setattr__(self, "knots_um", knots)
        object.__setattr__(self, "pairs", np.triu_indices(self.count))
        object.__setattr__(self, "moments", np.concatenate([np.zeros(self.count), covariance[self.pairs]]))
        full = np.zeros(covariance.shape, dtype=np.intp)
        full[self.pairs] = full.T[self.pairs] = np.arange(len(self.pairs[0]))
        object.__setattr__(self, "full", full)

    @property
    def count(self) -> int:
        """Number of coefficients: one for every knot, and the rough one."""
        return len(KNOTS_DOF) + 1

    def kept(self, moved_um: float) -> float:
        """Share of the rough coefficient that is still the same after a move."""
        return math.exp(-abs(moved_um) / (ROUGH_APART_DOF * self.dof_um))

    def basis(self, defocus_um: Vector) -> Vector:
        """Weights of the coefficients at some |defocus|, shape (count, ...)."""
        distance = np.asarray(defocus_um)
        place = np.interp(distance, self.knots_um, np.arange(float(len(KNOTS_DOF)))).astype(distance.dtype)
        index = np.arange(self.count, dtype=distance.dtype).reshape(-1, *[1] * place.ndim)
        weights = _spline(place - index)
        # Even about the focus, and constant beyond the last knot.
        before = np.maximum(0.5 - place, 0.0)
        weights[1] += 0.5 * before * before
        weights[-2] += weights[-1]
        far = distance / (ROUGH_FROM_DOF * self.dof_um)
        far = far * far
        far = far * far
        weights[-1] = far / (1.0 + far)
        return weights


def _spline(t: Vector) -> Vector:
    """Quadratic B-spline about 0, three knots wide: of two parabolas, the narrower taken off the wider."""
    t = np.abs(t, out=t)
    wide, narrow = np.maximum(1.5 - t, 0.0), np.maximum(0.5 - t, 0.0)
    wide *= wide
    narrow *= narrow
    narrow *= 3.0
    wide -= narrow
    wide *= 0.5
    return wide
