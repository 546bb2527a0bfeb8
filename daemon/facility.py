"""The facility's file: limits set by whoever owns the microscope, which a user's configuration can only narrow."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parfocal.daemon.config_lines import ConfigError, KeyPath, Source, read_source
from parfocal.daemon.config_models import FacilityConfig, Limit, LimitsSection

if TYPE_CHECKING:
    from parfocal.daemon.config import Config

FACILITY_VARIABLE = "PARFOCAL_FACILITY"
FACILITY_FILE = Path("/etc/parfocal/facility.yaml")


def facility_source() -> Source | None:
    """Read the facility's file, if this machine has one; one that is named but missing is an error.

    The variable is for machines without the file: where there is one, a user's environment does not replace it.
    """
    named = os.environ.get(FACILITY_VARIABLE)
    if _is_there(FACILITY_FILE):
        if named and not _same(FACILITY_FILE, Path(named)):
            raise ConfigError(
                f"{named}: {FACILITY_VARIABLE} cannot replace this machine's own {FACILITY_FILE}: unset it"
            )
        try:
            return read_source(FACILITY_FILE)
        except ConfigError as error:
            raise ConfigError(f"this machine's limits cannot be read, and nothing starts without: {error}") from None
    if not named:
        return None
    if not Path(named).exists():
        raise ConfigError(f"{named}: there is no such facility file, but {FACILITY_VARIABLE} names it")
    return read_source(Path(named))


def _is_there(path: Path) -> bool:
    """Whether there is anything of this name; a link that leads nowhere, or a folder nobody may read, is not nothing.

    Who owns the microscope put it there: limits must not vanish because a disk is not mounted.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise ConfigError(f"{path}: this machine's limits cannot be read ({error.strerror})") from None
    return True


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _properties(config: Config) -> dict[str, tuple[str, str]]:
    """Return device and property of every parameter that a configuration adds."""
    given = config.microscope.properties
    return {
        name: (str(one.get("device")), str(one.get("property"))) for name, one in given.items() if isinstance(one, dict)
    }


def opening_problems(config: Config) -> list[str]:
    """Hold against the limits what a driver sets when it opens the microscope: the guard never sees it."""
    microscope, found = config.microscope, []
    exposure_ms = microscope.exposure_ms
    if exposure_ms is not None and (range_ := _outside(config, "exposure_ms", exposure_ms)):
        here = config.where("microscope", "exposure_ms")
        found.append(f"{here}: is outside limits.exposure_ms {range_} (got {exposure_ms:g})")
    names = {place: name for name, place in _properties(config).items()}
    for number, row in enumerate(microscope.initial_properties):
        name = names.get((str(row[0]), str(row[1]))) if len(row) == 3 else None
        if name is None:
            continue
        here = config.where("microscope", "initial_properties", number)
        try:
            value = float(row[2])
        except (TypeError, ValueError):
            value = math.nan
        if range_ := _outside(config, name, value):
            found.append(f"{here}: is outside limits.{name} {range_} (got {row[2]})")
    return found


def _outside(config: Config, name: str, value: float) -> str:
    """Return the range that a value is outside of; empty: it is inside, or there is none."""
    limit = config.limits.parameters.get(name)
    if limit is None or (limit.lower is None and limit.upper is None):
        return ""
    lower = limit.lower if limit.lower is not None else -math.inf
    upper = limit.upper if limit.upper is not None else math.inf
    return "" if lower <= value <= upper else f"{lower:g}..{upper:g}"


class Narrowing:
    """Facility limits applied to a configuration: fills what it left open, reports whatever it would widen.

    The packaged example is nobody's wish, so its own values are narrowed where needed; a user's are never changed.
    """

    def __init__(self, config: Config, source: Source, facility: FacilityConfig) -> None:
        self._config = config
        self._source = source
        self._facility = facility.limits
        self.problems: list[str] = []

    def limits(self) -> LimitsSection:
        """Return the limits that hold."""
        mine = self._config.limits
        merged: dict[str, Any] = dict(mine.parameters)
        self._one_name_each()
        for name, limit in self._facility.parameters.items():
            merged[name] = self._limit(name, mine.parameters.get(name, Limit()), limit)
        dose = mine.dose
        if self._facility.dose is not None:
            budget = self._bound(("dose", "budget"), dose.budget if dose else None, self._facility.dose.budget)
            if dose is not None and dose.unit and dose.unit != self._facility.dose.unit:
                self._complain(("dose", "unit"), f"must be the facility's {self._facility.dose.unit!r}", dose.unit)
            dose = self._facility.dose.model_copy(update={"budget": budget})
        lease = mine.beam_lease_s
        if "beam_lease_s" in self._facility.model_fields_set:
            given = lease if "beam_lease_s" in mine.model_fields_set else None
            lease = self._bound(("beam_lease_s",), given, self._facility.beam_lease_s) or lease
        return LimitsSection(dose=dose, beam_lease_s=lease, **merged)

    def _one_name_each(self) -> None:
        """Refuse a second name for what the facility limits: under it there would be no limit."""
        mine = _properties(self._config)
        for name in self._facility.parameters:
            for other, place in mine.items():
                if other != name and place == mine.get(name) and other not in self._facility.parameters:
                    here = self._config.where("microscope", "properties", other)
                    there = self._source.locate(("limits", name))
                    self.problems.append(
                        f"{here}: is {' '.join(place)}, which {there} limits as {name}: it can have that name only"
                    )

    def _limit(self, name: str, mine: Limit, facility: Limit) -> Limit:
        merged = {
            key: self._bound((name, key), getattr(mine, key), getattr(facility, key)) for key in Limit.model_fields
        }
        lower, upper = merged["lower"], merged["upper"]
        if lower is not None and upper is not None and lower >= upper:
            self._complain((name,), "leaves nothing of the facility's range", f"{lower:g}..{upper:g}")
            return mine
        return Limit(**merged)

    def _bound(self, path: KeyPath, mine: float | None, facility: float | None) -> float | None:
        if mine is None or facility is None:
            return facility if mine is None else mine
        wider = mine < facility if path[-1] == "lower" else mine > facility
        if not wider:
            return mine
        if not self._config.from_example("limits", *path):
            self._complain(path, f"is wider than the facility's {facility:g}", f"{mine:g}")
        return facility

    def _complain(self, path: KeyPath, text: str, got: object) -> None:
        there = self._source.locate(("limits", *path))
        here = self._config.where("limits", *path)
        self.problems.append(f"{here}: {text} at {there}, which a configuration can only narrow (got {got})")
