"""KEY=VALUE pairs of the command line: options of a policy or model, and keys of a configuration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parfocal import UsageError
from parfocal.daemon.config_lines import parse_value


def split_settings(flag: str, pairs: Sequence[str], *, dotted: bool) -> tuple[dict[str, Any], list[str]]:
    """Tell options apart from keys of a configuration, which have a dot in them.

    Parameters
    ----------
    flag : str
        For messages.
    pairs : sequence of str
        ``KEY=VALUE``, the value as YAML.
    dotted : bool
        Whether keys of a configuration make sense here.

    Raises
    ------
    UsageError
        Not of that form, or a key of a configuration where none is used.
    """
    options: dict[str, Any] = {}
    overrides: list[str] = []
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = key.strip()
        if not equals or not key:
            raise UsageError(f"{flag} {pair}: expected KEY=VALUE (got {pair!r})")
        if "." not in key:
            options[key] = parse_value(text)
        elif dotted:
            overrides.append(pair)
        else:
            raise UsageError(f"{flag} {pair}: {key} is a key of a configuration, which only --against simulator uses")
    return options, overrides
