"""``sted.thompson``: kernel Thompson sampling as we read it (ADR 0020), the click made by a stated preference."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from parfocal.policies.sted.kernel_ts import TARGET
from parfocal.policies.sted.options import StedOptions
from parfocal.policies.sted.simple import UnguidedOptions, UnguidedPolicy
from parfocal.policies.sted.solving import solve
from parfocal.policies.sted.space import Settings


class ThompsonOptions(UnguidedOptions):
    """Options of ``sted.thompson``, beside those of all STED policies; as published it takes no steps in dose.

    Parameters
    ----------
    bandwidth : float
        Of the kernel, as a share of each parameter's range.
    """

    bandwidth: float = Field(default=0.3, gt=0, le=10)


class ThompsonPolicy(UnguidedPolicy):
    """See `ThompsonOptions`; recommends the place of the grid whose posterior means are preferred."""

    name: ClassVar[str] = "sted.thompson"
    options_model: ClassVar[type[StedOptions]] = ThompsonOptions
    solver: ClassVar[str] = TARGET
    options: ThompsonOptions

    def _problem(self) -> dict[str, Any] | None:
        o = self.options
        return {
            "solve": TARGET,
            "space": self.space.to_json(),
            "lines": self._m.lines,
            "preference": o.preference,
            "envelope": self._envelope.to_json(),
            "trials": [trial.to_json() for trial in self._trials],
            "reach": self._reach(),
            "bandwidth": o.bandwidth,
            "seed": o.seed,
        }

    def _without_problem(self) -> tuple[Settings, str] | None:
        """Draw from the prior: before the first outcome there is nothing to learn from."""
        problem = self._problem()
        suggestion = solve(problem) if problem is not None else {}
        if "settings" not in suggestion:
            return self._fallback()
        return {name: float(suggestion["settings"][name]) for name in self.space.names}, "drawn from the prior"
