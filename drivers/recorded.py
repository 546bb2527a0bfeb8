"""A focus stack on disk played as a microscope: the stage picks the plane, or the place between two."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import structlog
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from parfocal.drivers.base import CameraError, Frame, HardwareError, Parameter, ParameterError, check_value
from parfocal.drivers.options import parse_options
from parfocal.drivers.recorded_stack import Stack, load_stack
from parfocal.simulator.clock import Clock, RealClock

log = structlog.get_logger()

# Keys of the section that are somebody else's; a configuration may keep them when it changes the driver.
SHARED_KEYS = (
    *("driver", "objective", "emission_nm", "seed", "simulation", "interval_ms", "frozen_after"),
    *("system_config", "timeout_ms", "timeouts_ms", "tolerances", "properties", "initial_properties"),
)

Positive = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    """The driver's part of the `microscope` section; see `RecordedMicroscope`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    path: Annotated[Path, Field(strict=False)]
    interpolate: Literal["nearest", "linear"] = "nearest"
    pixel_um: Positive | None = None
    exposure_ms: Positive = 10.0
    saturation_counts: Positive | None = None
    z_start_um: float | None = None
    z_step_um: float | None = None
    z_csv: Annotated[Path | None, Field(strict=False)] = None
    channel: Annotated[int, Field(ge=0)] | None = None


def make_recorded(options: Mapping[str, Any], clock: Clock | None = None) -> RecordedMicroscope:
    """Make the driver from the configuration's `microscope` section; see `RecordedMicroscope`.

    Raises
    ------
    DriverOptionError
        An unknown option, or a value of the wrong type.
    """
    section = parse_options(_Section, options, ignore=SHARED_KEYS)
    return RecordedMicroscope(clock=clock, **{name: getattr(section, name) for name in _Section.model_fields})


