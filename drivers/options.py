"""Checking a driver's options against a pydantic model: every problem at once, by key, with the nearest valid key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from parfocal import did_you_mean
from parfocal.drivers.base import ParameterError

KeyPath = tuple[str | int, ...]
_Options = TypeVar("_Options", bound=BaseModel)


class DriverOptionError(ParameterError):
    """Options that a driver does not know, or values it cannot use; `problems` has one line each."""

    exit_code = 3

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def parse_options(
    shape: type[_Options], options: Mapping[str, Any], *, where: str = "microscope", ignore: Sequence[str] = ()
) -> _Options:
    """Check plain JSON options and give them types.

    Parameters
    ----------
    shape : type
        The pydantic model of the options.
    options : mapping
        As in the configuration. Keys whose value is None count as not given.
    where : str
        What the messages call the mapping.
    ignore : sequence of str
        Keys that may be there but concern somebody else.

    Raises
    ------
    DriverOptionError
        With a line for each problem: the key, what is wrong, the value, the nearest valid key.
    """
    given = {key: value for key, value in options.items() if value is not None and key not in ignore}
    try:
        return shape.model_validate(given)
    except ValidationError as error:
        raise DriverOptionError([_line(shape, where, details) for details in error.errors(include_url=False)]) from None


def _line(shape: type[BaseModel], where: str, details: ErrorDetails) -> str:
    path: KeyPath = details["loc"]
    key = ".".join([where, *(str(part) for part in path)])
    if details["type"] == "extra_forbidden":
        keys = _keys_at(shape, path[:-1])
        hint = did_you_mean(str(path[-1]), keys) or f"; it has {', '.join(keys)}" * bool(keys)
        return f"{key}: unknown key{hint}"
    if details["type"] == "missing":
        return f"{key}: required key is missing"
    text = details["msg"].removeprefix("Value error, ").removeprefix("Input ")
    return f"{key}: {text}" + ("" if isinstance(details["input"], dict) else f" (got {details['input']!r})")


def _keys_at(shape: type[BaseModel], path: KeyPath) -> list[str]:
    for part in path:
        info = shape.model_fields.get(str(part))
        kinds = (info.annotation, *get_args(info.annotation)) if info else ()
        inner = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        if not inner:
            return []
        shape = inner[0]
    return list(shape.model_fields)
