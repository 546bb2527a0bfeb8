"""Near the focus one frame's intervals hold the truth: the network says that it cannot tell, and does not say zero."""

from __future__ import annotations

import numpy as np
import pytest

from parfocal.models.defocus import DefocusModel
from parfocal.simulator.camera import Camera, CameraParameters
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen

OPTICS = Optics(na=0.75, pixel_um=0.325, emission_um=0.52)
SHAPE = (256, 256)
KINDS = ("nuclei", "filaments", "mitochondria", "tissue")


@pytest.fixture(scope="module")
def model() -> DefocusModel:
    options = {"na": OPTICS.na, "emission_um": OPTICS.emission_um, "magnification": OPTICS.magnification}
    return DefocusModel({**options, "patch_map": False, "threads": 1})


@pytest.mark.parametrize("defocus_dof", [0.1, 0.2, 0.3, 0.5, 0.75, 1.0])
def test_intervals_hold_the_truth_near_focus(model: DefocusModel, defocus_dof: float) -> None:
    defocus_um = defocus_dof * OPTICS.depth_of_field_um
    above, below = [], []
    for number, kind in enumerate(KINDS):
        specimen = make_specimen(kind, SHAPE, pixel_um=OPTICS.pixel_um, seed=40 + number)
        image = Imager(OPTICS, SHAPE).image(specimen, defocus_um)
        for photons in (2000.0, 200.0):
            camera = Camera(CameraParameters(), SHAPE, seed=number, threads=1)
            counts = camera.expose(image / float(image.max()) * np.float32(photons) + np.float32(5.0), 10.0)
            told = model.assess(counts[None], OPTICS.pixel_um)[0]
            assert not told.abstained
            above.append(defocus_um > told.detail["q95"])
            below.append(defocus_um < told.detail["q05"])
    assert sum(above) + sum(below) <= 2  # of 8; 0.8 are to be expected
