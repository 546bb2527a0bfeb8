"""Where in a configuration that stands which a driver, model or policy finds wrong: one located line a problem."""

from __future__ import annotations

import re
from collections.abc import Sequence

from parfocal.daemon.config import Config, ConfigError

_KEYED = re.compile(r"^(?P<key>[a-z_]+(?:\.[^\s:.]+)*): (?P<text>.*)$", re.DOTALL)
_OPTION = re.compile(r"^policy \S+?(?: \((?P<part>\w+)\))?: option '(?P<key>[^']+)': (?P<text>.*)$", re.DOTALL)
_UNKNOWN = re.compile(r"^policy \S+?(?: \((?P<part>\w+)\))?: unknown option '(?P<key>[^']+)'")


def located(config: Config, section: str, error: Exception) -> ConfigError:
    """Return what somebody found wrong with a section, each problem with the line where its key stands."""
    problems: Sequence[str] = getattr(error, "problems", ()) or (str(error),)
    return ConfigError([_line(config, section, problem) for problem in problems])


def unknown_option(problem: str) -> str:
    """Return the option that a policy says it does not know; empty if that is not what it says."""
    found = _UNKNOWN.match(problem)
    return found["key"] if found else ""


def _line(config: Config, section: str, problem: str) -> str:
    keyed = _KEYED.match(problem)
    if keyed and keyed["key"].split(".")[0] == section:
        # The driver's own name of the key and ours are the same: it is said once.
        return f"{config.where(*keyed['key'].split('.'))}: {keyed['text']}"
    if section == "policy" and (option := _OPTION.match(problem)):
        return f"{_option(config, option)}: {option['text'].removeprefix('Input ')}"
    if section == "policy" and (unknown := _UNKNOWN.match(problem)):
        return f"{_option(config, unknown)}: {problem}"
    return f"{config.where(section, *_named(config, section, problem)[:1])}: {problem}"


def _option(config: Config, found: re.Match[str]) -> str:
    part = (found["part"],) if found["part"] else ()
    return config.where("policy", *part, *found["key"].split("."))


def _named(config: Config, section: str, problem: str) -> list[str]:
    """Return the keys of a section that a message names, or whose value it repeats; best first."""
    given = getattr(config, section).model_dump(exclude_unset=True)
    named = [key for key in given if re.search(rf"\b{re.escape(key)}\b", problem)]
    return named + [key for key, value in given.items() if isinstance(value, str) and repr(value) in problem]
