"""The Micro-Manager driver against a real core, with its demo devices and with Python devices that misbehave."""

from __future__ import annotations

import importlib.util
import math
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymmcore_plus import CMMCorePlus, find_micromanager

from parfocal.drivers.base import (
    CameraError,
    DeviceNotFoundError,
    DeviceTimeoutError,
    HardwareError,
    Microscope,
    ParameterError,
    StageError,
)
from parfocal.drivers.micromanager import MicroManagerMicroscope, make_micromanager
from parfocal.drivers.mm_core import acquisition_threads, needs_python_devices, release_core, wait_for_device
from parfocal.drivers.mm_frames import FrameClock
from parfocal.drivers.mm_live import MdaTap, WatchedSequence
from parfocal.simulator.clock import RealClock, VirtualClock

# A Python camera that raises in live mode ends its thread with a traceback: that is the fault that is injected.
dying_camera = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def _load_fakes() -> Any:
    spec = importlib.util.spec_from_file_location("parfocal_mm_fakes", Path(__file__).with_name("mm_fakes.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


Bench = _load_fakes().Bench


def demo_config() -> str:
    folder = find_micromanager()
    assert folder, "mm-test-adapters is not installed"
    return str(Path(folder) / "MMConfig_demo.cfg")


BEADS: dict[str, Any] = {
    "exposure_ms": 5,
    "z_lower_um": -100,
    "z_upper_um": 100,
    "initial_properties": [["Camera", "Mode", "Fluorescent Beads"], ["Camera", "PixelType", "16bit"]],
}
LASER = {"power_pct": {"device": "Laser", "property": "Power", "unit": "%"}}


@pytest.fixture
def demo() -> Iterator[MicroManagerMicroscope]:
    microscope = make_micromanager({"system_config": demo_config(), **BEADS})
    microscope.open()
    microscope._core.setCircularBufferMemoryFootprint(16)  # the usual 250 MB take most of a second to allocate
    yield microscope
    microscope.close()


@pytest.fixture
def bench() -> Iterator[Any]:
    bench = Bench()
    yield bench
    bench.camera.release.set()
    release_core(bench.core)


def attached(bench: Any, **options: Any) -> MicroManagerMicroscope:
    given = {"pixel_um": 0.1, "timeout_ms": 5000, "z_lower_um": -50, "z_upper_um": 50, "properties": LASER, **options}
    microscope = MicroManagerMicroscope.attach(bench.core, given)
    microscope.open()
    return microscope


def sharpness(pixels: Any) -> float:
    p = pixels.astype(float)
    return float(np.var(4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]))


# -- the demo microscope -------------------------------------------------------------------------------------------


def test_demo_beads_are_sharper_in_focus(demo: MicroManagerMicroscope) -> None:
    assert isinstance(demo, Microscope)
    assert demo.simulated, "the demo camera sees no photon"
    demo.set("z_um", 0)
    sharp = demo.snap()
    demo.set("z_um", 10)
    blurred = demo.snap()
    assert sharpness(sharp.pixels) > 5 * sharpness(blurred.pixels)
    assert (sharp.index, blurred.index) == (0, 1)
    assert blurred.settings["z_um"] == 10
    assert blurred.settings["exposure_ms"] == 5
    assert sharp.pixels.dtype == np.uint16
    assert sharp.saturation_counts == 65535
    assert sharp.end_s - sharp.start_s >= 0.005
    with pytest.raises(ValueError, match="read-only"):
        sharp.pixels[0, 0] = 1


def test_frames_exposed_before_the_move_settled_say_so(demo: MicroManagerMicroscope) -> None:
    """The whole point of start_s: a frame that can show the old focus must not count for the new one."""
    wanted = {}
    for z in (0.0, 10.0):
        demo.set("z_um", z)
        wanted[z] = sharpness(demo.snap().pixels)
    live = demo.frames()
    seen = []
    for z in (0.0, 10.0) * 4:
        for _ in range(3):
            next(live)
        commanded_s = demo.clock.now()
        demo.set("z_um", z)
        settled_s = demo.clock.now()
        fresh = 0
        while fresh < 2:
            frame = next(live)
            seen.append((z, commanded_s, settled_s, frame))
            fresh += frame.start_s >= settled_s
    live.close()  # type: ignore[attr-defined]
    mixed = 0
    for z, commanded_s, settled_s, frame in seen:
        if frame.start_s < commanded_s:
            assert frame.settings["z_um"] == 10.0 - z, "it began where the stage was before"
        right = math.isclose(sharpness(frame.pixels), wanted[z], rel_tol=0.01)
        mixed += not right
        if frame.start_s >= settled_s:
            assert right, "a frame that counts shows the old focus"
            assert frame.settings["z_um"] == z
    assert mixed > 0, "a move must have been caught in a frame, or this test proves nothing"


def test_live_frames_count_on_and_snap_waits_for_the_end(demo: MicroManagerMicroscope) -> None:
    demo.snap()
    live = demo.frames()
    indices = [next(live).index for _ in range(3)]
    assert indices == [1, 2, 3]
    with pytest.raises(CameraError, match="end it first"):
        demo.snap()
    with pytest.raises(CameraError, match="close its iterator"):
        demo.frames()
    assert demo.set("exposure_ms", 2.0) == 2.0
    frame = next(live)
    assert frame.index == 4
    assert frame.settings["exposure_ms"] == 2.0
    live.close()  # type: ignore[attr-defined]
    assert demo.snap().index >= 5
    assert demo.lost_frames == 0


def test_frames_taken_late_keep_the_time_they_were_exposed(demo: MicroManagerMicroscope) -> None:
    live = demo.frames()
    next(live)
    while demo._core.getRemainingImageCount() < 4:
        time.sleep(0.005)
    woke_s = demo.clock.now()
    late = [next(live) for _ in range(4)]
    live.close()  # type: ignore[attr-defined]
    assert all(frame.end_s < woke_s for frame in late)
    assert all(a.end_s <= b.end_s for a, b in pairwise(late))


def test_the_core_refuses_what_its_devices_refuse(demo: MicroManagerMicroscope) -> None:
    for value in (101, -100.5, math.nan, math.inf):
        with pytest.raises(ParameterError):
            demo.set("z_um", value)
    with pytest.raises(ParameterError, match="unknown"):
        demo.set("y_um", 1)
    with pytest.raises(ParameterError):
        demo.set("exposure_ms", 20_000)
    assert demo.read() == {"z_um": 0.0, "exposure_ms": 5.0}


def test_a_stage_that_refuses_is_a_stage_error() -> None:
    microscope = make_micromanager({"system_config": demo_config(), "z_upper_um": 1e9})
    microscope.open()
    try:
        with pytest.raises(StageError, match="Position out of range"):
            microscope.set("z_um", 1e8)
    finally:
        microscope.close()


def test_cpp_properties_become_numbers(demo: MicroManagerMicroscope) -> None:
    options = {"gain": {"device": "Camera", "property": "Gain", "kind": "timing", "lower": -2, "upper": 100}}
    microscope = make_micromanager({"system_config": demo_config(), "properties": options})
    microscope.open()
    try:
        gain = microscope.parameters["gain"]
        assert (gain.lower, gain.upper) == (-2, 8), "the narrower of the configured limits and the device's own"
        assert microscope.set("gain", 3) == 3.0
        live = microscope.frames()
        next(live)
        assert microscope.set("gain", 4) == 4.0, "a property of the camera is set between two sequences"
        assert next(live).settings["gain"] == 4.0
        live.close()  # type: ignore[attr-defined]
    finally:
        microscope.close()


def test_shutter_is_open_only_while_exposing(demo: MicroManagerMicroscope) -> None:
    core = demo._core
    assert not core.getAutoShutter()
    assert not core.getShutterOpen()
    live = demo.frames()
    next(live)
    assert core.getShutterOpen()
    live.close()  # type: ignore[attr-defined]
    assert not core.getShutterOpen()
    demo.snap()
    assert not core.getShutterOpen()


# -- opening -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("Device,Turret,NoSuchAdapter,Thing", "Turret"),
        ("Device,Turret,DemoCamera,Thing", "Turret"),
        ("#py pyDevice,Turret,no_such_module,Thing", "Turret"),
        ("#py pyDevice,Turret,json,Thing", "Turret"),
    ],
)
def test_a_device_that_does_not_load_is_named(tmp_path: Path, line: str, name: str) -> None:
    config = tmp_path / "scope.cfg"
    config.write_text(f"Property,Core,Initialize,0\nDevice,Z,DemoCamera,DStage\n{line}\nProperty,Core,Initialize,1\n")
    microscope = make_micromanager({"system_config": str(config)})
    with pytest.raises(DeviceNotFoundError, match=name) as caught:
        microscope.open()
    assert "\n" not in str(caught.value)
    assert str(config) in str(caught.value)
    microscope.close()


