"""What is remembered of the focus across places: one drift for all of them, and an offset for each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from parfocal.policies.base import PolicyError

Matrix = NDArray[np.float64]

LONGEST_S = 1e7
"""Nothing is predicted over more than this; no clock of an acquisition goes so far in one step."""


@dataclass(frozen=True)
class Motion:
    """What is known of the focus before anything was seen. Standard deviations, in um and s.

    Parameters
    ----------
    rate_um_per_s : float
        The drift's rate.
    rate_walk : float
        What the rate changes by in a second, in um/s per square root of s.
    walk : float
        What the focus wanders beside the drift, in um per square root of s.
    offset_um : float
        A place's own offset from where the plan says that the focus is.
    """

    rate_um_per_s: float
    rate_walk: float
    walk: float
    offset_um: float


@dataclass(frozen=True)
class Forecast:
    """The focus of one place at one time, relative to the plan's, with its sd and the drift's rate."""

    focus_um: float
    sd_um: float
    rate_um_per_s: float


class FocusMemory:
    """A Kalman filter over the drift, its rate, and the offset of every place seen.

    What is learned at one place moves all: the microscope drifts as a whole. What only one place shows (the sample's
    tilt, how well it was focused by hand) stays with it, to be there when it is visited again.

    Parameters
    ----------
    motion : Motion
    """

    def __init__(self, motion: Motion) -> None:
        self.motion = motion
        self.time_s = math.nan
        self.places: dict[int, int] = {}
        self._mean: Matrix = np.zeros(2)
        self._cov: Matrix = np.diag([0.0, motion.rate_um_per_s**2])

    def copy(self) -> FocusMemory:
        """Return one that later changes of this do not reach."""
        other = FocusMemory(self.motion)
        other.time_s, other.places = self.time_s, dict(self.places)
        other._mean, other._cov = self._mean.copy(), self._cov.copy()
        return other

    def begin(self, time_s: float) -> None:
        """Have time pass from now on, if it does not yet: what is believed at first gets older, too."""
        if not math.isfinite(self.time_s) and math.isfinite(time_s):
            self.time_s = time_s

    def at(self, place: int, time_s: float) -> Forecast:
        """Forecast the focus of a place, seen before or not."""
        passed = self._passed(time_s)
        mean, cov = self._after(passed)
        row = self._row(place, len(mean))
        variance = float(row @ cov @ row)
        if place not in self.places:
            variance += self.motion.offset_um**2
        return Forecast(float(row @ mean), math.sqrt(max(variance, 0.0)), float(mean[1]))

    def offset_um(self, place: int) -> float:
        """What is remembered of a place beside the drift; 0 if it was never seen."""
        known = self.places.get(place)
        return 0.0 if known is None else float(self._mean[known])

    @property
    def drift_um(self) -> float:
        """The drift so far, which all places have in common."""
        return float(self._mean[0])

    def learn(self, place: int, time_s: float, focus_um: float, sd_um: float) -> None:
        """Learn that the focus of a place was at `focus_um` (relative to the plan's) at a time.

        Of a place that was never seen only the plan says where its focus is: if that is far off, the plan is wrong.
        """
        offset = max(self.motion.offset_um, abs(focus_um - self.at(place, time_s).focus_um))
        self._go_on(time_s)
        if place not in self.places:
            self.places[place] = len(self._mean)
            self._mean = np.append(self._mean, 0.0)
            cov = np.zeros((len(self._mean), len(self._mean)))
            cov[:-1, :-1] = self._cov
            cov[-1, -1] = offset**2
            self._cov = cov
        row = self._row(place, len(self._mean))
        spread = self._cov @ row
        gain = spread / (float(row @ spread) + sd_um**2)
        self._mean = self._mean + gain * (focus_um - float(row @ self._mean))
        # Joseph's form: stays symmetric and positive whatever the rounding.
        keep = np.eye(len(self._mean)) - np.outer(gain, row)
        self._cov = keep @ self._cov @ keep.T + np.outer(gain, gain) * sd_um**2

    def widen(self, sd_um: float, time_s: float) -> None:
        """Admit that everything may have moved by so much; its rate is as unknown as at first."""
        self._go_on(time_s)
        self._cov[0, 0] += sd_um**2
        self._cov[1, :] = self._cov[:, 1] = 0.0
        self._cov[1, 1] = self.motion.rate_um_per_s**2

    def _row(self, place: int, count: int) -> Matrix:
        row = np.zeros(count)
        row[0] = 1.0
        if (known := self.places.get(place)) is not None:
            row[known] = 1.0
        return row

    def _passed(self, time_s: float) -> float:
        if not math.isfinite(self.time_s):
            return 0.0
        return min(max(time_s - self.time_s, 0.0), LONGEST_S)

    def _after(self, passed_s: float) -> tuple[Matrix, Matrix]:
        mean, cov = self._mean.copy(), self._cov.copy()
        step = np.eye(len(mean))
        step[0, 1] = passed_s
        mean = step @ mean
        cov = step @ cov @ step.T
        q, t = self.motion.rate_walk**2, passed_s
        cov[0, 0] += self.motion.walk**2 * t + q * t**3 / 3.0
        cov[0, 1] += q * t**2 / 2.0
        cov[1, 0] += q * t**2 / 2.0
        cov[1, 1] += q * t
        return mean, cov

    def _go_on(self, time_s: float) -> None:
        self._mean, self._cov = self._after(self._passed(time_s))
        self.time_s = time_s if not math.isfinite(self.time_s) else max(time_s, self.time_s)

    def checkpoint(self) -> dict[str, Any]:
        """Everything needed to go on identically, as plain JSON."""
        return {
            "time_s": None if math.isnan(self.time_s) else self.time_s,
            "places": [[place, at] for place, at in self.places.items()],
            "mean": self._mean.tolist(),
            "cov": self._cov.tolist(),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any], motion: Motion) -> FocusMemory:
        """Go on from `checkpoint`; raises `PolicyError` if it is none."""
        memory = cls(motion)
        try:
            memory.time_s = math.nan if state["time_s"] is None else float(state["time_s"])
            memory.places = {int(place): int(at) for place, at in state["places"]}
            memory._mean = np.asarray(state["mean"], dtype=np.float64)
            memory._cov = np.asarray(state["cov"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise PolicyError(f"the checkpoint's memory of the focus cannot be read: {error}") from error
        count = 2 + len(memory.places)
        if memory._mean.shape != (count,) or memory._cov.shape != (count, count):
            raise PolicyError("the checkpoint's memory of the focus does not fit its number of places")
        return memory
