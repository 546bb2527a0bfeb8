"""A real Micro-Manager core from configuration to focus, through the driver alone: no policy, no network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parfocal.drivers import make_microscope
from parfocal.drivers.base import Frame, Microscope

CONFIG = """
Property,Core,Initialize,0
Device,DHub,DemoCamera,DHub
Device,Camera,DemoCamera,DCam
Device,Z,DemoCamera,DStage
Device,Shutter,DemoCamera,DShutter
Parent,Camera,DHub
Parent,Z,DHub
Parent,Shutter,DHub
Property,Core,Initialize,1
Property,Core,Camera,Camera
Property,Core,Focus,Z
Property,Core,Shutter,Shutter
"""


@pytest.fixture
def section(tmp_path: Path) -> dict[str, Any]:
    config = tmp_path / "scope.cfg"
    config.write_text(CONFIG)
    return {
        "driver": "micromanager",
        "system_config": str(config),
        "objective": {"na": 0.75, "immersion_index": 1.0, "magnification": 20.0},
        "emission_nm": 520,
        "pixel_um": 0.325,
        "exposure_ms": 5,
        "z_lower_um": -30,
        "z_upper_um": 30,
        "initial_properties": [["Camera", "Mode", "Fluorescent Beads"], ["Camera", "PixelType", "16bit"]],
    }


def sharpness(frame: Frame) -> float:
    p = frame.pixels.astype(float)
    return float(np.var(4 * p[1:-1, 1:-1] - p[:-2, 1:-1] - p[2:, 1:-1] - p[1:-1, :-2] - p[1:-1, 2:]))


def sweep(microscope: Microscope, places: np.ndarray) -> float:
    """Live frames, one that counts for each place; the peak of a parabola through the logarithm of the three best."""
    live = microscope.frames()
    scores = []
    for z_um in places:
        microscope.set("z_um", float(z_um))
        settled_s = microscope.clock.now()
        frame = next(f for f in live if f.start_s >= settled_s)
        assert frame.settings["z_um"] == pytest.approx(z_um)
        scores.append(sharpness(frame))
    live.close()  # type: ignore[attr-defined]
    best = int(np.clip(np.argmax(scores), 1, len(places) - 2))
    a, b, c = np.log(scores[best - 1 : best + 2])
    return float(places[best] + (places[1] - places[0]) * 0.5 * (a - c) / (a - 2 * b + c))


@pytest.mark.parametrize("start_um", [-9.0, 15.0])
def test_the_beads_are_found_in_live_mode(section: dict[str, Any], start_um: float) -> None:
    for _ in range(2):  # and once more: what was opened is let go
        microscope = make_microscope("micromanager", section)
        microscope.open()
        try:
            microscope.set("z_um", start_um)
            focus_um = sweep(microscope, np.arange(-7.5, 8.5, 3.0) + 0.6)
            assert abs(focus_um) < 0.5
            assert microscope.set("z_um", focus_um) == pytest.approx(focus_um, abs=1e-3)
            assert sharpness(microscope.snap()) > 20
        finally:
            microscope.close()


def test_an_exception_leaves_the_shutter_closed_and_the_process_whole(section: dict[str, Any]) -> None:
    program = f"""
from parfocal.drivers import make_microscope
microscope = make_microscope("micromanager", {section!r})
microscope.open()
core = microscope._core
try:
    for frame in microscope.frames():
        assert core.getShutterOpen()
        raise KeyboardInterrupt
except KeyboardInterrupt:
    microscope.make_safe()
    print("open" if core.getShutterOpen() else "closed", "live" if core.isSequenceRunning() else "idle")
del core
microscope.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "closed idle"
