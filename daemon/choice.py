"""Which policy is wanted now: made at the first frame, made again when somebody changes an option or switches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from parfocal.daemon.config import Config, ConfigError
from parfocal.daemon.config_models import Limit, LimitsSection, PolicySection
from parfocal.daemon.decide import PolicyMaker
from parfocal.drivers.base import Frame
from parfocal.policies.base import Policy


class PolicyChoice:
    """Makes policies from a configuration that may change while the session runs.

    Parameters
    ----------
    config : Config
        As the session began.
    maker_for : callable
        Checks a configuration and returns what makes its policy; raises `ConfigError`.
    """

    def __init__(self, config: Config, maker_for: Callable[[Config], PolicyMaker]) -> None:
        self.config = config
        self._maker_for = maker_for
        self._maker = maker_for(config)

    def __call__(self, frame: Frame | None) -> tuple[Policy, Mapping[str, Any]]:
        """Make the policy that is wanted now, with its options."""
        return self._maker(frame)

    def maker(self, config: Config) -> PolicyMaker:
        """Check what a change would lead to; raises `ConfigError` and changes nothing."""
        return self._maker_for(config)

    def use(self, config: Config, maker: PolicyMaker) -> None:
        """Want another one from now on."""
        self.config, self._maker = config, maker


def with_option(config: Config, option: str, value: Any) -> Config:
    """Return the configuration with one option of the policy changed; `None` takes it out."""
    if option in PolicySection.model_fields:
        raise ConfigError(f"{option!r} is no option of the policy; switch the policy instead")
    options = config.policy.options
    options.pop(option, None)
    if value is not None:
        options[option] = value
    return _with_policy(config, config.policy.name, options, config.policy.calibration)


def with_policy(config: Config, name: str, options: Mapping[str, Any], calibration: str | None) -> Config:
    """Return the configuration with another policy; options of the old one are not carried over."""
    return _with_policy(config, name, options, calibration)


def _with_policy(config: Config, name: str, options: Mapping[str, Any], calibration: str | None) -> Config:
    fields = {**options, "name": name} | ({} if calibration is None else {"calibration": calibration})
    try:
        section = PolicySection.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"policy.{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return config.model_copy(update={"policy": section})


def with_limit(config: Config, parameter: str, limit: Limit) -> Config:
    """Return the configuration with one parameter's limits replaced."""
    mine = config.limits
    merged: dict[str, Any] = {**mine.parameters, parameter: limit}
    limits = LimitsSection(dose=mine.dose, beam_lease_s=mine.beam_lease_s, **merged)
    return config.model_copy(update={"limits": limits})
