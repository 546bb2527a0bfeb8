"""Point-scanning STED: optics, photophysics, labelled structures, scans. Arrays in, arrays out, seeded."""

from __future__ import annotations

from parfocal.simulator.sted.dyes import DYES, Dye, make_dye, random_dye
from parfocal.simulator.sted.sample import StedSample
from parfocal.simulator.sted.scan import expected, scan
from parfocal.simulator.sted.settings import LIMITS, StedOptics, StedSettings
from parfocal.simulator.sted.structures import STRUCTURES, make_structure

__all__ = [
    "DYES",
    "LIMITS",
    "STRUCTURES",
    "Dye",
    "StedOptics",
    "StedSample",
    "StedSettings",
    "expected",
    "make_dye",
    "make_structure",
    "random_dye",
    "scan",
]
