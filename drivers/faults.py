"""Faults on purpose: wraps any microscope and makes its camera or its stage fail by plan, for tests and rehearsals."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from parfocal import UsageError
from parfocal.drivers.base import CameraError, DeviceTimeoutError, Frame, Microscope, Parameter, StageError, check_value
from parfocal.simulator.clock import Clock

FaultKind = Literal[
    "dropped",
    "timeout",
    "hang",
    "stopped",
    "frozen",
    "nan",
    "shape",
    "dtype",
    "saturated",
    "blank",
    "late",
    "stage_stuck",
    "stage_creep",
    "stage_timeout",
    "stage_error",
]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

_DEFAULT_AMOUNT: Mapping[str, float] = {
    "timeout": 5000.0,
    "hang": 60_000.0,
    "nan": 0.01,
    "late": 10.0,
    "stage_creep": 0.5,
    "stage_timeout": 5000.0,
}
# When several strike at once: what is lost needs no spoiling, what was exposed earlier or froze is spoiled afterwards,
# and the wrong type comes last because the others compute with the pixels.
_ORDER: Mapping[str, int] = {"dropped": -3, "late": -2, "frozen": -1, "dtype": 1}
_MOST_DROPPED = 200  # in a row; a camera that loses everything has stopped


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, and when.

    Parameters
    ----------
    kind : str
        ``dropped`` (the frame is lost; the index has a gap), ``timeout`` (`DeviceTimeoutError` after `amount` ms),
        ``hang`` (the frame comes `amount` ms late), ``stopped`` (`CameraError`), ``frozen`` (the pixels of the frame
        before), ``nan`` (float32, a share `amount` of it NaN), ``shape`` (half the width is missing), ``dtype``
        (complex64), ``saturated``, ``blank`` (dark noise only), ``late`` (a frame exposed before the last move, or
        `amount` ms before its own time if there was no move), ``stage_stuck`` (does not move, and its read-back says
        so), ``stage_creep`` (the stage goes `amount` um further before each frame, by itself), ``stage_timeout``
        (`DeviceTimeoutError` after `amount` ms, not moved), ``stage_error`` (`StageError`, not moved).
    frames : tuple of int, optional
        Numbers of the exposures it happens at, counted from 0 over the wrapper's life, lost ones included. A stage
        fault happens at moves made before the exposure of that number.
    first, last : int
        The same as a range, both ends included, if `frames` is not given.
    probability : float
        That it happens at an exposure (or a move) where it may; drawn from the plan's seed.
    amount : float, optional
        See `kind`.

    Raises
    ------
    UsageError
        If the kind is unknown or a value cannot be used.
    """

    kind: FaultKind
    frames: tuple[int, ...] | None = None
    first: int = 0
    last: int | None = None
    probability: float = 1.0
    amount: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"fault: there is no kind {self.kind!r}; there are {', '.join(KINDS)}")
        if not 0.0 <= self.probability <= 1.0:
            raise UsageError(f"fault {self.kind}: probability must lie in 0..1 (got {self.probability!r})")
        if self.amount is not None and self.kind not in _DEFAULT_AMOUNT:
            raise UsageError(f"fault {self.kind}: takes no amount (got {self.amount!r})")
        if not math.isfinite(self.size):
            raise UsageError(f"fault {self.kind}: amount must be finite (got {self.amount!r})")
        if self.size < 0 and self.kind != "stage_creep":
            raise UsageError(f"fault {self.kind}: amount must not be negative (got {self.amount!r})")

    @property
    def size(self) -> float:
        """The amount, or the kind's default."""
        return _DEFAULT_AMOUNT.get(self.kind, 0.0) if self.amount is None else self.amount

    def may_strike(self, number: int) -> bool:
        """Whether this fault is planned for exposure `number`."""
        if self.frames is not None:
            return number in self.frames
        return number >= self.first and (self.last is None or number <= self.last)


