"""What is wrong with a configuration, before any microscope is touched: all of it for `check`, the first for `run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parfocal import ParfocalError
from parfocal.daemon.config import ConfigError, load_config

if TYPE_CHECKING:
    from parfocal.daemon.config import Config


@dataclass(frozen=True)
class Checked:
    """What is wrong with a configuration, and what in it will be without effect; one line each."""

    problems: list[str]
    warnings: list[str]


def checked(path: Path | None, overrides: Sequence[str] = ()) -> Checked:
    """Look for everything wrong with a configuration, each as ``file:line key: what is wrong``.

    Beyond the file's own shape it is checked that driver, policy and models (weights included) can be made of it, and
    that the files it names are there. No device is opened and nothing is written.
    """
    try:
        config = load_config(path, overrides)
    except ConfigError as error:
        return Checked(list(error.problems), [])
    from parfocal.daemon.compose import check

    missing = list(_missing_files(config))
    return Checked(missing or check(config) or list(_models(config)), warnings_of(config))


def problems_of(path: Path | None, overrides: Sequence[str] = ()) -> list[str]:
    """Return the problems alone that `checked` finds; empty if there are none."""
    return checked(path, overrides).problems


def warnings_of(config: Config) -> list[str]:
    """Return what a configuration asks for that this version does not do, each as ``file:line key: what``."""
    if config.service is None:
        return []
    return [f"{config.where('service')}: this version has no service: nothing listens on {config.service.bind}"]


def refuse_unusable(config: Config) -> None:
    """Refuse to start with what can be seen to be wrong before anything is opened, written or locked.

    Raises
    ------
    ConfigError
        A file that the configuration names is not there, or policy, models or driver do not take what it says.
    ParfocalError
        Whatever else keeps them from being made.
    """
    from parfocal.daemon.compose import microscope_for, policy_maker, scorer_for

    missing = list(_missing_files(config))
    if missing:
        raise ConfigError(missing)
    microscope_for(config)
    scorer_for(config)
    policy_maker(config)


def _models(config: Config) -> Iterator[str]:
    """Make every model: only then it shows whether its options are right and its weights those of its card."""
    from parfocal.daemon.compose import model_specs

    for spec in model_specs(config):
        try:
            spec.make()
        except ParfocalError as error:
            key = ("scoring", "options", spec.name) if spec.name in config.scoring.options else ("scoring", "models")
            yield f"{config.where(*key)}: {error}"


def _missing_files(config: Config) -> Iterator[str]:
    named = {
        ("microscope", "system_config"): config.microscope.system_config,
        ("microscope", "path"): config.microscope.path,
        ("policy", "calibration"): config.policy.calibration,
    }
    for key, file in named.items():
        if file is not None and not Path(file).exists():
            yield f"{config.where(*key)}: there is no such file (got {file})"
