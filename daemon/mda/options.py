"""What `parfocal.attach` may be told, and the configuration that it makes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from parfocal import UsageError, did_you_mean
from parfocal.daemon.config import Config, load_config
from parfocal.daemon.config_lines import ConfigError, KeyPath, Source, parse_source
from parfocal.daemon.config_problems import validate
from parfocal.daemon.facility import Narrowing, facility_source

NAME = "parfocal.attach"
FOLLOW = "focus.follow"
SHORT: Mapping[str, KeyPath] = {
    "na": ("microscope", "objective", "na"),
    "immersion_index": ("microscope", "objective", "immersion_index"),
    "magnification": ("microscope", "objective", "magnification"),
    "emission_nm": ("microscope", "emission_nm"),
    "pixel_um": ("microscope", "pixel_um"),
    "drift_um_per_min": ("policy", "drift_um_per_min"),
    "range_um": ("policy", "range_um"),
    "session": ("session", "folder"),
    "process": ("scoring", "process"),
}
"""Options that stand for a key of the configuration."""


class AttachOptions(BaseModel):
    """How the seat behaves; what it is made from is the configuration's.

    Parameters
    ----------
    channels : str, list of str, or mapping of str to float, optional
        The channels that are looked at, and by how much the focus lies higher in each than the plan has it (um).
        By default the first channel of the sequence.
    planes : "all", "middle" or list of int
        The planes of a z-plan that are looked at.
    looks : "auto" or "never"
        Whether two extra frames beside the focus are taken, in the pause after an event, when the focus is not known
        well enough. A plan with a z-stack hardly ever needs them; without either there is nothing to tell the side.
    hardware_autofocus : "parfocal" or "device"
        Who serves useq's hardware-autofocus actions.
    skip_bad : bool
        Where the configuration's ``quality`` finds the frames of a position bad, its other channels and planes are
        skipped until a frame is good again.
    max_correction_um : float
        No correction is larger than this.
    autofocus_frames : int
        A search that has not ended after so many frames has failed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    channels: dict[str, float] | None = None
    planes: Literal["all", "middle"] | tuple[int, ...] = "all"
    looks: Literal["auto", "never"] = "auto"
    hardware_autofocus: Literal["parfocal", "device"] = "parfocal"
    skip_bad: bool = False
    max_correction_um: float = Field(default=20.0, gt=0)
    autofocus_frames: int = Field(default=40, ge=3)

    @field_validator("channels", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {value: 0.0}
        return dict.fromkeys(value, 0.0) if isinstance(value, (list, tuple)) else value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.channels == {} or self.planes == ():
            raise ValueError("channels and planes must name at least one: nothing would ever be looked at")
        return self


def split_options(given: Mapping[str, Any]) -> tuple[AttachOptions, dict[KeyPath, Any]]:
    """Part the options of the seat from those that stand for a key of the configuration.

    Raises
    ------
    UsageError
        One is unknown or has a value of no use; names the nearest that is known.
    """
    own = {key: value for key, value in given.items() if key not in SHORT}
    for key in own:
        if key not in AttachOptions.model_fields:
            known = [*AttachOptions.model_fields, *SHORT]
            hint = did_you_mean(key, known) or f"; there are {', '.join(known)}"
            raise UsageError(f"{NAME}: unknown option {key!r}{hint}")
    try:
        options = AttachOptions.model_validate(own)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"][:1])) or "options"
        raise UsageError(f"{NAME}: {where}: {first['msg'].removeprefix('Value error, ')}") from None
    return options, {SHORT[key]: value for key, value in given.items() if key in SHORT and value is not None}


def make_config(config: Config | Mapping[str, Any] | str | Path | None, short: Mapping[KeyPath, Any]) -> Config:
    """Make the configuration: a file's, a mapping's, or one of nothing but the options given.

    Raises
    ------
    ConfigError
        With every problem found.
    UsageError
        Options beside a finished `Config`, which cannot be changed any more.
    """
    if isinstance(config, Config):
        if short:
            names = ", ".join(".".join(map(str, path)) for path in short)
            raise UsageError(f"{NAME}: {names} cannot be changed in a finished Config: give a file or a mapping")
        return config
    if isinstance(config, (str, Path)):
        overrides = [f"{'.'.join(map(str, path))}={json.dumps(value, default=str)}" for path, value in short.items()]
        return load_config(Path(config), overrides)
    data: dict[str, Any] = {"microscope": {"driver": "micromanager"}, "session": {"record": "none"}}
    for name, keys in (config or {}).items():
        data[name] = {**data.get(name, {}), **keys} if isinstance(keys, Mapping) else keys
    data.setdefault("policy", {"name": FOLLOW})
    for path, value in short.items():
        section: dict[str, Any] = data
        for part in path[:-1]:
            section = section.setdefault(str(part), {})
        section[str(path[-1])] = str(value) if isinstance(value, Path) else value
    return _from_source(parse_source(yaml.safe_dump(data, sort_keys=False), NAME))


def _from_source(source: Source) -> Config:
    config = validate(Config, source).loaded_from(source, packaged=False)
    facility = facility_source()
    if facility is None:
        return config
    from parfocal.daemon.config_models import FacilityConfig

    narrowing = Narrowing(config, facility, validate(FacilityConfig, facility))
    limits = narrowing.limits()
    if narrowing.problems:
        raise ConfigError(narrowing.problems)
    return config.model_copy(update={"limits": limits})


def follow_options(config: Config, pixel_um: float | None) -> dict[str, Any]:
    """Return the options of ``focus.follow``: its own, or those of ``focus.belief`` turned into them.

    Raises
    ------
    ConfigError
        The configuration names another policy, or the depth of field cannot be known.
    """
    from parfocal.daemon.compose import depth_of_field_um, policy_options

    given = policy_options(config, pixel_um)
    name = config.policy.name
    if name not in (FOLLOW, "focus.belief"):
        where = config.where("policy", "name")
        raise ConfigError(f"{where}: inside an acquisition {FOLLOW} decides (or focus.belief, as it) (got {name!r})")
    if depth_of_field_um(config, pixel_um) is None:
        raise ConfigError(
            f"{config.where('microscope', 'objective')}: the optics are not known, so blur cannot be turned into um: "
            "give na and emission_nm, or policy.calibration"
        )
    if name == FOLLOW:
        return given
    shared = ("lower_um", "upper_um", "max_step_um", "dof_um", "seed", "response", "range_um", "model")
    options = {key: value for key, value in given.items() if key in shared}
    rest = {key: value for key, value in given.items() if key not in shared}
    if "drift_rate_um_per_min" in rest:
        options["drift_um_per_min"] = rest["drift_rate_um_per_min"]
    return options | {"search": rest}


def finite(value: float | None) -> bool:
    """Whether there is a number, and a finite one."""
    return value is not None and math.isfinite(value)
