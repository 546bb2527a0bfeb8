"""Decision makers, pure and seeded, made by name through `make_policy`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, cast

from parfocal.policies.base import REQUIRED, Policy, PolicyOptionError, PolicyPluginError
from parfocal.policies.options import nearest

PolicyFactory = Callable[[Mapping[str, Any]], object]

ENTRY_POINT_GROUP = "parfocal.policies"

# Name -> "module:factory"; imported only when asked for, so that listing the names costs nothing.
BUILT_IN: Mapping[str, str] = {
    "focus.belief": "parfocal.policies.focus.belief:BeliefPolicy",
    "focus.oughtafocus": "parfocal.policies.focus.oughtafocus:OughtaFocusPolicy",
    "focus.jaf": "parfocal.policies.focus.jaf:JafPolicy",
    "focus.sweep": "parfocal.policies.focus.sweep:SweepPolicy",
    "focus.hold": "parfocal.policies.focus.hold:HoldPolicy",
    "focus.quality": "parfocal.policies.focus.quality:make",
    "focus.supervised": "parfocal.policies.focus.supervised:SupervisedPolicy",
    "focus.follow": "parfocal.policies.focus.follow:FollowPolicy",
    "sted.bayes": "parfocal.policies.sted.bayes:BayesPolicy",
    "sted.thompson": "parfocal.policies.sted.thompson:ThompsonPolicy",
    "sted.random": "parfocal.policies.sted.simple:RandomPolicy",
    "sted.fixed": "parfocal.policies.sted.simple:FixedPolicy",
    "sted.supervised": "parfocal.policies.sted.supervisor:SupervisorPolicy",
}


def policy_names() -> list[str]:
    """Names of all policies: built-in ones and those that installed packages offer."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def make_policy(name: str, options: Mapping[str, Any] | None = None) -> Policy:
    """Make a policy.

    Parameters
    ----------
    name : str
        A built-in name (``focus.belief``...), or one that a package offers in the entry-point group
        ``parfocal.policies`` as a factory ``(options) -> Policy``.
    options : mapping, optional
        That policy's options, as plain JSON.

    Raises
    ------
    PolicyOptionError
        No policy of that name, or options it does not know or cannot use; with the nearest valid name.
    PolicyPluginError
        The package that offers the policy fails to import, makes something else, or is not the only one that does.
    """
    factory = _built_in(name) if name in BUILT_IN else _plugin(name)
    policy = factory({} if options is None else options)
    lacking = [part for part in REQUIRED if not hasattr(policy, part)]
    if lacking:
        raise PolicyPluginError(
            f"policy {name!r}: its factory returned a {type(policy).__name__}, which lacks {', '.join(lacking)}"
        )
    return cast(Policy, policy)


def _built_in(name: str) -> PolicyFactory:
    module, attribute = BUILT_IN[name].split(":")
    return cast(PolicyFactory, getattr(importlib.import_module(module), attribute))


def _plugin(name: str) -> PolicyFactory:
    """Load an installed package's policy; whatever its import raises becomes one message."""
    points: list[EntryPoint] = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name == name]
    if not points:
        raise PolicyOptionError(f"there is no policy {name!r}, {nearest(name, policy_names())}")
    if len({point.value for point in points}) > 1:
        offers = ", ".join(sorted(point.value for point in points))
        raise PolicyPluginError(f"policy {name!r} is offered more than once: {offers}; uninstall all but one")
    try:
        factory = points[0].load()
    except Exception as error:
        raise PolicyPluginError(
            f"policy {name!r} is offered by {points[0].value!r}, which fails to import "
            f"({type(error).__name__}: {error}); repair or uninstall that package"
        ) from error
    if not callable(factory):
        raise PolicyPluginError(f"policy {name!r}: {points[0].value} is not a factory of policies")
    return cast(PolicyFactory, factory)
