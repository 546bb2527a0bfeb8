"""Small honest stand-ins: a microscope that writes its defocus into a pixel, a scorer that reads it, their faults."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.drivers.base import Frame, Parameter, check_value
from parfocal.models.base import Assessment, Distribution, ImageError
from parfocal.policies.base import Action, Change, Hold, Observation
from parfocal.simulator.clock import Clock, VirtualClock

GRID = np.linspace(-40.0, 40.0, 161)


class Bench:
    """A microscope on the bench: a stage, a laser, a camera that writes defocus into the first pixel.

    `fault(where, count)` is called before every driver call with the call's name and how often it was made; what it
    raises, the driver raises.
    """

    name = "bench"
    simulated = True

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        focus_um: float = 10.0,
        exposure_ms: float = 10.0,
        shape: tuple[int, int] = (64, 64),
        fault: Callable[[str, int], None] | None = None,
        make_pixels: Callable[[int, float, tuple[int, int]], NDArray[Any]] | None = None,
        settle_s: float = 0.01,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.values = {"z_um": 0.0, "exposure_ms": exposure_ms, "excitation_power": 0.0}
        self.focus_um, self.shape, self.settle_s = focus_um, shape, settle_s
        self.log: list[tuple[Any, ...]] = []
        self.safe = self.opened = self.closed = False
        self.threads: set[str] = set()
        self._fault, self._make_pixels = fault, make_pixels or noisy
        self._calls: dict[str, int] = {}
        self._index = -1
        self._rng = np.random.default_rng(1)

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        return {
            "z_um": Parameter("z_um", "um", -200.0, 200.0, "position"),
            "exposure_ms": Parameter("exposure_ms", "ms", 0.1, 1000.0, "timing"),
            "excitation_power": Parameter("excitation_power", "mW", 0.0, 50.0, "beam"),
        }

    def _call(self, where: str) -> None:
        self.threads.add(threading.current_thread().name)
        self._calls[where] = self._calls.get(where, 0) + 1
        self.log.append((where,))
        if self._fault is not None:
            self._fault(where, self._calls[where])

    def open(self) -> None:
        self._call("open")
        self.opened, self.safe = True, False

    def read(self) -> dict[str, float]:
        self._call("read")
        return dict(self.values)

    def snap(self) -> Frame:
        self._call("snap")
        self._index += 1
        start, settings = self.clock.now(), dict(self.values)
        self.clock.sleep(settings["exposure_ms"] / 1000.0)
        defocus = settings["z_um"] - self.focus_um
        return Frame(
            self._make_pixels(self._index, defocus, self.shape), self._index, settings, start, self.clock.now(), 0.325,
            simulated=True, truth={"defocus_um": defocus, "focus_z_um": self.focus_um},
        )  # fmt: skip

    def frames(self) -> Iterator[Frame]:
        try:
            while True:
                yield self.snap()
        finally:
            self.log.append(("camera stopped",))

    def set(self, name: str, value: float) -> float:
        self._call("set")
        self.log.append(("set", name, value))
        value = check_value(self.parameters, name, value)
        self.clock.sleep(self.settle_s)
        self.values[name] = value
        self.safe = False
        return value

    def make_safe(self) -> None:
        self.threads.add(threading.current_thread().name)
        self.log.append(("make_safe",))
        self.values["excitation_power"] = 0.0
        self.safe = True

    def close(self) -> None:
        self.make_safe()
        self.closed = True

    @property
    def sets(self) -> list[tuple[str, float]]:
        return [(entry[1], entry[2]) for entry in self.log if entry[0] == "set" and len(entry) == 3]


def noisy(index: int, defocus_um: float, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Pixels with noise, never twice the same; the first one holds the defocus in hundredths of a um, plus 30000."""
    pixels = np.random.default_rng(index).integers(100, 200, shape, dtype=np.uint16)
    pixels[0, 0] = round(100 * defocus_um) + 30000
    return pixels


def constant(index: int, defocus_um: float, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Make the pixels of a frozen camera."""
    return np.full(shape, 30000 + 700, dtype=np.uint16)


class Reader:
    """A scorer that reads the defocus where `noisy` wrote it."""

    def __init__(
        self, *, fault: Callable[[int], None] | None = None, delay_s: float = 0.0, abstain: bool = False
    ) -> None:
        self._fault, self._delay_s, self._abstain = fault, delay_s, abstain
        self.calls = self.restarts = 0
        self.started = self.closed = False
        self.healthy = True

    def start(self) -> None:
        self.started = True

    def score(self, pixels: NDArray[Any], pixel_um: float, timeout_s: float = 5.0) -> dict[str, Assessment]:
        self.calls += 1
        if self._fault is not None:
            self._fault(self.calls)
        if self._delay_s:
            time.sleep(self._delay_s)
        if pixels.ndim != 2:
            raise ImageError("no image")
        if self._abstain:
            return {"defocus": Assessment.abstain("defocus", "an empty field")}
        value = (float(pixels[0, 0]) - 30000) / 100
        weights = np.exp(-0.5 * ((GRID - value) / 0.5) ** 2)
        distribution = Distribution(GRID, weights / weights.sum(), signed=True)
        detail = {"certainty": np.float32(0.9), "odd": math.nan}
        return {"defocus": Assessment("defocus", value, 0.5, detail=detail, distribution=distribution)}  # type: ignore[arg-type]

    def restart(self) -> None:
        self.restarts += 1

    def close(self) -> None:
        self.closed = True

    def describe(self) -> dict[str, Any]:
        return {"defocus": {"version": "double"}}


class Follow:
    """A policy that goes where the score says the focus is; holds on abstention."""

    name = "follow"

    def __init__(self, *, within_um: float = 0.2, script: Sequence[Action] = ()) -> None:
        self.told: list[Observation] = []
        self._within_um, self._script = within_um, list(script)

    def tell(self, observation: Observation) -> None:
        self.told.append(observation)

    def ask(self) -> Action:
        if self._script:
            return self._script.pop(0)
        last = self.told[-1]
        assessment = last.assessments["defocus"]
        if assessment.abstained:
            return Hold(f"doubt: {assessment.reason}", {"focused": 0.0})
        detail = {"defocus_um": assessment.value, "defocus_sd_um": 0.5, "focused": 0.0}
        if abs(assessment.value) <= self._within_um:
            return Hold("in focus", detail | {"focused": 1.0})
        return Change({"z_um": last.settings["z_um"] - assessment.value}, f"{assessment.value:.2f} um off", detail)

    def checkpoint(self) -> dict[str, Any]:
        return {}

    def restore(self, checkpoint: Mapping[str, Any]) -> None:
        pass
