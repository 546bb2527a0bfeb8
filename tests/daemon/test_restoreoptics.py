"""The optics that restoring believes in: aberrations from a person or a configuration, and numbers that are none."""

from __future__ import annotations

import math

import pytest

from parfocal import UsageError
from parfocal.daemon.restoreoptics import aberrations_of, optics_of

OPTICS = {"na": 0.75, "immersion_index": 1.0, "emission_um": 0.52, "pixel_um": 0.2}


def test_a_calibrated_aberration_stands_for_all_others() -> None:
    optics = optics_of({**OPTICS, "spherical_waves": 0.08, "depth_um": 30.0, "zernike_waves": {"2,2": 0.1}})
    assert (optics.zernike_waves, optics.depth_um, optics.pixel_um) == ({(4, 0): 0.08}, 0.0, 0.2)


def test_the_physics_is_taken_as_it_is_told() -> None:
    told = {"na": 0.75, "spherical_waves": None, "zernike_waves": {"2,2": 0.1}, "depth_um": 30.0, "threads": 1}
    aberrations = aberrations_of(told, None)
    assert aberrations == {"zernike_waves": {"2,2": 0.1}, "depth_um": 30.0}
    optics = optics_of({**OPTICS, **aberrations})
    assert (optics.zernike_waves, optics.depth_um) == ({(2, 2): 0.1}, 30.0)


def test_a_person_knows_better_than_the_configuration() -> None:
    assert aberrations_of({"spherical_waves": 0.2, "depth_um": 5.0}, -0.05) == {"spherical_waves": -0.05}
    assert aberrations_of({}, 0.0) == {"spherical_waves": 0.0}  # none at all is something that may be known
    assert aberrations_of({}, None) == {}


@pytest.mark.parametrize("waves", [math.nan, math.inf, 80.0, -2.1])
def test_waves_that_no_microscope_has_are_refused(waves: float) -> None:
    with pytest.raises(UsageError, match="rms waves"):
        aberrations_of({}, waves)


@pytest.mark.parametrize("told", [{"zernike_waves": {"spherical": 0.1}}, {"depth_um": -1.0}, {"zernike_waves": 0.1}])
def test_aberrations_of_a_configuration_that_cannot_be(told: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="defocus"):
        aberrations_of(told, None)
