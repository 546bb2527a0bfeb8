"""Whether commands have any effect: a stage that stays where it is while it is told to go elsewhere is stuck."""

from __future__ import annotations

import math

from parfocal.drivers.base import Parameter, StageError

FAR_STEP = {"um": 1.0, "mm": 0.001}
"""A step that any stage can make, by unit; a shorter one may be below what it resolves."""

MOST_MISSED = 3


class Arrivals:
    """Compares commands with read-backs, for drivers that do not do so themselves.

    A driver that knows its stage's tolerance raises `StageError` at once. This is the loop's own, coarser look: the
    policy is told of the z that was read back, so that it would go on asking a stuck stage for ever, in good faith.
    """

    def __init__(self) -> None:
        self._missed: dict[str, int] = {}

    def note(self, parameter: Parameter, before: float, commanded: float, readback: float) -> None:
        """Take in a command that was carried out.

        Raises
        ------
        StageError
            The last of `MOST_MISSED` steps in a row of which less than half was made.
        """
        step = abs(commanded - before)
        if parameter.kind != "position" or not step >= FAR_STEP.get(parameter.unit, math.inf):
            return
        name = parameter.name
        missed = not abs(readback - commanded) <= 0.5 * step
        self._missed[name] = self._missed.get(name, 0) + 1 if missed else 0
        if self._missed[name] >= MOST_MISSED:
            raise StageError(
                f"{name}: told to go to {commanded:g} {parameter.unit}, it says that it is at {readback:g}, and "
                f"{MOST_MISSED} moves in a row went like that: is the stage blocked, or another program driving it?"
            )
