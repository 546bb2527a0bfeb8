"""What of limits and start settings a microscope does not have, as far as that is known without touching a device."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from parfocal import ParfocalError
from parfocal.daemon.config import Config, ConfigError
from parfocal.daemon.guard import resolve_limits
from parfocal.daemon.located import located
from parfocal.drivers.base import Microscope, Parameter
from parfocal.drivers.mm_options import OWN_PARAMETERS


@dataclass(frozen=True)
class Known:
    """The names of all parameters, and those whose range is known, too."""

    names: frozenset[str]
    ranged: Mapping[str, Parameter] = field(default_factory=dict)


def known_parameters(config: Config, microscope: Microscope) -> Known | None:
    """Return what can be known of a microscope that is not opened; None: nothing.

    A recording is no device: it is read, for what it lacks shows only then.

    Raises
    ------
    ConfigError
        The recording cannot be played.
    """
    driver = config.microscope.driver
    if driver == "recorded":
        try:
            microscope.open()
        except ParfocalError as error:
            raise located(config, "microscope", error) from error
        parameters = dict(microscope.parameters)
        microscope.close()
        return Known(frozenset(parameters), parameters)
    if driver == "micromanager":  # what its core and devices say of ranges shows only there
        section, inf = config.microscope, math.inf
        lower = -inf if section.z_lower_um is None else section.z_lower_um
        upper = inf if section.z_upper_um is None else section.z_upper_um
        z_um = Parameter("z_um", "um", lower, upper)
        return Known(frozenset({*OWN_PARAMETERS, *section.properties}), {"z_um": z_um})
    parameters = dict(microscope.parameters)
    return Known(frozenset(parameters), parameters) if parameters else None


def check_reach(config: Config, known: Known, *, ranges: bool = True) -> None:
    """Raise `ConfigError` for limits and start settings that the microscope cannot have.

    Parameters
    ----------
    config : Config
    known : Known
    ranges : bool
        Whether the ranges of `known` are to be believed, or its names only.
    """
    problems = _unknown_names(config, known)
    if ranges:
        limits = {name: limit for name, limit in config.limits.parameters.items() if name in known.ranged}
        resolved, said = resolve_limits(limits, known.ranged)
        for problem in said:
            key, _, text = problem.partition(": ")
            problems.append(f"{config.where(*key.split('.'))}: {text}")
        wrong = {problem.partition(": ")[0].split(".")[-1] for problem in said}
        for name in sorted(set(config.start) & set(known.ranged) - wrong):
            problems += _start_problem(config, known.ranged[name], commanded=name in resolved)
    if problems:
        raise ConfigError(problems)


def _unknown_names(config: Config, known: Known) -> list[str]:
    has = ", ".join(sorted(known.names))
    return [
        f"{config.where(section, name)}: this microscope has no such parameter (it has {has})"
        for section, names in (("limits", config.limits.parameters), ("start", config.start))
        for name in names
        if name not in known.names
    ]


def _start_problem(config: Config, parameter: Parameter, *, commanded: bool) -> list[str]:
    """Say why the guard will refuse a start setting; what lies outside the limits has been said already."""
    name, value = parameter.name, config.start[parameter.name]
    here, lower, upper = config.where("start", name), parameter.lower, parameter.upper
    if not lower <= value <= upper:
        device = f"{lower:g}..{upper:g} {parameter.unit}"
        return [f"{here}: is outside the device's range {device} (got {value:g})"]
    if commanded:
        return []
    if lower == upper:
        return [f"{here}: this microscope cannot change it (it is {lower:g} {parameter.unit}): leave it out"]
    return [f"{here}: the device names no range of its own: give limits.{name}, lower and upper"]
