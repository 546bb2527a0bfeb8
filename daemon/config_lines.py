"""YAML as a configuration file should be read: safe, small, no duplicate keys, and with the line of every key."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from parfocal import ParfocalError

MAX_BYTES = 256 * 1024
KeyPath = tuple[str | int, ...]


class ConfigError(ParfocalError):
    """The configuration cannot be used; `problems` holds one line for each thing that is wrong."""

    exit_code = 3

    def __init__(self, problems: list[str] | str) -> None:
        self.problems: list[str] = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


@dataclass
class Source:
    """A parsed document: its data, and where every key of it was written.

    Parameters
    ----------
    name : str
        What a person calls it: a file's name as given, or ``--set``.
    data : dict
        Plain JSON-like values.
    where : dict
        Key path to ``file:line``.
    problems : list of str
        What was wrong with the text itself; the data then lacks those parts.
    damaged : set of str
        The sections that lack something for that reason.
    """

    name: str
    data: dict[str, Any] = field(default_factory=dict)
    where: dict[KeyPath, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)

    def locate(self, path: KeyPath) -> str:
        """Return ``file:line`` of a key, or of the nearest key above it."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.where:
                return self.where[path[:length]]
        return self.name


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with YAML 1.2 floats: ``1e3`` is a number, as everybody who writes it means."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def key_name(path: KeyPath) -> str:
    """Write a key path as a person would: ``limits.z_um.upper``, ``scoring.models[1]``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def read_source(path: Path) -> Source:
    """Read a configuration file.

    Raises
    ------
    ConfigError
        It is not there, not readable, too large, or not text.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path}: {size} bytes is too large for a configuration (at most {MAX_BYTES})")
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; `parfocal run` without a file uses the packaged example") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder, not a configuration file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_source(text, str(path))


def parse_source(text: str, name: str) -> Source:
    """Parse YAML text; problems of single keys are collected, a text that is no YAML at all raises `ConfigError`."""
    source = Source(name)
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_problem(error, name)) from None
    except RecursionError:
        raise ConfigError(f"{name}: is nested too deeply for a configuration") from None
    if node is None:
        return source
    source.where[()] = f"{name}:{node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        source.problems.append(
            f"{source.where[()]}: expected `key: value` lines at the top (got a list or a single value)"
        )
        return source
    source.data = _Builder(source).mapping(node, ())
    return source


def parse_value(text: str) -> Any:
    """Read the VALUE of ``--set KEY=VALUE`` as YAML; raises `ConfigError`."""
    source = parse_source(f"value: {text}" if text.strip() else "value: ''", "--set")
    if source.problems:
        raise ConfigError(source.problems)
    return source.data.get("value")


def _syntax_problem(error: yaml.YAMLError, name: str) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error)
    context = getattr(error, "context", None)
    place = f"{name}:{mark.line + 1}" if mark is not None else name
    return f"{place}: not valid YAML: {problem}" + (f" {context}" if context else "")


class _Builder:
    """Turns YAML nodes into plain values, noting lines and refusing what a configuration must not hold."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._constructor = _Loader("")
        self._seen: set[int] = set()

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else ""
            here = (*path, key)
            if not key:
                self._complain(line, path, "a key must be plain text")
            elif key in first:
                self._complain(line, here, f"the key is given twice (first on line {first[key]})")
            else:
                first[key] = line
                self._source.where[here] = f"{self._source.name}:{line}"
                result[key] = self.value(value_node, here)
        return result

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        line = node.start_mark.line + 1
        if id(node) in self._seen:  # an alias: cheap to write, unbounded to expand
            self._complain(line, path, "anchors and aliases (&x, *x) are not supported; write the value out")
            return None
        if isinstance(node, yaml.MappingNode):
            self._seen.add(id(node))
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            self._seen.add(id(node))
            return [self._item(item, (*path, number)) for number, item in enumerate(node.value)]
        return self._scalar(node, path, line)

    def _item(self, node: yaml.Node, path: KeyPath) -> Any:
        self._source.where[path] = f"{self._source.name}:{node.start_mark.line + 1}"
        return self.value(node, path)

    def _scalar(self, node: yaml.Node, path: KeyPath, line: int) -> Any:
        try:
            value = self._constructor.construct_object(node)
        except (yaml.YAMLError, ValueError):
            self._complain(line, path, f"cannot be read as {node.tag.rsplit(':', 1)[-1]} (got {node.value!r})")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._complain(line, path, f"must be a finite number (got {node.value})")
            return None
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return str(node.value)  # dates and the like: what the person typed

    def _complain(self, line: int, path: KeyPath, text: str) -> None:
        self._source.problems.append(f"{self._source.name}:{line} {key_name(path)}: {text}")
        self._source.damaged.update(str(part) for part in path[:1])


def flatten(data: Mapping[str, Any], path: KeyPath = ()) -> dict[KeyPath, Any]:
    """Every leaf of nested mappings, by its key path."""
    leaves: dict[KeyPath, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            leaves.update(flatten(value, (*path, key)))
        else:
            leaves[(*path, key)] = value
    return leaves
