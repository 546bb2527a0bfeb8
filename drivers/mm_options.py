"""What a configuration may say to the Micro-Manager driver, checked before any device is touched."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from parfocal.drivers.base import ParameterKind
from parfocal.drivers.options import DriverOptionError, parse_options

# Keys of the section that are somebody else's; a configuration may keep them when it changes the driver.
SHARED_KEYS = ("driver", "objective", "emission_nm", "seed", "path", "simulation", "interval_ms", "frozen_after")
OWN_PARAMETERS = ("z_um", "exposure_ms")

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Pair = Annotated[tuple[float, float], BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)]
Row = Annotated[
    tuple[str, str, str],
    BeforeValidator(lambda value: tuple(map(str, value)) if isinstance(value, (list, tuple)) else value),
]


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class PropertyOptions(_Options):
    """One device property exposed as a parameter, for example a laser's power.

    Parameters
    ----------
    device, property : str
        Micro-Manager's label of the device and name of the property.
    unit : str
        Unit of the value.
    lower, upper : float or None
        Limits; None takes the device's own, and it is an error if it has none.
    kind : {"position", "beam", "timing"}
        A ``beam`` is set to `lower` when the microscope is opened and when it is made safe.
    settle_ms : float
        Waited after the device reports that it is done.
    tolerance : float or None
        Largest difference of the read-back from the command; None is a thousandth of the range.
    """

    device: str
    property: str
    unit: str = ""
    lower: float | None = None
    upper: float | None = None
    kind: ParameterKind = "beam"
    settle_ms: NotNegative = 0.0
    tolerance: NotNegative | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(f"lower ({self.lower:g}) must be below upper ({self.upper:g})")
        return self


class _Section(_Options):
    """The driver's part of the `microscope` section; the fields are those of `MicroManagerOptions`."""

    system_config: str | None = None
    camera: str | None = None
    focus_device: str | None = None
    shutter: str | None = None
    pixel_um: Positive | None = None
    exposure_ms: Positive | None = None
    exposure_limits_ms: Pair = (0.001, 60_000.0)
    z_lower_um: float | None = None
    z_upper_um: float | None = None
    settle_ms: NotNegative = 0.0
    latency_ms: NotNegative | None = None
    timeout_ms: Positive = 5000.0
    timeouts_ms: dict[str, Positive] = Field(default_factory=dict)
    tolerances: dict[str, NotNegative] = Field(default_factory=dict)
    properties: dict[str, PropertyOptions] = Field(default_factory=dict)
    initial_properties: list[Row] = Field(default_factory=list)
    saturation_counts: Positive | None = None
    simulated: bool | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name, (lower, upper) in {
            "z_lower_um, z_upper_um": (self.z_lower_um, self.z_upper_um),
            "exposure_limits_ms": self.exposure_limits_ms,
        }.items():
            if lower is not None and upper is not None and lower >= upper:
                raise ValueError(f"{name}: the lower limit ({lower:g}) must be below the upper ({upper:g})")
        for name in set(OWN_PARAMETERS) & set(self.properties):
            raise ValueError(f"properties.{name}: that is the driver's own parameter; choose another name")
        return self


@dataclass(frozen=True, slots=True)
class MicroManagerOptions:
    """The driver's options.

    Parameters
    ----------
    core : object or None
        An existing ``CMMCorePlus`` to attach to.
    system_config : Path or None
        The ``.cfg`` to load into a core of our own; None when `core` is given.
    camera, focus_device, shutter : str or None
        Labels; None takes the core's current device. An empty `shutter` leaves every shutter alone.
    pixel_um : float or None
        Size of a pixel at the sample; None asks the core.
    exposure_ms : float or None
        Set when the microscope is opened; None keeps what the core has.
    exposure_limits_ms : (lower, upper)
        Used when the camera does not publish limits of its own.
    z_lower_um, z_upper_um : float
        Travel of the focus device. Micro-Manager does not know it, so without these it is unbounded here
        and the guard's limits are the only ones.
    settle_ms : float
        Waited after the stage has arrived.
    latency_ms : float or None
        Longest time between the end of an exposure and the frame's arrival in the core. None: one frame interval, the
        safe assumption for a camera that reads out while it exposes the next frame.
    timeout_ms, timeouts_ms
        Deadline of a device that `timeouts_ms` does not list, and of those it lists, by label.
    tolerances : mapping
        Largest difference between read-back and command, by parameter.
    properties : mapping
        Extra parameters, by name; the unit belongs into the name (``excitation_power_pct``).
    initial_properties : list of (device, property, value)
        Written after loading, each read back.
    saturation_counts : float or None
        None: from the camera's bit depth.
    simulated : bool or None
        None: recognised from the camera's adapter.
    """

    core: Any | None
    system_config: Path | None
    camera: str | None
    focus_device: str | None
    shutter: str | None
    pixel_um: float | None
    exposure_ms: float | None
    exposure_limits_ms: tuple[float, float]
    z_lower_um: float
    z_upper_um: float
    settle_ms: float
    latency_ms: float | None
    timeout_ms: float
    timeouts_ms: Mapping[str, float]
    tolerances: Mapping[str, float]
    properties: Mapping[str, PropertyOptions]
    initial_properties: list[tuple[str, str, str]]
    saturation_counts: float | None
    simulated: bool | None

    def deadline_s(self, device: str) -> float:
        """How long `device` may stay busy, in seconds."""
        return self.timeouts_ms.get(device, self.timeout_ms) / 1000.0


def parse(options: Mapping[str, Any], core: Any | None = None) -> MicroManagerOptions:
    """Check the plain mapping of a configuration and give it types.

    Raises
    ------
    DriverOptionError
        An unknown key, a value of the wrong type, or neither `system_config` nor `core`.
    """
    core = options.get("core") if core is None else core
    section = parse_options(_Section, options, ignore=(*SHARED_KEYS, "core"))
    if (core is None) == (section.system_config is None):
        raise DriverOptionError(
            ["microscope: the micromanager driver needs system_config (a Micro-Manager .cfg) or core, and not both"]
        )
    fields = {name: getattr(section, name) for name in _Section.model_fields}
    fields["system_config"] = None if section.system_config is None else Path(section.system_config)
    fields["z_lower_um"] = -math.inf if section.z_lower_um is None else section.z_lower_um
    fields["z_upper_um"] = math.inf if section.z_upper_um is None else section.z_upper_um
    return MicroManagerOptions(core=core, **fields)
