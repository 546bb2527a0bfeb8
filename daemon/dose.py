"""The dose ledger: light spent on the sample, frame by frame, against a budget."""

from __future__ import annotations

from collections.abc import Mapping

EXPOSURE = "exposure_ms"
POWER = "excitation_power"  # with or without a unit behind it: excitation_power_pct


class DoseLedger:
    """Adds up power times exposure over every frame the camera exposed, looked at or not.

    The one place where the budget is kept: whoever takes frames asks `exhausted` before each, the first included.
    Written by the thread that owns the microscope, read by any.

    Parameters
    ----------
    budget : float, optional
        What the sample may be given in this session; `None`: counted, not limited.
    unit : str
        What a person reads behind the number; by default ``ms``, or ``power x ms`` where there is a beam parameter.
    """

    def __init__(self, budget: float | None = None, unit: str = "") -> None:
        self.budget = budget
        self.unit = unit
        self._spent = 0.0
        self._settings: dict[str, float] = {}
        self._exposure_ms = 0.0

    @property
    def spent(self) -> float:
        """Dose so far."""
        return self._spent

    @property
    def remaining(self) -> float | None:
        """What is left of the budget."""
        return None if self.budget is None else max(self.budget - self._spent, 0.0)

    @property
    def next_frame(self) -> float:
        """Dose of one more frame with the settings known last; 0 before any is known."""
        return _dose(self._settings, self._exposure_ms) if self._settings else 0.0

    @property
    def exhausted(self) -> bool:
        """Whether one more frame would overdraw the budget; so does a dose that is not a number."""
        return self.budget is not None and not self._spent + self.next_frame <= self.budget

    def expect(self, settings: Mapping[str, float]) -> None:
        """Learn from read-backs, of all parameters or of one, what the next frame will be exposed with."""
        self._settings.update(settings)

    def add(self, settings: Mapping[str, float], exposure_ms: float, *, frames: int = 1) -> float:
        """Count one frame, or several that were exposed alike; return the sum.

        Parameters
        ----------
        settings : mapping
            As read back for the exposure; ``exposure_ms`` in it is believed before the argument.
        exposure_ms : float
            End minus start of the exposure, for microscopes without that parameter.
        frames : int
            More than one where the camera exposed frames that were lost on the way.
        """
        self._settings, self._exposure_ms = dict(settings), exposure_ms
        self._spent += frames * _dose(settings, exposure_ms)
        return self._spent

    def resolve_unit(self, parameters: Mapping[str, object]) -> str:
        """Fix the unit once it is known what the microscope has."""
        self.unit = self.unit or ("power x ms" if any(name.startswith(POWER) for name in parameters) else "ms")
        return self.unit


def _dose(settings: Mapping[str, float], exposure_ms: float) -> float:
    """Power (1 where there is no such parameter) times exposure of one frame; nothing is negative."""
    powers = [value for name, value in settings.items() if name.startswith(POWER)]
    power = sum(powers) if powers else 1.0
    return max(power, 0.0) * max(settings.get(EXPOSURE, exposure_ms), 0.0)
