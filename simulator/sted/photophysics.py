"""What light does to one molecule: excitation, depletion by a pulse, gated detection, bleaching, the dark state."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from parfocal.simulator.sted import focus
from parfocal.simulator.sted.dyes import Dye
from parfocal.simulator.sted.focus import RealArray
from parfocal.simulator.sted.settings import StedOptics, StedSettings

PLANCK_C = 1.98644586e-25  # J m
VIBRATION_PER_S = 1e12  # relaxation of the ground state's vibrations, which limits how fast a pulse can deplete


@dataclass(frozen=True, eq=False)
class Rates:
    """What happens to a molecule in each microsecond, by its distance from the axis of the beams.

    Parameters
    ----------
    signal : ndarray of float64
        Counts expected at the detector of a molecule that is neither bleached nor dark.
    bleach : ndarray
        Bleaching rate of a molecule that is not dark, 1/us.
    darken : ndarray
        Rate of crossing to the dark state, 1/us.
    dark_bleach : ndarray
        Bleaching rate of a dark molecule, 1/us.
    recover : float
        Rate of return from the dark state, 1/us.
    """

    signal: RealArray
    bleach: RealArray
    darken: RealArray
    dark_bleach: RealArray
    recover: float

    def on_grid(self, pixel_m: float, half_px: int) -> Rates:
        """Return the same on a grid of pixels instead of along the radius."""
        return Rates(
            focus.on_grid(self.signal, pixel_m, half_px),
            focus.on_grid(self.bleach, pixel_m, half_px),
            focus.on_grid(self.darken, pixel_m, half_px),
            focus.on_grid(self.dark_bleach, pixel_m, half_px),
            self.recover,
        )


def excitation_irradiance(optics: StedOptics, power_uw: float, defocus_m: float) -> RealArray:
    """Time-averaged irradiance of the excitation beam, W/m², along the radius."""
    passed = power_uw * 1e-6 * optics.excitation_transmission * optics.pupil_share
    return passed * focus.irradiance(optics.excitation_nm * 1e-9, optics.na, optics.immersion_index, defocus_m, False)


def depletion_irradiance(optics: StedOptics, power_mw: float, defocus_m: float) -> RealArray:
    """Time-averaged irradiance of the donut, W/m², along the radius; `residual_zero` fills its zero, not its crest."""
    passed = power_mw * 1e-3 * optics.depletion_transmission * optics.pupil_share
    donut = focus.irradiance(optics.depletion_nm * 1e-9, optics.na, optics.immersion_index, defocus_m, True)
    return passed * (donut + optics.residual_zero * float(donut.max())) / (1 + optics.residual_zero)


def excitation_probability(dye: Dye, optics: StedOptics, irradiance: RealArray) -> RealArray:
    """Probability that a pulse excites a molecule in its ground state; saturates towards 1."""
    photon_j = PLANCK_C / (optics.excitation_nm * 1e-9)
    return np.asarray(-np.expm1(-dye.absorption_m2 * irradiance / photon_j * optics.period_ns * 1e-9))


def depletion_strength(dye: Dye, optics: StedOptics, pulse_irradiance: RealArray) -> RealArray:
    """Rate of stimulated emission during the pulse over that of spontaneous emission (gamma).

    Leutenegger, Eggeling and Hell, Opt Express 18:26417 (2010).
    """
    decay = 1e9 / dye.lifetime_ns
    if dye.stimulated_m2 == 0:
        return np.zeros_like(pulse_irradiance)
    saturation = PLANCK_C * decay / (optics.depletion_nm * 1e-9 * dye.stimulated_m2)
    zeta = pulse_irradiance / saturation
    return np.asarray(zeta * VIBRATION_PER_S / (zeta * decay + VIBRATION_PER_S))


def gated_share(dye: Dye, optics: StedOptics, gamma: RealArray) -> RealArray:
    """Share of the excitations whose spontaneous emission, were it a photon each, falls into the gate (eta).

    Vicidomini et al., PLoS ONE 8:e54421 (2013), with the depletion pulse from 0 to `pulse_ps`.
    """
    decay = 1.0 / dye.lifetime_ns
    pulse, begin = optics.pulse_ps / 1000.0, optics.gate_delay_ns
    end = begin + optics.gate_width_ns
    lost = np.exp(-decay * gamma * pulse)
    if begin >= pulse:
        kept = lost * (np.exp(-decay * begin) - np.exp(-decay * end))
    else:
        during = np.exp(-decay * begin * (1 + gamma)) + gamma * np.exp(-decay * pulse * (1 + gamma))
        kept = during / (1 + gamma) - lost * np.exp(-decay * end)
    return np.asarray(kept / -np.expm1(-decay * optics.period_ns))


def lifetimes_in_pulse(dye: Dye, optics: StedOptics, gamma: RealArray) -> RealArray:
    """Mean time spent excited while the depletion pulse lasts, for each excitation, in lifetimes."""
    pulse = optics.pulse_ps / 1000.0 / dye.lifetime_ns
    return np.asarray(-np.expm1(-pulse * (1 + gamma)) / (1 + gamma))


def lifetimes_after_pulse(dye: Dye, optics: StedOptics, gamma: RealArray) -> RealArray:
    """Mean time spent excited after the pulse, for each excitation, in lifetimes."""
    return np.asarray(np.exp(-optics.pulse_ps / 1000.0 / dye.lifetime_ns * (1 + gamma)))


@lru_cache(maxsize=64)
def rates(
    optics: StedOptics, dye: Dye, excitation_power: float, depletion_power: float, defocus_m: float = 0.0
) -> Rates:
    """Return the rates of everything that can happen to a molecule, along the radius `focus.RADII_M`."""
    excitation = excitation_irradiance(optics, excitation_power, defocus_m)
    depletion = depletion_irradiance(optics, depletion_power, defocus_m)
    in_pulse = depletion / (optics.pulse_ps * 1e-6 * optics.rate_mhz)
    gamma = depletion_strength(dye, optics, in_pulse)
    excited = excitation_probability(dye, optics, excitation)
    pulses_per_us = optics.rate_mhz
    seen = focus.detection(
        optics.emission_nm * 1e-9,
        optics.na,
        optics.immersion_index,
        optics.pinhole_airy * 0.61 * optics.emission_nm * 1e-9 / optics.na,
        defocus_m,
    ) * (dye.quantum_yield * optics.collection * optics.detector_efficiency * optics.emission_transmission)
    photon_j = PLANCK_C / (optics.depletion_nm * 1e-9)
    anti_stokes = dye.anti_stokes_m2 * depletion / photon_j * 1e-6 * float(gated_share(dye, optics, np.zeros(1))[0])
    lit, after = lifetimes_in_pulse(dye, optics, gamma), lifetimes_after_pulse(dye, optics, gamma)
    per_lifetime = (dye.k0 * in_pulse + dye.k1 * in_pulse**dye.b) * dye.lifetime_ns * 1e-9
    return Rates(
        signal=seen * (excited * pulses_per_us * gated_share(dye, optics, gamma) + anti_stokes),
        bleach=excited * pulses_per_us * (per_lifetime * lit + dye.bleach_yield * (lit + after)),
        darken=excited * pulses_per_us * dye.dark_yield * (lit + after),
        dark_bleach=dye.dark_bleach * depletion * 1e-6,
        recover=1.0 / dye.dark_lifetime_us,
    )


def fwhm_nm(optics: StedOptics, dye: Dye, settings: StedSettings, defocus_um: float = 0.0) -> float:
    """Full width at half maximum of the effective PSF, from which anti-Stokes light and bleaching are left out.

    At zero excitation it is that of vanishing excitation: the optics have a resolution even in the dark.
    """
    made = rates(
        optics,
        replace(dye, anti_stokes_m2=0.0),
        settings.excitation_power or 1e-3,
        settings.depletion_power,
        defocus_um * 1e-6,
    )
    return focus.full_width_m(made.signal) * 1e9