def test_a_python_device_that_does_not_initialise_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UniMMCore only logs this, and would go on with a dead device."""
    (tmp_path / "broken_scope_device.py").write_text(
        "from pymmcore_plus.experimental.unicore import GenericDevice\n"
        "class Dead(GenericDevice):\n"
        "    def initialize(self):\n"
        "        raise OSError('no answer on COM3')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "scope.cfg"
    config.write_text(
        "Property,Core,Initialize,0\n#py pyDevice,Lamp,broken_scope_device,Dead\nProperty,Core,Initialize,1\n"
    )
    with pytest.raises(DeviceNotFoundError, match=r"'Lamp' did not initialise.*no answer on COM3"):
        make_micromanager({"system_config": str(config)}).open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": "Andor"}, "'Andor'"),
        ({"camera": "Z"}, "StageDevice"),
        ({"focus_device": "Camera"}, "CameraDevice"),
        ({"shutter": "Z"}, "StageDevice"),
        ({"initial_properties": [["Camera", "Mood", "1"]]}, "'Mood'"),
        ({"initial_properties": [["Kamera", "Mode", "1"]]}, "'Kamera'"),
        ({"properties": {"p": {"device": "Kamera", "property": "Gain"}}}, "'Kamera'"),
        ({"properties": {"p": {"device": "Camera", "property": "Gian"}}}, "'Gian'"),
    ],
)
def test_a_wrong_label_or_property_is_named(options: dict[str, Any], message: str) -> None:
    microscope = make_micromanager({"system_config": demo_config(), **options})
    with pytest.raises(DeviceNotFoundError, match=message):
        microscope.open()
    assert microscope._core is None


def test_initial_properties_and_limits_are_checked() -> None:
    for options, error, message in (
        ({"initial_properties": [["Camera", "Mode", "Dreams"]]}, HardwareError, "Dreams"),
        ({"properties": {"p": {"device": "Camera", "property": "Offset", "lower": 0}}}, ParameterError, "Offset"),
        (
            {"properties": {"p": {"device": "Camera", "property": "PixelType", "lower": 0, "upper": 1}}},
            HardwareError,
            "P",
        ),
        ({"exposure_ms": 50_000}, ParameterError, "exposure_ms"),
    ):
        microscope = make_micromanager({"system_config": demo_config(), **options})
        with pytest.raises(error, match=message):
            microscope.open()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "system_config"),
        ({"system_config": "a.cfg", "core": object()}, "not both"),
        ({"system_config": "a.cfg", "exposure": 1}, "did you mean 'exposure_ms'"),
        ({"system_config": "a.cfg", "pixel_um": 0}, "greater than 0"),
        ({"system_config": "a.cfg", "exposure_ms": "long"}, "exposure_ms"),
        ({"system_config": "a.cfg", "z_lower_um": 5, "z_upper_um": 5}, "below"),
        ({"system_config": "a.cfg", "timeouts_ms": 5}, "timeouts_ms"),
        ({"system_config": "a.cfg", "timeouts_ms": {"Z": math.nan}}, r"timeouts_ms\.Z"),
        ({"system_config": "a.cfg", "exposure_limits_ms": [1]}, "exposure_limits_ms"),
        ({"system_config": "a.cfg", "initial_properties": ["Camera"]}, "initial_properties"),
        ({"system_config": "a.cfg", "properties": {"p": {"device": "D"}}}, r"properties\.p\.property: required"),
        ({"system_config": "a.cfg", "properties": {"p": {"device": "D", "property": "P", "kind": "x"}}}, "kind"),
        ({"system_config": "a.cfg", "properties": {"p": {"device": "D", "property": "P", "max": 1}}}, "max"),
        ({"system_config": "a.cfg", "properties": {"z_um": {"device": "D", "property": "P"}}}, "another name"),
        (
            {"system_config": "a.cfg", "properties": {"p": {"device": "D", "property": "P", "lower": 2, "upper": 1}}},
            "below",
        ),
    ],
)
def test_options_are_checked_before_any_device(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_micromanager(options)


def test_missing_config_virtual_clock_and_closed_microscope() -> None:
    absent = make_micromanager({"system_config": "/nowhere/scope.cfg"})
    with pytest.raises(DeviceNotFoundError, match=r"/nowhere/scope\.cfg"):
        absent.open()
    with pytest.raises(ParameterError, match="virtual"):
        make_micromanager({"system_config": "a.cfg"}, VirtualClock())
    absent.make_safe()
    absent.close()
    assert absent.parameters == {}
    for call in (absent.snap, absent.read, absent.frames, lambda: absent.set("z_um", 0)):
        with pytest.raises(HardwareError, match="not open"):
            call()


def test_a_bare_name_is_looked_for_beside_the_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    microscope = make_micromanager({"system_config": "MMConfig_demo.cfg"})
    microscope.open()
    assert "z_um" in microscope.parameters
    microscope.close()
    with pytest.raises(DeviceNotFoundError, match="MMConfig_demo"):
        make_micromanager({"system_config": str(tmp_path / "MMConfig_demo.cfg")}).open()


def test_python_lines_choose_the_core_that_knows_them(tmp_path: Path) -> None:
    config = tmp_path / "scope.cfg"
    config.write_text("# a comment about #py lines\nProperty,Core,Initialize,0\n")
    assert not needs_python_devices(config)
    config.write_text("Property,Core,Initialize,0\n  #py pyDevice,Z,a.b,C\r\n")
    assert needs_python_devices(config)


def test_pixel_size_is_needed(bench: Any) -> None:
    with pytest.raises(ParameterError, match="pixel"):
        attached(bench, pixel_um=None)


# -- devices that misbehave ----------------------------------------------------------------------------------------


def test_python_camera_and_shutter_give_no_dark_frames(bench: Any) -> None:
    """Pitfall 1: with autoshutter a Python shutter stays closed in a snap."""
    microscope = attached(bench)
    for _ in range(3):
        frame = microscope.snap()
        assert np.all(frame.pixels == 1000)
        assert not bench.shutter.is_open
    live = microscope.frames()
    assert all(np.all(next(live).pixels == 1000) for _ in range(3))
    assert bench.shutter.is_open
    live.close()  # type: ignore[attr-defined]
    assert not bench.shutter.is_open
    assert bench.core.getAutoShutter(), "the setting of somebody else's core is put back"
    microscope.close()
    assert not acquisition_threads("Cam")


def test_no_shutter_is_no_problem() -> None:
    """Pitfall 2."""
    bench = Bench(shutter=False)
    microscope = attached(bench)
    assert np.all(microscope.snap().pixels == 1000)
    microscope.close()
    release_core(bench.core)


def test_python_properties_become_numbers_and_truth_is_kept(bench: Any) -> None:
    """Pitfall 4; and a simulated camera's truth arrives through its metadata."""
    microscope = attached(bench, simulated=True)
    assert bench.laser.watts == 0.0, "beams are down after opening"
    assert microscope.set("power_pct", 12.5) == 12.5
    assert microscope.read() == {"z_um": 0.0, "exposure_ms": 2.0, "power_pct": 12.5}
    live = microscope.frames()
    frame = next(live)
    assert frame.truth == {"defocus_um": 1.5}
    assert frame.settings["power_pct"] == 12.5
    assert frame.simulated
    live.close()  # type: ignore[attr-defined]
    microscope.close()
    assert bench.laser.watts == 0.0


