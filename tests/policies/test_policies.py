"""`make_policy`: names, options, plugins."""

from __future__ import annotations

import importlib.metadata
import math

import pytest

from parfocal.policies import make_policy, policy_names
from parfocal.policies.base import Hold, Policy, PolicyError, PolicyOptionError

NAMES = [
    "focus.belief", "focus.oughtafocus", "focus.jaf", "focus.sweep", "focus.hold", "focus.quality", "focus.supervised",
    "focus.follow",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_name_makes_a_policy_that_holds_before_its_first_frame(name: str) -> None:
    policy = make_policy(name, {"dof_um": 1.0, "lower_um": -50.0, "upper_um": 50.0, "max_step_um": 20.0, "seed": 3})
    assert isinstance(policy, Policy)
    assert policy.name == name
    assert name in policy_names()
    assert isinstance(policy.ask(), Hold)


@pytest.mark.parametrize("name", NAMES)
def test_unknown_option_is_named_with_the_nearest(name: str) -> None:
    with pytest.raises(PolicyOptionError, match=r"unknown option 'max_stepum', did you mean 'max_step_um'"):
        make_policy(name, {"dof_um": 1.0, "max_stepum": 3})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"dof_um": -1.0}, "'dof_um'"),
        ({"dof_um": math.nan}, "dof_um"),
        ({"lower_um": 3.0, "upper_um": 2.0}, "must be below"),
        ({"lower_um": math.nan}, "lower_um"),
        ({"max_step_um": 0.0}, "max_step_um"),
        ({"max_step_um": "far"}, "max_step_um.*'far'"),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_unusable_values_are_refused(name: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(PolicyOptionError, match=said):
        make_policy(name, {"dof_um": 1.0} | options)


def test_belief_needs_the_depth_of_field_and_a_range_beyond_it() -> None:
    with pytest.raises(PolicyOptionError, match="dof_um"):
        make_policy("focus.belief", {})
    with pytest.raises(PolicyOptionError, match="range_um"):
        make_policy("focus.belief", {"dof_um": 10.0, "range_um": 15.0})


def test_repeating_needs_holding() -> None:
    with pytest.raises(PolicyOptionError, match="then: hold"):
        make_policy("focus.sweep", {"repeat_every_s": 60.0})


def test_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(PolicyOptionError, match=r"no policy 'focus.beleif', did you mean 'focus.belief'"):
        make_policy("focus.beleif", {})


def _offer(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    point = importlib.metadata.EntryPoint("mine.best", value, "parfocal.policies")
    offered = importlib.metadata.EntryPoints([point])
    monkeypatch.setattr("parfocal.policies.entry_points", lambda **query: offered.select(**query))


def test_installed_packages_offer_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, "parfocal.policies.focus.hold:HoldPolicy")
    assert "mine.best" in policy_names()
    assert isinstance(make_policy("mine.best", {}).ask(), Hold)


def test_plugin_that_fails_to_import_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, "no_such_package_at_all:Best")
    with pytest.raises(PolicyError, match=r"'mine.best'.*no_such_package_at_all.*repair or uninstall"):
        make_policy("mine.best", {})
