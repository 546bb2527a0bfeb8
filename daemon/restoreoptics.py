"""The optics that restoring believes in: those of a microscope and, where somebody knows them, its aberrations."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

from parfocal import UsageError
from parfocal.simulator.optics import Optics

ABERRATIONS = ("spherical_waves", "zernike_waves", "sample_index", "depth_um")
"""Options of the defocus model that say how the optics differ from perfect ones."""
MOST_WAVES = 2.0
"""No microscope that anybody looks through has more, rms: a number beyond is nanometres, or a slip."""


def optics_of(told: Mapping[str, Any]) -> Optics:
    """Optics from what a model is told of them; a calibrated `spherical_waves` stands for all other aberrations.

    Raises
    ------
    ValueError
        An aperture, index, wavelength or pixel is not physical, or ``zernike_waves`` has other keys than ``"n,m"``.
    """
    options = dict(told)
    if options.get("spherical_waves") is not None:
        options |= {"zernike_waves": {"4,0": options["spherical_waves"]}, "depth_um": 0.0}
    return Optics.from_options(options)


def aberrations_of(options: Mapping[str, Any], spherical_waves: float | None) -> dict[str, Any]:
    """Aberrations among the options of the defocus model, or the one that a person gives instead.

    Raises
    ------
    UsageError
        Numbers that no microscope has.
    """
    if spherical_waves is not None:
        if not (isfinite(spherical_waves) and abs(spherical_waves) <= MOST_WAVES):
            raise UsageError(
                f"--spherical-waves is in rms waves, from -{MOST_WAVES:g} to {MOST_WAVES:g} (got {spherical_waves:g})"
            )
        return {"spherical_waves": spherical_waves}
    found = {name: options[name] for name in ABERRATIONS if options.get(name) is not None}
    try:
        optics_of(found)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"scoring.options.defocus: {', '.join(found)}: {error}") from error
    return found