def test_a_laser_that_ignores_its_setting_is_an_error(bench: Any) -> None:
    """Pitfall 9, the other way round: a write that did not take is never only a warning."""
    microscope = attached(bench)
    with pytest.raises(ParameterError):
        microscope.set("power_pct", 100.5)
    bench.laser.deaf = True
    with pytest.raises(HardwareError, match=r"set to 50 and reads 0"):
        microscope.set("power_pct", 50)
    bench.laser.deaf = False
    microscope.close()


def test_a_stage_that_stays_busy_times_out_against_its_own_deadline(bench: Any) -> None:
    microscope = attached(bench, timeouts_ms={"Z": 40}, timeout_ms=60_000)
    bench.stage.busy_s = 30
    with pytest.raises(DeviceTimeoutError, match=r"'Z' is still busy after 40 ms"):
        microscope.set("z_um", 5)
    bench.stage.busy_until = 0
    microscope.close()


def test_the_deadline_is_the_one_of_this_device() -> None:
    class Core:
        def deviceBusy(self, _label: str) -> bool:  # noqa: N802
            return True

    clock = VirtualClock()
    with pytest.raises(DeviceTimeoutError, match="after 250 ms"):
        wait_for_device(Core(), "Z", 0.25, clock)
    assert 0.25 <= clock.now() < 0.26


