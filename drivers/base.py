"""The hardware seam: what a frame, a parameter and a microscope are, and the errors hardware can raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from parfocal import ParfocalError
from parfocal.simulator.clock import Clock

ParameterKind = Literal["position", "beam", "timing"]


class HardwareError(ParfocalError):
    """The microscope did not do what it was asked; the message names the device and what to look at."""

    exit_code = 4


class DeviceNotFoundError(HardwareError):
    """A device, adapter or recording that the configuration names is not there."""


class DeviceTimeoutError(HardwareError):
    """A device did not answer, or stayed busy, past its own deadline."""


class StageError(HardwareError):
    """A stage refused a move, did not arrive, or its read-back disagrees with the command."""


class CameraError(HardwareError):
    """A camera stopped, returned no frame, or one of the wrong shape or type."""


class ParameterError(HardwareError):
    """A parameter is unknown to this microscope, or the value is not finite or outside the device's own range."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A named, bounded, controllable quantity of the microscope.

    Parameters
    ----------
    name : str
        For example ``z_um``; the unit is part of the name.
    unit : str
        ``um``, ``ms``, ``uW``...
    lower, upper : float
        What the device itself accepts; the guard's limits can only be narrower.
    kind : {"position", "beam", "timing"}
        What a change of it can harm.
    settle_ms : float
        How long after the device reports arrival a frame must not begin.
    """

    name: str
    unit: str
    lower: float
    upper: float
    kind: ParameterKind = "position"
    settle_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One camera image with what was true while it was exposed.

    Parameters
    ----------
    pixels : ndarray, shape (height, width)
        Raw counts, as the camera gave them (uint8, uint16 or float32). Not to be written to.
    index : int
        Counts up from 0 within one opened microscope; gaps mean frames lost by the camera.
    settings : mapping
        All parameters as read back for this exposure (``z_um`` is where the stage *was*).
    start_s, end_s : float
        Start and end of the exposure on the microscope's own `clock`.
    pixel_um : float
        Size of a pixel at the sample.
    saturation_counts : float
        The count at which this camera clips.
    metadata : mapping
        Anything else the driver knows (image number, elapsed time, file, plane).
    simulated : bool
        True if no photon was involved.
    truth : mapping
        Simulated frames only: ``defocus_um`` (z of the stage minus z of the focus), ``focus_z_um``.
    """

    pixels: NDArray[Any]
    index: int
    settings: Mapping[str, float]
    start_s: float
    end_s: float
    pixel_um: float
    saturation_counts: float = 65535.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    simulated: bool = False
    truth: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Microscope(Protocol):
    """What parfocal needs of a microscope. One thread owns it: every method is called from that thread only."""

    name: str
    simulated: bool
    clock: Clock

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Everything controllable, by name."""
        ...

    def open(self) -> None:
        """Connect; raises `HardwareError`. Beams are off afterwards until told otherwise."""
        ...

    def snap(self) -> Frame:
        """Expose one frame; raises `CameraError` or `DeviceTimeoutError`."""
        ...

    def frames(self) -> Iterator[Frame]:
        """Acquire continuously; the acquisition ends when the iterator is closed."""
        ...

    def read(self) -> dict[str, float]:
        """All parameters as the devices report them now."""
        ...

    def set(self, name: str, value: float) -> float:
        """Command one parameter, block until it has settled, return the read-back.

        Raises
        ------
        ParameterError
            Unknown name, not finite, or outside the device's range: refused, never clipped.
        StageError, DeviceTimeoutError
            The device did not arrive.
        """
        ...

    def make_safe(self) -> None:
        """Beams off, shutter closed, stage stopped. Idempotent; logs and never raises past itself."""
        ...

    def close(self) -> None:
        """Make safe, then release the devices. Idempotent."""
        ...


def check_value(parameters: Mapping[str, Parameter], name: str, value: float) -> float:
    """Refuse what no device should ever be sent; return the value as a float.

    Raises
    ------
    ParameterError
        Unknown parameter, NaN or infinite, or outside the device's own range.
    """
    if name not in parameters:
        raise ParameterError(f"unknown parameter {name!r}: this microscope has {', '.join(sorted(parameters))}")
    number = float(value)
    if not np.isfinite(number):
        raise ParameterError(f"{name}: {value!r} is not a finite number")
    parameter = parameters[name]
    if not parameter.lower <= number <= parameter.upper:
        raise ParameterError(
            f"{name}: {number:g} {parameter.unit} is outside the device's range "
            f"{parameter.lower:g}..{parameter.upper:g} {parameter.unit}"
        )
    return number
