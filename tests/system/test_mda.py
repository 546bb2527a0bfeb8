"""Beside an acquisition, from end to end: simulated Micro-Manager devices, a real runner, and the shipped network.

The sample drifts and is tilted from one position to the other; the second channel focuses elsewhere. Nobody is told.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import useq
from pymmcore_plus.experimental.unicore import UniMMCore

import parfocal
from parfocal.daemon.journal import read_journal
from parfocal.drivers.mm_core import release_core
from parfocal.drivers.mmdevices import config_path, configure_world, world

EXAMPLES = Path(__file__).parents[2] / "examples"
OPTICS = {"na": 0.75, "emission_nm": 520}
DOF_UM = 1.36
pytestmark = pytest.mark.timeout(300)


@dataclass
class Truth:
    """The simulated sample: where its focus lies beside the drift, and how far off every frame was."""

    core: Any
    tilt_um: dict[int, float] = field(default_factory=dict)
    colour_um: dict[str, float] = field(default_factory=dict)
    offset_um: float = 0.0
    defocus_um: list[float] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    metas: list[Any] = field(default_factory=list)
    _last: float = 0.0

    def install(self) -> None:
        shared = world()
        simulator, plain = shared._simulator, shared.expose
        focus = simulator.focus_z_um
        simulator.focus_z_um = lambda t: focus(t) + self.offset_um  # type: ignore[method-assign]

        def expose(exposure_ms: float) -> Any:
            pixels, truth = plain(exposure_ms)
            self._last = truth["defocus_um"]
            return pixels, truth

        shared.expose = expose  # type: ignore[method-assign]
        self.core.mda.events.eventStarted.connect(self.begun)
        self.core.mda.events.frameReady.connect(self.ready)

    def remove(self) -> None:
        vars(world()).pop("expose", None)
        self.core.mda.events.eventStarted.disconnect(self.begun)
        self.core.mda.events.frameReady.disconnect(self.ready)

    def begun(self, event: Any) -> None:
        channel = event.channel.config if event.channel else ""
        self.offset_um = self.tilt_um.get(event.index.get("p", 0), 0.0) + self.colour_um.get(channel, 0.0)

    def ready(self, _image: Any, event: Any, meta: Any) -> None:
        self.defocus_um.append(self._last)
        self.events.append(event)
        self.metas.append(meta)


@pytest.fixture
def core() -> Iterator[Any]:
    core = UniMMCore()
    core.loadSystemConfiguration(config_path())
    for name, power in (("Green", 100.0), ("Red", 60.0)):
        core.defineConfig("Channel", name, "SimLight", "PowerPct", power)
    yield core
    configure_world({})
    release_core(core)


def sample(core: Any, drift_um_per_min: float, **more: Any) -> Truth:
    configure_world(
        {
            "exposure_ms": 5.0,
            "simulation": {
                "size_px": 256,
                "photons": 2000.0,
                "stage": {"settle_ms": 3.0},
                "drift": {"rate_um_per_min": drift_um_per_min},
            },
        }
    )
    truth = Truth(core, **more)
    truth.install()
    return truth


def test_positions_planes_and_channels_are_kept_in_focus(core: Any, tmp_path: Path) -> None:
    """Two positions on a tilted sample, two channels with a chromatic offset, three planes: no extra look is taken."""
    plan = useq.MDASequence(
        axis_order="tpcz",
        time_plan={"interval": 0.8, "loops": 8},
        stage_positions=[{"z": 2.0}, {"z": 4.0}],
        channels=["Green", "Red"],
        z_plan={"range": 4.0, "step": 2.0},
    )
    with parfocal.attach(
        core, **OPTICS, drift_um_per_min=20, session=tmp_path, process=False, channels="Green"
    ) as seat:
        truth = sample(core, 20.0, tilt_um={0: 2.0, 1: 4.9}, colour_um={"Red": 0.5})
        core.mda.run(plan, output=tmp_path / "run.ome.zarr")
        status = seat.status()
    truth.remove()
    assert len(truth.events) == 96
    middle = {
        (e.index["t"], e.index["p"], e.channel.config): d
        for e, d in zip(truth.events, truth.defocus_um, strict=True)
        if e.index["z"] == 1
    }
    green = [abs(d) for (t, _, c), d in middle.items() if c == "Green" and t >= 2]
    assert np.mean(green) <= 0.15, green
    # Without parfocal the last time point would be 20 um/min times 5.6 s off, and the tilt of the second position.
    assert max(green) <= 0.4
    # The other channel was never looked at: it rides along, its own focus half a um higher.
    red = [d for (t, _, c), d in middle.items() if c == "Red" and t >= 2]
    assert np.mean(red) == pytest.approx(-0.5, abs=0.2)
    # Relative geometry: within one stack the planes are 2 um apart, as planned.
    for t, p in {(e.index["t"], e.index["p"]) for e in truth.events}:
        stack = [
            m["parfocal"]["correction_um"] + e.z_pos
            for e, m in zip(truth.events, truth.metas, strict=True)
            if (e.index["t"], e.index["p"], e.channel.config) == (t, p, "Green")
        ]
        assert np.diff(stack) == pytest.approx(2.0, abs=0.15)
    # The plan is not lost: events, metadata and the file have the z that was planned.
    assert {e.z_pos for e in truth.events} == {0.0, 2.0, 4.0, 6.0}
    assert all(m["parfocal"]["planned_z_um"] == e.z_pos for e, m in zip(truth.events, truth.metas, strict=True))
    assert (status.looks, status.refused, status.skipped) == (0, 0, 0)
    assert status.simulated
    assert (tmp_path / "run.ome.zarr").exists()


def test_a_single_plane_is_kept_in_focus_with_a_few_looks(core: Any, tmp_path: Path) -> None:
    """One plane alone cannot tell the side: extra looks do, in the pause; the network in a process of its own."""
    plan = [useq.MDAEvent(index={"t": t}, min_start_time=0.3 * t, z_pos=0.0) for t in range(40)]
    with parfocal.attach(core, **OPTICS, drift_um_per_min=60, session=tmp_path) as seat:
        truth = sample(core, 60.0)
        core.mda.run(iter(plan))
        status = seat.status()
    truth.remove()
    late = np.abs(truth.defocus_um[8:])
    assert len(truth.defocus_um) == 40, "the looks are not part of the acquisition"
    assert np.median(late) <= 0.15, late
    assert 0 < status.looks <= 50
    reading = read_journal(Path(status.session) / "journal.jsonl")
    assert reading.header["simulated"] is True
    said = [r["kind"] for r in reading.records if r["kind"] in ("command", "readback")]
    assert "command" in said and said[-1] == "readback"
    assert ("command", "command") not in set(pairwise(said)), "every command is read back before the next"
    assert [r["new"] for r in reading.of("state")][-2:] == ["safe", "ended"]
    assert reading.records[-1]["kind"] == "end"


def test_an_autofocus_of_the_plan_finds_a_focus_that_is_far_off(core: Any, tmp_path: Path) -> None:
    plan = useq.MDASequence(
        axis_order="ptc",
        stage_positions=[{"z": 0.0}, {"z": 0.0}],
        channels=["Green"],
        time_plan={"interval": 0.0, "loops": 2},
        autofocus_plan={"autofocus_motor_offset": None, "axes": ("p",)},
    )
    with parfocal.attach(core, **OPTICS, session=tmp_path, process=False) as seat:
        truth = sample(core, 0.0, tilt_um={0: 9.0, 1: -7.0})
        core.mda.run(plan)
        status = seat.status()
    truth.remove()
    assert len(truth.defocus_um) == 4
    assert np.max(np.abs(truth.defocus_um)) <= 0.5 * DOF_UM, truth.defocus_um
    assert status.searches == 2
    assert {m["parfocal"]["planned_z_um"] for m in truth.metas} == {0.0}


@pytest.mark.parametrize("name", ["mda_timelapse.py", "mda_autofocus.py"])
def test_the_examples_run_as_they_are(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert "focus" in done.stdout
