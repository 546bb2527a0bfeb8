"""The optics that restoring believes in: those of a microscope and, where somebody knows them, its aberrations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from parfocal import UsageError
from parfocal.daemon.fileoptics import PartialOptics, optics_of_config
from parfocal.daemon.restorerows import RestoreJob
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


@dataclass(frozen=True)
class Told:
    """What the configuration of a session says of the microscope that took its frames."""

    optics: PartialOptics = field(default_factory=PartialOptics)
    aberrations: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


class Sessions:
    """The optics of frames that lie in session folders, each of which is read once.

    Attributes
    ----------
    notes : set of str
        Which configurations were used, or why one cannot be.
    """

    def __init__(self) -> None:
        self.notes: set[str] = set()
        self._told: dict[Path, Told] = {}

    def job_of(self, job: RestoreJob, path: Path) -> RestoreJob:
        """The job with the optics of the session that a file lies in; the job itself where it lies in none.

        Aberrations that a person told win over those of the session, all of them.
        """
        folder = path.parent
        if folder not in self._told:
            self._told[folder] = told_by(folder)
        told = self._told[folder]
        if told.note:
            self.notes.add(told.note)
        return replace(job, recorded=told.optics, aberrations=job.aberrations or told.aberrations)


def told_by(folder: Path) -> Told:
    """What the configuration in a folder says, if it is that of a session; nothing elsewhere.

    Read as plain data, as the session's other readers do: what an older parfocal wrote is to be understood as well.
    """
    from parfocal.daemon.session import SCHEMA

    path = folder / "config.yaml"
    try:
        facts = json.loads((folder / "session.json").read_text(encoding="utf-8"))
        if str(facts["schema"]).partition("/")[0] != SCHEMA.partition("/")[0]:
            return Told()
    except (OSError, ValueError, KeyError, TypeError):
        return Told()
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        optics = optics_of_config(config["microscope"])
        optics.check(f"{path}: microscope")
        options = (config.get("scoring") or {}).get("options") or {}
        aberrations = aberrations_of(options.get("defocus") or {}, None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, UsageError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        return Told(note=f"the optics of the session cannot be taken from {path}: {why}")
    if not (optics.known() or aberrations):
        return Told()
    return Told(optics, aberrations, f"optics of the frames in {folder}: from {path}, where they are not given")
