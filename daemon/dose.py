"""The dose ledger: light spent on the sample, frame by frame, against a budget."""

from __future__ import annotations

from collections.abc import Mapping

EXPOSURE = "exposure_ms"
POWER = "excitation_power"  # with or without a unit behind it: excitation_power_pct


class DoseLedger:
    """Adds up power times exposure over every frame the camera exposed, looked at or not.

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
        self._last = 0.0

    @property
    def spent(self) -> float:
        """Dose so far."""
        return self._spent

    @property
    def remaining(self) -> float | None:
        """What is left of the budget."""
        return None if self.budget is None else max(self.budget - self._spent, 0.0)

    @property
    def exhausted(self) -> bool:
        """Whether one more frame like the last would overdraw the budget; so does a dose that is not a number."""
        return self.budget is not None and not self._spent + self._last <= self.budget

    def add(self, settings: Mapping[str, float], exposure_ms: float) -> float:
        """Count one frame; return the sum.

        Parameters
        ----------
        settings : mapping
            As read back for the exposure; ``exposure_ms`` in it is believed before the argument.
        exposure_ms : float
            End minus start of the exposure, for microscopes without that parameter.
        """
        powers = [value for name, value in settings.items() if name.startswith(POWER)]
        power = sum(powers) if powers else 1.0
        self._last = max(power, 0.0) * max(settings.get(EXPOSURE, exposure_ms), 0.0)
        self._spent += self._last
        return self._spent

    def resolve_unit(self, parameters: Mapping[str, object]) -> str:
        """Fix the unit once it is known what the microscope has."""
        self.unit = self.unit or ("power x ms" if any(name.startswith(POWER) for name in parameters) else "ms")
        return self.unit
