"""The hardware seam: one module an adapter, made by name through `make_microscope`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from parfocal import did_you_mean
from parfocal.drivers.base import DeviceNotFoundError, Microscope
from parfocal.simulator.clock import Clock

__all__ = ["BUILTIN", "ENTRY_POINTS", "driver_names", "make_microscope"]

ENTRY_POINTS = "parfocal.drivers"
BUILTIN: Mapping[str, str] = {
    "simulated": "parfocal.drivers.simulated:make_simulated",
    "simulated_sted": "parfocal.drivers.sted:make_sted",
    "micromanager": "parfocal.drivers.micromanager:make_micromanager",
    "recorded": "parfocal.drivers.recorded:make_recorded",
}
"""Name of each driver and the factory, imported only when asked for: ``(options, clock) -> Microscope``."""


def driver_names() -> tuple[str, ...]:
    """Names of all drivers, those of installed plug-ins included; imports none of them."""
    return tuple(sorted({*BUILTIN, *(point.name for point in _plugins())}))


def make_microscope(driver: str, options: Mapping[str, Any], *, clock: Clock | None = None) -> Microscope:
    """Make a microscope by the name of its driver; it is not opened yet.

    Parameters
    ----------
    driver : str
        A built-in name, or one that an installed package offers under the entry point group ``parfocal.drivers``.
        A built-in name cannot be taken over by a plug-in.
    options : mapping
        The configuration's `microscope` section as plain JSON.
    clock : Clock, optional
        None is the driver's own choice, real time.

    Raises
    ------
    DeviceNotFoundError
        There is no such driver, or it cannot be imported, or what it makes is no microscope.
    HardwareError
        The driver refuses the options.
    """
    microscope = _factory(driver)(options, clock)
    if not isinstance(microscope, Microscope):
        missing = [name for name in _protocol() if not hasattr(microscope, name)]
        raise DeviceNotFoundError(
            f"driver {driver!r} made a {type(microscope).__name__}, not a microscope: it lacks {', '.join(missing)}"
        )
    return microscope


def _factory(driver: str) -> Callable[[Mapping[str, Any], Clock | None], object]:
    if driver in BUILTIN:
        point = EntryPoint(driver, BUILTIN[driver], ENTRY_POINTS)
    else:
        found = [point for point in _plugins() if point.name == driver]
        if not found:
            raise DeviceNotFoundError(_unknown(driver))
        if len({point.value for point in found}) > 1:
            raise DeviceNotFoundError(
                f"driver {driver!r} is offered more than once: {', '.join(sorted(point.value for point in found))}; "
                "uninstall all but one"
            )
        point = found[0]
    return _load(driver, point)


def _load(driver: str, point: EntryPoint) -> Callable[[Mapping[str, Any], Clock | None], object]:
    try:
        factory: object = getattr(importlib.import_module(point.module), point.attr)
    except Exception as error:  # whatever a plug-in's import raises must become one clear message
        raise DeviceNotFoundError(
            f"driver {driver!r} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise DeviceNotFoundError(f"driver {driver!r}: {point.value} is not a factory of microscopes")
    return factory


def _plugins() -> list[EntryPoint]:
    return list(entry_points(group=ENTRY_POINTS))


def _unknown(driver: str) -> str:
    names = driver_names()
    return f"there is no driver {driver!r}{did_you_mean(driver, names)}; there are {', '.join(names)}"


def _protocol() -> list[str]:
    return [name for name in (*Microscope.__annotations__, *vars(Microscope)) if not name.startswith("_")]
