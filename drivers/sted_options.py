"""What a configuration may say to the simulated STED microscope, and the simulator's parts made from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from parfocal import UsageError
from parfocal.drivers.options import DriverOptionError, parse_options
from parfocal.drivers.simulated_options import SHARED_KEYS, DriftOptions, ObjectiveOptions, StageOptions
from parfocal.simulator.drift import DriftParameters
from parfocal.simulator.stage import StageParameters
from parfocal.simulator.sted.canvas import StedCanvas
from parfocal.simulator.sted.dyes import Dye, make_dye, random_dye
from parfocal.simulator.sted.settings import StedOptics, from_mapping

NotNegative = Annotated[float, Field(ge=0)]
_Made = TypeVar("_Made")
_DRY_OBJECTIVE = ObjectiveOptions()  # what a configuration that names no objective hands to every driver


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class StedSimulationOptions(_Options):
    """The `microscope.simulation` section.

    Parameters
    ----------
    structure : str
        One of `parfocal.simulator.sted.STRUCTURES`.
    dye : str or mapping
        A name from `parfocal.simulator.sted.DYES`; ``random``, drawn from the seed; or a mapping with what differs from
        its ``base``, such as ``{base: robust, anti_stokes_m2: 1.0e-27}``.
    density : float
        How densely the structure is labelled; 1 is a good preparation.
    size_px : int
        Side of the square field, in pixels of `microscope.pixel_um`.
    fields : int
        How many fields there are along each side of the sample.
    optics : mapping
        What differs from `parfocal.simulator.sted.StedOptics`, such as ``{dead_time_ns: 30, background_cps: 2.0e+4}``.
        `microscope.objective`, if given, sets `na` and `immersion_index`.
    focus_um : float or "random"
        z of the focus at the start; ``random`` draws it from the seed within ± `focus_range_um`.
    start_um : float
        Where z stands at first.
    overhead_ms : float
        From the end of a scan until the next can begin.
    drift, stage
        Of the focus, and of z; see `parfocal.simulator.drift` and `parfocal.simulator.stage`.
    """

    structure: str = "actin_rings"
    dye: str | dict[str, Any] = "robust"
    density: Annotated[float, Field(ge=0, le=50)] = 1.0
    size_px: Annotated[int, Field(ge=16, le=1024)] = 128
    fields: Annotated[int, Field(ge=2, le=200)] = 32
    optics: dict[str, float] = Field(default_factory=dict)
    focus_um: float | Literal["random"] = 0.0
    focus_range_um: NotNegative = 1.0
    start_um: float = 0.0
    overhead_ms: NotNegative = 50.0
    drift: DriftOptions = DriftOptions()
    stage: StageOptions = StageOptions()


class StedOptions(_Options):
    """The `microscope` section as the simulated STED microscope sees it."""

    objective: ObjectiveOptions = _DRY_OBJECTIVE
    pixel_um: Annotated[float, Field(ge=0.005, le=0.1)] = 0.02
    interval_ms: NotNegative = 0.0
    seed: Annotated[int, Field(ge=0)] = 0
    simulation: StedSimulationOptions = StedSimulationOptions()


def parse_sted(options: Mapping[str, Any]) -> StedOptions:
    """Check the `microscope` section.

    Raises
    ------
    DriverOptionError
        An unknown key, or a value that cannot be used.
    """
    ignore = SHARED_KEYS if options.get("options") else (*SHARED_KEYS, "options")
    return parse_options(StedOptions, options, ignore=ignore)


def make_optics(options: StedOptions) -> StedOptics:
    """Return the instrument's optics.

    An objective that nobody named, the dry 20x one that a configuration has by default, is not taken over: it is not
    one for STED. Its magnification does not matter to a scanner.
    """

    def make() -> StedOptics:
        base = StedOptics()
        if options.objective != _DRY_OBJECTIVE:
            objective = {"na": options.objective.na, "immersion_index": options.objective.immersion_index}
            base = from_mapping("microscope.objective", StedOptics, objective, base)
        return from_mapping("optics", StedOptics, options.simulation.optics, base)

    return _made("microscope.simulation.optics", make)


def make_dye_of(options: StedOptions) -> Dye:
    """Return the dye that the options name, describe, or leave to chance."""
    given = options.simulation.dye
    if given == "random":
        return random_dye(np.random.default_rng([options.seed, 0xD7E]))
    return _made("microscope.simulation.dye", lambda: make_dye(given))


def make_canvas(options: StedOptions) -> StedCanvas:
    """Return the sample; nothing of it is drawn yet but one field, so that what cannot be drawn shows at once."""
    simulation = options.simulation

    def make() -> StedCanvas:
        canvas = StedCanvas(
            simulation.structure,
            (simulation.size_px, simulation.size_px),
            fields=simulation.fields,
            pixel_um=options.pixel_um,
            density=simulation.density,
            seed=options.seed,
            dye=make_dye_of(options),
            optics=make_optics(options),
        )
        canvas.sample(0.0, 0.0)
        return canvas

    return _made("microscope.simulation.structure", make)


def make_stage(options: StedOptions) -> StageParameters:
    """Return the parameters of z; `start_um` lies within its travel."""
    simulation = options.simulation
    stage = _made("microscope.simulation.stage", lambda: StageParameters(**simulation.stage.model_dump()))
    if not stage.lower_um <= simulation.start_um <= stage.upper_um:
        travel = f"{stage.lower_um:g}..{stage.upper_um:g} um"
        raise DriverOptionError(
            [f"microscope.simulation.start_um: must lie within the stage's {travel} (got {simulation.start_um:g})"]
        )
    return stage


def make_drift(options: StedOptions) -> DriftParameters:
    """Return how the focus drifts."""
    return _made("microscope.simulation.drift", lambda: DriftParameters(**options.simulation.drift.model_dump()))


def focus_um(options: StedOptions) -> float:
    """Where the focus lies at the start."""
    simulation = options.simulation
    if simulation.focus_um != "random":
        return float(simulation.focus_um)
    generator = np.random.default_rng([options.seed, 0xF0C5])
    return float(generator.uniform(-simulation.focus_range_um, simulation.focus_range_um))


def _made(place: str, make: Callable[[], _Made]) -> _Made:
    try:
        return make()
    except (UsageError, ValueError) as error:
        raise DriverOptionError([f"{place}: {error}"]) from error