def test_an_initial_property_that_does_not_take_is_an_error(bench: Any) -> None:
    bench.laser.deaf = True
    with pytest.raises(HardwareError, match=r"set to '50' but reads 7"):
        attached(bench, initial_properties=[["Laser", "Power", 50]])


def test_a_stuck_stage_is_found_by_its_read_back(bench: Any) -> None:
    microscope = attached(bench)
    bench.stage.stuck = True
    with pytest.raises(StageError, match=r"sent to 5 um and reads 0 um"):
        microscope.set("z_um", 5)
    assert microscope.read()["z_um"] == 0
    bench.stage.z_um = math.nan
    with pytest.raises(StageError, match="reads nan"):
        microscope.set("z_um", 5)
    microscope.close()


def test_a_stage_still_on_its_way_is_waited_for(bench: Any) -> None:
    """Some controllers are no longer busy before they are there."""
    microscope = attached(bench)
    bench.stage.creeps = 5
    assert microscope.set("z_um", 5) == 5
    microscope.close()


@dying_camera
def test_a_camera_that_dies_live_is_an_error_and_the_shutter_closes(bench: Any) -> None:
    """Pitfall 6: nothing tells, the thread just ends."""
    microscope = attached(bench, timeout_ms=5000)
    bench.camera.fail_after = 3
    live = microscope.frames()
    seen = 0
    with pytest.raises(CameraError, match="'Cam' stopped acquiring by itself"):
        for _ in live:
            seen += 1
    assert seen == 3, "frames that had arrived are not thrown away"
    assert not bench.shutter.is_open
    bench.camera.fail_after = None
    assert np.all(microscope.snap().pixels == 1000), "the microscope is usable again"
    microscope.close()


