"""Micro-Manager devices written in Python that misbehave on demand."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pymmcore_plus.experimental.unicore import (
    CameraDevice,
    GenericDevice,
    ShutterDevice,
    StageDevice,
    UniMMCore,
    pymm_property,
)


class FakeStage(StageDevice):
    """Arrives at once, unless told to be busy, stuck, blind, or still on its way."""

    def __init__(self) -> None:
        super().__init__()
        self.z_um = 0.0
        self.busy_until = 0.0
        self.busy_s = 0.0
        self.stuck = False
        self.creeps = 0
        self.stopped = 0
        self._goal = 0.0

    def set_position_um(self, val: float) -> None:
        self.busy_until = time.monotonic() + self.busy_s
        self._goal = val
        if not self.stuck and not self.creeps:
            self.z_um = val

    def get_position_um(self) -> float:
        if self.creeps and self.z_um != self._goal:
            self.creeps -= 1
            self.z_um = self._goal if not self.creeps else self.z_um + 0.01
        return self.z_um

    def busy(self) -> bool:
        return time.monotonic() < self.busy_until

    def home(self) -> None: ...

    def stop(self) -> None:
        self.stopped += 1

    def set_origin(self) -> None: ...


class FakeShutter(ShutterDevice):
    """Opens and closes, unless jammed or broken."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = False
        self.jammed = False
        self.broken = False

    def get_open(self) -> bool:
        return self.is_open

    def set_open(self, open: bool) -> None:
        if self.broken:
            raise RuntimeError("no reply on COM3")
        if not self.jammed:
            self.is_open = open


class FakeLaser(GenericDevice):
    """A power that reads as a number and can ignore what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.watts = 7.0
        self.deaf = False

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        return self.watts

    @power.setter
    def _set_power(self, value: float) -> None:
        if not self.deaf:
            self.watts = value


class FakeCamera(CameraDevice):
    """Bright only while the shutter is open; can fail, hang, or be slow to stop."""

    def __init__(self, shutter: FakeShutter | None = None, size: int = 32) -> None:
        super().__init__()
        self.shutter = shutter
        self.size = size
        self.exposure_ms = 2.0
        self.fail_after: int | None = None
        self.hang_after: int | None = None
        self.release = threading.Event()
        self.pixel_type: Any = np.uint16
        self.colour = False

    def get_exposure(self) -> float:
        return self.exposure_ms

    def set_exposure(self, exposure: float) -> None:
        self.exposure_ms = exposure

    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.size, self.size, 3) if self.colour else (self.size, self.size)

    def dtype(self) -> Any:
        return np.dtype(self.pixel_type)

    def start_sequence(self, n: int | None, get_buffer: Any) -> Iterator[Mapping[str, Any]]:
        i = 0
        while n is None or i < n:
            if self.fail_after is not None and i >= self.fail_after:
                raise RuntimeError("cable pulled")
            if self.hang_after is not None and i >= self.hang_after:
                self.release.wait(20)
                return
            time.sleep(self.exposure_ms / 1000)
            buffer = get_buffer(self.shape(), self.dtype())
            buffer[:] = 1000 if self.shutter is None or self.shutter.is_open else 5
            yield {"Truth-defocus_um": "1.5"}
            i += 1


class Bench:
    """A UniMMCore with one of each fake."""

    def __init__(self, *, shutter: bool = True, size: int = 32) -> None:
        self.core = UniMMCore()
        self.shutter = FakeShutter()
        self.camera = FakeCamera(self.shutter if shutter else None, size)
        self.stage = FakeStage()
        self.laser = FakeLaser()
        devices: dict[str, Any] = {"Cam": self.camera, "Z": self.stage, "Laser": self.laser}
        if shutter:
            devices["Shutter"] = self.shutter
        for label, device in devices.items():
            self.core.loadPyDevice(label, device)
            self.core.initializeDevice(label)
        self.core.setCameraDevice("Cam")
        self.core.setFocusDevice("Z")
        if shutter:
            self.core.setShutterDevice("Shutter")
