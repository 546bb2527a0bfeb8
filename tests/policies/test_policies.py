"""`make_policy`: names, options, plugins."""

from __future__ import annotations

import importlib.metadata
import math

import pytest

from parfocal.policies import make_policy, policy_names
from parfocal.policies.base import Hold, Policy, PolicyOptionError, PolicyPluginError, reads_of

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


def _offer(monkeypatch: pytest.MonkeyPatch, *values: str) -> None:
    points = [importlib.metadata.EntryPoint("mine.best", value, "parfocal.policies") for value in values]
    offered = importlib.metadata.EntryPoints(points)
    monkeypatch.setattr("parfocal.policies.entry_points", lambda **query: offered.select(**query))


def test_installed_packages_offer_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    _offer(monkeypatch, "parfocal.policies.focus.hold:HoldPolicy")
    assert "mine.best" in policy_names()
    assert isinstance(make_policy("mine.best", {}).ask(), Hold)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (["no_such_package_at_all:Best"], r"'mine.best'.*no_such_package_at_all.*repair or uninstall"),
        (["builtins:print"], r"'mine.best': its factory returned a NoneType, which lacks name, tell, ask, checkpoint"),
        (["parfocal:__version__"], r"'mine.best': parfocal:__version__ is not a factory"),
        (
            ["parfocal.policies.focus.hold:HoldPolicy", "parfocal.policies.focus.jaf:JafPolicy"],
            r"'mine.best' is offered more than once: .*HoldPolicy, .*JafPolicy; uninstall all but one",
        ),
    ],
)
def test_a_plugin_that_cannot_be_had_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, values: list[str], said: str
) -> None:
    _offer(monkeypatch, *values)
    with pytest.raises(PolicyPluginError, match=said) as caught:
        make_policy("mine.best", {})
    assert caught.value.exit_code == 3


def test_the_same_offer_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install beside a wheel lists its entry points twice."""
    _offer(monkeypatch, *["parfocal.policies.focus.hold:HoldPolicy"] * 2)
    assert isinstance(make_policy("mine.best", {}).ask(), Hold)


@pytest.mark.parametrize(
    ("name", "options", "reads"),
    [
        ("focus.belief", {"model": "mine"}, ("mine",)),
        ("focus.follow", {}, ("defocus",)),
        ("focus.hold", {}, ()),
        ("focus.jaf", {}, ("sharpness",)),
        ("focus.oughtafocus", {"model": "frc"}, ("frc",)),
        ("focus.sweep", {}, ("sharpness",)),
        ("focus.quality", {"model": "sharpness"}, ("sharpness",)),
        ("focus.supervised", {}, ("defocus", "quality")),
    ],
)
def test_a_policy_names_the_models_it_reads(name: str, options: dict[str, object], reads: tuple[str, ...]) -> None:
    assert reads_of(make_policy(name, {"dof_um": 1.0} | options)) == reads
