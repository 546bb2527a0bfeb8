"""`parfocal.attach`: what it takes and refuses, and what is left when it goes."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from typing import Any

import pytest
import useq
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.experimental.unicore import UniMMCore
from pymmcore_plus.mda import MDAEngine

import parfocal
from parfocal import UsageError
from parfocal.daemon.config import ConfigError, load_config
from parfocal.daemon.mda.engine import ClosedLoopEngine
from parfocal.daemon.mda.options import make_config, split_options
from parfocal.drivers.base import DeviceNotFoundError
from parfocal.drivers.mm_core import release_core


def test_the_engine_before_comes_back(rig: Any) -> None:
    before = rig.core.mda.engine
    before.force_set_xy_position = False
    with rig.attach() as seat:
        assert isinstance(rig.core.mda.engine, ClosedLoopEngine)
        assert rig.core.mda.engine.force_set_xy_position is False
        assert rig.oracle.started == 1
        assert seat.status().state == "idle"
    assert rig.core.mda.engine is before
    assert rig.oracle.closed == 1
    seat.detach()
    assert seat.status().state == "detached"


def test_another_engine_that_came_since_is_left_alone(rig: Any) -> None:
    seat = rig.attach()
    other = MDAEngine(rig.core)
    rig.core.register_mda_engine(other)
    seat.detach()
    assert rig.core.mda.engine is other


def test_a_second_seat_is_refused(rig: Any) -> None:
    seat = rig.attach()
    with pytest.raises(UsageError, match="attached to this core already"):
        rig.attach()
    rig.seat = seat


def test_a_running_acquisition_is_neither_joined_nor_left(rig: Any) -> None:
    seat, go = rig.attach(), threading.Event()

    def wait() -> Any:
        go.wait(20)
        yield useq.MDAEvent(index={"t": 0})

    thread = rig.core.run_mda(wait())
    try:
        while not rig.core.mda.is_running():
            pass
        with pytest.raises(UsageError, match="cannot be detached while"):
            seat.detach()
        with pytest.raises(UsageError, match="is running in this core"):
            rig.attach()
    finally:
        go.set()
        thread.join()
        rig.seat = seat
    assert seat.attached


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"chanels": "A"}, "unknown option 'chanels'; did you mean 'channels'?"),
        ({"looks": "always"}, "looks"),
        ({"planes": ()}, "must name at least one"),
        ({"max_correction_um": float("nan")}, "max_correction_um"),
    ],
)
def test_options_that_are_no_good(rig: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        rig.attach(**options)
    assert words in str(caught.value)
    assert type(rig.core.mda.engine) is MDAEngine
    assert rig.oracle.started == 0


def test_without_optics_nothing_is_attached(rig: Any) -> None:
    with pytest.raises(ConfigError, match=r"optics are not known.*na and emission_nm"):
        parfocal.attach(rig.core, pixel_um=0.325)
    with pytest.raises(ConfigError, match="inside an acquisition"):
        rig.attach({"policy": {"name": "focus.sweep"}})
    with pytest.raises(UsageError, match=r"remove microscope\.system_config"):
        rig.attach({"microscope": {"driver": "micromanager", "system_config": "x.cfg"}})
    assert type(rig.core.mda.engine) is MDAEngine


def test_a_core_without_devices_is_refused() -> None:
    core = CMMCorePlus()
    try:
        with pytest.raises(DeviceNotFoundError, match="no devices"):
            parfocal.attach(core, na=0.75, emission_nm=520)
    finally:
        release_core(core)


def test_a_configuration_file_and_its_belief_options_are_taken(rig: Any, tmp_path: Any) -> None:
    path = tmp_path / "scope.yaml"
    path.write_text(
        "microscope: {driver: micromanager, objective: {na: 0.75}, emission_nm: 520, pixel_um: 0.325}\n"
        "policy: {name: focus.belief, range_um: 12, drift_rate_um_per_min: 3, confidence: 0.8}\n"
        "limits: {z_um: {lower: -9, upper: 9, max_step: 4}}\n"
        "session: {folder: nights, record: none}\n"
    )
    rig.attach(str(path), na=0.8)
    rig.run([useq.MDAEvent(index={"t": 0}, z_pos=0.0)])
    run = rig.seat._last
    assert run.policy.options.drift_um_per_min == 3
    assert run.policy.options.search == {"drift_rate_um_per_min": 3, "confidence": 0.8}
    assert run.config.microscope.objective.na == 0.8
    assert (run.guard.limits["z_um"].lower, run.guard.limits["correction_um"].max_step) == (-9, 4)
    assert str(run.session.folder).startswith(str(tmp_path / "nights"))


def test_a_facility_narrows_what_is_attached(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    facility = tmp_path / "facility.yaml"
    facility.write_text("limits: {z_um: {lower: -3, upper: 3}}\n")
    monkeypatch.setenv("PARFOCAL_FACILITY", str(facility))
    _, short = split_options({"na": 0.75, "emission_nm": 520})
    assert make_config(None, short).limits.parameters["z_um"].lower == -3
    with pytest.raises(ConfigError, match="wider than the facility's -3"):
        make_config({"limits": {"z_um": {"lower": -4.0}}}, short)


def test_a_finished_config_takes_no_more_options(rig: Any) -> None:
    with pytest.raises(UsageError, match=r"microscope.objective.na cannot be changed"):
        parfocal.attach(rig.core, load_config(None), na=0.5)


def test_pause_holds_and_resume_follows(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.attach()

    def with_a_pause() -> Any:
        for event in timelapse(24):
            if event.index["t"] == 6:
                rig.seat.pause("a visitor")
                assert rig.seat.status().state == "paused"
                rig.scene.focus_um = 2.6
            if event.index["t"] == 12:
                rig.seat.resume()
            yield event

    rig.run(with_a_pause())
    um = [meta["parfocal"]["correction_um"] for _, meta, _ in rig.frames]
    assert len(set(um[6:12])) == 1
    assert um[6] == pytest.approx(0.8, abs=0.25)
    assert "a visitor" in rig.frames[8][1]["parfocal"]["reason"]
    assert um[-1] == pytest.approx(2.6, abs=0.3)


def test_the_handle_shows_itself(rig: Any, timelapse: Any) -> None:
    rig.scene.focus_um = 0.8
    rig.attach()
    assert "idle" in repr(rig.seat)
    rig.run(timelapse(4))
    text, page = repr(rig.seat), rig.seat._repr_html_()
    assert "of 4 events corrected" in text
    assert "<table>" in page and "<script" not in page
    rig.seat.engine.trouble = "<b>&"
    assert "&lt;b&gt;&amp;" in rig.seat._repr_html_()


def test_importing_parfocal_stays_light() -> None:
    program = (
        "import sys, json, parfocal\n"
        "heavy = [m for m in ('pymmcore_plus', 'torch', 'numpy', 'useq') if m in sys.modules]\n"
        "print(json.dumps([heavy, hasattr(parfocal, 'attach'), hasattr(parfocal, 'atach')]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[], True, False]


def test_the_process_ends_cleanly_without_detaching(tmp_path: Any) -> None:
    """Whoever closes a notebook detaches nothing: no scorer is left, and the interpreter does not abort."""
    program = (
        "from pymmcore_plus.experimental.unicore import UniMMCore\n"
        "from parfocal.drivers.mmdevices import config_path\n"
        "import parfocal, useq\n"
        "core = UniMMCore(); core.loadSystemConfiguration(config_path())\n"
        "config = {'scoring': {'models': ['sharpness'], 'process': False}, 'policy': {'name': 'focus.follow', "
        "'model': 'sharpness'}}\n"
        "seat = parfocal.attach(core, config, na=0.75, emission_nm=520, session='s')\n"
        "core.mda.run([useq.MDAEvent(z_pos=1.0)])\n"
        "core.setPosition(2.0)\n"
        "print(seat.status().state)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("idle")


def test_the_core_may_be_the_one_everybody_shares(rig: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shared:
        @staticmethod
        def instance() -> Any:
            return rig.core

    from parfocal.daemon.mda import attach as attaching

    with monkeypatch.context() as patched:
        patched.setattr("pymmcore_plus.CMMCorePlus", Shared)
        rig.seat = attaching.attach(None, na=0.75, emission_nm=520, pixel_um=0.325)
    assert rig.seat.core is rig.core
    assert isinstance(rig.core, UniMMCore)
