"""Loading a configuration: file, overrides and facility limits in, one frozen `Config` or every problem at once out."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from parfocal.daemon.config_lines import (
    ConfigError,
    KeyPath,
    Source,
    flatten,
    key_name,
    parse_source,
    parse_value,
    read_source,
)
from parfocal.daemon.config_models import (
    SECRETS,
    AlertsSection,
    FacilityConfig,
    Limit,
    LimitsSection,
    MetricsSection,
    MicroscopeSection,
    PolicySection,
    PreviewSection,
    QualitySection,
    ScoringSection,
    Section,
    ServiceSection,
    SessionSection,
    WebSection,
)
from parfocal.daemon.config_problems import validate
from parfocal.daemon.facility import Narrowing, facility_source, opening_problems

__all__ = ["Config", "ConfigError", "Limit", "load_config"]

PATH_KEYS: tuple[KeyPath, ...] = (
    ("microscope", "system_config"),
    ("microscope", "path"),
    ("microscope", "z_csv"),
    ("policy", "calibration"),
    ("preview", "options", "card"),
    ("session", "folder"),
    ("service", "keys"),
    ("web", "key"),
)
SPECIMEN: KeyPath = ("microscope", "simulation", "specimen")


class Config(Section):
    """Everything a session is made from. Only `microscope.driver` must be given."""

    microscope: MicroscopeSection
    start: dict[str, float] = Field(default_factory=dict)
    scoring: ScoringSection = ScoringSection()
    policy: PolicySection = PolicySection()
    quality: QualitySection | None = None
    limits: LimitsSection = LimitsSection()
    session: SessionSection = SessionSection()
    service: ServiceSection | None = None
    preview: PreviewSection | None = None
    web: WebSection | None = None
    metrics: MetricsSection | None = None
    alerts: AlertsSection | None = None

    _source: Source = PrivateAttr(default_factory=lambda: Source("configuration"))
    _packaged: bool = PrivateAttr(default=False)

    @property
    def source(self) -> str:
        """The file this came from, as given."""
        return self._source.name

    @property
    def takes_on_request(self) -> bool:
        """Whether a frame is exposed only when one is waited for: by default where every frame costs the sample."""
        wanted = self.microscope.on_request
        return self.policy.name.startswith("sted.") if wanted is None else wanted

    def where(self, *path: str | int) -> str:
        """Return ``file:line key`` of a key (or of the nearest section that was written), for messages."""
        return f"{self._source.locate(path)} {key_name(path)}"

    def loaded_from(self, source: Source, *, packaged: bool) -> Config:
        """Remember where every key was written."""
        self._source, self._packaged = source, packaged
        return self

    def from_example(self, *path: str | int) -> bool:
        """Whether a value is the packaged example's own, which nobody asked for by name."""
        return self._packaged and not self._source.locate(path).startswith("--set")

    def to_json(self) -> dict[str, Any]:
        """Plain JSON without the keys that were not given and have no default."""
        return self.model_dump(mode="json", exclude_none=True)


def load_config(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Load a configuration file, apply ``KEY=VALUE`` overrides and the facility's limits; `None` is the example.

    Paths in the file are relative to the file, paths in overrides (and in the packaged example) to the working folder.

    Raises
    ------
    ConfigError
        With every problem found, each as ``file:line key: what is wrong (got …); did you mean …?``.
    """
    source = read_config(path, overrides)
    config, problems = finished(validate(Config, source).loaded_from(source, packaged=path is None))
    if problems:
        raise ConfigError(problems)
    return config


def read_config(path: Path | None, overrides: Sequence[str] = ()) -> Source:
    """Read a configuration's text, paths resolved and overrides applied; raises `ConfigError` where there is none."""
    if path is None:
        text = (importlib.resources.files("parfocal") / "config.yaml").read_text(encoding="utf-8")
        source, base = parse_source(text, "config.yaml (packaged)"), Path.cwd()
    else:
        source, base = read_source(path), path.absolute().parent
    _resolve_paths(source.data, base)
    for override in overrides:
        _override(source, override)
    return source


def finished(config: Config) -> tuple[Config, list[str]]:
    """Apply the facility's limits; return what then holds, and what is wrong with it beyond its shape."""
    config, problems = _apply_facility(config)
    return config, problems + _start_problems(config) + opening_problems(config)


def _resolve_paths(data: dict[str, Any], base: Path, path: KeyPath = ()) -> None:
    for key, value in data.items():
        here = (*path, key)
        if isinstance(value, dict):
            _resolve_paths(value, base, here)
        elif isinstance(value, str):
            data[key] = _resolved(here, value, base)


def _resolved(key: KeyPath, value: str, base: Path) -> str:
    """Return a value with the path that it is, or that it names as ``file:PATH``, made absolute."""
    if key in SECRETS and value.startswith("file:"):
        return f"file:{base / Path(value.removeprefix('file:')).expanduser()}"
    return str(base / Path(value).expanduser()) if _is_path(key, value) else value


def _is_path(key: KeyPath, value: str) -> bool:
    """Whether a value names a file; a specimen may be one, or a procedural one's plain name."""
    if key == SPECIMEN:
        return Path(value).name != value or bool(Path(value).suffix)
    return key in PATH_KEYS or (key[:2] == ("scoring", "options") and key[-1] == "card")


def _override(source: Source, text: str) -> None:
    key, equals, value_text = text.partition("=")
    path: KeyPath = tuple(key.strip().split("."))
    if any(path == secret[: len(path)] for secret in SECRETS):
        text = f"{key}=..."
    if not equals or not all(path):
        source.problems.append(f"--set {text}: expected KEY=VALUE with a dotted KEY (got {text!r})")
        return
    try:
        value = parse_value(value_text)
    except ConfigError as error:
        source.problems.extend(f"--set {text}: {problem}" for problem in error.problems)
        source.damaged.add(str(path[0]))
        return
    if isinstance(value, dict):
        _resolve_paths(value, Path.cwd(), path)
    elif isinstance(value, str):
        value = _resolved(path, value, Path.cwd())
    section: dict[str, Any] = source.data
    for depth, part in enumerate(path[:-1], start=1):
        inside = section.setdefault(str(part), {})
        source.where.setdefault(path[:depth], f"--set {text}")
        if not isinstance(inside, dict):
            source.problems.append(f"--set {text}: {key_name(path[:depth])} is not a section (got {inside!r})")
            source.damaged.add(str(path[0]))
            return
        section = inside
    section[str(path[-1])] = value
    source.where[path] = f"--set {text}"
    for leaf in flatten(value) if isinstance(value, dict) else ():
        source.where[path + leaf] = f"--set {text}"


def _start_problems(config: Config) -> list[str]:
    problems = []
    for name, value in config.start.items():
        limit = config.limits.parameters.get(name)
        if limit is None:
            continue
        lower = limit.lower if limit.lower is not None else -math.inf
        upper = limit.upper if limit.upper is not None else math.inf
        if not lower <= value <= upper:
            here = config.where("start", name)
            problems.append(f"{here}: is outside limits.{name} {lower:g}..{upper:g} (got {value:g})")
    return problems


def _apply_facility(config: Config) -> tuple[Config, list[str]]:
    source = facility_source()
    if source is None:
        return config, []
    narrowing = Narrowing(config, source, validate(FacilityConfig, source))
    limits = narrowing.limits()
    return config.model_copy(update={"limits": limits}), narrowing.problems
