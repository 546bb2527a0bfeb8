"""A small microscope in a real core: a stage, a laser, and a camera whose pixels say how far off the focus is."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pymmcore_plus.experimental.unicore import (
    CameraDevice,
    GenericDevice,
    ShutterDevice,
    StageDevice,
    UniMMCore,
    pymm_property,
)

from parfocal.daemon.mda import attach as attaching
from parfocal.daemon.mda import autofocus as focusing
from parfocal.drivers.mm_core import release_core
from parfocal.models.base import Assessment, ScorerError

COUNTS_PER_UM = 1000.0


class Scene:
    """What the devices share. `focus_um` is where the focus lies, and drifts with every frame, not with time."""

    def __init__(self) -> None:
        self.z_um = 0.0
        self.focus_um = 0.0
        self.drift_um = 0.0
        self.tilt_um: dict[str, float] = {}
        self.where = ""
        self.snaps = 0
        self.defocus_um: list[float] = []
        self.stuck = False
        self.lost = False

    def defocus(self) -> float:
        return self.z_um - self.focus_um - self.tilt_um.get(self.where, 0.0)


class Stage(StageDevice):
    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene
        self.goals: list[float] = []

    def set_position_um(self, val: float) -> None:
        self.goals.append(val)
        if not self.scene.stuck:
            self.scene.z_um = val

    def get_position_um(self) -> float:
        return float("nan") if self.scene.lost else self.scene.z_um

    def home(self) -> None: ...

    def stop(self) -> None: ...

    def set_origin(self) -> None: ...


class Laser(GenericDevice):
    def __init__(self) -> None:
        super().__init__()
        self.power_pct = 10.0
        self.deaf = False
        self.told: list[float] = []

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        return self.power_pct

    @power.setter
    def _set_power(self, value: float) -> None:
        self.told.append(value)
        if not self.deaf:
            self.power_pct = value

    @pymm_property(limits=(0.0, 100.0), name="Filter")
    def filter(self) -> float:
        return 5.0

    @filter.setter
    def _set_filter(self, value: float) -> None:
        """Never takes it."""


class Shutter(ShutterDevice):
    def __init__(self) -> None:
        super().__init__()
        self.is_open = True

    def get_open(self) -> bool:
        return self.is_open

    def set_open(self, open: bool) -> None:
        self.is_open = open


class Camera(CameraDevice):
    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene
        self.exposure_ms = 1.0
        self.fail_at: int | None = None

    def get_exposure(self) -> float:
        return self.exposure_ms

    def set_exposure(self, exposure: float) -> None:
        self.exposure_ms = exposure

    def shape(self) -> tuple[int, int]:
        return (32, 32)

    def dtype(self) -> Any:
        return np.dtype(np.uint16)

    def start_sequence(self, n: int | None, get_buffer: Any) -> Iterator[Mapping[str, Any]]:
        scene = self.scene
        for _ in range(n or 1):
            if scene.snaps == self.fail_at:
                scene.snaps += 1
                raise RuntimeError("cable pulled")
            scene.snaps += 1
            scene.focus_um += scene.drift_um
            scene.defocus_um.append(scene.defocus())
            buffer = get_buffer(self.shape(), self.dtype())
            buffer[:] = min(1000.0 + COUNTS_PER_UM * abs(scene.defocus()), 65000.0)
            yield {}


class Oracle:
    """A scorer that reads the defocus off the pixels, and can fail, hang, or say nothing."""

    def __init__(self) -> None:
        self.fail_from: int | None = None
        self.recovers = False
        self.silent_from: int | None = None
        self.raises: Exception | None = None
        self.gate: threading.Event | None = None
        self.scored = self.restarts = self.closed = self.started = 0
        self.seen: list[float] = []

    def start(self) -> None:
        self.started += 1

    def score(self, pixels: Any, pixel_um: float, timeout_s: float) -> dict[str, Assessment]:
        if self.gate is not None:
            self.gate.wait(30)
        self.scored += 1
        if self.raises is not None:
            raise self.raises
        if self.fail_from is not None and self.scored >= self.fail_from:
            raise ScorerError("the scorer process died")
        if self.silent_from is not None and self.scored >= self.silent_from:
            return {"defocus": Assessment.abstain("defocus", "no structure above the noise")}
        value = (float(pixels.mean()) - 1000.0) / COUNTS_PER_UM
        self.seen.append(value)
        return {"defocus": Assessment("defocus", max(value, 0.4), 0.3, detail={"in_um": 1.0})}

    def restart(self) -> None:
        self.restarts += 1
        if self.recovers:
            self.fail_from = None

    def close(self) -> None:
        self.closed += 1

    def describe(self) -> dict[str, Any]:
        return {"defocus": {"name": "oracle"}}


class Rig:
    """Core, devices and scorer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scene, self.oracle = Scene(), Oracle()
        self.stage, self.laser, self.camera, self.shutter = Stage(self.scene), Laser(), Camera(self.scene), Shutter()
        self.core = UniMMCore()
        for label, device in {"Cam": self.camera, "Z": self.stage, "Laser": self.laser, "Sh": self.shutter}.items():
            self.core.loadPyDevice(label, device)
            self.core.initializeDevice(label)
        self.core.setCameraDevice("Cam")
        self.core.setFocusDevice("Z")
        self.core.setShutterDevice("Sh")
        self.core.setAutoShutter(False)
        self.frames: list[tuple[Any, Any, float]] = []
        self.core.mda.events.frameReady.connect(self._ready)
        self.core.mda.events.eventStarted.connect(self._started)
        self.seat: Any = None

    def _started(self, event: Any) -> None:
        self.scene.where = str(event.index.get("p", "")) + (event.channel.config if event.channel else "")

    def _ready(self, _image: Any, event: Any, meta: Any) -> None:
        self.frames.append((event, dict(meta), self.scene.z_um))

    def attach(self, config: Any = None, **options: Any) -> Any:
        given = {"na": 0.75, "emission_nm": 520, "pixel_um": 0.325, "session": self.folder / "s", **options}
        given = {key: value for key, value in given.items() if not (isinstance(config, str) and key == "session")}
        self.seat = attaching.attach(self.core, config, **given)
        return self.seat

    def run(self, events: Any, **more: Any) -> None:
        """Run events one by one, each frame scored before the next: what is tested is not how fast this machine is."""
        self.core.mda.run(self._paced(events), **more)

    def _paced(self, events: Any) -> Iterator[Any]:
        for event in events:
            yield event
            run = self.seat._last if self.seat is not None else None
            if run is not None and self.oracle.gate is None:
                run.follower.drain(10.0)
                time.sleep(0.001)

    def journal(self) -> list[dict[str, Any]]:
        from parfocal.daemon.journal import read_journal

        return read_journal(Path(self.seat.status().session) / "journal.jsonl").records


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setenv("PARFOCAL_FACILITY", "")
    made = Rig(tmp_path)
    monkeypatch.setattr(attaching, "scorer_for", lambda _config: made.oracle)
    monkeypatch.setattr(focusing, "scorer_for", lambda _config: made.oracle)
    yield made
    if made.oracle.gate is not None:
        made.oracle.gate.set()
    if made.seat is not None:
        made.seat.detach()
    release_core(made.core)


@pytest.fixture
def timelapse() -> Callable[..., list[Any]]:
    import useq

    def make(count: int, z_pos: float | None = 0.0, **more: Any) -> list[Any]:
        return [useq.MDAEvent(index={"t": t}, z_pos=z_pos, **more) for t in range(count)]

    return make