def test_a_camera_that_raises_in_a_snap_closes_the_shutter(bench: Any) -> None:
    microscope = attached(bench)
    bench.camera.fail_after = 0
    with pytest.raises(CameraError, match="cable pulled"):
        microscope.snap()
    assert not bench.shutter.is_open
    microscope.close()


def test_a_hung_camera_meets_its_deadline_and_is_not_started_twice(bench: Any) -> None:
    """Pitfall 5: its thread outlives the stop, and a second one on the same buffer would ruin both."""
    microscope = attached(bench, timeouts_ms={"Cam": 800})
    bench.camera.hang_after = 1
    live = microscope.frames()
    next(live)
    with pytest.raises(CameraError, match="still acquiring") as caught:
        next(live)
    assert "no frame for" in str(caught.value.__context__)
    assert not bench.shutter.is_open
    with pytest.raises(CameraError, match="has not ended yet"):
        next(microscope.frames())
    assert not bench.shutter.is_open
    bench.camera.release.set()
    for thread in acquisition_threads("Cam"):
        thread.join(5)
    bench.camera.hang_after = None
    live = microscope.frames()
    next(live)
    live.close()  # type: ignore[attr-defined]
    microscope.close()


def test_overflow_is_seen_as_a_gap_in_the_index() -> None:
    """Pitfall 8: continuous mode overwrites silently."""
    bench = Bench(size=512)
    bench.core.setCircularBufferMemoryFootprint(2)
    microscope = attached(bench)
    live = microscope.frames()
    first = next(live)
    while not bench.core.isBufferOverflowed():
        time.sleep(0.005)
    later = [next(live) for _ in range(6)]
    live.close()  # type: ignore[attr-defined]
    assert later[-1].index - first.index > 6
    assert microscope.lost_frames == later[-1].index - first.index - 6
    assert later[0].metadata["overflowed"]
    microscope.close()
    release_core(bench.core)


