"""Validation errors in the words of a person: file, line, key, what is wrong, the value, the nearest valid key."""

from __future__ import annotations

from typing import TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from parfocal import did_you_mean
from parfocal.daemon.config_lines import ConfigError, KeyPath, Source, key_name
from parfocal.daemon.config_models import SECRETS, Limit, LimitsSection, Section

_Shape = TypeVar("_Shape", bound=Section)


def validate(shape: type[_Shape], source: Source) -> _Shape:
    """Check a parsed document against its shape; raises `ConfigError` with every problem of text and shape."""
    problems = problems_of(shape, source)
    if problems:
        raise ConfigError(problems)
    return shape.model_validate(source.data)


def problems_of(shape: type[Section], source: Source) -> list[str]:
    """Return every problem of text and shape."""
    try:
        shape.model_validate(source.data)
    except ValidationError as error:
        problems = dict.fromkeys(_problem(shape, source, details) for details in error.errors(include_url=False))
        # A value that could not be read is missing from the data: that its key lacks one is not a second problem.
        said = {problem.partition(": ")[0] for problem in source.problems}
        return source.problems + [problem for problem in problems if problem.partition(": ")[0] not in said]
    return list(source.problems)


def _problem(shape: type[BaseModel], source: Source, details: ErrorDetails) -> str:
    path: KeyPath = tuple(part for part in details["loc"] if part != "[key]")
    kind, got = details["type"], details["input"]
    place = f"{source.locate(path)} {key_name(path)}".rstrip()
    if kind == "extra_forbidden":
        return f"{place}: unknown key{_hint(str(path[-1]), shape, path[:-1])}"
    if kind == "missing":
        return f"{place}: required key is missing"
    text = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "string_pattern_mismatch" and path[:1] == ("limits",):
        return f"{place}: a parameter is named like z_um or excitation_power (got {got!r})"
    if (kind == "value_error" and isinstance(got, dict)) or path in SECRETS:
        return f"{place}: {text}"
    expected = details.get("ctx", {}).get("expected") if kind == "literal_error" else None
    words = str(expected).replace("'", "").replace(" or ", ", ").split(", ") if expected else ()
    return f"{place}: {text} (got {got!r}){did_you_mean(str(got), words)}"


def _hint(key: str, shape: type[BaseModel], path: KeyPath) -> str:
    """Suggest a sibling key that is nearly the same, else the place where this very key belongs."""
    keys = _all_keys(shape)
    near = did_you_mean(key, [str(found[-1]) for found in keys if found[:-1] == path])
    elsewhere = place_of(shape, (*path, key))
    return near or (f"; did you mean {elsewhere!r}?" if elsewhere else "")


def place_of(shape: type[BaseModel], path: KeyPath) -> str:
    """Return the key of this very name that stands elsewhere; empty if there is none, or a sibling is as good."""
    keys = _all_keys(shape)
    if did_you_mean(str(path[-1]), [str(found[-1]) for found in keys if found[:-1] == path[:-1]]):
        return ""
    return next((key_name(found) for found in keys if found[-1] == path[-1]), "")


def _all_keys(shape: type[BaseModel], path: KeyPath = ()) -> list[KeyPath]:
    keys: list[KeyPath] = []
    for name, info in shape.model_fields.items():
        keys.append((*path, name))
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                keys.extend(_all_keys(part, (*path, name)))
    if issubclass(shape, LimitsSection):  # any parameter may stand here; z_um is the one everybody has
        keys.append((*path, "z_um"))
        keys.extend(_all_keys(Limit, (*path, "z_um")))
    return keys
