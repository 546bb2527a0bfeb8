"""The way to a solver: a pure function named in a problem, which may run here or in another process."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any, cast

from parfocal.policies.base import PolicyError

KEY = "solve"


def solve(problem: Mapping[str, Any]) -> dict[str, Any]:
    """Call the function that a problem names under ``solve`` (``module:function``) with it; return its suggestion.

    Raises
    ------
    PolicyError
        It names none that can be imported.
    """
    return dict(_solver(str(problem.get(KEY, "")))(problem))


def warm_up(target: str) -> None:
    """Import a solver, and let its module do what makes the first call slow (its ``warm_up``, if it has one)."""
    _solver(target)
    ready = getattr(importlib.import_module(target.partition(":")[0]), "warm_up", None)
    if ready is not None:
        ready()


def _solver(target: str) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
    module, _, function = target.partition(":")
    try:
        return cast(
            "Callable[[Mapping[str, Any]], Mapping[str, Any]]", getattr(importlib.import_module(module), function)
        )
    except (ImportError, AttributeError, ValueError) as error:
        raise PolicyError(f"the solver {target!r} cannot be imported: {error}") from error