def test_a_shutter_that_does_not_close_is_an_error(bench: Any) -> None:
    microscope = attached(bench)
    live = microscope.frames()
    next(live)
    bench.shutter.jammed = True
    with pytest.raises(HardwareError, match="told to close and is open"):
        live.close()  # type: ignore[attr-defined]
    assert not bench.core.isSequenceRunning()
    bench.shutter.jammed = False
    microscope.make_safe()
    assert not bench.shutter.is_open
    microscope.close()


def test_make_safe_tries_every_step_and_never_raises(bench: Any) -> None:
    microscope = attached(bench)
    microscope.set("power_pct", 30)
    live = microscope.frames()
    next(live)
    bench.shutter.broken = True
    bench.stage.stopped = 0
    microscope.make_safe()
    assert bench.laser.watts == 0.0
    assert bench.stage.stopped == 1
    assert not bench.core.isSequenceRunning()
    bench.shutter.broken = False
    microscope.make_safe()
    assert not bench.shutter.is_open
    with pytest.raises(CameraError, match="stopped acquiring"):
        for _ in live:
            pass
    microscope.close()
    microscope.close()


def test_colour_and_strange_types_are_refused(bench: Any) -> None:
    microscope = attached(bench)
    bench.camera.pixel_type = np.int64
    with pytest.raises(CameraError, match="int64"):
        microscope.snap()
    bench.camera.pixel_type, bench.camera.colour = np.uint16, True
    with pytest.raises(CameraError, match="grey"):
        microscope.snap()
    microscope.close()


def test_a_frame_that_changes_shape_in_the_middle_is_refused(bench: Any) -> None:
    microscope = attached(bench)
    live = microscope.frames()
    next(live)
    bench.camera.size = 16
    with pytest.raises(CameraError, match="changed from"):
        for _ in live:
            pass
    assert not bench.shutter.is_open
    microscope.close()


def test_a_stage_moved_by_somebody_else_shows_in_the_settings(bench: Any) -> None:
    microscope = attached(bench)
    live = microscope.frames()
    next(live)
    bench.stage.z_um = 9.0  # a hand on the focus knob
    noticed = next(frame for frame in live if frame.metadata.get("z_uncertain"))
    assert noticed.settings["z_um"] == 9.0
    after = next(frame for frame in live if "z_uncertain" not in frame.metadata)
    assert after.settings["z_um"] == 9.0
    live.close()  # type: ignore[attr-defined]
    microscope.close()


def test_a_failed_move_leaves_a_record_of_where_the_stage_is(bench: Any) -> None:
    microscope = attached(bench, timeouts_ms={"Z": 200})
    live = microscope.frames()
    next(live)
    bench.stage.creeps = 10_000  # crawls, and never arrives before the deadline
    with pytest.raises(StageError):
        microscope.set("z_um", 40)
    bench.stage.creeps, bench.stage.stuck = 0, True
    failed_s = microscope.clock.now()
    frame = next(live)
    assert frame.metadata["z_uncertain"], "it was exposed while the stage crawled"
    frame = next(f for f in live if f.start_s >= failed_s)
    assert "z_uncertain" not in frame.metadata
    assert frame.settings["z_um"] == bench.stage.z_um
    live.close()  # type: ignore[attr-defined]
    microscope.close()


