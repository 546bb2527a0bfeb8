"""What `parfocal set` is told: all of it is read, and every name in it looked at, before any of it is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from parfocal import UsageError, did_you_mean
from parfocal.daemon.config_lines import parse_value

if TYPE_CHECKING:
    from parfocal.daemon.client import Client, DaemonStatus
    from parfocal.daemon.service.messages import Done


@dataclass(frozen=True)
class Setting:
    """One KEY=VALUE: as it was given, the parts of its key, its value, and what sends it."""

    text: str
    parts: tuple[str, ...]
    value: Any
    send: Callable[[Client], Done]


def read_setting(text: str) -> Setting:
    """Read one KEY=VALUE; raises `UsageError`."""
    name, equals, value_text = text.partition("=")
    parts = tuple(name.strip().split("."))
    if not equals or not all(parts):
        raise UsageError(f"set {text}: expected KEY=VALUE with a dotted KEY")
    value: Any = parse_value(value_text)
    return Setting(text, parts, value, _sender(text, parts, value))


def _sender(text: str, parts: tuple[str, ...], value: Any) -> Callable[[Client], Done]:
    if parts[0] == "limits" and len(parts) == 3:
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise UsageError(f"set {text}: a limit is a number, or null (got {value!r})")
        number = None if value is None else float(value)
        return lambda client: client.set_limit(parts[1], parts[2], number)
    if parts == ("policy", "name"):
        return lambda client: client.set_policy(str(value))
    if parts[0] == "policy" and len(parts) == 2:
        return lambda client: client.set_option(parts[1], value)
    if parts in (("preview", "restored"), ("preview", "every_s")):
        return lambda client: client.set_preview(parts[1], "off" if value is False else value)
    hint = did_you_mean(parts[0], ("limits", "policy", "preview"))
    raise UsageError(
        f"set {text}: while a session runs, limits.PARAMETER.BOUND, policy.name, policy.OPTION, preview.restored and "
        f"preview.every_s can be set{hint}"
    )


def check_names(settings: Sequence[Setting], status: DaemonStatus) -> None:
    """Raise `UsageError` for names that nobody will know, as far as that is known here; nothing has been sent then.

    What an installed package of the daemon's computer adds is not known here, nor which values are allowed.
    """
    facts = status.hello.facts if status.hello is not None else {}
    policy, problems = str((facts.get("policy") or {}).get("name", "")), []
    for one in settings:
        if one.parts[0] == "limits":
            problem = _limit_problem(one, facts.get("limits") or {})
        elif one.parts == ("policy", "name"):
            policy, problem = str(one.value), ""
        else:
            problem = _option_problem(one, policy) if one.parts[0] == "policy" else ""
        problems += [f"set {one.text}: {problem}"] if problem else []
    if problems:
        raise UsageError("\n".join([*problems, "nothing was changed"] if len(settings) > 1 else problems))


def _limit_problem(setting: Setting, limits: dict[str, Any]) -> str:
    from parfocal.daemon.config_models import Limit

    _, parameter, bound = setting.parts
    known = {*limits, "dose"}
    if limits and parameter not in known:
        hint = did_you_mean(parameter, known) or f"; there are {', '.join(sorted(known))}"
        return f"no parameter {parameter!r} with limits{hint}"
    bounds = ["budget"] if parameter == "dose" else list(Limit.model_fields)
    hint = did_you_mean(bound, bounds) or f"; it has {', '.join(bounds)}"
    return "" if bound in bounds else f"limits.{parameter} has no {bound!r}{hint}"


def _option_problem(setting: Setting, policy: str) -> str:
    """Return what is wrong with an option's name, if the policy is one of ours."""
    from parfocal.daemon.located import unknown_option
    from parfocal.policies import BUILT_IN, make_policy
    from parfocal.policies.base import PolicyOptionError

    if policy not in BUILT_IN:
        return ""
    try:
        make_policy(policy, {"dof_um": 1.0, setting.parts[1]: setting.value})
    except PolicyOptionError as error:
        strange = [problem for problem in error.problems if unknown_option(problem) == setting.parts[1]]
        return strange[0] if strange else ""
    return ""


def carry_out(settings: Sequence[Setting], client: Client, say: Callable[[str], None]) -> None:
    """Send one after the other; where one is refused, the error says what of the others took effect."""
    from parfocal.daemon.service.errors import RefusedError

    for number, one in enumerate(settings):
        try:
            say(one.send(client).text)
        except RefusedError as error:
            done = ", ".join(before.text for before in settings[:number])
            left = ", ".join(after.text for after in settings[number + 1 :])
            parts = [f"in effect: {done}" if done else "", f"not tried: {left}" if left else ""]
            rest = "; ".join(part for part in parts if part)
            raise RefusedError(error.code, f"{one.text}: {error}" + (f" ({rest})" if rest else "")) from error
