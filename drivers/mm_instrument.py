"""The devices behind a Micro-Manager core as one instrument: roles, parameters, moves, light; each read back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from parfocal.drivers import mm_core
from parfocal.drivers.base import (
    CameraError,
    DeviceNotFoundError,
    HardwareError,
    Parameter,
    ParameterError,
    StageError,
)
from parfocal.drivers.mm_options import MicroManagerOptions, PropertyOptions
from parfocal.simulator.clock import Clock

log = structlog.get_logger()

# Adapters behind which there is no photon; a run on one of them says SIMULATED.
SIMULATING_ADAPTERS = ("DemoCamera", "SequenceTester", "parfocal.drivers.mmdevices")
Z_TOLERANCE_UM = 0.2
_STALL_S = 0.25


class Instrument:
    """Camera, focus drive, shutter and properties of one core.

    Parameters
    ----------
    core : CMMCorePlus
        With its devices loaded.
    options : MicroManagerOptions
        Labels, limits, deadlines, tolerances.
    clock : Clock
        For the deadlines.

    Raises
    ------
    DeviceNotFoundError
        A role has no device, or one of the wrong type.
    ParameterError
        No pixel size, or a property without limits.
    HardwareError
        An initial property does not take its value.
    """

    def __init__(self, core: Any, options: MicroManagerOptions, clock: Clock) -> None:
        self.core = core
        self.clock = clock
        self._options = options
        self.camera = self._role("camera", options.camera or core.getCameraDevice(), "CameraDevice")
        self.focus = self._role("focus_device", options.focus_device or core.getFocusDevice(), "StageDevice")
        shutter = core.getShutterDevice() if options.shutter is None else options.shutter
        self.shutter = self._role("shutter", shutter, "ShutterDevice") if shutter else ""
        if core.getCameraDevice() != self.camera:
            core.setCameraDevice(self.camera)
        for device, name, value in options.initial_properties:
            mm_core.write_property(core, device, name, value)
            mm_core.wait_for_device(core, device, options.deadline_s(device), clock)
        library = core.getDeviceLibrary(self.camera)
        self.simulated = library in SIMULATING_ADAPTERS if options.simulated is None else options.simulated
        self.pixel_um = self._find_pixel_um()
        self._properties: dict[str, PropertyOptions] = {}
        self.parameters: dict[str, Parameter] = self._make_parameters()
        self.saturation_counts = options.saturation_counts or float(2 ** int(core.getImageBitDepth()) - 1)

    def _role(self, key: str, label: str, kind: str) -> str:
        if not label:
            raise DeviceNotFoundError(f"no {key} in this microscope: set microscope.{key} to a device's label")
        loaded = [name for name in self.core.getLoadedDevices() if name != "Core"]
        if label not in loaded:
            raise DeviceNotFoundError(f"microscope.{key}: no device {label!r}; there are {', '.join(loaded) or 'none'}")
        if (got := self.core.getDeviceType(label).name) != kind:
            raise DeviceNotFoundError(f"microscope.{key}: device {label!r} is a {got}, not a {kind}")
        return label

    def _find_pixel_um(self) -> float:
        measured = float(self.core.getPixelSizeUm())
        pixel_um = self._options.pixel_um or measured
        if pixel_um <= 0:
            raise ParameterError("Micro-Manager knows no pixel size: calibrate it there, or set microscope.pixel_um")
        if measured > 0 and abs(measured - pixel_um) > 0.01 * pixel_um:
            log.warning("micromanager.pixel_size_differs", configured_um=pixel_um, core_um=measured)
        return pixel_um

    def _make_parameters(self) -> dict[str, Parameter]:
        options = self._options
        exposure = mm_core.property_limits(self.core, self.camera, "Exposure") or options.exposure_limits_ms
        made = [
            Parameter("z_um", "um", options.z_lower_um, options.z_upper_um, "position", options.settle_ms),
            Parameter("exposure_ms", "ms", exposure[0], exposure[1], "timing"),
        ]
        for name, given in options.properties.items():
            lower, upper = self._limits(name, given)
            mm_core.read_number(self.core, given.device, given.property)
            self._properties[name] = given
            made.append(Parameter(name, given.unit, lower, upper, given.kind, given.settle_ms))
        return {parameter.name: parameter for parameter in made}

    def _limits(self, name: str, given: PropertyOptions) -> tuple[float, float]:
        """Find the narrower of the configured and the device's own limits of a property."""
        mm_core.require_property(self.core, given.device, given.property)
        own = mm_core.property_limits(self.core, given.device, given.property)
        lowers = [x for x in (given.lower, own[0] if own else None) if x is not None]
        uppers = [x for x in (given.upper, own[1] if own else None) if x is not None]
        if not lowers or not uppers or max(lowers) >= min(uppers):
            raise ParameterError(
                f"microscope.properties.{name}: the limits of property {given.property!r} of device "
                f"{given.device!r} are {own or 'unknown'}; give lower and upper within them"
            )
        return max(lowers), min(uppers)

    # -- reading ------------------------------------------------------------------------------------------------

    def read(self) -> dict[str, float]:
        """All parameters as the devices report them now."""
        settings = {"z_um": self.read_z_um(), "exposure_ms": self.read_exposure_ms()}
        for name, given in self._properties.items():
            settings[name] = mm_core.read_number(self.core, given.device, given.property)
        return settings

    def read_z_um(self) -> float:
        """Read the position of the focus drive."""
        with mm_core.translated(f"reading the position of stage {self.focus!r}", StageError):
            return float(self.core.getPosition(self.focus))

    def read_exposure_ms(self) -> float:
        """Read the camera's exposure time."""
        with mm_core.translated(f"reading the exposure of camera {self.camera!r}", CameraError):
            return float(self.core.getExposure(self.camera))

    def deadline_s(self, device: str) -> float:
        """How long a device may stay busy."""
        return self._options.deadline_s(device)

    def tolerance(self, name: str) -> float:
        """Largest difference between read-back and command."""
        if name in self._options.tolerances:
            return self._options.tolerances[name]
        if name == "z_um":
            return Z_TOLERANCE_UM
        if name in self._properties:
            given = self._properties[name]
            parameter = self.parameters[name]
            return (parameter.upper - parameter.lower) / 1000 if given.tolerance is None else given.tolerance
        return 0.0

    # -- commanding ---------------------------------------------------------------------------------------------

    def concerns_camera(self, name: str) -> bool:
        """Whether setting this parameter talks to the camera, which must not be exposing then."""
        return name == "exposure_ms" or (name in self._properties and self._properties[name].device == self.camera)

    def set(self, name: str, value: float) -> float:
        """Command one parameter within its limits, wait, return the read-back; the caller has checked the value."""
        if name == "z_um":
            return self._move(value)
        if name == "exposure_ms":
            return self._set_exposure(value)
        return self._set_property(name, value)

    def _move(self, z_um: float) -> float:
        with mm_core.translated(f"moving stage {self.focus!r} to {z_um:g} um", StageError):
            self.core.setPosition(self.focus, z_um)
        deadline = self.clock.now() + self.deadline_s(self.focus)
        mm_core.wait_for_device(self.core, self.focus, self.deadline_s(self.focus), self.clock)
        got, changed = self.read_z_um(), self.clock.now()
        # Some controllers are done being busy before they are there: as long as it moves, we wait for it. Written so
        # that a NaN, which some stages accept and then report, counts as not there.
        while not abs(got - z_um) <= self.tolerance("z_um"):
            now = self.clock.now()
            if now >= deadline or now - changed > _STALL_S:
                raise StageError(
                    f"stage {self.focus!r} was sent to {z_um:g} um and reads {got:g} um; look for an obstacle, a limit "
                    "switch, or a joystick in use, or widen microscope.tolerances.z_um"
                )
            self.clock.sleep(0.005)
            if (new := self.read_z_um()) != got:
                got, changed = new, self.clock.now()
        return got

    def _set_exposure(self, exposure_ms: float) -> float:
        with mm_core.translated(f"setting the exposure of camera {self.camera!r} to {exposure_ms:g} ms", CameraError):
            self.core.setExposure(self.camera, exposure_ms)
        mm_core.wait_for_device(self.core, self.camera, self.deadline_s(self.camera), self.clock)
        got = self.read_exposure_ms()
        # Cameras count lines and pulses: a tenth, or half a millisecond, is their rounding and not a refusal.
        allowed = self.tolerance("exposure_ms") or max(0.5, 0.1 * exposure_ms)
        if not abs(got - exposure_ms) <= allowed:
            raise CameraError(
                f"camera {self.camera!r} was set to expose {exposure_ms:g} ms and reads {got:g} ms; is a frame rate or "
                "a trigger mode fixed?"
            )
        return got

    def _set_property(self, name: str, value: float) -> float:
        # Pitfall 9: never through MDAEvent.properties. There a write that fails is only a warning, and the frame is
        # taken at the old power.
        given = self._properties[name]
        what = f"{name}: property {given.property!r} of device {given.device!r}"
        with mm_core.translated(f"setting {what} to {value:g}", HardwareError):
            self.core.setProperty(given.device, given.property, value)
        mm_core.wait_for_device(self.core, given.device, self.deadline_s(given.device), self.clock)
        got = mm_core.read_number(self.core, given.device, given.property)
        if not abs(got - value) <= self.tolerance(name):
            raise HardwareError(f"{what} was set to {value:g} and reads {got:g}")
        return got

    def set_shutter(self, is_open: bool) -> None:
        """Open or close the shutter, if there is one, and read it back.

        Raises
        ------
        HardwareError
            It does not report the state it was sent to.
        """
        if not self.shutter:
            return
        word = "open" if is_open else "close"
        with mm_core.translated(f"telling shutter {self.shutter!r} to {word}", HardwareError):
            self.core.setShutterOpen(self.shutter, is_open)
        mm_core.wait_for_device(self.core, self.shutter, self.deadline_s(self.shutter), self.clock)
        with mm_core.translated(f"reading back shutter {self.shutter!r}", HardwareError):
            got = bool(self.core.getShutterOpen(self.shutter))
        if got is not is_open:
            state = "open" if got else "closed"
            raise HardwareError(
                f"shutter {self.shutter!r} was told to {word} and is {state}: look at it before going on"
            )

    def beams(self) -> Mapping[str, float]:
        """List the parameters that are light, with the lower limit of each."""
        return {p.name: p.lower for p in self.parameters.values() if p.kind == "beam"}

    def stop_stage(self) -> None:
        """Stop the focus drive where it is."""
        with mm_core.translated(f"stopping stage {self.focus!r}", StageError):
            self.core.stop(self.focus)
