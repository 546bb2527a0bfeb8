"""Our simulated microscope in a Micro-Manager core: as any program sees it, and through our own driver."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.experimental.unicore import UniMMCore

from parfocal.drivers import make_microscope
from parfocal.drivers.base import ParameterError
from parfocal.drivers.mm_core import acquisition_threads, release_core
from parfocal.drivers.mmdevices import config_path, configure_world, world

SMALL: dict[str, Any] = {
    "exposure_ms": 2.0,
    "simulation": {"size_px": 96, "specimen": "beads", "photons": 5000.0, "focus_um": 3.0, "stage": {"settle_ms": 5.0}},
}


@pytest.fixture(autouse=True)
def small_world() -> Iterator[None]:
    configure_world(SMALL)
    yield
    configure_world({})


@pytest.fixture
def core() -> Iterator[UniMMCore]:
    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    yield core
    release_core(core)


def sharpness(pixels: Any) -> float:
    return float(np.var(np.diff(pixels.astype(float), axis=0)))


def snap_at(core: UniMMCore, z_um: float) -> Any:
    core.setPosition(z_um)
    core.waitForDevice("SimZ")
    return core.snap()


def test_a_plain_program_finds_a_focus(core: UniMMCore) -> None:
    assert core.getLoadedDevices()[:4] == ("SimCamera", "SimZ", "SimShutter", "SimLight")
    assert core.getPixelSizeUm() == 0.325
    assert not core.getAutoShutter()
    sharp, blurred = snap_at(core, 3.0), snap_at(core, 15.0)
    assert sharp.shape == (96, 96)
    assert sharp.dtype == np.uint16
    assert sharpness(sharp) > 3 * sharpness(blurred)
    assert core.getPosition() == pytest.approx(15.0, abs=0.01)


def test_the_stage_takes_its_time(core: UniMMCore) -> None:
    core.setPosition(40.0)
    assert core.deviceBusy("SimZ")
    assert core.getPosition() < 40.0
    core.waitForDevice("SimZ")
    assert core.getPosition() == pytest.approx(40.0, abs=0.01)
    with pytest.raises(Exception, match="101"):
        core.setPosition(101.0)
    core.home("SimZ")
    core.stop("SimZ")
    assert not core.deviceBusy("SimZ")


def test_light_and_shutter_are_seen(core: UniMMCore) -> None:
    bright = snap_at(core, 3.0).max()
    core.setProperty("SimLight", "PowerPct", 10)
    dim = core.snap().max()
    core.setShutterOpen(False)
    dark = core.snap().max()
    assert bright > 3 * dim > 3 * dark
    with pytest.raises(ValueError, match="range"):
        core.setProperty("SimLight", "PowerPct", 101)


def test_changes_are_announced(core: UniMMCore) -> None:
    """Pitfall 3: UniMMCore does not do it for the devices."""
    heard: list[tuple[Any, ...]] = []
    core.events.propertyChanged.connect(lambda *what: heard.append(what))
    core.events.stagePositionChanged.connect(lambda *what: heard.append(what))
    core.events.exposureChanged.connect(lambda *what: heard.append(what))
    core.setProperty("SimLight", "PowerPct", 50)
    core.setProperty("SimCamera", "Photons", 100)
    core.setPosition(2.0)
    core.setExposure(4.0)
    assert ("SimLight", "PowerPct", "50.0") in heard
    assert ("SimCamera", "Photons", "100.0") in heard
    assert ("SimZ", 2.0) in heard
    assert ("SimCamera", 4.0) in heard


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("Seed", 7, ("seed",)),
        ("Photons", 250.0, ("simulation", "photons")),
        ("Specimen", "filaments", ("simulation", "specimen")),
        ("DriftUmPerMin", 900.0, ("simulation", "drift", "rate_um_per_min")),
        ("FocusUm", -4.0, ("simulation", "focus_um")),
    ],
)
def test_properties_change_the_world(core: UniMMCore, name: str, value: Any, option: tuple[str, ...]) -> None:
    before = snap_at(core, 12.0)
    core.setProperty("SimCamera", name, value)
    assert core.getProperty("SimCamera", name) == value
    assert world().option(option) == value
    assert core.getPosition() == pytest.approx(12.0, abs=0.01), "the stage stays where it is"
    time.sleep(0.05)  # for the drift: 0.75 um
    assert not np.array_equal(core.snap(), before)


def test_bad_values_change_nothing(core: UniMMCore) -> None:
    for name, value in (("Specimen", "cat"), ("Photons", -1), ("Seed", -1)):
        before = core.getProperty("SimCamera", name)
        with pytest.raises(ValueError, match=name):
            core.setProperty("SimCamera", name, value)
        assert core.getProperty("SimCamera", name) == before
    for exposure in (0.0, 20_000.0, float("nan")):
        with pytest.raises(ValueError, match="exposure"):
            core.setExposure(exposure)
    with pytest.raises(ParameterError):
        world().change(("simulation", "photons"), -5.0)
    assert world().option(("simulation", "photons")) == 5000.0


def test_live_frames_carry_the_truth(core: UniMMCore) -> None:
    snap_at(core, 7.0)
    core.startContinuousSequenceAcquisition(0)
    while core.getRemainingImageCount() < 2:
        time.sleep(0.001)
    _, metadata = core.popNextImageAndMD()
    core.stopSequenceAcquisition()
    assert float(metadata["Truth-defocus_um"]) == pytest.approx(4.0, abs=0.02)
    assert float(metadata["Truth-focus_z_um"]) == pytest.approx(3.0)
    assert metadata["Simulated"] == "1"


def test_a_long_exposure_ends_when_told(core: UniMMCore) -> None:
    """Pitfall 5: a thread that outlives the stop would share its buffer with the next acquisition."""
    core.setExposure(9000.0)
    core.startContinuousSequenceAcquisition(0)
    (thread,) = acquisition_threads("SimCamera")
    core.stopSequenceAcquisition()
    assert not thread.is_alive()
    core.setExposure(2.0)
    core.startContinuousSequenceAcquisition(0)
    while core.getRemainingImageCount() < 2:
        time.sleep(0.001)
    core.stopSequenceAcquisition()
    assert acquisition_threads("SimCamera") == []


def test_unloading_ends_an_exposure() -> None:
    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    core.setExposure(9000.0)
    core.startContinuousSequenceAcquisition(0)
    release_core(core)
    assert acquisition_threads("SimCamera") == []


def test_through_our_driver_it_is_a_microscope_that_says_simulated() -> None:
    microscope = make_microscope(
        "micromanager",
        {
            "system_config": config_path(),
            "z_lower_um": -50,
            "z_upper_um": 50,
            "properties": {"power_pct": {"device": "SimLight", "property": "PowerPct", "unit": "%"}},
        },
    )
    microscope.open()
    try:
        assert microscope.simulated
        assert not world().shutter_open
        assert world().power == 0.0
        microscope.set("power_pct", 100.0)
        live = microscope.frames()
        for z_um in (3.0, 10.0):
            got = microscope.set("z_um", z_um)
            settled_s = microscope.clock.now()
            frame = next(f for f in live if f.start_s >= settled_s)
            assert frame.settings["z_um"] == got
            assert frame.truth["defocus_um"] == pytest.approx(z_um - 3.0, abs=0.02)
            assert frame.simulated
            assert frame.pixels.max() > 150
        live.close()  # type: ignore[attr-defined]
    finally:
        microscope.close()
    assert not world().shutter_open
    assert world().power == 0.0
    assert not [t for t in threading.enumerate() if type(t).__name__ == "AcquisitionThread"]


def test_a_plain_core_takes_the_python_lines_for_comments() -> None:
    """Why the driver looks into the file before it chooses a core."""
    core = CMMCorePlus()
    core.loadSystemConfiguration(config_path())
    assert core.getLoadedDevices() == ("Core",)
    release_core(core)


def test_the_process_ends_cleanly_after_a_run() -> None:
    """MMCore's own thread aborts the interpreter when an event is still on its way at its end."""
    program = (
        "from parfocal.drivers import make_microscope\n"
        "from parfocal.drivers.mmdevices import config_path\n"
        "microscope = make_microscope('micromanager', {'system_config': config_path()})\n"
        "microscope.open(); microscope.set('z_um', 3.0); microscope.snap(); microscope.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
