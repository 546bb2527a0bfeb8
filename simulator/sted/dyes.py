"""Fluorophores: what a dye is made of, four named ones, and dyes drawn at random."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from parfocal import UsageError, did_you_mean
from parfocal.simulator.sted.settings import check_ranges, from_mapping


@dataclass(frozen=True)
class Dye:
    """A fluorophore under pulsed excitation and depletion.

    The defaults are those of published simulations of a dye like ATTO 647N: no dark state, and only the depletion beam
    bleaches. They give the reference laws; the dyes to work with are in `DYES`.

    Parameters
    ----------
    lifetime_ns : float
        Of the excited state.
    quantum_yield : float
        Photons per excitation without depletion.
    absorption_m2 : float
        Cross-section at the excitation wavelength.
    stimulated_m2 : float
        Cross-section of stimulated emission at the depletion wavelength: how easily it is depleted.
    anti_stokes_m2 : float
        Net cross-section of excitation by the depletion beam, what its pulse takes back already left out.
    k0 : float
        Bleaching from the excited state, linear in the depletion intensity: rate in 1/s for each W/m².
    k1, b : float
        Bleaching from the excited state, of effective order `b` in the depletion intensity: ``k1 * I**b`` in 1/s.
    bleach_yield : float
        Probability of bleaching for each lifetime spent excited, with or without depletion: what a confocal scan costs.
    dark_yield : float
        Probability of crossing to the dark state for each lifetime spent excited.
    dark_lifetime_us : float
        How long a molecule stays dark.
    dark_bleach : float
        Bleaching out of the dark state, linear in the mean depletion intensity: rate in 1/s for each W/m².
    name : str
        What people call it.

    Raises
    ------
    UsageError
        A value is not physical.

    Notes
    -----
    The excited-state terms follow Oracz et al., Sci Rep 7:11354 (2017); the dark state is why fast scanning with many
    passes spares a dye (Wu et al., Sci Rep 5, 2015). With `plain` only `k1` and `b` are left.
    """

    lifetime_ns: float = 3.5
    quantum_yield: float = 0.65
    absorption_m2: float = 2.14e-20
    stimulated_m2: float = 3e-22
    anti_stokes_m2: float = 0.0
    k0: float = 0.0
    k1: float = 1.3e-15
    b: float = 1.6
    bleach_yield: float = 0.0
    dark_yield: float = 0.0
    dark_lifetime_us: float = 100.0
    dark_bleach: float = 0.0
    name: str = "reference"

    def __post_init__(self) -> None:
        check_ranges(f"dye {self.name!r}", self, _RANGES)

    def plain(self) -> Dye:
        """Return the same dye without dark state, anti-Stokes excitation, and bleaching other than ``k1 * I**b``."""
        return dataclasses.replace(self, k0=0.0, bleach_yield=0.0, dark_yield=0.0, dark_bleach=0.0, anti_stokes_m2=0.0)


_RANGES: Mapping[str, tuple[float, float]] = {
    "lifetime_ns": (0.1, 20.0),
    "quantum_yield": (0.0, 1.0),
    "absorption_m2": (0.0, 1e-19),
    "stimulated_m2": (0.0, 1e-20),
    "anti_stokes_m2": (0.0, 1e-22),
    "k0": (0.0, 1.0),
    "k1": (0.0, 1.0),
    "b": (0.5, 4.0),
    "bleach_yield": (0.0, 1.0),
    "dark_yield": (0.0, 1.0),
    "dark_lifetime_us": (0.01, 1e5),
    "dark_bleach": (0.0, 1.0),
}

ROBUST = Dye(k1=8.5e-16, bleach_yield=2e-6, dark_yield=0.004, dark_lifetime_us=150.0, dark_bleach=3e-9, name="robust")
DYES: Mapping[str, Dye] = {
    "robust": ROBUST,
    "fragile": dataclasses.replace(
        ROBUST, name="fragile", k1=7.5e-16, b=1.645, bleach_yield=1.5e-5, dark_yield=0.006, dark_bleach=1.5e-8
    ),
    "dim": dataclasses.replace(ROBUST, name="dim", quantum_yield=0.25, absorption_m2=1.2e-20),
    "hard_to_deplete": dataclasses.replace(ROBUST, name="hard_to_deplete", stimulated_m2=9e-23, k1=3e-16),
}
"""The named dyes. Compared with `robust`, `fragile` bleaches three to four times as fast, more so at high depletion
power; `dim` gives a fifth of the light; `hard_to_deplete` needs three times the depletion power."""


def make_dye(given: str | Mapping[str, Any]) -> Dye:
    """Make a dye from its name, or from a mapping with ``base`` (a name, by default robust) and what differs from it.

    Raises
    ------
    UsageError
        There is no such dye, a key is unknown, or a value is not physical.
    """
    if isinstance(given, str):
        return _named(given)
    rest = dict(given)
    base = _named(str(rest.pop("base", "robust")))
    return from_mapping("dye", Dye, rest, base)


def random_dye(rng: np.random.Generator) -> Dye:
    """Draw a dye that could be somebody's, over the spread of common ones; to train and test on.

    Bleaching spans a factor of thirty, brightness ten, depletion five, each drawn evenly in its logarithm. Half of the
    dyes have some anti-Stokes excitation.
    """

    def between(lower: float, upper: float) -> float:
        return float(np.exp(rng.uniform(np.log(lower), np.log(upper))))

    b = float(rng.uniform(1.5, 1.7))
    # Two dyes of different order are equally fragile if they bleach alike at the crest of a usual donut.
    level = between(0.25, 8.0) * 1.3e-15 * _USUAL_CREST**1.6
    return Dye(
        name="random",
        lifetime_ns=float(rng.uniform(2.0, 4.5)),
        quantum_yield=float(rng.uniform(0.2, 0.9)),
        absorption_m2=between(0.8e-20, 3.0e-20),
        stimulated_m2=between(0.8e-22, 4e-22),
        anti_stokes_m2=between(1e-28, 1e-26) if rng.random() < 0.5 else 0.0,
        k1=level / _USUAL_CREST**b,
        b=b,
        bleach_yield=between(5e-7, 3e-5),
        dark_yield=between(5e-4, 8e-3),
        dark_lifetime_us=between(20.0, 200.0),
        dark_bleach=between(1e-9, 4e-8),
    )


_USUAL_CREST = 1.3e13  # W/m² at the crest during the pulse, at 100 mW


def _named(name: str) -> Dye:
    if name not in DYES:
        raise UsageError(f"there is no dye {name!r}{did_you_mean(name, DYES)}; there are {', '.join(DYES)}")
    return DYES[name]
