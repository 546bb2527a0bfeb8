"""Options of models on the command line: ``--option MODEL.KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from parfocal import UsageError, did_you_mean

Options = dict[str, dict[str, Any]]
"""By model and key."""
SHAPE = "write --option MODEL.KEY=VALUE, such as --option quality.network=paper"


def parse_options(texts: Sequence[str], models: Collection[str]) -> Options:
    """Read the options as they were typed, for models that are to run; a later one of the same key counts.

    Raises
    ------
    UsageError
        Not ``MODEL.KEY=VALUE``, a value that is not one YAML scalar, or a model that is not known or does not run.
    """
    found: Options = {}
    for text in texts:
        left, equals, value = text.partition("=")
        model, dot, key = (part.strip() for part in left.rpartition("."))
        if not (equals and dot and model and key):
            raise UsageError(f"--option {text!r}: {SHAPE}")
        _check_model(text, model, models)
        found.setdefault(model, {})[key] = _value(text, key, value)
    return found


def over(told: Options, others: Mapping[str, Mapping[str, Any]]) -> Options:
    """Return all options, where those told win over the others, key by key."""
    names = dict.fromkeys([*others, *told])
    return {name: {**others.get(name, {}), **told.get(name, {})} for name in names}


def check_options(told: Options, all_of_them: Options) -> None:
    """Make the models that somebody told options, so that a wrong one is said once, before any file is read.

    Raises
    ------
    ModelError
        An unknown key, a value out of range, a card that is not there or does not fit.
    """
    from parfocal.models import make_model

    for name in told:
        make_model(name, all_of_them[name])


def _check_model(text: str, model: str, models: Collection[str]) -> None:
    from parfocal.models import available_models

    if model in models:
        return
    known = available_models()
    if model not in known:
        raise UsageError(
            f"--option {text!r}: there is no model {model!r}{did_you_mean(model, known)}; there are {', '.join(known)}"
        )
    raise UsageError(f"--option {text!r}: {model} does not run, only {', '.join(models)}; add --model {model}")


def _value(text: str, key: str, value: str) -> Any:
    from parfocal.daemon.config_lines import ConfigError, parse_value

    try:
        found = parse_value(value)
    except ConfigError as error:
        raise UsageError(f"--option {text!r}: {error.problems[0]}; a text with ':' or '#' needs quotes") from error
    if isinstance(found, dict | list):
        raise UsageError(
            f"--option {text!r}: a value is one number or text, no list and no keys of its own; those have their place "
            "in scoring.options of a --config"
        )
    if key == "card" and isinstance(found, str):  # workers of a cluster run in folders of their own
        return str(Path(found).expanduser().absolute())
    return found
