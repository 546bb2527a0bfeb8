from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from parfocal import drivers
from parfocal.drivers import BUILTIN, driver_names, make_microscope
from parfocal.drivers.base import DeviceNotFoundError, Microscope
from parfocal.drivers.options import DriverOptionError
from parfocal.simulator.clock import VirtualClock

SMALL: dict[str, Any] = {"simulation": {"size_px": 32, "specimen": "empty"}}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Install a module as a plug-in under the name `scope`, for one test."""

    def install(source: str, *, name: str = "scope", module: str = "some_scope_driver") -> None:
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, module, raising=False)
        found.append(EntryPoint(name, f"{module}:make", drivers.ENTRY_POINTS))

    found: list[EntryPoint] = []
    monkeypatch.setattr(drivers, "entry_points", lambda group: [p for p in found if p.group == group])
    yield install
    for module in ("some_scope_driver", "other_scope_driver"):
        sys.modules.pop(module, None)


def test_makes_the_simulated_microscope_on_the_clock_it_is_given() -> None:
    clock = VirtualClock()
    made = make_microscope("simulated", SMALL, clock=clock)
    assert isinstance(made, Microscope)
    assert made.clock is clock
    assert not make_microscope("simulated", SMALL).clock.virtual


def test_all_built_in_drivers_are_listed_without_being_imported() -> None:
    assert set(BUILTIN) <= set(driver_names())
    assert {"simulated", "simulated_sted", "micromanager", "recorded"} == set(BUILTIN)


@pytest.mark.parametrize("driver", sorted(BUILTIN))
def test_every_built_in_factory_exists(driver: str) -> None:
    assert callable(drivers._factory(driver))


@pytest.mark.parametrize(
    ("driver", "hint"), [("simulate", "simulated"), ("MicroManager", "micromanager"), ("recordd", "recorded")]
)
def test_an_unknown_driver_is_answered_with_the_nearest(driver: str, hint: str) -> None:
    with pytest.raises(DeviceNotFoundError, match=f"did you mean '{hint}'"):
        make_microscope(driver, {})


def test_a_driver_like_none_is_answered_with_all() -> None:
    with pytest.raises(DeviceNotFoundError, match=r"no driver 'zzz'; there are micromanager, recorded, simulated"):
        make_microscope("zzz", {})


def test_wrong_options_pass_through() -> None:
    with pytest.raises(DriverOptionError, match="colour"):
        make_microscope("simulated", {"colour": "red"})


def test_a_plugin_is_made_by_name(plugin: Any) -> None:
    plugin(
        "from parfocal.drivers.simulated import SimulatedMicroscope\n"
        "class Scope(SimulatedMicroscope):\n    name = 'scope'\n"
        "def make(options, clock):\n    return Scope(options, clock)\n"
    )
    assert "scope" in driver_names()
    assert make_microscope("scope", SMALL, clock=VirtualClock()).name == "scope"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import no_such_vendor_library\n", "cannot be imported: ModuleNotFoundError.*no_such_vendor_library"),
        ("def make(options, clock)\n", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('dongle missing')\n", "cannot be imported: RuntimeError: dongle missing"),
        ("x = 1\n", "cannot be imported: AttributeError"),
        ("make = 5\n", "is not a factory"),
        ("def make(options, clock):\n    return object()\n", "not a microscope: it lacks .*make_safe"),
    ],
)
def test_a_broken_plugin_is_one_clear_message(plugin: Any, source: str, message: str) -> None:
    plugin(source)
    with pytest.raises(DeviceNotFoundError, match=message):
        make_microscope("scope", {})


def test_a_broken_plugin_does_not_harm_the_others(plugin: Any) -> None:
    plugin("raise RuntimeError\n")
    assert make_microscope("simulated", SMALL, clock=VirtualClock()).simulated


def test_a_plugin_cannot_take_over_a_built_in_name(plugin: Any) -> None:
    plugin("def make(options, clock):\n    raise AssertionError\n", name="simulated")
    assert make_microscope("simulated", SMALL, clock=VirtualClock()).name == "simulated"


def test_two_plugins_of_one_name_are_refused(plugin: Any) -> None:
    plugin("make = 5\n")
    plugin("make = 6\n", module="other_scope_driver")
    with pytest.raises(DeviceNotFoundError, match="more than once"):
        make_microscope("scope", {})