def test_an_iterator_that_was_never_used_blocks_nothing(bench: Any) -> None:
    microscope = attached(bench)
    unused = microscope.frames()
    microscope.snap()
    live = microscope.frames()
    next(live)
    with pytest.raises(CameraError, match="close its iterator"):
        next(unused)
    assert next(live).index == 2, "the one that runs goes on"
    live.close()  # type: ignore[attr-defined]
    assert microscope.snap().index == 3
    microscope.close()


# -- one owner -----------------------------------------------------------------------------------------------------


def in_thread(call: Any) -> Any:
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(call())
        except HardwareError as error:
            result.append(error)

    thread = threading.Thread(target=run, name="stranger")
    thread.start()
    thread.join(10)
    return result[0]


def test_another_thread_is_refused_but_may_make_safe(bench: Any) -> None:
    microscope = attached(bench)
    for call in (microscope.snap, microscope.read, microscope.frames, lambda: microscope.set("z_um", 1)):
        error = in_thread(call)
        assert isinstance(error, HardwareError)
        assert "stranger" in str(error)
        assert threading.current_thread().name in str(error)
    assert isinstance(in_thread(microscope.close), HardwareError)
    assert bench.stage.z_um == 0
    microscope.set("power_pct", 30)
    in_thread(microscope.make_safe)
    assert bench.laser.watts == 0.0
    microscope.close()


def test_anybody_may_close_what_a_dead_thread_opened() -> None:
    microscope = make_micromanager({"system_config": demo_config()})
    in_thread(microscope.open)
    with pytest.raises(HardwareError, match="belongs to thread 'stranger'"):
        microscope.read()
    microscope.close()
    assert microscope.parameters == {}


# -- a core that belongs to another program ------------------------------------------------------------------------


@pytest.fixture
def shared_core() -> Iterator[CMMCorePlus]:
    core = CMMCorePlus()
    core.loadSystemConfiguration(demo_config())
    core.setExposure(5)
    core.setCircularBufferMemoryFootprint(16)
    yield core
    core.stopSequenceAcquisition()
    release_core(core)


def test_attached_leaves_the_core_as_it_was(shared_core: CMMCorePlus) -> None:
    microscope = MicroManagerMicroscope.attach(shared_core)
    microscope.open()
    with pytest.raises(HardwareError, match="open already"):
        microscope.open()
    assert microscope.snap().pixel_um == 1.0
    microscope.close()
    assert shared_core.getAutoShutter()
    assert "Z" in shared_core.getLoadedDevices()


def test_a_live_view_of_somebody_else_is_only_watched(shared_core: CMMCorePlus) -> None:
    """Trap v: popping would steal the frames of the program that started it."""
    microscope = MicroManagerMicroscope.attach(shared_core)
    microscope.open()
    shared_core.startContinuousSequenceAcquisition(0)
    live = microscope.frames()
    frames = [next(live) for _ in range(4)]
    waiting = shared_core.getRemainingImageCount()
    assert waiting >= 4, "every frame is still there for its owner"
    indices = [frame.index for frame in frames]
    assert indices == sorted(set(indices))
    with pytest.raises(CameraError):
        microscope.snap()
    assert microscope.set("z_um", 3.0) == 3.0
    assert shared_core.getShutterOpen()
    microscope.make_safe()
    assert shared_core.getShutterOpen()
    assert shared_core.isSequenceRunning(), "our safety does not end somebody else's acquisition"
    shared_core.stopSequenceAcquisition()
    shared_core.clearCircularBuffer()
    assert list(live) == []
    microscope.close()


def test_an_image_that_lay_there_before_we_came_is_not_a_new_frame() -> None:
    class Core:
        number = 5

        def getLastImageAndMD(self) -> tuple[Any, dict[str, str]]:  # noqa: N802
            return np.zeros((4, 4), np.uint16), {"ImageNumber": str(self.number), "ElapsedTime-ms": "50"}

    core = Core()
    watched = WatchedSequence(core, "Cam", RealClock(), None)
    assert watched.take(0.01) is None
    assert watched.take(0.01) is None
    core.number = 6
    raw = watched.take(0.01)
    assert raw is not None
    assert raw.number == 6
    assert watched.take(0.01) is None


