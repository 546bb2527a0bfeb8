"""A widefield fluorescence microscope: specimen, optics, stage, drift, bleaching and camera in one exposure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.simulator.bleaching import Bleaching, BleachingParameters
from parfocal.simulator.camera import Camera, CameraParameters, CountImage, FloatImage
from parfocal.simulator.drift import DriftParameters, FocusDrift
from parfocal.simulator.optics import Imager, Optics
from parfocal.simulator.specimens import make_specimen, specimen_from_image
from parfocal.simulator.stage import StageParameters, ZStage

_SUB_EXPOSURES = 3
_STILL_DOF = 0.2  # of a depth of field: below this much motion one defocus stands for the whole exposure


@dataclass(frozen=True)
class WidefieldParameters:
    """Everything a simulated widefield microscope is made from.

    Parameters
    ----------
    optics : Optics
    specimen : str or ndarray, shape (h, w)
        Name of a procedural specimen, or an image that is cropped or mirrored to the field.
    density : float
        Of a procedural specimen; 1 is a usual field.
    shape : (height, width)
        Of the frames, in pixels.
    photons : float
        Expected on the brightest pixel of the specimen in focus, at `nominal_exposure_ms` and full power.
    background_photons : float
        Expected on every pixel beside that: out-of-focus haze and autofluorescence, which scale with the light.
    nominal_exposure_ms : float
        The exposure `photons` and `background_photons` are stated for.
    focus_um : float
        Stage position at which the specimen is in focus at time 0.
    start_um : float
        Where the stage stands at first.
    camera, stage, drift, bleaching
        Parameters of the parts.
    seed : int
        Of the specimen, the camera and the drift, which draw from streams of their own.

    Raises
    ------
    UsageError
        If a value is not physical.
    """

    optics: Optics = field(default_factory=Optics)
    specimen: str | NDArray[Any] = "nuclei"
    density: float = 1.0
    shape: tuple[int, int] = (512, 512)
    photons: float = 1000.0
    background_photons: float = 0.0
    nominal_exposure_ms: float = 10.0
    focus_um: float = 0.0
    start_um: float = 0.0
    camera: CameraParameters = field(default_factory=CameraParameters)
    stage: StageParameters = field(default_factory=StageParameters)
    drift: DriftParameters = field(default_factory=DriftParameters)
    bleaching: BleachingParameters = field(default_factory=BleachingParameters)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("photons", "background_photons"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise UsageError(f"widefield: {name} must be zero or more (got {getattr(self, name)!r})")
        if not (math.isfinite(self.nominal_exposure_ms) and self.nominal_exposure_ms > 0):
            raise UsageError(f"widefield: nominal_exposure_ms must be positive (got {self.nominal_exposure_ms!r})")
        if not math.isfinite(self.focus_um):
            raise UsageError(f"widefield: focus_um must be finite (got {self.focus_um!r})")
        if min(self.shape) < 32:
            raise UsageError(f"widefield: a field of {self.shape[1]}x{self.shape[0]} px is too small: at least 32x32")


class WidefieldSimulator:
    """One field of one specimen under one objective. Times are seconds since the simulator's own start, 0.

    Parameters
    ----------
    parameters : WidefieldParameters
    threads : int
        For the camera's noise; the frames do not depend on it.

    Attributes
    ----------
    stage : ZStage
        To be commanded from outside; the simulator only looks where it is.
    specimen : ndarray of float32
        Fluorophore density, 0..1.
    """

    def __init__(self, parameters: WidefieldParameters, *, threads: int = 2) -> None:
        self.parameters = parameters
        specimen_seed, camera_seed, drift_seed = (
            int(child.generate_state(1)[0]) for child in np.random.SeedSequence(parameters.seed).spawn(3)
        )
        self.stage = ZStage(parameters.stage, parameters.start_um)
        self.specimen, boundary = _specimen(parameters, specimen_seed)
        self.bleaching = Bleaching(parameters.bleaching)
        self._camera = Camera(parameters.camera, parameters.shape, seed=camera_seed, threads=threads)
        self._drift = FocusDrift(parameters.drift, drift_seed)
        self._imager = Imager(parameters.optics, parameters.shape, boundary=boundary)
        peak = float(np.max(self._imager.image(self.specimen, 0.0)))
        self._photons_per_density = parameters.photons / peak if peak > 0 else 0.0

    def prepare(self) -> None:
        """Compute what the first frame needs besides its own light; changes nothing that is drawn or told."""
        self._imager.image(self.specimen, self.parameters.start_um - self.parameters.focus_um)

    def focus_z_um(self, t_s: float) -> float:
        """Return the stage position at which the specimen is in focus at time `t_s`."""
        return self.parameters.focus_um + self._drift.offset_um(t_s)

    def defocus_um(self, t_s: float) -> float:
        """Return z of the stage minus z of the focus at time `t_s`, backlash included."""
        return self.stage.sample_um(t_s) - self.focus_z_um(t_s)

    def photons(self, start_s: float, exposure_ms: float, power: float) -> FloatImage:
        """Return the photons expected on each pixel before bleaching, without any noise, shape of a frame.

        The defocus of the middle of the exposure stands for all of it, unless the stage or the focus moves by more
        than a fifth of the depth of field meanwhile: then three equal parts are averaged.
        """
        _check_light(exposure_ms, power)
        times = self._look_at(start_s, exposure_ms / 1000.0)
        light = power * exposure_ms / self.parameters.nominal_exposure_ms
        if light == 0:
            return np.zeros(self.parameters.shape, dtype=np.float32)
        image = self._imager.image(self.specimen, self.defocus_um(times[0]))
        for t_s in times[1:]:
            image = image + self._imager.image(self.specimen, self.defocus_um(t_s))
        image = image * np.float32(light * self._photons_per_density / len(times))
        if self.parameters.background_photons:
            image += np.float32(light * self.parameters.background_photons)
        return image

    def expose(self, start_s: float, exposure_ms: float, power: float = 1.0) -> tuple[CountImage, Mapping[str, float]]:
        """Take one frame; the specimen bleaches by it.

        Parameters
        ----------
        start_s : float
            Start of the exposure; not before the stage's last command.
        exposure_ms : float
            Length of the exposure.
        power : float
            Excitation, as a fraction of full power.

        Returns
        -------
        counts : ndarray of uint16, shape (height, width)
        truth : mapping
            ``defocus_um``, ``focus_z_um`` and ``stage_um`` (where the sample really was) in the middle of the exposure,
            and ``brightness`` (what bleaching had left, 0..1).

        Raises
        ------
        UsageError
            If the exposure or the power is negative or not finite, or the time goes back.
        """
        image = self.photons(start_s, exposure_ms, power)
        brightness = self.bleaching.expose(exposure_ms, power)
        if brightness < 1.0:
            image *= np.float32(brightness)
        middle_s = start_s + exposure_ms / 2000.0
        focus_um, stage_um = self.focus_z_um(middle_s), self.stage.sample_um(middle_s)
        truth = {
            "defocus_um": stage_um - focus_um,
            "focus_z_um": focus_um,
            "stage_um": stage_um,
            "brightness": brightness,
        }
        return self._camera.expose(image, exposure_ms), truth

    def _look_at(self, start_s: float, exposure_s: float) -> list[float]:
        """Return the times whose defocus stands for the exposure."""
        moved = abs(self.defocus_um(start_s + exposure_s) - self.defocus_um(start_s))
        count = _SUB_EXPOSURES if moved > _STILL_DOF * self.parameters.optics.depth_of_field_um else 1
        return [start_s + exposure_s * (part + 0.5) / count for part in range(count)]


def _specimen(parameters: WidefieldParameters, seed: int) -> tuple[FloatImage, str]:
    """Make the specimen, and say how it goes on beyond the field: procedural ones tile, images are mirrored."""
    if isinstance(parameters.specimen, str):
        drawn = make_specimen(
            parameters.specimen,
            parameters.shape,
            pixel_um=parameters.optics.pixel_um,
            seed=seed,
            density=parameters.density,
        )
        return drawn, "periodic"
    return specimen_from_image(parameters.specimen, parameters.shape), "mirror"


def _check_light(exposure_ms: float, power: float) -> None:
    if not (math.isfinite(exposure_ms) and exposure_ms > 0):
        raise UsageError(f"widefield: exposure_ms must be a positive number (got {exposure_ms!r})")
    if not (math.isfinite(power) and power >= 0):
        raise UsageError(f"widefield: power must be zero or more (got {power!r})")
