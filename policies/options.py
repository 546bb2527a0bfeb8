"""Options of policies: a strict pydantic base, and the translation of its errors into one `PolicyOptionError`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from parfocal import did_you_mean
from parfocal.policies.base import PolicyOptionError

BESIDE_OPTIONS = ("name", "calibration")
LONGEST_SHOWN = 80
"""Characters of a wrong value that a message repeats; a table of numbers helps nobody."""


class Options(BaseModel):
    """Base of every policy's options: frozen, unknown keys refused, no NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=True)

    @model_validator(mode="after")
    def _no_nan(self) -> Self:
        for key in type(self).model_fields:
            value = getattr(self, key)
            if isinstance(value, float) and math.isnan(value):
                raise ValueError(f"{key} is NaN")
        return self


class FocusOptions(Options):
    """What every focus policy knows of the stage.

    Parameters
    ----------
    lower_um, upper_um : float
        Limits of the stage; no position outside is ever proposed. Infinite: the guard alone limits.
    max_step_um : float
        Largest single move; longer ones are split.
    dof_um : float, optional
        Depth of field.
    seed : int
        Of any random choice.
    """

    lower_um: float = -math.inf
    upper_um: float = math.inf
    max_step_um: float = Field(default=math.inf, gt=0)
    dof_um: float | None = Field(default=None, gt=0, lt=math.inf)
    seed: int = 0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lower_um < self.upper_um:
            raise ValueError(f"lower_um ({self.lower_um:g}) must be below upper_um ({self.upper_um:g})")
        return self


OptionsT = TypeVar("OptionsT", bound=Options)


def nearest(word: str, words: list[str]) -> str:
    """Return a "did you mean 'x'?" for the closest of some words, or their list."""
    return did_you_mean(word, words).removeprefix("; ") or f"known are {', '.join(sorted(words))}"


def parse_options(model: type[OptionsT], policy: str, options: Mapping[str, Any]) -> OptionsT:
    """Validate the options of a policy.

    Raises
    ------
    PolicyOptionError
        One line an offending option: which, what is wrong with it, the nearest valid name.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        lines = [_explain(model, problem) for problem in error.errors(include_url=False)]
        said = [f"policy {policy}: {line}" for line in lines]
        raise PolicyOptionError(f"policy {policy}: " + "; ".join(lines), said) from None


def _explain(model: type[Options], problem: Any) -> str:
    """Say one pydantic problem in words."""
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = list(model.model_fields)
        # Beside its options a configuration's `policy` has these, and they are mistyped as easily.
        near = did_you_mean(where, [*known, *BESIDE_OPTIONS] if len(problem["loc"]) == 1 else known)
        return f"unknown option {where!r}, {near.removeprefix('; ') or nearest(str(problem['loc'][-1]), known)}"
    if problem["type"] == "missing":
        return f"option {where!r} is required"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not where:
        return message
    got = repr(problem["input"])
    return f"option {where!r}: {message} (got {got if len(got) <= LONGEST_SHOWN else got[:LONGEST_SHOWN] + '...'})"