def test_an_mda_of_somebody_else_is_tapped_and_not_disturbed(shared_core: CMMCorePlus) -> None:
    useq = pytest.importorskip("useq")
    delivered: list[Any] = []
    shared_core.mda.events.frameReady.connect(lambda image, event, meta: delivered.append(image))
    microscope = MicroManagerMicroscope.attach(shared_core)
    microscope.open()

    def events() -> Iterator[Any]:
        until_s = time.monotonic() + 30
        while not (microscope._tap and microscope._tap.connected) and time.monotonic() < until_s:
            time.sleep(0.001)
        for t in range(5):
            yield useq.MDAEvent(index={"t": t}, z_pos=float(t), exposure=5)

    with pytest.raises(CameraError, match="no MDA"):
        microscope.push(np.zeros((2, 2), np.uint16), None, {})
    run = shared_core.run_mda(events())
    while not shared_core.mda.is_running():
        time.sleep(0.001)
    live = microscope.frames()
    frames = []
    for frame in live:
        if not frames:
            with pytest.raises(HardwareError, match="MDA"):
                microscope.set("z_um", 50.0)
        frames.append(frame)
    run.join(10)  # type: ignore[union-attr]
    assert len(delivered) == 5
    assert [frame.settings["z_um"] for frame in frames] == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert [frame.metadata["mda_index"]["t"] for frame in frames] == [0, 1, 2, 3, 4]
    assert all(frame.end_s - frame.start_s >= 0.005 for frame in frames)
    microscope.close()


def test_the_frame_of_an_event_that_began_before_we_came_is_left_out() -> None:
    clock = VirtualClock()
    tap = MdaTap(None, clock)
    image = np.ones((2, 2), np.uint16)
    tap.push(image, None, {"exposure_ms": 5.0})
    assert tap.take() is None
    tap._on_event(None)
    clock.sleep(0.1)
    tap.push(image, None, {"exposure_ms": 5.0})
    image[:] = 0
    raw = tap.take()
    assert raw is not None
    assert (raw.start_s, raw.end_s, raw.number) == (0.0, 0.1, 0)
    assert raw.pixels.all(), "the image was copied: its owner may use the buffer again"


# -- when was it exposed -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    gaps=st.lists(st.floats(0.001, 0.2), min_size=1, max_size=30),
    looks=st.lists(st.floats(0.0002, 0.5), min_size=1, max_size=60),
    readout=st.floats(0.0, 0.01),
    start_delay=st.floats(0.0, 0.3),
    elapsed=st.booleans(),
)
def test_no_exposure_is_ever_dated_too_late(
    gaps: list[float], looks: list[float], readout: float, start_delay: float, elapsed: bool
) -> None:
    exposure = 0.001
    called = 100.0
    sequence_start = called + start_delay
    arrivals = sequence_start + exposure + readout + np.cumsum(gaps)
    clock = FrameClock(called, latency_s=0.01, started_s=called)
    waiting = list(enumerate(arrivals))
    now = called
    for wait in [*looks, 10.0]:
        now += wait
        look = now
        while waiting and waiting[0][1] <= now:
            number, arrival = waiting.pop(0)
            now += 0.0001
            start, end = clock.stamp(number, arrival - sequence_start if elapsed else None, now, exposure)
            assert start <= arrival - readout - exposure + 1e-9, "dated later than it was exposed"
            assert called <= start <= end <= now
        if not waiting or waiting[0][1] > look:
            clock.saw_nothing(look)
    assert not waiting


def test_a_camera_clock_that_drifts_does_not_run_away() -> None:
    for rate in (0.99, 1.01):
        clock = FrameClock(0.0, latency_s=0.0, started_s=0.0)
        for k in range(1, 5000):
            arrival = 0.01 * k
            clock.saw_nothing(arrival - 0.0005)
            _, end = clock.stamp(k - 1, arrival * rate, arrival + 0.0005, 0.005)
            assert abs(end - arrival) <= 0.0011
