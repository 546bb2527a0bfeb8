"""What a configuration may say to the simulated driver, and the simulator's parameters made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from parfocal import UsageError, did_you_mean
from parfocal.drivers.base import DeviceNotFoundError
from parfocal.drivers.options import DriverOptionError, parse_options
from parfocal.simulator.bleaching import BleachingParameters
from parfocal.simulator.camera import CameraParameters
from parfocal.simulator.drift import DriftParameters
from parfocal.simulator.optics import Optics
from parfocal.simulator.specimens import SPECIMENS
from parfocal.simulator.stage import StageParameters
from parfocal.simulator.widefield import WidefieldParameters

# Keys of the section that concern the loop or other drivers; a configuration may keep them when it changes the driver.
SHARED_KEYS = (
    "driver",
    "system_config",
    "path",
    "timeout_ms",
    "timeouts_ms",
    "tolerances",
    "frozen_after",
    "properties",
    "initial_properties",
)
CAMERA_PIXEL_UM = 6.5  # of the camera itself, when only the magnification is known

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
_Made = TypeVar("_Made")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ObjectiveOptions(_Options):
    """The objective."""

    na: Positive = 0.75
    immersion_index: Positive = 1.0
    magnification: Positive = 20.0


class DriftOptions(_Options):
    """See `parfocal.simulator.drift.DriftParameters`."""

    rate_um_per_min: float = 0.0
    random_walk_um_per_sqrt_min: NotNegative = 0.0
    thermal_um: float = 0.0
    thermal_tau_min: Positive = 20.0


class StageOptions(_Options):
    """See `parfocal.simulator.stage.StageParameters`."""

    lower_um: float = -100.0
    upper_um: float = 100.0
    speed_um_per_s: Positive = 1000.0
    settle_ms: NotNegative = 20.0
    backlash_um: NotNegative = 0.0
    quantum_um: NotNegative = 0.01


class CameraOptions(_Options):
    """See `parfocal.simulator.camera.CameraParameters`; `readout_ms` passes after each exposure."""

    quantum_efficiency: Annotated[float, Field(ge=0, le=1)] = 0.8
    gain_counts_per_electron: Positive = 2.0
    offset_counts: NotNegative = 100.0
    read_noise_electrons: NotNegative = 1.4
    read_noise_spread: NotNegative = 0.25
    dark_electrons_per_s: NotNegative = 0.5
    hot_pixel_fraction: Annotated[float, Field(ge=0, le=1)] = 1e-4
    hot_electrons_per_s: NotNegative = 1000.0
    vignetting: Annotated[float, Field(ge=0, le=1)] = 0.1
    full_well_electrons: Positive = 40000.0
    bit_depth: Annotated[int, Field(ge=8, le=16)] = 16
    readout_ms: NotNegative = 5.0


class BleachingOptions(_Options):
    """See `parfocal.simulator.bleaching.BleachingParameters`; without `dose_ms` nothing bleaches."""

    dose_ms: Positive | None = None
    fast_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0
    fast_dose_ms: Positive | None = None


class AberrationOptions(_Options):
    """Gibson-Lanni depth in a mounting medium, and Zernike terms such as ``{"4,0": 0.05}`` in rms waves."""

    depth_um: NotNegative = 0.0
    sample_index: Positive = 1.33
    zernike_waves: dict[Annotated[str, Field(pattern=r"^\d+, ?-?\d+$")], float] = Field(default_factory=dict)


class SimulationOptions(_Options):
    """The `microscope.simulation` section.

    Parameters
    ----------
    specimen : str
        Name of a procedural specimen, or path of a two-dimensional TIFF image.
    density : float
        Of a procedural specimen; 1 is a usual field.
    size_px : int
        Side of the square frame.
    photons, background_photons : float
        Expected on the brightest pixel in focus, and on every pixel beside that, at the configured exposure and full
        power.
    focus_um : float or "random"
        Stage position of the focus at the start; ``random`` draws it from the seed within ± `focus_range_um`.
    start_um : float
        Where the stage stands at first.
    auto_beam : bool
        True: the lamp is at `excitation_power` once opened, and its shutter opens for the exposures only. False: the
        lamp stays at 0 until it is set.
    excitation_power : float
        Fraction of full power, 0..1.
    """

    specimen: str = "nuclei"
    density: NotNegative = 1.0
    size_px: Annotated[int, Field(ge=32, le=4096)] = 512
    photons: NotNegative = 1000.0
    background_photons: NotNegative = 10.0
    focus_um: float | Literal["random"] = 0.0
    focus_range_um: NotNegative = 20.0
    start_um: float = 0.0
    auto_beam: bool = True
    excitation_power: Annotated[float, Field(ge=0, le=1)] = 1.0
    drift: DriftOptions = DriftOptions()
    stage: StageOptions = StageOptions()
    camera: CameraOptions = CameraOptions()
    bleaching: BleachingOptions = BleachingOptions()
    aberration: AberrationOptions = AberrationOptions()


class SimulatedOptions(_Options):
    """The `microscope` section as the simulated driver sees it."""

    objective: ObjectiveOptions = ObjectiveOptions()
    emission_nm: Annotated[float, Field(ge=200, le=2000)] = 520.0
    pixel_um: Positive | None = None
    exposure_ms: Annotated[float, Field(ge=0.1, le=10_000)] = 10.0
    interval_ms: NotNegative = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    simulation: SimulationOptions = SimulationOptions()


def parse(options: Mapping[str, Any]) -> SimulatedOptions:
    """Check the `microscope` section.

    Raises
    ------
    DriverOptionError
        An unknown key or specimen, or a value that cannot be used.
    """
    # A configuration always has `options`, the free section of plug-in drivers; only an empty one can be passed over.
    ignore = SHARED_KEYS if options.get("options") else (*SHARED_KEYS, "options")
    parsed = parse_options(SimulatedOptions, options, ignore=ignore)
    specimen = parsed.simulation.specimen
    if specimen not in SPECIMENS and not _is_path(specimen):
        raise DriverOptionError(
            [
                f"microscope.simulation.specimen: there is no specimen {specimen!r} (nor is it a path to an image)"
                f"{did_you_mean(specimen, SPECIMENS)}; there are {', '.join(SPECIMENS)}"
            ]
        )
    return parsed


def simulator_parameters(options: SimulatedOptions) -> WidefieldParameters:
    """Make the simulator's parameters; reads the specimen's image if one is named.

    Raises
    ------
    DriverOptionError
        Values that do not go together, such as an NA above the immersion index.
    DeviceNotFoundError
        The specimen's image is not there or cannot be read.
    """
    simulation = options.simulation
    optics = _made("microscope.objective", lambda: _optics(options))
    place = "microscope.simulation"
    camera = simulation.camera.model_dump(exclude={"readout_ms"})
    stage: StageParameters = _made(f"{place}.stage", lambda: StageParameters(**simulation.stage.model_dump()))
    if not stage.lower_um <= simulation.start_um <= stage.upper_um:
        travel = f"{stage.lower_um:g}..{stage.upper_um:g} um"
        raise DriverOptionError(
            [f"{place}.start_um: must lie within the stage's {travel} (got {simulation.start_um:g})"]
        )
    return WidefieldParameters(
        optics=optics,
        specimen=simulation.specimen if simulation.specimen in SPECIMENS else _read_image(Path(simulation.specimen)),
        density=simulation.density,
        shape=(simulation.size_px, simulation.size_px),
        photons=simulation.photons,
        background_photons=simulation.background_photons,
        nominal_exposure_ms=options.exposure_ms,
        focus_um=_focus_um(options),
        start_um=simulation.start_um,
        camera=_made(f"{place}.camera", lambda: CameraParameters(**camera)),
        stage=stage,
        drift=_made(f"{place}.drift", lambda: DriftParameters(**simulation.drift.model_dump())),
        bleaching=_made(f"{place}.bleaching", lambda: BleachingParameters(**simulation.bleaching.model_dump())),
        seed=options.seed,
    )


def _optics(options: SimulatedOptions) -> Optics:
    objective = options.objective
    return Optics.from_options(
        {
            **objective.model_dump(),
            **options.simulation.aberration.model_dump(),
            "emission_um": options.emission_nm / 1000.0,
            "pixel_um": options.pixel_um or CAMERA_PIXEL_UM / objective.magnification,
        }
    )


def _made(place: str, make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except (UsageError, ValueError) as error:
        raise DriverOptionError([f"{place}: {error}"]) from error


def _focus_um(options: SimulatedOptions) -> float:
    simulation = options.simulation
    if simulation.focus_um != "random":
        return float(simulation.focus_um)
    # A stream of its own, so that the focus tells nothing of the specimen.
    generator = np.random.default_rng([options.seed, 0xF0C5])
    return float(generator.uniform(-simulation.focus_range_um, simulation.focus_range_um))


def _is_path(specimen: str) -> bool:
    return "/" in specimen or "\\" in specimen or Path(specimen).suffix.lower() in (".tif", ".tiff")


def _read_image(path: Path) -> NDArray[Any]:
    import tifffile

    key = "microscope.simulation.specimen"
    try:
        image = np.asarray(tifffile.imread(path))
    except FileNotFoundError:
        raise DeviceNotFoundError(f"{key}: there is no file {path}") from None
    except (OSError, ValueError, IndexError) as error:  # tifffile's own error is a ValueError
        raise DeviceNotFoundError(f"{key}: {path} cannot be read as a TIFF image: {error}") from error
    if image.ndim != 2 or image.dtype.kind not in "uif":
        raise DriverOptionError([f"{key}: {path} must hold one grey image (got {image.dtype} of shape {image.shape})"])
    return image
