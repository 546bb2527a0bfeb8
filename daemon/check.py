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
    """What is wrong with a configuration, and what in it should be known before it is used; one line each."""

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

    missing = list(_missing_files(config)) + list(_webhook(config))
    return Checked(missing or check(config) or [*_models(config), *_restorer(config)], warnings_of(config))


def problems_of(path: Path | None, overrides: Sequence[str] = ()) -> list[str]:
    """Return the problems alone that `checked` finds; empty if there are none."""
    return checked(path, overrides).problems


def warnings_of(config: Config) -> list[str]:
    """Return what is right but should be known, each as ``file:line key: what``: who can reach this microscope."""
    service, metrics, found = config.service, config.metrics, []
    if service is not None and service.enabled and not service.local:
        users = ", ".join(f"{name} ({role})" for name, role in service.allow.items())
        bind = config.where("service", "bind")
        found.append(f"{bind}: reachable from other computers ({service.bind}); allowed: {users}")
    if metrics is not None and not metrics.local:
        bind = config.where("metrics", "bind")
        found.append(f"{bind}: metrics can be read from other computers ({metrics.bind}), by anybody")
    return found


def refuse_unusable(config: Config) -> None:
    """Refuse to start with what can be seen to be wrong before anything is opened, written or locked.

    Raises
    ------
    ConfigError
        A file that the configuration names is not there, or policy, models or driver do not take what it says.
    ParfocalError
        Whatever else keeps them from being made.
    """
    from parfocal.daemon.compose import check_preview, microscope_for, policy_maker, scorer_for
    from parfocal.daemon.service.auth import allow_list

    missing = list(_missing_files(config)) + list(_webhook(config))
    if missing:
        raise ConfigError(missing)
    microscope_for(config)
    scorer_for(config)
    policy_maker(config)
    check_preview(config)
    allow_list(config)


def _models(config: Config) -> Iterator[str]:
    """Make every model: only then it shows whether its options are right and its weights those of its card."""
    from parfocal.daemon.compose import model_specs

    for spec in model_specs(config):
        try:
            spec.make()
        except ParfocalError as error:
            key = ("scoring", "options", spec.name) if spec.name in config.scoring.options else ("scoring", "models")
            yield f"{config.where(*key)}: {error}"


def _restorer(config: Config) -> Iterator[str]:
    """Make the method of the restored preview: only then it shows whether its options are right."""
    section = config.preview
    if section is None or section.restored == "off":
        return
    from parfocal.models.restore import make_restorer

    try:
        make_restorer(section.restored, section.options)
    except ParfocalError as error:
        yield f"{config.where('preview', 'options' if section.options else 'restored')}: {error}"


def _webhook(config: Config) -> Iterator[str]:
    """Say why alerts would go nowhere."""
    if config.alerts is not None:
        from parfocal.daemon.manners.webhook import webhook_url

        try:
            webhook_url(config)
        except ConfigError as error:
            yield from error.problems


def _missing_files(config: Config) -> Iterator[str]:
    named = {
        ("microscope", "system_config"): config.microscope.system_config,
        ("microscope", "path"): config.microscope.path,
        ("policy", "calibration"): config.policy.calibration,
    }
    for key, file in named.items():
        if file is not None and not Path(file).exists():
            yield f"{config.where(*key)}: there is no such file (got {file})"
