"""What remains of a configuration once its mistakes are taken out, so that the others are found in the same go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from parfocal import did_you_mean
from parfocal.daemon.config import Config, ConfigError, finished, read_config
from parfocal.daemon.config_lines import KeyPath, Source
from parfocal.daemon.config_problems import place_of, problems_of

ROUNDS = 6
"""How often mistakes are taken out; the second time shows those of a section as a whole."""
STAND_IN, NO_DRIVER = "simulated", "microscope.driver"
"""In place of a driver that cannot be read, and what says among the damages that it is one."""


@dataclass(frozen=True)
class Remains:
    """A configuration without its mistakes; None where nothing can be read of it.

    Parameters
    ----------
    config : Config or None
    problems : list of str
        The mistakes.
    damaged : frozenset of str
        The sections from which something is missing: what is found wrong with these may be no second mistake.
    """

    config: Config | None
    problems: list[str]
    damaged: frozenset[str] = frozenset()


def what_remains(path: Path | None, overrides: tuple[str, ...] = ()) -> Remains:
    """Load a configuration as `load_config` does, but go on without what is wrong with it."""
    try:
        source = read_config(path, overrides)
    except ConfigError as error:
        return Remains(None, list(error.problems))
    problems, damaged = problems_of(Config, source), set(source.damaged)
    for _ in range(ROUNDS):
        try:
            config = Config.model_validate(source.data)
        except ValidationError as error:
            for details in error.errors(include_url=False):
                damaged |= _take_out(source, tuple(details["loc"]), details["type"])
            continue
        try:
            config, more = finished(config.loaded_from(source, packaged=path is None))
        except ConfigError as error:  # of the facility's file
            return Remains(None, [*problems, *error.problems])
        return Remains(config, [*problems, *more], frozenset(damaged))
    return Remains(None, problems)


def _take_out(source: Source, location: KeyPath, kind: str) -> set[str]:
    """Take the key at fault out of the data; return the sections that are no longer what was meant."""
    path = tuple(part for part in location if part != "[key]")
    section = str(path[0]) if path else ""
    if kind == "missing":
        if path[:1] == ("microscope",):  # without a driver there would be no configuration at all
            inside = source.data.get("microscope")
            source.data["microscope"] = {**(inside if isinstance(inside, dict) else {}), "driver": STAND_IN}
            return {section, NO_DRIVER}
        _drop(source.data, path[:-1])
        return {section}
    _drop(source.data, path)
    damaged = {section} & set(Config.model_fields)
    return damaged | (_meant(path) if kind == "extra_forbidden" else set())


def _meant(path: KeyPath) -> set[str]:
    """Return the section to which an unknown key was probably to belong."""
    meant = place_of(Config, path).split(".")[0] or did_you_mean(str(path[0]), Config.model_fields)
    return {name for name in Config.model_fields if name == meant or repr(name) in meant}


def _drop(data: dict[str, Any], path: KeyPath) -> None:
    """Remove the deepest part of a path that is there; of a list all of it, for its places have a meaning."""
    holder: Any = data
    for part, after in zip(path, [*path[1:], None], strict=False):
        if not isinstance(holder, dict) or part not in holder:
            return
        if after is None or not isinstance(holder[part], dict) or after not in holder[part]:
            del holder[part]
            return
        holder = holder[part]