@dataclass(frozen=True)
class FaultPlan:
    """What goes wrong in one run; the same plan and seed strike at the same exposures, whatever else happens."""

    faults: tuple[Fault, ...] = ()
    seed: int = 0

    def striking(self, number: int, *, stage: bool = False) -> list[Fault]:
        """Faults of the camera (or of the stage) that strike at exposure `number`, in the order of the plan."""
        return [
            fault
            for place, fault in enumerate(self.faults)
            if fault.kind.startswith("stage_") == stage and fault.may_strike(number) and self._drawn(place, number)
        ]

    def _drawn(self, place: int, number: int) -> bool:
        probability = self.faults[place].probability
        return probability >= 1.0 or self.generator(place, number).random() < probability

    def generator(self, place: int, number: int) -> np.random.Generator:
        """Randomness of one fault at one exposure, independent of all others."""
        return np.random.Generator(np.random.SFC64([self.seed, place, number]))


class FaultyMicroscope:
    """A microscope that fails by plan; what the plan leaves alone goes straight to the microscope inside.

    Parameters
    ----------
    inner : Microscope
    plan : FaultPlan

    Attributes
    ----------
    struck : list of (int, str)
        Number of the exposure and kind of every fault that struck, in order.
    """

    def __init__(self, inner: Microscope, plan: FaultPlan) -> None:
        self.inner = inner
        self.plan = plan
        self.name = inner.name
        self.simulated = inner.simulated
        self.clock: Clock = inner.clock
        self.struck: list[tuple[int, str]] = []
        self._number = -1
        self._moved_s: float | None = None
        self._last: Frame | None = None
        self._before_move: Frame | None = None

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """Those of the microscope inside."""
        return self.inner.parameters

    def open(self) -> None:
        """Open the microscope inside."""
        self.inner.open()

    def snap(self) -> Frame:
        """Expose one frame, with what the plan has for it.

        Raises
        ------
        CameraError, DeviceTimeoutError
            By plan, or from the microscope inside.
        """
        for _ in range(_MOST_DROPPED):
            faults = self._before()
            frame = self._after(self.inner.snap(), faults)
            if frame is not None:
                return frame
        raise CameraError(f"{self.name} camera: {_MOST_DROPPED} frames were lost in a row")

    def frames(self) -> Iterator[Frame]:
        """Acquire continuously, with what the plan has for each frame."""
        source = self.inner.frames()
        try:
            lost = 0
            while lost < _MOST_DROPPED:
                faults = self._before()
                inner_frame = next(source, None)
                if inner_frame is None:
                    return
                frame = self._after(inner_frame, faults)
                lost = lost + 1 if frame is None else 0
                if frame is not None:
                    yield frame
            raise CameraError(f"{self.name} camera: {_MOST_DROPPED} frames were lost in a row")
        finally:
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def read(self) -> dict[str, float]:
        """Read back from the microscope inside."""
        return self.inner.read()

    def set(self, name: str, value: float) -> float:
        """Command one parameter; a stage fault of the plan strikes at moves.

        Raises
        ------
        ParameterError
            From the microscope inside, or a position outside its range.
        StageError, DeviceTimeoutError
            By plan, or from the microscope inside.
        """
        parameter = self.inner.parameters.get(name)
        if parameter is None or parameter.kind != "position":
            return self.inner.set(name, value)
        check_value(self.inner.parameters, name, value)
        for fault in self.plan.striking(self._number + 1, stage=True):
            if fault.kind == "stage_creep":
                continue  # strikes at exposures
            self.struck.append((self._number + 1, fault.kind))
            if fault.kind == "stage_stuck":
                return self.inner.read()[name]
            if fault.kind == "stage_timeout":
                self.clock.sleep(fault.size / 1000.0)
                raise DeviceTimeoutError(f"{self.name} stage: no answer within {fault.size:g} ms (planned fault)")
            raise StageError(f"{self.name} stage: did not reach {name} = {value:g} {parameter.unit} (planned fault)")
        reached = self.inner.set(name, value)
        self._moved_s, self._before_move = self.clock.now(), self._last
        return reached

    def make_safe(self) -> None:
        """Make the microscope inside safe; no plan can prevent it."""
        self.inner.make_safe()

    def close(self) -> None:
        """Close the microscope inside."""
        self.inner.close()

    def _before(self) -> list[Fault]:
        """Count the exposure, do what happens before it, and return what is left for after it."""
        self._number += 1
        for creep in self.plan.striking(self._number, stage=True):
            if creep.kind == "stage_creep":
                self._creep(creep.size)
        faults = self.plan.striking(self._number)
        for fault in faults:
            self.struck.append((self._number, fault.kind))
            if fault.kind == "timeout":
                self.clock.sleep(fault.size / 1000.0)
                raise DeviceTimeoutError(f"{self.name} camera: no frame within {fault.size:g} ms (planned fault)")
            if fault.kind == "stopped":
                raise CameraError(f"{self.name} camera: acquisition has stopped (planned fault)")
        return faults

    def _after(self, frame: Frame, faults: list[Fault]) -> Frame | None:
        """Spoil a frame that came; None if it is lost."""
        whole = frame
        for fault in sorted(faults, key=lambda fault: _ORDER.get(fault.kind, 0)):
            if fault.kind == "dropped":
                return None
            if fault.kind == "hang":
                self.clock.sleep(fault.size / 1000.0)
            elif fault.kind == "late":
                frame = self._late(frame, fault.size / 1000.0)
            elif fault.kind == "frozen":
                frozen = self._last.pixels if self._last is not None else frame.pixels
                frame, whole = (dataclasses.replace(one, pixels=frozen) for one in (frame, whole))
            else:
                frame = dataclasses.replace(frame, pixels=self._spoiled(frame, fault))
        self._last = whole  # what froze stays frozen, but what was spoiled is never repeated
        return frame

    def _spoiled(self, frame: Frame, fault: Fault) -> NDArray[Any]:
        generator = self.plan.generator(self.plan.faults.index(fault), self._number)
        pixels: NDArray[Any] = frame.pixels
        if fault.kind == "nan":
            spoiled = pixels.astype(np.float32)
            count = max(1, round(fault.size * spoiled.size))
            spoiled.ravel()[generator.choice(spoiled.size, min(count, spoiled.size), replace=False)] = np.nan
        elif fault.kind == "shape":
            spoiled = pixels[:, : max(1, pixels.shape[1] // 2)].copy()
        elif fault.kind == "dtype":
            spoiled = pixels.astype(np.complex64)
        elif fault.kind == "saturated":
            spoiled = np.full_like(pixels, frame.saturation_counts)
        else:  # blank
            dark = float(np.percentile(pixels, 1.0)) + 2.0 * generator.standard_normal(pixels.shape)
            spoiled = np.clip(np.rint(dark), 0, frame.saturation_counts).astype(pixels.dtype)
        spoiled.flags.writeable = False
        return spoiled

    def _late(self, frame: Frame, early_s: float) -> Frame:
        """Return the last frame from before the last move, or else this one with the times of such a frame."""
        if self._moved_s is not None and self._before_move is not None:
            return dataclasses.replace(self._before_move, index=frame.index)
        before_s = min(frame.start_s, self._moved_s) if self._moved_s is not None else frame.start_s
        shift_s = before_s - early_s - frame.start_s
        if self._moved_s is not None:
            shift_s -= frame.end_s - frame.start_s
        return dataclasses.replace(frame, start_s=frame.start_s + shift_s, end_s=frame.end_s + shift_s)

    def _creep(self, step_um: float) -> None:
        """Move the stage without being told, as far as its range goes."""
        parameter = self.inner.parameters["z_um"]
        target = self.inner.read()["z_um"] + step_um
        if parameter.lower <= target <= parameter.upper:
            self.inner.set("z_um", target)
            self.struck.append((self._number, "stage_creep"))