class RecordedMicroscope:
    """Plays a stack; photons were involved once, so it is no simulation, and each frame's metadata says `recorded`.

    Parameters
    ----------
    path : Path
        A folder of TIFF or PNG planes, a TIFF, or an ``.ome.zarr``; see `recorded_stack.load_stack`.
    interpolate : {"nearest", "linear"}
        ``nearest``: the stage stands only where there is a plane, and reads back that z. ``linear``: it stands
        anywhere, and a frame between two planes is their weighted mean, which is smoother than a real one.
    pixel_um : float or None
        None: as the recording says.
    exposure_ms : float
        How long a frame takes; a recording cannot be exposed anew, so the parameter has this one value.
    saturation_counts : float or None
        None: the largest value of the pixel type (for a 12-bit camera stored in 16 bits, say 4095).
    z_start_um, z_step_um, z_csv, channel
        See `recorded_stack.load_stack`.
    clock : Clock or None
        None is real time.
    """

    name = "recorded"
    simulated = False

    def __init__(
        self,
        path: Path,
        *,
        interpolate: Literal["nearest", "linear"] = "nearest",
        pixel_um: float | None = None,
        exposure_ms: float = 10.0,
        saturation_counts: float | None = None,
        z_start_um: float | None = None,
        z_step_um: float | None = None,
        z_csv: Path | None = None,
        channel: int | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.clock: Clock = clock or RealClock()
        self._path = path
        self._interpolate = interpolate
        self._given_pixel_um = pixel_um
        self._exposure_ms = exposure_ms
        self._saturation = saturation_counts
        self._load: dict[str, Any] = {
            "z_start_um": z_start_um,
            "z_step_um": z_step_um,
            "z_csv": z_csv,
            "channel": channel,
        }
        self._stack: Stack | None = None
        self._parameters: dict[str, Parameter] = {}
        self._pixel_um = 0.0
        self._z_um = 0.0
        self._index = -1
        self._acquiring = False

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """`z_um` over the range of the stack, and `exposure_ms`, which cannot change; empty until opened."""
        return self._parameters

    def open(self) -> None:
        """Read the recording; the stage stands on its middle plane.

        Raises
        ------
        DeviceNotFoundError, CameraError
            There is no usable stack; the message names the file.
        ParameterError
            Nothing says how large a pixel is.
        """
        if self._stack is not None:
            raise HardwareError("the recording is open already")
        stack = load_stack(self._path, **self._load)
        pixel_um = self._given_pixel_um or stack.pixel_um
        if pixel_um is None or pixel_um <= 0:
            raise ParameterError(f"{self._path}: nothing says how large a pixel is: set microscope.pixel_um")
        if stack.pixel_um is not None and abs(stack.pixel_um - pixel_um) > 0.01 * pixel_um:
            log.warning("recorded.pixel_size_differs", configured_um=pixel_um, recorded_um=stack.pixel_um)
        if self._saturation is None:
            integer = np.issubdtype(stack.planes.dtype, np.integer)
            self._saturation = float(np.iinfo(stack.planes.dtype).max) if integer else math.inf
        self._stack, self._pixel_um, self._index = stack, pixel_um, -1
        self._z_um = float(stack.z_um[len(stack.z_um) // 2])
        self._parameters = {
            "z_um": Parameter("z_um", "um", float(stack.z_um[0]), float(stack.z_um[-1]), "position"),
            "exposure_ms": Parameter("exposure_ms", "ms", self._exposure_ms, self._exposure_ms, "timing"),
        }
        log.info("recorded.open", path=str(self._path), planes=len(stack.z_um), z_um=[*stack.z_um[[0, -1]].tolist()])

    def _opened(self, what: str) -> Stack:
        if self._stack is None:
            raise HardwareError(f"cannot {what}: the recording is not open")
        return self._stack

    def read(self) -> dict[str, float]:
        """Where the stage stands, and the exposure."""
        self._opened("read")
        return {"z_um": self._z_um, "exposure_ms": self._exposure_ms}

    def set(self, name: str, value: float) -> float:
        """Move the stage within the stack, at once; returns where it stands.

        Raises
        ------
        ParameterError
            Unknown, not finite, or outside the stack: there is no plane to show.
        """
        stack = self._opened(f"set {name}")
        number = check_value(self._parameters, name, value)
        if name == "exposure_ms":
            return number
        self._z_um = float(stack.z_um[_nearest(stack, number)]) if self._interpolate == "nearest" else number
        return self._z_um

    def snap(self) -> Frame:
        """Show the plane at which the stage stands.

        Raises
        ------
        CameraError
            A live acquisition is running.
        """
        stack = self._opened("snap")
        if self._acquiring:
            raise CameraError("cannot snap while an acquisition runs: close its iterator first")
        return self._expose(stack)

    def frames(self) -> Iterator[Frame]:
        """Show the plane at which the stage stands, over and over.

        Raises
        ------
        CameraError
            One is running already.
        """
        stack = self._opened("acquire")
        if self._acquiring:
            raise CameraError("an acquisition is running already: close its iterator first")
        return self._live(stack)

    def _live(self, stack: Stack) -> Iterator[Frame]:
        self._acquiring = True
        try:
            while self._stack is stack:
                yield self._expose(stack)
        finally:
            self._acquiring = False

    def _expose(self, stack: Stack) -> Frame:
        z_um = self._z_um
        pixels, plane, name = self._plane(stack, z_um)
        start_s = self.clock.now()
        self.clock.sleep(self._exposure_ms / 1000.0)
        self._index += 1
        truth = {}
        if stack.defocus_um is not None:
            defocus_um = float(np.interp(z_um, stack.z_um, stack.defocus_um))
            if math.isfinite(defocus_um):
                truth = {"defocus_um": defocus_um, "focus_z_um": z_um - defocus_um}
        return Frame(
            pixels=pixels,
            index=self._index,
            settings={"z_um": z_um, "exposure_ms": self._exposure_ms},
            start_s=start_s,
            end_s=self.clock.now(),
            pixel_um=self._pixel_um,
            saturation_counts=self._saturation or math.inf,
            metadata={"recorded": True, "path": str(self._path), "file": name, "plane": plane},
            truth=truth,
        )

    def _plane(self, stack: Stack, z_um: float) -> tuple[NDArray[Any], float, str]:
        """Pixels, plane number (with a fraction when interpolated) and the file nearest to it."""
        near = _nearest(stack, z_um)
        place = float(np.interp(z_um, stack.z_um, np.arange(len(stack.z_um))))
        below = min(int(place), len(stack.z_um) - 2) if len(stack.z_um) > 1 else 0
        fraction = place - below
        if self._interpolate == "nearest" or fraction in (0.0, 1.0):
            return stack.planes[near], float(near), stack.names[near]
        mixed = (1 - fraction) * stack.planes[below].astype(np.float32) + fraction * stack.planes[below + 1]
        if np.issubdtype(stack.planes.dtype, np.integer):
            mixed = np.rint(mixed)
        pixels = mixed.astype(stack.planes.dtype)
        pixels.flags.writeable = False
        return pixels, place, stack.names[near]

    def make_safe(self) -> None:
        """Do nothing: a recording has no light and no stage."""

    def close(self) -> None:
        """Let the planes go. Idempotent."""
        self._stack = None


def _nearest(stack: Stack, z_um: float) -> int:
    return int(np.argmin(np.abs(stack.z_um - z_um)))
