"""What a STED policy is told of the configuration: where trials may be made, in which steps, with how much light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from parfocal.daemon.config import ConfigError

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.drivers.base import Frame

SUPERVISED = "sted.supervised"
BEAMS = ("excitation_power", "depletion_power", "dwell_us", "line_steps")
POSITIONS = ("x_um", "y_um")
NOT_KNOWN = 65535.0
"""Counts at which a frame saturates whose driver does not say."""


def sted_options(config: Config, dof_um: float | None = None) -> dict[str, Any]:
    """Return the policy's options: the user's, and from limits and dose budget what the user did not say.

    Of ``sted.supervised`` these are the options of both policies that it composes.

    Raises
    ------
    ConfigError
        The user's bounds are wider than the limits: every trial out there would be refused by the guard.
    """
    given = config.policy.options
    if config.policy.name != SUPERVISED:
        return _tuning(config, given, ("policy",))
    focusing: dict[str, Any] = {}
    limit = config.limits.parameters.get("z_um")
    if limit is not None:
        bounds = {"lower_um": limit.lower, "upper_um": limit.upper, "max_step_um": limit.max_step}
        focusing = {name: value for name, value in bounds.items() if value is not None}
    if dof_um is not None:
        focusing["dof_um"] = dof_um
    both = {"sted": _tuning(config, _mapping(given.get("sted")), ("policy", "sted"))}
    both["focusing"] = focusing | _mapping(given.get("focusing"))
    return {**given, **both}


def within_detector(config: Config, options: dict[str, Any], frame: Frame) -> dict[str, Any]:
    """Return the options with a rate at which this detector still counts, where the user named none.

    A frame says at which count its detector misses as many photons as it counts, which for a slow one is well below
    what a policy allows by itself, and no pixel of the image shows it: counts only grow ever more slowly. A driver that
    does not know leaves the largest number that 16 bits hold; then the policy's own limit stays.
    """
    from parfocal.policies.sted.options import StedOptions
    from parfocal.policies.sted.space import pixel_us_of

    own = StedOptions.model_fields["max_rate_mhz"].default
    rate_mhz = frame.saturation_counts / max(pixel_us_of(frame.settings), 1e-9)
    if frame.saturation_counts >= NOT_KNOWN or rate_mhz >= own:
        return options
    tuning = _mapping(options.get("sted")) if config.policy.name == SUPERVISED else options
    if "max_rate_mhz" in tuning:
        return options
    tuning = {**tuning, "max_rate_mhz": rate_mhz}
    return {**options, "sted": tuning} if config.policy.name == SUPERVISED else tuning


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _tuning(config: Config, given: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    limits = config.limits.parameters
    known = {
        name: [limit.lower, limit.upper]
        for name, limit in limits.items()
        if name in (*BEAMS, *POSITIONS) and limit.lower is not None and limit.upper is not None
    }
    own = _mapping(given.get("bounds"))
    _check_within(config, known, own, path)
    options: dict[str, Any] = {"bounds": known | own} if known or own else {}
    steps = {n: limit.max_step for n, limit in limits.items() if limit.max_step is not None and n != "z_um"}
    if steps or "max_step" in given:
        options["max_step"] = steps | _mapping(given.get("max_step"))
    if config.limits.dose is not None:
        options["dose_budget"] = config.limits.dose.budget
    return {**given, **{k: v for k, v in options.items() if k in ("bounds", "max_step") or k not in given}}


def _check_within(config: Config, known: Mapping[str, Any], own: Mapping[str, Any], path: tuple[str, ...]) -> None:
    for name, pair in own.items():
        if name not in known or not isinstance(pair, list) or len(pair) != 2:
            continue  # the policy says what is wrong with its shape
        (lower, upper), (low, high) = pair, known[name]
        if lower < low or upper > high:
            raise ConfigError(
                f"{config.where(*path, 'bounds', name)}: {lower:g}..{upper:g} is wider than limits.{name} "
                f"({low:g}..{high:g}): the guard would refuse what lies outside"
            )
