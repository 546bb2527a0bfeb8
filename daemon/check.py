"""What is wrong with a configuration, before any microscope is touched: all of it for `check`, the first for `run`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from parfocal import ParfocalError
from parfocal.daemon.config import ConfigError
from parfocal.daemon.remains import NO_DRIVER, what_remains

if TYPE_CHECKING:
    from parfocal.daemon.config import Config
    from parfocal.drivers.base import Microscope

WITHOUT_A_BODY = ("simulated", "simulated_sted")
"""Drivers whose parameters have the same names whatever their section says."""

ABSENT = "microscope: a file"
"""Among the damages: what the microscope is made of is not there; its optics are, which the policy wants to know."""


@dataclass(frozen=True)
class Checked:
    """What is wrong with a configuration, and what in it should be known before it is used; one line each."""

    problems: list[str]
    warnings: list[str]


def checked(path: Path | None, overrides: Sequence[str] = ()) -> Checked:
    """Look for everything wrong with a configuration, each as ``file:line key: what is wrong``.

    Beyond the file's own shape it is checked that driver, policy and models (weights included) can be made of it, and
    that the files it names are there. What is wrong is taken out, and the rest is looked at all the same; of what rests
    on something wrong nothing is said. No device is opened and nothing is written.
    """
    remains = what_remains(path, tuple(overrides))
    config, problems = remains.config, list(remains.problems)
    if config is None:
        return Checked(problems, [])
    problems += unfit(config, remains.damaged)
    return Checked(list(dict.fromkeys(problems)), warnings_of(config))


def unfit(config: Config, damaged: Collection[str] = ()) -> list[str]:
    """Return what is wrong with a configuration that has the right shape; touches no device.

    Parameters
    ----------
    config : Config
    damaged : collection of str
        Sections that lack something: of them, and of what rests on them, only names are looked at.
    """
    return list(dict.fromkeys(_Check(config, damaged).problems()))  # what two parts stumble over is one problem


class _Check:
    """One look at a configuration: parts in the order in which they rest on each other."""

    def __init__(self, config: Config, damaged: Collection[str]) -> None:
        self._config, self._damaged = config, set(damaged)
        self._problems: list[str] = []

    def problems(self) -> list[str]:
        from parfocal.daemon import compose
        from parfocal.daemon.service.auth import allow_list

        config = self._config
        for section, problem in _missing_files(config):
            self._problems.append(problem)
            self._damaged.add(section if section == "policy" else ABSENT)
        self._microscope()
        if not self._tried(lambda: compose.check_models(config), "scoring"):
            self._damaged.add("scoring")
        self._tried(self._policy)
        self._tried(lambda: compose.check_preview(config), "preview", "scoring")
        self._tried(lambda: allow_list(config), "service")
        self._tried(lambda: self._problems.extend(_models(config)), "scoring", "microscope")
        self._tried(lambda: self._problems.extend(_restorer(config)), "preview")
        return self._problems + list(_webhook(config))

    def _tried(self, make: Callable[[], object], *sections: str) -> bool:
        """Note what is wrong with a part, unless it rests on damaged sections; whether nothing was."""
        if self._damaged & set(sections):
            return True
        try:
            make()
        except ConfigError as error:
            self._problems.extend(error.problems)
        except ParfocalError as error:
            self._problems.append(f"{self._config.source}: {error}")
        else:
            return True
        return False

    def _microscope(self) -> None:
        """Make the microscope, and see whether it has what limits and start name."""
        from parfocal.daemon import compose
        from parfocal.drivers import make_microscope

        config = self._config
        if NO_DRIVER in self._damaged:
            return
        if not self._tried(lambda: compose.check_driver(config)):
            self._damaged.add("microscope")  # what else there is to say depends on it
            return
        made: list[Microscope] = []
        self._tried(lambda: made.append(compose.microscope_for(config)), "microscope")
        if made:
            if config.microscope.driver != "recorded" or ABSENT not in self._damaged:
                self._tried(lambda: _reach(config, made[0], ranges=True))
        elif config.microscope.driver in WITHOUT_A_BODY:
            plain = make_microscope(config.microscope.driver, {})
            self._tried(lambda: _reach(config, plain, ranges=False))

    def _policy(self) -> None:
        """Make the policy; where what it rests on is damaged, look at the names alone."""
        from parfocal.daemon import compose

        config, damaged = self._config, self._damaged
        if damaged & {"microscope", "limits", "policy"}:
            compose.check_policy_names(config)
            return
        policy, _ = compose.policy_for(config, None)
        if not damaged & {"scoring", "quality"}:
            compose.check_reads(config, policy)


def _reach(config: Config, microscope: Microscope, ranges: bool) -> None:
    from parfocal.daemon.reach import check_reach, known_parameters

    known = known_parameters(config, microscope)
    if known is not None:
        check_reach(config, known, ranges=ranges)


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

    missing = [problem for _, problem in _missing_files(config)] + list(_webhook(config))
    if missing:
        raise ConfigError(missing)
    microscope = microscope_for(config)
    if config.microscope.driver != "recorded":  # which would be read twice
        _reach(config, microscope, ranges=True)
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


def _missing_files(config: Config) -> Iterator[tuple[str, str]]:
    """Name the section and the problem of every file that is not there."""
    named = {
        ("microscope", "system_config"): config.microscope.system_config,
        ("microscope", "path"): config.microscope.path,
        ("policy", "calibration"): config.policy.calibration,
    }
    for key, file in named.items():
        if file is not None and not Path(file).exists():
            yield key[0], f"{config.where(*key)}: there is no such file (got {file})"
